"""Writes pages: one HTML file each, with its style, its script and its pictures inside."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..common.files import atomic_path
from ..errors import InputError
from ..evaluation.result import Evaluation
from ..inspect.correlation import Correlation
from ..inspect.energy_report import Energy
from ..inspect.operation_counts import OperationCounts
from ..network.model import SpikingModel
from . import charts, contents, site_pictures, words
from .comparison import compared
from .given import Conversion


def write_report(
    path: str | os.PathLike[str],
    snn: SpikingModel,
    result: Evaluation | None = None,
    counts: OperationCounts | None = None,
    energy: Energy | None = None,
    *,
    correlation: Correlation | None = None,
    images: Any = None,
    name: str = "",
    details: Mapping[str, str] | None = None,
) -> None:
    """Writes a page on one converted network; what isn't given is said to be missing.

    Args:
        path: by convention ``report.html``; written whole or not at all.
        snn: from `to_spiking` or `load`, outside of its blocks.
        result: from `evaluate`.
        counts: from `count_operations`.
        energy: of these counts; at the usual costs if left out.
        correlation: from `correlate`: what is weak, and what to change.
        images: one batch in any form of calibration; counts and correlation that are left out are
            made on it.
        name: of the network; that in ``snn.metadata["model"]`` if empty.
        details: what else is needed to make it again, by name: a command, the preprocessing.

    Raises:
        InputError: for measurements of another network, or a path that can't be written.
    """
    given = Conversion(snn, result, counts, energy, correlation, name, dict(details or {}))
    found = contents.contents_of(given.measured(images))
    _write(path, "report.html", page=found)


def write_comparison(
    path: str | os.PathLike[str],
    first: Conversion | SpikingModel,
    second: Conversion | SpikingModel,
) -> None:
    """Writes a page that shows two conversions side by side.

    Args:
        path: by convention ``compare.html``; written whole or not at all.
        first, second: converted networks, with what was measured of them.

    Raises:
        InputError: for what is no conversion, or a path that can't be written.
    """
    both = [_conversion(each).measured(None) for each in (first, second)]
    if both[0].title == both[1].title:
        both = [replace(c, name=f"{c.title} ({n})") for c, n in zip(both, ("A", "B"), strict=True)]
    _write(path, "comparison.html", page=compared(*map(contents.contents_of, both)))


def _conversion(given: object) -> Conversion:
    if isinstance(given, SpikingModel):
        return Conversion(given)
    if isinstance(given, Conversion):
        return given
    raise InputError(
        f"a comparison takes converted networks, or a Conversion of each, found a "
        f"{type(given).__name__}"
    )


def _write(path: str | os.PathLike[str], template: str, **values: Any) -> None:
    text = _environment().get_template(template).render(**values)
    with atomic_path(path) as temporary:
        # A name may hold half a surrogate pair, which no file can.
        temporary.write_text(text, encoding="utf-8", errors="replace")


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("convert.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    read = found.loader.get_source  # type: ignore[union-attr]
    script = read(found, "page.js")[0]
    found.globals.update(
        style=Markup(read(found, "page.css")[0]),
        script=Markup(script),
        # Only this script runs on the page, whatever a name holds.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        key=charts.key,
        site_picture=site_pictures.site_picture,
        cost_text=contents.cost_text,
    )
    found.filters.update(
        percent=words.percent,
        figure=words.figure,
        counted=words.counted,
        breakable=words.breakable,
    )
    return found
