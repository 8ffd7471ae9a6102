"""What a conversion was asked for: one value, checked when it is made.

The report and the file keep it, and refitting starts from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..errors import InputError
from ..fitting.methods import DEFAULT, METHODS, check
from ..fitting.problem import MOST_GATES, MOST_STEPS
from .dynamic_axes import axes_of, axes_to_dict
from .setting_values import Pairs, whole

# Relative squared error of the outputs up to which K is chosen where nothing else is said.
_MAX_LOSS = 0.005
# What decides how K is chosen; one of them at most.
_CHOOSING = ("max_loss", "budget", "budget_spikes", "budget_operations", "budget_energy")
# Of these, numbers > 0 that keep what is counted for an image, with their units.
_COUNTED = {
    "budget_spikes": "events per neuron",
    "budget_operations": "operations for one image",
    "budget_energy": "nanojoules for one image",
}


class SiteNumbers(Pairs[int]):
    """K by the name or glob of sites."""


@dataclass(frozen=True)
class Automatic:
    """That K is chosen for every site.

    Args:
        max_loss: largest relative squared error of the outputs on the calibration images.
        budget: steps of all sites together; the error doesn't matter then.
        budget_spikes: events per neuron of the network instead.
        budget_operations, budget_energy: operations or nanojoules for one image instead.
        spike_cost: of one event per neuron, in the unit of `max_loss`.
    """

    max_loss: float = _MAX_LOSS
    budget: int | None = None
    budget_spikes: float | None = None
    budget_operations: float | None = None
    budget_energy: float | None = None
    spike_cost: float = 0.0

    @property
    def counts_spikes(self) -> bool:
        """Whether events, or what they cost, are to be few; else time steps."""
        return (
            self.budget_spikes is not None
            or self.counts_costs
            or (self.spike_cost > 0 and self.budget is None)
        )

    @property
    def counts_costs(self) -> bool:
        """Whether operations or energy have a budget."""
        return self.budget_operations is not None or self.budget_energy is not None


@dataclass(frozen=True, kw_only=True)
class ConversionSettings:
    """The settings of a conversion; the arguments are those of `to_spiking`.

    They are checked when the value is made, and kept in one form: numbers as Python's own, several
    K as a tuple.

    Args:
        steps: K, several K of which the first is the network's own, or ``"auto"``.
        max_loss: with ``"auto"``, the largest error of the outputs.
        budget: with ``"auto"``, the steps of all sites together instead.
        budget_spikes: with ``"auto"``, the events per neuron instead.
        budget_operations, budget_energy: with ``"auto"``, operations or nanojoules for one image
            instead.
        spike_cost: of one event per neuron, in the unit of the outputs' relative squared error.
        seed: of everything random.
        method: how neurons are fitted.
        per_site_steps: another K for sites by name or glob.
        gates: G - 1, gates of every neuron; with ``"auto"``, the most.
        per_site_gates: other gates for sites by name or glob.
        effort: ``"normal"`` or ``"high"``.
        sequential: whether mean errors are taken out of the biases.
        encode: False, True or ``"all"``.
        normalisation: whether norms are taken apart.
        max_pool: False, True or ``"first"``.
        batch_axis: of the images, one for all inputs or by the name of an input; None finds it.
        dynamic: axes whose length may vary beside the batch, by the name of an input: pairs of an
            axis and the name of its length, or None. None leaves it to what the batches show.
        modules: the parts of a model that are converted; classes by their name. Empty for a whole
            model.

    Raises:
        InputError: naming the setting that can't be used.
        FitError: for a method, an effort or a seed that doesn't exist.
    """

    steps: int | Sequence[int] | str = 8
    max_loss: float | None = None
    budget: int | None = None
    budget_spikes: float | None = None
    budget_operations: float | None = None
    budget_energy: float | None = None
    spike_cost: float = 0.0
    seed: int = 0
    method: str = DEFAULT
    per_site_steps: Mapping[str, int] = SiteNumbers({})
    gates: int = 0
    per_site_gates: Mapping[str, int] = SiteNumbers({})
    effort: str = "normal"
    sequential: bool = True
    encode: bool | str = False
    normalisation: bool = False
    max_pool: bool | str = False
    batch_axis: int | Mapping[str, int | None] | None = None
    dynamic: Mapping[str, Any] | None = None
    modules: Sequence[str] | None = ()

    def __post_init__(self) -> None:
        self._keep("steps", _steps(self.steps))
        self._keep("per_site_steps", _by_site("per_site_steps", "K", self.per_site_steps, _step))
        self._keep("gates", _gates("gates", self.gates, self.gates))
        self._keep(
            "per_site_gates", _by_site("per_site_gates", "gates", self.per_site_gates, _gates)
        )
        self._check_choice()
        seed = whole(self.seed)
        check(
            self.method if isinstance(self.method, str) else repr(self.method),
            self.effort,
            self.seed if seed is None else seed,
        )
        self._keep("seed", seed)
        self._keep("spike_cost", _spike_cost(self.spike_cost, self.method))
        for name, word in (
            ("sequential", None),
            ("encode", "all"),
            ("normalisation", None),
            ("max_pool", "first"),
        ):
            self._keep(name, _switch(name, getattr(self, name), word))
        self._keep("batch_axis", _batch_axis(self.batch_axis))
        self._keep("dynamic", axes_of(self.dynamic))
        self._keep("modules", tuple(named_modules(self.modules)))

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_choice(self) -> None:
        """Checks what decides how K is chosen, or that K isn't."""
        if self.steps != "auto":
            if any(getattr(self, name) is not None for name in _CHOOSING):
                raise InputError(
                    f'{", ".join(_CHOOSING[:-1])} and {_CHOOSING[-1]} go with steps="auto", found '
                    f"steps={self.steps!r}"
                )
            return
        given = [name for name in _CHOOSING if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(
                f"give {given[0]} or {given[1]}, not both: each decides how many steps there are"
            )
        if self.budget is not None:
            budget = whole(self.budget)
            if budget is None or budget < 1:
                raise InputError(f"budget must be a whole number >= 1, found {self.budget!r}")
            self._keep("budget", budget)
        for name, unit in _COUNTED.items():
            most = getattr(self, name)
            if most is not None:
                if not _finite(most) or not most > 0:
                    raise InputError(f"{name} must be a number of {unit} > 0, found {most!r}")
                self._keep(name, float(most))
        if self.max_loss is not None:
            if not _finite(self.max_loss) or not 0 < self.max_loss < 1:
                raise InputError(
                    f"max_loss must be a number between 0 and 1, found {self.max_loss!r}"
                )
            self._keep("max_loss", float(self.max_loss))

    @property
    def wanted(self) -> tuple[int, ...]:
        """Every K that is wanted, the network's own first; empty where K is chosen."""
        if isinstance(self.steps, str):
            return ()
        return (self.steps,) if isinstance(self.steps, int) else tuple(self.steps)

    @property
    def automatic(self) -> Automatic | None:
        """How K is chosen for every site; None where `steps` gives it."""
        if self.steps != "auto":
            return None
        most = _MAX_LOSS if self.max_loss is None else self.max_loss
        return Automatic(
            most,
            self.budget,
            self.budget_spikes,
            self.budget_operations,
            self.budget_energy,
            self.spike_cost,
        )

    def changed(self, given: Mapping[str, Any]) -> ConversionSettings:
        """These settings with others in their place.

        What decides on K goes together: K given as a number drops max_loss and the budgets, and
        each of these drops the others.

        Args:
            given: settings by name; one that is None stays as it is.

        Raises:
            ConversionError: a subclass for a setting that can't be used.
        """
        new = {name: value for name, value in given.items() if value is not None}
        if "steps" in new and not isinstance(new["steps"], str):
            new = dict.fromkeys(_CHOOSING) | new
        elif any(name in new for name in _CHOOSING):
            new = dict.fromkeys(_CHOOSING) | new
        return dataclasses.replace(self, **new)

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, out of JSON's types."""
        return {
            "steps": self.steps if isinstance(self.steps, int | str) else list(self.steps),
            "max_loss": self.max_loss,
            "budget": self.budget,
            "budget_spikes": self.budget_spikes,
            "budget_operations": self.budget_operations,
            "budget_energy": self.budget_energy,
            "spike_cost": self.spike_cost,
            "seed": self.seed,
            "method": self.method,
            "per_site_steps": dict(self.per_site_steps),
            "gates": self.gates,
            "per_site_gates": dict(self.per_site_gates),
            "effort": self.effort,
            "sequential": self.sequential,
            "encode": self.encode,
            "normalisation": self.normalisation,
            "max_pool": self.max_pool,
            "batch_axis": (
                dict(self.batch_axis) if isinstance(self.batch_axis, Mapping) else self.batch_axis
            ),
            "dynamic": None if self.dynamic is None else axes_to_dict(self.dynamic),
            "modules": list(self.modules or ()) or None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ConversionSettings:
        """What `to_dict` gave; what isn't there is the default.

        A method of fitting that this process doesn't know is kept by its name: it was known where
        the network was converted, and only fitting again needs it.

        Raises:
            ConversionError: a subclass for a name that is no setting, or a value that can't be
                used.
        """
        unknown = set(data) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise InputError(f"no setting of a conversion is called {min(unknown)!r}")
        method = data.get("method", DEFAULT)
        foreign = isinstance(method, str) and method not in METHODS
        made = cls(**(dict(data) | ({"method": DEFAULT} if foreign else {})))
        made._keep("method", method)
        return made


def _finite(value: object) -> bool:
    """Whether this is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _spike_cost(cost: object, method: str) -> float:
    """The price of events, of a method that heeds one."""
    number = cost.item() if isinstance(cost, Tensor) and cost.numel() == 1 else cost
    if not isinstance(number, Real) or not _finite(number) or number < 0:
        raise InputError(f"spike_cost must be a finite number >= 0, found {cost!r}")
    if number and not METHODS[method].spike_cost:
        able = " or ".join(repr(name) for name, known in METHODS.items() if known.spike_cost)
        raise InputError(f"spike_cost needs method={able}, or 0; {method!r} can't heed it")
    return float(number)


def _steps(steps: object) -> int | tuple[int, ...] | str:
    """K as one number, several as a tuple, or "auto"."""
    listed = steps.tolist() if isinstance(steps, np.ndarray | Tensor) else steps
    if isinstance(listed, str):
        if listed != "auto":
            raise InputError(f'steps must be a whole number, several, or "auto", found {steps!r}')
        return listed
    several = list(listed) if isinstance(listed, Sequence) else [listed]
    numbers = [_step("steps: every K", k, steps) for k in several]
    if not numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"steps must name every K once, and one at least, found {steps!r}")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _by_site(
    setting: str, what: str, given: object, number: Callable[[str, object, object], int]
) -> SiteNumbers:
    """K or gates by pattern.

    Args:
        setting: its name.
        what: what it gives.
        given: by name or glob.
        number: checks one of the numbers.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"{setting} must give {what} by the name or glob of sites, as {{'layer4.*': 12}}, "
            f"found {given!r}"
        )
    for name in given:
        if not isinstance(name, str):
            raise InputError(
                f"{setting} must name sites by strings, as {{'layer4.*': 12}}, found {name!r}"
            )
    return SiteNumbers(
        {name: number(f"{setting}: {what} of {name!r}", n, n) for name, n in given.items()}
    )


def _gates(what: str, gates: object, found: object) -> int:
    """A number of gates.

    Raises:
        InputError: naming what must be one, and what was found.
    """
    number = whole(gates)
    if number is None or not 0 <= number <= MOST_GATES:
        raise InputError(
            f"{what} must be a whole number from 0, for one table, to {MOST_GATES}, found {found!r}"
        )
    return number


def _batch_axis(given: object) -> int | Pairs[int | None] | None:
    """The axis of the images: one number, numbers by name, or None."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        axes = {name: None if axis is None else whole(axis) for name, axis in given.items()}
        known = all(isinstance(n, str) for n in given)
        if known and all(axes[n] is not None or given[n] is None for n in given):
            return Pairs(axes) if axes else None
    elif (axis := whole(given)) is not None:
        return axis
    raise InputError(
        "batch_axis must be a whole number, or give one (or None) by the name of an input, as "
        f"{{'state': 1}}, found {str(given)[:80]}"
    )


def named_modules(modules: object) -> list[str]:
    """The parts of a model that are asked for, classes by their name.

    Raises:
        InputError: for what is neither names nor classes.
    """
    listed = [modules] if isinstance(modules, str | type) else () if modules is None else modules
    fits = isinstance(listed, Sequence) and all(
        (isinstance(m, str) and m) or (isinstance(m, type) and issubclass(m, nn.Module))
        for m in listed
    )
    if not fits:
        raise InputError(
            "modules must list names or globs of the model's modules, or classes of them, as "
            f"['backbone', 'head.*'], found {str(modules)[:80]}"
        )
    assert isinstance(listed, Sequence)
    return [m if isinstance(m, str) else f"{m.__module__}.{m.__qualname__}" for m in listed]


def _step(what: str, k: object, found: object) -> int:
    """One K.

    Raises:
        InputError: naming what must be K, and what was found.
    """
    number = whole(k)
    if number is None or not 1 <= number <= MOST_STEPS:
        raise InputError(
            f"{what} must be a whole number from 1 to {MOST_STEPS}, the most that a spike code "
            f"holds, found {found!r}"
        )
    return number


def _switch(name: str, value: object, word: str | None) -> bool | str:
    """False, True or the one word that the setting knows."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if word is not None and isinstance(value, str) and value == word:
        return word
    known = f"False, True or {word!r}" if word else "False or True"
    raise InputError(f"{name} must be {known}, found {value!r}")
