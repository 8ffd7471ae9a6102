"""One, two and three processes of a group: the same file, report and figures, to the bit."""

from pathlib import Path
from typing import Any

import pytest
from support.processes import converted, in_processes, resumes

_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("images", {"steps": [4, 3]}),
    ("images", {"steps": "auto", "max_loss": 0.05, "gates": 1}),
    ("texts", {"steps": 4}),
]


@pytest.mark.parametrize(("kind", "settings"), _SETTINGS, ids=["images", "auto", "texts"])
def test_any_number_of_processes_gives_one_file_and_one_evaluation(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    # In a process as new as theirs.
    ((content, report, evaluation),) = in_processes(
        1, tmp_path, converted, str(tmp_path), kind, settings
    )
    for count in (2, 3):
        found = in_processes(count, tmp_path, converted, str(tmp_path), kind, settings)
        for other in found:
            assert not isinstance(other, Exception), other
            assert other[1] == report
            assert other[2] == evaluation
            assert other[0] == content


def test_stages_are_refused_before_any_folder_and_kept_by_one_alone(tmp_path: Path) -> None:
    for rank, found in enumerate(in_processes(2, tmp_path, resumes, str(tmp_path))):
        assert not isinstance(found, Exception), found
        told, made = found
        assert len(told) == 3 and not made
        assert all("stages are kept by one process alone, found 2" in text for text in told)
        assert (tmp_path / f"own{rank}" / "calibration.stage").exists()
