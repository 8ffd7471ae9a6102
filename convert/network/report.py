"""What became of every operation of a converted network, and what its neurons cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch.fx import Graph

from ..common.tables import table
from ..graph.roles import Operation, Role, Signal
from .settings import ConversionSettings

# A site's error over its function's variance, and the outputs' over their size, that are poor.
_POOR_SITE = 0.1
_POOR_OUTPUT = 0.25
_WORDS = (
    "site: one place where the network applies a nonlinear function, now neurons of K steps. low, "
    "high: its smallest and largest input at calibration. relative MSE: the neuron's mean squared "
    "error over the variance of the function. start: what the best fit began with."
)
_CALLS = (
    "calls: how often a neuron works for one image. In a recurrent layer the same neurons work at "
    "every time step; spikes per neuron are those of all time steps together."
)


@dataclass(frozen=True)
class SiteRow:
    """One site of the report.

    Args:
        name, function: the site and what it computes.
        steps: K of its neuron.
        gates: of its neuron; they take one time step more.
        low, high: smallest and largest input on the calibration data.
        mse: mean squared error of the fit under the calibration histogram.
        relative_mse: the same over the variance of f there.
        start: what the fit started from: ``tbpi``, ``random``, ``binary``, ``library``,
            ``grown``, ``digits`` or ``stairs``.
        neurons: neurons of the site for one image.
        events: of one neuron for an input, by the inputs that calibration saw; None for a network
            from a file of before they were kept.
        calls: how often each neuron works for one image: in a recurrent layer, once at every time
            step.
    """

    name: str
    function: str
    steps: int
    low: float
    high: float
    mse: float
    relative_mse: float
    start: str
    neurons: int
    gates: int = 0
    events: float | None = None
    calls: int = 1

    @property
    def poor(self) -> bool:
        """Whether the neuron misses a good part of what its function does."""
        return self.relative_mse > _POOR_SITE


@dataclass(frozen=True)
class Correction:
    """Mean errors that were taken out of the layers' biases, for one K.

    Args:
        steps: K.
        layers: how many layers.
        images: calibration images on which they were measured.
        before, after: relative root-mean-square error of the outputs on these images.
        kept: whether the corrections are in use: only if the error is less.
    """

    steps: int
    layers: int
    images: int
    before: float
    after: float
    kept: bool

    def __str__(self) -> str:
        error = f"relative output error on {self.images} calibration images"
        if not self.kept:
            return (
                f"K = {self.steps}: biases stay as trained: taking each layer's mean error out of "
                f"its bias doesn't help (the {error} would be {self.after:.3g} instead of "
                f"{self.before:.3g})"
            )
        return (
            f"K = {self.steps}: the mean errors of {self.layers} layers are taken out of their "
            f"biases; {error} {self.before:.3g} -> {self.after:.3g}"
        )


@dataclass(frozen=True)
class OutputError:
    """How far the outputs are off on calibration images, for one K.

    Args:
        steps: K.
        images: calibration images on which it was measured.
        error: root mean square of the outputs' error over that of the outputs.
        site: where the error is poor, the site that makes most of it; None elsewhere.
        alone: the outputs' error where that site alone spikes, on a few of the images.
    """

    steps: int
    images: int
    error: float
    site: str | None = None
    alone: float | None = None

    @property
    def poor(self) -> bool:
        """Whether the outputs are not worth much; NaN is poor too."""
        return not self.error <= _POOR_OUTPUT

    def within(self, part: str) -> OutputError:
        """The same with the site's name as it is in a model of which this is a part."""
        return self if self.site is None or not part else replace(self, site=f"{part}.{self.site}")

    def __str__(self) -> str:
        off = f"relative output error {self.error:.3g} on {self.images} calibration images"
        text = f"K = {self.steps}: {off}"
        if not self.poor:
            return text
        text += ", which is POOR: more steps make it smaller"
        if self.site is None or self.alone is None:
            return text
        return (
            f"{text}; alone, site {self.site} makes the largest error, {self.alone:.3g} "
            f"(per_site_steps={{{self.site!r}: K}} gives it other steps)"
        )


@dataclass
class Report:
    """What `to_spiking` did; prints as a table.

    Args:
        sites: one row a site, in graph order.
        operations: every operation on a varying tensor, in graph order.
        latency_steps: time steps of the longest chain of sites: K of each, and one where it has
            gates.
        method, seed: how the neurons were fitted.
        calibration_images: images that the histograms hold.
        seconds: time of each stage.
        notes: what the user should know.
        input_ranges: lowest and highest calibrated value of each of the network's inputs; None
            for one of whole numbers or that isn't a tensor.
        corrections: what was done about mean errors, for every K; empty for plain calibration.
        output_errors: of the whole network on calibration data, for every K; empty where there was
            no data.
        settings: what the conversion was asked for; None for a network from a file that was
            written before they were kept.
        batch_axis: the inputs' axis that holds the images, by the name of the input where they
            differ.
        mixes_batch: whether what the network gives for an image depends on the others of its batch.
    """

    sites: list[SiteRow]
    operations: list[Operation]
    latency_steps: int
    method: str
    seed: int
    calibration_images: int
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    input_ranges: list[tuple[float, float] | None] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    output_errors: list[OutputError] = field(default_factory=list)
    settings: ConversionSettings | None = None
    batch_axis: int | dict[str, int] = 0
    mixes_batch: bool = False

    @property
    def steps(self) -> int:
        """K that the network was fitted as; the largest of a site where K was chosen."""
        asked = self.settings.wanted if self.settings is not None else ()
        return asked[0] if asked else max(site.steps for site in self.sites)

    @property
    def neurons(self) -> int:
        """Neurons of one image."""
        return sum(site.neurons for site in self.sites)

    @property
    def expected_events(self) -> float | None:
        """Events per neuron by the inputs that calibration saw; None where that isn't known.

        Those of one image: of all time steps together.
        """
        known = [s.events * s.neurons * s.calls for s in self.sites if s.events is not None]
        if not known or len(known) < len(self.sites):
            return None
        total = sum(known)
        return total / max(self.neurons, 1)

    @property
    def multiply_accumulates(self) -> int:
        """Multiply-accumulates of the original on one image: synaptic operations and products."""
        return sum(operation.multiply_accumulates for operation in self.operations)

    @property
    def spike_driven(self) -> float:
        """Share of the multiply-accumulates whose inputs are all spike-coded."""
        driven = sum(o.multiply_accumulates for o in self.operations if o.signal is Signal.SPIKES)
        return driven / max(self.multiply_accumulates, 1)

    def of_graph(self, graph: Graph) -> Report:
        """The same report for a copy of the graph."""
        nodes = {node.name: node for node in graph.nodes}
        moved = [replace(o, node=nodes[o.node.name]) for o in self.operations]
        return replace(self, operations=moved)

    def to_dict(self) -> dict[str, Any]:
        """The keys of report.json that the conversion decides.

        The operations of a product are its multiply-accumulates on one image, of all its places
        together.
        """
        return {
            "steps": self.steps,
            "gates": 0 if self.settings is None else self.settings.gates,
            "method": self.method,
            "seed": self.seed,
            "settings": None if self.settings is None else self.settings.to_dict(),
            "calibration_images": self.calibration_images,
            "batch_axis": self.batch_axis,
            "mixes_batch": self.mixes_batch,
            "latency_steps": self.latency_steps,
            "neurons": self.neurons,
            "expected_events": self.expected_events,
            "multiply_accumulates": self.multiply_accumulates,
            "spike_driven": self.spike_driven,
            "sites": [asdict(site) | {"poor": site.poor} for site in self.sites],
            "synaptic": self._synaptic(),
            "products": self._listed(Role.PRODUCT),
            "remaining": self._listed(Role.REMAINING),
            "given": self._listed(Role.GIVEN),
            "corrections": [asdict(correction) for correction in self.corrections],
            "output_errors": [asdict(row) | {"poor": row.poor} for row in self.output_errors],
            "notes": list(self.notes),
        }

    def _synaptic(self) -> list[dict[str, Any]]:
        chosen = [o for o in self.operations if o.kind is Role.SYNAPTIC]
        counts = Counter((o.op, o.signal) for o in chosen)
        return [{"op": op, "input": str(signal), "count": n} for (op, signal), n in counts.items()]

    def _listed(self, kind: Role) -> list[dict[str, Any]]:
        """Operations of a kind that are alike, with their places."""
        groups: dict[tuple[Any, ...], list[Operation]] = {}
        for operation in self.operations:
            if operation.kind is kind:
                alike = (operation.inputs, operation.shapes) if kind is Role.PRODUCT else ((), ())
                groups.setdefault((operation.op, *alike), []).append(operation)
        rows = []
        for (op, inputs, shapes), members in groups.items():
            row: dict[str, Any] = {"op": op, "count": len(members)}
            if kind is Role.PRODUCT:
                row["operands"] = [str(signal) for signal in inputs]
                row["shapes"] = [list(shape) for shape in shapes]
                row["operations"] = sum(member.multiply_accumulates for member in members)
            row["where"] = list(dict.fromkeys(member.where for member in members))
            rows.append(row)
        return rows

    def __str__(self) -> str:
        parts = [
            self._site_table(),
            table(
                ("synaptic", "input", "count"),
                [(r["op"], r["input"], r["count"]) for r in self._synaptic()],
            ),
            self._product_table(),
            self._place_table(Role.REMAINING, "remaining")
            or "remaining: none, every nonlinearity spikes",
            self._place_table(Role.GIVEN, "on masks and indices of the input"),
            f"{len(self.sites)} sites, {self.neurons:,} neurons, latency {self.latency_steps} "
            f"steps (K x longest chain); {self.spike_driven:.1%} of "
            f"{self.multiply_accumulates:,} multiply-accumulates are driven by spikes; "
            f"method {self.method}, seed {self.seed}, "
            f"{self.calibration_images} calibration images",
            self._price(),
            "\n".join(str(correction) for correction in self.corrections),
            "\n".join(str(row) for row in self.output_errors if row.poor or not self.corrections),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n\n".join(part for part in parts if part)

    def _price(self) -> str:
        """What spikes cost, where they have a price."""
        if self.settings is None or not self.settings.spike_cost or self.expected_events is None:
            return ""
        return (
            f"spike_cost {self.settings.spike_cost:g} for one event per neuron; "
            f"{self.expected_events:.3f} events per neuron are expected"
        )

    def _site_table(self) -> str:
        columns = ["site", "function", "K", "low", "high", "relative MSE", "start", "neurons"]
        rows: list[tuple[Any, ...]] = [
            (s.name, s.function, s.steps, s.low, s.high, s.relative_mse, s.start, s.neurons)
            for s in self.sites
        ]
        if any(s.gates for s in self.sites):
            columns.insert(3, "gates")
            rows = [(*row[:3], s.gates, *row[3:]) for row, s in zip(rows, self.sites, strict=True)]
        below = [_WORDS]
        if any(s.calls > 1 for s in self.sites):
            columns.append("calls")
            rows = [(*row, s.calls) for row, s in zip(rows, self.sites, strict=True)]
            below.append(_CALLS)
        poor = [s.poor for s in self.sites]
        if any(poor):
            columns.append("fit")
            rows = [(*row, "POOR" if p else "") for row, p in zip(rows, poor, strict=True)]
            below.append(
                f"POOR: the neuron's error is more than {_POOR_SITE:.0%} of the variance of its "
                "function."
            )
        return "\n\n".join([table(columns, rows), *below])

    def _product_table(self) -> str:
        rows = []
        for row in self._listed(Role.PRODUCT):
            shapes = " x ".join(str(tuple(shape)).replace("'", "") for shape in row["shapes"])
            operands, where = ", ".join(row["operands"]), places(row["where"])
            rows.append((row["op"], operands, shapes, row["count"], row["operations"], where))
        return table(("product", "operands", "shapes", "count", "operations", "where"), rows)

    def _place_table(self, kind: Role, title: str) -> str:
        rows = [(r["op"], r["count"], places(r["where"])) for r in self._listed(kind)]
        return table((title, "count", "where"), rows)


def places(names: Sequence[str], most: int = 3) -> str:
    """The first few places, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
