"""What is shown of long and odd texts."""

import pytest

from convert.common.messages import shortened


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("two\nlines\tand more", "two lines and more"),
        ("a\0b\x1b[1m", r"a\x00b\x1b[1m"),
        ("\ud800", r"\ud800"),
        (12, "12"),
    ],
)
def test_one_line_that_can_be_printed(text: object, expected: str) -> None:
    assert shortened(text) == expected


@pytest.mark.parametrize("length", [301, 1200, 1201, 10**6])
def test_long_texts_lose_their_middle(length: int) -> None:
    found = shortened("a" + "x" * (length - 2) + "z")
    assert len(found) < 310 and found.startswith("ax") and found.endswith("xz") and " ... " in found
