"""A saved network comes back bit for bit where its code isn't, and a bad file does no harm."""

import builtins
import copy
import errno
import hashlib
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import models
from convert import ConversionError, FewSpikesNeuron, InputError, StorageError, load, to_spiking
from convert.network.model import SpikingModel
from convert.storage import file as file_module
from convert.storage.container import _HEADER, packed

_ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def converted(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    return to_spiking(small_model, noise, steps=[4, 2], method="binary", progress=False)


@pytest.fixture
def snn(converted: SpikingModel) -> SpikingModel:
    return copy.deepcopy(converted)


@pytest.fixture
def saved(converted: SpikingModel, tmp_path: Path) -> Path:
    converted.save(tmp_path / "net.fsnn", metadata={"note": [1, 2.5, None, float("inf")]})
    return tmp_path / "net.fsnn"


def _equal(a: SpikingModel, b: SpikingModel, x: Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(a(x), b(x)) and torch.equal(a.original()(x), b.original()(x))


def _same(a: SpikingModel, b: SpikingModel) -> bool:
    """Equal in everything that a file holds."""
    old, new = a.state_dict(), b.state_dict()
    return (
        list(old) == list(new)
        and all(torch.equal(old[k], new[k]) and old[k].dtype == new[k].dtype for k in old)
        and all(old[k].stride() == new[k].stride() for k in old)
        and a.network.code == b.network.code
        and list(a.sites) == list(b.sites)
        and str(a.report) == str(b.report)
        and a.report.to_dict() == b.report.to_dict()
        and [replace(o, node=None) for o in a.report.operations]
        == [replace(o, node=None) for o in b.report.operations]
        and all(a.exact[k].region.code == b.exact[k].region.code for k in a.exact)
    )


def test_comes_back_whole(snn: SpikingModel, saved: Path, images: Tensor) -> None:
    back = load(saved)
    assert _same(snn, back)
    assert _equal(snn, back, images)
    assert not any(p.requires_grad for p in back.parameters())
    with snn.with_steps(2), back.with_steps(2):
        assert _equal(snn, back, images)
    with snn.readout(1), back.readout(1):
        assert _equal(snn, back, images)
    assert back.metadata == {"note": [1, 2.5, None, float("inf")]}
    for name, histogram in snn.histograms.items():
        again = back.histograms[name]
        assert (again.cells == histogram.cells).all() and (again.counts == histogram.counts).all()
        assert (again.level, again.low, again.high) == (
            histogram.level, histogram.low, histogram.high,
        )  # fmt: skip
        assert again.mean == histogram.mean
        assert (again.mass == histogram.mass).all()
    assert back.report.input_ranges == snn.report.input_ranges
    assert [o.node.name for o in back.report.operations] == [
        o.node.name for o in snn.report.operations
    ]
    # Saved again it is the same file.
    back.save(saved.with_name("again.fsnn"))
    assert saved.with_name("again.fsnn").read_bytes() == saved.read_bytes()


_CHILD = """
import pathlib, sys, importlib.abc, torch
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("models", "torchvision"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import convert
for folder in map(pathlib.Path, sys.argv[1:]):
    snn = convert.load(folder / "net.fsnn")
    x = torch.load(folder / "x.pt", weights_only=True)
    with torch.no_grad():
        torch.save([snn(x), snn.original()(x)], folder / "y.pt")
assert "models" not in sys.modules and "torchvision" not in sys.modules
"""


def _resnet8() -> tuple[nn.Module, Tensor]:
    return models.get("resnet8_digits", "random"), torch.randn(4, 1, 8, 8)


def _vit() -> tuple[nn.Module, Tensor]:
    model = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    )  # fmt: skip
    nn.init.normal_(model.heads.head.weight)
    return model, torch.randn(8, 3, 8, 8)


def _resnet() -> tuple[nn.Module, Tensor]:
    """resnet18 with half its blocks: every kind of operation is there."""
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, [1, 1, 1, 1], 5), torch.randn(2, 3, 32, 32)


def _swin() -> tuple[nn.Module, Tensor]:
    """Two stages of swin_t: plain and shifted windows, and patches merged."""
    model = torchvision.models.SwinTransformer(
        [4, 4], 24, [1, 2], [3, 6], [2, 2], num_classes=5, stochastic_depth_prob=0.2
    )
    return model, torch.randn(2, 3, 32, 32)


_NETWORKS = {"resnet8": _resnet8, "vit": _vit, "resnet": _resnet, "swin": _swin}


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Outputs of every network and its original, here and in one process without its code."""
    folders, here = {}, {}
    for name, make in _NETWORKS.items():
        torch.manual_seed(0)
        model, x = make()
        snn = to_spiking(
            model.eval(), x, steps=3, method="binary", encode=name == "vit", sequential=False,
            progress=False,
        )  # fmt: skip
        folders[name] = tmp_path_factory.mktemp(name)
        snn.save(folders[name] / "net.fsnn")
        torch.save(x, folders[name] / "x.pt")
        with torch.no_grad():
            here[name] = [snn(x), snn.original()(x)]
    result = subprocess.run(
        [sys.executable, "-c", _CHILD, *map(str, folders.values())],
        env={"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    there = {
        name: torch.load(folder / "y.pt", weights_only=True) for name, folder in folders.items()
    }
    return {name: (here[name], there[name]) for name in _NETWORKS}


@pytest.mark.parametrize("name", _NETWORKS)
def test_bit_equal_in_a_process_without_the_model(
    name: str, apart: dict[str, tuple[list[Tensor], list[Tensor]]]
) -> None:
    (spiking, original), (loaded, loaded_original) = apart[name]
    assert not torch.equal(spiking, original) and spiking.isfinite().all()
    assert torch.equal(loaded, spiking)
    assert torch.equal(loaded_original, original)


def test_half_and_other_layouts(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    small.to(memory_format=torch.channels_last)
    snn = to_spiking(small, images, steps=3, method="binary", progress=False).half()
    snn.save(tmp_path / "half.fsnn")
    back = load(tmp_path / "half.fsnn")
    assert _same(snn, back)
    assert _equal(snn, back, images.half())


Pair = namedtuple("Pair", "first second")


class Structured(nn.Module):
    """Shared weights, and outputs in every container."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor, mask: Tensor, scale: float = 2.0) -> dict[str, Any]:
        y = torch.relu(self.one(x)).masked_fill(mask, 0.0)
        z = torch.relu(self.two(y)) * scale
        return {"a": y, "b": [Pair(z, y + z), (z.sum(1),)]}


def test_trees_constants_and_shared_weights(tmp_path: Path) -> None:
    x, mask = torch.randn(6, 4), torch.rand(6, 4) > 0.5
    batch = {"x": x, "mask": mask, "scale": 3.0}
    snn = to_spiking(Structured().eval(), [batch], steps=3, method="binary", progress=False)
    snn.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    with torch.no_grad():
        expected, found = snn(x, mask, 3.0), back(x, mask=mask, scale=3.0)
    assert type(found) is dict and list(found) == ["a", "b"]
    pair = found["b"][0]
    assert type(pair).__name__ == "Pair" and pair._fields == ("first", "second")
    assert torch.equal(pair.second, expected["b"][0].second)
    assert torch.equal(found["b"][1][0], expected["b"][1][0])
    assert list(back.state_dict()) == list(snn.state_dict())
    with pytest.raises(ConversionError, match=r"scale|part of"):
        back(x, mask, 4.0)


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class Mapped(OrderedDict):
    """As libraries of language models return: fields that are there, by name."""


@pytest.fixture(scope="module")
def registered() -> None:
    torch.export.register_dataclass(Output, serialized_type_name="test_storage.Output")
    pytree.register_pytree_node(
        Mapped,
        lambda m: (list(m.values()), list(m)),
        lambda values, names: Mapped(zip(names, values, strict=True)),
        serialized_type_name="test_storage.Mapped",
    )


@pytest.mark.parametrize("kind", [Output, Mapped])
def test_classes_of_outputs_become_named_outputs(
    registered: None, kind: type, tmp_path: Path
) -> None:
    class Returns(nn.Module):
        def forward(self, x: Tensor) -> Any:
            y = torch.relu(x)
            return Output(y) if kind is Output else Mapped(logits=y)

    x = torch.randn(5, 3)
    snn = to_spiking(Returns().eval(), x, steps=3, method="binary", progress=False)
    snn.save(tmp_path / "net.fsnn")
    found, expected = load(tmp_path / "net.fsnn")(x), snn(x)
    logits = expected.logits if kind is Output else expected["logits"]
    for value in (found.logits, found["logits"], found[0]):
        assert torch.equal(value, logits)
    with pytest.raises(AttributeError, match="logits"):
        _ = found.nothing


def test_weights_that_are_shared_stay_shared(snn: SpikingModel, tmp_path: Path) -> None:
    snn.network.first.bias = snn.network.second.bias
    snn.save(tmp_path / "net.fsnn")
    back = load(tmp_path / "net.fsnn")
    assert back.network.first.bias is back.network.second.bias
    assert torch.equal(back.network.first.bias, snn.network.second.bias)


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mylib_test.double(torch.relu(x))


def test_an_operator_off_the_list_is_refused_when_saving(tmp_path: Path) -> None:
    library = torch.library.Library("mylib_test", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: 2 * x, "CompositeExplicitAutograd")
    snn = to_spiking(Foreign().eval(), torch.randn(5, 4), steps=3, method="binary", progress=False)
    with pytest.raises(StorageError, match=r"mylib_test\.double"):
        snn.save(tmp_path / "net.fsnn")
    assert list(tmp_path.iterdir()) == []


class Leaky(FewSpikesNeuron):
    """A neuron that computes something else than a file would say."""


def test_a_failed_save_leaves_the_old_file(snn: SpikingModel, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(StorageError, match="metadata"):
        snn.save(saved, metadata={"object": object()})
    for module in (nn.ReLU(), Leaky([1.0], [1.0], [1.0])):
        broken = copy.deepcopy(snn)
        broken.network.sites.act = module
        with pytest.raises(StorageError, match="no plain few-spikes neuron"):
            broken.save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_blocks_change_nothing_of_a_file(snn: SpikingModel, tmp_path: Path, images: Tensor) -> None:
    with snn.spiking_only([]), snn.readout(1), snn.count_spikes():
        snn.save(tmp_path / "within.fsnn")
    assert _equal(snn, load(tmp_path / "within.fsnn"), images)


def test_state_dict_round_trips(snn: SpikingModel, saved: Path, images: Tensor) -> None:
    other = load(saved)
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert not _equal(snn, other, images)
    other.load_state_dict(snn.state_dict(), strict=True)
    assert _equal(snn, other, images)
    assert {"network.first.weight", "network.sites.act.thresholds"} <= set(snn.state_dict())


# What may be done to a file, and what must come of it.


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    _, _, size, _, _ = _HEADER.unpack(data[: _HEADER.size])
    return json.loads(data[_HEADER.size : _HEADER.size + size]), data[_HEADER.size + size :]


def _joined(document: Any, content: bytes, version: int = 1, *, bind: bool = True) -> bytes:
    """A file with valid checksums; `bind` renews the one inside the tensors too."""
    graph = document if isinstance(document, bytes) else json.dumps(document).encode()
    if bind:
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        header["__metadata__"] = {"json_sha256": hashlib.sha256(graph).hexdigest()}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        content = struct.pack("<Q", len(text)) + text + content[8 + size :]
    return packed(graph, content, version) + graph + content


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, entry in items for leaf in _leaves(entry, (*path, key))]
    return [path]


def _edit(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


_STRANGE = [
    None, True, 0, -1, 1, 7, 2**31, 2**40, 2**63, 10**30, 0.5, 1e300, "", "x", "__class__",
    "os.system", "aten.add.Tensor", "');import os;os.abort()#", [], [[]], {}, {"node": 0},
    {"node": 10**6}, {"node": -1}, {"float": "nan"}, {"dtype": "float64"},
]  # fmt: skip


def _random_edit(document: Any, chance: random.Random) -> None:
    path = chance.choice(_leaves(document))
    if chance.random() < 0.3:
        path = path[: chance.randint(1, len(path))]
    _edit(document, path, copy.deepcopy(chance.choice(_STRANGE)))


def _loads(path: Path, data: bytes, snn: SpikingModel) -> bool:
    """Whether the file loads, then to an equal network; else a StorageError."""
    path.write_bytes(data)
    try:
        back = load(path)
    except StorageError as error:
        assert str(path) in str(error)
        return False
    assert _same(snn, back)
    return True


def test_truncated_and_flipped(snn: SpikingModel, saved: Path) -> None:
    data, chance = saved.read_bytes(), random.Random(0)
    path = saved.with_name("mutated.fsnn")
    lengths = [0, 1, 7, 8, 59, 60, 61, len(data) - 1, *chance.sample(range(len(data)), 22)]
    assert not any(_loads(path, data[:length], snn) for length in lengths)
    assert not _loads(path, data + b"\0", snn)
    for place in [*range(0, 60, 3), *chance.sample(range(60, len(data)), 30)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        assert not _loads(path, bytes(flipped), snn)


def test_json_edited_with_the_checksum_of_the_file_renewed(snn: SpikingModel, saved: Path) -> None:
    document, content = _parts(saved.read_bytes())
    chance, path = random.Random(1), saved.with_name("mutated.fsnn")
    for _ in range(40):
        changed = copy.deepcopy(document)
        _random_edit(changed, chance)
        _loads(path, _joined(changed, content, bind=False), snn)


def test_json_edited_with_all_checksums_renewed(saved: Path, images: Tensor) -> None:
    # Some of these are other valid networks; whatever loads is whole and runs or says why not.
    document, content = _parts(saved.read_bytes())
    chance, path, loaded = random.Random(2), saved.with_name("mutated.fsnn"), 0
    for _ in range(60):
        changed = copy.deepcopy(document)
        _random_edit(changed, chance)
        path.write_bytes(_joined(changed, content))
        try:
            back = load(path)
        except StorageError:
            continue
        loaded += 1
        assert len(back.sites) == 2 and str(back.report)
    assert 0 < loaded < 40


def _node(document: Any, start: str) -> dict[str, Any]:
    return next(n for n in document["network"] if n.get("target", "").startswith(start))


def _huge(kind: str, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        node = _node(document, "aten.mean")
        node["target"], node["args"] = kind, value
        node.pop("kwargs", None)

    return change


def _cycle(document: Any) -> None:
    node = _node(document, "aten.conv2d")
    node["args"][0] = {"node": len(document["network"]) - 2}


def _itself(document: Any) -> None:
    place = document["network"].index(_node(document, "aten.conv2d"))
    document["network"][place]["args"][0] = {"node": place}


def _operator(name: str, args: list[Any] | None = None) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        node = _node(document, "aten.mean")
        node["target"] = name
        if args is not None:
            node["args"] = args
            node.pop("kwargs", None)

    return change


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    return lambda document: _edit(document, path, to)


def _nested(depth: int) -> Any:
    return {"list": [_nested(depth - 1)]} if depth else "*"


def _renamed(document: Any) -> None:
    document["network"][2]["name"] = document["network"][1]["name"]


_FORGED: dict[str, Callable[[Any], None]] = {
    "cycle": _cycle,
    "self reference": _itself,
    "duplicate node": _renamed,
    "no output": lambda d: d["network"].pop(),
    "two outputs": lambda d: d["network"].append(d["network"][-1]),
    "no network": lambda d: d.pop("network"),
    "missing table entry": lambda d: d["tensors"].pop("network.first.weight"),
    "unknown tensor": lambda d: _node(d, "first.weight").update(target="first.wait"),
    "tensor of a neuron's class": lambda d: _node(d, "first.weight").update(target="forward"),
    "attribute": lambda d: _node(d, "first.weight").update(target="first.__class__"),
    "shape of a tensor": _set("tensors", "network.first.weight", "shape", to=[6, 1, 3, 4]),
    "dtype of a tensor": _set("tensors", "network.first.weight", "dtype", to="int64"),
    "huge tensor": _set("tensors", "network.first.weight", "shape", to=[2**40]),
    "strides": _set("tensors", "network.first.weight", "strides", to=[2**40, 1, 1, 1]),
    "alias of nothing": _set("tensors", "network.first.weight", "same", to="nothing"),
    "two sites, one neuron": lambda d: d["sites"].__setitem__(1, ["other", d["sites"][0][1]]),
    "no sites": _set("sites", to=[]),
    "path of a site": lambda d: d["sites"][0].__setitem__(1, "first.weight"),
    "step mode": lambda d: d["step_mode"].update({d["sites"][0][1]: "x"}),
    "foreign neuron": lambda d: _node(d, "sites.").update(target="first"),
    "other K": lambda d: d["refitted"].update({"9" * 50: d["refitted"]["2"]}),
    "K without neurons": lambda d: d["refitted"].update({"2": ["act"]}),
    "exact function missing": lambda d: d["exact"].popitem(),
    "exact function of a shape": lambda d: d["exact"]["act"]["graph"].__setitem__(
        1, {"op": "call_function", "name": "relu", "target": "aten.sum.default",
            "args": [{"node": 0}]}),
    "input shape": _set("signature", "inputs", 0, "shape", to=[None, 1, 2**40, 2**40]),
    "other input shape": _set("signature", "inputs", 0, "shape", to=[None, 1, 9, 9]),
    "negative input": _set("signature", "inputs", 0, "shape", to=[None, 1, -8, 8]),
    "no inputs": _set("signature", "inputs", to=[]),
    "more outputs": _set("signature", "returns", to={"list": ["*", "*"]}),
    "deep outputs": _set("signature", "returns", to=_nested(99)),
    "class of outputs": _set("signature", "returns", to={
        "namedtuple": "x, y'); import os #", "fields": ["a"], "of": ["*"]}),
    "field of outputs": _set("signature", "returns", to={
        "namedtuple": "P", "fields": ["a=__import__('os').abort()"], "of": ["*"]}),
    "batch": _set("batch", to=2**40),
    "values": _set("values", 0, to=["float32", 5, 1, 9, 9]),
    "report row": lambda d: d["report"]["sites"][0].update(extra=1),
    "report of other sites": lambda d: d["report"]["sites"][0].update(name="other"),
    "report type": lambda d: d["report"]["sites"][0].update(steps="many"),
    "report node": lambda d: d["report"]["operations"][0].update(node=10**6),
    "histogram": _set("histograms", "act", "level", to=10**9),
    "histogram of nothing": lambda d: d["histograms"].update(other=d["histograms"]["act"]),
    "histogram's sum": _set("histograms", "act", "sum", to=["1", "0"]),
    "histogram's text": _set("histograms", "act", "sum", to=["9" * 10**6, "1"]),
    "metadata": _set("metadata", to=[]),
    "null": lambda d: d.clear(),
    "os.system": _operator("os.system", ["abort"]),
    "builtins.eval": _operator("builtins.eval", ["1"]),
    "operator.attrgetter": _operator("operator.attrgetter", ["a"]),
    "torch.load": _operator("torch.load", ["a"]),
    "prims": _operator("prims.sin.default"),
    "in place": _operator("aten.add_.Tensor"),
    "out variant": _operator("aten.add.out"),
    "random": _operator("aten.rand_like.default"),
    "from_file": _operator("aten.from_file.default", ["/etc/passwd", False, 9]),
    "empty": _operator("aten.empty.memory_format", [[5, 6]]),
    "dunder": _operator("aten.__class__.default"),
    "packet": _operator("aten.mean"),
    "unknown": _operator("aten.nothing_like_this.default"),
    "full": _huge("aten.full.default", [[2**40, 6], 0.0]),
    "full of many axes": _huge("aten.full.default", [[2**20] * 3, 0.0]),
    "new_full": _huge("aten.new_full.default", [{"node": 0}, [2**50], 0.0]),
    "arange": _huge("aten.arange.default", [2**50]),
    "eye": _huge("aten.eye.default", [2**25]),
    "repeat": _huge("aten.repeat.default", [{"node": 0}, [2**40, 1, 1, 1]]),
    "expand": _huge("aten.expand.default", [{"node": 0}, [2**40, 5, 1, 8, 8]]),
    "pad": _huge("aten.constant_pad_nd.default", [{"node": 0}, [2**40, 0], 0.0]),
    "upsample": _huge("aten.upsample_nearest2d.default", [{"node": 0}, [2**20, 2**20]]),
    "repeat_interleave": _huge("aten.repeat_interleave.self_int", [{"node": 0}, 2**40, 0]),
    "many parts": _huge("aten.tensor_split.sections", [{"node": 0}, 2**50]),
    "power of sizes": _huge("operator.pow", [2**60, 2**60]),
    "list of sizes": _huge("operator.mul", [[1], 2**50]),
    "text of sizes": _huge("operator.mul", ["a", 2**50]),
    "large number": _huge("aten.add.Tensor", [{"node": 0}, 10**400]),
    "keyword": lambda d: _node(d, "aten.mean").update(kwargs={"__import__('os')": 1}),
    "unknown keyword": lambda d: _node(d, "aten.mean").update(kwargs={"nothing": 1}),
    "code in a node's name": lambda d: d["network"][1].update(name="a;import os"),
    "code in a tensor's name": lambda d: _node(d, "first.weight").update(target='first", os"'),
    "nested arguments": lambda d: _node(d, "aten.mean").update(
        args=json.loads("[" * 50 + "]" * 50)),
}  # fmt: skip


@pytest.mark.parametrize("kind", _FORGED)
def test_forged_with_all_checksums_renewed(saved: Path, kind: str) -> None:
    document, content = _parts(saved.read_bytes())
    _FORGED[kind](document)
    saved.write_bytes(_joined(document, content))
    with pytest.raises(StorageError):
        load(saved)


def _tensors(content: bytes) -> dict[str, Tensor]:
    return safetensors.torch.load(content)


def _with(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        tensors = _tensors(content)
        change(tensors)
        return safetensors.torch.save(tensors)

    return changed


def _header(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    return changed


@pytest.mark.parametrize(
    "change",
    {
        "missing": _with(lambda t: t.pop("network.second.weight")),
        "more": _with(lambda t: t.update(more=torch.zeros(3))),
        "shape": _with(lambda t: t.update({"network.second.bias": torch.zeros(7)})),
        "dtype": _with(lambda t: t.update({"network.second.bias": torch.zeros(6).long()})),
        "threshold": _with(lambda t: t["network.sites.act.thresholds"].fill_(float("nan"))),
        "longer neuron": _with(lambda t: t.update({"network.sites.act.resets": torch.zeros(5)})),
        "cells": _with(lambda t: t["histograms/act/cells"].fill_(0)),
        "counts": _with(lambda t: t["histograms/act/counts"].fill_(-1)),
        "huge": _header(lambda h: h["network.first.weight"].update(shape=[2**40])),
        "offsets": _header(lambda h: h["network.first.weight"].update(data_offsets=[0, 2**50])),
        "kind": _header(lambda h: h["network.first.weight"].update(dtype="I64")),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_tensors_forged_with_all_checksums_renewed(saved: Path, change: Any) -> None:
    document, content = _parts(saved.read_bytes())
    saved.write_bytes(_joined(document, change[1](content)))
    with pytest.raises(StorageError):
        load(saved)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[" * 10**6,
        b"{}",
        b"[]",
        b"nan",
        b'{"a":1,"a":2}',
        b"\xff\xfe",
        b'{"batch":1' + b"0" * 10**5,
    ],
    ids=range(8),
)
def test_no_json_of_a_network(saved: Path, text: bytes) -> None:
    _, content = _parts(saved.read_bytes())
    saved.write_bytes(_joined(text, content))
    with pytest.raises(StorageError):
        load(saved)


def test_duplicate_entry(saved: Path) -> None:
    document, content = _parts(saved.read_bytes())
    text = json.dumps(document).replace('"batch": 5', '"batch": 5, "batch": 5', 1)
    saved.write_bytes(_joined(text.encode(), content))
    with pytest.raises(StorageError, match="twice"):
        load(saved)


def test_newer_version(saved: Path) -> None:
    document, content = _parts(saved.read_bytes())
    saved.write_bytes(_joined(document, content, version=5))
    with pytest.raises(StorageError, match=r"version 5.*newer"):
        load(saved)


def test_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, reason in [
        ("nowhere", "nowhere: No such file"),
        (".", "it is a folder"),
        ("pipe", "it is a pipe"),
        ("/dev/zero", "it is a device"),
        ("loop", "symbolic links"),
        ("n" * 300, "too long"),
        ("new\nline", "new line"),
    ]:
        with pytest.raises(StorageError, match=reason) as refused:
            load(tmp_path / name)
        assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x80\x04" + b"cos\nsystem\n" * 20, "a pickle"),
        (b"", "empty"),
        (b"FSPIKES\n", "ends within its header"),
        (b"hello\n" * 50, "a text file"),
        (b"\n\n<!DOCTYPE html><html>" * 9, "a web page"),
        (b"PK\x03\x04" + bytes(200), "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (bytes(200), "begins otherwise"),
    ],
)
def test_another_file_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "net.fsnn").write_bytes(content)
    with pytest.raises(StorageError, match=f"not a network that was saved.*{named}"):
        load(tmp_path / "net.fsnn")


@pytest.mark.parametrize("sizes", [(100, 20 * 2**30), (20 * 2**30, 100)])
def test_a_file_that_claims_to_be_huge_takes_no_memory(
    tmp_path: Path, sizes: tuple[int, int]
) -> None:
    path, before = tmp_path / "net.fsnn", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(path, "wb") as file:
        file.write(_HEADER.pack(b"FSPIKES\n", 2, *sizes, bytes(32)))
        file.truncate(_HEADER.size + sum(sizes))
    begin = time.perf_counter()
    with pytest.raises(StorageError, match="checksum"):
        load(path)
    assert time.perf_counter() - begin < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.parametrize(
    "path",
    [None, 3, "", "a\0b", "\ud800", io.BytesIO(b"FSPIKES")],
    ids=lambda path: ascii(path)[:12],
)
def test_no_path(snn: SpikingModel, path: Any) -> None:
    for what in (load, snn.save):
        with pytest.raises(InputError, match=r"path .*(must be|is empty|character)"):
            what(path)


def test_bytes_are_a_path(saved: Path, snn: SpikingModel) -> None:
    assert _same(load(os.fsencode(saved)), snn)


@pytest.mark.parametrize("device", ["gpu", "meta", "fpga", 7, None])
def test_no_device(saved: Path, small: nn.Module, images: Tensor, device: Any) -> None:
    with pytest.raises(InputError, match="device"):
        load(saved, device=device)
    if device is not None:
        with pytest.raises(InputError, match="device"):
            to_spiking(small, images, steps=2, method="binary", progress=False, device=device)


def test_cuda_is_not_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="CUDA isn't available here"):
        load(saved, device="cuda")


def _holds_itself() -> dict[str, Any]:
    metadata: dict[str, Any] = {"a": [1]}
    metadata["a"].append(metadata)
    return metadata


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"a": "\ud800"}, r"at \['a'\] a string with a lone surrogate"),
        ({"a": {"\udfff": 1}}, r"at \['a'\] a key with a lone surrogate"),
        (_holds_itself(), "more than 100 levels"),
        ({"a": json.loads("[" * 900 + "]" * 900)}, "more than 100 levels"),
        ({"a": [1, 10**5000]}, r"at \['a'\]\[1\] a whole number of 16,610 bits"),
        ({"a": {3: 4}}, r"at \['a'\] the key 3 of type int"),
        ({None: 1}, "the key None"),
        ({"a": {1, 2}}, r"at \['a'\] a value of type set"),
        ({"a": [0, {"b": torch.ones(2)}]}, r"at \['a'\]\[1\]\['b'\] a value of type Tensor"),
        ({"a": b"x"}, "bytes"),
        ({"a": 1j}, "complex"),
        ({"x" * 10**6: object()}, "object"),
        ({"a": {"float": "nan"}}, "how a file writes a float"),
        ([1], "must be a dict"),
    ],
    ids=range(14),
)
def test_metadata_that_no_file_holds(
    snn: SpikingModel, metadata: Any, named: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match=f"metadata.*{named}") as refused:
        snn.save(tmp_path / "net.fsnn", metadata=metadata)
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_a_file_holds(snn: SpikingModel, tmp_path: Path) -> None:
    given = {
        "numbers": [2**70, -(10**300), 1e-320, float("inf"), np.int64(3), np.float32(0.5)],
        "texts": ["", "é\0\n", np.str_("a")],
        "": {"float": "3", "more": {"float": -float("inf")}},
        "deep": json.loads("[" * 90 + "]" * 90),
    }
    snn.save(tmp_path / "net.fsnn", metadata=given)
    assert load(tmp_path / "net.fsnn").metadata == given


def test_saving_keeps_links_and_permissions(snn: SpikingModel, tmp_path: Path) -> None:
    real, link = tmp_path / "real.fsnn", tmp_path / "link.fsnn"
    real.write_bytes(b"")
    real.chmod(0o600)
    link.symlink_to(real)
    snn.save(link)
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o600
    assert _same(load(real), snn)


def test_a_full_disk(snn: SpikingModel, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    class Full:
        def __init__(self, *given: Any) -> None:
            self.file = builtins.open(*given)  # noqa: SIM115

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_module, "open", Full, raising=False)
    with pytest.raises(InputError, match=r"can't write .*net\.fsnn: No space left"):
        snn.save(saved, metadata={})
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def _without_elements(document: Any, tensors: dict[str, Tensor], kind: str) -> None:
    """A network whose inputs, hidden values or outputs are empty, and fit together."""
    cuts: dict[str, dict[str, Any]] = {
        "inputs": {"0.weight": (slice(None), slice(0))},
        "neuron": {"0.weight": slice(0), "0.bias": slice(0), "2.weight": (slice(None), slice(0))},
        "outputs": {"2.weight": slice(0), "2.bias": slice(0)},
    }
    for name, cut in cuts[kind].items():
        tensors[f"network.{name}"] = tensors[f"network.{name}"][cut].contiguous()
        shape = list(tensors[f"network.{name}"].shape)
        document["tensors"][f"network.{name}"]["shape"] = shape
    if kind == "inputs":
        document["signature"]["inputs"][0]["shape"] = [None, 0]
    size, hidden, last = (5, 0, 4) if kind == "neuron" else (5, 6, 4)
    last = 0 if kind == "outputs" else last
    document["values"] = [
        ["float32", hidden, 0 if kind == "inputs" else 8],
        ["float32", hidden],
        ["float32", last, hidden],
        ["float32", last],
        ["float32", size, 0 if kind == "inputs" else 8],
        ["float32", size, hidden],
        ["float32", size, hidden],
        ["float32", size, last],
        [["float32", size, last]],
    ]


@pytest.mark.parametrize("kind", ["inputs", "neuron", "outputs"])
def test_shapes_without_elements(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    settings: dict[str, Any] = {"steps": 2, "method": "binary", "sequential": False}
    to_spiking(model, torch.randn(9, 8), progress=False, **settings).save(tmp_path / "a.fsnn")
    document, content = _parts((tmp_path / "a.fsnn").read_bytes())
    tensors = _tensors(content)
    _without_elements(document, tensors, kind)
    (tmp_path / "b.fsnn").write_bytes(_joined(document, safetensors.torch.save(tensors)))
    with pytest.raises(StorageError, match=rf"{kind}.* no elements"):
        load(tmp_path / "b.fsnn")


def test_messages_are_short_whatever_a_file_holds(saved: Path) -> None:
    document, content = _parts(saved.read_bytes())
    long = "x" * 10**6
    for change in (
        lambda d: d["network"][1].update(name=long + ";"),
        lambda d: _node(d, "aten.mean").update(target=long),
        lambda d: _node(d, "aten.mean").update(args=[10**4000]),
        lambda d: d["tensors"].update({long: {}}),
        lambda d: d.update(sites=[[long, long]] * 2),
        lambda d: d["signature"]["inputs"][0].update(shape=[long]),
        lambda d: (
            d["metadata"].update({"a": json.loads("[" * 5000 + "]" * 5000)})
            if sys.getrecursionlimit() > 6000
            else d["report"].update({long: 1})
        ),
    ):
        changed = copy.deepcopy(document)
        change(changed)
        saved.write_bytes(_joined(changed, content))
        with pytest.raises(StorageError) as refused:
            load(saved)
        assert len(str(refused.value)) < 700 and "\n" not in str(refused.value)
