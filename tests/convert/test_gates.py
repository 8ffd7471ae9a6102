"""Networks whose neurons have gates, from conversion to files and back."""

import copy
import hashlib
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert import (
    ConversionError,
    ConversionSettings,
    FewSpikesNeuron,
    InputError,
    RangeWarning,
    SiteError,
    SpikingModel,
    StorageError,
    audit,
    evaluate,
    load,
    refit,
    to_spiking,
)
from convert.assembly import steps_per_site
from convert.assembly.bias_correction import stretched
from convert.network.run_plan import CutNeuron
from convert.neuron import fused
from convert.storage.container import _HEADER, packed, read

_OLDER = Path(__file__).resolve().parents[1] / "data"
_NUMBERS = ("thresholds", "resets", "weights", "offset", "gates", "missing_mean")


def _convert(model: nn.Module, x: Any, **settings: Any) -> SpikingModel:
    return to_spiking(model, x, **{"steps": 3, "method": "binary", "progress": False} | settings)


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """Three gates a neuron, K = 3 and 2; not to be changed."""
    return _convert(small_model, noise, steps=[3, 2], gates=3)


@pytest.fixture(scope="module")
def plain(converted: SpikingModel, noise: Tensor) -> SpikingModel:
    """The same network with one table a neuron; not to be changed."""
    return refit(converted, noise, steps=3, gates=0, progress=False)


@pytest.fixture
def snn(converted: SpikingModel) -> SpikingModel:
    return copy.deepcopy(converted)


def _gates(snn: SpikingModel) -> dict[str, int]:
    return {name: neuron.intervals - 1 for name, neuron in snn.sites.items()}


def _error(snn: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((snn(x) - model(x)).norm() / model(x).norm())


def _alike(found: SpikingModel, expected: SpikingModel, x: Tensor) -> None:
    """Equal bit for bit: neurons, outputs, every K and every readout."""
    assert list(found.sites) == list(expected.sites)
    for name, neuron in expected.sites.items():
        for number in _NUMBERS:
            own, other = getattr(found.sites[name], number), getattr(neuron, number)
            assert (own is None) == (other is None), number
            assert own is None or (own.dtype == other.dtype and torch.equal(own, other)), number
    with torch.no_grad():
        assert torch.equal(found(x), expected(x))
        for step in (1, 2):
            with found.readout(step), expected.readout(step):
                assert torch.equal(found(x), expected(x))
        for k in map(int, expected.refitted):
            with found.with_steps(k), expected.with_steps(k):
                assert torch.equal(found(x), expected(x))


# Conversion.


def test_errors_fall(
    small_model: nn.Module, noise: Tensor, converted: SpikingModel, plain: SpikingModel
) -> None:
    errors = [_error(one, small_model, noise) for one in (plain, converted)]
    assert errors[1] < 0.5 * errors[0]
    for row, other in zip(plain.report.sites, converted.report.sites, strict=True):
        assert other.mse < 0.2 * row.mse and (row.gates, other.gates) == (0, 3)
    assert all(neuron.gates is None for neuron in plain.sites.values())


def test_the_report_tells_gates_and_latency(converted: SpikingModel) -> None:
    report = converted.report
    assert _gates(converted) == {"silu": 3, "act": 3}
    # One time step for the gates of each of two layers.
    assert report.latency_steps == 2 * (3 + 1)
    assert report.settings.gates == 3 and report.to_dict()["gates"] == 3
    assert [site["gates"] for site in report.to_dict()["sites"]] == [3, 3]
    head, _, _, last = str(report).splitlines()[:4]
    assert head.split()[:4] == ["site", "function", "K", "gates"]
    assert last.split()[:4] == ["act", "relu", "3", "3"]
    assert all(neuron.latency == 4 for neuron in converted.sites.values())
    assert converted.steps == 3 and converted.longest == 3
    json.dumps(report.to_dict())


def test_sites_with_gates_of_their_own(small_model: nn.Module, noise: Tensor) -> None:
    patterns = {"*": 1, "act": np.int64(0)}
    snn = _convert(small_model, noise, gates=3, per_site_gates=patterns, sequential=False)
    assert _gates(snn) == {"silu": 1, "act": 0}
    assert snn.report.latency_steps == 4 + 3
    assert {row.name: row.gates for row in snn.report.sites} == _gates(snn)
    assert dict(snn.report.settings.per_site_gates) == patterns
    with torch.no_grad():
        assert snn(noise).isfinite().all()


_REFUSED: list[tuple[dict[str, Any], type[ConversionError], str]] = [
    ({"gates": 16}, InputError, "gates must be a whole number from 0, for one table, to 15"),
    ({"gates": -1}, InputError, "found -1"),
    ({"gates": 2.5}, InputError, "found 2.5"),
    ({"gates": True}, InputError, "found True"),
    ({"gates": "3"}, InputError, "found '3'"),
    ({"gates": [3]}, InputError, r"found \[3\]"),
    ({"per_site_gates": {"act": 16}}, InputError, "per_site_gates: gates of 'act' must be"),
    ({"per_site_gates": {"act": None}}, InputError, "found None"),
    ({"per_site_gates": 3}, InputError, "per_site_gates must give gates by the name or glob"),
    ({"per_site_gates": {3: 3}}, InputError, "per_site_gates must name sites by strings"),
    ({"per_site_gates": {"atc": 3}}, SiteError, "per_site_gates: no site matches 'atc'"),
]


@pytest.mark.parametrize(("given", "kind", "message"), _REFUSED)
def test_refusals(
    small_model: nn.Module,
    noise: Tensor,
    converted: SpikingModel,
    given: dict[str, Any],
    kind: type[ConversionError],
    message: str,
) -> None:
    for call in (
        lambda: _convert(small_model, noise[:4], **given),
        lambda: refit(converted, progress=False, **given),
    ):
        with pytest.raises(kind, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_settings_come_and_go() -> None:
    settings = ConversionSettings(gates=np.int64(3), per_site_gates={"a": 1, "*": torch.tensor(2)})
    assert type(settings.gates) is int and settings.to_dict()["per_site_gates"] == {"a": 1, "*": 2}
    assert ConversionSettings.from_dict(settings.to_dict()) == settings
    older = {k: v for k, v in settings.to_dict().items() if "gates" not in k}
    assert ConversionSettings.from_dict(older).gates == 0
    assert settings.changed({"gates": 0}).gates == 0
    assert settings.changed({"per_site_gates": {}}) != settings
    assert hash(settings) == hash(ConversionSettings.from_dict(settings.to_dict()))


def test_steps_and_gates_are_chosen_together(
    small_model: nn.Module,
    noise: Tensor,
    converted: SpikingModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps_per_site, "_MOST", 4)
    snn, plain = (
        refit(converted, steps="auto", budget=7, gates=gates, progress=False) for gates in (3, 0)
    )
    latencies = {name: neuron.latency for name, neuron in snn.sites.items()}
    assert 6 <= sum(latencies.values()) <= 7
    assert snn.report.latency_steps == sum(latencies.values())
    assert any(_gates(snn).values()) and set(_gates(snn).values()) <= {0, 1, 3}
    (note,) = (n for n in snn.report.notes if n.startswith("steps per site"))
    gated = sum(gates > 0 for gates in _gates(snn).values())
    assert f"{sum(latencies.values())} in total" in note and f"{gated} of 2 sites gated" in note
    assert _error(snn, small_model, noise) < _error(plain, small_model, noise)
    snn.save(tmp_path / "a.fsnn")
    _alike(load(tmp_path / "a.fsnn"), snn, noise)


def test_automatic_choice_keeps_to_what_sites_may_have(
    small_model: nn.Module, noise: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_per_site, "_MOST", 7)
    snn = _convert(
        small_model, noise, steps="auto", max_loss=0.02, gates=7, per_site_gates={"act": 0},
        per_site_steps={"silu": 2},
    )  # fmt: skip
    assert _gates(snn)["act"] == 0 and snn.sites["silu"].steps == 2
    assert _error(snn, small_model, noise) ** 2 <= 0.02


def test_float64_and_ranges_that_float32_cannot_resolve(tmp_path: Path) -> None:
    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.silu(1e6 + 0.1 * x)

    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64):
        given = x.to(dtype)
        snn = _convert(Narrow().eval(), given, steps=1, gates=15)
        (neuron,) = snn.sites.values()
        assert neuron.gates is not None and neuron.gates.dtype == dtype
        assert bool((neuron.gates.diff() >= 0).all())
        snn.save(tmp_path / "a.fsnn")
        with torch.no_grad():
            assert torch.equal(load(tmp_path / "a.fsnn")(given), snn(given))


# Runs.


def test_events_are_counted(converted: SpikingModel, noise: Tensor, small_model: nn.Module) -> None:
    expected = dict.fromkeys(converted.sites, 0)

    def watch(site: str, x: Tensor) -> None:
        neuron = converted.sites[site]
        constants = neuron.offset[neuron.interval(x)] != 0
        expected[site] += int(neuron.spikes(x).sum()) + int(constants.sum())

    with torch.no_grad(), converted.running(watchers=(watch,)):
        converted(noise)
    for grad in (False, True):
        with torch.set_grad_enabled(grad), converted.count_spikes() as counts:
            converted(noise)
        assert counts == expected
    found = evaluate(converted, small_model, [noise], progress=False)
    assert found.spiking.spikes_per_image == pytest.approx(sum(expected.values()) / 48)
    assert [row.steps for row in found.by_K] == [2]
    assert found.by_step[-1].spikes_per_neuron == found.spiking.spikes_per_neuron
    assert found.to_dict()["latency_steps"] == 8 and found.to_dict()["gates"] == 3
    # Silent neurons of a ReLU cost nothing.
    assert float(converted.sites["act"].offset[0]) == 0.0


class Residual(nn.Module):
    """Sums and products beside neurons, which reuse memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        y = self.second(x)
        return x * torch.sigmoid(y) + torch.relu(x - self.first(y) + y).mean((2, 3), keepdim=True)


@pytest.fixture(scope="module")
def residual() -> SpikingModel:
    torch.manual_seed(0)
    return _convert(Residual().eval(), torch.randn(8, 4, 6, 6), steps=2, gates=3)


@pytest.mark.parametrize("worth", [0, 10**18], ids=["code", "blocks"])
def test_reused_memory_changes_nothing(
    residual: SpikingModel, worth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "WORTH_COMPILING", worth)
    monkeypatch.setattr(fused, "_ready", set())
    snn, x = residual, torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    # Where somebody might follow derivatives, nothing is overwritten.
    expected = snn(x)
    with torch.no_grad():
        first, second = snn(x), snn(x)
        last = snn(x.to(memory_format=torch.channels_last))
    assert snn._runner is not None and snn._runner._program is not None
    assert snn._runner._program.overwriting > 0
    assert torch.equal(first, expected) and torch.equal(second, expected)
    assert torch.allclose(last, expected, atol=1e-5)
    assert torch.equal(x, before)
    with snn.count_spikes() as counts, torch.no_grad():
        assert torch.equal(snn(x), expected)
    assert all(counts.values())


def test_readouts_and_what_is_written_out(converted: SpikingModel, noise: Tensor) -> None:
    with torch.no_grad():
        for corrected in (True, False):
            with converted.readout(2, corrected=corrected) as _:
                expected = converted(noise)
                planned = converted.as_planned(converted.plan)
            assert torch.equal(planned(noise)[0], expected)
            cut = [m for m in planned.modules() if isinstance(m, CutNeuron)]
            assert len(cut) == 2 and all(m.neuron.gates is not None for m in cut)
        whole = converted(noise)
        assert not torch.equal(expected, whole)
        with converted.readout(3):
            assert torch.equal(converted(noise), whole)
        exact = converted.with_exact_functions()
        assert not any(isinstance(m, FewSpikesNeuron) for m in exact.modules())


def test_half_precision(snn: SpikingModel, noise: Tensor) -> None:
    with torch.no_grad():
        before = snn(noise)
        for dtype in (torch.float16, torch.bfloat16):
            found = copy.deepcopy(snn).to(dtype)
            assert {n.gates.dtype for n in found.sites.values()} == {torch.float32}
            assert (found(noise.to(dtype)).float() - before).norm() < 0.1 * before.norm()
    wide = snn.double()
    assert {n.gates.dtype for n in wide.sites.values()} == {torch.float64}
    with torch.no_grad():
        assert (wide(noise.double()).float() - before).norm() < 0.02 * before.norm()


def test_inputs_outside_are_told(converted: SpikingModel, noise: Tensor) -> None:
    for _ in range(2):
        told = pytest.warns(RangeWarning, match="silu")
        with torch.no_grad(), told, converted.count_outside() as found:
            converted(9 * noise)
    assert found["silu"].count > 0


class Attention(nn.Module):
    """One head over tokens, of which some are hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        scores = scores.masked_fill(hidden[:, None], -float("inf"))
        return scores.softmax(-1) @ self.value(x)


def test_hidden_tokens_stay_hidden(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Attention().eval()
    x = torch.randn(32, 6, 8)
    hidden = torch.zeros(32, 6, dtype=torch.bool)
    hidden[:, 4:] = True
    snn = _convert(model, [{"x": x, "hidden": hidden}], gates=3)
    masked = [n for n in snn.sites.values() if n.gates is not None and float(n.offset[0]) == 0]
    assert masked
    for neuron in masked:
        assert float(neuron(torch.tensor(-float("inf")))) == 0.0
    other = x.clone()
    other[:, 4:] = torch.randn(32, 2, 8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", RangeWarning)
        expected = snn(x, hidden)[:, :4]
        assert expected.isfinite().all()
        assert torch.equal(snn(other, hidden)[:, :4], expected)
        assert (expected - model(x, hidden)[:, :4]).norm() < 0.5 * expected.norm()
    # Far outside, hidden scores are no reason to warn.
    with torch.no_grad(), pytest.warns(RangeWarning) as told:
        snn(30 * x, hidden)
    assert told
    snn.save(tmp_path / "a.fsnn")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "a.fsnn")(x, hidden)[:, :4], expected)


# Files and copies.


def test_comes_back_whole(converted: SpikingModel, noise: Tensor, tmp_path: Path) -> None:
    converted.save(tmp_path / "a.fsnn")
    back = load(tmp_path / "a.fsnn")
    _alike(back, converted, noise)
    assert back.report.to_dict() == converted.report.to_dict()
    assert str(back.report) == str(converted.report)
    assert back.report.settings == converted.report.settings
    back.save(tmp_path / "b.fsnn")
    assert (tmp_path / "b.fsnn").read_bytes() == (tmp_path / "a.fsnn").read_bytes()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda snn: pickle.loads(pickle.dumps(snn))])
def test_copies_are_their_own(snn: SpikingModel, noise: Tensor, how: Any) -> None:
    with torch.no_grad():
        before = snn(noise)
        copied = how(snn)
        _alike(copied, snn, noise)
        for neuron in copied.sites.values():
            neuron.gates.add_(0.5)
        assert not torch.equal(copied(noise), before) and torch.equal(snn(noise), before)


def test_state_dicts_hold_gates(snn: SpikingModel, noise: Tensor, tmp_path: Path) -> None:
    snn.save(tmp_path / "a.fsnn")
    other = load(tmp_path / "a.fsnn")
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_state_dict(snn.state_dict(), strict=True)
    _alike(other, snn, noise)
    assert "network.sites.act.gates" in snn.state_dict()


def test_older_files(noise: Tensor, tmp_path: Path) -> None:
    back = load(_OLDER / "v2_convolutions.fsnn")
    assert not any(_gates(back).values()) and back.report.to_dict()["gates"] == 0
    assert all(row.gates == 0 for row in back.report.sites)
    assert "gates" not in str(back.report)
    gated = refit(back, gates=1, steps=2, method="binary", progress=False)
    assert set(_gates(gated).values()) == {1}
    gated.save(tmp_path / "a.fsnn")
    assert load(tmp_path / "a.fsnn").report.settings.gates == 1


def test_newer_files_are_refused_by_name(converted: SpikingModel, tmp_path: Path) -> None:
    path = tmp_path / "a.fsnn"
    converted.save(path)
    assert _HEADER.unpack(path.read_bytes()[: _HEADER.size])[1] == 3
    graph, content = read(path)
    path.write_bytes(packed(graph, content, 5) + graph + content)
    with pytest.raises(StorageError, match=r"version 5.*newer"):
        load(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gates", lambda t: t.double()),
        ("gates", lambda t: t[:0]),
        ("gates", lambda t: t[:2]),
        ("gates", lambda t: t + torch.inf),
        ("gates", lambda t: t[None]),
        ("offset", lambda t: t[:2]),
        ("thresholds", lambda t: t[0]),
        ("missing_mean", lambda t: t[:, :2]),
    ],
)
def test_damaged_neurons_are_refused(
    converted: SpikingModel, tmp_path: Path, name: str, change: Any
) -> None:
    path = tmp_path / "a.fsnn"
    converted.save(path)
    graph, content = read(path)
    tensors = safetensors.torch.load(content)
    (key,) = (k for k in tensors if k.endswith(f"act.{name}") and not k.startswith("refitted"))
    tensors[key] = change(tensors[key]).contiguous()
    content = safetensors.torch.save(tensors, {"json_sha256": hashlib.sha256(graph).hexdigest()})
    path.write_bytes(packed(graph, content) + graph + content)
    with pytest.raises(StorageError):
        load(path)


def test_onnx(converted: SpikingModel, noise: Tensor, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="exports are run in onnxruntime")
    pytest.importorskip("onnxscript", reason="exports need onnxscript")
    converted.export(tmp_path / "a.onnx")
    session = runtime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    for size in (1, 48):
        with torch.no_grad():
            expected = converted(noise[:size])
        named = {session.get_inputs()[0].name: noise[:size].numpy()}
        found = torch.from_numpy(np.asarray(session.run(None, named)[0]))
        # A spike may flip at rounding.
        assert ((found - expected).abs() > 1e-4).float().mean() < 0.1
        assert (found - expected).norm() < 0.05 * expected.norm()


# Refitting and training.


def test_refitting_without_data(
    converted: SpikingModel, small_model: nn.Module, noise: Tensor
) -> None:
    settings: dict[str, Any] = {"gates": 1, "steps": 2, "sequential": False}
    found = refit(converted, progress=False, **settings)
    expected = _convert(small_model, noise, **settings)
    _alike(found, expected, noise)
    assert found.report.settings == expected.report.settings
    assert found.report.latency_steps == expected.report.latency_steps
    own = refit(converted, steps=2, per_site_gates={"silu": 0}, progress=False)
    assert _gates(own) == {"silu": 0, "act": 3}
    # What is not given stays.
    again = refit(own, steps=1, progress=False)
    assert _gates(again) == _gates(own) and again.steps == 1
    assert _gates(refit(again, per_site_gates={}, progress=False)) == {"silu": 3, "act": 3}


def test_refitting_with_data(converted: SpikingModel, noise: Tensor) -> None:
    _alike(refit(converted, noise, progress=False), converted, noise)
    wide = refit(converted, 3 * noise, steps=2, gates=1, per_site_gates={"silu": 3}, progress=False)
    assert _gates(wide) == {"silu": 3, "act": 1}
    spread = [n.sites["silu"].gates for n in (wide, converted)]
    assert float(spread[0][-1] - spread[0][0]) > 2 * float(spread[1][-1] - spread[1][0])


def test_fine_tuning(snn: SpikingModel, small_model: nn.Module, noise: Tensor) -> None:
    with torch.no_grad():
        target = 1.2 * small_model(noise) + 0.1
    snn.unfreeze(weights=True, neurons=True)
    learned = {name.rpartition(".")[2] for name, p in snn.named_parameters() if p.requires_grad}
    assert {"thresholds", "resets", "weights", "gates", "weight", "bias"} <= learned
    before = {name: p.detach().clone() for name, p in snn.named_parameters()}
    losses = []
    optimiser = torch.optim.SGD([p for p in snn.parameters() if p.requires_grad], 1e-4)
    for _ in range(2):
        optimiser.zero_grad()
        loss = (snn(noise) - target).square().sum()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    assert losses[1] < losses[0]
    moved = [n for n, p in snn.named_parameters() if not torch.equal(p, before[n])]
    assert any(name.endswith("gates") for name in moved)
    # What was learned is what runs afterwards.
    snn.requires_grad_(False)
    with torch.no_grad():
        assert (snn(noise) - target).square().sum().item() < losses[1]


def test_gates_that_crossed_in_training_are_saved(
    snn: SpikingModel, noise: Tensor, tmp_path: Path
) -> None:
    snn.unfreeze(neurons=True)
    with torch.no_grad():
        for neuron in snn.sites.values():
            neuron.gates.copy_(neuron.gates.flip(0))
            neuron.gates[1] = neuron.gates[0]
        expected = snn(noise)
    snn.save(tmp_path / "a.fsnn")
    back = load(tmp_path / "a.fsnn")
    with torch.no_grad():
        assert torch.equal(back(noise), expected)
        assert torch.equal(snn.requires_grad_(False)(noise), expected)


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_stretched_gates_and_tables_go_together(converted: SpikingModel, factor: float) -> None:
    x = torch.linspace(-3, 3, 1001)
    for neuron in converted.sites.values():
        wide = stretched(copy.deepcopy(neuron), factor)
        assert torch.equal(wide(x), neuron(factor * x))
        assert torch.equal(wide.interval(x), neuron.interval(factor * x))


def test_the_audit_agrees(converted: SpikingModel, plain: SpikingModel, noise: Tensor) -> None:
    found = audit(converted, noise[:4])
    assert found.neurons == 2
    assert found.to_dict() == audit(plain, noise[:4]).to_dict()


def test_jacobians_and_compilers(snn: SpikingModel, noise: Tensor) -> None:
    compiled = torch.compile(snn, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(noise), snn(noise))
    x = noise[:2].clone().requires_grad_()
    snn(x).square().sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all()) and bool(x.grad.any())
