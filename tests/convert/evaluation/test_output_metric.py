"""Evaluation of networks whose outputs are no classes, and of networks with two inputs."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from convert import InputError, SpikingModel, audit, evaluate, load, to_spiking


class Timed(nn.Module):
    """An image and a whole number in, an image out; one number beside it if asked for."""

    def __init__(self, both: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.table = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 1)
        self.both = both

    def forward(self, x: Tensor, t: Tensor) -> Tensor | dict[str, Tensor]:
        y = nn.functional.silu(self.first(x) + self.table(t)[:, :, None, None])
        image = self.second(y)
        return {"image": image, "value": 100 * self.head(y.mean((2, 3)))} if self.both else image


@dataclass(frozen=True)
class Case:
    """A network, and what was made of it; not to be changed."""

    model: Timed
    snn: SpikingModel


@pytest.fixture(scope="module")
def times(noise: Tensor) -> Tensor:
    return torch.arange(len(noise)) % 10


def _case(both: bool, noise: Tensor, times: Tensor) -> Case:
    torch.manual_seed(1)
    model = Timed(both).eval()
    data = [((noise, times), torch.zeros(len(noise)))]
    return Case(model, to_spiking(model, data, steps=[4, 2], method="binary", progress=False))


@pytest.fixture(scope="module")
def one(noise: Tensor, times: Tensor) -> Case:
    """The network with one output."""
    return _case(False, noise, times)


@pytest.fixture(scope="module")
def two(noise: Tensor, times: Tensor) -> Case:
    """The network with two outputs."""
    return _case(True, noise, times)


@pytest.fixture(params=["one", "two"])
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


def _relative(found: Tensor, reference: Tensor) -> float:
    spread = reference - reference.mean(0)
    return float((found - reference).square().sum().sqrt() / spread.square().sum().sqrt())


def _leaves(result: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return list(result.values()) if isinstance(result, dict) else [result]


def _total(found: list[Tensor], reference: list[Tensor]) -> float:
    each = [_relative(a, b) for a, b in zip(found, reference, strict=True)]
    return math.sqrt(sum(e * e for e in each) / len(each))


def test_figures_are_true(case: Case, images: Tensor, times: Tensor) -> None:
    timed, snn = case.model, case.snn
    batches = list(zip(images.split(20), times.split(20), strict=True))
    result = evaluate(snn, timed, batches, metric="output", progress=False)
    found = result.to_dict()
    assert found["metric"] == "output" and found["images"] == 48 and found["original"] == {}
    with torch.no_grad():
        exact = _leaves(timed(images, times))
        for row in found["by_step"]:
            for corrected, part in ((True, row), (False, row["raw"])):
                with snn.readout(row["step"], corrected=corrected):
                    outputs = _leaves(snn(images, times))
                assert part["relative_error"] == pytest.approx(_total(outputs, exact), rel=1e-3)
                assert list(part["by_output"].values()) == pytest.approx(
                    [_relative(a, b) for a, b in zip(outputs, exact, strict=True)], rel=1e-3
                )
        with snn.with_steps(2):
            outputs = _leaves(snn(images, times))
    assert found["by_K"][0]["relative_error"] == pytest.approx(_total(outputs, exact), rel=1e-3)
    names = ["output['image']", "output['value']"] if timed.both else ["output"]
    assert list(found["spiking"]["by_output"]) == names
    (site,) = found["by_site"]
    assert site["relative_error"] == site["accumulated_relative_error"]
    assert site["relative_error"] == pytest.approx(found["spiking"]["relative_error"], rel=1e-3)
    printed = str(result)
    assert "relative error" in printed and "agreement" not in printed
    assert ("output['value']" in printed) == timed.both


def test_writes_json_and_picture(case: Case, images: Tensor, times: Tensor, tmp_path: Path) -> None:
    result = evaluate(case.snn, None, [(images, times)], metric="output", progress=False)
    result.to_json(tmp_path / "report.json", model="timed")
    result.plot(tmp_path / "steps.png")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["spiking"]["relative_error"] == result.spiking["relative_error"] > 0
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"


def test_an_output_that_is_not_finite(two: Case, images: Tensor, times: Tensor) -> None:
    images[[3, 20]] = torch.nan
    result = evaluate(two.snn, two.model, [(images, times)], metric="output", progress=False)
    found = result.to_dict()
    assert found["original"] == {"not_finite": 2} and found["spiking"]["not_finite"] == 2
    assert found["spiking"]["relative_error"] is None
    assert set(found["spiking"]["by_output"].values()) == {None}
    assert "have no error: original 2, step 1 2" in str(result)


def test_unknown_metric(converted: SpikingModel, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"'mse'.*agreement.*output"):
        evaluate(converted, None, [images], metric="mse")
    classes, agreement = (
        evaluate(converted, None, [images], metric=metric, by_site=0, progress=False)
        for metric in ("classes", "agreement")
    )
    assert classes.spiking == agreement.spiking and classes.to_dict()["metric"] == "classes"


def test_outputs_of_a_classifier(converted: SpikingModel, small: nn.Module, images: Tensor) -> None:
    labels = torch.zeros(len(images), dtype=torch.long)
    # Labels are not looked at, so that any loader will do.
    found = evaluate(converted, small, [(images, labels - 5)], metric="output", progress=False)
    with torch.no_grad():
        expected = _relative(converted(images), small(images))
    assert found.spiking["relative_error"] == pytest.approx(expected, rel=1e-3)


@pytest.fixture(scope="module")
def loaded(one: Case, tmp_path_factory: pytest.TempPathFactory) -> SpikingModel:
    """The network with one output, from its file."""
    path = tmp_path_factory.mktemp("saved") / "net.fsnn"
    one.snn.save(path)
    return load(path)


@pytest.mark.parametrize(
    "form", ["flat", "labelled", "nested", "nested labelled", "dict", "loader"]
)
def test_forms_of_a_batch(
    one: Case, loaded: SpikingModel, images: Tensor, times: Tensor, form: str, tmp_path: Path
) -> None:
    labels = torch.zeros(len(images))
    data = {
        "flat": [(images, times)],
        "labelled": [(images, times, labels)],
        "nested": [((images, times),)],
        "nested labelled": [((images, times), labels)],
        "dict": [{"x": images, "t": times}],
        "loader": DataLoader(TensorDataset(images, times), batch_size=48),
    }[form]
    snn = to_spiking(one.model, data, steps=[4, 2], method="binary", progress=False)
    assert torch.equal(snn(images, times), one.snn(images, times))
    snn.save(tmp_path / "net.fsnn")
    options: dict[str, Any] = {"metric": "output", "by_site": 0, "at": [], "progress": False}
    expected = evaluate(one.snn, one.model, [((images, times),)], **options)
    for each in (snn, load(tmp_path / "net.fsnn"), one.snn, loaded):
        assert evaluate(each, one.model, data, **options).spiking == expected.spiking
        assert audit(each, next(iter(data))).agrees


def test_one_tensor_or_dict_is_data(
    two: Case, small: nn.Module, images: Tensor, times: Tensor
) -> None:
    both = {"x": images, "t": times}
    for model, data in ((small, images), (two.model, both)):
        snn = to_spiking(model, data, steps=2, method="binary", progress=False)
        whole, batch = (
            evaluate(snn, model, each, metric="output", by_site=0, progress=False)
            for each in (data, [data])
        )
        assert whole.images == 48 and whole.spiking == batch.spiking
    with pytest.raises(InputError, match="is a int"):
        evaluate(two.snn, two.model, 3, metric="output", progress=False)


def test_labels_of_a_classifier_with_two_inputs(images: Tensor, times: Tensor) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.table = nn.Linear(64, 5), nn.Embedding(10, 64)

        def forward(self, x: Tensor, t: Tensor, scale: float = 1.0) -> Tensor:
            return scale * self.linear(torch.tanh(x.flatten(1) + self.table(t)))

    torch.manual_seed(0)
    model = Both().eval()
    labels = model(images, times).argmax(1)
    labels[:12] = (labels[:12] + 1) % 5
    snn = to_spiking(model, [(images, times, labels)], steps=6, method="binary", progress=False)
    for batch in ((images, times, labels), ((images, times), labels)):
        found = evaluate(snn, model, [batch], by_site=0, progress=False)
        assert found.original["accuracy"] == 0.75
    found = evaluate(snn, model, [(images, times)], by_site=0, progress=False)
    assert found.original["accuracy"] is None and found.spiking["agreement"] > 0.5


def test_a_missing_input_is_named(one: Case, images: Tensor, times: Tensor) -> None:
    with pytest.raises(InputError, match=r"1 elements.*2 inputs"):
        to_spiking(one.model, [(images,)], steps=2, method="binary", progress=False)
    with pytest.raises(InputError, match=r"one tensor.*2 inputs.*\(x, t\)"):
        evaluate(one.snn, one.model, [images], metric="output", progress=False)
    with pytest.raises(InputError, match="keys x, of which none is sure to be the input 't'"):
        evaluate(one.snn, one.model, [{"x": images}], metric="output", progress=False)


def test_no_floating_point_output_is_named(
    converted: SpikingModel, small: nn.Module, images: Tensor
) -> None:
    class Choice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return small(x).argmax(1)

    with pytest.raises(InputError, match="no floating-point"):
        evaluate(converted, Choice(), [images], metric="output", progress=False)


def test_norms_and_maxima_of_a_network_with_two_inputs(images: Tensor, times: Tensor) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.table = nn.Linear(64, 8), nn.Embedding(10, 64)
            self.norm = nn.LayerNorm(64)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.softmax(self.linear(self.norm(x.flatten(1) + self.table(t))), 1)

    torch.manual_seed(0)
    model, batches = Normed().eval(), [(images, times, torch.zeros(48))]
    options: dict[str, Any] = {"normalisation": True, "max_pool": True, "progress": False}
    snn = to_spiking(model, batches, steps=10, method="binary", **options)
    assert not snn.report.to_dict()["remaining"]
    found = evaluate(snn, model, batches, metric="output", by_site=0, progress=False)
    assert found.spiking["relative_error"] < 0.7
