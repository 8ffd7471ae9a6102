"""Files of networks, changed at random: bytes as an accident would, contents as a forger would."""

import hashlib
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from convert import SpikingModel, to_spiking
from convert.errors import ConversionError
from convert.storage.allowed_operators import resolve
from convert.storage.container import _HEADER, packed
from convert.storage.network_json import _infer, _names, _network, dtype_of, read_signature


class Convolutions(nn.Module):
    """Two convolutions, a skip, pooling and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = nn.functional.silu(self.first(x))
        x = self.pool(torch.relu(self.second(x) + x)).mean((2, 3))
        return {"logits": self.head(x), "features": x}


class Attention(nn.Module):
    """One block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head(nn.functional.gelu(x).mean(1))


class Recurrent(nn.Module):
    """A GRU over five steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: float = 2.0) -> tuple[Tensor, Tensor]:
        y = self.gru(x)[0]
        return self.head(torch.relu(y[:, -1])) * scale, y


class Original:
    """A network's file in its parts, and inputs for it."""

    def __init__(self, name: str, path: Path, inputs: Tensor) -> None:
        self.name, self.inputs = name, inputs
        self.data = path.read_bytes()
        _, _, size, _, _ = _HEADER.unpack(self.data[: _HEADER.size])
        self.text = self.data[_HEADER.size : _HEADER.size + size].decode()
        found = safetensors.torch.load(self.data[_HEADER.size + size :])
        # In the order of their names, so that a seed always changes the same.
        self.tensors = dict(sorted(found.items()))


def originals(folder: Path) -> list[Original]:
    """Files of networks of several kinds, with what conversion can be asked for."""
    torch.manual_seed(0)
    images, tokens = torch.randn(12, 1, 6, 6), torch.randn(12, 5, 4)
    sequences = torch.randn(12, 5, 3)
    wanted: list[tuple[str, nn.Module, Tensor, dict[str, Any]]] = [
        ("several K", Convolutions(), images, {"steps": [4, 2]}),
        ("K per site", Convolutions(), images, {"steps": "auto", "budget": 9, "max_pool": True}),
        ("encoded", Attention(), tokens, {"steps": 3, "encode": True}),
        ("norms", Attention(), tokens, {"steps": 3, "normalisation": True}),
        ("recurrent", Recurrent(), sequences, {"steps": 2}),
    ]
    made = []
    for index, (name, model, x, settings) in enumerate(wanted):
        snn = to_spiking(model.eval(), x, method="binary", progress=False, **settings)
        path = folder / f"{index}.fsnn"
        snn.save(path, metadata={"note": ["a", 1.5, None], "more": {"deep": [[1]]}})
        made.append(Original(name, path, x))
    return made


def mutated(original: Original, seed: int) -> bytes:
    """A changed file; the same for the same seed."""
    draw = random.Random(seed)
    if draw.random() < 0.15:
        return _damaged(original.data, draw)
    document, tensors = json.loads(original.text), dict(original.tensors)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        # What the edit before it left may have no place for it.
        with suppress(KeyError, TypeError, AttributeError, IndexError, ValueError):
            draw.choice(_EDITS)(document, tensors, draw)
    if draw.random() < 0.6:
        _shapes_anew(document, tensors)
    return _joined(_text(document, draw), tensors, draw)


def _damaged(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    kind = draw.choice(["flip", "cut", "swap", "header", "zeros", "more", "again"])
    start = draw.randrange(len(data))
    if kind == "flip":
        for _ in range(draw.choice([1, 1, 8])):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del changed[start:]
    elif kind == "swap":
        changed = changed[start:] + changed[:start]
    elif kind == "header":
        changed[draw.randrange(_HEADER.size)] = draw.randrange(256)
    elif kind == "zeros":
        changed[start : start + 64] = bytes(len(changed[start : start + 64]))
    elif kind == "more":
        changed += draw.randbytes(draw.choice([1, 4096]))
    else:
        changed += data
    return bytes(changed)


def _text(document: Any, draw: random.Random) -> bytes:
    text = json.dumps(document)
    if draw.random() < 0.04:  # an entry twice
        text = text.replace('"batch":', '"batch": 3, "batch":', 1)
    if draw.random() < 0.04:
        text = text.replace("1.5", draw.choice(["NaN", "1e999", "-0.0", "1" * 5000, '"\\ud800"']))
    return text.encode()


def _joined(graph: bytes, tensors: dict[str, Tensor], draw: random.Random) -> bytes:
    """A file with all its checksums right."""
    plainly = {name: t.contiguous().clone() for name, t in tensors.items()}
    content = safetensors.torch.save(plainly, {"json_sha256": hashlib.sha256(graph).hexdigest()})
    if draw.random() < 0.03:
        (size,) = struct.unpack("<Q", content[:8])
        names = content[8 : 8 + size].replace(b'"F32"', draw.choice([b'"I32"', b'"F64"', b'"X32"']))
        content = struct.pack("<Q", len(names)) + names + content[8 + size :]
    return packed(graph, content) + graph + content


def _shapes_anew(document: Any, tensors: dict[str, Tensor]) -> None:
    """Writes the shapes that the changed graph has, so that it gets past their comparison."""
    try:
        network, _ = _network(document, dict(tensors), torch.device("cpu"))
        kind = document["input_type"]
        called = set(_names(document).values())
        signature = read_signature(document["signature"])
        document["values"] = _infer(
            network, signature, document["batch"], called, kind and dtype_of(kind)
        )
    except (ConversionError, Exception):
        return


_VALUES: list[Callable[[random.Random], Any]] = [
    lambda d: d.choice([0, 1, -1, 2, 3, 7, 4096, 2**20, 2**31, 2**53, 2**63, -(2**63), 10**30]),
    lambda d: d.choice([0.0, 0.5, -1.5, 1e-300, 1e300]),
    lambda d: d.choice([None, True, False, "", "a", "x" * 10**5, "é\n", "\ud800", "*", "0"]),
    lambda d: {"float": d.choice(["nan", "inf", "-inf", "1"])},
    lambda d: {"node": d.choice([0, 1, 5, -1, 10**6])},
    lambda d: d.choice([[], {}, [1], [None], {"a": 1}, ["float32", 2, 3], [[[]]]]),
    lambda d: json.loads("[" * 60 + "]" * 60),
    lambda d: d.choice(
        ["float32", "float64", "int64", "bool", "complex64", "uint4", "float8_e5m2"]
    ),
]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every entry of a document, as a container and a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, entry in list(items):
        found.append((value, key))
        if isinstance(entry, dict | list):
            found += _places(entry)
    return found


def _place(document: Any, draw: random.Random) -> tuple[Any, Any]:
    # First one of the large parts, then a place in it: the graph has most places by far.
    key = draw.choice(list(document))
    inside = document[key]
    if draw.random() < 0.1 or not isinstance(inside, dict | list) or not inside:
        return document, key
    return draw.choice(_places(inside))


def _replace(document: Any, tensors: Any, draw: random.Random) -> None:
    owner, key = _place(document, draw)
    owner[key] = draw.choice(_VALUES)(draw)


def _nudge(document: Any, tensors: Any, draw: random.Random) -> None:
    """Changes a number a little, or a text by one letter, so that it still looks right."""
    owner, key = _place(document, draw)
    value = owner[key]
    if isinstance(value, bool):
        owner[key] = not value
    elif isinstance(value, int):
        owner[key] = value + draw.choice([-2, -1, 1, 2])
    elif isinstance(value, float):
        owner[key] = draw.choice([-value, value * 2, 0.0, int(value) if abs(value) < 1e9 else 1])
    elif isinstance(value, str):
        owner[key] = draw.choice([value + "x", value[1:], value.upper(), value.replace(".", "_")])
    elif isinstance(value, list):
        draw.shuffle(value)


def _drop(document: Any, tensors: Any, draw: random.Random) -> None:
    owner, key = _place(document, draw)
    del owner[key]


def _rename(document: Any, tensors: Any, draw: random.Random) -> None:
    owner, key = _place(document, draw)
    if isinstance(owner, dict):
        owner[draw.choice(["", "x", str(key) + "x", "__class__", *map(str, owner)])] = owner.pop(
            key
        )
    else:
        owner.insert(key, owner[draw.randrange(len(owner))])


def _swap(document: Any, tensors: Any, draw: random.Random) -> None:
    owner, key = _place(document, draw)
    other = draw.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
    owner[key], owner[other] = owner[other], owner[key]


def _copy(document: Any, tensors: Any, draw: random.Random) -> None:
    (owner, key), (other, source) = _place(document, draw), _place(document, draw)
    owner[key] = json.loads(json.dumps(other[source]))


def _graph(document: Any, draw: random.Random) -> list[Any]:
    graphs = [document.get("network"), document.get("network")]
    graphs += (
        [entry["graph"] for entry in document["exact"].values()] if "exact" in document else []
    )
    graph = draw.choice(graphs)
    return graph if isinstance(graph, list) and all(isinstance(n, dict) for n in graph) else []


_OPERATORS = sorted(
    name
    for name in (n.replace("::", ".") for n in torch._C._dispatch_get_all_op_names())
    for name in [name if name.count(".") == 2 else f"{name}.default"]
    if name.startswith("aten.") and resolve(name) is not None
)


def _operator(document: Any, tensors: Any, draw: random.Random) -> None:
    calls = [n for n in _graph(document, draw) if n.get("op") == "call_function"]
    if calls:
        node = draw.choice(calls)
        others = [n["target"] for n in calls if "target" in n]
        node["target"] = draw.choice(_OPERATORS if draw.random() < 0.7 else others or _OPERATORS)


def _arguments(document: Any, tensors: Any, draw: random.Random) -> None:
    calls = [n for n in _graph(document, draw) if n.get("args")]
    if not calls:
        return
    node = draw.choice(calls)
    places = _places(node["args"])
    owner, key = draw.choice(places)
    if isinstance(owner[key], int) and draw.random() < 0.7:
        owner[key] = draw.choice([-2, -1, 0, 1, 2, 3, 5, 8, 1000, 2**20])
    else:
        owner[key] = draw.choice(_VALUES)(draw)


def _tensor(document: Any, tensors: dict[str, Tensor], draw: random.Random) -> None:
    name = draw.choice(list(tensors))
    t = tensors[name].clone()
    kind = draw.choice(["values", "values", "shape", "type", "swap", "drop", "more"])
    if kind == "values" and t.numel():
        value = draw.choice([0, -1, 1, 3, 1e30, float("nan"), float("inf"), -float("inf")])
        floats = t.is_floating_point()
        t.view(-1)[draw.randrange(t.numel())] = value if floats else draw.choice([0, -1, 2**31 - 1])
        tensors[name] = t
    elif kind == "shape":
        tensors[name] = draw.choice(
            [
                t.flatten(),
                t[:0] if t.dim() else t,
                t[None],
                t.flatten()[:1],
                t.T if t.dim() == 2 else t,
            ]
        )
    elif kind == "type":
        tensors[name] = t.to(draw.choice([torch.float64, torch.float16, torch.int64, torch.bool]))
    elif kind == "swap":
        other = draw.choice(list(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
    elif kind == "drop":
        del tensors[name]
    else:
        tensors[draw.choice(["more", name + "x"])] = t
    row = (
        document.get("tensors", {}).get(name) if isinstance(document.get("tensors"), dict) else None
    )
    if name in tensors and isinstance(row, dict) and draw.random() < 0.6:
        found = tensors[name]
        row |= {"shape": list(found.shape), "dtype": str(found.dtype).removeprefix("torch.")}


_EDITS: list[Callable[[Any, dict[str, Tensor], random.Random], None]] = [
    _replace, _replace, _nudge, _nudge, _drop, _rename, _swap, _copy, _operator, _operator,
    _arguments, _arguments, _tensor, _tensor,
]  # fmt: skip


def used(snn: SpikingModel, inputs: Tensor, path: Path, *, fits: bool = True) -> None:
    """Does with a loaded network what its user would do.

    Args:
        snn: the network.
        inputs: as it takes them.
        path: where it is saved again.
        fits: whether its neurons are fitted anew too, which takes longest.
    """
    from convert import audit, evaluate, load, refit

    str(snn), str(snn.report), repr(snn)
    if snn.report is not None:
        snn.report.to_dict()

    def attempt(what: Callable[[], Any]) -> None:
        try:
            what()
        except ConversionError as error:
            assert len(str(error)) < 2000, str(error)[:3000]

    def within(block: Any) -> None:
        with block:
            snn(inputs)

    with torch.no_grad():
        attempt(lambda: snn(inputs))
        attempt(lambda: snn.original()(inputs))
        attempt(lambda: within(snn.readout(1)))
        for k in list(snn.refitted):
            attempt(lambda k=k: within(snn.with_steps(int(k))))
        attempt(lambda: evaluate(snn, None, [inputs], metric="output", by_site=2, progress=False))
        attempt(lambda: audit(snn, inputs[:2]))
        if fits:
            attempt(lambda: refit(snn, steps=2, method="binary", progress=False))
    attempt(lambda: snn.save(path))
    if path.exists():
        load(path)
        path.unlink()
