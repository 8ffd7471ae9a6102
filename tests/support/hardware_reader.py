"""A reader of the files of a network in whole numbers, written from docs/hardware.md alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np

Numbers = np.ndarray


class Reader:
    """Runs convolutional networks from ``network.json`` and ``network.npz`` with numpy.

    Args:
        folder: with both files.
    """

    def __init__(self, folder: Path) -> None:
        self.document = json.loads((folder / "network.json").read_text("utf-8"))
        self.arrays = dict(np.load(folder / "network.npz"))

    def run(self, images: Numbers) -> tuple[Numbers, dict[str, Numbers]]:
        """Decoded outputs for images ``[N, ...]``, and the integers of every layer by its id."""
        (given,) = self.document["inputs"]
        values: dict[str, Numbers] = {given["id"]: images.astype(np.float64)}
        units: dict[str, float] = {}
        for layer in self.document["layers"]:
            if layer["op"] in ("given", "constant"):
                continue
            assert layer["op"] != "float", f"{layer['id']} isn't whole"
            taken = [self._read(values, read, layer) for read in layer["inputs"]]
            made = getattr(self, "_" + layer["op"].replace(" ", "_"))(layer, taken)
            output = layer["output"]
            assert np.abs(made).max() <= output["most"]
            values[layer["id"]], units[layer["id"]] = made, output["unit"]
        (last,) = self.document["outputs"]
        return values[last] * units[last], values

    def _read(self, values: dict[str, Numbers], read: dict[str, Any], layer: Any) -> Numbers:
        value, most = values[read["from"]], read["most"]
        if "pixels" in read:
            base, step, zero = (
                np.array(read["pixels"][key]).reshape(1, -1, 1, 1)
                for key in ("base", "step", "zero")
            )
            return np.clip(_nearest((value - base) / step) - zero, -most, most)
        if read.get("from_float"):
            return np.clip(_nearest(value / read["unit"]), -most, most)
        n = _shifted(value * read["multiplier"], read["shift"])
        return np.clip(n, -most, most) if read["saturates"] else n

    def _arrays(self, layer: Any) -> dict[str, Numbers]:
        return {key: self.arrays[name].astype(np.int64) for key, name in layer["arrays"].items()}

    def _neuron(self, layer: Any, taken: list[Numbers]) -> Numbers:
        of, v = self._arrays(layer), taken[0].copy()
        r = sum((v > gate for gate in of["gates"]), np.zeros(v.shape, np.int64))
        y = of["offsets"][r]
        for t in range(of["thresholds"].shape[1]):
            fires = v > of["thresholds"][r, t]
            y = y + np.where(fires, of["weights"][r, t], 0)
            v = v - np.where(fires, of["resets"][r, t], 0)
        return y

    def _weights(self, layer: Any, taken: list[Numbers]) -> Numbers:
        of, settings = self._arrays(layer), layer["settings"]
        if layer["operation"] == "linear":
            sums = taken[0] @ of["weights"].T
        else:
            assert layer["operation"] == "conv2d"
            sums = _convolved(
                taken[0],
                of["weights"],
                _pair(settings.get("stride", 1)),
                _pair(settings.get("padding", 0)),
                settings.get("groups", 1),
            )
        shape = [1] * sums.ndim
        shape[layer["channel_axis"]] = -1
        sums = sums + of.get("bias", np.zeros(1, np.int64)).reshape(shape)
        assert np.abs(sums).max() <= layer["accumulator_most"] < 2**31
        n = _shifted(sums, of["shifts"].reshape(shape))
        limit = layer.get("saturates_at")
        return n if limit is None else np.clip(n, -limit, limit)

    def _sum(self, layer: Any, taken: list[Numbers]) -> Numbers:
        total = sum(sign * n for sign, n in zip(layer["signs"], taken, strict=True))
        for name in layer.get("arrays", {}).values():
            total = total + self.arrays[name]
        return np.asarray(total)

    def _join(self, layer: Any, taken: list[Numbers]) -> Numbers:
        return np.concatenate(taken, layer["settings"].get("dim", 0))

    def _window_sum(self, layer: Any, taken: list[Numbers]) -> Numbers:
        assert layer["operation"] == "mean"
        return np.asarray(taken[0].sum(tuple(layer["settings"]["dim"])))

    def _move(self, layer: Any, taken: list[Numbers]) -> Numbers:
        assert layer["operation"] == "slice"
        settings = layer["settings"]
        place = [slice(None)] * taken[0].ndim
        place[settings["dim"]] = slice(settings["start"], settings["end"], settings.get("step"))
        return taken[0][tuple(place)]


def _nearest(x: Numbers) -> Numbers:
    """The nearest whole number, halves up."""
    return np.floor(x + 0.5).astype(np.int64)


def _shifted(n: Numbers, shift: Any) -> Numbers:
    """To the right with halves up, to the left below 0."""
    shift = np.asarray(shift, np.int64)
    right, left = np.maximum(shift, 0), np.maximum(-shift, 0)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    return ((n << left) + half) >> right


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _convolved(
    x: Numbers, weights: Numbers, stride: list[int], padding: list[int], groups: int
) -> Numbers:
    outer, inner, high, wide = weights.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    rows = (x.shape[2] - high) // stride[0] + 1
    columns = (x.shape[3] - wide) // stride[1] + 1
    made = np.zeros((len(x), outer, rows, columns), np.int64)
    for i in range(high):
        for j in range(wide):
            part = x[
                :, :, i : i + stride[0] * rows : stride[0], j : j + stride[1] * columns : stride[1]
            ]
            for o in range(outer):
                first = o // (outer // groups) * inner
                made[:, o] += np.tensordot(
                    weights[o, :, i, j], part[:, first : first + inner], (0, 1)
                )
    return made
