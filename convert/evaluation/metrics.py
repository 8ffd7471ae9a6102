"""The metrics by name, and what else `evaluate` takes as one.

A metric is a `Measure`. Those of the package are named here; `register_metric` adds others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from ..common.registry import Registration, register
from ..errors import InputError
from .classes import Accuracy, Agreement
from .function_metric import FunctionMetric
from .iou import IoU
from .measures import Measure
from .output_error import OutputError
from .perplexity import Perplexity
from .torch_metric import TorchMetric, is_torch_metric

_metrics: dict[str, Callable[[], Measure]] = {
    "accuracy": Accuracy,
    "agreement": Agreement,
    "classes": Agreement,
    "iou": IoU,
    "output": OutputError,
    "perplexity": Perplexity,
}
# What makes the measure of each name, to be read; `register_metric` adds to it.
METRICS: Mapping[str, Callable[[], Measure]] = MappingProxyType(_metrics)


def register_metric(name: str, start: Callable[[], Measure]) -> Registration:
    """Adds a metric: every ``metric=`` then takes its name.

    Args:
        name: a new one.
        start: makes a measure to which nothing was added; a subclass of `Measure` does.

    Returns:
        What takes the metric out again, by ``remove()``.

    Raises:
        InputError: if there is a metric of that name, or the arguments are none.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"a metric's name must be a text, found {name!r}")
    if not callable(start):
        raise InputError(
            f"metric {name!r}: give a function that makes a Measure, found a {type(start).__name__}"
        )
    return register(_metrics, name, start, f"a metric called {name!r}")


def metric_of(given: Any) -> tuple[str, Measure]:
    """The name of what was given as ``metric=``, and a measure of it to which nothing was added.

    Args:
        given: a name, a `Measure`, a metric of torchmetrics, or a function.

    Raises:
        InputError: for anything else, and for a name that doesn't exist.
    """
    if isinstance(given, str):
        return given, _named(given)
    if isinstance(given, Measure):
        known = next((n for n, start in METRICS.items() if start is type(given)), None)
        return known or type(given).__name__, given.start()
    if isinstance(given, type):
        raise InputError(
            f"metric= is the class {given.__name__}; give an object of it: {given.__name__}(...)"
        )
    if is_torch_metric(given):
        made: Measure = TorchMetric(given)
    elif callable(given):
        made = FunctionMetric(given)
    else:
        raise InputError(f"no metric is called {given!r}; {_choice()}")
    return str(made), made


def _named(name: str) -> Measure:
    if name not in METRICS:
        near = get_close_matches(name, METRICS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no metric is called {name!r}; {hint}{_choice()}")
    made: Any = METRICS[name]()
    if not isinstance(made, Measure):
        raise InputError(
            f"metric {name!r} was registered with what makes a {type(made).__name__} and no Measure"
        )
    return made


def _choice() -> str:
    names = ", ".join(sorted(METRICS))
    return (
        f"choose from {names}, a metric of torchmetrics, or a function of (outputs, targets); "
        "output suits every network"
    )
