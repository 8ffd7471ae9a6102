"""The output of any layer, by its module path."""

import copy
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from convert import ConversionError, SpikingModel, features, load, to_spiking


class Blocks(nn.Module):
    """Stages, and one activation that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 1))
        self.act = nn.GELU()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.more(self.stage(x)))
        return self.head(self.act(x.mean((2, 3))))


@pytest.fixture(scope="module")
def converted(noise: Tensor) -> SpikingModel:
    """The network of blocks with four steps; not to be changed."""
    torch.manual_seed(0)
    return to_spiking(Blocks().eval(), noise, steps=4, method="binary", progress=False)


def test_layers_are_those_of_the_model(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Blocks().eval()
    seen: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda m, a, y, name=name: seen.setdefault(name, []).append(y.detach())
        )
    snn = to_spiking(model, images, steps=10, method="binary", progress=False)
    snn.save(tmp_path / "net.fsnn")
    seen.clear()
    with torch.no_grad():
        model(images)
    for network in (snn, load(tmp_path / "net.fsnn")):
        names = ["stage", "stage.2", "more", "more.0", "act", "act@1", "head"]
        part = features(network, names)
        with torch.no_grad():
            found = part(images)
        assert list(found) == names
        for name, value in found.items():
            path, _, call = name.partition("@")
            expected = seen[path][int(call or 0)]
            assert value.shape == expected.shape
            assert (value - expected).norm() < 0.2 * expected.norm(), name
        with torch.no_grad():
            assert torch.equal(found["head"], network(images))
        site = next(iter(network.sites))
        assert features(network, [site])(images)[site].shape == (48, 4, 6, 6)


def test_what_is_behind_is_not_run_and_weights_are_shared(converted: SpikingModel) -> None:
    snn = copy.deepcopy(converted)
    part = features(snn, "stage")
    assert not any("more" in key or "head" in key for key in part.state_dict())
    snn.network.get_submodule("stage.0").weight.data.zero_()
    assert part.network.get_submodule("stage.0").weight.abs().sum() == 0


def test_stages_of_a_residual_network() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    block = torchvision.models.resnet.BasicBlock
    model = torchvision.models.ResNet(block, [1, 1, 1, 1]).eval()
    snn = to_spiking(model, x, steps=4, method="binary", sequential=False, progress=False)
    found = features(snn, ["layer1", "layer3", "avgpool"])(x)
    assert [tuple(v.shape) for v in found.values()] == [
        (4, 64, 8, 8), (4, 256, 2, 2), (4, 512, 1, 1),
    ]  # fmt: skip


def test_a_layer_that_is_not_there(converted: SpikingModel) -> None:
    with pytest.raises(ConversionError, match=r"stage\.2"):
        features(converted, ["stage.9"])
    with pytest.raises(ConversionError, match="no layer"):
        features(converted, [])


def test_a_value_inside_a_site_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.SiLU(), nn.GELU(), nn.Linear(3, 2)).eval()
    snn = to_spiking(model, torch.randn(9, 3), steps=4, method="binary", progress=False)
    assert len(snn.sites) == 1
    with pytest.raises(ConversionError, match="took in"):
        features(snn, ["1"])
    assert features(snn, ["0", "2"])(torch.zeros(2, 3))["2"].shape == (2, 3)
