"""Files changed at random load as another network, or end in one line; nothing else happens."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from support.mutated_files import Original, mutated, originals, used

from convert import StorageError, load

# FEWSPIKES_FILES=5000 for the long run.
_FILES = int(os.environ.get("FEWSPIKES_FILES", 200))
_PARTS = 5
_MOST_SECONDS, _MOST_KILOBYTES = 10, 2_000_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Original]:
    return originals(tmp_path_factory.mktemp("originals"))


@contextmanager
def _no_hang() -> Iterator[None]:
    """Breaks off what takes too long; seconds of this process, which may wait for others."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"still busy after {_MOST_SECONDS} s")

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, _MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("part", range(_PARTS))
def test_mutated_files(files: list[Original], part: int, tmp_path: Path) -> None:
    loaded, path = 0, tmp_path / "net.fsnn"
    for seed in range(part, _FILES, _PARTS):
        original = files[seed // _PARTS % len(files)]
        path.write_bytes(mutated(original, seed))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with _no_hang():
                try:
                    snn = load(path)
                except StorageError as error:
                    assert len(str(error)) < 700 and "\n" not in str(error)
                    continue
                loaded += 1
                again = tmp_path / "again.fsnn"
                used(snn, original.inputs, again, fits=seed % 8 == 0 or _FILES > 200)
        except BaseException as error:
            error.add_note(f"seed {seed} of {original.name}")
            raise
        finally:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < _MOST_KILOBYTES, f"seed {seed} took {grown / 1e6:.1f} GB"
    # The generator would test nothing if all its files were refused, or none.
    count = len(range(part, _FILES, _PARTS))
    assert count < 50 or 0 < loaded < count


def test_files_that_are_not_changed(files: list[Original], tmp_path: Path) -> None:
    begin = time.process_time()
    for original in files:
        (tmp_path / "net.fsnn").write_bytes(original.data)
        used(load(tmp_path / "net.fsnn"), original.inputs, tmp_path / "again.fsnn")
    assert time.process_time() - begin < _MOST_SECONDS * len(files)
