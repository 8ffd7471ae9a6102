"""Errors of a graph that came from a file: shapes were checked when it was read, values weren't."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..common.messages import first_line
from ..errors import InputError


@contextmanager
def errors_named() -> Iterator[None]:
    """Turns what torch refuses while such a graph runs into one line.

    Raises:
        InputError: naming what torch said.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, MemoryError) as error:
        raise InputError(
            f"the network from the file can't be run on this ({first_line(error)[:250]}); check "
            "the inputs, or save the network again"
        ) from error
