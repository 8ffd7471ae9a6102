"""Settings of a conversion, checked: the steps of the network and of single sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..errors import InputError, SiteError
from ..sites.find import Site


@dataclass(frozen=True)
class Automatic:
    """That K is chosen for every site.

    Args:
        max_loss: largest relative squared error of the outputs on the calibration images.
        budget: steps of all sites together; the error doesn't matter then.
    """

    max_loss: float = 0.005
    budget: int | None = None


def automatic(steps: Any, max_loss: Any, budget: Any) -> Automatic | None:
    """How K is chosen for every site; None where `steps` gives it.

    Raises:
        InputError: naming the setting that doesn't fit.
    """
    if not isinstance(steps, str):
        if max_loss is not None or budget is not None:
            raise InputError(f'max_loss and budget go with steps="auto", found steps={steps!r}')
        return None
    if steps != "auto":
        raise InputError(f'steps must be a whole number, several, or "auto", found {steps!r}')
    if max_loss is not None and budget is not None:
        raise InputError("give max_loss or budget, not both: each decides how many steps there are")
    if budget is not None:
        return Automatic(budget=_whole(budget, "budget"))
    if max_loss is None:
        return Automatic()
    if isinstance(max_loss, bool) or not isinstance(max_loss, int | float) or not 0 < max_loss < 1:
        raise InputError(f"max_loss must be a number between 0 and 1, found {max_loss!r}")
    return Automatic(float(max_loss))


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number >= 1, found {value!r}")
    return value


def wanted_steps(steps: Any) -> list[int]:
    """K, or several, as a list; InputError for what is no whole number or twice there."""
    wanted = list(steps) if isinstance(steps, list | tuple) else [steps]
    for k in wanted:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"steps must be a whole number K >= 1 (or several), found {steps!r}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"steps must name every K once, found {steps!r}")
    return wanted


def fixed_steps(sites: Sequence[Site], patterns: Mapping[str, int]) -> dict[str, int]:
    """K of the sites that have one of their own, by name."""
    special: dict[str, int] = {}
    for pattern, k in patterns.items():
        matched = [site.name for site in sites if fnmatchcase(site.name, pattern)]
        if not matched:
            known = ", ".join(site.name for site in sites[:5])
            raise SiteError(f"per_site_steps: no site matches {pattern!r}; there are e.g. {known}")
        special.update(dict.fromkeys(matched, wanted_steps(k)[0]))
    return special


def steps_by_site(
    sites: Sequence[Site], wanted: Sequence[int], fixed: Mapping[str, int]
) -> dict[int, dict[str, int]]:
    """K of every site, for each of the wanted K."""
    return {k: {site.name: fixed.get(site.name, k) for site in sites} for k in wanted}
