"""The trade-off between events and error of one network over several prices of spikes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from torch import nn

from .common.ranks import together
from .conversion import to_spiking
from .errors import InputError
from .evaluation.measure import evaluate
from .evaluation.trade_off import TradeOff
from .network.model import SpikingModel
from .network.settings import ConversionSettings
from .refitting import refitted, settings_of

# Prices that are compared where none are given.
_PRICES = (0.0, 0.001, 0.003, 0.01, 0.03)


@together
def pareto(
    snn: SpikingModel | nn.Module,
    data: Any,
    *,
    calibration: Any = None,
    spike_costs: Sequence[float] = _PRICES,
    steps: Sequence[int] | None = None,
    gates: Sequence[int] | None = None,
    metric: Any = None,
    progress: bool = True,
) -> TradeOff:
    """Events per neuron against error, for every price of spikes (and K, and gates).

    Each point is a network that is fitted anew from what calibration saw; nothing is captured or
    calibrated again.

    Args:
        snn: a converted network, which is left as it was; or a trained network, which is converted
            with the calibration data first.
        data: test batches as for `evaluate`, which measures every network on them.
        calibration: batches as for `to_spiking`, on which mean errors are taken out of the biases;
            None leaves the biases of a converted network as trained, which costs agreement.
        spike_costs: prices, see `to_spiking`.
        steps: every K that is wanted; None for the network's own, chosen or not.
        gates: every number of gates that is wanted; None for the network's own.
        metric: as for `evaluate`.
        progress: shows bars on stderr.

    Raises:
        ConversionError: a subclass for data, prices or settings that can't be used.
    """
    calibration, data = _kept(calibration), _kept(data)
    if not isinstance(snn, SpikingModel):
        if calibration is None:
            raise InputError(
                "pareto needs calibration= to convert a network; give it, or a converted network"
            )
        first = {"steps": 4 if steps is None else _several("steps", steps)[0]}
        snn = to_spiking(snn, calibration, **first, progress=progress)  # type: ignore[arg-type]
    wanted = _settings(snn, spike_costs, steps, gates)
    found = []
    for settings in wanted:
        network = refitted(snn, settings, calibration, anew=False, progress=progress)
        found.append(
            evaluate(network, None, data, metric=metric, by_site=0, at=(), progress=progress)
        )
    return TradeOff.of(found)


def _settings(
    snn: SpikingModel, prices: Any, steps: Any, gates: Any
) -> tuple[ConversionSettings, ...]:
    """Settings of every network, all checked before the first is fitted."""
    own, _ = settings_of(snn)
    if own.wanted:
        own = own.changed({"steps": own.wanted[0]})
    each = product(
        [None] if steps is None else _several("steps", steps),
        [None] if gates is None else _several("gates", gates),
        _several("spike_costs", prices),
    )
    return tuple(own.changed({"steps": k, "gates": g, "spike_cost": c}) for k, g, c in each)


def _several(name: str, given: Any) -> list[Any]:
    """A list of settings, one at least."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not len(given):
        raise InputError(f"{name} must be a list of one or more numbers, found {given!r}")
    return list(given)


def _kept(data: Any) -> Any:
    """Data that can be read several times."""
    return list(data) if isinstance(data, Iterator) else data
