"""Picture files are whole or not there, and names are shown as they are."""

import os
from pathlib import Path

import pytest

from convert import InputError
from convert.inspect.pictures import ending_of, new_figure, number, plain, written

_HEADS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "PNG"])
def test_endings(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    figure = new_figure(2, 1)
    assert written(figure, path, ending_of(path)) is figure
    assert path.read_bytes().startswith(_HEADS[ending.lower()])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_link_to_a_file_of_another_ending(tmp_path: Path) -> None:
    target = tmp_path / "kept.data"
    target.write_bytes(b"old")
    (tmp_path / "a.svg").symlink_to(target)
    written(new_figure(2, 1), tmp_path / "a.svg", ending_of(tmp_path / "a.svg"))
    assert target.read_bytes().startswith(b"<?xml") and (tmp_path / "a.svg").is_symlink()


@pytest.mark.parametrize("name", ["a.jpeg", "a", "png", ".png", "a.png.gz"])
def test_other_endings(name: str) -> None:
    with pytest.raises(InputError, match=r"written as \.png, \.svg, \.pdf, found .*; rename it"):
        ending_of(name)
    assert ending_of(None) == ""


def test_a_picture_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = new_figure(2, 1)

    def fails(target: os.PathLike[str], **settings: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fails)
    with pytest.raises(InputError, match=r"can't write .*a\.png: No space left"):
        written(figure, path, "png")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [-1, 3, 1.5, True, "2", None])
def test_numbers_that_are_none(value: object) -> None:
    with pytest.raises(InputError, match=r"image must be a whole number from 0 to 2, found "):
        number(value, "image", 0, 3)
    assert number(2, "image", 0, 3) == 2


def test_names_are_no_formulas() -> None:
    figure = new_figure(2, 1)
    text = figure.text(0, 0, plain("a$b$^_ c", 20))
    figure.draw_without_rendering()
    assert text.get_text() == r"a\$b\$^_ c"
    # The end of a long name tells sites apart.
    assert plain("encoder.layers.encoder_layer_0.mlp.1", 15) == "…_layer_0.mlp.1"
    assert len(plain("layer." * 5000, 26)) == 26
