"""One process and three of a group: the same file, report and figures, to the bit."""

from pathlib import Path
from typing import Any

import pytest
from support.processes import all_converted, in_processes, resumes

_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("images", {"steps": [4, 3], "gates": 1}),
    ("images", {"steps": "auto", "max_loss": 0.05}),
    ("texts", {"steps": 4}),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one process makes of all settings, as new as those of the groups."""
    folder = tmp_path_factory.mktemp("alone")
    (found,) = in_processes(1, folder, all_converted, str(folder), _SETTINGS)
    return found


@pytest.mark.parametrize("count", [3])
def test_any_number_of_processes_gives_one_file_and_one_evaluation(
    count: int, alone: list[Any], tmp_path: Path
) -> None:
    for found in in_processes(count, tmp_path, all_converted, str(tmp_path), _SETTINGS):
        assert not isinstance(found, Exception), found
        for settings, expected, other in zip(_SETTINGS, alone, found, strict=True):
            content, report, evaluation = expected
            assert other[1] == report, settings
            assert other[2] == evaluation, settings
            assert other[0] == content, settings


def test_stages_are_refused_before_any_folder_and_kept_by_one_alone(tmp_path: Path) -> None:
    for rank, found in enumerate(in_processes(2, tmp_path, resumes, str(tmp_path))):
        assert not isinstance(found, Exception), found
        told, made = found
        assert len(told) == 3 and not made
        assert all("stages are kept by one process alone, found 2" in text for text in told)
        assert (tmp_path / f"own{rank}" / "calibration.stage").exists()
