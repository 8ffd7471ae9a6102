"""The two sources of a conversion, test and calibration, as batches for one model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .data import check_source, open_images
from .errors import ModelError
from .image_files import BY_FOLDER
from .labelled import Loader
from .preprocessing import Preprocessing
from .text import TextLoader, TextPreprocessing, Texts, load_texts, part_of


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
) -> Sources:
    """Opens both sources; images are decoded only when a batch is wanted.

    Args:
        data: the SOURCE of the test: see `data.open_images`, or of texts `text.part_of`.
        calibration: the SOURCE to convert with.
        preprocessing: what the model expects.
        calibration_size: the most images or texts to convert with, drawn by `seed`.
        limit: the most images or texts to test with; all if None.
        seed: of the draw.
        batch_size: images or texts of a batch.
        workers: processes that decode images ahead.
        evenly: draws equally many images from every class.
        labelled: whether the labels are to be those of the model's classes.
        labels: how the class of an image file is told, see `image_files.labelled_by`.
        root: where torchvision keeps its downloads.
        varying: pads texts to the longest of a batch only.

    Raises:
        DataError: for a source that can't be used.
        ModelError: if a tokenizer can't be had.
    """
    check_sources(data, calibration, preprocessing, labels)
    if isinstance(preprocessing, TextPreprocessing):
        test, drawn = load_texts(data, preprocessing), load_texts(calibration, preprocessing)
        return Sources(
            TextLoader(test.limited(limit), batch_size, varying=varying),
            TextLoader(drawn.sample(calibration_size, seed), batch_size, varying=varying),
            notes=_notes_on(test, drawn),
        )
    images = open_images(calibration, train=True, root=root, labels=labels)
    return Sources(
        open_test(
            data, preprocessing, limit=limit, batch_size=batch_size, workers=workers,
            labelled=labelled, labels=labels, root=root,
        ),
        Loader(
            (images.sample_evenly if evenly else images.sample)(calibration_size, seed),
            preprocessing,
            batch_size,
            workers,
        ),
        images.classes,
    )  # fmt: skip


def open_test(
    data: str,
    preprocessing: Preprocessing | TextPreprocessing,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    labelled: bool = True,
    labels: str = BY_FOLDER,
    root: str | os.PathLike[str] = "data",
) -> Batches:
    """Opens the source of a test alone; see `open_sources`.

    Raises:
        DataError: for a source that can't be used.
        ModelError: if a tokenizer can't be had.
    """
    if isinstance(preprocessing, TextPreprocessing):
        return TextLoader(load_texts(data, preprocessing).limited(limit), batch_size)
    test = open_images(data, train=False, root=root, labels=labels).limited(limit)
    if labelled:
        test.check_labels(preprocessing.classes)
    return Loader(test, preprocessing, batch_size, workers)


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
    batch = next(iter(sources.calibration))
    if not isinstance(batch, tuple | list):
        return
    try:
        with torch.no_grad():
            outputs = model(batch[0][:2].to(device))
    except Exception:
        return
    logits = getattr(outputs, "logits", outputs)
    if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[1] != classes:
        raise ModelError(
            f"the model has {logits.shape[1]} outputs, and {classes} classes are asked for; give "
            f"--classes {logits.shape[1]}, or the model and the data that belong together"
        )
