"""A saved network and the data that it is measured on, as several commands take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .endings import WRONG_USE, Refusal
from .options import Preparing, Tested, given_preparing

if TYPE_CHECKING:
    import convert
    import models
    from models.sources import Batches

BAD_NETWORK, BAD_DATA = 3, 4
CODES = f"""\
  {BAD_NETWORK}    FILE can't be loaded: missing, damaged, or written by a newer version
  {BAD_DATA}    the images or the checkpoint can't be used
"""


def opened(file: str, device: str = "cpu") -> convert.SpikingModel:
    """The network in a file.

    Raises:
        Refusal: if it can't be loaded, or there is no such device.
    """
    import convert
    from fewspikes import models

    from .our_models import devices

    try:
        place = devices.device_named(device)
    except models.ModelError as error:
        raise Refusal(WRONG_USE, f"--device: {error}") from error
    try:
        return convert.load(file, device=place)
    except convert.ConversionError as error:
        raise Refusal(BAD_NETWORK, error) from error


def prepared(
    snn: convert.SpikingModel, file: str, options: Preparing
) -> models.Preprocessing | models.TextPreprocessing:
    """What the file says of its images or texts, with the options in place of it.

    Raises:
        Refusal: if it doesn't say how images are prepared, and the options don't either.
    """
    from fewspikes import models

    from .our_models import sources

    given = given_preparing(options)
    stored = snn.metadata.get("preprocessing")
    stored = stored if isinstance(stored, dict) else {}
    if "tokenizer" in stored and not any(given.values()):
        return sources.preprocessing_from(stored)
    if set(given) <= set(stored):
        return models.with_options(models.Preprocessing.from_dict(stored), **given)
    merged = {**stored, **{key: value for key, value in given.items() if value is not None}}
    missing = [f"--{key}" for key in given if key not in merged]
    if missing:
        raise Refusal(
            WRONG_USE,
            f"{file} doesn't say how its images are prepared; give {' '.join(missing)}",
        )
    return models.Preprocessing.from_dict(merged)


def open_data(
    source: str,
    preparing: models.Preprocessing | models.TextPreprocessing,
    options: Tested,
    *,
    labelled: bool,
) -> Batches:
    """The images or texts of a test.

    Args:
        source: what --data names.
        preparing: what the network expects.
        options: of the command.
        labelled: whether the labels are to be those of the network's classes.
    """
    from fewspikes import models

    from .our_models import sources

    return sources.open_test(
        source,
        preparing,
        limit=options.limit,
        seed=options.seed,
        batch_size=options.batch_size,
        labelled=labelled,
        labels=options.labels,
        workers=options.workers,
        root=options.root,
        corrupt=models.OnCorrupt(options.corrupt == "skip", options.corrupt_limit),
        progress=not options.quiet,
    )
