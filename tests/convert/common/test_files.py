"""Files are whole or not there, and keep what they were: links, permissions, protection."""

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from convert.common.files import atomic_path, file_path
from convert.errors import InputError


def _write(path: object, text: str = "new") -> None:
    with atomic_path(path) as temporary:  # type: ignore[arg-type]
        temporary.write_text(text)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    _write(tmp_path / "deep" / "er" / "file.txt")
    assert (tmp_path / "deep" / "er" / "file.txt").read_text() == "new"
    assert _mode(tmp_path / "deep" / "er" / "file.txt") == _mode(tmp_path / "usual")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_an_existing_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(mode)
    with atomic_path(file) as temporary:
        # Nobody reads a private file while it is written.
        assert _mode(temporary) & ~mode == 0
        temporary.write_text("new")
    assert (file.read_text(), _mode(file)) == ("new", mode)


def test_the_file_behind_a_link_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real, link, dangling = tmp_path / "far" / "real", tmp_path / "link", tmp_path / "dangling"
    real.write_text("old")
    link.symlink_to(tmp_path / "second")
    (tmp_path / "second").symlink_to(Path("far") / "real")
    dangling.symlink_to(tmp_path / "far" / "not yet")
    _write(link)
    _write(dangling)
    assert link.is_symlink() and dangling.is_symlink()
    assert real.read_text() == (tmp_path / "far" / "not yet").read_text() == "new"


def test_what_must_not_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, pipe, other = tmp_path / "file", tmp_path / "pipe", tmp_path / "socket"
    file.write_text("old")
    file.chmod(0o444)
    os.mkfifo(pipe)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        bound.bind("socket")
        before = sorted(tmp_path.iterdir())
        for path, named in [
            (file, "read-only"),
            (tmp_path, "folder"),
            (pipe, "pipe"),
            (other, "socket"),
            ("/dev/null", "device"),
            (file / "inside", "Not a directory"),
            (tmp_path / "loop", "symbolic links"),
            (tmp_path / ("n" * 300), "too long"),
        ]:
            with pytest.raises(InputError, match=named) as refused:
                _write(path)
            assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)
        assert sorted(tmp_path.iterdir()) == before
    assert file.read_text() == "old" and stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize(
    "path", [None, 3, 2.5, "", b"", "a\0b", "\ud800", ["a"], open], ids=lambda path: ascii(path)
)
def test_what_is_no_path(path: object) -> None:
    with pytest.raises(InputError, match="path"):
        file_path(path)


def test_bytes_and_foreign_bytes_are_paths(tmp_path: Path) -> None:
    for path in (os.fsencode(tmp_path / "a"), os.fsencode(tmp_path) + b"/\xff", tmp_path / "\n"):
        _write(path)
        assert os.path.exists(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "file", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    refused = pytest.raises(InputError, match=r"file: No space left")
    with refused, atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        full()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        _write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    _write(tmp_path / "file", "old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise error
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_many_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        texts = [letter * 20_000 for letter in "abcdef"]
        threads = [
            threading.Thread(target=lambda t=t: [_write(tmp_path / "f", t) for _ in range(20)])
            for t in texts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (tmp_path / "f").read_text() in texts
        assert [p.name for p in tmp_path.iterdir()] == ["f"]
        assert _mode(tmp_path / "f") == 0o640
    finally:
        # Nobody changed the mask of the process.
        assert os.umask(mask) == 0o027


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_path(tmp_path / "file.txt") as temporary:
        name = temporary.name
        raise ValueError
    stale, fresh = tmp_path / name, tmp_path / f".writing-{'0' * 32}.txt"
    own = tmp_path / ".writing-my-diary"
    for path in (stale, fresh, own):
        path.write_text("")
    for path in (stale, own):
        os.utime(path, (time.time() - 90_000,) * 2)
    _write(tmp_path / "file.txt")
    assert sorted(tmp_path.iterdir()) == sorted([fresh, own, tmp_path / "file.txt"])


def test_a_path_that_ends_as_a_folder_is_no_file(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="/: that is a folder's path"),
        atomic_path(f"{tmp_path}/new/"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


_KILLED = """
import sys, os, signal
from convert.common.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    subprocess.run([sys.executable, "-c", _KILLED, target], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".writing-") and left.suffix == ".txt"
    with atomic_path(target) as temporary:
        assert not left.exists()
        temporary.write_text("new")
        # One whose process lives stays, however many others write.
        _write(tmp_path / "other")
        assert temporary.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "other"]


def test_on_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convert.common.files.hold", lambda descriptor: None)
    with atomic_path(tmp_path / "file.txt") as temporary:
        assert "locked" not in temporary.name
        temporary.write_text("new")
        _write(tmp_path / "other")
        assert temporary.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "other"]
