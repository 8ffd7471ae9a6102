"""Batches of images of any size: one by one, the same for any number of processes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from models import DataError, OnCorrupt, Preprocessing
from models.data import Images, Loader
from models.reading import read_batches

_PREPARE = Preprocessing(8, (0.5,) * 3, (0.25,) * 3, 3, 9)
_MIXED = [(9, 12), (12, 9), (30, 20), (8, 8), (16, 16), (10, 40), (11, 9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of 3, 2 and 2 images of any size; one of the first two each is damaged."""
    rng = np.random.default_rng(0)
    for i, size in enumerate(_MIXED):
        place = tmp_path / "abc"[i % 3] / f"{i}.jpg"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(place)
    for name in ("a/6.jpg", "b/4.jpg"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:200])
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_left_out_image_moves_no_label(folder: Path, workers: int) -> None:
    images = models.open_images(folder)
    loader = Loader(images, _PREPARE, 2, workers, OnCorrupt(True, 2))
    batches = list(loader)
    assert [y.tolist() for _, y in batches] == [[0, 0], [1], [2], [2]] and len(loader) == 4
    whole = [i for i in range(7) if i not in (2, 4)]
    for x, i in zip(torch.cat([x for x, _ in batches]), whole, strict=True):
        assert torch.equal(x, _PREPARE(images.image(i, gray=False)[None])[0])
    assert [Path(name).name for name in loader.left_out.names()] == ["6.jpg", "4.jpg"]
    list(loader)
    assert len(loader.left_out) == 2, "a second pass counts none twice"


def test_what_was_wrong_keeps_no_image(folder: Path) -> None:
    (read,) = read_batches(models.open_images(folder), _PREPARE, 9)
    assert sorted(read.failures) == [2, 4]
    for error in read.failures.values():
        assert error.__traceback__ is error.__cause__ is error.__context__ is None


@pytest.mark.parametrize("workers", [0, 2])
def test_without_the_switch_the_first_is_an_error(folder: Path, workers: int) -> None:
    with pytest.raises(DataError, match=r"^\S*a/6\.jpg can't be decoded") as error:
        list(Loader(models.open_images(folder), _PREPARE, 2, workers))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="more than 1 of 7 images"):
        list(Loader(models.open_images(folder), _PREPARE, 2, workers, OnCorrupt(True, 0.2)))


def test_the_first_few_are_of_those_that_can_be_decoded(folder: Path) -> None:
    loader = Loader(models.open_images(folder), _PREPARE, 2, corrupt=OnCorrupt(True, 2))
    x, y = loader.first(4)
    assert x.shape == (4, 3, 8, 8) and y.tolist() == [0, 0, 1, 2]
    assert loader.first(99)[1].tolist() == [0, 0, 1, 2, 2]
    images = models.open_images(folder)
    damaged = images._chosen(np.asarray([2, 4]))
    with pytest.raises(DataError, match="none of its images can be decoded"):
        Loader(damaged, _PREPARE, corrupt=OnCorrupt(True, 2)).first(1)


@pytest.mark.parametrize("resize", [None, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_by_one_gives_the_bits_of_all_at_once(resize: int | None, channels: int) -> None:
    prepare = Preprocessing(8, (0.4, 0.5, 0.6)[:channels], (0.2,) * channels, 3, resize)
    for size in ((8, 8), (16, 24), (5, 9)):
        x = np.random.default_rng(1).integers(0, 256, (5, *size, channels), np.uint8)
        images = models.Images(x, np.arange(5), "made up")
        (read,) = read_batches(images, prepare, 5)
        assert torch.equal(read.x, prepare(x)) and read.x.stride() == prepare(x).stride()
        assert read.y.tolist() == [0, 1, 2, 3, 4] and read.failures == {}


def test_only_what_was_drawn_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    read: Callable[..., bytes] = models.image_files.Place.read

    def noted(place: models.image_files.Place) -> bytes:
        opened.append(Path(place.name).name)
        return read(place)

    monkeypatch.setattr(models.image_files.Place, "read", noted)
    drawn = models.open_images(folder).sample_evenly(2, seed=5)
    assert opened == []
    loader = Loader(drawn, _PREPARE, 1, corrupt=OnCorrupt(True, 2))
    next(iter(loader))
    assert len(opened) <= 2
    opened.clear()
    list(loader)
    assert sorted(opened) == sorted(Path(p.name).name for p in drawn.places)  # type: ignore[union-attr]


class _Ends:
    y = np.zeros(3, np.int64)

    def image(self, index: int, *, gray: bool) -> np.ndarray:
        import os

        os._exit(7)


def test_a_process_that_ends_is_one_line() -> None:
    with pytest.raises(DataError, match="fewer --workers") as error:
        list(read_batches(_Ends(), _PREPARE, 2, workers=1))
    assert "\n" not in str(error.value)


def test_a_temporary_folder_whose_path_is_too_long_for_sockets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = Images(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), "four")
    monkeypatch.setattr("tempfile.tempdir", "/tmp/" + "x" * 71)
    with pytest.raises(DataError, match=r"has 76 characters, too many .*75 at most.*set TMPDIR"):
        next(images.read(_PREPARE, 2, workers=1))
    assert len(list(images.read(_PREPARE, 2))) == 2
