"""The values of every site in the spiking network beside the original's, and why they differ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from ..assembly.side_by_side import leaves as returned
from ..assembly.side_by_side import relative_error
from ..calls.batch_reading import moved
from ..capture.fidelity import floats, gap_between
from ..common.progress import Progress
from ..common.tables import table
from ..errors import InputError, SiteError
from ..evaluation.runs import device_of, eval_mode
from ..graph.run import compute, last_read
from ..network.model import SpikingModel
from ..neuron.few_spikes import WHOLE, FewSpikesNeuron
from .diagnosis import Case, Finding, SiteCorrelation, diagnose
from .site_measure import SiteMeasure, own_of
from .value_errors import InputParts

# Images that pass through both networks together.
_PIECE = 10
# Values of a site that are kept for a scatter.
_POINTS = 1500
# Two networks whose outputs differ by more of their magnitude aren't one network.
_ANOTHER = 0.05
# An image may exceed the calibrated range on either side by this share of its width.
_MARGIN = 0.25


@dataclass(frozen=True)
class Correlation:
    """Values of the spiking network beside the original's; prints as a table and a diagnosis.

    Args:
        sites: in graph order.
        images: how many there were.
        output_error: root mean square of the outputs' error over that of the outputs.
        findings: what is wrong; empty if nothing is.
        notes: what speaks against believing the figures.
    """

    sites: tuple[SiteCorrelation, ...]
    images: int
    output_error: float
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def named(self, sites: str | Sequence[str] | None = None) -> list[SiteCorrelation]:
        """The rows of sites by names or globs, in graph order; all if None.

        Raises:
            SiteError: for a name that no row has.
        """
        if sites is None:
            return list(self.sites)
        patterns = [sites] if isinstance(sites, str) else list(sites)
        found = _matching([row.name for row in self.sites], patterns)
        return [row for row in self.sites if row.name in found]

    @property
    def diagnosis(self) -> str:
        """What is wrong and what to change, in words."""
        off = f"the outputs are off by {self.output_error:.3f} of their size"
        if self.findings:
            lines = [str(finding) for finding in self.findings]
            return "\n".join([f"{off[0].upper()}{off[1:]} on {self.images} images.", *lines])
        worst = max(self.sites, key=lambda row: row.error)
        return (
            f"Nothing is wrong: {off} on {self.images} images, and no site is poor. The largest "
            f"error of a site is {worst.error:.2f} ({worst.name})."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples of values, in JSON's types."""
        return {
            "images": self.images,
            "output_error": self.output_error if math.isfinite(self.output_error) else None,
            "sites": [row.to_dict() for row in self.sites],
            "diagnosis": [finding.to_dict() for finding in self.findings],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        columns = (
            "site", "K", "correlation", "error", "error alone", "expected", "outside",
            "rare", "cause",
        )  # fmt: skip
        rows = [
            (
                row.name, row.steps, row.correlation, row.error, row.error_alone, row.expected,
                row.outside, row.rare, str(row.cause),
            )
            for row in self.sites
        ]  # fmt: skip
        legend = (
            "Errors: root mean square over the standard deviation of the original's values. Alone: "
            "of the site's neurons on exact inputs. Expected: that on the calibration images. "
            "Outside, rare: shares of the inputs outside the calibrated range, and where "
            "calibration held few."
        )
        notes = (f"note: {note}" for note in self.notes)
        return "\n\n".join([table(columns, rows), legend, self.diagnosis, *notes])


def correlate(
    snn: SpikingModel,
    model: torch.nn.Module | None,
    images: Any,
    sites: str | Sequence[str] = "*",
    *,
    seed: int = 0,
    progress: bool = True,
) -> Correlation:
    """Compares the values of every site with those in the original, and says why they differ.

    The original is the captured network with its exact functions. Each site is compared twice:
    while the whole network spikes, and alone: its neurons on the original's exact inputs, without
    the stretch by which bias correction fits them to what reaches them in the spiking network.

    Args:
        snn: from `to_spiking`; inside `with_steps` its neurons of that K.
        model: the original; only checked to be the network that was converted. None for no check.
        images: one batch, in any form of calibration.
        sites: names or globs of those that are reported.
        seed: of the sample of values that `plot_correlation` shows.
        progress: shows a bar on stderr.

    Raises:
        SiteError: for a name that no site has, or if no site spikes.
        InputError: for images that the network doesn't take, or a cut readout.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(f"correlate takes a converted network, found a {type(snn).__name__}")
    plan = snn.plan
    if plan.readout is not None:
        raise InputError("correlate runs whole neurons; leave the block snn.readout(...)")
    if snn.report is None:
        raise InputError("the network has no report, which correlate needs; convert it again")
    chosen = _matching(list(snn.names), [sites] if isinstance(sites, str) else list(sites))
    device = device_of(snn)
    given = snn.reader().read(images)
    call = moved(given, device)
    flat = snn.signature.flatten(*call)
    count = snn.signature.images(flat)
    if not count:
        raise InputError("there is no image to compare; give at least one")
    exact = snn.with_exact_functions()
    spiking = snn.network if plan.plain else snn.as_planned(plan)
    with torch.no_grad(), eval_mode(snn), eval_mode(exact), eval_mode(spiking):
        pieces = snn.signature.pieces(flat, -(-count // _PIECE))
        points = -(-_POINTS // len(pieces))
        measures = _measures(snn, exact, spiking, seed, points, known=plan.fit is None)
        if not measures:
            raise SiteError("no site of the network spikes; leave the block spiking_only(...)")
        notes = _other_model(snn, model, call)
        outputs = [
            _side_by_side(exact, spiking, piece, measures)
            for piece in Progress(pieces, "correlate", shown=progress)
        ]
    notes += _lost(measures.values())
    rows = [measure.row() for measure in measures.values()]
    expected, found = ([pair[i] for pair in outputs] for i in (0, 1))
    settings = snn.report.settings
    case = Case(
        rows,
        relative_error(expected, found),
        _images_outside(snn, flat),
        dict(settings.per_site_steps) if settings is not None else {},
        dict(settings.per_site_gates) if settings is not None else {},
        snn.report.method,
    )
    findings = tuple(diagnose(case))
    kept = tuple(row for row in rows if row.name in chosen)
    return Correlation(kept, count, case.output_error, findings, notes)


def _matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The names that names or globs mean.

    Raises:
        SiteError: for one that means none.
    """
    found = set()
    for pattern in patterns:
        matching = {n for n in names if n == pattern or fnmatchcase(n, str(pattern))}
        if not matching:
            near = get_close_matches(str(pattern), names, 3, 0.3) or names[:3]
            raise SiteError(f"no site here is called {pattern!r}; there are e.g. {', '.join(near)}")
        found |= matching
    if not found:
        raise SiteError("no site was named; name some, or all by '*'")
    return found


def _measures(
    snn: SpikingModel,
    exact: GraphModule,
    spiking: GraphModule,
    seed: int,
    points: int,
    *,
    known: bool,
) -> dict[str, SiteMeasure]:
    """One for each site that spikes, by the path of its module.

    Args:
        points: drawn of each site from each piece.
        known: whether the report's rows are of the neurons that run.
    """
    assert snn.report is not None
    rows = {row.name: row for row in snn.report.sites}
    before = _before(spiking, snn.names)
    found = {}
    for place, (name, path) in enumerate(snn.names.items()):
        neuron = spiking.get_submodule(path)
        if not isinstance(neuron, FewSpikesNeuron):
            continue
        row, f = rows[name], exact.get_submodule(path)
        found[path] = SiteMeasure(
            name,
            neuron,
            row,
            InputParts(row.low, row.high, snn.histograms.get(name)),
            own_of(neuron, f, snn.histograms.get(name), row if known else None),
            before[name],
            torch.Generator().manual_seed(seed + place),
            points,
        )
    return found


def _lost(measures: Iterable[SiteMeasure]) -> tuple[str, ...]:
    """A note on values of the original that are no finite numbers.

    Raises:
        InputError: if a site has no others.
    """
    lost = [measure for measure in measures if measure.lost]
    for measure in lost:
        if not measure.together.count:
            raise InputError(
                f"the original has no finite value at {measure.name}, so there is nothing to "
                "compare; check the images and the weights for NaN"
            )
    if not lost:
        return ()
    return (
        f"{lost[0].lost} values of the original at {lost[0].name} are NaN or infinite, and left "
        f"out; so at {len(lost)} sites",
    )


def _before(network: GraphModule, names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The sites whose values reach each site."""
    sites = {path: name for name, path in names.items()}
    reached: dict[Node, frozenset[str]] = {}
    found: dict[str, frozenset[str]] = {}
    for node in network.graph.nodes:
        above = frozenset[str]().union(*(reached[n] for n in node.all_input_nodes))
        name = sites.get(str(node.target)) if node.op == "call_module" else None
        if name is not None:
            # At its later time steps a gate depends on itself.
            found[name] = found.get(name, frozenset()) | (above - {name})
            above |= {name}
        reached[node] = above
    return found


def _side_by_side(
    exact: GraphModule,
    spiking: GraphModule,
    piece: Sequence[Any],
    measures: Mapping[str, SiteMeasure],
) -> tuple[list[Any], list[Any]]:
    """Flat outputs of both networks for some images; the measures see every site."""
    calls: dict[str, Callable[..., Any]] = {
        # A neuron decodes whatever its step mode is.
        path: partial(measure.neuron.decode, plan=WHOLE)
        for path, measure in measures.items()
    }
    a: dict[Node, Any] = {}
    b: dict[Node, Any] = {}
    given = iter(piece)
    last_a, last_b = last_read(exact.graph), last_read(spiking.graph)
    for node, twin in zip(exact.graph.nodes, spiking.graph.nodes, strict=True):
        if node.op == "output":
            return returned(node, a), returned(twin, b)
        if node.op == "placeholder":
            a[node] = b[twin] = next(given)
        else:
            a[node] = compute(exact, node, a)
            b[twin] = compute(spiking, twin, b, calls)
        measure = measures.get(str(node.target)) if node.op == "call_module" else None
        if measure is not None:
            (before,), (twin_before,) = node.all_input_nodes, twin.all_input_nodes
            measure.add(a[before], a[node], b[twin_before], b[twin])
        for values, last, now in ((a, last_a, node), (b, last_b, twin)):
            for dead in last.get(now, ()):
                values.pop(dead, None)
    raise AssertionError("a graph ends with its output")


def _other_model(
    snn: SpikingModel, model: torch.nn.Module | None, call: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[str, ...]:
    """A warning, also given as a note, where a model isn't the one that was converted."""
    if model is None:
        return ()
    args, kwargs = snn.signature.first(call, min(_PIECE, snn.signature.size_of(call)))
    device = device_of(model)
    there = pytree.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, (args, kwargs))
    with eval_mode(model):
        found = [leaf.cpu() for leaf in floats(model(*there[0], **there[1]))]
    expected = [leaf.cpu() for leaf in floats(snn.original()(*args, **kwargs))]
    gap = gap_between(expected, found)
    if gap <= _ANOTHER:
        return ()
    note = (
        f"the model's outputs differ by {gap:.2g} of their magnitude from those of the network "
        "that was converted (snn.original()), with whose values these are compared: other weights, "
        "or another model"
    )
    warnings.warn(note, stacklevel=3)
    return (note,)


def _images_outside(snn: SpikingModel, flat: Sequence[Any]) -> str:
    """A sentence on images that lie clearly outside what calibration saw; else empty."""
    assert snn.report is not None
    for leaf, limits in zip(flat, snn.report.input_ranges, strict=False):
        if limits is None or not isinstance(leaf, Tensor) or not leaf.numel():
            continue
        low, high = float(leaf.min()), float(leaf.max())
        margin = _MARGIN * (limits[1] - limits[0])
        if low < limits[0] - margin or high > limits[1] + margin:
            return (
                f"The images themselves go from {low:.4g} to {high:.4g}, at calibration from "
                f"{limits[0]:.4g} to {limits[1]:.4g}: check that both are scaled in the same way."
            )
    return ""
