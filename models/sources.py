"""The two sources of a conversion, test and calibration, as batches for one model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .corrupt import LeftOut, OnCorrupt
from .data import check_source, open_images
from .errors import ModelError
from .image_files import BY_FOLDER
from .labelled import Labelled, Loader
from .preprocessing import Preprocessing
from .text import TextLoader, TextPreprocessing, Texts, load_texts, part_of

_ERROR = OnCorrupt()


class Batches(Protocol):
    """What can be gone through again and again."""

    def __iter__(self) -> Iterator[Any]:
        """Goes through the batches in order."""

    def __len__(self) -> int:
        """The number of batches."""

    def first(self, count: int) -> Any:
        """A batch of the first `count` images or texts."""


@dataclass(frozen=True)
class Sources:
    """Batches for one model.

    Args:
        test: what is measured.
        calibration: what is converted with.
        classes: names of the classes by number; empty where they aren't known.
        notes: what a reader of the figures should know of the data.
    """

    test: Batches
    calibration: Batches
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_metric(
    metric: str | None, preprocessing: Preprocessing | TextPreprocessing
) -> str | None:
    """The metric that a model is measured by; None for the usual one of a classifier of images.

    Raises:
        ModelError: for one that the model's data has no labels for.
    """
    if isinstance(preprocessing, TextPreprocessing):
        fitting = ("perplexity", "output") if preprocessing.causal else ("output",)
    else:
        fitting = ("accuracy", "output")
    if metric is not None and metric not in fitting:
        raise ModelError(
            f"the metric {metric!r} doesn't suit a model of this kind and its data; choose "
            f"{' or '.join(fitting)}"
        )
    usual = None if fitting[0] == "accuracy" else fitting[0]
    return metric or usual


def check_sources(
    data: str, calibration: str, preprocessing: Preprocessing | TextPreprocessing, labels: str
) -> None:
    """Refuses sources that don't exist, before anything is read.

    Raises:
        DataError: naming the first.
    """
    for source in (data, calibration):
        if isinstance(preprocessing, TextPreprocessing):
            part_of(source)
        else:
            check_source(source, labels)


def open_sources(
    data: str,
    calibration: str,
    preprocessing: Preprocessing | TextPreprocessing,
    *,
    calibration_size: int = 512,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    evenly: bool = True,
    labelled: bool = True,
    labels: str = BY_FOLDER,
    root: str | os.PathLike[str] = "data",
    varying: bool = False,
    corrupt: OnCorrupt = _ERROR,
    progress: bool = False,
) -> Sources:
    """Opens both sources; images are drawn by file and class, and decoded when a batch is wanted.

    Args:
        data: the SOURCE of the test: see `data.open_images`, or of texts `text.part_of`.
        calibration: the SOURCE to convert with.
        preprocessing: what the model expects.
        calibration_size: the most images or texts to convert with, drawn by `seed`.
        limit: the most images to test with, drawn by `seed` equally from every class, or texts
            from evenly spaced places; all if None.
        seed: of the draws.
        batch_size: images or texts of a batch.
        workers: processes that decode images ahead.
        evenly: draws equally many calibration images from every class.
        labelled: whether the labels are to be those of the model's classes.
        labels: how the class of an image file is told, see `image_files.labelled_by`.
        root: where torchvision keeps its downloads.
        varying: pads texts to the longest of a batch only.
        corrupt: what is done about images that can't be decoded.
        progress: shows a bar on stderr while archives are looked through.

    Raises:
        DataError: for a source that can't be used.
        ModelError: if a tokenizer can't be had.
    """
    check_sources(data, calibration, preprocessing, labels)
    if isinstance(preprocessing, TextPreprocessing):
        texts, others = load_texts(data, preprocessing), load_texts(calibration, preprocessing)
        return Sources(
            TextLoader(texts.limited(limit), batch_size, varying=varying),
            TextLoader(others.sample(calibration_size, seed), batch_size, varying=varying),
            notes=_notes_on(texts, others),
        )
    test = open_test(
        data, preprocessing, limit=limit, seed=seed, batch_size=batch_size, workers=workers,
        labelled=labelled, labels=labels, root=root, corrupt=corrupt, progress=progress,
    )  # fmt: skip
    images = open_images(calibration, train=True, root=root, labels=labels, progress=progress)
    chosen = (images.sample_evenly if evenly else images.sample)(calibration_size, seed)
    told = _drawn("calibration", chosen, images, seed, evenly=evenly)
    loader = Loader(chosen, preprocessing, batch_size, workers, corrupt, told)
    return Sources(test, loader, images.classes, _overlap(test, loader))


def open_test(
    data: str,
    preprocessing: Preprocessing | TextPreprocessing,
    *,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    labelled: bool = True,
    labels: str = BY_FOLDER,
    root: str | os.PathLike[str] = "data",
    corrupt: OnCorrupt = _ERROR,
    progress: bool = False,
) -> Batches:
    """Opens the source of a test alone; see `open_sources`.

    Raises:
        DataError: for a source that can't be used.
        ModelError: if a tokenizer can't be had.
    """
    if isinstance(preprocessing, TextPreprocessing):
        return TextLoader(load_texts(data, preprocessing).limited(limit), batch_size)
    images = open_images(data, train=False, root=root, labels=labels, progress=progress)
    chosen = images.first(None) if limit is None else images.sample_evenly(limit, seed)
    if labelled:
        chosen.check_labels(preprocessing.classes)
    told = _drawn("test", chosen, images, seed, evenly=True)
    return Loader(chosen, preprocessing, batch_size, workers, corrupt, told)


def _drawn(what: str, chosen: Labelled, images: Labelled, seed: int, *, evenly: bool) -> str:
    """How images were drawn, in a line."""
    kinds = len(np.unique(chosen.y))
    if len(chosen) == len(images):
        return f"{what}: all {len(images)} images of {images.source}, in {kinds} classes"
    how = "equally from every class" if evenly else "from all"
    return (
        f"{what}: {len(chosen)} of {len(images)} images of {images.source}, drawn {how} by seed "
        f"{seed}, in {kinds} classes"
    )


def drawn(*sources: Batches) -> list[str]:
    """How the images of each source were drawn, in a line each."""
    return [source.drawn for source in sources if isinstance(source, Loader) and source.drawn]


def left_out(**sources: Batches) -> dict[str, LeftOut]:
    """Images that couldn't be decoded, by the names of their sources; no texts."""
    return {name: s.left_out for name, s in sources.items() if isinstance(s, Loader)}


def _overlap(test: Batches, calibration: Batches) -> tuple[str, ...]:
    """What is said of images in both sources."""
    if not isinstance(test, Loader) or not isinstance(calibration, Loader):
        return ()
    seen = set(calibration.images.identities())
    both = sum(key in seen for key in test.images.identities())
    if not both:
        return ()
    return (
        f"{both} of {len(test.images)} test images are calibration images, too: the figures may be "
        "too good; give other images",
    )


def _notes_on(test: Texts, drawn: Texts) -> tuple[str, ...]:
    """What a reader of the figures should know of two texts."""
    notes = []
    if part_of(test.source).overlaps(part_of(drawn.source)):
        notes.append(
            "the test text and the calibration text overlap: the figures are too good; give parts, "
            "as text.txt[0:0.9] and text.txt[0.9:1]"
        )
    for texts in (test, drawn):
        if texts.shortened:
            notes.append(
                f"{texts.source}: {texts.shortened} of {len(texts)} lines are longer than "
                f"{texts.preprocessing.length} tokens and were cut; --length changes that"
            )
    return tuple(notes)


def preprocessing_from(values: Any) -> Preprocessing | TextPreprocessing:
    """The preprocessing that a file keeps.

    Raises:
        ModelError: for what is none.
    """
    texts = isinstance(values, dict) and "tokenizer" in values
    return TextPreprocessing.from_dict(values) if texts else Preprocessing.from_dict(values)


def check_classes(model: nn.Module, sources: Sources, classes: int) -> None:
    """Refuses a classifier that has another number of outputs than the data has classes.

    A model that can't be called with the images is left to what comes after.

    Raises:
        ModelError: with both numbers.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = sources.calibration.first(2)
    if not isinstance(batch, tuple | list):
        return
    try:
        with torch.no_grad():
            outputs = model(batch[0].to(device))
    except Exception:
        return
    logits = getattr(outputs, "logits", outputs)
    if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[1] != classes:
        raise ModelError(
            f"the model has {logits.shape[1]} outputs, and {classes} classes are asked for; give "
            f"--classes {logits.shape[1]}, or the model and the data that belong together"
        )
