"""What a network expects of a text, and texts as batches of token numbers."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .errors import DataError, ModelError, NoPreprocessingError
from .files import shown

BYTES, IGNORED = "bytes", -100
_BYTE_VALUES = 256
# ``text.txt[0.9:]``: a part of a file, as fractions of it.
_PART = re.compile(r"(?P<path>.*)\[(?P<start>[\d.]*):(?P<end>[\d.]*)\]")


class Tokenizer(Protocol):
    """Texts as token numbers."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The numbers of a text, those that mark its beginning and end among them if asked for."""

    @property
    def padding(self) -> int:
        """What stands behind a short text."""


class Bytes:
    """The bytes of a text in UTF-8; no special tokens."""

    padding = 0

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Numbers from 0 to 255."""
        return list(text.encode("utf-8"))


@dataclass(frozen=True)
class TextPreprocessing:
    """How a text becomes a network's input.

    Args:
        tokenizer: ``"bytes"``, or the folder, zip file or cached name of a Hugging Face tokenizer.
        vocabulary: how many token numbers the network knows.
        positions: the most tokens that it takes; None for any number.
        causal: whether it is a language model that says the next token. Its texts are cut into
            blocks of `length` tokens without gaps; those of another model are the lines of a file.
        length: tokens of a block, or the most tokens of a line.
    """

    tokenizer: str
    vocabulary: int
    positions: int | None
    causal: bool
    length: int = 128

    def __post_init__(self) -> None:
        if self.length < 2 or self.vocabulary < 2:
            raise ModelError(
                f"texts of {self.length} tokens from a vocabulary of {self.vocabulary} can't be "
                "used; both must be at least 2"
            )
        if self.positions is not None and self.length > self.positions:
            raise ModelError(
                f"texts of {self.length} tokens are too long: the model has {self.positions} "
                f"positions; give --length {self.positions} or less"
            )
        if self.tokenizer == BYTES and self.vocabulary < _BYTE_VALUES:
            raise ModelError(
                f"bytes need a vocabulary of {_BYTE_VALUES}, and the model's is {self.vocabulary}; "
                "give its own tokenizer"
            )

    @property
    def classes(self) -> int:
        """The tokens that may come next."""
        return self.vocabulary

    def load(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ModelError: if it can't be had.
        """
        if self.tokenizer == BYTES:
            return Bytes()
        from .huggingface import tokenizer  # what it needs is optional

        return tokenizer(self.tokenizer)

    @classmethod
    def from_dict(cls, values: Any) -> TextPreprocessing:
        """What `to_dict` gave, read back from a file.

        Raises:
            ModelError: if an entry is missing or no number.
        """
        try:
            positions = None if values["positions"] is None else int(values["positions"])
            numbers = int(values["vocabulary"]), positions, bool(values["causal"])
            return cls(str(values["tokenizer"]), *numbers, int(values["length"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"{values!r:.200} is no preprocessing of texts; it needs tokenizer, vocabulary, "
                "positions, causal and length"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and words."""
        return asdict(self)


def with_text_options(
    base: TextPreprocessing | None,
    *,
    tokenizer: str | None = None,
    vocabulary: int | None = None,
    length: int | None = None,
) -> TextPreprocessing:
    """A preprocessing of texts with some of its values overridden.

    Args:
        base: what holds where nothing is given; None for a causal model that doesn't say.
        tokenizer, vocabulary, length: in place of its own.

    Raises:
        ModelError: for a value that can't be used.
    """
    if base is None:
        if tokenizer is None or (vocabulary is None and tokenizer != BYTES):
            raise NoPreprocessingError(
                "the model doesn't say how its texts are prepared; give --tokenizer and --classes"
            )
        base = TextPreprocessing(tokenizer, vocabulary or _BYTE_VALUES, None, True)
    given = {"tokenizer": tokenizer, "vocabulary": vocabulary, "length": length}
    return replace(base, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Texts:
    """Token numbers of texts, in memory.

    Args:
        rows: of each text.
        preprocessing: how they were made.
        padding: the number behind a short text.
        source: where they came from, for messages.
        shortened: how many were longer than the preprocessing's length, and are cut.
    """

    rows: tuple[Sequence[int], ...]
    preprocessing: TextPreprocessing
    padding: int
    source: str
    shortened: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def limited(self, count: int | None) -> Texts:
        """At most `count` texts, all if None, from evenly spaced places."""
        if count is None or count >= len(self):
            return self
        return self._chosen(np.arange(count) * len(self) // count)

    def sample(self, count: int, seed: int) -> Texts:
        """At most `count` texts, drawn without repetition, in order."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return self._chosen(np.sort(chosen))

    def _chosen(self, which: Any) -> Texts:
        return replace(self, rows=tuple(self.rows[i] for i in which))


class TextLoader:
    """Batches of texts that can be gone through again and again.

    Args:
        texts: what to go through.
        batch_size: texts of a batch.
        varying: pads to the longest text of a batch, not to the preprocessing's length.
    """

    def __init__(self, texts: Texts, batch_size: int = 16, *, varying: bool = False) -> None:
        self.texts, self.batch_size, self.varying = texts, batch_size, varying

    def __len__(self) -> int:
        return -(-len(self.texts) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(self.texts), self.batch_size):
            yield self._batch(self.texts.rows[start : start + self.batch_size])

    def first(self, count: int) -> dict[str, Tensor]:
        """A batch of the first `count` texts."""
        return self._batch(self.texts.rows[:count])

    def _batch(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` ``[N, T]``; of a language model ``labels``, else ``attention_mask``."""
        prepared = self.texts.preprocessing
        if prepared.causal:
            ids = torch.tensor(rows)
            return {"input_ids": ids, "labels": ids.clone()}
        width = max(map(len, rows)) if self.varying else prepared.length
        ids = torch.full((len(rows), width), self.texts.padding)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        return {"input_ids": ids, "attention_mask": mask}


@dataclass(frozen=True)
class Part:
    """A part of a text file.

    Args:
        path: of the file.
        start, end: fractions of it, 0 to 1.
    """

    path: str
    start: float = 0.0
    end: float = 1.0

    def overlaps(self, other: Part) -> bool:
        """Whether two parts have text in common."""
        same = os.path.realpath(self.path) == os.path.realpath(other.path)
        return same and max(self.start, other.start) < min(self.end, other.end)


def part_of(source: str | os.PathLike[str]) -> Part:
    """What a text SOURCE names: ``text.txt``, or ``text.txt[0.9:]`` for its last tenth.

    Raises:
        DataError: for fractions that leave nothing, or a file that doesn't exist.
    """
    text = str(source)
    found = None if Path(text).is_file() else _PART.fullmatch(text)
    part = Part(text)
    if found is not None:
        try:
            start, end = (float(found[k] or d) for k, d in (("start", 0), ("end", 1)))
        except ValueError:
            start, end = 1.0, 0.0
        part = Part(found["path"], start, end)
        if not 0 <= start < end <= 1:
            raise DataError(
                f"{shown(text)} is no part of a text; give fractions as in text.txt[0:0.9] and "
                "text.txt[0.9:1]"
            )
    if not Path(part.path).is_file():
        raise DataError(f"no text at {shown(part.path)}: there is no such file; check the path")
    return part


def load_texts(source: str | os.PathLike[str], preprocessing: TextPreprocessing) -> Texts:
    """Reads a text SOURCE (see `part_of`) as blocks of tokens, or as lines.

    Raises:
        DataError: for a file that isn't text in UTF-8, holds too little, or has tokens that the
            model doesn't know.
        ModelError: if the tokenizer can't be had.
    """
    part, tokenizer = part_of(source), preprocessing.load()
    text = _read(part)
    length, name, shortened = preprocessing.length, shown(source), 0
    rows: list[list[int]]
    if preprocessing.causal:
        ids = tokenizer.encode(text, special=False)
        rows = [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
        found = f"{len(ids)} tokens, less than one block of {length}"
    else:
        rows = [tokenizer.encode(line, special=True) for line in text.splitlines() if line.strip()]
        shortened = sum(len(row) > length for row in rows)
        # The last token marks the end of the text: it stays.
        rows = [r if len(r) <= length else [*r[: length - 1], r[-1]] for r in rows]
        found = "no line with text"
    if not rows:
        raise DataError(f"{name} holds {found}; give more text")
    most = max(map(max, rows))
    if most >= preprocessing.vocabulary:
        raise DataError(
            f"{name} has the token {most}, and the model knows 0 to "
            f"{preprocessing.vocabulary - 1}; give the tokenizer that belongs to the model"
        )
    return Texts(tuple(rows), preprocessing, tokenizer.padding, str(source), shortened)


def _read(part: Part) -> str:
    """A part of a file, cut between characters."""
    try:
        content = Path(part.path).read_bytes()
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(part.path)} is no text in UTF-8 (byte {error.start}); convert it, or give a "
            "text file"
        ) from error
    except OSError as error:
        raise DataError(f"{shown(part.path)} can't be read: {error.strerror}") from error
    return text[round(part.start * len(text)) : round(part.end * len(text))]
