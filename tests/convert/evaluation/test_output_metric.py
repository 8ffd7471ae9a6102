"""Evaluation of networks whose outputs are no classes, and of networks with two inputs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from convert import InputError, audit, evaluate, load, to_spiking
from convert.evaluation.metrics import OutputError


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


@pytest.fixture(params=[False, True], ids=["one output", "two outputs"])
def timed(request: pytest.FixtureRequest) -> Timed:
    torch.manual_seed(1)
    return Timed(request.param).eval()


@pytest.fixture
def times(images: Tensor) -> Tensor:
    return torch.arange(len(images)) % 10


def _relative(found: Tensor, reference: Tensor) -> float:
    spread = reference - reference.mean(0)
    return float((found - reference).square().sum().sqrt() / spread.square().sum().sqrt())


def _leaves(result: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return list(result.values()) if isinstance(result, dict) else [result]


def _total(found: list[Tensor], reference: list[Tensor]) -> float:
    each = [_relative(a, b) for a, b in zip(found, reference, strict=True)]
    return math.sqrt(sum(e * e for e in each) / len(each))


def test_figures_are_true(timed: Timed, images: Tensor, times: Tensor) -> None:
    snn = to_spiking(timed, [(images, times)], steps=[4, 2], method="binary", progress=False)
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


def test_writes_json_and_picture(
    timed: Timed, images: Tensor, times: Tensor, tmp_path: Path
) -> None:
    snn = to_spiking(timed, [(images, times)], steps=[3, 2], method="binary", progress=False)
    result = evaluate(snn, None, [(images, times)], metric="output", progress=False)
    result.to_json(tmp_path / "report.json", model="timed")
    result.plot(tmp_path / "steps.png")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["spiking"]["relative_error"] == result.spiking["relative_error"]
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"


def test_a_constant_prediction_has_error_one() -> None:
    measure = OutputError()
    reference = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) + 100
    for part in reference.split(7):
        measure.add({"output": reference.mean(0).expand_as(part)}, {"output": part}, None)
    assert measure.values["relative_error"] == pytest.approx(1, rel=1e-6)


def test_outputs_count_by_their_own_spread() -> None:
    reference = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    measure = OutputError()
    exact = {"a": reference[:, :1], "b": 1000 * reference[:, 1:]}
    measure.add({"a": exact["a"] * 1.3, "b": exact["b"] * 1.4}, exact, None)
    assert measure.values["relative_error"] == pytest.approx(math.sqrt((0.09 + 0.16) / 2), rel=0.02)


def test_what_has_no_spread_has_no_relative_error() -> None:
    constant = torch.full((5, 2), 0.1)
    same, other, both = OutputError(), OutputError(), OutputError()
    same.add({"output": constant}, {"output": constant}, None)
    other.add({"output": constant + 1}, {"output": constant}, None)
    moving = torch.arange(10.0).view(5, 2)
    both.add({"a": constant + 1, "b": moving * 2}, {"a": constant, "b": moving}, None)
    assert same.values["relative_error"] == 0
    assert other.values == {"relative_error": None, "by_output": {"output": None}}
    assert both.values["by_output"]["a"] is None
    assert both.values["relative_error"] == both.values["by_output"]["b"] > 1


def test_an_output_of_another_shape_is_refused() -> None:
    measure = OutputError()
    measure.add({"output": torch.ones(2, 3)}, {"output": torch.ones(2, 3)}, None)
    with pytest.raises(InputError, match=r"\[3\].*\[4\]"):
        measure.add({"output": torch.ones(2, 4)}, {"output": torch.ones(2, 4)}, None)


def test_unknown_metric(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=2, method="binary", progress=False)
    with pytest.raises(InputError, match=r"'mse'.*agreement.*output"):
        evaluate(snn, small, [images], metric="mse")
    classes = evaluate(snn, small, [images], metric="classes", by_site=0, progress=False)
    assert classes.spiking["agreement"] is not None


def test_outputs_of_a_classifier(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(small, images, steps=3, method="binary", progress=False)
    labels = torch.zeros(len(images), dtype=torch.long)
    # Labels are not looked at, so that any loader will do.
    found = evaluate(snn, small, [(images, labels - 5)], metric="output", progress=False)
    with torch.no_grad():
        expected = _relative(snn(images), small(images))
    assert found.spiking["relative_error"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "form", ["flat", "labelled", "nested", "nested labelled", "dict", "loader"]
)
def test_forms_of_a_batch(images: Tensor, times: Tensor, form: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model, labels = Timed().eval(), torch.zeros(len(images))
    data = {
        "flat": [(images, times)],
        "labelled": [(images, times, labels)],
        "nested": [((images, times),)],
        "nested labelled": [((images, times), labels)],
        "dict": [{"x": images, "t": times}],
        "loader": DataLoader(TensorDataset(images, times), batch_size=48),
    }[form]
    plain = to_spiking(model, [((images, times), labels)], steps=3, method="binary", progress=False)
    snn = to_spiking(model, data, steps=3, method="binary", progress=False)
    assert torch.equal(snn(images, times), plain(images, times))
    expected = evaluate(plain, model, [((images, times),)], metric="output", progress=False)
    for network in (snn, plain):
        network.save(tmp_path / "net.fsnn")
        for each in (network, load(tmp_path / "net.fsnn")):
            found = evaluate(each, model, data, metric="output", progress=False)
            assert found.spiking == expected.spiking
            assert audit(each, next(iter(data))).agrees


def test_one_tensor_or_dict_is_data(
    small: nn.Module, timed: Timed, images: Tensor, times: Tensor
) -> None:
    both = {"x": images, "t": times}
    for model, data in ((small, images), (timed, both)):
        snn = to_spiking(model, data, steps=2, method="binary", progress=False)
        whole, batch = (
            evaluate(snn, model, each, metric="output", progress=False) for each in (data, [data])
        )
        assert whole.images == 48 and whole.spiking == batch.spiking
    with pytest.raises(InputError, match="is a int"):
        evaluate(snn, timed, 3, metric="output", progress=False)


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


def test_a_missing_input_is_named(images: Tensor, times: Tensor) -> None:
    torch.manual_seed(0)
    model = Timed().eval()
    with pytest.raises(InputError, match=r"1 elements.*2 inputs"):
        to_spiking(model, [(images,)], steps=2, method="binary", progress=False)
    snn = to_spiking(model, [(images, times)], steps=2, method="binary", progress=False)
    with pytest.raises(InputError, match=r"one tensor.*2 inputs.*\(x, t\)"):
        evaluate(snn, model, [images], metric="output", progress=False)
    with pytest.raises(InputError, match=r"one tensor.*2 inputs"):
        to_spiking(model, (images, times), steps=2, method="binary", progress=False)
    with pytest.raises(InputError, match=r"missing inputs \['t'\]"):
        evaluate(snn, model, [{"x": images}], metric="output", progress=False)


def test_no_floating_point_output_is_named(small: nn.Module, images: Tensor) -> None:
    class Choice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return small(x).argmax(1)

    snn = to_spiking(small, images, steps=2, method="binary", progress=False)
    with pytest.raises(InputError, match="no floating-point"):
        evaluate(snn, Choice(), [images], metric="output", progress=False)


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
