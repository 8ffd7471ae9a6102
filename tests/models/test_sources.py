"""Both sources of a conversion, for one model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import models
from models import DataError, ModelError, Preprocessing, TextPreprocessing
from models.sources import check_classes, check_metric, open_sources, open_test, preprocessing_from

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
