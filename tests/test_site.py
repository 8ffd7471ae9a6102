"""The pages of the site: their examples, what they quote, their commands, and the build."""

import argparse
import contextlib
import copy
import importlib.util
import inspect
import io
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cyclopts import App
from PIL import Image
from torch import Tensor, nn

import convert
import fewspikes
import models
from fewspikes.commands.parsing import spelled_out

_ROOT = Path(__file__).resolve().parents[1]
_DOCS = _ROOT / "docs"
_PAGES = [_ROOT / "README.md", *sorted(_DOCS.rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NONE: Mapping[str, str] = {}


def _page(name: str) -> str:
    return (_DOCS / name).read_text(encoding="utf-8")


def _run(page: str, names: dict[str, Any], changes: Mapping[str, str] = _NONE) -> list[str]:
    """Runs the examples of a page, in order, and gives what they print and warn of.

    What a block of text quotes must be a line of what was said before it; ``...`` is anything.

    Args:
        page: its place in docs/.
        names: what the examples take for granted; what they define is added.
        changes: of the examples, for tiny data. Each must be of use.
    """
    said: list[str] = []
    unused = set(changes)
    for language, block in _FENCE.findall(_page(page)):
        if language == "python":
            unused -= {old for old in changes if old in block}
            for old, new in changes.items():
                block = block.replace(old, new)
            with (
                contextlib.redirect_stdout(io.StringIO()) as printed,
                warnings.catch_warnings(record=True) as warned,
            ):
                warnings.simplefilter("always")
                exec(compile(block, page, "exec"), names)
            said += printed.getvalue().splitlines()
            said += [f"{each.category.__name__}: {each.message}" for each in warned]
        elif language == "text":
            for line in block.splitlines():
                pattern = ".*".join(map(re.escape, line.split("...")))
                assert any(re.fullmatch(pattern, each) for each in said), line
    assert not unused
    return said


@pytest.fixture
def names(small: nn.Module, images: Tensor) -> dict[str, Any]:
    """A network, its images and their labels, as most pages take them for granted."""
    return {"model": small, "images": images, "labels": torch.arange(len(images)) % 4}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fits take no search, nothing shows bars, and files go to a folder of the test."""
    monkeypatch.chdir(tmp_path)

    def without_search(verb: Any, **more: Any) -> Any:
        def called(*args: Any, **given: Any) -> Any:
            method = {} if given.get("spike_cost") else {"method": "binary"}
            return verb(*args, **{**method, **more, **given})

        return called

    def replaced(name: str, verb: Any, packages: tuple[ModuleType, ...]) -> None:
        for package in packages:
            monkeypatch.setattr(package, name, verb)

    doors = (convert, fewspikes)
    for name in ("to_spiking", "refit"):
        replaced(name, without_search(getattr(convert, name), progress=False), doors)
    replaced("fit", without_search(convert.fit), doors)
    evaluate = convert.evaluate
    silent = lambda *args, **given: evaluate(*args, **{"progress": False, **given})  # noqa: E731
    replaced("evaluate", silent, doors)
    for name in ("simulate", "correlate", "count_operations"):
        verb = getattr(convert.inspect, name)
        if "progress" in inspect.signature(verb).parameters:
            replaced(name, partial(verb, progress=False), (convert.inspect, fewspikes.inspect))


def test_symptoms(names: dict[str, Any]) -> None:
    torch.manual_seed(0)
    more = {"vectors": torch.randn(32, 4), "torch": torch, "copy": copy}
    errors = {"CaptureError": convert.CaptureError, "InputError": convert.InputError}
    names = {**names, **more, **errors}
    _run("symptoms.md", names)
    assert [row.step for row in names["whole"].by_step] == [6] and not names["whole"].by_site
    text = _page("symptoms.md")
    for symptom in re.findall(r"^## (.*)$", text, re.MULTILINE):
        _, _, told = text.partition(f"## {symptom}\n")
        assert told.strip().startswith("*Also:")  # the names that people search for


def test_quickstart(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    names: dict[str, Any] = {}
    changes = {
        'models.load_images("digits", train=True)': 'models.load_images("digits").first(60)',
        ', models.load_images("digits")\n': ', models.load_images("digits").first(60)\n',
    }
    _run("tutorial/quickstart.md", names, changes)
    assert names["result"].original.accuracy > 0.9 and names["quick"].shape == (60, 10)
    assert {row.steps for row in names["result"].by_K} == {4}
    assert (tmp_path / "digits.fsnn").is_file() and (tmp_path / "steps.png").is_file()


def test_own_model(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    _run("tutorial/own-model.md", names)
    assert [row.name for row in names["snn"].report.sites] == ["mul", "relu"]
    assert names["better"].report.sites[0].gates == 3
    # The file of the last block, as the command reads it.
    (block,) = [b for _, b in _FENCE.findall(_page("tutorial/own-model.md")) if "# mine.py" in b]
    (first,) = [b for _, b in _FENCE.findall(_page("tutorial/own-model.md")) if "class Mine(" in b]
    (tmp_path / "mine.py").write_text(f"{first}\n{block}", encoding="utf-8")
    prepare = models.prepared("mine.py:make")
    assert (prepare.size, prepare.classes) == (16, 5)
    assert models.get("mine.py:make")(torch.rand(1, 3, 16, 16)).shape == (1, 5)


def test_imagenet_folder(tmp_path: Path) -> None:
    for folder in ("train", "val"):
        for kind in ("cat", "dog"):
            (tmp_path / folder / kind).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (40, 30), (90 * number, 50, 10)).save(
                    tmp_path / folder / kind / f"{number}.png"
                )
    names: dict[str, Any] = {}
    changes = {'"DEFAULT")': '"random")', "models.preprocessing(name)": "small"}
    names["small"] = models.Preprocessing(
        size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), classes=1000
    )
    _run("tutorial/imagenet-folder.md", names, changes)
    assert len(names["calibration"]) == len(names["test"]) == 4
    assert len(names["snn"].sites) == 17


def test_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="its models are the page's")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "a", "film", "good", "bad"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    folder = tmp_path / "model"
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.DistilBertConfig(
        vocab_size=len(words),
        dim=8,
        n_layers=1,
        n_heads=2,
        hidden_dim=16,
        max_position_embeddings=16,
    )
    transformers.DistilBertForSequenceClassification(shape).save_pretrained(folder)
    name = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
    texts = ["what a good film", "a bad film", "good", "what a film what a film", "bad bad"]
    names: dict[str, Any] = {"training_texts": sorted(texts * 7, key=len), "test_texts": texts}
    _run("tutorial/hugging-face.md", names, {name: str(folder)})
    assert names["result"].spiking.agreement > 0.5
    assert any("length" in note for note in names["snn"].report.notes)
    assert names["text"].shape == (1, 13)


@pytest.mark.parametrize("page", ["neuron", "gates", "time-step", "spike", "exact-and-analog"])
def test_concepts(page: str, names: dict[str, Any]) -> None:
    names["snn"] = convert.to_spiking(names["model"], names["images"], steps=4)
    _run(f"concepts/{page}.md", names)
    if page == "gates":
        assert names["one"].gates is None and len(names["four"].gates) == 3
    if page == "time-step":
        assert names["small"].shape == names["early"].shape == (48, 4)


def test_choose_k(names: dict[str, Any]) -> None:
    said = _run("how-to/choose-k.md", names)
    assert [line.split()[0] for line in said[:2]] == ["4", "6"]
    rows = {row.name: row for row in names["mixed"].report.sites}
    assert (rows["act"].steps, rows["silu"].steps, rows["silu"].gates) == (8, 4, 3)
    assert names["auto"].report.settings.steps == "auto"


def test_refit(names: dict[str, Any]) -> None:
    _run("how-to/refit.md", names)
    assert names["finer"].steps == 6 and names["gated"].report.sites[0].gates == 3
    assert {row.name: row.steps for row in names["better"].report.sites} == {"silu": 4, "act": 8}


def test_fine_tune(names: dict[str, Any]) -> None:
    _run("how-to/fine-tune.md", names)
    with torch.no_grad():
        assert not torch.equal(names["snn"].original()(names["images"]), names["targets"])


def test_spike_everywhere() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {"tokens": torch.randn(24, 8, 16)}
    said = _run("how-to/spike-everywhere.md", names, {"steps=6, gates=3": "steps=2"})
    assert "nonlinear outside neurons: none" in said
    plain, whole = names["plain"].report, names["whole"].report
    assert plain.to_dict()["remaining"] and not whole.to_dict()["remaining"]
    assert plain.spike_driven < 0.5 and whole.spike_driven == 1


def test_index(names: dict[str, Any]) -> None:
    _run("index.md", {**names, "calibration_images": names["images"]})


class _ParsedError(Exception):
    """The options are taken."""


def _commands() -> Iterator[Any]:
    """Every command of the pages, with its page."""
    seen = set()
    for page in _PAGES:
        joined = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        for line in re.findall(
            r"^\s*((?:(?:\S*/)?python (?:scripts|benchmarks)/\S+\.py|(?:\S*/)?fewspikes \w).*)$",
            joined,
            re.MULTILINE,
        ):
            if line not in seen:
                seen.add(line)
                yield pytest.param(line, id=f"{page.stem}: {line[:60]}")


def _module(path: Path) -> ModuleType:
    name = f"command_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def _parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a command read its options, and do nothing else."""
    program, *options = [word for word in shlex.split(line, comments=True) if word != "..."]
    whole = argparse.ArgumentParser.parse_args

    def parse(parser: argparse.ArgumentParser, *args: Any) -> None:
        whole(parser, options)
        raise _ParsedError

    def parse_words(made: App, words: Sequence[str]) -> int:
        made.parse_args(spelled_out(made, words).words, exit_on_error=False, print_error=False)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    monkeypatch.setattr("fewspikes.commands.app.called", parse_words)
    if Path(program).name != "fewspikes":
        program, *options = options
        try:
            module = _module(_ROOT / program)
        except ModuleNotFoundError as error:
            pytest.skip(f"{program} needs {error.name}")
        if hasattr(module, "parser"):
            assert module.parser().parse_known_args(options)[1] == []
            return
        run = module.main
    else:
        run = importlib.import_module("fewspikes.commands.app").main
    monkeypatch.setattr(sys, "argv", [program, *options])
    with pytest.raises(_ParsedError):
        run()


@pytest.mark.parametrize("line", _commands())
def test_options_of_commands(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("scripts", "benchmarks"):
        monkeypatch.syspath_prepend(str(_ROOT / folder))
    _parse(line, monkeypatch)


def test_build(tmp_path: Path) -> None:
    pytest.importorskip("material", reason='the site needs pip install -e ".[docs]"')
    pytest.importorskip("mkdocstrings", reason='the site needs pip install -e ".[docs]"')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        # Links may lead elsewhere; nothing may be loaded from there.
        assert not re.findall(r'<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//', text), page
        assert not re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*//', text), page
    reference = (tmp_path / "site" / "reference" / "converting" / "index.html").read_text("utf-8")
    assert "Replaces every nonlinear activation" in reference and "max_loss" in reference


def test_links_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason='the site needs pip install -e ".[docs]"')
    monkeypatch.syspath_prepend(str(_DOCS))
    from site_hooks import linked

    assert linked("[a](../benchmarks/forward.md#x)", "speed.md") == "[a](benchmarks/forward.md#x)"
    assert linked("[a](../models.md)", "tutorial/own-model.md") == "[a](../models.md)"
    assert linked("[a](docs/shapes.md)", "changelog.md") == "[a](shapes.md)"
    assert linked("[a](../README.md)", "speed.md") == "a (`README.md`)"
    assert linked('seen["act"](images)', "how-to/refit.md") == 'seen["act"](images)'
    assert linked("[a](https://x.org/b)", "speed.md") == "[a](https://x.org/b)"
    assert linked("[a](no-such-page.md)", "speed.md") == "[a](no-such-page.md)"


def test_energy(names: dict[str, Any]) -> None:
    names["snn"] = convert.to_spiking(names["model"], names["images"], steps=4)
    names["loader"] = [(names["images"], names["labels"])]
    said = _run("energy.md", names)
    assert any("quantised_dense" in line for line in said)


def test_results() -> None:
    # The file is what the command above the example writes; the original stands for it here.
    changes = {'load("out/byte_llama.fsnn")': 'models.get("byte_llama")', "240": "3"}
    said = _run("results.md", {}, changes)
    assert said == ["ROMEO:", "Pre"] * 2  # "Present is", as the page quotes it


def test_resume(names: dict[str, Any], tmp_path: Path) -> None:
    _run("resume.md", names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "net.fsnn"]
    assert (tmp_path / "kept" / "evaluation.stage").exists()


def test_distributed(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # One process stands for the group's; tests of several processes are elsewhere.
    group = {"init_method": f"file://{Path.cwd()}/group", "rank": 0, "world_size": 1}
    start = partial(torch.distributed.init_process_group, **group)
    monkeypatch.setattr(torch.distributed, "init_process_group", start)
    changes = {"calibration, steps=8": "images, steps=2", "model, test": "model, images"}
    try:
        _run("distributed.md", names, changes)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert Path("network.fsnn").exists()


def test_every_page_with_examples_is_run() -> None:
    others = ("tests/test_docs.py", "tests/convert/inspect/test_spike_plots.py")
    tests = "".join((_ROOT / name).read_text(encoding="utf-8") for name in others)
    tests += Path(__file__).read_text(encoding="utf-8")
    for page in _DOCS.rglob("*.md"):
        if "```python" in page.read_text(encoding="utf-8"):
            where = f'"{page.stem}"' if page.parent.name == "concepts" else f"{page.stem}.md"
            assert where in tests, page
