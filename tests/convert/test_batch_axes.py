"""Networks whose batch isn't the first axis, against the same networks with the batch first."""

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import InputError, SpikingModel, audit, evaluate, load, refit, to_spiking


class Net(nn.Module):
    def __init__(self, call: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.call = call

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


class Pair(nn.Module):
    def __init__(self, call: Callable[..., Any], part: nn.Module) -> None:
        super().__init__()
        self.part, self.call = part, call

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.call(self.part, x, y)


def _converted(model: nn.Module, data: Any, **settings: Any) -> SpikingModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_spiking(model.eval(), data, steps=6, method="binary", progress=False, **settings)


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def _turned(part: nn.Module) -> Net:
    """The same for ``[N, T, F]``; its output ``[N, ...]``."""

    def call(net: Any, x: Tensor) -> Tensor:
        out = net.part(x.transpose(0, 1))
        return out.transpose(0, 1) if out.dim() == 3 else out

    return Net(call, part=part)


def _recurrent(kind: type[nn.RNNBase], **settings: Any) -> Net:
    return Net(
        lambda net, x: net.head(F.relu(net.cell(x)[0])),
        cell=kind(8, 4, **settings),
        head=nn.Linear(8 if settings.get("bidirectional") else 4, 4),
    )


SEQUENCES = {
    "encoder": _encoder,
    "last step": lambda: Net(
        lambda net, x: net.head(F.gelu(net.cell(x)[0][-1])),
        cell=nn.RNN(8, 6),
        head=nn.Linear(6, 4),
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_with_the_batch_second(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = SEQUENCES[name]().eval()
    # As many images as steps: no length tells which is which.
    x, fresh = torch.randn(3, 3, 8), torch.randn(3, 180, 8)
    data = [torch.randn(3, n, 8) for n in (16, 16, 1)] + [x]
    snn = _converted(model, data)
    twin = _converted(_turned(model), [part.transpose(0, 1) for part in data])
    assert snn.report.to_dict()["batch_axis"] == 1 and twin.report.to_dict()["batch_axis"] == 0
    assert any("axis 1" in note for note in snn.report.notes)
    assert "axis 1" in str(snn.report)
    for key in ("neurons", "multiply_accumulates", "latency_steps", "spike_driven"):
        assert getattr(snn.report, key) == getattr(twin.report, key)
    assert snn.report.calibration_images == 36
    pairs = zip(snn.report.sites, twin.report.sites, strict=True)
    for ours, theirs in pairs:
        assert ours.neurons == theirs.neurons
        assert ours.mse == pytest.approx(theirs.mse, rel=1e-3)

    for metric in ("output", "agreement") if name == "encoder" else ("output",):
        sites = 8 if metric == "output" else 0
        kwargs = {"metric": metric, "by_site": sites, "at": [6], "progress": False}
        turned = [part.transpose(0, 1) for part in (fresh, x)]
        found = evaluate(snn, model, [fresh, x], **kwargs).to_dict()
        expected = evaluate(twin, _turned(model).eval(), turned, **kwargs).to_dict()
        assert found["images"] == expected["images"] == 183
        assert found["by_site_images"] == sites
        _alike(found["spiking"], expected["spiking"])
        _alike(found["by_step"], expected["by_step"])
        _alike(found["by_site"], expected["by_site"])
    assert audit(snn, fresh).agrees

    file = tmp_path / "network.fsnn"
    snn.save(file)
    for copy in (load(file), pickle.loads(pickle.dumps(snn))):
        assert copy.signature.inputs == snn.signature.inputs
        assert copy.signature.outputs == snn.signature.outputs
        assert torch.equal(copy(fresh), snn(fresh))
        assert copy.report.to_dict()["batch_axis"] == 1
    if name == "last step":
        again = refit(load(file), data, steps=3, method="binary", progress=False)
        assert again.report.neurons == snn.report.neurons
        assert again.report.multiply_accumulates == snn.report.multiply_accumulates
    with torch.no_grad():
        torch.testing.assert_close(snn.original()(fresh), model(fresh), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"\[3, batch, 8\]"):
        snn(torch.randn(6, 5, 8))


def _alike(found: Any, expected: Any) -> None:
    """Equal but for rounding, and the few spikes that rounding moves."""
    if isinstance(expected, dict):
        _alike(list(found.values()), list(expected.values()))
    elif isinstance(expected, list):
        for ours, theirs in zip(found, expected, strict=True):
            _alike(ours, theirs)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0.02, abs=2e-3)
    elif isinstance(expected, str):
        pass  # names of sites: of the same modules, which are parts of another
    else:
        assert found == expected


def test_one_tensor_of_long_sequences_is_cut_along_its_images() -> None:
    torch.manual_seed(0)
    # Of every step the sum of those before: the first step isn't apart from the others.
    model = Net(lambda net, x: net.a(F.relu(net.a(x.cumsum(0)))), a=nn.Linear(4, 4)).eval()
    x = torch.randn(130, 140, 4)
    snn = _converted(model, x, sequential=False)
    assert snn.report.calibration_images == 140
    assert str(snn.signature.inputs[0]) == "x [130, batch, 4]"
    found = evaluate(snn, model, x, metric="output", by_site=0, at=[6], progress=False)
    assert found.images == 140


@pytest.mark.parametrize(("kind", "first"), [("attention", False), ("state", True)])
def test_several_inputs(kind: str, first: bool) -> None:
    torch.manual_seed(0)
    if kind == "attention":
        attention = nn.MultiheadAttention(8, 2, batch_first=first)
        part = Pair(lambda attend, x, y: attend(x, y, y), attention).eval()
        x, y = torch.randn(12, 3, 8), torch.randn(12, 5, 8)
        data = (x, y) if first else (x.transpose(0, 1), y.transpose(0, 1))
        axes: Any = 0 if first else 1
    else:
        part = Pair(lambda cell, x, y: cell(x, y), nn.GRU(8, 8, batch_first=first)).eval()
        data = (torch.randn(12, 2, 8) if first else torch.randn(2, 12, 8), torch.randn(1, 12, 8))
        axes = {"x": 0, "y": 1} if first else 1
    snn = _converted(part, [data])
    assert snn.report.to_dict()["batch_axis"] == axes
    more = tuple(torch.cat([leaf] * 2, a) for leaf, a in zip(data, snn.signature.axes, strict=True))
    with torch.no_grad():
        expected = part(*data)[0]
        torch.testing.assert_close(snn.original()(*data)[0], expected, rtol=1e-4, atol=1e-5)
        assert snn(*more)[0].shape[1 if axes == 1 else 0] == 24
    other = (more[0], data[1])
    with pytest.raises(InputError, match="different batch sizes"):
        snn(*other)
    assert evaluate(snn, part, [more, data], metric="output", progress=False).images == 36


def _rows(layout: str) -> Net:
    """``[N, T, C]``, or flattened with the rows of an image together, or those of a time."""

    def call(net: Any, x: Tensor) -> Tensor:
        out = net.b(F.silu(net.a(x)))
        if layout == "images":
            return out.reshape(-1, 4)
        return out.transpose(0, 1).reshape(-1, 4) if layout == "times" else out

    torch.manual_seed(0)
    return Net(call, a=nn.Linear(6, 12), b=nn.Linear(12, 4)).eval()


@pytest.mark.parametrize("layout", ["images", "times"])
def test_rows_of_all_images_in_one_axis(layout: str, tmp_path: Any) -> None:
    x, data = torch.randn(200, 3, 6), torch.randn(40, 3, 6)
    rows = torch.randint(0, 4, (600,))
    model, twin = _rows(layout), _rows("apart")
    snn, other = (_converted(net, data, sequential=False) for net in (model, twin))
    kwargs: dict[str, Any] = {"metric": "output", "by_site": 7, "at": [3], "progress": False}
    found = evaluate(snn, model, [(x, rows)], **kwargs)
    expected = evaluate(other, twin, [x], **kwargs)
    assert found.images == expected.images == 200
    for key in ("spiking", "by_step", "by_site"):
        _alike(found.to_dict()[key], expected.to_dict()[key])
    found = evaluate(snn, model, [(x, rows)], by_site=0, at=[6], progress=False)
    assert found.labelled_images == 200
    with torch.no_grad():
        predicted, exact = snn(x).argmax(1), model(x).argmax(1)
    assert found.spiking.agreement == pytest.approx(float((predicted == exact).float().mean()))
    assert found.spiking.accuracy == pytest.approx(float((predicted == rows).float().mean()))
    assert found.original.accuracy == pytest.approx(float((exact == rows).float().mean()))
    snn.save(tmp_path / "rows.fsnn")
    assert load(tmp_path / "rows.fsnn").signature.outputs == snn.signature.outputs


def test_outputs_with_other_axes() -> None:
    """A text recogniser's ``[T, N, C]``, a list of maps, and weights that no image changes."""

    def call(net: Any, x: Tensor) -> Any:
        h = F.relu(net.a(x))
        steps = net.b(h.mean(2).permute(2, 0, 1))
        return {"steps": steps, "maps": [h, h.flatten(2).permute(2, 0, 1)], "w": net.b.weight}

    torch.manual_seed(0)
    model = Net(call, a=nn.Conv2d(1, 4, 3), b=nn.Linear(4, 5)).eval()
    x = torch.randn(170, 1, 6, 8)
    snn = _converted(model, x[:32])
    assert snn.report.to_dict()["batch_axis"] == 0 and not snn.report.notes
    assert [layout.axis for layout in snn.signature.outputs] == [1, 0, 1, None]
    found = evaluate(snn, model, [x], metric="output", progress=False)
    errors = found.spiking.measures.by_output
    with torch.no_grad():
        for name, a, b in (
            ("output['steps']", snn(x)["steps"], model(x)["steps"]),
            ("output['maps'][1]", snn(x)["maps"][1], model(x)["maps"][1]),
        ):
            spread = (b - b.mean(1, keepdim=True)).norm()
            assert errors[name] == pytest.approx(float((a - b).norm() / spread), rel=0.02)
    assert errors["output['w']"] == 0


def _mixing(name: str) -> Net:
    torch.manual_seed(0)
    parts: dict[str, nn.Module] = {"a": nn.Linear(6, 12), "b": nn.Linear(12, 4)}
    calls: dict[str, Callable[..., Any]] = {
        "similarity": lambda net, x: (lambda h: h @ h.T)(net.b(F.silu(net.a(x)))),
        "statistics": lambda net, x: net.b(
            F.relu(F.batch_norm(net.a(x), None, None, training=True))
        ),
        "attention": lambda net, x: net.b((net.a(x) @ net.a(x).T).softmax(1) @ net.a(x)),
    }
    return Net(calls[name], **parts).eval()


@pytest.mark.parametrize("name", ["similarity", "statistics", "attention"])
def test_networks_that_mix_a_batch(name: str, tmp_path: Any) -> None:
    model = _mixing(name)
    data = [torch.randn(n, 6) for n in (40, 24)]
    x = torch.randn(190, 6)
    with pytest.warns(UserWarning, match="mixes the images of a batch"):
        snn = to_spiking(model, data, steps=6, method="binary", progress=False)
    assert snn.report.to_dict()["mixes_batch"] and "mixes the images" in str(snn.report)
    assert snn.report.calibration_images == 64
    # Two batches of other sizes, of which none may be cut.
    found = evaluate(snn, model, [x, x[:30]], metric="output", by_site=4, progress=False)
    assert found.images == 220 and found.by_site_images == 190
    with torch.no_grad():
        a, b = (torch.cat([f(p).flatten() for p in (x, x[:30])]) for f in (snn, model))
        if name == "similarity":
            expected = float((a - b).norm() / (b - b.mean()).norm())
            assert found.spiking.measures.relative_error == pytest.approx(expected, rel=1e-3)
        agreement = evaluate(snn, model, [x], by_site=0, progress=False).spiking.agreement
        share = float((snn(x).argmax(1) == model(x).argmax(1)).float().mean())
        assert agreement == pytest.approx(share)
    # One tensor is one batch.
    whole = evaluate(snn, model, x, by_site=0, progress=False).spiking.agreement
    assert whole == pytest.approx(share)
    snn.save(tmp_path / "mixing.fsnn")
    loaded = load(tmp_path / "mixing.fsnn")
    assert loaded.signature.whole and loaded.report.to_dict()["mixes_batch"]


def test_calibration_sees_a_mixing_batch_whole() -> None:
    """Of a batch of equal images an attention over them has equal weights, 1 over its length."""
    model = Net(lambda net, x: (net.a(x) @ net.a(x).T).softmax(1) @ x, a=nn.Linear(6, 3)).eval()
    torch.manual_seed(0)
    snn = _converted(model, [torch.randn(1, 6).expand(64, 6).clone() + 1e-3 * torch.randn(64, 6)])
    low, high = snn.histograms["reciprocal"].low, snn.histograms["reciprocal"].high
    assert 60 < low <= high < 68


def test_a_number_beside_the_logits() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda net, x: (lambda h: (net.b(h), h.square().mean()))(F.silu(net.a(x))),
        a=nn.Linear(6, 12),
        b=nn.Linear(12, 4),
    ).eval()
    x = torch.randn(180, 6)
    snn = _converted(model, x[:40])
    assert not snn.report.mixes_batch and any("output 1" in note for note in snn.report.notes)
    found = evaluate(snn, model, [x, x[:64]], metric="output", by_site=4, progress=False)
    assert found.images == 244
    assert set(found.spiking.measures.by_output) == {"output[0]", "output[1]"}
    assert evaluate(snn, model, [x], by_site=0, progress=False).spiking.agreement > 0.8
