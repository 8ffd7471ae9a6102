"""`fewspikes report`: a page for a browser on one saved network, or on two side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import kinds
from .endings import WRONG_USE, Refusal, ended
from .left_out import told_left_out
from .options import (
    DATA,
    GENERAL,
    MEASURES,
    MODEL,
    SOURCES,
    Device,
    JsonFlag,
    Network,
    Tested,
    text,
    together,
    value,
)
from .results import as_typed, json_alone
from .saved import BAD_DATA, open_data, opened, prepared

if TYPE_CHECKING:
    import convert

EXAMPLES = """\
Examples:
  fewspikes report out/resnet20_silu.fsnn --data cifar10
  fewspikes report k4.fsnn k8.fsnn --data cifar10 --limit 500 --output compare.html
  fewspikes report net.fsnn
"""
# Images on which operations are counted, and each site's values are compared.
_FEW = 8

Other = Annotated[
    str | None, text("OTHER", "a second network, to be compared with the first", MODEL)
]


@dataclass(kw_only=True)
class PageOptions(Tested):
    """What `fewspikes report` takes beside the files."""

    data: Annotated[
        str | None,
        text("SOURCE", f"to measure on; no accuracy is shown without it: {SOURCES}", DATA),
    ] = None
    by_site: Annotated[
        int,
        value(kinds.count, "N", "images on which each site's error is measured; 0: none", MEASURES),
    ] = 64
    device: Device = "cpu"
    json: JsonFlag = False
    output: Annotated[
        Path | None,
        value(
            kinds.place,
            "FILE",
            "the page; report.html if left out, compare.html for two networks",
            GENERAL,
        ),
    ] = None


_NONE_GIVEN = PageOptions()


def write_page(
    file: Network,
    other: Other = None,
    /,
    *,
    options: Annotated[PageOptions, together()] = _NONE_GIVEN,
) -> int:
    """Writes a page for a browser: what a saved network gives, or two of them side by side.

    The network is compared with its original, whose exact functions are in its file.
    """
    output = options.output or Path("report.html" if other is None else "compare.html")
    files = [file] if other is None else [file, other]
    return ended(lambda: _run(files, output, options), traceback=options.traceback, files=[output])


def _run(files: list[str], output: Path, options: PageOptions) -> None:
    """Loads, measures if there is data, and writes the page."""
    import convert
    from convert.pages.verdict import verdict_on
    from fewspikes import models

    with json_alone(options.json) as tell:
        networks = [_whole(file, options) for file in files]
        try:
            found = [_measured(*pair, options) for pair in zip(files, networks, strict=True)]
            _write(output, found)
        except (convert.ConversionError, models.ModelError, models.DataError) as error:
            raise Refusal(BAD_DATA, error) from error
        told = []
        for file, (one, _) in zip(files, found, strict=True):
            verdict = verdict_on(one.report, one.result, None)
            told.append({"file": file, "grade": verdict.grade, "headline": verdict.headline})
            print(f"{file}: {verdict.headline}. {' '.join(verdict.figures)}")
        print(f"written: {output}")
        tell({"networks": told, "files": [str(output)]})


def _write(output: Path, found: list[tuple[convert.Conversion, Any]]) -> None:
    """The page on one network, or on two, each with images to count operations on."""
    import convert

    if len(found) == 1:
        ((only, images),) = found
        convert.write_report(
            output, only.snn, only.result, images=images, name=only.name, details=only.details
        )
    else:
        convert.write_comparison(output, *(one.measured(images) for one, images in found))


def _whole(file: str, options: PageOptions) -> convert.SpikingModel:
    """The network in a file, which isn't parts of a model.

    Raises:
        Refusal: if it is, or can't be loaded.
    """
    from convert.parts.model import SpikingParts

    snn = opened(file, options.device)
    if isinstance(snn, SpikingParts):
        raise Refusal(
            WRONG_USE,
            f"{file} holds parts of a model; put them into it in Python, load(path, model=model), "
            "and call write_report",
        )
    return snn


def _measured(
    file: str, snn: convert.SpikingModel, options: PageOptions
) -> tuple[convert.Conversion, Any]:
    """A network with its evaluation, and a few images; None without data."""
    import convert

    from .our_models import sources

    name, details = Path(file).stem, {"command": as_typed()}
    if options.data is None:
        return convert.Conversion(snn, name=name, details=details), None
    preparing = prepared(snn, file, options)
    metric = sources.check_metric(None, preparing)
    test = open_data(options.data, preparing, options, labelled=metric in (None, "accuracy"))
    result = convert.evaluate(
        snn, None, test, metric=metric, by_site=options.by_site, progress=not options.quiet
    )
    told_left_out(options, sources.left_out(test=test))
    details["preprocessing"] = str(preparing)
    return convert.Conversion(snn, result, name=name, details=details), test.first(_FEW)
