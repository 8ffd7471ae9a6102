"""Keeps what torch prints while it captures away from the user, who gets one message."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch

# What forward keeps, or reads from elsewhere, is nothing that the user has to register.
_WARNINGS = (
    r"The tensor attributes? .* assigned during export",
    r"A model attribute .* requires gradient\. but it's not properly registered",
    # Torch 2.11 says it of its own code.
    r".isinstance\(treespec, LeafSpec\). is deprecated",
)


class _Silence(logging.Filter):
    """Drops the records of the threads that are inside a `quiet` block."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _inside()


class _Streams:
    """Stands for `sys` where torch prints the graph of a failed capture."""

    def __getattr__(self, name: str) -> Any:
        return io.StringIO() if name == "stderr" and _inside() else getattr(sys, name)


_silence, _streams = _Silence(), _Streams()
_lock = threading.Lock()
_thread = threading.local()
_blocks = 0


def _inside() -> bool:
    return getattr(_thread, "depth", 0) > 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that torch logs or prints in this thread is shown, unless the user asked for it.

    Who set TORCH_LOGS or called `torch._logging.set_logs` sees everything.
    """
    if os.environ.get("TORCH_LOGS") or _asked():
        yield
        return
    global _blocks
    with _lock:
        _blocks += 1
        if _blocks == 1:
            _install()
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
        with _lock:
            _blocks -= 1
            if not _blocks:
                _remove()


def _asked() -> bool:
    """Whether the user has set torch's logs by a call."""
    state = getattr(getattr(torch._logging, "_internal", None), "log_state", None)
    return bool(
        getattr(state, "log_qname_to_level", None) or getattr(state, "artifact_names", None)
    )


def _loggers() -> Iterator[logging.Logger]:
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.split(".")[0] == "torch":
            yield logger


def _tracing() -> dict[str, Any]:
    """The names of the module in which torch captures; loading it takes as long as torch itself."""
    import torch.export._trace
    import torch.fx.experimental.symbolic_shapes  # makes its logger

    return vars(torch.export._trace)


def _install() -> None:
    tracing = _tracing()
    for logger in _loggers():
        logger.addFilter(_silence)
    if tracing.get("sys") is sys:
        tracing["sys"] = _streams
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)


def _remove() -> None:
    for logger in _loggers():
        logger.removeFilter(_silence)
    tracing = _tracing()
    if tracing.get("sys") is _streams:
        tracing["sys"] = sys
    for entry in [f for f in warnings.filters if getattr(f[1], "pattern", None) in _WARNINGS]:
        with contextlib.suppress(ValueError):
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
