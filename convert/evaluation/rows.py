"""What an evaluation found, as typed rows that can be read by key as well.

The keys of a row are those of report.json, so ``row["agreement"]`` is ``row.agreement``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

# Metadata of a field that holds a row: that row's keys stand in place of the field's name.
_INLINED = {"prefix": ""}
# Metadata of a field that is a key only where it isn't its default.
_WHERE_TOLD = {"where_told": True}


class Row(Mapping[str, Any]):
    """Base of frozen dataclasses that are read-only mappings over their fields, too."""

    def _view(self) -> dict[str, Any]:
        view: dict[str, Any] = {}
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if "prefix" in each.metadata:
                view |= {each.metadata["prefix"] + key: inner for key, inner in value.items()}
            elif "where_told" not in each.metadata or value != each.default:
                view[each.name] = value
        return view

    def __getitem__(self, key: str) -> Any:
        return self._view()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._view())

    def __len__(self) -> int:
        return len(self._view())

    def __getattr__(self, name: str) -> Any:
        """An attribute of an inlined row; Python asks here for what isn't a field."""
        for each in fields(self):  # type: ignore[arg-type]
            prefix, inner = each.metadata.get("prefix"), self.__dict__.get(each.name, MISSING)
            if prefix is None or inner is MISSING or not name.startswith(prefix):
                continue
            key = name.removeprefix(prefix)
            found = getattr(inner, key, MISSING)
            if not isinstance(inner, Row):
                found = inner.get(key, MISSING)
            if found is not MISSING:
                return found
        raise AttributeError(f"a {type(self).__name__} has no {name!r}; its keys say what it has")

    def to_dict(self) -> dict[str, Any]:
        """The row in JSON's types; see `plain`."""
        return {key: plain(value) for key, value in self.items()}


def plain(value: Any) -> Any:
    """Rows, mappings and sequences in JSON's types; None for a number that isn't finite."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# eq=False: a row equals what has the same keys and values, a dict too.
@dataclass(frozen=True, eq=False)
class Predicted(Row):
    """How often the predicted class is right.

    Args:
        accuracy: share of labelled predictions that are the label; None without labels.
        agreement: share of predictions that are the original's.
        without_prediction: images whose logits give no class; a key only where there are any.
    """

    accuracy: float | None
    agreement: float
    without_prediction: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class ClassMeasures(Predicted):
    """As `Predicted`, with `logit_rmse`: relative error of the logits, None where it has no value.

    See `convert.evaluation.relative_error.RelativeError`.
    """

    logit_rmse: float | None


@dataclass(frozen=True, eq=False)
class ClassSite(Row):
    """What one site does to logits and classes; see `ClassMeasures`."""

    logit_rmse: float | None
    agreement: float
    without_prediction: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class ClassOriginal(Row):
    """The original network's accuracy; see `Predicted`."""

    accuracy: float | None
    without_prediction: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class OutputMeasures(Row):
    """Relative errors of outputs that are no classes.

    See `convert.evaluation.output_error.OutputError`.

    Args:
        relative_error: of all outputs; None where it has no value.
        by_output: of each, by its name.
        not_finite: images with NaN or infinity in an output; a key only where there are any.
    """

    relative_error: float | None
    by_output: dict[str, float | None]
    not_finite: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class OutputSite(Row):
    """What one site does to the outputs; see `OutputMeasures`."""

    relative_error: float | None
    not_finite: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class OutputOriginal(Row):
    """What is said of the original network's outputs; see `OutputMeasures`."""

    not_finite: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class TokenMeasures(Row):
    """How well tokens are predicted; see `convert.evaluation.perplexity.Perplexity`.

    Args:
        perplexity: the exponential of the mean negative log-likelihood over all tokens; None where
            it has no value.
        divergence: Kullback-Leibler divergence from the original's distribution, mean of all
            tokens, in nats; None where it has no value.
        agreement: share of tokens whose most likely one is the original's.
        without_prediction: images with a token whose likelihood has no value; a key only where
            there are any.
    """

    perplexity: float | None
    divergence: float | None
    agreement: float | None
    without_prediction: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class TokenOriginal(Row):
    """The original network's perplexity, and of how many tokens; see `TokenMeasures`."""

    perplexity: float | None
    tokens: int
    without_prediction: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class OverlapOriginal(Row):
    """How far predicted regions are the labelled ones; see `convert.evaluation.iou.IoU`.

    Args:
        iou: intersection over union, mean of the classes that occur in labels or predictions.
        accuracy: share of labelled pixels whose class is predicted.
        by_class: intersection over union of each class; None for one that doesn't occur.
        without_prediction: images with a pixel without a prediction; a key only where there are
            any.
    """

    iou: float | None
    accuracy: float | None
    by_class: tuple[float | None, ...]
    without_prediction: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class OverlapMeasures(OverlapOriginal):
    """As `OverlapOriginal`, beside the original.

    Args:
        agreement: share of labelled pixels whose predicted class is the original's.
        logit_rmse: relative error of the logits, as in `ClassMeasures`.
    """

    agreement: float | None
    logit_rmse: float | None


@dataclass(frozen=True, eq=False)
class OwnOriginal(Row):
    """What a function or a metric of torchmetrics says of the original network.

    Args:
        figures: by name, which are the keys; None for one without a value.
        without_value: batches, or figures, without a value; a key only where there are any.
    """

    figures: Mapping[str, float | None] = field(metadata=_INLINED)
    without_value: int = field(default=0, kw_only=True, metadata=_WHERE_TOLD)


@dataclass(frozen=True, eq=False)
class OwnMeasures(OwnOriginal):
    """As `OwnOriginal`, with `relative_error` of the outputs as in `OutputMeasures`."""

    relative_error: float | None


@dataclass(frozen=True, eq=False)
class StepRow(Row):
    """The anytime readout after one step.

    Args:
        step: t; every neuron is cut after its first t steps.
        measures: with the calibrated mean of what is missing.
        spikes_per_neuron: spikes of one image up to that step over the number of neurons.
        raw: measures without the calibrated mean.
    """

    step: int
    measures: Row = field(metadata=_INLINED)
    spikes_per_neuron: float
    raw: Row


@dataclass(frozen=True, eq=False)
class FittedRow(Row):
    """The network fitted anew for another K, `steps`; the rest as in `StepRow`.

    Args:
        latency_steps: time steps of its longest chain of sites; gates take one at each.
    """

    steps: int
    measures: Row = field(metadata=_INLINED)
    spikes_per_neuron: float
    latency_steps: int


@dataclass(frozen=True, eq=False)
class PricedRow(Row):
    """The network fitted with one price of spikes.

    Args:
        spike_cost: the price.
        steps: K, the largest where it was chosen for every site.
        gates: the most of a site.
        latency_steps: of the longest chain of sites.
        measures: against the original's outputs.
        spikes_per_neuron: events of one image over the number of neurons.
        dominated: whether another network has no more events and no larger error, and less of one.
    """

    spike_cost: float
    steps: int
    gates: int
    latency_steps: int
    measures: Row = field(metadata=_INLINED)
    spikes_per_neuron: float
    dominated: bool


@dataclass(frozen=True, eq=False)
class SiteErrorRow(Row):
    """Error of the output if one site alone spikes, and if all sites up to it in the graph do."""

    name: str
    own: Row = field(metadata=_INLINED)
    accumulated: Row = field(metadata={"prefix": "accumulated_"})


@dataclass(frozen=True, eq=False)
class Whole(Row):
    """The whole spiking network.

    Args:
        measures: against the original's outputs.
        neurons: of one image.
        spikes_per_image, spikes_per_neuron: spikes of one image; over the number of neurons.
        spike_driven: share of the original's multiply-accumulates whose inputs are all spikes.
        without_encoding: measures with the identity neurons on analog operands left out; a key
            only where there are any.
    """

    measures: Row = field(metadata=_INLINED)
    neurons: int
    spikes_per_image: float
    spikes_per_neuron: float
    spike_driven: float
    without_encoding: Row | None = field(default=None, kw_only=True, metadata=_WHERE_TOLD)
