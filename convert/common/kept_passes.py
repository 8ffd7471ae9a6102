"""A pass over batches, or along a list, that goes on where a run before it was killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .fingerprints import fingerprint
from .kept_stages import Stages
from .packed_values import Classes, packed

_T = TypeVar("_T")
# A state is kept after so many seconds, or so many times what keeping it takes.
_SECONDS, _TIMES = 5.0, 20.0
# The key of a state that says how long it took, which is never the same twice.
SECONDS = "seconds"


class _Pace:
    """Says when it is time to keep a state again."""

    def __init__(self) -> None:
        self._last, self._pause = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is."""
        return time.monotonic() - self._last >= max(_SECONDS, self._pause)

    def run(self, keep: Callable[[], None]) -> None:
        """Keeps a state."""
        begin = time.monotonic()
        keep()
        self._last = time.monotonic()
        self._pause = _TIMES * (self._last - begin)


class BatchPass:
    """What adds up over batches, kept every few seconds.

    All batches are read again by a run that goes on, and held against those of the run before;
    those that were done aren't computed again. Only the first one is: it must give the figures that
    it gave then.

    Args:
        stages: where it is kept.
        name: of the stage.
        data: what the batches are called in a message.
        state: what was added up, as `packed` takes it; None before the first batch.
        restore: takes such a state in place of what was added up.
        classes: of objects in a state.
    """

    def __init__(
        self,
        stages: Stages,
        name: str,
        data: str,
        state: Callable[[], dict[str, Any]],
        restore: Callable[[dict[str, Any]], None],
        classes: Classes = (),
    ) -> None:
        self._stages, self._name, self._data = stages, name, data
        self._state, self._restore, self._classes = state, restore, classes
        found = stages.get(name, classes)
        # Fingerprints of the batches of the run before, and of this one.
        self._before: list[str] = found[0]["batches"] if found else []
        self._batches: list[str] = []
        self._first = found[0]["first"] if found else ""
        self._whole = bool(found and found[0]["whole"])
        # What is restored once the first batch was held against it.
        self._waiting: dict[str, Any] | None = found[0]["state"] if found else None
        self._pace = _Pace()

    def wants(self, batch: Any) -> bool:
        """Whether a batch must be computed; called for every one, in their order.

        Args:
            batch: all that its figures depend on.

        Raises:
            InputError: if it isn't the one of the run before.
        """
        if not self._stages.kept:
            return True
        index, found = len(self._batches), fingerprint(batch)
        if index < len(self._before) and found != self._before[index]:
            raise self._stages.refusal(f"batch {index + 1} of the {self._data} is another one")
        if index == len(self._before) and self._whole:
            raise self._stages.refusal(
                f"the {self._data} had {index} batches and has more of them now"
            )
        self._batches.append(found)
        if index == len(self._before):
            self._take_up()
        return not 0 < index < len(self._before)

    def ran(self) -> None:
        """Says that the batch that was wanted is computed and added.

        Raises:
            InputError: if the first one doesn't give what it gave in the run before.
        """
        if not self._stages.kept:
            return
        if len(self._batches) == 1:
            figures = {k: v for k, v in self._state().items() if k != SECONDS}
            first = fingerprint(packed(figures, self._classes))
            if self._before and first != self._first:
                raise self._stages.refusal(
                    f"the first batch of the {self._data} gives other figures ({self._name}), "
                    "though nothing else differs that could be seen: was the model's code changed?"
                )
            self._first = first
        if len(self._batches) > len(self._before) and self._pace.due():
            self._pace.run(self._keep)

    def finish(self) -> None:
        """Says that there are no more batches, and keeps the state for good.

        Raises:
            InputError: if the run before had more of them.
        """
        if not self._stages.kept:
            return
        if len(self._batches) < len(self._before):
            raise self._stages.refusal(
                f"the {self._data} had {len(self._before)} batches at least and has "
                f"{len(self._batches)} now"
            )
        self._take_up()
        if self._batches and not self._whole:
            self._whole = True
            self._keep()

    def _take_up(self) -> None:
        if self._waiting is not None:
            self._restore(self._waiting)
            self._waiting = None

    def _keep(self) -> None:
        result = {
            "batches": self._batches,
            "first": self._first,
            "whole": self._whole,
            "state": self._state(),
        }
        self._stages.put(self._name, result, self._classes)

    @property
    def content(self) -> str:
        """The fingerprint of all batches so far."""
        return fingerprint(self._batches)


class KeptRows(Generic[_T]):
    """Rows that are made one after the other, kept every few seconds.

    Args:
        stages: where they are kept.
        name: of the stage.
        classes: of the rows.
    """

    def __init__(self, stages: Stages, name: str, classes: Classes = ()) -> None:
        self._stages, self._name, self._classes = stages, name, classes
        found = stages.get(name, classes)
        self._before: list[_T] = found[0] if found else []
        self._pace = _Pace()
        self.rows: list[_T] = []

    def add(self, make: Callable[[], _T]) -> None:
        """Adds the next row: the kept one, or what is made now."""
        if len(self.rows) < len(self._before):
            self.rows.append(self._before[len(self.rows)])
            return
        self.rows.append(make())
        if self._pace.due():
            self._pace.run(self.finish)

    def finish(self) -> None:
        """Keeps all rows."""
        if len(self.rows) > len(self._before):
            self._stages.put(self._name, self.rows, self._classes)
