"""Passes over batches go on where they were left, on the same batches alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from convert.common import kept_passes
from convert.common.kept_passes import BatchPass, KeptRows
from convert.common.kept_stages import KeptStages, Stages
from convert.errors import ResumeError


class _Stopped(BaseException):
    pass


class _Sum:
    """Adds numbers up, each times a factor; `ran` lists those that were computed."""

    def __init__(self, factor: float = 1.0) -> None:
        self.total, self.ran, self.factor = 0.0, list[float](), factor
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        return {"total": self.total, "seconds": self.seconds}

    def restore(self, state: dict[str, Any]) -> None:
        self.total, self.seconds = state["total"], state["seconds"]

    def over(self, stages: Stages, batches: Iterable[float], stop: float | None = None) -> float:
        found = BatchPass(stages, "sum", "test data", self.state, self.restore)
        for batch in batches:
            if batch == stop:
                raise _Stopped
            if found.wants(batch):
                self.total += self.factor * batch
                self.seconds += len(self.ran) + 1
                self.ran.append(batch)
                found.ran()
        found.finish()
        return self.total


@pytest.fixture(autouse=True)
def _keep_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_passes, "_SECONDS", 0.0)
    monkeypatch.setattr(kept_passes, "_TIMES", 0.0)


_BATCHES = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("stop", _BATCHES)
def test_a_pass_goes_on(tmp_path: Path, stop: float) -> None:
    whole = _Sum().over(Stages(), _BATCHES)
    with KeptStages(tmp_path) as kept:
        with pytest.raises(_Stopped):
            _Sum().over(Stages(kept), _BATCHES, stop)
        again = _Sum()
        assert again.over(Stages(kept), _BATCHES) == whole
        # The first one is computed again, and those that were left.
        done = _BATCHES.index(stop)
        assert again.ran == _BATCHES[:1] * (done > 0) + _BATCHES[done:]
        third = _Sum()
        assert third.over(Stages(kept), _BATCHES) == whole and third.ran == _BATCHES[:1]


@pytest.mark.parametrize(
    ("batches", "told"),
    [
        ([0.1, 0.25, 0.3, 0.4], "batch 2 of the test data is another one"),
        ([0.2, 0.1, 0.3, 0.4], "batch 1 of the test data is another one"),
        ([0.1, 0.2], "had 4 batches at least and has 2 now"),
        ([], "had 4 batches at least and has 0 now"),
        ([*_BATCHES, 0.5], "had 4 batches and has more of them now"),
    ],
)
def test_other_batches_are_refused(tmp_path: Path, batches: list[float], told: str) -> None:
    with KeptStages(tmp_path) as kept:
        _Sum().over(Stages(kept), _BATCHES)
        with pytest.raises(ResumeError, match=told):
            _Sum().over(Stages(kept), batches)


def test_a_pass_that_computes_otherwise_is_refused(tmp_path: Path) -> None:
    with KeptStages(tmp_path) as kept:
        with pytest.raises(_Stopped):
            _Sum().over(Stages(kept), _BATCHES, 0.3)
        with pytest.raises(ResumeError, match="the first batch of the test data gives other fig"):
            _Sum(2.0).over(Stages(kept), _BATCHES)


def test_a_state_is_not_kept_at_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_passes, "_SECONDS", 1000.0)
    with KeptStages(tmp_path) as kept:
        with pytest.raises(_Stopped):
            _Sum().over(Stages(kept), _BATCHES, 0.4)
        assert Stages(kept).get("sum") is None
        assert _Sum().over(Stages(kept), _BATCHES) == _Sum().over(Stages(), _BATCHES)
        assert Stages(kept).get("sum") is not None


def test_rows_go_on(tmp_path: Path) -> None:
    with KeptStages(tmp_path) as kept:
        rows: KeptRows[int] = KeptRows(Stages(kept), "rows")
        rows.add(lambda: 1)
        rows.add(lambda: 2)
        again: KeptRows[int] = KeptRows(Stages(kept), "rows")
        for _ in range(2):
            again.add(lambda: pytest.fail("it is kept"))
        again.add(lambda: 3)
        again.finish()
        assert again.rows == [1, 2, 3] == Stages(kept).get("rows")[0]  # type: ignore[index]
