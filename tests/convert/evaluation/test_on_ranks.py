"""Evaluation by several processes: the figures of one, by any metric."""

from pathlib import Path

import pytest
from support import processes
from support.processes import in_processes


@pytest.mark.parametrize("metric", ["output", "function", "torchmetrics"])
def test_metrics_that_need_the_outputs_have_the_figures_of_one(metric: str, tmp_path: Path) -> None:
    if metric == "torchmetrics":
        pytest.importorskip("torchmetrics")
    expected = processes.evaluated(0, metric)
    for found in in_processes(2, tmp_path, processes.evaluated, metric):
        assert not isinstance(found, Exception), found
        assert found == expected
