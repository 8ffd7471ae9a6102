"""What a change of the plan of a whole model changes of the plan of one of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..network.model import SpikingModel
from ..network.run_plan import RunPlan


def fit_of_part(network: SpikingModel, fit: int | None) -> int | None:
    """The K of a part for that of the whole."""
    return None if fit == network.fitted_as else fit


def plan_of_part(
    part: str, network: SpikingModel, before: RunPlan, plan: RunPlan, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """What a change of the plan of the whole changes of a part's plan.

    Args:
        part: its name.
        network: its network.
        before, plan: of the whole.
        changes: what has changed between them.
    """
    now = network.plan
    found = {key: changes[key] for key in ("corrected", "check_inputs") if key in changes}
    if "fit" in changes or "readout" in changes:
        found["fit"] = fit_of_part(network, plan.fit)
        if plan.readout is not None:
            # A part with fewer steps is whole after its last one.
            found["readout"] = min(plan.readout, network._longest(found["fit"]))
        elif "readout" in changes:
            found["readout"] = None
    if plan.spiking is not None and "spiking" in changes:
        start = f"{part}."
        own = {s[len(start) :] for s in plan.spiking if s.startswith(start)} & set(network.names)
        found["spiking"] = frozenset(own if now.spiking is None else own & now.spiking)
    for key in ("counters", "tallies", "watchers"):
        added = getattr(plan, key)[len(getattr(before, key)) :]
        if key in changes and added:
            found[key] = (*getattr(now, key), *(_told_as(part, told) for told in added))
    return found


def _told_as(part: str, told: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    """Tells what a part's site did under its name in the whole."""
    return lambda site, what: told(f"{part}.{site}", what)
