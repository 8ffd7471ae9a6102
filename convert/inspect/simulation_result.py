"""What a simulation gives back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..common.files import atomic_path
from ..common.tables import table
from ..errors import InputError, SiteError
from .flips import Flips
from .operation_counts import OperationCounts

# One event in a table of events.
EVENT = np.dtype(
    [
        ("tick", "<i8"),
        ("image", "<i4"),
        ("site", "<i4"),
        ("neuron", "<i8"),
        ("step", "<i2"),
        ("interval", "<i2"),
    ]
)


@dataclass(frozen=True)
class Membrane:
    """The membrane potentials of a site.

    Args:
        ticks: at which something happened to them, from the arrival of the image on.
        potentials: ``[T, N, ...]``, after what happened at each tick.
        thresholds: T of each step, ``[K]``, or ``[G, K]`` with gates.
        begin: the tick after which the first step is.
    """

    ticks: tuple[int, ...]
    potentials: Tensor
    thresholds: Tensor
    begin: int


@dataclass
class Simulation:
    """What a network did spike by spike; prints as a table.

    Args:
        outputs: as the network returns them, from spikes.
        fast_outputs: those of the fast run.
        ticks: at which the outputs of each image were complete, int64 ``[N]``, with the images in a
            pipeline.
        latency: ticks of one image.
        interval: ticks between one image and the next: those that the slowest neurons take.
        flips: where spikes differ from the fast run's.
        rates: spikes per neuron and step of every site, float64 ``[K]``.
        starts: the tick at which the inputs of every site were complete, for the first image.
        spikes: of the recorded sites, bool ``[K, N, ...]``.
        intervals: which table each value ran, uint8 ``[N, ...]``, of the recorded sites that have
            gates.
        membranes: of the recorded sites.
        gated: whether a site has gates, which take a tick.
        counts: operations, for one image in the mean.
        constants: of the recorded sites with gates, whether each interval sends its constant.
    """

    outputs: Any
    fast_outputs: Any
    ticks: Tensor
    latency: int
    interval: int
    flips: Flips
    rates: Mapping[str, Tensor]
    starts: Mapping[str, int]
    spikes: Mapping[str, Tensor]
    intervals: Mapping[str, Tensor]
    membranes: Mapping[str, Membrane]
    gated: Mapping[str, bool]
    counts: OperationCounts
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many were simulated."""
        return len(self.ticks)

    def recorded(self, site: str) -> Tensor:
        """Spikes of a site, bool ``[K, N, ...]``.

        Raises:
            SiteError: if it wasn't recorded.
        """
        if site not in self.spikes:
            kept = ", ".join(list(self.spikes)[:3]) or "none"
            raise SiteError(
                f"{site!r} was not recorded ({kept} were); name it in simulate(..., record=)"
            )
        return self.spikes[site]

    def events(self, site: str | None = None) -> npt.NDArray[np.void]:
        """Events as a table, sorted by tick: tick, image, site, neuron, step, interval.

        Step 0 is the constant of an interval. The site is its place in the order of `spikes`, the
        neuron its place in one image's tensor.

        Args:
            site: one that was recorded; None for all.

        Raises:
            SiteError: if it wasn't recorded.
        """
        names = list(self.spikes) if site is None else [site]
        parts = [self._events(name) for name in names]
        joined = np.concatenate(parts) if parts else np.empty(0, EVENT)
        return joined[np.argsort(joined["tick"], kind="stable")]

    def _events(self, name: str) -> npt.NDArray[np.void]:
        spikes = self.recorded(name).flatten(2)
        places = np.stack(spikes.cpu().numpy().nonzero(), 1)
        tables = None
        if name in self.intervals:
            tables = self.intervals[name].flatten(1).cpu().numpy()
            said = self.constants[name].cpu().numpy()[tables].nonzero()
            constants = np.stack([np.full(len(said[0]), -1), *said], 1)
            places = np.concatenate([constants, places])
        step, image, neuron = places.T
        begin = self.starts[name] + self.gated[name]
        found = np.empty(len(places), EVENT)
        found["tick"] = begin + step + 1 + self.interval * image
        found["image"], found["neuron"], found["step"] = image, neuron, step + 1
        found["site"] = list(self.spikes).index(name)
        found["interval"] = 0 if tables is None else tables[image, neuron]
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes events, potentials and rates to a ``.npz`` file, whole or not at all.

        Arrays: ``events`` (see `events`), ``sites`` (names by number), ``ticks``, and for each
        recorded site ``membrane/NAME`` and ``membrane_ticks/NAME``, for every site ``rate/NAME``.

        Raises:
            InputError: for another ending.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise InputError(f"a simulation is written as .npz, found {path.name!r}; rename it")
        arrays: dict[str, Any] = {
            "events": self.events(),
            "sites": np.array(list(self.spikes), dtype=str),
            "ticks": self.ticks.cpu().numpy(),
        }
        for name, membrane in self.membranes.items():
            arrays[f"membrane/{name}"] = membrane.potentials.cpu().numpy()
            arrays[f"membrane_ticks/{name}"] = np.array(membrane.ticks)
        arrays |= {f"rate/{name}": rate.cpu().numpy() for name, rate in self.rates.items()}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def __str__(self) -> str:
        head = ("site", "starts at tick", "spikes per neuron", "spikes per neuron in each step")
        rows = [
            (name, self.starts[name], float(rate.sum()), " ".join(f"{r:.3f}" for r in rate))
            for name, rate in self.rates.items()
        ]
        text = table(head, rows)
        return (
            f"{text}\n\n{self.images} images, one every {self.interval} ticks; each takes "
            f"{self.latency} ticks. {self.flips}"
        )
