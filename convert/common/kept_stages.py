"""Stages of a long run, kept in a folder, so that a run that was killed goes on from the last.

Every stage is a file of its own, whole or not there. It holds what its result was made with: a run
with anything else is refused, never given another run's result.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from ..errors import ResumeError
from .files import file_path, shown
from .folder_lock import only_one
from .messages import shortened
from .packed_values import Classes, packed, unpacked
from .ranks import company

# What a result was made with, by name: numbers and texts.
Facts = Mapping[str, Any]
_T = TypeVar("_T")

_ENDING = ".stage"
# The stage that holds nothing but what a run was given.
SETTINGS = "settings"
_TEMPORARY = re.compile(r"\.writing-[0-9a-f]{32}\.stage", re.ASCII)
# Without so many bytes no run begins; what a network needs is asked for once it is known.
_LEAST_FREE = 16_000_000
# Bytes of the facts, which come first.
_SIZE = struct.Struct("<Q")
# A fact's value is shown up to this length.
_SHOWN = 60


class KeptStages:
    """A folder of stages; a block around a run holds it for this process alone.

    ``to_spiking(..., resume=kept)`` and ``evaluate(..., resume=kept)`` take one, or its folder's
    path; one block around both keeps other processes out in between.

    Args:
        folder: made where it isn't there. It belongs to one run; when its results are there, it
            may be deleted.

    Raises:
        ResumeError: for what is no path, and when the block is entered: if the folder can't be
            written to, its disk is full, or another process works in it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = file_path(folder, "resume")
        self._stack: ExitStack | None = None

    def __enter__(self) -> KeptStages:
        _check_alone()
        with ExitStack() as stack:
            stack.enter_context(_made(self.folder))
            stack.enter_context(only_one(self.folder))
            self.check_room(0)
            for path in self.folder.iterdir():
                if _TEMPORARY.fullmatch(path.name):  # of a process that was killed
                    path.unlink()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        assert self._stack is not None
        self._stack.close()
        self._stack = None

    @property
    def entered(self) -> bool:
        """Whether the block around a run was entered."""
        return self._stack is not None

    def check_room(self, needed: int) -> None:
        """Refuses a disk that has too little room.

        Args:
            needed: bytes, beside a few that any run needs.

        Raises:
            ResumeError: naming what is free and what is needed.
        """
        free, needed = shutil.disk_usage(self.folder).free, needed + _LEAST_FREE
        if free < needed:
            raise ResumeError(
                f"can't keep stages in {shown(self.folder)}: {free / 1e6:.0f} MB are free there, "
                f"and {needed / 1e6:.0f} MB are needed; make room or choose another disk"
            )

    def read(self, name: str) -> bytes | None:
        """The bytes of a stage; None if there is none."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResumeError(
                f"can't read {shown(self._path(name))}: {error.strerror}; delete it and run again"
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Keeps the bytes of a stage: on the disk when this returns, and whole.

        Raises:
            ResumeError: if the disk is full or can't be written to.
        """
        temporary = self.folder / f".writing-{uuid.uuid4().hex}{_ENDING}"
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path(name))
            _settle(self.folder)
        except OSError as error:
            raise ResumeError(
                f"can't keep a stage in {shown(self.folder)}: {error.strerror or error}; make room "
                "and run again: the stages before are kept"
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """Deletes a stage that another one has made useless."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{quote(name, safe=' +,=@')}{_ENDING}"


def kept_in(folder: Path) -> list[str]:
    """The names of the stages in a folder, in the order in which they were kept."""
    files = sorted(folder.glob(f"*{_ENDING}"), key=lambda path: path.stat().st_mtime_ns)
    names = [unquote(path.name.removesuffix(_ENDING)).partition(".part")[0] for path in files]
    return [name for name in dict.fromkeys(names) if name != SETTINGS]


def _check_alone() -> None:
    """Refuses several processes that work together."""
    if (together := company()) > 1:
        raise ResumeError(
            f"stages are kept by one process alone, found {together} that work together; leave "
            "resume= out, or run one process"
        )


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder that can be written to; one that was made and stayed empty is removed."""
    made: list[Path] = []
    try:
        try:
            made += [each for each in (folder, *folder.parents) if not each.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))
        except OSError as error:
            raise ResumeError(
                f"can't keep stages in {shown(folder)}: {error.strerror or error}; choose another "
                "folder or make room"
            ) from error
        yield
    finally:
        for each in made:
            with suppress(OSError):  # it holds stages
                each.rmdir()


def _settle(folder: Path) -> None:
    """Brings a folder's names to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Stages:
    """The stages of a run, or of a part of it; without a folder nothing is kept.

    Args:
        kept: the folder, which is held; None keeps nothing.
        prefix: of the stages' names.
        facts: what all of them are made with.
    """

    def __init__(
        self, kept: KeptStages | None = None, prefix: str = "", facts: Facts | None = None
    ) -> None:
        self._kept, self._prefix, self._facts = kept, prefix, dict(facts or {})

    @property
    def kept(self) -> bool:
        """Whether there is a folder."""
        return self._kept is not None

    def under(self, prefix: str = "", facts: Callable[[], Facts] | None = None) -> Stages:
        """The stages of a part.

        Args:
            prefix: of their names, behind that of these; "" for none.
            facts: what they are made with, beside what these are; not called without a folder.
        """
        more = facts() if facts is not None and self.kept else {}
        return Stages(self._kept, f"{self._prefix}{prefix}", {**self._facts, **more})

    def once(
        self,
        name: str,
        make: Callable[[], _T],
        classes: Classes = (),
        facts: Callable[[], Facts] | None = None,
    ) -> _T:
        """The result of a stage: the kept one, or what is made and kept now.

        Args:
            name: of the stage.
            make: makes the result.
            classes: of objects in it.
            facts: what it is made with, beside those of all stages.

        Raises:
            ResumeError: if the kept one was made with something else, or can't be kept.
        """
        if not self.kept:
            return make()
        stages = self.under("", facts)
        found = stages.get(name, classes)
        if found is None:
            found = (make(),)
            stages.put(name, found[0], classes)
        result: _T = found[0]
        return result

    def get(self, name: str, classes: Classes = ()) -> tuple[Any] | None:
        """The kept result of a stage, alone in a tuple; None if there is none.

        Raises:
            ResumeError: if it was made with something else.
        """
        if self._kept is None:
            return None
        content = self._kept.read(self._prefix + name)
        if content is None:
            return None
        where = shown(self._kept.folder / f"{self._prefix}{name}{_ENDING}")
        # What another run kept isn't read: it may lie on a device that isn't here.
        end = _SIZE.size + int.from_bytes(content[: _SIZE.size], "little")
        self._compare(unpacked(content[_SIZE.size : end], where=where), name)
        return (unpacked(content[end:], classes, where),)

    def put(self, name: str, result: Any, classes: Classes = ()) -> None:
        """Keeps the result of a stage."""
        if self._kept is not None:
            facts = packed(self._facts)
            content = _SIZE.pack(len(facts)) + facts + packed(result, classes)
            self._kept.write(self._prefix + name, content)

    def forget(self, name: str) -> None:
        """Deletes a stage that another one has made useless."""
        if self._kept is not None:
            self._kept.forget(self._prefix + name)

    def check_room(self, needed: int) -> None:
        """As `KeptStages.check_room`."""
        if self._kept is not None:
            self._kept.check_room(needed)

    def refusal(self, what: str) -> ResumeError:
        """The error for a stage that belongs to another run.

        Args:
            what: differs, in words.
        """
        assert self._kept is not None
        return ResumeError(
            f"{shown(self._kept.folder)} holds the stages of another run: {what}; give what that "
            "run was given to go on with it, or another folder to begin anew"
        )

    def _compare(self, before: Facts, name: str) -> None:
        """Refuses facts that aren't these stages' own."""
        for fact in dict.fromkeys((*before, *self._facts)):
            then, now = before.get(fact), self._facts.get(fact)
            if then != now:
                told = f"{fact} was {_short(then)} and is {_short(now)} now"
                if _is_fingerprint(then) and _is_fingerprint(now):
                    told = f"{fact} is another one"
                raise self.refusal(f"{told} ({self._prefix}{name})")


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None


def _short(value: Any) -> str:
    return shortened(value if isinstance(value, str) else repr(value), _SHOWN)


@contextmanager
def opened(resume: str | os.PathLike[str] | KeptStages | None) -> Iterator[Stages]:
    """The stages of a run in the folder that a user gave; None keeps nothing.

    Raises:
        ResumeError: as `KeptStages`.
    """
    if resume is None:
        yield Stages()
    elif isinstance(resume, KeptStages):
        # Its block may have been entered in `one_process`.
        _check_alone()
        if not resume.entered:
            raise ResumeError("resume= was given KeptStages outside of its block; write: with it:")
        yield Stages(resume)
    else:
        with KeptStages(resume) as kept:
            yield Stages(kept)
