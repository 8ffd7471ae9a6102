"""Calibration by several processes: each runs its batches, and all know what one would have seen.

Counts are added exactly. Sums of importance are rounded, so every piece of a batch is summed by
itself, on the level of cells on which one process would have summed it, and the sums are added in
the order of the pieces.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..calls.padding import kept_positions
from ..calls.sizes import NewShape, Shapes
from ..capture.capture import Captured
from ..common.devices import apart
from ..common.progress import Progress
from ..common.ranks import Team
from ..common.shares import count_of, numbered, rounds, shared
from ..errors import InputError
from ..sites.find import Site
from . import device_counts
from .histogram import Counted, Histogram
from .importance import Observer
from .tally import Inputs, Tally

Parts = dict[str, Counted]


class SharedTally(Tally):
    """Counts the inputs of one piece at a time, to be added by all processes in order.

    Args:
        sites: by whose calls inputs are told.

    Attributes:
        known: what came before the piece, as far as this process knows it.
        wanted: the sites that are counted, each with the level; None for all.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        self.known: dict[str, Histogram] = dict(self.histograms)
        self.wanted: Mapping[str, int] | None = None
        self._parts: Parts = {}

    def _add(self, name: str, x: Tensor, importance: Tensor) -> None:
        if self.wanted is not None and name not in self.wanted:
            return
        finest = None if self.wanted is None else self.wanted[name]
        masked, hidden = self.masks[name]
        before = self.known[name]
        if apart(x.device):
            counting = before.counting(
                x, masked=masked, hidden=hidden, importance=importance, finest=finest
            )
            self.waiting.append(self._keeping(name, counting))
        else:
            self._parts[name] = before.counted(
                x, masked=masked, hidden=hidden, importance=importance, finest=finest
            )

    def _keeping(
        self,
        name: str,
        counting: Generator[device_counts.Asked, device_counts.Told, Counted],
    ) -> Generator[device_counts.Asked, device_counts.Told, None]:
        self._parts[name] = yield from counting

    def taken(self) -> Parts:
        """What was counted of the piece, by the name of the site."""
        self.finish()
        found, self._parts = self._parts, {}
        return found


@dataclass
class _Told:
    """What the others must know of a process's batch before it is run.

    Args:
        draws: signs that each piece takes of each output.
        sizes: the outputs' magnitudes in the first piece.
        new: message and shapes of inputs that the network wasn't captured for.
    """

    draws: list[list[int]]
    sizes: list[float]
    new: tuple[str, Shapes] | None = None


class SharedCalibration:
    """One pass over the batches by all processes.

    Args:
        team: the processes.
        captured: the network.
        tally: of this process; its histograms are everybody's at the end.
        inputs: the same.
        network: runs the pieces and tells the tally.
        device: where the network lives.
    """

    def __init__(
        self,
        team: Team,
        captured: Captured,
        tally: SharedTally,
        inputs: Inputs,
        network: Observer,
        device: torch.device | str | None,
    ) -> None:
        self._team, self._captured, self._tally = team, captured, tally
        self._inputs, self._network, self._device = inputs, network, device
        # Signs that all batches so far took of each output, and its magnitude in the first.
        self._drawn: list[int] = []
        self._sizes: list[float] = []
        # Elements and magnitudes of a piece's outputs, by the shapes of its inputs.
        self._known: dict[object, list[tuple[int, float]]] = {}

    def run(self, batches: Iterable[Any], progress: bool) -> None:
        """Goes through the batches; tally and inputs are then those of all processes."""
        count = count_of(batches)
        total = None if count is None else -(-count // self._team.size)
        share, own = shared(self._team, batches)
        with Progress[None](None, "calibrate", total, shown=progress) as bar:
            for mine in rounds(self._team, "calibrate", numbered(share, own)):
                self._round(mine)
                bar.update()
        self._join()

    def _round(self, mine: Sequence[Any]) -> None:
        """One batch of every process."""
        pieces, own = self._prepared(mine)
        told = self._team.gather("calibrate: outputs", own)
        for each in told:
            if each.new is not None:
                raise NewShape(*each.new)
        befores = self._befores(told)
        parts = [
            self._parts(piece, before, draws)
            for piece, before, draws in zip(pieces, befores, own.draws, strict=True)
        ]
        found = self._team.gather("calibrate: counts", parts)
        histograms, wrong = self._merged(found)
        if any(map(any, wrong)):
            mended = [
                self._mended(*each)
                for each in zip(
                    parts, pieces, befores, own.draws, wrong[self._team.rank], strict=True
                )
            ]
            histograms, _ = self._merged(self._team.gather("calibrate: counts again", mended))
        self._tally.histograms = histograms
        self._tally.known = dict(histograms)

    def _prepared(self, mine: Sequence[Any]) -> tuple[list[list[Any]], _Told]:
        """The pieces of this process's batch, and what the others must know of them."""
        pieces: list[list[Any]] = []
        try:
            for batch in mine:
                pieces += self._inputs.add(self._captured.signature, batch, self._device)
        except NewShape as error:
            return [], _Told([], [], (str(error), error.shapes))
        outputs = [self._outputs(piece) for piece in pieces]
        sizes = [size for _, size in outputs[0]] if outputs else []
        return pieces, _Told([[count for count, _ in each] for each in outputs], sizes)

    def _outputs(self, piece: list[Any]) -> list[tuple[int, float]]:
        """Elements of the outputs of a piece, run once for inputs of one form."""
        form = tuple(
            (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in piece
        )
        if form not in self._known:
            kept = kept_positions(self._captured.signature, piece)
            self._known[form] = self._network.outputs_of(*piece, kept=kept)
        return self._known[form]

    def _befores(self, told: Sequence[_Told]) -> list[list[int]]:
        """Signs that were taken before each of this process's pieces."""
        if not self._drawn:
            first = next((each for each in told if each.draws), None)
            self._sizes = first.sizes if first is not None else []
            self._drawn = [0] * len(self._sizes)
        found: list[list[int]] = []
        for rank, each in enumerate(told):
            for draws in each.draws:
                if len(draws) != len(self._drawn):
                    raise InputError(
                        f"{len(draws)} outputs of a batch have a gradient, and {len(self._drawn)} "
                        "of the first; calibrate such a network in one process"
                    )
                if rank == self._team.rank:
                    found.append(self._drawn)
                self._drawn = [a + b for a, b in zip(self._drawn, draws, strict=True)]
        return found

    def _parts(self, piece: list[Any], before: list[int], draws: list[int]) -> Parts:
        """Runs a piece and counts it."""
        network = self._network
        network.begin(before, self._sizes)
        network.run(*piece, kept=kept_positions(self._captured.signature, piece))
        if network.drawn != draws:
            raise InputError(
                "the outputs' sizes depend on the images' values, so that the random signs of a "
                "batch depend on those before it; calibrate such a network in one process"
            )
        parts = self._tally.taken()
        if self._tally.wanted is None:
            for name, counted in parts.items():
                self._tally.known[name] = _added(self._tally.known[name], counted)
        return parts

    def _mended(
        self,
        parts: Parts,
        piece: list[Any],
        before: list[int],
        draws: list[int],
        wanted: Mapping[str, int],
    ) -> Parts:
        """The counts of a piece with those sites anew that were on another level than alone."""
        if not wanted:
            return parts
        elements, self._tally.wanted = dict(self._tally.elements), wanted
        anew = self._parts(piece, before, draws)
        self._tally.elements, self._tally.wanted = elements, None
        return parts | anew

    def _merged(
        self, found: Sequence[Sequence[Parts]]
    ) -> tuple[dict[str, Histogram], list[list[dict[str, int]]]]:
        """Everything that was counted, and where a piece was counted on another level than alone.

        Args:
            found: the pieces of every process.

        Returns:
            Histograms by site, and of every piece of every process the right levels by site.
        """
        histograms = dict(self._tally.histograms)
        wrong: list[list[dict[str, int]]] = []
        for pieces in found:
            wrong.append([])
            for parts in pieces:
                levels: dict[str, int] = {}
                for name, counted in parts.items():
                    level = histograms[name].finest(counted.part.low, counted.part.high)
                    if counted.part.total and level != counted.finest:
                        levels[name] = level
                    histograms[name] = _added(histograms[name], counted)
                wrong[-1].append(levels)
        return histograms, wrong

    def _join(self) -> None:
        """Adds up what is exact in any order."""
        tally, reader = self._tally, self._captured.reader
        calls = list(tally.elements)
        own = (
            self._inputs,
            [tally.elements[call] for call in calls],
            self._network.failed,
            [] if reader is None else reader.notes,
        )
        everybody = self._team.gather("calibrate: inputs", own)
        counts = [
            sum(each) for each in zip(*(elements for _, elements, *_ in everybody), strict=True)
        ]
        tally.elements = dict(zip(calls, counts, strict=True))
        joined = Inputs()
        for inputs, *_ in everybody:
            joined.join(inputs)
        vars(self._inputs).update(vars(joined))
        self._network.failed = next((failed for *_, failed, _ in everybody if failed), None)
        if reader is not None:
            reader.notes[:] = dict.fromkeys(note for *_, notes in everybody for note in notes)


def _added(histogram: Histogram, counted: Counted) -> Histogram:
    """A histogram with one more part; the old one stays as it is."""
    # Its arrays are replaced, never changed.
    result = copy.copy(histogram)
    result.merge(counted.part)
    return result
