"""Predicted classes: agreement, accuracy, what has no prediction, and labels in every form."""

from typing import Any

import numpy as np
import pytest
import torch
from support.waits import Waits
from torch import Tensor

from convert.errors import InputError
from convert.evaluation.classes import Agreement

_NAN, _INF = float("nan"), float("inf")


def _measured(found: Any, reference: Any, labels: Any = None) -> Agreement:
    measure = Agreement()
    outputs = {"output": torch.tensor(reference)}
    measure.add({"output": torch.tensor(found)}, outputs, Agreement.labels(labels, outputs))
    return measure


def test_shares() -> None:
    found = [[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    exact = [[1.0, 2.0, 0.0], [0.0, 1.0, 0.5], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]
    values = _measured(found, exact, [1, 0, 0, 2]).values
    assert values.agreement == 0.75 and values.accuracy == 0.75
    assert _measured(exact, exact, [1, 0, 0, 2]).original == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("logits", "exists"),
    [
        ([0.0, 1.0, _NAN], False),
        ([_NAN, _NAN, _NAN], False),
        ([0.0, _INF, 1.0], False),
        ([-_INF, -_INF, -_INF], False),
        # A class that is masked is not predicted; the others are.
        ([0.0, 1.0, -_INF], True),
        ([0.0, 1.0, 0.0], True),
    ],
)
def test_without_a_prediction_nothing_agrees_or_is_right(logits: list[float], exists: bool) -> None:
    good = [0.0, 1.0, 0.0]
    # Whatever the original gives, its own prediction missing too.
    for reference in (good, logits):
        measure = _measured([logits, good], [reference, good], [1, 1])
        assert measure.values.agreement == (1.0 if exists else 0.5)
        assert measure.values.accuracy == (1.0 if exists else 0.5)
        assert measure.values.without_prediction == (0 if exists else 1)
        for row in (measure.values, measure.raw, measure.site):
            assert ("without_prediction" in row) == (not exists)
    if not exists:
        assert measure.values.logit_rmse is None
    # No label is right by chance, 0 neither.
    assert _measured([[_NAN, 1.0]], [[1.0, 0.0]], [0]).values.accuracy == 0
    assert _measured([[_NAN, 1.0]], [[1.0, 0.0]], [1]).values.accuracy == 0


def test_only_the_original_lacks_a_prediction() -> None:
    measure = _measured([[0.0, 1.0]], [[_NAN, _NAN]])
    assert measure.values.agreement == 0 and measure.values.without_prediction == 0


def test_images_of_dense_predictions_count_once() -> None:
    exact = torch.zeros(3, 2, 4, 4)
    exact[:, 1] = 1
    found = exact.clone()
    found[1, 0, :2] = _NAN
    measure = Agreement()
    measure.add({"output": found}, {"output": exact}, torch.ones(3, 4, 4).long())
    assert measure.values.without_prediction == 1
    assert measure.values.agreement == measure.values.accuracy == pytest.approx(40 / 48)
    assert measure.labelled == 3


@pytest.mark.parametrize("positions", [(), (2, 2)])
def test_one_logit_predicts_by_its_sign(positions: tuple[int, ...]) -> None:
    exact = torch.tensor([-1.0, -0.1, 0.2, 3.0]).view(4, 1, *(1 for _ in positions))
    exact = exact.expand(4, 1, *positions).clone()
    found = exact.clone()
    found[1] = 0.4
    found[3] = _NAN
    outputs = {"output": exact}
    labels = torch.tensor([0, 1, 1, 1]).view(4, *(1 for _ in positions)).expand(4, *positions)
    measure = Agreement()
    measure.add({"output": found}, outputs, Agreement.labels(labels, outputs))
    assert measure.values.agreement == 0.5 and measure.values.accuracy == 0.75
    assert measure.values.without_prediction == 1
    with pytest.raises(InputError, match=r"from 0 to 2.*2 classes"):
        Agreement.labels(labels * 2, outputs)


def test_accuracy_is_of_what_has_labels() -> None:
    exact = {"output": torch.eye(4)}
    measure = Agreement()
    measure.add(exact, exact, None)
    assert measure.values.accuracy is None and measure.labelled == 0
    measure.add(exact, exact, torch.tensor([0, 1, 2, 2]))
    assert measure.values.accuracy == 0.75 and measure.labelled == 4


@pytest.mark.parametrize(
    "label",
    [
        [0, 2, 1],
        (0, 2, 1),
        np.array([0, 2, 1], np.uint16),
        np.array([0, 2, 1], np.int8),
        [torch.tensor(0), torch.tensor(2), torch.tensor(1)],
        torch.tensor([0, 2, 1], dtype=torch.int32),
        [0.0, 2.0, 1.0],
        torch.tensor([[0], [2], [1]]),
        torch.eye(3)[[0, 2, 1]],
        np.eye(3, dtype=bool)[[0, 2, 1]],
        {"boxes": torch.ones(3), "labels": torch.tensor([0, 2, 1])},
        [torch.tensor([0, 2, 1])],
    ],
)
def test_labels_in_every_form(label: Any) -> None:
    labels = Agreement.labels(label, {"output": torch.eye(3)})
    assert labels is not None and labels.tolist() == [0, 2, 1] and labels.dtype == torch.int64


def test_labels_of_positions() -> None:
    classes = torch.tensor([[[0, 1, 2, 0]], [[255, 2, -1, 1]]])
    outputs = {"output": torch.randn(2, 3, 1, 4)}
    found = Agreement.labels(classes, outputs)
    assert found is not None and found.tolist() == [[[0, 1, 2, 0]], [[-100, 2, -100, 1]]]
    one_hot = torch.nn.functional.one_hot(classes[:1], 3).movedim(-1, 1)
    assert torch.equal(Agreement.labels(one_hot, {"output": torch.ones(1, 3, 1, 4)}), classes[:1])
    with pytest.raises(InputError, match="classes seem to be on the last axis"):
        Agreement.labels(torch.zeros(2, 5).long(), {"output": torch.ones(2, 5, 3)})


def test_ignored_labels_count_for_the_agreement_alone() -> None:
    exact = {"output": torch.eye(4)}
    measure = Agreement()
    labels = Agreement.labels([0, -1, -100, 2], exact)
    measure.add(exact, exact, labels)
    assert measure.values.accuracy == 0.5 and measure.values.agreement == 1
    assert measure.labelled == 2
    # No prediction isn't taken for what no label is.
    measure = Agreement()
    measure.add({"output": torch.full((4, 4), _NAN)}, exact, labels)
    assert measure.values.accuracy == 0
    # -1 may be a class of a network with one logit.
    with pytest.raises(InputError, match=r"from -1 to 1.*ignored is -100"):
        Agreement.labels([-1, 1], {"output": torch.ones(2, 1)})


def test_true_and_false_are_labels_of_one_logit() -> None:
    labels = Agreement.labels(np.array([True, False]), {"output": torch.ones(2, 1)})
    assert labels is not None and labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("label", "named"),
    [
        (["cat", "dog", "cat"], "text .'cat'"),
        ([1, None, 2], "list that is no array"),
        ([[1, 2], [0]], "list that is no array"),
        ({"boxes": torch.ones(3)}, "dict that is no array of numbers .it has boxes"),
        ({"label": 1}, r"\(\).*\(3,\)"),
        (np.array(["a", "b", "c"]), "text .'a'"),
        ([0.5, 1.0, 2.0], "float32.*no whole numbers"),
        (torch.ones(3, dtype=torch.complex64), "complex64"),
        (torch.zeros(3, 2).long(), r"\(3, 2\).*\(3,\)"),
        (torch.full((3, 3), 1 / 3), "soft labels give the classes"),
        (torch.ones(3, 3), "several classes or none"),
        ([torch.zeros(3).long(), torch.ones(3).long()], "2 labels; this metric is that of one"),
        ([{"boxes": 1}] * 3, "list of dicts"),
        (2, r"\(\).*\(3,\)"),
        ([0, 1], r"\(2,\).*\(3,\)"),
        ([0, -2, 1], "from -2 to 1"),
        ([0, -100, 4], "from 0 to 4"),
        ([0, 1, 3], "to 3.*3 classes"),
    ],
)
def test_other_labels_are_one_line(label: Any, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        Agreement.labels(label, {"output": torch.eye(3)})
    assert "\n" not in str(caught.value)


def test_the_logits_are_the_first_output_that_could_be() -> None:
    outputs = {"a": torch.ones(3), "none": torch.ones(3, 0), "b": torch.ones(3, 2)}
    assert Agreement.logits(outputs) is outputs["b"]
    with pytest.raises(InputError, match="metric='output'"):
        Agreement.logits({"a": torch.ones(3)})


def test_logits_of_another_model_are_refused() -> None:
    outputs: dict[str, Tensor] = {"output": torch.ones(3, 4)}
    with pytest.raises(InputError, match=r"\[3, 5\].*\[3, 4\].*model that was converted"):
        Agreement().add(outputs, {"output": torch.ones(3, 5)}, None)


@pytest.mark.parametrize("classes", [1, 3])
def test_adding_waits_for_no_gpu(classes: int) -> None:
    measure, labels = Agreement(), torch.tensor([0, 1, -100, 0])
    logits = torch.randn(4, classes)
    with Waits() as waits:
        for _ in range(2):
            measure.add({"logits": logits}, {"logits": logits + 0.1}, labels)
    assert not waits.number
    assert measure.labelled == 6 and measure.values.agreement is not None
