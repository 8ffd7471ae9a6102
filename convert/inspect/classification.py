"""What an ATen operation that really runs does to the tensors that depend on the input.

This is a classification of its own: nothing is taken from the conversion, not even its table of
operations (`convert.graph.operators`), so that it can prove or disprove the conversion's report.
Whatever isn't known to be linear is nonlinear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# Make a tensor whose values don't depend on those of their inputs.
_FILL = set(
    "empty empty_like empty_strided empty_permuted full full_like new_empty new_empty_strided "
    "new_full new_ones new_zeros ones ones_like zeros zeros_like zero arange scalar_tensor eye "
    "linspace sym_size sym_numel sym_stride sym_storage_offset".split()
)
# Linear in all tensors together: sums, averages, and copies of values in another place.
_JOINT = set(
    "add sub rsub neg sum mean cumsum cat stack clone copy _to_copy contiguous "
    "constant_pad_nd pad reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d "
    "repeat roll flip rot90 tril triu trace im2col col2im unfold_backward "
    "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d _upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d "
    "upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "_reshape_alias _unsafe_view _reshape_copy view_copy".split()
)
# Linear in what they pick from where the index or the mask doesn't depend on the input.
_PICK = set(
    "index _unsafe_index index_select gather masked_fill where scatter scatter_add index_put "
    "index_add index_copy select_scatter slice_scatter diagonal_scatter repeat_interleave "
    "take_along_dim masked_select".split()
)
_INDEX = {"where": (0,), "masked_fill": (1,), "masked_select": (1,), "index": (1,)}
_INDEX |= {"_unsafe_index": (1,), "index_put": (1,), "repeat_interleave": (1,)}
# A row of a table for a whole number that is given: linear in its one-hot code.
_LOOKUP = {"embedding", "index", "index_select", "gather", "_unsafe_index"}
# Linear in each tensor alone.
_PRODUCT = set(
    "mul mm bmm mv dot vdot addmm addbmm baddbmm addmv addr convolution _convolution "
    "mkldnn_convolution linear matmul outer einsum _trilinear addcmul thnn_conv2d "
    "_slow_conv2d_forward slow_conv3d conv_depthwise3d _conv_depthwise2d".split()
)
# The added tensor of a product, which is no factor.
_ADDED = {"addmm", "addbmm", "baddbmm", "addmv", "addr", "addcmul"}

# What makes a mask of floating-point numbers out of given whole numbers.
_MASKING = set("_to_copy add sub rsub mul neg where masked_fill clone copy".split())

FILL, GIVEN, LINEAR = "fill", "given", "linear"
PRODUCT, NONLINEAR = "product", "nonlinear"


def name_of(func: Any) -> str:
    """The operation's name, without namespace, overload and the underscore of in-place ones."""
    plain: str = func._schema.name.rpartition("::")[2]
    in_place = plain.endswith("_") and not plain.startswith("__")
    return plain.rstrip("_") if in_place else plain


def classify(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], varies: Any, outputs: Sequence[Tensor]
) -> str:
    """``fill``, ``linear``, ``product`` or ``nonlinear`` in the varying arguments.

    Args:
        func: the overload that runs.
        args, kwargs: its arguments.
        varies: tells whether a tensor depends on the network's input.
        outputs: what it returned.
    """
    name = name_of(func)
    varying = _varying([*args, *kwargs.values()], varies)
    if name in _FILL:
        return FILL
    if not varying:
        return LINEAR
    if _is_view(func):
        return LINEAR
    if not _keeps_numbers(varying, outputs):
        return NONLINEAR
    if name in _JOINT:
        # The sum of truth values is true where any of them is.
        added = name in ("add", "sub", "rsub") and any(o.dtype == torch.bool for o in outputs)
        return NONLINEAR if added else LINEAR
    if name in _PICK:
        places = _INDEX.get(name, (2,) if name != "take_along_dim" else (1,))
        index = [args[p] for p in places if p < len(args)]
        return NONLINEAR if _varying(index, varies) else LINEAR
    if name == "div":
        divided = _varying(args[1:2], varies) or kwargs.get("rounding_mode")
        return NONLINEAR if divided else LINEAR
    if name == "pow":
        return LINEAR if args[1] is not None and _is_one(args[1]) else NONLINEAR
    if name == "native_batch_norm" or "batch_norm" in name:
        return LINEAR if len(varying) == 1 and "no_training" in str(func) else NONLINEAR
    if name in _PRODUCT:
        return _product(name, args, varies)
    return NONLINEAR


def is_given(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], given: Any, outputs: Sequence[Tensor]
) -> str:
    """What an operation on nothing but whole numbers and masks of the input makes of them.

    ``given``: such again; ``linear``: a signal, by a lookup or a sum of them; else ``nonlinear``.
    """
    name = name_of(func)
    if name in _FILL:
        return FILL
    if _is_view(func) or not any(t.is_floating_point() for t in outputs) or name in _MASKING:
        return GIVEN
    if name in _LOOKUP and not _varying(args[:1], given):
        return LINEAR
    if "embedding_bag" in name and not _varying(args[:1], given):
        mode = args[4] if len(args) > 4 else 0
        return LINEAR if mode in (0, 1) else NONLINEAR  # the sum or the mean of rows, no maximum
    linear = name in _JOINT or (name in _PRODUCT and len(_varying(args, given)) == 1)
    if name == "div":
        linear = not _varying(args[1:2], given) and not kwargs.get("rounding_mode")
    return LINEAR if linear else NONLINEAR


def _product(name: str, args: Sequence[Any], varies: Any) -> str:
    factors = _varying(args[1:] if name in _ADDED else args, varies)
    if name == "_trilinear" and len(factors) > 2:
        return NONLINEAR
    if len(factors) < 2:
        return LINEAR
    # A tensor times itself is a function of one number.
    if name in ("mul", "addcmul") and _same(factors[0], factors[1]):
        return NONLINEAR
    if "conv" in name or name == "linear":
        weights = _varying(args[1:2], varies)
        bias_only = not weights
        return LINEAR if bias_only else PRODUCT
    return PRODUCT


def _varying(values: Iterable[Any], varies: Any) -> list[Tensor]:
    """Varying tensors among arguments, lists included, one entry a place."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            if varies(value):
                found.append(value)
        elif isinstance(value, list | tuple):
            found += _varying(value, varies)
    return found


def _is_view(func: Any) -> bool:
    """Whether the outputs alias the first argument, its values unchanged."""
    if torch.Tag.inplace_view in func.tags:
        return name_of(func) not in ("resize", "set")
    returns = func._schema.returns
    return bool(returns) and all(
        r.alias_info is not None and not r.alias_info.is_write for r in returns
    )


def _keeps_numbers(varying: Sequence[Tensor], outputs: Iterable[Tensor]) -> bool:
    """Whether no value is rounded to a whole number or a truth value on the way."""
    real = any(t.is_floating_point() or t.is_complex() for t in varying)
    for output in outputs:
        if output.dtype == torch.bool and any(t.dtype != torch.bool for t in varying):
            return False
        if real and not (output.is_floating_point() or output.is_complex()):
            return False
    return True


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (
        a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
    )


def _is_one(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 1
