"""The benchmark of memory: what it makes is what it says, and `convert.py` can read it."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import models
from models.data import Loader

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "streaming.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("streaming", _FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "streaming", module)  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


def test_its_sources(benchmark: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="webdataset is optional")
    folder = benchmark.make_folder(tmp_path / "folder", 30, seed=0)
    images = models.open_images(folder)
    shards = models.open_images(benchmark.make_shards(tmp_path / "shards", folder))
    assert sorted(shards.y.tolist()) == images.y.tolist() == sorted([*range(10)] * 3)
    assert len({images.image(i, gray=False).shape for i in range(30)}) > 20
    prepare = models.preprocessing(f"{_FILE}:network")
    spoilt = models.open_images(benchmark.spoil(folder, every=10))
    loader = Loader(spoilt, prepare, corrupt=models.OnCorrupt(True, 3))
    (batch,) = loader
    assert len(loader.left_out) == 3 and batch[0].shape == (27, 3, 32, 32)
    model = models.get(f"{_FILE}:network")
    assert model(batch[0]).shape == (27, benchmark.CLASSES) and isinstance(model, torch.nn.Module)
