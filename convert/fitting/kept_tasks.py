"""Keeps what the tasks of a fit find, so that a fit that was killed doesn't begin anew.

A fit runs the same tasks in the same order whenever it is given the same problems, so a task is
known by its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import count
from threading import Lock
from typing import Any, TypeVar

from ..common.kept_stages import Stages
from ..common.packed_values import Classes

_T = TypeVar("_T")
# What was found is written after so many seconds.
_SECONDS = 2.0


class KeptTasks:
    """What the tasks of one fit found, by the number of their call and their place in it.

    Args:
        stages: where it is kept; they say what the fit was given.
        name: of the fit.
        classes: of objects that tasks find.
    """

    def __init__(self, stages: Stages, name: str, classes: Classes) -> None:
        self._stages, self._name, self._classes = stages, name, classes
        self._known: dict[tuple[int, int], Any] = {}
        self._new: dict[tuple[int, int], Any] = {}
        self._calls, self._files = count(), 0
        self._lock, self._closed, self._last = Lock(), False, time.monotonic()
        while (found := stages.get(self._part(self._files), classes)) is not None:
            self._known.update(found[0])
            self._files += 1

    def of(self, tasks: Sequence[Callable[[], _T]]) -> list[Callable[[], _T]]:
        """The tasks of the fit's next call; those whose result is known don't run again."""
        call = next(self._calls)
        return [partial(self._run, (call, index), task) for index, task in enumerate(tasks)]

    def _run(self, key: tuple[int, int], task: Callable[[], _T]) -> _T:
        if key in self._known:
            known: _T = self._known[key]
            return known
        found = task()
        with self._lock:
            # A task may end when the run was stopped already.
            if not self._closed:
                self._new[key] = found
                if time.monotonic() - self._last >= _SECONDS:
                    self._write()
        return found

    def close(self) -> None:
        """Writes what is not written yet; what is found from now on is left out."""
        with self._lock:
            self._closed = True
            self._write()

    def forget(self) -> None:
        """Deletes all of it: the fit is done and kept."""
        for number in range(self._files):
            self._stages.forget(self._part(number))

    def _write(self) -> None:
        if self._new:
            self._stages.put(self._part(self._files), self._new, self._classes)
            self._files, self._new = self._files + 1, {}
        self._last = time.monotonic()

    def _part(self, number: int) -> str:
        return f"{self._name}.part{number}"


_current: ContextVar[KeptTasks | None] = ContextVar("kept_tasks", default=None)


@contextmanager
def keeping(kept: KeptTasks) -> Iterator[None]:
    """A block whose fit keeps its tasks."""
    token = _current.set(kept)
    try:
        yield
    finally:
        _current.reset(token)
        kept.close()


def remembered(tasks: Sequence[Callable[[], _T]]) -> Sequence[Callable[[], _T]]:
    """The tasks of a call, with what is known of them where they are kept."""
    kept = _current.get()
    return tasks if kept is None else kept.of(tasks)
