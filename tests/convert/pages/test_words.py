import math

import pytest

from convert.pages.words import breakable, counted, figure, likely_share, percent


def test_numbers_that_are_missing_are_dashes() -> None:
    assert percent(None) == percent(math.nan) == figure(None) == figure(math.nan) == "–"
    assert figure(math.inf) == "infinite" and figure(-math.inf) == "minus infinite"


def test_numbers() -> None:
    assert percent(0.98765) == "98.8 %" and percent(0.00123, 2) == "0.12 %"
    assert [figure(v) for v in (0.0, 0.012345, 999.4, 123456.0)] == [
        "0",
        "0.0123",
        "999",
        "123,456",
    ]
    assert figure(41.4e6) == "41.4 million" and figure(2.5e9) == "2.5 billion"
    assert counted(1, "image") == "1 image" and counted(2000, "image") == "2,000 images"


def test_a_share_of_few_images_is_uncertain() -> None:
    low, high = likely_share(1.0, 5)
    assert low == pytest.approx(0.566, abs=1e-3) and high == pytest.approx(1)
    low, high = likely_share(0.9, 10_000)
    assert 0.89 < low < 0.9 < high < 0.91


def test_a_name_breaks_behind_dots_and_is_escaped() -> None:
    assert breakable("a.<b>") == "a.<wbr>&lt;b&gt;"
