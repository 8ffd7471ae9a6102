"""Labels that are numbered otherwise than the network's classes are told of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from convert.evaluation.class_spaces import ClassSpace, class_names


def doubts(labels: list[int], predictions: list[int], classes: int = 10, **names) -> list[str]:
    space = ClassSpace(**names)
    half = len(labels) // 2
    for part in (slice(half), slice(half, None)):
        logits = torch.eye(classes)[predictions[part]]
        space.add(logits, torch.tensor(labels[part], dtype=torch.int64))
    return space.doubts


def test_classes_that_are_never_predicted() -> None:
    names = {"of_labels": ["class5", "class6"], "of_network": [f"class{i}" for i in range(10)]}
    (found,) = doubts([0, 1] * 20, [5, 6] * 20, **names)
    assert "0 (class5), 1 (class6), it predicts 5 (class5), 6 (class6)" in found
    (found,) = doubts(list(range(8)) * 2, [8] * 16)
    assert "0, 1, 2, 3, 4, 5 and 2 more" in found


def test_fewer_right_than_by_chance() -> None:
    labels = list(range(10)) * 10
    (found,) = doubts(labels, [(c + 1) % 10 for c in labels])
    assert "0.0% of the labels, fewer than by chance (10.0%)" in found
    # Predictions of two classes alone, too.
    (found,) = doubts([1, 2, 3, 4] * 10, [0, 1, 0, 1] * 10)
    assert "0.0% of the labels, fewer than by chance (25.0%)" in found
    # A network that guesses isn't accused, nor is one of which little is known.
    generator = torch.Generator().manual_seed(0)
    guesses = torch.randint(0, 10, (100,), generator=generator).tolist()
    assert doubts(labels, guesses) == []
    assert doubts([0, 1, 2, 3], [1, 0, 3, 2]) == []


def test_one_class_alone() -> None:
    (found,) = doubts([3] * 20, [3] * 18 + [1, 2])
    assert "all 20 labels are 3" in found


@pytest.mark.parametrize("labels", [[], [-100] * 8, [0, 1, 2, 3, -100, -100]])
def test_nothing_is_said_of_what_fits(labels: list[int]) -> None:
    assert doubts(labels, [max(label, 0) for label in labels]) == []


def test_names_are_found_behind_a_loader() -> None:
    data = SimpleNamespace(classes=["a", "b"])
    loader = SimpleNamespace(dataset=SimpleNamespace(dataset=data))
    assert class_names(loader) == class_names(data) == class_names({"classes": ["a", "b"]})
    assert class_names(SimpleNamespace(config=SimpleNamespace(id2label={0: "x", 1: "y"})))[1] == "y"
    for none in (None, [], {}, SimpleNamespace(classes=3), SimpleNamespace(classes=[1])):
        assert class_names(none) == ()
