"""The zoo's table: measured, resumed, shared, written whole."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo.py"


@pytest.fixture
def zoo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo", _FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(zoo: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> str:
    files = ["--lines", str(folder / "zoo.jsonl"), "--table", str(folder / "zoo.md")]
    monkeypatch.setattr(sys, "argv", ["zoo.py", *files, "--quiet", *names])
    zoo.main()
    return (folder / "zoo.md").read_text()


def test_one_network(zoo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo, "IMAGES", 8)
    # The default fits take minutes; what is measured of them doesn't depend on the method.
    monkeypatch.setattr(zoo, "to_spiking", partial(zoo.to_spiking, method="binary"))
    # Everything is an outlier, so that the culprit is looked for.
    monkeypatch.setattr(zoo, "OUTLIER", 0.0)
    page = _run(zoo, monkeypatch, tmp_path, "squeezenet1_1")
    line = json.loads((tmp_path / "zoo.jsonl").read_text())
    assert line["sites"] == 26 and line["remaining"] == {"max_pool2d": 3} and line["agrees"]
    assert 0 < line["errors"]["12"] < line["errors"]["8"] < 1
    assert 0 < line["culprit"]["error"] <= 2 * line["errors"]["12"]
    assert "1 of 80 networks convert" in page and "Not measured: alexnet" in page
    assert line["culprit"]["site"] in page


def test_goes_on_where_it_was(
    zoo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def measured(name: str, seed: int, gates: int, steps: list[int], device: object) -> dict:
        asked.append(name)
        if name == "vgg11":
            return {"name": name, "seed": seed, "side": 64, "failed": "no neuron for it"}
        errors = {"12": 0.01, "8": 0.1 + 0.01 * len(asked)}
        return {
            "name": name,
            "seed": seed,
            **({"gates": gates} if gates else {}),
            "side": 64,
            "seconds": 1.0,
            "sites": 7,
            "products": 0,
            "remaining": {},
            "spike_driven": 1.0,
            "agrees": True,
            "errors": errors,
        }

    monkeypatch.setattr(zoo, "measured", measured)
    _run(zoo, monkeypatch, tmp_path, "vgg13", "alexnet")
    # A run that was cut off while it wrote.
    with (tmp_path / "zoo.jsonl").open("a") as file:
        file.write('{"name": "vgg16", "se')
    page = _run(zoo, monkeypatch, tmp_path, "alexnet", "vgg11", "vgg13", "vgg16")
    assert asked == ["vgg13", "alexnet", "vgg11", "vgg16"]
    assert "3 of 80 networks convert" in page and "Failed: vgg11: no neuron for it" in page
    assert "0.120 at K = 8" in page and page.index("alexnet") < page.index("vgg13")
    _run(zoo, monkeypatch, tmp_path, "vgg16")
    assert asked.count("vgg16") == 1
    # Lines without gates are lines of one table; those with gates stand beside them.
    page = _run(zoo, monkeypatch, tmp_path, "--gates", "3", "vgg16")
    assert asked.count("vgg16") == 2 and "3 of 80 networks convert" in page
    assert "4 tables a neuron, 0.150 at K = 8 (1 networks)" in page
    row = next(row for row in page.splitlines() if row.startswith("| vgg16 |"))
    assert "| 0.1400 | 0.0100 | 0.1500 | 0.0100 | 1 | 1 |" in row
    with pytest.raises(SystemExit, match="no classification network nonsense"):
        _run(zoo, monkeypatch, tmp_path, "nonsense")


def test_random_networks_have_statistics_and_no_head_of_zeros(zoo: ModuleType) -> None:
    assert len(zoo.every_name()) == 80
    model, images = zoo.model_of("resnet18", 0), torch.randn(16, 3, 64, 64)
    zoo.set_statistics(model, images)
    assert not any(module.training for module in model.modules())
    seen: list[torch.Tensor] = []
    model.layer3[0].bn1.register_forward_hook(lambda module, args, y: seen.append(y.clone()))
    with torch.no_grad():
        model(images)
    variance, mean = torch.var_mean(seen[0], (0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=0.01, rtol=0)
    torch.testing.assert_close(variance, torch.ones_like(variance), atol=0.05, rtol=0)
    assert model.bn1.momentum == 0.1
    head = next(m for m in zoo.model_of("vit_b_32", 0).heads.modules() if isinstance(m, nn.Linear))
    assert head.weight.any()
