"""What tasks of a fit found is taken up by the next run, and what comes too late is left out."""

from pathlib import Path

import numpy as np
import pytest

from convert.common.kept_stages import KeptStages, Stages
from convert.fitting import kept_tasks
from convert.fitting.kept_tasks import KeptTasks, keeping
from convert.fitting.parallel import run_all


class _Stopped(BaseException):
    pass


def _fit(ran: list[int], stop: int | None = None) -> list[float]:
    """Two calls, of which the second needs what the first found."""

    def task(number: int) -> np.ndarray:
        if number == stop:
            raise _Stopped
        ran.append(number)
        return np.full(2, number / 7)

    first = run_all([lambda n=n: task(n) for n in range(4)])  # type: ignore[misc]
    second = run_all([lambda n=n: task(n) for n in range(4, 6)])  # type: ignore[misc]
    return [float(sum(found[0] for found in first)), *(float(found[1]) for found in second)]


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_tasks_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(kept_tasks, "_SECONDS", seconds)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # in their order
    whole = _fit([])
    with KeptStages(tmp_path) as kept:
        for stop, expected in [(3, [0, 1, 2]), (5, [3, 4]), (None, [5])]:
            ran: list[int] = []
            tasks = KeptTasks(Stages(kept), "fits", ())
            with keeping(tasks):
                if stop is None:
                    assert _fit(ran) == whole
                else:
                    with pytest.raises(_Stopped):
                        _fit(ran, stop)
            assert ran == expected
        assert list(tmp_path.glob("fits.part*"))
        KeptTasks(Stages(kept), "fits", ()).forget()
        assert not list(tmp_path.glob("fits.part*"))


def test_what_comes_too_late_is_left_out(tmp_path: Path) -> None:
    with KeptStages(tmp_path) as kept:
        tasks = KeptTasks(Stages(kept), "fits", ())
        (late,) = tasks.of([lambda: 1])
        tasks.close()
        assert late() == 1 and not list(tmp_path.glob("fits*"))


def test_outside_of_the_block_nothing_is_kept(tmp_path: Path) -> None:
    with KeptStages(tmp_path) as kept:
        with keeping(KeptTasks(Stages(kept), "fits", ())):
            pass
        _fit([])
        assert not list(tmp_path.glob("fits*"))
