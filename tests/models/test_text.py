"""Texts as batches of token numbers."""

from pathlib import Path

import pytest
import torch

from models import DataError, ModelError, NoPreprocessingError, TextPreprocessing
from models.text import Part, TextLoader, load_texts, part_of, with_text_options

_BLOCKS = TextPreprocessing("bytes", 256, None, True, 4)
_LINES = TextPreprocessing("bytes", 256, None, False, 6)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfabcdefgh\n\nijklmnop\nq")
    return path


def test_a_language_models_text_is_cut_into_blocks(file: Path) -> None:
    texts = load_texts(file, _BLOCKS)
    assert [bytes(row) for row in texts.rows] == [b"abcd", b"efgh", b"\n\nij", b"klmn", b"op\nq"]
    (first, second) = TextLoader(texts, 3)
    assert first["input_ids"].shape == (3, 4) and second["input_ids"].shape == (2, 4)
    assert torch.equal(first["labels"], first["input_ids"])
    assert bytes(texts.limited(2).rows[1]) == b"\n\nij"
    drawn = texts.sample(3, 1)
    assert drawn.rows == texts.sample(3, 1).rows and len(drawn) == 3
    assert sorted(map(bytes, texts.sample(9, 0).rows)) == sorted(map(bytes, texts.rows))


def test_another_models_text_is_its_lines(file: Path) -> None:
    texts = load_texts(file, _LINES)
    assert [bytes(row) for row in texts.rows] == [b"abcdeh", b"ijklmp", b"q"], "the end stays"
    assert texts.shortened == 2
    (batch,) = TextLoader(texts, 3)
    assert batch["input_ids"].tolist()[2] == [ord("q"), 0, 0, 0, 0, 0]
    assert batch["attention_mask"].sum(1).tolist() == [6, 6, 1]
    loader = TextLoader(texts, 2, varying=True)
    assert [len(b["input_ids"][0]) for b in loader] == [6, 1]
    assert loader.first(1)["input_ids"].shape == (1, 6) and len(loader) == 2


def test_parts_of_a_file_meet_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("ä" * 33 + "b" * 37, "utf-8")
    prepare = TextPreprocessing("bytes", 256, None, False, 200)
    parts = [load_texts(f"{path}{part}", prepare) for part in ("[:0.3]", "[0.3:0.77]", "[0.77:]")]
    found = b"".join(bytes(texts.rows[0]) for texts in parts)
    assert found == path.read_bytes()


def test_parts_that_overlap(file: Path) -> None:
    assert part_of(f"{file}[0.25:1]") == Part(str(file), 0.25, 1.0)
    parts = [part_of(f"{file}{part}") for part in ("", "[:0.9]", "[0.9:]")]
    assert parts[0].overlaps(parts[2]) and not parts[1].overlaps(parts[2])
    assert not parts[0].overlaps(Part("another.txt"))


@pytest.mark.parametrize("part", ["[0.5:0.5]", "[0.9:0.1]", "[0:1.5]", "[1.2.3:]", "[.:]"])
def test_what_is_no_part(file: Path, part: str) -> None:
    with pytest.raises(DataError, match="fractions"):
        part_of(f"{file}{part}")


@pytest.mark.parametrize(
    ("content", "prepare", "said"),
    [
        (b"", _BLOCKS, "0 tokens, less than one block of 4"),
        (b"abc", _BLOCKS, "3 tokens"),
        (b" \n\t\n", _LINES, "no line with text"),
        (b"abc\xff", _BLOCKS, "byte 3"),
    ],
)
def test_files_without_a_text(tmp_path: Path, content: bytes, prepare: object, said: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert isinstance(prepare, TextPreprocessing)
    with pytest.raises(DataError, match=said):
        load_texts(path, prepare)
    with pytest.raises(DataError, match="no text at"):
        load_texts(tmp_path / "nowhere.txt", prepare)


def test_a_token_that_the_model_does_not_know(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide:
        padding = 0

        def encode(self, text: str, *, special: bool) -> list[int]:
            return [1, 2, 300, 4, 5]

    monkeypatch.setattr(TextPreprocessing, "load", lambda self: Wide())
    with pytest.raises(DataError, match="the token 300, and the model knows 0 to 255"):
        load_texts(file, _BLOCKS)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("bytes", 256, 8, True, 9), "--length 8"),
        (("bytes", 100, None, True, 8), "vocabulary of 256"),
        (("bytes", 256, None, True, 1), "at least 2"),
    ],
)
def test_values_that_cannot_be(values: tuple, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        TextPreprocessing(*values)


def test_options_and_the_way_into_a_file() -> None:
    assert with_text_options(_BLOCKS, length=7).length == 7
    assert with_text_options(None, tokenizer="bytes").vocabulary == 256
    with pytest.raises(NoPreprocessingError, match="--tokenizer and --classes"):
        with_text_options(None, tokenizer="somewhere")
    assert TextPreprocessing.from_dict(_LINES.to_dict()) == _LINES
    with pytest.raises(ModelError, match="no preprocessing of texts"):
        TextPreprocessing.from_dict({"tokenizer": "bytes"})
