"""Which token each position of a text is to predict, read off batches of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..calls.batch_forms import Given
from ..errors import InputError
from .class_labels import IGNORED, label_numbers

# Values that stand for no token: that of PyTorch's losses, and that of nanoGPT's.
_NO_TOKEN = (-100, -1)
# Whole numbers beside the ids that are no tokens.
_NO_IDS = ("mask", "type", "position", "segment", "lang", "label")
_SAY = (
    "say metric=Perplexity(shift=True) for copies of the input ids, metric=Perplexity(shift=False) "
    "for the token that each position is to give"
)

_MIXED = (
    "the labels of some batches are copies of the input ids, those of others are shifted by one; "
    "give all in one form"
)


class TokenTargets:
    """Reads the targets of every batch in one way, which the first ones decide.

    Args:
        shift: whether the labels are copies of the input ids, to be shifted as Hugging Face's
            models do; None to find out by comparing them with the input ids.
    """

    def __init__(self, shift: bool | None) -> None:
        self._asked = self._shift = shift
        self._from_ids = False
        self._mask = ""
        # Positions that a mask left out, and those whose label stands for none.
        self._masked = self._without = self._tokens = 0

    def read(self, batch: Given, logits: Tensor) -> Tensor:
        """The token that each position is to give ``[N, T]``, `IGNORED` for none.

        A position counts if it isn't masked; where labels are shifted, neither may the next one
        be.

        Args:
            batch: its label holds token ids ``[N, T]``, or is None: then the input ids are the
                labels. Masks ``[N, T]`` are looked for among the inputs.
            logits: ``[N, T, vocabulary]``.

        Raises:
            InputError: for labels that are missing, of another shape or type, or out of range,
                and where it isn't plain whether they are shifted.
        """
        inputs = _named_inputs(batch)
        ids = _ids(inputs, logits.shape[:2])
        labels = self._labels(batch.label, ids, logits)
        known = torch.ones_like(labels, dtype=torch.bool)
        for value in _NO_TOKEN:
            known &= labels != value
        _check_range(labels[known], logits.shape[2])
        self._without += int((~known).sum())
        self._mask, kept = _kept(inputs, labels)
        if self._decided(labels, known, kept, ids):
            targets = _ahead(labels.masked_fill(~known, IGNORED), IGNORED)
            counted = kept & _ahead(kept, False)
        else:
            targets, counted = labels.masked_fill(~known, IGNORED), kept.clone()
            if ids is not None:
                # The padding that follows a text isn't what its last token is to give.
                padding = ~_ahead(kept, True) & (targets == _ahead(ids, IGNORED))
                counted &= ~padding
        self._masked += int(((targets != IGNORED) & ~counted).sum())
        targets = targets.masked_fill(~counted, IGNORED)
        self._tokens += int((targets != IGNORED).sum())
        return targets.to(logits.device)

    def join(self, other: TokenTargets) -> None:
        """Adds what was read of other batches."""
        if self._shift is None:
            self._shift = other._shift
        if other._shift is not None and other._shift != self._shift:
            raise InputError(_MIXED)
        self._from_ids |= other._from_ids
        self._mask = self._mask or other._mask
        self._masked += other._masked
        self._without += other._without
        self._tokens += other._tokens

    def notes(self) -> list[str]:
        """How the targets were read."""
        what = "the input ids" if self._from_ids else "the labels"
        how = ", shifted by one," if self._shift else ", which are shifted already,"
        left = f"; {self._mask} leaves out {self._masked} others" if self._masked else ""
        if not self._mask and not self._without:
            left = "; neither a mask nor -100 says what is padding: every position counts"
        return [f"{what}{how} are the {self._tokens} tokens to be predicted{left}"]

    def _labels(self, label: Any, ids: Tensor | None, logits: Tensor) -> Tensor:
        """Token ids ``[N, T]`` as they were given."""
        if label is None:
            if ids is None or self._asked is False:
                raise InputError(
                    "a batch has no labels, which metric='perplexity' needs; give (inputs, labels) "
                    "with the token ids [N, T]"
                )
            self._from_ids = True
            return ids
        numbers = label_numbers(label)
        assert numbers is not None
        shape = tuple(logits.shape[:2])
        if numbers.shape == (*shape, 1):
            numbers = numbers.squeeze(-1)
        if tuple(numbers.shape) != shape:
            raise InputError(
                f"labels are {numbers.dtype} {tuple(numbers.shape)}; outputs "
                f"{tuple(logits.shape)} need a token id for each position, {shape}"
            )
        if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
            raise InputError(f"labels are {numbers.dtype}; give token ids, whole numbers [N, T]")
        return numbers.long().cpu()

    def _decided(self, labels: Tensor, known: Tensor, kept: Tensor, ids: Tensor | None) -> bool:
        """Whether the labels are to be shifted."""
        if self._from_ids or self._asked is not None:
            self._shift = self._asked is not False
            return self._shift
        if ids is None:
            raise InputError(
                "the network takes no token ids with which the labels could be compared; " + _SAY
            )
        here = known & kept
        there = here & _ahead(kept, False)
        copies = bool((labels == ids)[here].all())
        ahead = bool((labels == _ahead(ids, IGNORED))[there].all())
        if not bool(here.any()):
            return bool(self._shift)
        if not copies and not ahead:
            raise InputError(
                "the labels are neither the input ids nor these shifted by one; " + _SAY
            )
        if self._shift is None:
            self._shift = copies
        if not (copies if self._shift else ahead):
            raise InputError(_MIXED)
        return self._shift


def _named_inputs(batch: Given) -> dict[str, Tensor]:
    """The tensors among the inputs by name; those of a dict by their keys."""
    named: dict[str, Any] = dict(zip(batch.names, batch.args, strict=False)) | batch.kwargs
    for value in list(named.values()):
        if isinstance(value, Mapping):
            named |= value
    return {str(name): value for name, value in named.items() if isinstance(value, Tensor)}


def _ids(inputs: dict[str, Tensor], shape: torch.Size) -> Tensor | None:
    """The token ids among the inputs; None if there are none, or several."""
    found = {
        name: x
        for name, x in inputs.items()
        if x.shape == shape
        and not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
        and not any(part in name.lower() for part in _NO_IDS)
    }
    for known in ("decoder_input_ids", "input_ids"):
        if known in found:
            return found[known].long().cpu()
    return next(iter(found.values())).long().cpu() if len(found) == 1 else None


def _kept(inputs: dict[str, Tensor], labels: Tensor) -> tuple[str, Tensor]:
    """The name of the mask among the inputs, and which positions it keeps ``[N, T]``; "" for none.

    Raises:
        InputError: for a mask whose values say neither.
    """
    found = [n for n, x in inputs.items() if "mask" in n.lower() and x.shape == labels.shape]
    found.sort(key=lambda name: (not name.startswith("decoder"), "attention" not in name))
    if not found:
        return "", torch.ones_like(labels, dtype=torch.bool)
    name = found[0]
    mask = inputs[name].cpu()
    if mask.is_floating_point() and bool((mask < 0).any()):
        return name, mask == 0  # what is added to attention's scores
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError(
            f"{name} goes from {float(mask.min()):g} to {float(mask.max()):g}; a mask has 1 for "
            "tokens and 0 for padding"
        )
    # PyTorch's key_padding_mask marks what is left out.
    return name, mask == (0 if "padding_mask" in name.lower() else 1)


def _ahead(values: Tensor, last: Any) -> Tensor:
    """Each position's next value ``[N, T]``; `last` behind the end."""
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], last)], 1)


def _check_range(tokens: Tensor, vocabulary: int) -> None:
    """Refuses token ids that the network doesn't know."""
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise InputError(
            f"labels go from {int(tokens.min())} to {int(tokens.max())}, but the network has "
            f"{vocabulary} tokens (-100 stands for none); give its own tokenizer's"
        )
