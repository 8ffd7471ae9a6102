"""Modules and tensors of a network, listed once and read as they are."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from convert.network.module_tree import ModuleTree, TensorReader


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))


def test_changes_are_noticed() -> None:
    for change in (
        lambda n: n[1].__setitem__(1, nn.ReLU()),
        lambda n: n[1].append(nn.ReLU()),
        lambda n: n[1].__delitem__(1),
        lambda n: n.add_module("late", None),
        lambda n: n[1]._modules.update({"b": n[1]._modules.pop("0")}),
    ):
        network = _network()
        tree = ModuleTree(network)
        assert tree.same() and len(tree.modules) == 5
        change(network)
        assert not tree.same()


def test_hooks_and_gradients() -> None:
    network = _network()
    tree = ModuleTree(network)
    assert tree.followed(True) and not tree.followed(False)
    network.requires_grad_(False)
    assert not tree.followed(True)
    for register in ("forward_hook", "forward_pre_hook", "full_backward_hook"):
        handle = getattr(network[1][1], f"register_{register}")(lambda *_: None)
        assert tree.followed(False)
        handle.remove()
        assert not tree.followed(False)


def test_tensors_are_read_as_they_are() -> None:
    network = _network()
    network.scale = torch.ones(1)
    reader = TensorReader(network, ["0.weight", "1.0.running_mean", "scale"])
    network[0].weight = nn.Parameter(torch.zeros(3, 2))
    network[1][0].running_mean = torch.ones(3)
    network.scale = torch.zeros(1)
    found = reader.read()
    assert found[0] is network[0].weight
    assert found[1] is network[1][0].running_mean and found[2] is network.scale


class _Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_tensors_that_somebody_computes_or_moves() -> None:
    network = _network()
    reader = TensorReader(network, ["0.weight", "1.0.running_mean"])
    before = network[0].weight.detach().clone()
    parametrize.register_parametrization(network[0], "weight", _Doubled())
    mean = network[1][0].running_mean
    del network[1][0].running_mean
    network[1][0].running_mean = nn.Parameter(mean)
    weight, moved = reader.read()
    assert torch.equal(weight, 2 * before)
    assert moved is network[1][0].running_mean
