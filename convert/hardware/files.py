"""The files of a network in whole numbers: a description in JSON, its integers, and C."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from ..common.files import atomic_path, file_path
from ..graph.node_facts import read, shape_of
from ..graph.regions import packet
from .c_code import source_of
from .neurons import WholeNeuron
from .records import Form, Layer, Op, Read
from .running import whole_constant
from .whole_network import WholeNetwork

NAMES = ("network.json", "network.npz", "reference.c")
FORMAT, VERSION = "fewspikes network in whole numbers", 1
# Weights have this many bits at most in one byte.
_BYTE, _SHORT = 8, 16


def write(whole: WholeNetwork, folder: str | os.PathLike[str]) -> list[str]:
    """Writes all files of a network; the paths.

    Args:
        whole: the network.
        folder: made if it isn't there.

    Raises:
        InputError: if one can't be written.
    """
    place = file_path(folder, "folder")
    description = Description(whole)
    text = json.dumps(description.document(), indent=1, allow_nan=False) + "\n"
    paths = [place / name for name in NAMES]
    with atomic_path(paths[0]) as path:
        Path(path).write_text(text)
    with atomic_path(paths[1]) as path, open(path, "wb") as file:
        np.savez_compressed(file, **description.arrays)  # type: ignore[arg-type]
    with atomic_path(paths[2]) as path:
        Path(path).write_text(source_of(whole))
    return [os.fspath(path) for path in paths]


class Description:
    """What the JSON says, and the arrays that it names.

    Args:
        whole: the network.
    """

    def __init__(self, whole: WholeNetwork) -> None:
        self._of = whole
        self._layers = {layer.node: layer for layer in whole.layers}
        self.arrays: dict[str, np.ndarray] = {}

    def document(self) -> dict[str, Any]:
        """The whole of it."""
        summary, graph = self._of.summary, self._of.network.graph
        inputs, layers, outputs = [], [], []
        for node in graph.nodes:
            if node.op == "placeholder":
                inputs.append({"id": node.name, "shape": list(shape_of(node))})
            elif node.op == "output":
                outputs = [n.name for n in node.all_input_nodes]
            elif node in self._layers:
                layers.append(self._layer(self._layers[node]))
            elif node.op == "call_function" or self._floats(node):
                layers.append(self._other(node))
        return {
            "format": FORMAT,
            "version": VERSION,
            "documentation": "docs/hardware.md",
            "weight_bits": summary.weight_bits,
            "state_bits": summary.state_bits,
            "accumulator_bits": 32,
            "spike_weights": summary.weights,
            "steps": summary.steps,
            "rounding": "shift right by s: (n + 2^(s-1)) >> s, arithmetic; s <= 0: n << -s",
            "inputs": inputs,
            "outputs": outputs,
            "layers": layers,
        }

    def _floats(self, node: Node) -> bool:
        """Whether a tensor of the network is read by something that isn't whole."""
        users = [self._layers.get(user) for user in node.users]
        return node.op == "get_attr" and any(u is None or u.op is Op.FLOAT for u in users)

    def _layer(self, layer: Layer) -> dict[str, Any]:
        node = layer.node
        whole = layer.op is not Op.FLOAT
        found: dict[str, Any] = {
            "id": node.name,
            "name": layer.name,
            "op": str(layer.op),
            "operation": "few-spikes neurons" if layer.op is Op.NEURON else packet(node),
            "inputs": [self._read(r) for r in layer.reads] if whole else self._named(node),
            "settings": {} if layer.op is Op.NEURON else self._settings(node),
            "output": {"shape": list(shape_of(node)), **self._form(layer.form)},
        }
        if layer.op is Op.NEURON:
            found["arrays"] = self._neuron(layer)
        elif layer.op in (Op.WEIGHTS, Op.SCALE):
            found["arrays"] = self._weights(layer)
            found["accumulator_most"] = layer.numbers["accumulator"]
            channels = layer.numbers.get("channels")
            if channels is not None:
                found["channel_axis"] = channels
        elif layer.op is Op.SUM:
            found["signs"] = layer.numbers["signs"]
            found |= self._summands(layer)
        elif layer.op is Op.WINDOW:
            found["window"] = layer.numbers["window"]
        if layer.numbers.get("saturates"):
            found["saturates_at"] = 2**31 - 1
        if layer.note:
            found["note"] = layer.note
        return found

    @staticmethod
    def _form(form: Form | None) -> dict[str, Any]:
        if form is None:
            return {"dtype": "float"}
        dtype = "int16" if form.most < 2**15 else "int32"
        return {"dtype": dtype, "unit": form.unit, "most": form.most, "spikes": form.spikes}

    @staticmethod
    def _named(node: Node) -> list[dict[str, Any]]:
        return [{"from": n.name, "decoded": True} for n in node.all_input_nodes]

    @staticmethod
    def _read(taken: Read) -> dict[str, Any]:
        form = taken.form
        assert form is not None
        found: dict[str, Any] = {"from": taken.node.name, "unit": form.unit, "most": form.most}
        if taken.pixels is not None:
            pixels = taken.pixels
            found["pixels"] = {
                "base": pixels.base.tolist(),
                "step": pixels.step.tolist(),
                "zero": pixels.zero.tolist(),
            }
        elif taken.rescale is None:
            found["from_float"] = True
        else:
            found["multiplier"] = taken.rescale.multiplier
            found["shift"] = taken.rescale.shift
        found["saturates"] = taken.saturates
        return found

    def _settings(self, node: Node) -> dict[str, Any]:
        """The operation's other arguments by their names; numbers of the graph by theirs."""
        target: Any = node.target
        names = [a.name for a in target._schema.arguments] if isinstance(target, OpOverload) else []
        given = {
            (names[i] if i < len(names) else f"argument_{i}"): value
            for i, value in enumerate(node.args)
        }
        given |= node.kwargs
        return {name: _plain(value) for name, value in given.items()}

    def _other(self, node: Node) -> dict[str, Any]:
        """What depends on no signal: lengths, and constants for floating point."""
        if node.op == "get_attr":
            value = read(self._of.network, node)
            key = self._keep(f"{node.name}.constant", np.asarray(value.detach().cpu().numpy()))
            return {"id": node.name, "op": "constant", "arrays": {"constant": key}}
        return {
            "id": node.name,
            "op": "given",
            "operation": packet(node) or str(node.target),
            "settings": self._settings(node),
        }

    def _neuron(self, layer: Layer) -> dict[str, str]:
        neuron: WholeNeuron = self._of.neurons[layer.numbers["path"]]
        bits = self._of.summary.state_bits
        state = np.int16 if bits <= _SHORT else np.int32
        site = str(layer.numbers["path"]).rpartition(".")[2]
        parts: Mapping[str, tuple[Tensor, Any]] = {
            "thresholds": (neuron.thresholds, state),
            "resets": (neuron.resets, np.int32),
            "weights": (neuron.weights, np.int32),
            "offsets": (neuron.offsets, np.int32),
            "gates": (neuron.gates, state),
        }
        return {
            name: self._keep(f"{site}.{name}", _as(tensor, dtype))
            for name, (tensor, dtype) in parts.items()
        }

    def _weights(self, layer: Layer) -> dict[str, str]:
        bits = self._of.summary.weight_bits
        kinds = {
            "weights": np.int8 if bits <= _BYTE else np.int16,
            "bias": np.int32,
            "shifts": np.int8,
        }
        return {
            name: self._keep(f"{layer.node.name}.{name}", _as(layer.tensors[name], dtype))
            for name, dtype in kinds.items()
            if name in layer.tensors
        }

    def _summands(self, layer: Layer) -> dict[str, Any]:
        assert layer.form is not None
        keys, others = {}, []
        for index, (value, factor) in enumerate(layer.numbers["constants"]):
            if isinstance(value, Node) and value.op != "get_attr":
                others.append({"from": value.name, "factor": factor})
                continue
            known = read(self._of.network, value) if isinstance(value, Node) else value
            tensor = torch.as_tensor(known, dtype=torch.float64) * factor
            whole = whole_constant(tensor, layer.form.unit)
            name = f"summand_{index}"
            keys[name] = self._keep(f"{layer.node.name}.{name}", _as(whole, np.int32))
        return {"arrays": keys, **({"given": others} if others else {})}

    def _keep(self, name: str, array: np.ndarray) -> str:
        self.arrays[name] = array
        return name


def _as(tensor: Tensor, dtype: Any) -> np.ndarray:
    """Integers of a type that holds each of them."""
    values = tensor.detach().cpu().numpy()
    made = values.astype(dtype)
    assert (made == values).all()
    return np.asarray(made)


def _plain(value: Any) -> Any:
    """A setting as JSON has it; another node by its name."""
    if isinstance(value, Node):
        return {"from": value.name}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    return str(value)
