"""Settings of a conversion, checked: the steps of the network and of single sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from .errors import InputError, SiteError
from .sites import Site


def wanted_steps(steps: Any) -> list[int]:
    """K, or several, as a list; InputError for what is no whole number or twice there."""
    wanted = list(steps) if isinstance(steps, list | tuple) else [steps]
    for k in wanted:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"steps must be a whole number K >= 1 (or several), found {steps!r}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"steps must name every K once, found {steps!r}")
    return wanted


def steps_by_site(
    sites: Sequence[Site], wanted: Sequence[int], patterns: Mapping[str, int]
) -> dict[int, dict[str, int]]:
    """K of every site, for each of the wanted K."""
    special: dict[str, int] = {}
    for pattern, k in patterns.items():
        matched = [site.name for site in sites if fnmatchcase(site.name, pattern)]
        if not matched:
            known = ", ".join(site.name for site in sites[:5])
            raise SiteError(f"per_site_steps: no site matches {pattern!r}; there are e.g. {known}")
        special.update(dict.fromkeys(matched, wanted_steps(k)[0]))
    return {k: {site.name: special.get(site.name, k) for site in sites} for k in wanted}
