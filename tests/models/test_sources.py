"""Both sources of a conversion, for one model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import models
from models import DataError, ModelError, Preprocessing, TextPreprocessing
from models.sources import (
    check_classes,
    check_metric,
    drawn,
    left_out,
    open_sources,
    open_test,
    preprocessing_from,
)
from models.text import TextLoader

_IMAGES = Preprocessing(4, (0.5,) * 3, (0.5,) * 3, 10)
_TEXTS = TextPreprocessing("bytes", 256, None, True, 5)


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, x=rng.integers(0, 256, (60, 4, 4, 3), np.uint8), y=np.arange(60) ** 2 % 10)
    return str(path)


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be\n" * 20)
    return str(path)


def test_images(images: str) -> None:
    found = open_sources(images, images, _IMAGES, calibration_size=12, limit=7, batch_size=5)
    assert [len(y) for _, y in found.test] == [5, 2]
    assert sorted(set(torch.cat([y for _, y in found.calibration]).tolist())) == [0, 1, 4, 5, 6, 9]
    plain = open_sources(images, images, _IMAGES, calibration_size=12, evenly=False, seed=3)
    expected = models.load_images(images).sample(12, 3)
    assert torch.cat([y for _, y in plain.calibration]).tolist() == expected.y.tolist()


def test_labels_are_looked_at_where_they_count(images: str) -> None:
    few = Preprocessing(4, (0.5,) * 3, (0.5,) * 3, 9)
    with pytest.raises(DataError, match=r"0\.\.8"):
        open_sources(images, images, few)
    assert len(open_sources(images, images, few, labelled=False).test) == 2


def test_texts(text: str) -> None:
    found = open_sources(f"{text}[0.5:]", f"{text}[:0.5]", _TEXTS, calibration_size=6, limit=4)
    assert found.test.first(9)["input_ids"].shape == (4, 5)
    assert found.calibration.first(9)["input_ids"].shape == (6, 5)
    assert found.notes == ()
    lines = TextPreprocessing("bytes", 256, None, False, 10)
    both = open_sources(text, text, lines).notes
    assert "overlap" in both[0] and "20 of 20 lines are longer than 10 tokens" in both[1]


def test_sources_of_another_kind(text: str, images: str) -> None:
    with pytest.raises(DataError, match="npz"):
        open_test(text, _IMAGES)
    with pytest.raises(DataError, match="UTF-8"):
        open_test(images, _TEXTS)
    for prepare in (_IMAGES, _TEXTS):
        with pytest.raises(DataError, match="nowhere"):
            open_sources(images if prepare is _IMAGES else text, "nowhere", prepare)


def test_the_metric_that_suits_a_model() -> None:
    encoder = TextPreprocessing("bytes", 256, None, False, 5)
    usual = [check_metric(None, prepare) for prepare in (_IMAGES, _TEXTS, encoder)]
    assert usual == [None, "perplexity", "output"]
    assert check_metric("output", _IMAGES) == "output"
    for metric, prepare in (("perplexity", _IMAGES), ("accuracy", _TEXTS), ("perplexity", encoder)):
        with pytest.raises(ModelError, match="output"):
            check_metric(metric, prepare)


def test_a_model_with_another_number_of_outputs(images: str) -> None:
    sources = open_sources(images, images, _IMAGES)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 12))
    check_classes(model, sources, 12)
    with pytest.raises(ModelError, match="12 outputs, and 10 classes"):
        check_classes(model, sources, 10)
    check_classes(nn.Linear(3, 12), sources, 10)  # can't be called: told by what comes after


def test_what_a_file_keeps() -> None:
    for prepare in (_IMAGES, _TEXTS):
        assert preprocessing_from(prepare.to_dict()) == prepare
    with pytest.raises(ModelError, match="no preprocessing"):
        preprocessing_from("none")


_CLASSES = Preprocessing(4, (0.5,) * 3, (0.5,) * 3, 4, 5)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """Four classes of 1, 5, 9 and 20 photos of several sizes."""
    rng = np.random.default_rng(0)
    for label, count in enumerate((1, 5, 9, 20)):
        (tmp_path / f"c{label}").mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (6 + i, 25 - i, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"c{label}" / f"{i:02d}.jpg")
    return str(tmp_path)


def test_both_draws_are_even_and_the_seeds(photos: str) -> None:
    found = open_sources(photos, photos, _CLASSES, calibration_size=11, limit=13, seed=3)
    test, calibration = (
        torch.cat([y for _, y in source]).bincount().tolist()
        for source in (found.test, found.calibration)
    )
    assert test == [1, 4, 4, 4] and calibration[0] == 1 and set(calibration[1:]) == {3, 4}
    told = f"of 35 images of {photos}, drawn equally from every class by seed 3, in 4 classes"
    assert drawn(found.calibration, found.test) == [f"calibration: 11 {told}", f"test: 13 {told}"]
    several = [
        open_sources(
            photos, photos, _CLASSES, calibration_size=11, limit=13, seed=seed, workers=workers
        )
        for seed, workers in ((3, 2), (3, 0), (4, 0))
    ]
    x, same, other = (torch.cat([x for x, _ in source.test]) for source in several)
    assert torch.equal(x, same) and not torch.equal(x, other)
    alone = open_test(photos, _CLASSES, limit=13, seed=3)
    assert torch.equal(torch.cat([x for x, _ in alone]), x)
    assert drawn(open_test(photos, _CLASSES)) == [f"test: all 35 images of {photos}, in 4 classes"]


def test_images_in_both_sources_are_told(photos: str, images: str, tmp_path: Path) -> None:
    note = open_sources(photos, photos, _CLASSES, calibration_size=3, limit=None).notes
    assert "3 of 35 test images are calibration images" in note[0]
    assert open_sources(images, images, _IMAGES, limit=7).notes[0].startswith("7 of 7")
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros((40, 4, 4, 3), np.uint8), y=np.arange(40) % 10)
    assert open_sources(images, str(other), _IMAGES).notes == ()


def test_images_that_are_left_out_are_counted_by_source(photos: str) -> None:
    for name in ("c1/00.jpg", "c3/07.jpg"):
        (Path(photos) / name).write_bytes(b"nothing")
    skip = models.OnCorrupt(True, 2)
    found = open_sources(photos, photos, _CLASSES, batch_size=4, corrupt=skip)
    check_classes(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), found, 4)
    assert sum(len(y) for _, y in found.test) == 33
    told = left_out(test=found.test, calibration=found.calibration)
    # Two photos were looked for at the beginning of the calibration data.
    assert {name: len(each) for name, each in told.items()} == {"test": 2, "calibration": 1}
    assert [Path(n).name for n in told["test"].to_dict()["first"]] == ["00.jpg", "07.jpg"]
    assert left_out(texts=TextLoader) == {}  # type: ignore[arg-type]
