"""K, or the number of gates, of the sites that have one of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ..errors import SiteError
from ..network.settings import ConversionSettings
from ..sites.find import Site


def by_site(sites: Sequence[Site], patterns: Mapping[str, int], setting: str) -> dict[str, int]:
    """The numbers of these sites, by name.

    Args:
        sites: all sites.
        patterns: numbers by name or glob; of several that match a site, the last decides.
        setting: where they come from.

    Raises:
        SiteError: if a pattern matches no site.
    """
    return by_name([site.name for site in sites], patterns, setting)


def by_name(names: Sequence[str], patterns: Mapping[str, int], setting: str) -> dict[str, int]:
    """The same of sites that are given by their names."""
    special: dict[str, int] = {}
    for pattern, number in patterns.items():
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            known = ", ".join(names[:5])
            raise SiteError(f"{setting}: no site matches {pattern!r}; there are e.g. {known}")
        special.update(dict.fromkeys(matched, number))
    return special


def gates_of(sites: Sequence[Site], settings: ConversionSettings) -> dict[str, int]:
    """The gates of every site, by its name.

    Raises:
        SiteError: if a pattern of `per_site_gates` matches no site.
    """
    own = by_site(sites, settings.per_site_gates, "per_site_gates")
    return {site.name: own.get(site.name, settings.gates) for site in sites}
