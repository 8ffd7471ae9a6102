"""What would make a program wait for a GPU, counted on the CPU; and networks of any depth."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convert.neuron import fused

_NAMES = ("item", "__bool__", "__int__", "__float__", "__index__", "tolist", "cpu", "numpy")
_SIZES = ("nonzero", "unique", "bincount", "masked_select")

_inside_a_neuron: list[bool] = []


def neurons_as_on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    """Neurons tell their events as tensors, and what they do on the CPU is no wait.

    Under Triton's interpreter another test finds that they don't wait on a GPU.
    """
    run = fused.run

    def on_a_gpu(*given: Any, **how: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        _inside_a_neuron.append(True)
        try:
            y, count, tally = run(*given, **how)
            return y, torch.full((), count), tally
        finally:
            _inside_a_neuron.pop()

    patch.setattr(fused, "run", on_a_gpu)


class Waits(TorchFunctionMode):
    """Notes reads of values, and operations whose output has a size that only values tell."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _inside_a_neuron:
            return func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _NAMES or any(part in name for part in _SIZES):
            self.found.append(name)
        indexed = name in ("__getitem__", "__setitem__") and isinstance(args[1], Tensor)
        if indexed and args[1].dtype == torch.bool:
            self.found.append("mask")
        return func(*args, **(kwargs or {}))

    @property
    def number(self) -> int:
        """How often; what follows a copy to the host waits for nothing more."""
        return len(self.found) - self.found.count("numpy")


class Deep(nn.Module):
    """So many layers with a neuron each."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(layers))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``[N, 8]``."""
        return self.layers(x)
