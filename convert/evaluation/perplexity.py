"""The measure of language models: perplexity, divergence, and agreement on the next token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..calls.batch_forms import Given
from ..errors import InputError
from .class_labels import IGNORED
from .classes import predicted_classes
from .measures import Joined, Measure, Outputs, check_alike, main_output
from .rows import TokenMeasures, TokenOriginal
from .tokens import TokenTargets

# Logits that are looked at in one piece, in double precision.
_PIECE = 1 << 22


class Perplexity(Joined):
    """Perplexity over all tokens, and how far the distributions are from the original's.

    The logits ``[N, T, vocabulary]`` are the output called logits, else the first of three
    dimensions. Perplexity is ``exp(sum of -log p(token) / number of tokens)`` over the tokens of
    all batches; positions whose label is -100 or that a mask among the inputs leaves out don't
    count. The divergence is ``sum p log(p / q)``, p being the original's distribution and q the
    spiking network's, as a mean of the same positions.

    Args:
        shift: True if labels are copies of the input ids, shifted here as Hugging Face's models
            do; False if a position's label is what it is to give. None compares them with the
            input ids. Without labels the input ids are the labels.

    Raises:
        InputError: for a shift that is neither.
    """

    columns: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"perplexity": "perplexity", "divergence": "divergence", "agreement": "agreement"}
    )
    error: ClassVar[str] = "divergence"
    drawn: ClassVar[str] = "agreement"
    own: ClassVar[tuple[str, ...]] = ("perplexity",)
    shares: ClassVar[frozenset[str]] = frozenset({"agreement"})
    better: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"perplexity": "lower", "divergence": "lower", "agreement": "higher"}
    )
    broken: ClassVar[str] = "without_prediction"
    broken_text: ClassVar[str] = (
        "Texts with a token whose likelihood has no value (a logit is NaN or infinite)"
    )
    positions_second: ClassVar[bool] = True

    def __init__(self, *, shift: bool | None = None) -> None:
        if shift is not None and not isinstance(shift, bool):
            raise InputError(f"shift= must be True, False or None, found {shift!r}")
        self._shift = shift
        self._targets = TokenTargets(shift)
        self._loss = self._divergence = 0.0
        self._tokens = self._positions = self._same = self._broken = 0
        # What the last batch added to divergence and loss, in order.
        self._added: list[tuple[float, float]] = []

    def start(self) -> Measure:
        """A measure of the same kind of labels."""
        return Perplexity(shift=self._shift)

    def labels(self, label: Any, outputs: Outputs) -> Tensor:
        """See `targets`; without the inputs it must be said whether the labels are shifted."""
        return self._targets.read(Given((), {}, label), outputs[self.measured(outputs)])

    def targets(self, batch: Given, outputs: Outputs, size: int) -> Tensor:
        """The token that each position is to give ``[N, T]``; see `TokenTargets`."""
        return self._targets.read(batch, outputs[self.measured(outputs)])

    def measured(self, outputs: Outputs) -> str:
        """The name of the logits; InputError if there are none."""
        name = main_output(outputs, lambda output: output.dim() == 3)
        if name is None:
            shapes = ", ".join(str([*output.shape]) for output in outputs.values())
            raise InputError(
                f"metric='perplexity' needs logits [N, T, vocabulary], the model returns {shapes}; "
                "metric='output' compares what is none"
            )
        return name

    def add(self, found: Outputs, reference: Outputs, labels: Tensor | None) -> None:
        """Adds a batch and its tokens ``[N, T]``; without any only the networks are compared."""
        logits, exact = found[self.measured(found)], reference[self.measured(reference)]
        check_alike("logits", logits, exact)
        known = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
        if labels is not None:
            known = labels != IGNORED
            self.labelled += int(known.any(1).sum())
        self._added = []
        broken = torch.zeros_like(known)
        pieces = known.nonzero().split(max(_PIECE // logits.shape[2], 1))
        for piece in pieces:
            at = (piece[:, 0], piece[:, 1])
            tokens = None if labels is None else labels[at]
            broken[at] = self._add_rows(logits[at], exact[at], tokens)
        self._broken += int(broken.any(1).sum())

    def _add_rows(self, logits: Tensor, exact: Tensor, tokens: Tensor | None) -> Tensor:
        """Adds positions ``[M, vocabulary]``; which of them have no value ``[M]``."""
        log_q, log_p = logits.double().log_softmax(1), exact.double().log_softmax(1)
        p = log_p.exp()
        # What the original rules out adds nothing, whatever the other says of it.
        divergence = float((p * (log_p - log_q)).where(p != 0, 0.0).sum())
        self._divergence += divergence
        predicted, expected = predicted_classes(logits), predicted_classes(exact)
        self._same += int(((predicted == expected) & (predicted >= 0)).sum())
        self._positions += len(logits)
        if tokens is None:
            self._added.append((divergence, 0.0))
            return log_q.isnan().any(1)
        loss = -log_q.gather(1, tokens[:, None])[:, 0]
        total = float(loss.sum())
        self._loss += total
        self._added.append((divergence, total))
        self._tokens += len(tokens)
        return ~loss.isfinite()

    def join(self, other: Measure) -> None:
        """Adds a batch that was added to another, or how it read its labels."""
        assert isinstance(other, Perplexity)
        for divergence, loss in other._added:
            self._divergence += divergence
            self._loss += loss
        self._tokens += other._tokens
        self._positions += other._positions
        self._same += other._same
        self._broken += other._broken
        self.labelled += other.labelled
        self._targets.join(other._targets)

    def check(self) -> None:
        """Refuses data without a token to be predicted."""
        if not self._tokens:
            raise InputError(
                "the labels hold no token to be predicted (-100 and masked positions stand for "
                "none); give texts of two tokens or more"
            )

    def notes(self) -> list[str]:
        """How the targets were read."""
        return self._targets.notes()

    @property
    def _perplexity(self) -> float | None:
        if not self._tokens:
            return None
        try:
            return _finite(math.exp(self._loss / self._tokens))
        except OverflowError:
            return None

    @property
    def values(self) -> TokenMeasures:
        """Perplexity, divergence and agreement."""
        count = self._positions
        return TokenMeasures(
            self._perplexity,
            # Rounding alone makes it negative.
            _finite(max(self._divergence, 0.0) / count) if count else None,
            self._same / count if count else None,
            without_prediction=self._broken,
        )

    @property
    def raw(self) -> TokenMeasures:
        """The same as `values`."""
        return self.values

    @property
    def site(self) -> TokenMeasures:
        """The same as `values`."""
        return self.values

    @property
    def original(self) -> TokenOriginal:
        """Its perplexity, and of how many tokens."""
        return TokenOriginal(self._perplexity, self._tokens, without_prediction=self._broken)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
