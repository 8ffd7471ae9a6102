"""From a graph to layers of whole numbers, in its order: units, bounds and integer weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..errors import InputError
from ..fitting.whole_weights import WholeTable
from ..graph.node_facts import read
from ..graph.operators import Kind, operator_of
from ..graph.regions import packet
from .abilities import (
    BIAS,
    EPSILON,
    MEAN,
    VARIANCE,
    WEIGHT,
    Abilities,
    bias_of,
    channel_axis,
    out_axis,
    weight_of,
)  # fmt: skip
from .records import Form, Layer, Op, Pixels, Read
from .units import Units
from .weights import WholeWeights, whole_weights
from .whole_numbers import MOST, Rescale, rescale

# A sum whose unit nobody asks for keeps its bound below this many bits.
_FINE = 24
# Values in units of no common power of two are joined in a unit finer by this.
_FINER = 16
_LEAST_BITS = 4
# Bits of a number while it is taken into another unit.
_WIDEST = 62


@dataclass(frozen=True)
class Given:
    """What a plan is made of.

    Args:
        network: the graph, sites called as modules.
        constants: values of nodes that depend on no input.
        tables: of the sites, by the path of the neuron.
        weight_bits, state_bits: of a weight, and of a potential or analog value.
        ranges: largest size of values that aren't spikes and that weights read.
        pixels: of the network's images, by their node.
    """

    network: GraphModule
    constants: Mapping[Node, Any]
    tables: Mapping[str, WholeTable]
    weight_bits: int
    state_bits: int
    ranges: Mapping[Node, float]
    pixels: Mapping[Node, Pixels]


class Planner:
    """Makes the layers of one network.

    Args:
        given: what they are made of.
        abilities: what whole numbers can do there.
        units: of its values.
    """

    def __init__(self, given: Given, abilities: Abilities, units: Units) -> None:
        self._given, self._abilities, self._units = given, abilities, units
        self.layers: list[Layer] = []
        self.weights: dict[Node, WholeWeights] = {}
        self._forms: dict[Node, Form | None] = {}
        for node, op in abilities.op.items():
            layer = self._layer(node, op)
            self._forms[node] = layer.form
            self.layers.append(layer)

    def _layer(self, node: Node, op: Op) -> Layer:
        connection = self._abilities.connections[node]
        make = {
            Op.NEURON: self._neuron,
            Op.WEIGHTS: self._weights,
            Op.SCALE: self._scale,
            Op.SUM: self._sum,
            Op.JOIN: self._joined,
            Op.MOVE: self._moved,
            Op.WINDOW: self._window,
            Op.MAXIMUM: self._moved,
            Op.FLOAT: self._float,
        }[op]
        return make(node, connection.name, connection.signals)

    # How values are read.

    def _form(self, node: Node) -> Form | None:
        return self._forms.get(node)

    def _as(self, node: Node, unit: float, most: int | None) -> Read:
        """A value in a unit, saturated at `most`; at nothing but int32 if that is None."""
        form = self._form(node)
        limit = MOST if most is None else most
        if form is None:
            return Read(node, Form(unit, limit), None, True)
        turned = rescale(form.unit / unit)
        bound = turned.bound(form.most)
        if bound >= 2**_WIDEST:
            raise InputError(
                f"{self._name(node)} may reach {form.most * form.unit:.3g}, and is read in units "
                f"of {unit:.3g}, which 64 bits don't hold; its ranges differ too much"
            )
        return Read(node, replace(form, unit=unit, most=min(bound, limit)), turned, bound > limit)

    def _for_weights(self, node: Node, weight: Tensor, axis: int | None) -> Read:
        """A value for weights: spikes as they are, anything else in the bits that it can have."""
        form = self._form(node)
        if form is not None and form.spikes:
            return Read(node, form, Rescale())
        pixels = self._given.pixels.get(node)
        if pixels is not None:
            unit = float(pixels.step.max())
            return Read(node, Form(unit, pixels.levels - 1), None, True, pixels)
        largest = self._given.ranges.get(node)
        if largest is None and form is not None and form.tight:
            largest = form.most * form.unit
        if largest is None:
            raise InputError(
                f"{self._name(node)} is no spike and is multiplied by weights, and nobody knows "
                "how large its values are; give quantise calibration data"
            )
        rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
        top = 2 ** (self._given.weight_bits - 1) - 1
        # The sum of the integer weights of a channel whose largest is as large as it gets.
        sums = (rows.abs().sum(1) / rows.abs().amax(1).clamp_min(1e-300)).max() * top
        bits = self._given.state_bits
        while bits > _LEAST_BITS and float(sums) * 2.0 ** (bits - 1) > MOST / 2:
            bits -= 1
        most = 2 ** (bits - 1) - 1
        unit = max(largest, 1e-30) / most
        if form is not None:
            # A shift of the value's own unit.
            unit = form.unit * 2.0 ** max(-(-_log2(unit / form.unit) // 1), 0)
        return self._as(node, unit, most)

    def floats(self, layer: Layer) -> Tensor:
        """The weights that a layer's integers stand for, in the unit of the network's own."""
        taken = layer.reads[0].form
        assert taken is not None
        made = self.weights[layer.node].floats(taken.unit, layer.numbers["axis"])
        steps = layer.numbers.get("steps")
        return made if steps is None else made / steps

    def finish(self, layer: Layer) -> None:
        """Turns what is added to accumulators into integers.

        Raises:
            InputError: where a bias grew so much since the bounds were proven that one overflows.
        """
        if layer.op not in (Op.WEIGHTS, Op.SCALE):
            return
        made = self.weights[layer.node]
        if layer.op is Op.WEIGHTS:
            node = bias_of(layer.node)
            bias = None if node is None else read(self._given.network, node).detach().double()
            rest = layer.numbers.pop("rest", None)
            bias = rest if bias is None else bias if rest is None else bias + rest
        else:
            bias = layer.numbers.pop("bias", None)
        if bias is None:
            return
        layer.tensors["bias"] = torch.floor(bias / made.units + 0.5).to(torch.int64)
        layer.numbers["accumulator"] = most = made.with_bias(layer.tensors["bias"])
        if most > MOST:
            raise InputError(
                f"an accumulator of {layer.name} may reach {most}, more than int32 holds; quantise "
                "with fewer weight bits"
            )
        assert layer.form is not None
        form = self._result(made.shifts, most, layer.form.unit)
        layer.form, layer.numbers["saturates"] = form

    def _name(self, node: Node) -> str:
        known = self._abilities.connections.get(node)
        return known.name if known is not None else f"the input {node.name}"

    # Layers.

    def _neuron(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        path = str(node.target)
        state, table = self._units.states[path], self._given.tables[path]
        sizes = [
            max(abs(_extreme(z, c, 1)), abs(_extreme(z, c, -1)))
            for z, c in zip(table.weights, table.offsets, strict=True)
        ]
        read = replace(self._as(signals[0], state.unit, state.most), saturates=True)
        return Layer(
            node, name, Op.NEURON, [read], Form(table.unit, max(*sizes, 1), True, True),
            numbers={"path": path},
        )  # fmt: skip

    def _weights(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        weight: Tensor = self._given.constants[weight_of(node)].detach().double().cpu()
        axis = out_axis(node, weight)
        bias = self._constant(bias_of(node))
        taken = self._for_weights(signals[0], weight, axis)
        steps, rest = self._pixel_weights(weight, taken)
        used = weight if steps is None else weight * steps
        added = rest if bias is None else bias if rest is None else bias + rest
        layer = self._multiplied(node, name, Op.WEIGHTS, taken, used, added, axis)
        layer.numbers |= {"axis": axis, "channels": channel_axis(node)}
        if rest is not None:
            # What `_finish` adds to the bias, and what makes weights of pixels those of the image.
            layer.numbers |= {"rest": rest, "steps": steps}
        return layer

    def _multiplied(
        self, node: Node, name: str, op: Op, read: Read, weight: Tensor, bias: Tensor | None,
        axis: int | None,
    ) -> Layer:  # fmt: skip
        """A layer of integer weights, with the shift to its result."""
        taken = read.form
        assert taken is not None
        wanted = self._units.wanted[node]
        unit = wanted or self._own_unit(node, weight, bias, taken, axis)
        made = whole_weights(
            weight, bias, axis, taken=taken.unit, given=unit, most=taken.most,
            bits=self._given.weight_bits,
        )  # fmt: skip
        self.weights[node] = made
        form, saturates = self._result(made.shifts, made.most, unit)
        note = "" if not made.coarser else (
            f"{made.coarser} channels have coarser weights, so that no accumulator overflows"
        )  # fmt: skip
        numbers = {"accumulator": made.most, "saturates": saturates}
        tensors = {"weights": made.integers, "shifts": made.shifts}
        return Layer(node, name, op, [read], form, tensors, numbers, note)

    @staticmethod
    def _result(shifts: Tensor, most: int, unit: float) -> tuple[Form, bool]:
        """What shifted accumulators are, and whether they saturate."""
        bound = max(Rescale(1, int(shift)).bound(most) for shift in set(shifts.tolist()))
        return Form(unit, min(bound, MOST)), bound > MOST

    def _own_unit(
        self, node: Node, weight: Tensor, bias: Tensor | None, taken: Form, axis: int | None
    ) -> float:
        """A unit that nobody asked for: from what was measured, or else from what is possible."""
        largest = self._given.ranges.get(node)
        if largest is not None:
            return float(max(largest, 1e-30) / (2 ** (self._given.state_bits - 1) - 1))
        rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
        bound = rows.abs().sum(1).max() * taken.most * taken.unit
        bound = bound + (0.0 if bias is None else bias.abs().max())
        return max(float(bound), 1e-30) / 2**_FINE

    def _pixel_weights(self, weight: Tensor, taken: Read) -> tuple[Tensor | None, Tensor | None]:
        """What turns weights into those of whole pixels, and what the bias takes of the rest."""
        pixels = taken.pixels
        if pixels is None:
            return None, None
        assert taken.form is not None
        rest = pixels.base + pixels.step * pixels.zero
        # The input channels of every output channel: those of its group.
        inner = weight.shape[1]
        group = torch.arange(len(weight)) // (len(weight) * inner // len(pixels.step))
        place = group[:, None] * inner + torch.arange(inner)
        shape = (*place.shape, *[1] * (weight.dim() - 2))
        steps = pixels.step[place].view(shape) / taken.form.unit
        return steps, (weight * rest[place].view(shape)).flatten(1).sum(1)

    def _scale(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        row = operator_of(node)
        if row is not None and row.kind is Kind.AFFINE:
            taken = [self._constant(node.args[i]) for i in (WEIGHT, BIAS, MEAN, VARIANCE)]
            gain, bias, mean, variance = taken
            assert mean is not None and variance is not None
            epsilon: Any = node.args[EPSILON] if len(node.args) > EPSILON else node.args[-1]
            deviation = (variance + float(epsilon)).rsqrt()
            factor = deviation if gain is None else deviation * gain
            added = -mean * factor if bias is None else bias - mean * factor
            read = self._for_weights(signals[0], factor[:, None], 0)
            layer = self._multiplied(node, name, Op.SCALE, read, factor[:, None], added, 0)
            layer.tensors["weights"] = layer.tensors["weights"].flatten()
            layer.numbers["bias"] = added
            layer.numbers |= {"channels": 1, "affine": True}
            return layer
        (other,) = [a for a in node.args if a is not signals[0]]
        factors = self._constant(other)
        assert factors is not None
        flat = factors.reshape(-1, 1)
        read = self._for_weights(signals[0], flat, 0)
        layer = self._multiplied(node, name, Op.SCALE, read, flat, None, 0)
        for key in ("weights", "shifts"):
            layer.tensors[key] = layer.tensors[key].reshape(factors.shape)
        layer.numbers["affine"] = False
        return layer

    def _sum(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        if packet(node) in ("mul", "div"):
            return self._turned(node, name, signals)
        unit = self._units.wanted[node] or self._common(node, signals)
        factors = _factors(node)
        reads, signs, bound = [], [], 0
        constants: list[tuple[Any, float]] = []
        for argument, factor in zip(node.args, factors, strict=False):
            if argument in signals:
                assert isinstance(argument, Node)
                form = self._form(argument)
                assert form is not None
                read = self._as(argument, unit / abs(factor), None)
                assert read.form is not None
                reads.append(replace(read, form=replace(read.form, unit=unit)))
                signs.append(1 if factor > 0 else -1)
                bound += read.form.most
            else:
                constants.append((argument, factor))
                size = self._abilities.size(argument) if isinstance(argument, Node) else argument
                assert isinstance(size, int | float)
                bound += int(abs(size * factor) / unit) + 1
        spikes, tight = self._all(signals)
        exact = all(r.rescale is not None and r.rescale.shift <= 0 for r in reads)
        form = Form(unit, min(bound, MOST), spikes and exact and not constants, tight)
        numbers = {"signs": signs, "saturates": bound > MOST, "constants": constants}
        return Layer(node, name, Op.SUM, reads, form, {}, numbers)

    def _turned(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        """A product with one number: the unit takes it, and the sign stays."""
        factor, form = self._abilities.factor(node), self._form(signals[0])
        assert factor is not None and form is not None
        read = Read(signals[0], form, Rescale())
        numbers = {"signs": [1 if factor > 0 else -1], "saturates": False, "constants": []}
        return Layer(
            node, name, Op.SUM, [read], replace(form, unit=form.unit * abs(factor)), {}, numbers
        )

    def _common(self, node: Node, signals: Sequence[Node]) -> float:
        """A unit for several values: from the range of their sum, or the finest of theirs."""
        largest = self._given.ranges.get(node)
        forms = [form for form in map(self._form, signals) if form is not None]
        if largest is not None and not all(form.tight for form in forms):
            return max(largest, 1e-30) / (2 ** (self._given.state_bits - 1) - 1)
        finest = min(forms, key=lambda form: form.unit)
        alike = all(rescale(form.unit / finest.unit).multiplier == 1 for form in forms)
        # One of many levels is fine enough; a chain of sums must not get finer at every one.
        many = not finest.tight or finest.most >= 2 ** (self._given.state_bits - 1)
        return finest.unit if alike or many else finest.unit / _FINER

    def _all(self, signals: Sequence[Node]) -> tuple[bool, bool]:
        """Whether all of some values are spikes, and whether they come near to their bounds."""
        forms = [form for form in map(self._form, signals) if form is not None]
        return all(form.spikes for form in forms), all(form.tight for form in forms)

    def _joined(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        unit = self._units.wanted[node] or self._common(node, signals)
        reads = [self._as(signal, unit, None) for signal in signals]
        bound = max(read.form.most for read in reads if read.form is not None)
        listed: Any = node.args[0]
        constants = [a for a in listed if a not in signals]
        for constant in constants:
            size = self._abilities.size(constant)
            assert size is not None
            bound = max(bound, int(size / unit) + 1)
        exact = all(r.rescale is not None and r.rescale.shift <= 0 for r in reads)
        spikes, tight = self._all(signals)
        form = Form(unit, bound, spikes and exact and not constants, tight)
        return Layer(node, name, Op.JOIN, reads, form)

    def _moved(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        form = self._form(signals[0])
        assert form is not None
        op = self._abilities.op[node]
        return Layer(node, name, op, [Read(signals[0], form, Rescale())], form)

    def _window(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        count, form = self._abilities.window(node), self._form(signals[0])
        assert count is not None and form is not None
        summed = count
        if packet(node) == "sum":
            taken, made = signals[0].meta["val"], node.meta["val"]
            lengths = [int(n) for n in taken.shape]
            summed = max(_product(lengths) // max(_product([int(n) for n in made.shape]), 1), 1)
        # What isn't spikes has bits to lose where sums would overflow.
        shift = max((form.most * summed).bit_length() - 31, 0)
        taken_form = replace(
            form,
            unit=form.unit * 2**shift,
            most=Rescale(1, shift).bound(form.most),
            spikes=form.spikes and not shift,
        )
        if taken_form.most * summed > MOST:
            taken_form = replace(taken_form, most=MOST // summed)
        read = Read(signals[0], taken_form, Rescale(1, shift), shift > 0)
        made_form = replace(taken_form, unit=taken_form.unit / count, most=taken_form.most * summed)
        return Layer(node, name, Op.WINDOW, [read], made_form, numbers={"window": summed})

    def _float(self, node: Node, name: str, signals: Sequence[Node]) -> Layer:
        return Layer(node, name, Op.FLOAT, [Read(signal, None) for signal in signals], None)

    def _constant(self, value: Any) -> Tensor | None:
        if value is None:
            return None
        found = self._given.constants[value] if isinstance(value, Node) else value
        return torch.as_tensor(found).detach().double().cpu()


def _extreme(z: Any, c: Any, sign: int) -> int:
    """The largest, or smallest, sum of weights with a constant."""
    signed = z * sign
    return int(signed[signed > 0].sum() + c * sign) * sign


def _factors(node: Node) -> list[float]:
    """Of each summand of a sum or difference."""
    alpha = float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
    by_name = {"add": [1.0, alpha], "sub": [1.0, -alpha], "rsub": [-alpha, 1.0], "neg": [-1.0]}
    return by_name[packet(node)]


def _product(numbers: Sequence[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _log2(value: float) -> float:
    return float(torch.log2(torch.tensor(value, dtype=torch.float64)))
