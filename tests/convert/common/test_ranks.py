"""Several processes: what they exchange, and how one that fails ends all."""

from pathlib import Path
from typing import Any

import pytest
from support import processes
from support.processes import Raised, in_processes

from convert.common.ranks import one_process, shows, team, together


def test_without_a_group_a_call_is_one_process() -> None:
    seen: list[Any] = []
    together(lambda: seen.append((team(), shows())))()
    with one_process():
        together(lambda: seen.append((team(), shows())))()
    assert seen == [(None, True)] * 2


def test_values_come_in_order_and_the_first_process_shows_all_warnings(tmp_path: Path) -> None:
    found = in_processes(3, tmp_path, processes.gathers)
    for rank, (values, warned, squares) in enumerate(found):
        assert [each["rank"] for each in values] == [0, 1, 2]
        assert [each["tensor"] for each in values] == [[0, 0], [1, 1], [2, 2]]
        assert squares == [i * i for i in range(7)]
        assert warned == ([] if rank else ["everybody", "only process 2"])


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    first, second = in_processes(2, tmp_path, processes.raises_while_calibrating, 1)
    assert isinstance(second, Raised) and second.kind == "CalibrationError"
    assert isinstance(first, Raised) and first.kind == "RankFailed"
    assert first.message.startswith("process 1 failed: CalibrationError")
    assert second.message in first.message
    assert abs(first.seconds - second.seconds) < 60


def test_a_process_that_dies_is_missed_at_once(tmp_path: Path) -> None:
    first, second, third = in_processes(3, tmp_path, processes.dies)
    assert second is None
    for other in (first, third):
        assert isinstance(other, Raised) and other.kind == "RankFailed"
        assert "no sign of life" in other.message or "is gone" in other.message
        assert other.seconds < 60


def test_a_process_that_hangs_is_given_up(tmp_path: Path) -> None:
    first, _ = in_processes(2, tmp_path, processes.hangs, without=1)
    assert isinstance(first, Raised) and first.kind == "RankFailed"
    assert "process 1 has shown no sign of life" in first.message
    assert first.seconds < 60


def test_a_process_that_never_calls_is_named(tmp_path: Path) -> None:
    first, second = in_processes(2, tmp_path, processes.never_calls)
    assert second is None or not isinstance(second, Raised)
    assert isinstance(first, Raised) and "process 1 didn't call convert" in first.message
    assert "convert.one_process()" in first.message


def test_processes_at_different_steps_are_told(tmp_path: Path) -> None:
    found = in_processes(2, tmp_path, processes.goes_apart)
    assert all(isinstance(each, Raised) for each in found)
    said = [each.message for each in found]
    assert any("is at 'first'" in text or "is at 'second'" in text for text in said), said


def test_one_process_of_a_group_may_work_alone(tmp_path: Path) -> None:
    found = in_processes(2, tmp_path, processes.alone)
    assert found == [2, 0]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("data", "was given another first batch than process 0"),
        ("weights", "was given another model or weights than process 0"),
        ("settings", "was given another set of settings than process 0"),
        ("sampler", "DistributedSampler"),
    ],
)
def test_processes_with_other_arguments_are_refused(what: str, told: str, tmp_path: Path) -> None:
    found = in_processes(2, tmp_path, processes.other_arguments, what)
    assert all(isinstance(each, Raised) for each in found)
    assert any(told in each.message for each in found), [each.message for each in found]
    # All are refused at once, and none waits, for 60 s here, for another to hear of it.
    assert all(each.seconds < 50 for each in found)
