"""What each operation is: the one table that every walker of a graph reads.

A pointwise operation that PyTorch tags as such needs no row. To add an operation of ATen, add its
row here; to add one of your own at run time, call `register_operator`. The audit
(`convert.inspect`) reads nothing of this: its classification proves the table's.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Node

from ..common.registry import Registration, register
from ..errors import InputError

OperatorLike = OpOverload | OpOverloadPacket | CustomOpDef | str


class Kind(StrEnum):
    """What an operation does with the values that it reads."""

    POINTWISE = "pointwise"  # every element of the result from one element of each input
    IDENTITY = "identity"  # the same values
    CAST = "cast"  # the same values, of another type
    LAYOUT = "layout"  # the same values in other places: a view or a copy
    PICK = "pick"  # values at places that whole numbers name
    LOOKUP = "lookup"  # rows of a table that whole numbers name
    SUM = "sum"  # a linear sum of the input with fixed factors: mean, average pool, resizing
    WEIGHTED = "weighted"  # sums of the input times weights
    MATRIX = "matrix"  # the product of two matrices or vectors, nothing else
    AFFINE = "affine"  # a factor and a summand for each channel
    NORM = "norm"  # divides by a deviation that it takes from the input
    MAXIMUM = "maximum"  # the largest or smallest of several values
    FILL = "fill"  # a tensor of the input's shape, whose values don't depend on the input
    SIZE = "size"  # a length, or a tensor of a given shape; no signal passes
    OTHER = "other"  # anything else; it stays as it is


# Linear in the one varying input, whatever the other arguments hold.
_LINEAR = frozenset((Kind.IDENTITY, Kind.LAYOUT, Kind.PICK, Kind.SUM, Kind.WEIGHTED, Kind.MATRIX))
# What an operation of a user's own can be.
_REGISTERED = (
    Kind.POINTWISE, Kind.IDENTITY, Kind.LAYOUT, Kind.SUM, Kind.WEIGHTED, Kind.OTHER
)  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """What one operation is, whatever its overload.

    Args:
        name: ``conv2d`` for ``aten.conv2d``; an operation outside of ATen as ``library::name``.
        kind: what it does.
        weight, bias: their places among the arguments.
        channels: axis of the output's channels; None where it isn't fixed.
        out_axis: axis of the weight's output channels; None where groups share it.
        fresh: whether the result never shares memory with an argument.
        whole: whether capture keeps it in one piece.
        saved: whether a saved network may hold it.
        masks: whether it makes a mask of masks and whole numbers that come with the input.
        framing: whether the way from the image to its preprocessing may hold it.
        per_channel: whether every channel's values stay in their channel, and none is dropped.
    """

    name: str
    kind: Kind
    weight: int | None = None
    bias: int | None = None
    channels: int | None = None
    out_axis: int | None = None
    fresh: bool = False
    whole: bool = False
    saved: bool = True
    masks: bool = False
    framing: bool = False
    per_channel: bool = False

    @property
    def linear(self) -> bool:
        """Whether it is linear in its one varying input: it moves, sums or weighs values."""
        return self.kind in _LINEAR

    @property
    def layout(self) -> bool:
        """Whether it moves or casts values and computes none."""
        return self.kind in (Kind.IDENTITY, Kind.CAST, Kind.LAYOUT, Kind.PICK)

    @property
    def looks_up(self) -> bool:
        """Whether it reads a table at places that whole numbers name."""
        return self.kind in (Kind.LOOKUP, Kind.PICK)

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution: the channels come after the images."""
        return self.kind is Kind.WEIGHTED and self.channels == 1

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by weights, or by another signal."""
        return self.kind in (Kind.WEIGHTED, Kind.MATRIX)


# Arithmetic whose form is known to the walkers, and which makes masks of masks.
_POINTWISE = (
    Operator("add", Kind.POINTWISE, fresh=True, masks=True),
    Operator("div", Kind.POINTWISE, fresh=True),
    Operator("masked_fill", Kind.POINTWISE, masks=True),
    Operator("mul", Kind.POINTWISE, fresh=True, masks=True),
    Operator("neg", Kind.POINTWISE, fresh=True, masks=True),
    Operator("rsub", Kind.POINTWISE, fresh=True, masks=True),
    Operator("sub", Kind.POINTWISE, fresh=True, masks=True),
    Operator("where", Kind.POINTWISE, masks=True),
)

_IDENTITIES = (
    Operator("_to_copy", Kind.CAST, fresh=True, masks=True, per_channel=True),
    Operator("alias", Kind.IDENTITY, per_channel=True),
    Operator("clone", Kind.IDENTITY, fresh=True, masks=True, framing=True, per_channel=True),
    Operator("detach", Kind.IDENTITY, per_channel=True),
    Operator("lift_fresh_copy", Kind.IDENTITY, fresh=True, per_channel=True),
    Operator("positive", Kind.IDENTITY),
)

_LAYOUTS = (
    Operator("_unsafe_index_put", Kind.LAYOUT, fresh=True),
    Operator("_unsafe_view", Kind.LAYOUT),
    Operator("as_strided", Kind.LAYOUT),
    Operator("cat", Kind.LAYOUT, fresh=True, framing=True),
    Operator("channel_shuffle", Kind.LAYOUT),
    Operator("chunk", Kind.LAYOUT),
    Operator("concat", Kind.LAYOUT),
    Operator("constant_pad_nd", Kind.LAYOUT),
    Operator("contiguous", Kind.LAYOUT, per_channel=True),
    Operator("copy", Kind.LAYOUT),
    Operator("diagonal", Kind.LAYOUT),
    Operator("expand", Kind.LAYOUT, masks=True),
    Operator("expand_copy", Kind.LAYOUT, fresh=True),
    Operator("flip", Kind.LAYOUT, fresh=True, framing=True),
    Operator("getitem", Kind.LAYOUT),
    Operator("index_add", Kind.LAYOUT, fresh=True),
    Operator("index_put", Kind.LAYOUT, fresh=True),
    Operator("movedim", Kind.LAYOUT),
    Operator("narrow", Kind.LAYOUT),
    Operator("pad", Kind.LAYOUT),
    Operator("permute", Kind.LAYOUT, masks=True, framing=True),
    Operator("pixel_shuffle", Kind.LAYOUT, whole=True),
    Operator("pixel_unshuffle", Kind.LAYOUT, whole=True),
    Operator("reflection_pad1d", Kind.LAYOUT),
    Operator("reflection_pad2d", Kind.LAYOUT),
    Operator("repeat", Kind.LAYOUT),
    Operator("repeat_interleave", Kind.LAYOUT),
    Operator("replication_pad1d", Kind.LAYOUT),
    Operator("replication_pad2d", Kind.LAYOUT),
    Operator("reshape", Kind.LAYOUT, masks=True, framing=True),
    Operator("roll", Kind.LAYOUT, fresh=True),
    Operator("scatter", Kind.LAYOUT, fresh=True),
    Operator("scatter_add", Kind.LAYOUT, fresh=True),
    Operator("select", Kind.LAYOUT, framing=True),
    Operator("select_scatter", Kind.LAYOUT),
    Operator("slice", Kind.LAYOUT, masks=True, framing=True),
    Operator("slice_scatter", Kind.LAYOUT),
    Operator("split", Kind.LAYOUT),
    Operator("split_with_sizes", Kind.LAYOUT),
    Operator("squeeze", Kind.LAYOUT, masks=True, framing=True),
    Operator("stack", Kind.LAYOUT),
    Operator("t", Kind.LAYOUT),
    Operator("tile", Kind.LAYOUT),
    Operator("transpose", Kind.LAYOUT),
    Operator("unbind", Kind.LAYOUT),
    Operator("unflatten", Kind.LAYOUT),
    Operator("unfold", Kind.LAYOUT),
    Operator("unsafe_split", Kind.LAYOUT),
    Operator("unsqueeze", Kind.LAYOUT, masks=True, framing=True),
    Operator("view", Kind.LAYOUT, masks=True, framing=True),
    Operator("view_copy", Kind.LAYOUT, fresh=True),
)

_PICKS = (
    Operator("_embedding_bag_forward_only", Kind.LOOKUP, fresh=True),
    Operator("_unsafe_index", Kind.PICK, fresh=True),
    Operator("embedding", Kind.LOOKUP, fresh=True),
    Operator("gather", Kind.PICK, fresh=True),
    Operator("index", Kind.PICK, fresh=True),
    Operator("index_select", Kind.PICK, fresh=True),
)

_SUMS = (
    Operator("_adaptive_avg_pool2d", Kind.SUM, fresh=True),
    Operator("_upsample_bilinear2d_aa", Kind.SUM),
    Operator("_upsample_nearest_exact2d", Kind.SUM),
    Operator("adaptive_avg_pool1d", Kind.SUM, fresh=True, whole=True),
    Operator("adaptive_avg_pool2d", Kind.SUM, fresh=True, whole=True),
    Operator("adaptive_avg_pool3d", Kind.SUM, fresh=True, whole=True),
    Operator("avg_pool1d", Kind.SUM, fresh=True, whole=True),
    Operator("avg_pool2d", Kind.SUM, fresh=True, whole=True),
    Operator("avg_pool3d", Kind.SUM, fresh=True, whole=True),
    Operator("col2im", Kind.SUM),
    Operator("cumsum", Kind.SUM),
    Operator("im2col", Kind.SUM),
    Operator("mean", Kind.SUM, fresh=True),
    Operator("sum", Kind.SUM, fresh=True),
    Operator("trace", Kind.SUM),
    Operator("upsample_bicubic2d", Kind.SUM, whole=True),
    Operator("upsample_bilinear2d", Kind.SUM, whole=True),
    Operator("upsample_linear1d", Kind.SUM, whole=True),
    Operator("upsample_nearest1d", Kind.SUM, whole=True),
    Operator("upsample_nearest2d", Kind.SUM, whole=True),
    Operator("upsample_nearest3d", Kind.SUM, whole=True),
    Operator("upsample_trilinear3d", Kind.SUM, whole=True),
)

# Weighted sums: the input first, then what may be weights; an added tensor before both.
_WEIGHTED = (
    Operator("addbmm", Kind.WEIGHTED, bias=0, fresh=True),
    Operator("addmm", Kind.WEIGHTED, weight=2, bias=0, channels=-1, fresh=True),
    Operator("addmv", Kind.WEIGHTED, bias=0, fresh=True),
    Operator("baddbmm", Kind.WEIGHTED, bias=0, fresh=True),
    Operator("bilinear", Kind.WEIGHTED),
    Operator(
        "conv1d", Kind.WEIGHTED, weight=1, bias=2, channels=1, out_axis=0, fresh=True, whole=True
    ),
    Operator(
        "conv2d", Kind.WEIGHTED, weight=1, bias=2, channels=1, out_axis=0, fresh=True, whole=True
    ),
    Operator(
        "conv3d", Kind.WEIGHTED, weight=1, bias=2, channels=1, out_axis=0, fresh=True, whole=True
    ),
    Operator(
        "conv_transpose1d", Kind.WEIGHTED, weight=1, bias=2, channels=1, fresh=True, whole=True
    ),
    Operator(
        "conv_transpose2d", Kind.WEIGHTED, weight=1, bias=2, channels=1, fresh=True, whole=True
    ),
    Operator(
        "conv_transpose3d", Kind.WEIGHTED, weight=1, bias=2, channels=1, fresh=True, whole=True
    ),
    Operator("convolution", Kind.WEIGHTED, weight=1, bias=2, channels=1, fresh=True),
    Operator("einsum", Kind.WEIGHTED),
    Operator(
        "linear", Kind.WEIGHTED, weight=1, bias=2, channels=-1, out_axis=0, fresh=True, whole=True
    ),
    Operator("bmm", Kind.MATRIX, fresh=True),
    Operator("dot", Kind.MATRIX, fresh=True),
    Operator("matmul", Kind.MATRIX, fresh=True, whole=True),
    Operator("mm", Kind.MATRIX, fresh=True),
    Operator("mv", Kind.MATRIX, fresh=True),
    Operator("vdot", Kind.MATRIX, fresh=True),
)

_NORMS = (
    Operator("_native_batch_norm_legit_no_training", Kind.AFFINE, fresh=True),
    Operator("batch_norm", Kind.AFFINE, whole=True),
    Operator("group_norm", Kind.NORM, fresh=True, whole=True),
    Operator("instance_norm", Kind.NORM, whole=True),
    Operator("layer_norm", Kind.NORM, fresh=True, whole=True),
    Operator("native_batch_norm", Kind.NORM),
    Operator("native_group_norm", Kind.NORM, fresh=True),
    Operator("native_layer_norm", Kind.NORM, fresh=True),
    Operator("rms_norm", Kind.NORM, whole=True),
)

_MAXIMA = (
    Operator("adaptive_max_pool1d", Kind.MAXIMUM, fresh=True, whole=True),
    Operator("adaptive_max_pool2d", Kind.MAXIMUM, fresh=True, whole=True),
    Operator("adaptive_max_pool3d", Kind.MAXIMUM, fresh=True, whole=True),
    Operator("amax", Kind.MAXIMUM, fresh=True),
    Operator("amin", Kind.MAXIMUM, fresh=True),
    Operator("max_pool1d", Kind.MAXIMUM, fresh=True, whole=True),
    Operator("max_pool1d_with_indices", Kind.MAXIMUM, fresh=True),
    Operator("max_pool2d", Kind.MAXIMUM, fresh=True, whole=True),
    Operator("max_pool2d_with_indices", Kind.MAXIMUM, fresh=True),
    Operator("max_pool3d", Kind.MAXIMUM, fresh=True, whole=True),
    Operator("max_pool3d_with_indices", Kind.MAXIMUM, fresh=True),
)

_FILLS = (
    Operator("full_like", Kind.FILL, fresh=True),
    Operator("ones_like", Kind.FILL, fresh=True),
    Operator("zeros_like", Kind.FILL, fresh=True),
    Operator("new_full", Kind.SIZE, fresh=True),
    Operator("sym_size", Kind.SIZE),
)
# Known by name alone: they stay as they are, and a saved network may hold them.
_OTHERS = tuple(
    Operator(name, Kind.OTHER)
    for name in """
    _conj _fft_c2c _fft_c2r _fft_r2c _fused_rms_norm _log_softmax _prelu_kernel _safe_softmax
    _scaled_dot_product_flash_attention_for_cpu _softmax _thnn_fused_lstm_cell
    _upsample_bicubic2d_aa _upsample_nearest_exact1d _upsample_nearest_exact3d
    _weight_norm_interface all any argmax argmin argsort bucketize cdist clamp complex conj
    cosine_similarity count_nonzero cross cummax cummin cumprod diag_embed diff embedding_bag erf
    eye fft_fft fft_fft2 fft_ifft fft_ifft2 fft_irfft fft_irfft2 fft_rfft fft_rfft2 fliplr flipud
    frexp glu grid_sampler grid_sampler_2d grid_sampler_3d imag index_copy index_fill isclose isin
    kron kthvalue linalg_cross linalg_inv linalg_inv_ex linalg_norm linalg_solve linalg_vector_norm
    linspace log_softmax logcumsumexp logsumexp masked_scatter max_unpool2d max_unpool3d median
    meshgrid mode moveaxis msort new_ones new_zeros norm one_hot ones outer pairwise_distance prelu
    put quantile real rot90 rrelu scaled_dot_product_attention scatter_reduce searchsorted softmax
    sort special_softmax std std_mean swapaxes swapdims sym_constrain_range sym_numel sym_stride
    take take_along_dim tensor_split tensordot topk tril tril_indices triu triu_indices unfold_copy
    var var_mean vander view_as view_as_complex view_as_complex_copy view_as_real view_as_real_copy
    zeros
    """.split()
)
# Named here although a saved network may hold no such operation.
_UNSAVED = (Operator("dropout", Kind.OTHER, saved=False, per_channel=True),)

_TABLE: dict[str, Operator] = {
    row.name: row
    for rows in (
        _POINTWISE, _IDENTITIES, _LAYOUTS, _PICKS, _SUMS, _WEIGHTED, _NORMS, _MAXIMA, _FILLS,
        _OTHERS, _UNSAVED,
    )
    for row in rows
}  # fmt: skip


def named(name: str) -> Operator | None:
    """The row of a name: ``conv2d``, or ``library::name`` for an operation outside of ATen."""
    return _TABLE.get(name)


def operator_of(node: Node) -> Operator | None:
    """The row of the operation that a node calls; None if it has none."""
    if node.op != "call_function":
        return None
    if node.target is operator.getitem:
        return _TABLE["getitem"]
    return _TABLE.get(_name(node.target)) if isinstance(node.target, OpOverload) else None


def kind_of(node: Node) -> Kind | None:
    """The kind of the operation that a node calls; None if it has no row."""
    row = operator_of(node)
    return None if row is None else row.kind


def is_fresh(node: Node) -> bool:
    """Whether the result of the operation that a node calls never shares memory with an argument.

    The table and the schema must both say so.
    """
    row = operator_of(node)
    return (
        row is not None
        and row.fresh
        and isinstance(node.target, OpOverload)
        and all(result.alias_info is None for result in node.target._schema.returns)
    )


def is_aten(node: Node) -> bool:
    """Whether a node calls an operation of ATen: its name says what it computes."""
    return isinstance(node.target, OpOverload) and node.target.namespace == "aten"


def kept_whole() -> list[str]:
    """Names of the operations of ATen that capture keeps in one piece."""
    return [row.name for row in _TABLE.values() if row.whole]


def overload_of(operation: OperatorLike) -> OpOverload:
    """The overload that a user names.

    Args:
        operation: an overload (``torch.ops.mylib.scale.default``), a packet or a
            ``torch.library.custom_op``, which stand for their default overload, or its name
            (``"mylib::scale"``).

    Raises:
        InputError: for anything else, or a name that no library defines.
    """
    found: Any = operation
    if isinstance(operation, str):
        library, _, name = operation.partition("::")
        found = getattr(getattr(torch.ops, library), name, None) if library and name else None
        if found is None:
            raise InputError(
                f"no library defines an operation {operation!r}; define it first, and name it as "
                "in 'mylib::scale'"
            )
    if isinstance(found, CustomOpDef):
        found = found._opoverload
    if isinstance(found, OpOverloadPacket):
        found = getattr(found, "default", None)
    if not isinstance(found, OpOverload):
        raise InputError(
            f"an operation is expected, found {operation!r}; give an overload such as "
            "torch.ops.mylib.scale.default, a torch.library.custom_op, or a name 'mylib::scale'"
        )
    return found


def register_operator(
    operation: OperatorLike, kind: Kind | str, *, fresh: bool = False, saved: bool = False
) -> Registration:
    """Says what an operation is that this package doesn't know, so that it is no more "remaining".

    ::

        @torch.library.custom_op("mylib::blur", mutates_args=())
        def blur(x: Tensor) -> Tensor: ...       # a fixed linear filter

        @blur.register_fake
        def _(x): return torch.empty_like(x)

        convert.register_operator(blur, "sum")   # synaptic in every network from now on

    A ``"pointwise"`` operation of one tensor becomes a site: its neuron is fitted to what the
    operation gives for float64 tensors of one axis. `audit` takes no word for it and keeps
    listing the operation as nonlinear.

    Args:
        operation: a ``torch.library.custom_op``, an overload, or its name ``"mylib::blur"``.
        kind: ``"pointwise"``, ``"identity"`` (the same values), ``"layout"`` (the first argument's
            values in other places), ``"sum"`` (linear, with fixed factors), ``"weighted"`` (linear
            in the first argument, weighted by others, along the input's last axis) or ``"other"``.
        fresh: whether the result never shares memory with an argument.
        saved: whether networks that call it can be saved; whoever loads them registers it first.

    Returns:
        What was registered; its `remove` takes it out again.

    Raises:
        InputError: if it is no operation, writes to an argument, or is known already; or for
            another kind.
    """
    overload = overload_of(operation)
    name = _name(overload)
    if kind not in _REGISTERED:
        known = ", ".join(repr(str(k)) for k in _REGISTERED)
        raise InputError(f"an operation can be {known}, found {kind!r}")
    if torch.Tag.pointwise in overload.tags:
        raise InputError(f"{name} is known already: PyTorch itself tags it as pointwise")
    if overload._schema.is_mutable:
        raise InputError(f"{name} writes to an argument; register one that returns its result")
    row = Operator(name, Kind(kind), fresh=fresh, saved=saved)
    return register(_TABLE, name, row, f"the operation {name}")


def _name(overload: OpOverload) -> str:
    return overload._schema.name.removeprefix("aten::")
