"""Conversions of one model that capture it once, which takes most of a small conversion's time."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import convert


def captured_once(to_spiking: Callable[..., Any]) -> Callable[..., Any]:
    """A `to_spiking` for one model: its first network is converted, the others are fitted anew.

    Other tests find that `refit` gives what a conversion with its settings gives.
    """
    made: list[tuple[Any, Any]] = []
    names = signature(convert.refit).parameters.keys()
    parameters = signature(convert.to_spiking).parameters.values()
    # What a call leaves out is the default, not what the first network has.
    defaults = {p.name: p.default for p in parameters if p.name in names}
    del defaults["calibration"]

    def converted(model: Any, calibration: Any, **given: Any) -> Any:
        if not made:
            made.append((model, to_spiking(model, calibration, **given)))
            return made[0][1]
        assert made[0][0] is model
        fit = {name: given[name] for name in defaults if name in given}
        return convert.refit(made[0][1], calibration, **{**defaults, **fit})

    return converted
