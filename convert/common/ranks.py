"""Several processes that work on one call together: who each is, and what they tell each other.

They belong to the default group of `torch.distributed` and make the same calls with the same data.
Before anything is exchanged all of them meet at the group's store, where one that failed has left
its message: so nobody waits for a process that won't come.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TextIO, TypeVar

import torch
import torch.distributed as dist

from ..errors import InputError
from .messages import first_line

Given = ParamSpec("Given")
Result = TypeVar("Result")

# Seconds: between two signs of life, until a process without any is given up, until one that never
# made the call is, and as long as a process that failed waits for the others to hear of it.
BEAT, PATIENCE, ENTRY, HEARD = 2.0, 40.0, 300.0, 10.0
_local = threading.local()
_calls = 0


class RankFailed(InputError):
    """Another process of the group failed; the message says which, and why."""


class Team:
    """The processes of a group, during one call.

    Args:
        call: the name of the function that all of them called.
        number: how many such calls there were before.

    Attributes:
        rank: the number of this process.
        size: how many there are.
    """

    def __init__(self, call: str, number: int) -> None:
        self.rank, self.size, self._call = dist.get_rank(), dist.get_world_size(), call
        store = dist.distributed_c10d._get_default_store()
        self._store = dist.PrefixStore(f"convert/{number}", store)
        self._others = [rank for rank in range(self.size) if rank != self.rank]
        self._step = 0
        self._failure: str | None = None
        # The last sign of life of each of the others, and when it was new.
        self._begin = time.monotonic()
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._live, name="alive", daemon=True)

    def gather(self, step: str, value: Result, device: Any = "cpu") -> list[Result]:
        """What every process gives, by its number.

        Args:
            step: what is exchanged; all processes must be at the same.
            value: anything that can be pickled.
            device: where the tensors of the others' values will be.

        Raises:
            RankFailed: if another process failed or is gone.
            InputError: if another process is at another step.
        """
        own = io.BytesIO()
        try:
            torch.save(value, own)
        except Exception as error:
            raise InputError(
                f"{step}: what this process found can't be sent to the others "
                f"({first_line(error)}); run it in one process"
            ) from error
        self.meet(step)
        packed: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(packed, own.getvalue())
        except RuntimeError as error:
            self._wait_for_failure()
            raise RankFailed(f"another process is gone ({first_line(error)})") from error
        return [
            value
            if rank == self.rank
            else torch.load(io.BytesIO(data), map_location=device, weights_only=False)
            for rank, data in enumerate(packed)
        ]

    def meet(self, step: str) -> None:
        """Waits until all processes are at a step; see `gather`."""
        self._step += 1
        self._set(f"at/{self.rank}", f"{self._step} {step}")
        waiting, pause = list(self._others), 2e-4
        while True:
            waiting = [rank for rank in waiting if not self._at(rank, step)]
            if not waiting:
                return
            self._check(waiting)
            time.sleep(pause)
            pause = min(1.5 * pause, 0.02)

    def same(self, what: str, value: str, remedy: str) -> None:
        """Refuses processes that were given different things.

        Args:
            what: they should all have.
            value: tells one from another.
            remedy: what to do.
        """
        found = self.gather(what, value)
        other = next((rank for rank, text in enumerate(found) if text != found[0]), None)
        if other is not None:
            raise InputError(
                f"process {other} of {self.size} was given another {what} than process 0; {remedy}"
            )

    def share(self, items: list[Result]) -> list[Result]:
        """Every how manyth item is this process's."""
        return items[self.rank :: self.size]

    def merged(self, step: str, own: list[Result], device: Any = "cpu") -> list[Result]:
        """The items that were shared out, in their order, from what each process made of its own.

        Args:
            step: as for `gather`.
            own: one for each item of this process's share.
            device: as for `gather`.
        """
        parts = self.gather(step, own, device)
        count = sum(map(len, parts))
        return [parts[i % self.size][i // self.size] for i in range(count)]

    def _at(self, rank: int, step: str) -> bool:
        """Whether a process has come to this step."""
        text = self._get(f"at/{rank}").decode()
        number, _, name = text.partition(" ")
        if not text or int(number) < self._step:
            return False
        if int(number) == self._step and name != step:
            raise InputError(
                f"process {rank} is at '{name}', process {self.rank} at '{step}'; make the same "
                "calls with the same arguments in every process"
            )
        return True

    def _check(self, waiting: list[int]) -> None:
        """Raises if one of those that are waited for failed or shows no sign of life."""
        self._hear()
        if self._failure is not None:
            raise RankFailed(self._failure)
        for rank in waiting:
            beat, now = self._get(f"beat/{rank}"), time.monotonic()
            if beat and self._seen.get(rank, (b"", 0.0))[0] != beat:
                self._seen[rank] = beat, now
            silent = now - self._seen.get(rank, (b"", self._begin))[1]
            if not beat and silent > ENTRY:
                raise RankFailed(
                    f"process {rank} didn't call {self._call} within {ENTRY:.0f} s; call it in "
                    "every process of the group, or inside convert.one_process()"
                )
            if beat and silent > PATIENCE:
                raise RankFailed(f"process {rank} has shown no sign of life for {silent:.0f} s")

    def _live(self) -> None:
        """Shows the others that this process lives, and listens whether one of them failed."""
        count = 0
        while not self._over.wait(BEAT if count else 0.0):
            count += 1
            with suppress(RankFailed):
                self._set(f"beat/{self.rank}", str(count))
                self._hear()

    def _hear(self) -> None:
        said = self._get("failed").decode()
        if said and self._failure is None:
            self._failure = said
            self._set(f"heard/{self.rank}", "yes")

    def _fail(self, error: BaseException) -> None:
        """Leaves the message of an error for the others, and waits until they have it."""
        if isinstance(error, RankFailed):
            return
        # Who fails by itself needs nobody's message: where all fail at once none waits.
        self._set(f"heard/{self.rank}", "yes")
        if self._get("failed"):
            return
        self._set("failed", f"process {self.rank} failed: {first_line(error)}")
        until = time.monotonic() + HEARD
        # One that is gone, or hasn't made the call, won't hear.
        deaf = [rank for rank in self._others if self._get(f"beat/{rank}")]
        while deaf and time.monotonic() < until:
            time.sleep(0.05)
            deaf = [rank for rank in deaf if not self._get(f"heard/{rank}")]

    def _wait_for_failure(self) -> None:
        """Gives a process that broke off an exchange the time to say why."""
        until = time.monotonic() + 2 * BEAT
        while time.monotonic() < until:
            self._hear()
            if self._failure is not None:
                raise RankFailed(self._failure)
            time.sleep(0.1)

    def _get(self, key: str) -> bytes:
        """What the store has; nothing without waiting where it has none."""
        try:
            return bytes(self._store.get(key)) if self._store.check([key]) else b""
        except RuntimeError as error:
            raise RankFailed(self._gone(error)) from error

    def _set(self, key: str, value: str) -> None:
        try:
            self._store.set(key, value)
        except RuntimeError as error:
            raise RankFailed(self._gone(error)) from error

    def _gone(self, error: RuntimeError) -> str:
        return self._failure or f"the process with the group's store is gone ({first_line(error)})"

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The call: an error in this process ends it in all of them."""
        noted: list[tuple[str, type[Warning], str, int]] = []
        self._pulse.start()
        _local.team = self
        try:
            with self._one_voice(noted):
                yield
                told = self.gather(f"end of {self._call}", noted)
            if self.rank == 0:
                known = {text for text, *_ in noted}
                for text, category, filename, line in (one for each in told for one in each):
                    if text not in known:
                        known.add(text)
                        warnings.warn_explicit(text, category, filename, line)
        except BaseException as error:
            with suppress(RankFailed):
                self._fail(error)
            raise
        finally:
            _local.team = None
            self._over.set()

    @contextmanager
    def _one_voice(self, noted: list[tuple[str, type[Warning], str, int]]) -> Iterator[None]:
        """Notes warnings; all but the first process keep them for the end of the call."""
        before = warnings.showwarning

        def note(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            noted.append((str(message), category, filename, lineno))
            if self.rank == 0:
                before(message, category, filename, lineno, file, line)

        warnings.showwarning = note
        try:
            yield
        finally:
            warnings.showwarning = before


def together(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that all processes of a group work on together, where there are several."""

    @functools.wraps(function)
    def shared(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        global _calls
        if not _several() or team() is not None or getattr(_local, "alone", False):
            return function(*args, **kwargs)
        _calls += 1
        with Team(function.__name__, _calls).at_work():
            return function(*args, **kwargs)

    return shared


def team() -> Team | None:
    """The processes that work on the present call together; None for one alone."""
    found: Team | None = getattr(_local, "team", None)
    return found


@contextmanager
def one_process() -> Iterator[None]:
    """Inside the block every call is this process's alone, whatever group it belongs to."""
    before = getattr(_local, "alone", False)
    _local.alone = True
    try:
        yield
    finally:
        _local.alone = before


def company() -> int:
    """How many processes would work on a call of this one: 1 for one alone."""
    return dist.get_world_size() if _several() and not getattr(_local, "alone", False) else 1


def shows() -> bool:
    """Whether this process shows progress: of several only the first."""
    found = team()
    return found is None or found.rank == 0


def on_this_machine() -> int:
    """How many processes of the group there are on this machine, as far as that is known."""
    found = team()
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    if found is None:
        return 1
    return int(said) if said.isdecimal() and int(said) else found.size


def _several() -> bool:
    # Who has no group has not even to load what makes one.
    if "torch.distributed" not in sys.modules or not dist.is_available():
        return False
    return dist.is_initialized() and dist.get_world_size() > 1
