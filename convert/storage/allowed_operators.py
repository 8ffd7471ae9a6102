"""Which operators a saved graph may hold: functional ones, by rule, and arithmetic on sizes.

A file names an operator by a string; only strings that this module resolves become calls. To
allow one more, add its name to `_NAMED`; it must still pass the rule in `_functional`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ..graph.decompositions import WHOLE
from ..graph.roles import LINEAR

# Beside whatever is tagged pointwise or core, and what the report knows as linear.
_NAMED = frozenset(
    """
    all amax amin any argmax argmin argsort bucketize cdist channel_shuffle clamp complex conj
    _conj cosine_similarity count_nonzero cross cummax cummin cumprod diag_embed diff
    embedding embedding_bag erf eye fft_fft fft_fft2 fft_ifft fft_ifft2 fft_irfft fft_irfft2
    fft_rfft fft_rfft2 _fft_c2c _fft_c2r _fft_r2c fliplr flipud frexp glu grid_sampler
    grid_sampler_2d grid_sampler_3d imag index_add index_copy index_fill isin isclose kron
    kthvalue linalg_cross
    linalg_inv linalg_inv_ex linalg_norm linalg_solve linalg_vector_norm linspace log_softmax
    _log_softmax logcumsumexp logsumexp lp_pool1d lp_pool2d masked_scatter max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d median
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d meshgrid mode moveaxis msort narrow
    native_batch_norm native_group_norm native_layer_norm new_full new_ones new_zeros norm normalize
    one_hot ones ones_like outer pairwise_distance prelu _prelu_kernel put quantile real rms_norm
    _fused_rms_norm rot90 rrelu scaled_dot_product_attention scatter_add scatter_reduce searchsorted
    select_scatter softmax _softmax _safe_softmax sort special_softmax squeeze std std_mean
    swapaxes swapdims take take_along_dim tensor_split tensordot topk tril tril_indices triu
    triu_indices unfold_copy
    upsample_bilinear2d upsample_nearest2d _upsample_bicubic2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact3d var var_mean vander vecdot view_as_complex view_as_real view_as
    view_as_complex_copy view_as_real_copy weight_norm _weight_norm_interface zeros zeros_like
    _scaled_dot_product_flash_attention_for_cpu _thnn_fused_lstm_cell 
    sym_size sym_numel sym_stride sym_constrain_range
    """.split()
)
# Uninitialised memory, values read back to Python, and gradients have no place in a network.
_BARRED = re.compile(
    r"empty|_backward$|^_local_scalar_dense$|^nonzero|dropout|^as_strided|^from_file$"
)
_TYPES = frozenset(
    ["Tensor", "number", "int", "float", "bool", "str", "Device"]
    + [f"List[{kind}]" for kind in ("Tensor", "Optional[Tensor]", "int", "float", "bool")]
)
_ATEN = re.compile(r"aten\.([a-zA-Z_]\w*)\.([a-zA-Z_]\w*)", re.ASCII)

_SIZES: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in (
        "add sub mul floordiv truediv mod neg pow abs eq ne lt le gt ge and_ or_ not_ getitem"
    ).split()
} | {
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_ite": torch.sym_ite,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
}
_SIZE_NAMES = {function: name for name, function in _SIZES.items()}


def name_of(target: Any) -> str:
    """What a graph's operator is called in a file, whether or not it is allowed."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._opname}.{target._overloadname}"
    return _SIZE_NAMES.get(target) or str(getattr(target, "__name__", target))


@cache
def resolve(name: str) -> Callable[..., Any] | None:
    """The operator of that name, None if there is none or it isn't allowed."""
    if name in _SIZES:
        return _SIZES[name]
    match = _ATEN.fullmatch(name)
    if match is None:
        return None
    try:
        overload = getattr(getattr(torch.ops.aten, match[1]), match[2])
    except AttributeError:
        return None
    if not isinstance(overload, torch._ops.OpOverload) or name_of(overload) != name:
        return None
    return overload if _functional(overload) and _chosen(overload) else None


def _functional(overload: torch._ops.OpOverload) -> bool:
    """Whether it neither writes to an argument, draws random numbers, nor takes odd arguments."""
    schema = overload._schema
    types = [str(a.type) for a in (*schema.arguments, *schema.returns)]
    plain = (re.sub(r"^Optional\[(.*)\]$", r"\1", kind) for kind in types)
    return (
        not schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in overload.tags
        and all(kind in _TYPES or kind.startswith("Optional[List[") for kind in plain)
    )


def _chosen(overload: torch._ops.OpOverload) -> bool:
    name = overload._opname
    if name in LINEAR:
        return True
    if _BARRED.search(name):
        return False
    tagged = torch.Tag.pointwise in overload.tags or torch.Tag.core in overload.tags
    return tagged or name in WHOLE or name in _NAMED
