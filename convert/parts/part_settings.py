"""The settings of each part's conversion, out of those of the whole."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping, Sequence

from ..assembly.site_numbers import by_name
from ..errors import InputError
from ..network.settings import ConversionSettings


def check_settings(settings: ConversionSettings) -> None:
    """Refuses what makes sense for one graph alone.

    Raises:
        InputError: naming the setting.
    """
    for name in ("budget", "budget_operations", "budget_energy"):
        if getattr(settings, name) is not None:
            raise InputError(
                f"{name}= is divided among the sites of one graph, and modules= makes several; "
                "give max_loss= or budget_spikes=, which hold for each part, or per_site_steps="
            )


def of_part(settings: ConversionSettings, part: str) -> ConversionSettings:
    """The settings of a part but for numbers by site.

    A batch axis is one number for all parts, or given by ``part.input``.
    """
    axis = settings.batch_axis
    if isinstance(axis, Mapping):
        start = f"{part}."
        axis = {key[len(start) :]: a for key, a in axis.items() if key.startswith(start)} or None
    return dataclasses.replace(
        settings, batch_axis=axis, dynamic=None, modules=(), per_site_steps={}, per_site_gates={}
    )


def numbers_of_parts(
    settings: ConversionSettings, sites: Mapping[str, Sequence[str]]
) -> dict[str, ConversionSettings]:
    """The settings of every part, with K and gates of its own sites.

    Args:
        settings: of the whole; patterns name sites with their part.
        sites: the names of each part's own sites.

    Raises:
        SiteError: if a pattern matches no site of any part.
    """
    names = [f"{part}.{site}" for part, own in sites.items() for site in own]
    steps = by_name(names, settings.per_site_steps, "per_site_steps")
    gates = by_name(names, settings.per_site_gates, "per_site_gates")

    def own(part: str, numbers: Mapping[str, int]) -> dict[str, int]:
        """By patterns that match one site each."""
        known = {site: numbers.get(f"{part}.{site}") for site in sites[part]}
        return {glob.escape(site): n for site, n in known.items() if n is not None}

    return {
        part: dataclasses.replace(
            of_part(settings, part),
            per_site_steps=own(part, steps),
            per_site_gates=own(part, gates),
        )
        for part in sites
    }
