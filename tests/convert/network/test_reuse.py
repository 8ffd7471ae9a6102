"""A converted network is an ordinary module: what one does with those, done with it."""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from convert import FewSpikesNeuron, features, load, to_spiking
from convert.network.model import SpikingModel
from convert.neuron import surrogate


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    return to_spiking(small_model, noise, steps=6, method="binary", progress=False)


@pytest.fixture(params=["converted", "loaded"])
def snn(request: pytest.FixtureRequest, converted: SpikingModel, tmp_path: Path) -> SpikingModel:
    if request.param == "converted":
        return copy.deepcopy(converted)
    converted.save(tmp_path / "net.fsnn")
    return load(tmp_path / "net.fsnn")


def test_deepcopy_shares_nothing(snn: SpikingModel, images: Tensor) -> None:
    with torch.no_grad():
        before = snn(images)
        copied = copy.deepcopy(snn)
        assert torch.equal(copied(images), before)
        assert str(copied.report) == str(snn.report)
        nodes = set(copied.network.graph.nodes)
        assert all(operation.node in nodes for operation in copied.report.operations)
        for tensor in copied.state_dict().values():
            tensor.zero_()
        assert torch.equal(snn(images), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_to_another_precision(snn: SpikingModel, images: Tensor, dtype: torch.dtype) -> None:
    with torch.no_grad():
        before = snn(images)
        found = copy.deepcopy(snn).to(dtype)(images.to(dtype))
    assert found.dtype == dtype
    assert (found.float() - before).norm() < 0.1 * before.norm()
    cast = snn.to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {n.thresholds.dtype for n in cast.sites.values()} == {wide}


def test_to_another_device(snn: SpikingModel) -> None:
    moved = snn.to("meta")
    assert {t.device.type for t in moved.state_dict().values()} == {"meta"}
    assert moved(torch.empty(3, 1, 8, 8, device="meta")).shape == (3, 4)


def test_hooks_by_the_name_of_a_site(snn: SpikingModel, images: Tensor) -> None:
    seen = []
    handle = snn.sites["act"].register_forward_hook(lambda m, a, y: seen.append(y))
    with torch.no_grad():
        snn(images)
        handle.remove()
        snn(images)
        assert len(seen) == 1
        assert torch.equal(seen[0], features(snn, ["act"])(images)["act"])


def test_train_and_eval_are_the_same(snn: SpikingModel, images: Tensor) -> None:
    with torch.no_grad():
        before = snn(images)
        assert snn.train().training and snn.network.training
        assert torch.equal(snn(images), before)
        assert not snn.eval().network.training


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(converted: SpikingModel, images: Tensor, backend: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(converted), backend=backend)
    with torch.no_grad():
        expected = converted(images)
        found = compiled(images)
        # Fused convolutions round in another way: spikes may flip, few do.
        assert (found - expected).norm() < 0.02 * expected.norm()
        assert compiled(images[:5]).shape == (5, 4)
    compiled.unfreeze()
    compiled(images).sum().backward()
    assert compiled.network.get_parameter("first.weight").grad.abs().sum() > 0


def test_distributed(snn: SpikingModel, images: Tensor, tmp_path: Path) -> None:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        alone = copy.deepcopy(snn).unfreeze(neurons=True)
        parallel = DistributedDataParallel(snn.unfreeze(neurons=True))
        labels = torch.arange(len(images)) % 4
        for model in (alone, parallel):
            F.cross_entropy(model(images), labels).backward()
        for (name, a), (_, b) in zip(alone.named_parameters(), snn.named_parameters(), strict=True):
            if a.requires_grad:
                assert torch.allclose(a.grad, b.grad, atol=1e-6), name
    finally:
        dist.destroy_process_group()


def test_a_new_head_on_frozen_features(snn: SpikingModel, images: Tensor) -> None:
    torch.manual_seed(0)
    labels = (images.mean((1, 2, 3)) > 0).long()
    body, head = features(snn, ["act"]), nn.Linear(6, 2)
    before = {name: tensor.clone() for name, tensor in snn.state_dict().items()}
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(head(body(images)["act"].mean((2, 3))), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(before[name], tensor) for name, tensor in snn.state_dict().items())


def test_weights_are_frozen_until_asked(snn: SpikingModel) -> None:
    assert not any(p.requires_grad for p in snn.parameters())
    names = list(snn.state_dict())
    snn.unfreeze()
    trained = {name for name, p in snn.named_parameters() if p.requires_grad}
    assert "network.first.weight" in trained and not any("thresholds" in name for name in trained)
    snn.unfreeze(neurons=True)
    trained = {name for name, p in snn.named_parameters() if p.requires_grad}
    assert {"network.sites.act.thresholds", "network.sites.act.resets"} <= trained
    assert sorted(snn.state_dict()) == sorted(names)
    snn.requires_grad_(False)
    assert not any(p.requires_grad for p in snn.parameters())


def test_fine_tuned_networks_are_saved(snn: SpikingModel, images: Tensor, tmp_path: Path) -> None:
    snn.unfreeze(neurons=True).train()
    optimiser = torch.optim.SGD(snn.parameters(), lr=1e-2)
    snn(images).square().sum().backward()
    optimiser.step()
    snn.save(tmp_path / "tuned.fsnn")
    back = load(tmp_path / "tuned.fsnn")
    with torch.no_grad():
        assert torch.equal(back(images), snn(images))
        half = copy.deepcopy(snn).half()
        assert half.sites["act"].thresholds.dtype == torch.float32


def test_fine_tuning_comes_nearer_to_the_original(small: nn.Module, images: Tensor) -> None:
    torch.manual_seed(0)
    snn = to_spiking(small, images, steps=2, method="binary", sequential=False, progress=False)
    x = torch.randn(256, 1, 8, 8)
    with torch.no_grad():
        expected, target = small(x), small(images)
        before = float(F.mse_loss(snn(x), expected))
    snn.unfreeze().train()
    optimiser = torch.optim.Adam(snn.parameters(), lr=3e-3)
    for _ in range(80):
        optimiser.zero_grad()
        F.mse_loss(snn(images), target).backward()
        optimiser.step()
    with torch.no_grad():
        assert float(F.mse_loss(snn(x), expected)) < 0.75 * before


def _gradient(scale: float) -> Tensor:
    table = [scale * torch.tensor(values) for values in ([2.0, 1.0, 0.5], [2.0, 1.0, 0.5])]
    neuron = FewSpikesNeuron(*table, torch.tensor([2.0, 1.0, 0.5]))
    x = (scale * torch.linspace(-1, 5, 601)).requires_grad_()
    neuron(x).sum().backward()
    return scale * x.grad


def test_the_surrogate_is_the_triangle() -> None:
    v = torch.linspace(-3, 3, 61, requires_grad=True)
    threshold = torch.tensor(0.5, requires_grad=True)
    spikes = surrogate.fire(v, threshold, torch.tensor(2.0))
    assert torch.equal(spikes, (v > 0.5).float())
    spikes.backward(torch.ones(61))
    expected = (1 - (v.detach() - 0.5).abs() / 2).clamp_min(0) / 2
    assert torch.allclose(v.grad, expected)
    assert torch.allclose(threshold.grad, -expected.sum())


def test_gradients_keep_their_size_at_any_scale() -> None:
    reference = _gradient(1.0)
    for scale in (1e-4, 1e4):
        assert torch.allclose(_gradient(scale), reference, rtol=1e-3, atol=1e-4)
    # A ramp: about 1 in its range and nothing far outside.
    assert 0.5 < float(reference[100:450].mean()) < 2
    assert float(reference[:1]) < 0.5 and float(reference[-1:]) < 0.5


def test_outputs_are_the_same_with_and_without_gradients() -> None:
    g = torch.Generator().manual_seed(0)
    T, h, d = (torch.randn(6, generator=g) for _ in range(3))
    neuron = FewSpikesNeuron(T, h, d, 0.3)
    x = torch.randn(5000, generator=g)
    with torch.no_grad():
        expected = neuron(x)
    assert torch.equal(neuron(x.clone().requires_grad_()).detach(), expected)
    assert torch.equal(neuron.unfreeze()(x).detach(), expected)
    neuron(x).sum().backward()
    assert all(getattr(neuron, n).grad.isfinite().all() for n in ("thresholds", "weights"))


def test_widths() -> None:
    assert surrogate.widths(torch.tensor([4.0, 2.0, 99.0])).tolist() == [4.0, 2.0, 1.0]
    assert surrogate.widths(torch.tensor([-3.0])).tolist() == [3.0]
    assert surrogate.widths(torch.zeros(2)).tolist() == [1.0, 1.0]
    assert surrogate.widths(torch.tensor([4.0, 0.0, 1.0]))[1] > 0
