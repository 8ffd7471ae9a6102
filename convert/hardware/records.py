"""What a network in whole numbers consists of: values, what reads them, and layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import Tensor
from torch.fx import Node

from .whole_numbers import Rescale


class Op(StrEnum):
    """What a layer does; equal to its plain word."""

    NEURON = "neuron"  # few-spikes neurons
    WEIGHTS = "weights"  # a convolution, linear layer or matrix
    SCALE = "scale"  # a factor and a summand for each channel
    SUM = "sum"  # signals, and constants, added up
    JOIN = "join"  # signals behind each other
    MOVE = "move"  # values in other places
    WINDOW = "window sum"  # sums of windows, whose mean the unit tells
    MAXIMUM = "maximum"  # the largest of some values
    FLOAT = "float"  # what whole numbers can't say


@dataclass(frozen=True)
class Form:
    """A value in whole numbers: it is ``unit`` times an integer.

    Args:
        unit: of the value, > 0.
        most: no integer is larger in size.
        spikes: whether the integers are sums of weighted spikes.
        tight: whether values come near to `most`, as sums of spikes do.
    """

    unit: float
    most: int
    spikes: bool = False
    tight: bool = False


@dataclass(frozen=True)
class Read:
    """How a layer takes one of its inputs.

    Args:
        node: whose value it is.
        form: what the layer takes; None for decoded values.
        rescale: from the value's own unit; None where it comes as floating point.
        saturates: whether it ends at plus and minus ``form.most``.
        zero: what is taken from whole pixels, by channel ``[C]``; with ``steps``, None for none.
        steps: what a pixel's step is worth, by channel ``[C]``.
        base: value of the pixel 0, by channel ``[C]``.
    """

    node: Node
    form: Form | None
    rescale: Rescale | None = None
    saturates: bool = False
    pixels: Pixels | None = None


@dataclass(frozen=True)
class Pixels:
    """Images that are whole pixels in another scale: ``x = base + step * p``, by channel.

    Args:
        base, step: float64 ``[C]``.
        zero: the pixel nearest to x = 0, int64 ``[C]``: a layer reads ``p - zero``.
        levels: how many pixels there are.
    """

    base: Tensor
    step: Tensor
    zero: Tensor
    levels: int


@dataclass
class Layer:
    """One operation.

    Args:
        node: of the graph.
        name: of the site, or where it is called in the model.
        op: what it does.
        reads: its inputs.
        form: of its result; None where that is floating point.
        tensors: its integers, by name.
        numbers: what else it needs, by name.
        note: what a reader should know.
    """

    node: Node
    name: str
    op: Op
    reads: list[Read]
    form: Form | None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    note: str = ""
