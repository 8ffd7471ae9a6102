"""Whether somebody follows the operations that run, instead of only wanting their values."""

from __future__ import annotations

import torch


def traced() -> bool:
    """Whether a compiler, a tracer, a dispatch mode or a transform of `torch.func` is at work.

    It must see every operation as an operation of torch.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
