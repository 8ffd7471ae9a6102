"""K of the sites that have one of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ..errors import SiteError
from ..sites.find import Site


def fixed_steps(sites: Sequence[Site], patterns: Mapping[str, int]) -> dict[str, int]:
    """K of these sites, by name.

    Args:
        sites: all sites.
        patterns: K by name or glob; of several that match a site, the last decides.

    Raises:
        SiteError: if a pattern matches no site.
    """
    special: dict[str, int] = {}
    for pattern, k in patterns.items():
        matched = [site.name for site in sites if fnmatchcase(site.name, pattern)]
        if not matched:
            known = ", ".join(site.name for site in sites[:5])
            raise SiteError(f"per_site_steps: no site matches {pattern!r}; there are e.g. {known}")
        special.update(dict.fromkeys(matched, k))
    return special
