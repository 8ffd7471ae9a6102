"""How many images may be left out, and what is told of them."""

import pytest

from models import DataError, OnCorrupt
from models.corrupt import LeftOut
from models.decoding import CorruptImageError


def _failures(*numbers: int) -> dict[int, CorruptImageError]:
    return {n: CorruptImageError(f"{n}.jpg", "broken") for n in numbers}


def test_the_first_is_an_error_unless_they_are_left_out() -> None:
    with pytest.raises(CorruptImageError, match=r"3\.jpg .*--corrupt skip"):
        LeftOut("photos", 9, OnCorrupt()).add(_failures(3))


@pytest.mark.parametrize(
    ("limit", "images", "most"),
    [(2, 100, 2), (0.02, 100, 2), (0.29, 100, 29), (1.0, 7, 7), (0, 9, 0)],
)
def test_a_limit_is_a_number_or_a_share(limit: float, images: int, most: int) -> None:
    left_out = LeftOut("photos", images, OnCorrupt(True, limit))
    left_out.add(_failures(*range(most)))
    assert len(left_out) == most
    with pytest.raises(DataError, match=rf"photos: more than {most} of {images} .*--corrupt-limit"):
        left_out.add(_failures(most))


def test_each_is_counted_once_and_the_first_few_are_named() -> None:
    left_out = LeftOut("photos", 100, OnCorrupt(True, 50))
    left_out.add(_failures(8, 1))
    left_out.add(_failures(1, 8, 5, 6, 7, 9))
    assert left_out.names() == ["1.jpg", "5.jpg", "6.jpg", "7.jpg", "8.jpg"]
    assert left_out.to_dict() == {
        "source": "photos", "count": 6, "of": 100, "first": left_out.names(),
    }  # fmt: skip
    assert str(left_out).startswith("6 of 100 images of photos")
    assert str(left_out).endswith("7.jpg, 8.jpg and 1 more")
