import math

import numpy as np
import pytest

from convert.pages.svg import Axis, bar_path, line_path, short, stair_path


def test_short() -> None:
    assert [short(x) for x in (3.0, 3.14159, -0.01, 120.26)] == ["3", "3.1", "0", "120.3"]


def test_a_line_is_broken_where_a_point_has_no_value() -> None:
    points = [(0, 1), (1, 2.25), (2, math.nan), (3, 4)]
    assert line_path(points) == "M0 1L1 2.2M3 4"


def test_stairs_go_up_halfway() -> None:
    assert stair_path([0, 10, 20, 30], [5, 5, 8, 8]) == "M0 5H15V8H30"
    assert stair_path([0, 10, 20, 30], [5, math.nan, 8, 8]) == "M0 5H0M20 8H30"


def test_bars_without_height_are_left_out() -> None:
    assert bar_path([0, 10, 20], [4, 100], 100) == "M0 100V4H10V100Z"


def test_places_on_an_axis() -> None:
    axis = Axis(-1, 3, 100, 0)
    assert axis.place(1) == 50 and math.isnan(axis.place(math.inf))
    log = Axis(0.01, 100, 0, 40, log=True)
    assert log.places(np.array([0.01, 1, 100])) == pytest.approx([0, 20, 40])
    assert math.isnan(log.place(-1))


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 1, 0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis(0.8, 1, 0, 1), [0.8, 0.85, 0.9, 0.95, 1]),
        (Axis(0.5, 2000, 0, 1, log=True), [1, 10, 100, 1000]),
        (Axis(2, 5, 0, 1, log=True), [2, 5]),
    ],
)
def test_ticks_are_round(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks() == pytest.approx(ticks)
