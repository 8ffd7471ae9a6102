"""A folder of stages: whole files, another run's refused, one process at a time, enough room."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from convert.common import kept_stages
from convert.common.kept_stages import KeptStages, Stages, kept_in, opened
from convert.errors import InputError, ResumeError


def _never() -> int:
    raise AssertionError("it is kept")


def test_a_stage_is_made_once(tmp_path: Path) -> None:
    with KeptStages(tmp_path / "new" / "kept") as kept:
        stages = Stages(kept, facts={"seed": 0})
        assert stages.once("a", lambda: 3) == 3 and stages.once("a", _never) == 3
        assert stages.once("none", lambda: None) is None
        part = stages.under("part/x ", lambda: {"graph": "0" * 32})
        assert part.once("a", lambda: 4) == 4
    with opened(str(tmp_path / "new" / "kept")) as stages:
        again = stages.under("", lambda: {"seed": 0})
        assert again.once("a", _never) == 3
        assert again.under("part/x ", lambda: {"graph": "0" * 32}).once("a", _never) == 4
    assert kept_in(tmp_path / "new" / "kept") == ["a", "none", "part/x a"]
    assert not [p for p in (tmp_path / "new" / "kept").iterdir() if p.name.startswith(".")]


def test_without_a_folder_nothing_is_kept() -> None:
    with opened(None) as stages:
        assert not stages.kept
        made = iter([1, 2])
        facts = stages.under("x", lambda: pytest.fail("facts take time"))
        assert [facts.once("a", lambda: next(made)) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"seed": 1, "graph": "a" * 32}, "seed was 0 and is 1 now"),
        ({"seed": 0, "graph": "b" * 32}, "graph is another one"),
        ({"seed": 0}, "graph was aaaa"),
        ({"seed": 0, "graph": "a" * 32, "new": True}, "new was None and is True now"),
        ({"seed": "0", "graph": "a" * 32}, "seed was 0 and is 0 now"),
    ],
)
def test_other_facts_are_refused(tmp_path: Path, facts: dict[str, object], told: str) -> None:
    with KeptStages(tmp_path) as kept:
        Stages(kept, facts={"seed": 0, "graph": "a" * 32}).put("a", 3)
        before = (tmp_path / "a.stage").read_bytes()
        with pytest.raises(ResumeError, match="stages of another run") as refused:
            Stages(kept, facts=facts).once("a", _never)
        assert told in str(refused.value) and "\n" not in str(refused.value)
        assert (tmp_path / "a.stage").read_bytes() == before


def test_a_damaged_stage_is_refused(tmp_path: Path) -> None:
    with KeptStages(tmp_path) as kept:
        Stages(kept).put("a", [1.5] * 100)
        path = tmp_path / "a.stage"
        whole = path.read_bytes()
        for place in (0, 7, 8, 20, 60, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(ResumeError, match=r"a.stage is damaged; delete it"):
                Stages(kept).get("a")
        for size in (0, 5, 100, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(ResumeError, match=r"a.stage is damaged; delete it"):
                Stages(kept).get("a")


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    left, own = tmp_path / f".writing-{'a' * 32}.stage", tmp_path / ".writing-my diary.stage"
    left.write_text("half")
    own.write_text("mine")
    with KeptStages(tmp_path):
        assert not left.exists() and own.exists()


def test_a_write_that_fails_leaves_the_stage_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with KeptStages(tmp_path) as kept:
        Stages(kept).put("a", 1)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ResumeError, match="No space left on device; make room and run again"):
            Stages(kept).put("a", 2)
        assert Stages(kept).get("a") == (1,)
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a.stage"]


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with KeptStages(tmp_path / "a") as kept, pytest.raises(ResumeError, match="MB are needed"):
        kept.check_room(10**16)
    monkeypatch.setattr(kept_stages.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(ResumeError, match="1 MB are free there, and 16 MB are needed"):
        KeptStages(tmp_path / "b").__enter__()
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "under", Path("/proc/here")):
        with pytest.raises(ResumeError, match="can't keep stages in"):
            KeptStages(path).__enter__()
    for wrong in (3, ""):
        with pytest.raises(InputError, match="resume"):
            KeptStages(wrong)  # type: ignore[arg-type]
    with pytest.raises(ResumeError, match="outside of its block"), opened(KeptStages(tmp_path)):
        pass


_HOLDS = """
import sys, time
from convert.common.kept_stages import KeptStages
with KeptStages(sys.argv[1]):
    print("held", flush=True); time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_dead_one_keeps_nothing(tmp_path: Path) -> None:
    with KeptStages(tmp_path), pytest.raises(ResumeError, match=f"process {os.getpid()} on"):
        KeptStages(tmp_path).__enter__()
    child = subprocess.Popen([sys.executable, "-c", _HOLDS, tmp_path], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    with pytest.raises(ResumeError, match=f"another run .process {child.pid} on .*works in"):
        KeptStages(tmp_path).__enter__()
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with KeptStages(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")
def test_a_forked_process_does_not_hold_the_folder_on(tmp_path: Path) -> None:
    ready, wrote = os.pipe()
    held = KeptStages(tmp_path)
    held.__enter__()
    child = os.fork()
    if not child:  # as a worker of a DataLoader, which outlives a killed parent for a while
        os.write(wrote, b"x")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        held.__exit__()
        with KeptStages(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_errors_of_the_run_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images"), KeptStages(tmp_path / "a"):
        raise FileNotFoundError("images")
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "a"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_several_processes_that_work_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KeptStages(tmp_path / "before") as kept:
        monkeypatch.setattr(kept_stages, "company", lambda: 2)
        for given in (tmp_path / "kept", KeptStages(tmp_path / "kept"), kept):
            with pytest.raises(ResumeError, match="one process alone, found 2"), opened(given):
                pass
        with pytest.raises(ResumeError, match="one process alone, found 2"):
            KeptStages(tmp_path / "kept").__enter__()
    assert not (tmp_path / "kept").exists()
