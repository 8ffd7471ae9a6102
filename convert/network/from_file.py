"""Errors of a graph that came from a file: shapes were checked when it was read, values weren't."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..common.messages import first_line
from ..errors import InputError


@contextmanager
def errors_named(from_file: bool = True) -> Iterator[None]:
    """Turns what torch refuses while a graph runs into one line.

    Args:
        from_file: whether the graph came from a file; else only lookups beyond a table are named.

    Raises:
        InputError: naming what torch said.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except IndexError as error:
        raise InputError(
            f"the network looks something up that isn't there ({first_line(error)[:250]}): check "
            "token ids, and that no input is longer than the network's positions"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if not from_file:
            raise
        raise InputError(
            f"the network from the file can't be run on this ({first_line(error)[:250]}); check "
            "the inputs, or save the network again"
        ) from error
