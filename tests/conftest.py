"""What tests of several rooms share: data that may be missing, and a small trained network."""

import copy
import gc
import inspect
import os
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

# The workers share the cores: one thread each, also in the commands that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# The first call compiles the neuron, which is no matter of the property under test.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

_ROOT = Path(__file__).resolve().parents[1]


def _look_up_operators_once() -> None:
    """An export walks all of torch's operators some 58 times: again only if there are new ones.

    The names of these functions are torch's own; where they are gone, torch walks as it likes.
    """
    utils = sys.modules.get("torch._export.utils")
    walk = getattr(utils, "_materialize_cpp_cia_ops", None)
    collect = getattr(utils, "_collect_all_valid_cia_ops", None)
    if utils is None or walk is None or collect is None:
        return
    known: list[str] = []
    collecting = False

    def walk_if_new() -> None:
        if collecting:
            return
        found = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        if found != known:
            walk()
            known[:] = found

    def collect_after_one_walk() -> object:
        nonlocal collecting
        walk_if_new()
        collecting = True
        try:
            return collect()
        finally:
            collecting = False

    utils._materialize_cpp_cia_ops = walk_if_new
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("_collect_all_valid_cia_ops") is collect:
            module._collect_all_valid_cia_ops = collect_after_one_walk


def _register_without_annotations() -> None:
    """An export registers some 11,000 kernels by a decorator that makes its annotations each time.

    The same source without them does the same in half the time.
    """
    operator = getattr(sys.modules.get("torch._ops"), "OperatorBase", None)
    register = getattr(operator, "py_impl", None)
    if register is None or register.__module__ != "torch._ops":
        return
    source = textwrap.dedent(inspect.getsource(register))
    names = dict(register.__globals__)
    exec(compile(f"from __future__ import annotations\n{source}", "py_impl", "exec"), names)
    operator.py_impl = names["py_impl"]


def pytest_collection_finish() -> None:
    """Python looks for garbage more rarely, and not in what was imported, which stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    _look_up_operators_once()
    _register_without_annotations()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with checkpoints and CIFAR-10 images; its tests skip where it is missing."""
    folder = Path(os.environ.get("FEWSPIKES_SHARED", _ROOT.parent / "shared"))
    if not (folder / "data" / "cifar10_test1000.npz").is_file():
        pytest.skip(f"no checkpoints and images in {folder}; FEWSPIKES_SHARED names the folder")
    return folder


class Small(nn.Module):
    """Two convolutions with SiLU and ReLU, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.first(x))
        x = self.act(self.second(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="session")
def small_model() -> nn.Module:
    """A small network with random weights, the same each time; not to be changed."""
    torch.manual_seed(3)
    return Small().eval()


@pytest.fixture(scope="session")
def noise() -> Tensor:
    """48 noise images ``[48, 1, 8, 8]``; not to be changed."""
    return torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def small(small_model: nn.Module) -> nn.Module:
    """A copy of the small network."""
    return copy.deepcopy(small_model)


@pytest.fixture
def images(noise: Tensor) -> Tensor:
    """A copy of the noise images."""
    return noise.clone()
