"""Conversions and evaluations that are stopped at any stage end as they would have undisturbed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import convert
from convert import KeptStages, ResumeError, SpikingModel, evaluate, to_spiking
from convert.common import kept_passes, kept_stages
from convert.fitting import kept_tasks
from convert.storage import container

_DOCS = Path(__file__).resolve().parents[2] / "docs"


class _Stopped(BaseException):
    """As Ctrl-C: no error that anything mends."""


class _Stops:
    """Stops a run behind each stage that it keeps; `left` says how many it may keep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left, self.stops = 0, 0
        write = KeptStages.write

        def limited(kept: KeptStages, name: str, content: bytes) -> None:
            write(kept, name, content)
            self.left -= 1
            if self.left == 0:
                self.stops += 1
                raise _Stopped

        monkeypatch.setattr(KeptStages, "write", limited)

    def run(self, run: Any, each: int = 1) -> Any:
        """What a run ends with that is stopped again and again."""
        while True:
            # The first kept thing of a run that goes on may be the one at which it stopped.
            self.left = each + 1
            try:
                return run()
            except _Stopped:
                continue


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Stops]:
    """Everything is kept at once, and runs are stopped."""
    monkeypatch.setattr(kept_passes, "_SECONDS", 0.0)
    monkeypatch.setattr(kept_passes, "_TIMES", 0.0)
    monkeypatch.setattr(kept_tasks, "_SECONDS", 0.0)
    yield _Stops(monkeypatch)


def _content(snn: SpikingModel, path: Path) -> Any:
    """All that a network's file holds, less seconds."""
    snn.save(path)
    graph, tensors = container.read(path)
    document = json.loads(re.sub(rb'"seconds":\{[^}]*\}', b'"seconds":{}', graph))
    found = safetensors.torch.load(tensors)
    return document, {name: (t.dtype, t.shape, t.numpy().tobytes()) for name, t in found.items()}


def _batches(count: int = 4, size: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 1, 8, 8, generator=generator) for _ in range(count)]


@pytest.mark.parametrize(
    ("each", "settings"),
    [
        (2, {"steps": [3, 2], "method": "binary", "gates": 1}),
        (6, {"steps": 2, "method": "tbpi-exact"}),
        (8, {"steps": "auto", "budget": 8, "method": "binary"}),
        (4, {"steps": 3, "method": "binary", "modules": ["0", "1"]}),
    ],
    ids=["gates", "searched", "auto", "parts"],
)
def test_a_conversion_goes_on(
    small: nn.Module, tmp_path: Path, stops: _Stops, each: int, settings: dict[str, Any]
) -> None:
    if "modules" in settings:
        small = nn.Sequential(small, nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 3)))
        small.eval()

    def run(resume: Path | None) -> Any:
        snn = to_spiking(small, _batches(), **settings, resume=resume, progress=False)
        return _content(snn, tmp_path / "net.fsnn")

    whole = run(None)
    assert stops.run(lambda: run(tmp_path / "kept"), each) == whole
    assert stops.stops >= 3
    assert run(tmp_path / "kept") == whole
    assert all(p.suffix == ".stage" and "part" not in p.stem.split(".") for p in
               (tmp_path / "kept").iterdir())  # fmt: skip


def test_a_conversion_whose_lengths_come_to_vary(tmp_path: Path, stops: _Stops) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1))

    class Data:
        """Batches of which the last alone is of another length; it can't be told before."""

        def __iter__(self) -> Iterator[Tensor]:
            generator = torch.Generator().manual_seed(0)
            for length in (8, 8, 8, 12):
                yield torch.randn(4, 2, length, generator=generator)

    def run(resume: Path | None) -> Any:
        snn = to_spiking(model.eval(), Data(), steps=2, method="binary", resume=resume,
                         progress=False)  # fmt: skip
        return _content(snn, tmp_path / "net.fsnn")

    whole = run(None)
    assert stops.run(lambda: run(tmp_path / "kept")) == whole
    assert (tmp_path / "kept" / "try 2 calibration.stage").exists()


def test_what_a_conversion_refuses(small: nn.Module, tmp_path: Path) -> None:
    def run(batches: Any = None, **more: Any) -> None:
        settings = {"steps": 2, "method": "binary", "progress": False} | more
        to_spiking(small, batches or _batches(), **settings, resume=tmp_path)

    run()
    changed = _batches()
    changed[2][0, 0, 0, 0] += 1e-6
    for given, told in [
        ({"steps": 3}, "steps was 2 and is 3 now"),
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"per_site_steps": {"act": 3}}, "per_site_steps"),
        ({"batches": changed}, "batch 3 of the calibration data is another one"),
        ({"batches": _batches(3)}, "had 4 batches at least and has 3 now"),
        ({"batches": _batches(5)}, "had 4 batches and has more"),
    ]:
        with pytest.raises(ResumeError, match=told):
            run(**given)
    with torch.no_grad():
        small.head.weight[0, 0] += 1e-6  # type: ignore[index, union-attr, operator]
    with pytest.raises(ResumeError, match="the network is another one"):
        run()


def test_a_fit_by_a_method_of_ones_own_is_made_anew(small: nn.Module, tmp_path: Path) -> None:
    calls = []

    def own(problems: Any, **more: Any) -> Any:
        calls.append(len(problems))
        return convert.METHODS["binary"].solve(problems, **more)

    convert.register_method("own", own)
    try:
        for _ in range(2):
            to_spiking(small, _batches(), steps=2, method="own", resume=tmp_path, progress=False)
    finally:
        convert.fitting.methods.unregister_method("own")
    assert len(calls) == 2 and not list(tmp_path.glob("fits*"))


def _labelled(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (x, torch.randint(0, 4, (len(x),), generator=generator)) for x in _batches(count, size=5)
    ]


@pytest.fixture(scope="module")
def snn(small_model: nn.Module) -> SpikingModel:
    """The small network, converted for two K."""
    return to_spiking(small_model, _batches(), steps=[3, 2], method="binary", progress=False)


@pytest.mark.parametrize("metric", [None, "accuracy", "output"])
@pytest.mark.parametrize("by_site", [0, 12])
def test_an_evaluation_goes_on(
    snn: SpikingModel, small: nn.Module, tmp_path: Path, stops: _Stops, metric: Any, by_site: int
) -> None:
    def run(resume: Path | None) -> Any:
        found = evaluate(
            snn, small, _labelled(), metric=metric, by_site=by_site, resume=resume, progress=False
        )
        assert found.seconds["evaluate_spiking"] > 0
        return found.to_dict() | {"seconds": None}

    whole = run(None)
    assert stops.run(lambda: run(tmp_path)) == whole
    assert stops.stops >= 2 and run(tmp_path) == whole


def test_an_evaluation_of_texts_goes_on(tmp_path: Path, stops: _Stops) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, 11)).eval()
    generator = torch.Generator().manual_seed(3)
    texts = [torch.randint(0, 11, (3, 9), generator=generator) for _ in range(4)]
    snn = to_spiking(model, texts, steps=2, method="binary", progress=False)

    def run(resume: Path | None) -> Any:
        data = [(text, text.roll(-1, 1)) for text in texts]
        metric = convert.Perplexity(shift=False)
        found = evaluate(snn, model, data, metric=metric, resume=resume, progress=False)
        return found.to_dict() | {"seconds": None}

    whole = run(None)
    assert stops.run(lambda: run(tmp_path)) == whole and stops.stops >= 2


def test_what_an_evaluation_refuses(snn: SpikingModel, small: nn.Module, tmp_path: Path) -> None:
    def run(model: nn.Module = small, data: Any = None, **more: Any) -> None:
        given = {"by_site": 4} | more
        evaluate(snn, model, data or _labelled(), **given, resume=tmp_path, progress=False)

    run()
    other = _labelled()
    other[3][1][0] += 1
    for more, told in [
        ({"metric": "output"}, "the metric was what suits and is output now"),
        ({"by_site": 5}, "by_site was 4 and is 5 now"),
        ({"at": [1]}, "the readouts"),
        ({"data": other}, "batch 4 of the test data is another one"),
        ({"data": _labelled(2)}, "has 2 now"),
    ]:
        with pytest.raises(ResumeError, match=told):
            run(**more)

    class Changed(type(small)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1.001

    # The same weights and the same name: only what it computes tells.
    Changed.__qualname__ = type(small).__qualname__
    changed = Changed()
    changed.load_state_dict(small.state_dict())
    with pytest.raises(ResumeError, match="the first batch of the test data gives other figures"):
        run(changed)


def test_an_evaluation_by_ones_own_metric_is_made_anew(
    snn: SpikingModel, small: nn.Module, tmp_path: Path
) -> None:
    def largest(outputs: Tensor, targets: Any) -> float:
        return float(outputs.max())

    with pytest.warns(UserWarning, match="isn't the package's own"):
        evaluate(
            snn, small, _labelled(), metric=largest, by_site=0, resume=tmp_path, progress=False
        )
    assert not list(tmp_path.iterdir())


def test_both_in_one_block(
    small: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (_DOCS / "resume.md").read_text("utf-8"), re.S)
    assert len(examples) == 2
    names: dict[str, Any] = {"convert": convert, "model": small, "images": images}
    for example in examples:
        exec(compile(example, "docs/resume.md", "exec"), names)
    assert kept_stages.kept_in(Path("kept"))[0] == "calibration"
    assert {name.split()[0] for name in kept_stages.kept_in(Path("kept"))} == {
        "calibration", "fits", "corrections", "check", "evaluation", "sites",
    }  # fmt: skip
