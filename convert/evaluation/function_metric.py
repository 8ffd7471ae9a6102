"""A function of (outputs, targets) as a metric."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import InputError
from .measures import Measure, Outputs, result_of
from .own_metric import OwnMetric, Targets, check_names, finite, kind_of, number_of, refused


class FunctionMetric(OwnMetric):
    """The mean of what a function gives for every batch, each weighted by its images.

    Args:
        function: of what the model returns and of the label as the data has it (None without
            one); it returns a number, or a dict of numbers by name. It may have an attribute
            ``higher_is_better``.

    Raises:
        InputError: for a function that doesn't take two arguments.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self._function = function
        self._sums: dict[str, float] = {}
        self._images = 0
        _check_arguments(str(self), function)

    def start(self) -> Measure:
        """A measure by the same function."""
        return FunctionMetric(self._function)

    def __str__(self) -> str:
        function: Any = self._function
        while isinstance(function, partial):
            function = function.func
        name = getattr(function, "__name__", type(function).__name__)
        return "metric" if name == "<lambda>" else name

    @property
    def higher_is_better(self) -> bool | None:
        """What the function's attribute of that name says."""
        said = getattr(self._function, "higher_is_better", None)
        return said if isinstance(said, bool) else None

    @property
    def figures(self) -> Mapping[str, float | None]:
        """The means by name."""
        return {name: finite(total / self._images) for name, total in self._sums.items()}

    def update(self, found: Outputs, targets: Targets, *, original: bool) -> None:
        """Calls the function."""
        outputs = result_of(found)
        try:
            given = self._function(outputs, targets.label)
        except InputError:
            raise
        except Exception as error:
            raise refused(self, error, outputs, targets) from error
        numbers = self._numbers(given)
        known = all(map(math.isfinite, numbers.values()))
        if original and not known:
            name, value = next((n, v) for n, v in numbers.items() if not math.isfinite(v))
            what = "" if name == str(self) else f" as {name!r}"
            raise InputError(
                f"metric '{self}' gives {value}{what} for the original's outputs of batch "
                f"{self._batches}; give a metric that has a value for them"
            )
        self._broken += not known
        if self._sums and numbers.keys() != self._sums.keys():
            raise InputError(
                f"metric '{self}' returns {', '.join(numbers)} for batch {self._batches}, and "
                f"{', '.join(self._sums)} for those before; return the same names for every batch"
            )
        for name, value in numbers.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * targets.images
        self._images += targets.images

    def _numbers(self, given: Any) -> dict[str, float]:
        """What the function returned, as numbers by name."""
        parts = dict(given) if isinstance(given, Mapping) else {str(self): given}
        check_names(self, parts)
        numbers = {}
        for name, value in parts.items():
            number = number_of(value)
            if number is None:
                what = f" as {name!r}" if isinstance(given, Mapping) else ""
                raise InputError(
                    f"metric '{self}' returns a {kind_of(value)}{what}; give one number, or a dict "
                    "of numbers by name"
                )
            numbers[name] = number
        if not numbers:
            raise InputError(f"metric '{self}' returns an empty dict; give one number or more")
        return numbers


def _check_arguments(name: str, function: Callable[..., Any]) -> None:
    """Refuses what can't be called with two arguments, where that can be known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise InputError(
            f"metric '{name}' takes {signature}; give a function of (outputs, targets)"
        ) from None
