"""Models that a file of the user makes."""

from pathlib import Path

import pytest
import torch
from torch import nn

import models
from models import ModelError, NoPreprocessingError, Preprocessing

_FILE = """
import beside
from torch import nn
import models

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, beside.CLASSES))

def other():
    return "a network"

def broken():
    raise RuntimeError("no weights here\\nand a second line")

def texts():
    return nn.Embedding(256, 4)

make.preprocessing = models.Preprocessing(2, (0.5,) * 3, (0.5,) * 3, 4)
texts.preprocessing = models.TextPreprocessing("bytes", 256, 16, True, 16)
value = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("CLASSES = 4")
    (tmp_path / "mine.py").write_text(_FILE)
    return tmp_path / "mine.py"


def test_a_function_makes_the_model(file: Path, tmp_path: Path) -> None:
    name = f"{file}:make"
    model = models.get(name, seed=5)
    assert isinstance(model, nn.Sequential) and not model.training
    assert torch.equal(model[1].weight, models.get(name, seed=5)[1].weight)
    assert models.preprocessing(name) == Preprocessing(2, (0.5,) * 3, (0.5,) * 3, 4)
    assert models.prepared(name, size=6).size == 6
    assert models.preprocessing(f"{file}:texts").causal
    torch.save({"1.weight": torch.ones(4, 12), "1.bias": torch.zeros(4)}, tmp_path / "a.pt")
    assert models.get(name, tmp_path / "a.pt")[1].weight.eq(1).all()
    with pytest.raises(ModelError, match=r"4 missing|2 missing"):
        torch.save({"other": torch.ones(1)}, tmp_path / "b.pt")
        models.get(name, tmp_path / "b.pt")


def test_a_file_that_was_changed_is_read_anew(file: Path) -> None:
    assert models.get(f"{file}:make")[1].out_features == 4
    file.write_text(_FILE.replace("beside.CLASSES", "9"))
    assert models.get(f"{file}:make")[1].out_features == 9


def test_the_whole_file_may_say_what_its_models_expect(file: Path) -> None:
    file.write_text(
        _FILE + "PREPROCESSING = dict(size=3, mean=[0, 0, 0], std=[1, 1, 1], classes=2)"
    )
    assert models.preprocessing(f"{file}:other").size == 3
    assert models.preprocessing(f"{file}:make").size == 2, "the function's own comes first"


def test_a_model_that_does_not_say_what_it_expects(file: Path) -> None:
    name = f"{file}:other"
    with pytest.raises(NoPreprocessingError, match="PREPROCESSING = dict"):
        models.preprocessing(name)
    with pytest.raises(NoPreprocessingError, match="PREPROCESSING = dict"):
        models.prepared(name)
    with pytest.raises(NoPreprocessingError, match="--mean --std"):
        models.prepared(name, size=32, classes=10)
    made = models.prepared(name, size=32, mean=(0.5,), std=(0.5,), classes=10)
    assert made == Preprocessing(32, (0.5,), (0.5,), 10)
    assert models.prepared(name, tokenizer="bytes", length=7).length == 7


@pytest.mark.parametrize(
    ("function", "text", "said"),
    [
        ("other", _FILE, "must return an nn.Module"),
        ("broken", _FILE, "RuntimeError: no weights here$"),
        ("missing", _FILE, "it has make, other"),
        ("value", _FILE, "no function 'value'"),
        ("make", "def make(:", "SyntaxError"),
        ("make", "import sys; sys.exit(3)", "SystemExit"),
        ("make", "import nothing_of_that_name", "nothing_of_that_name"),
    ],
)
def test_refusals(file: Path, function: str, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(ModelError, match=said) as error:
        models.get(f"{file}:{function}")
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no file at"):
        models.get(f"{file.parent / 'nowhere.py'}:{function}")
