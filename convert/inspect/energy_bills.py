"""How much of each constant a network uses for one image: its operations, turned into amounts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from .energy_costs import CostTable, End
from .operation_counts import LayerCounts, OperationCounts, Quantity

# Amount of each constant, by its name: an energy is the sum of amount times constant.
Amounts = Mapping[str, float]

# Of weights, output weights d and analog values wherever numbers are integers.
INTEGER_BITS = 8


@dataclass(frozen=True)
class Numbers:
    """The numbers in which a network computes, and the memories in which they lie.

    Args:
        name: ``float32`` or ``integer``.
        weight_bits: of a weight.
        value_bits: of a value that is no sum.
        sum_bits: of a sum and of a membrane potential.
        weight_memory, state_memory: names of constants.
    """

    name: str
    weight_bits: int
    value_bits: int
    sum_bits: int
    weight_memory: str
    state_memory: str

    def add(self, costs: CostTable) -> Amounts:
        """One addition to a sum, one subtraction or one comparison."""
        if self.name == "float32":
            return {"float32_add": 1.0}
        exact = f"int{self.sum_bits}_add"
        # An adder's energy goes with its width.
        return {exact: 1.0} if exact in costs.constants else {"int32_add": self.sum_bits / 32}

    def multiply(self, a_bits: int, b_bits: int) -> Amounts:
        """One product of two numbers; a multiplier's energy goes with the product of the widths."""
        if self.name == "float32":
            return {"float32_multiply": 1.0}
        return {"int8_multiply": a_bits * b_bits / 64}


@dataclass(frozen=True)
class Bill:
    """What a network uses for one image.

    Args:
        fixed: however many events there are.
        with_events: in proportion to the number of events.
    """

    fixed: Amounts
    with_events: Amounts

    def fixed_cost(self, costs: CostTable, end: End) -> float:
        """In pJ."""
        return _cost(self.fixed, costs, end)

    def event_cost(self, costs: CostTable, end: End) -> float:
        """At the measured number of events, in pJ."""
        return _cost(self.with_events, costs, end)

    def cost(self, costs: CostTable, end: End) -> float:
        """In pJ."""
        return self.fixed_cost(costs, end) + self.event_cost(costs, end)

    def uses(self, name: str) -> float:
        """Amount of one constant."""
        return self.fixed.get(name, 0.0) + self.with_events.get(name, 0.0)


def _cost(amounts: Amounts, costs: CostTable, end: End) -> float:
    return sum(amount * costs[name].at(end) for name, amount in amounts.items())


class _Sum:
    """Amounts that are added up."""

    def __init__(self, costs: CostTable) -> None:
        self.costs = costs
        self.amounts: defaultdict[str, float] = defaultdict(float)

    def add(self, times: float, *used: Amounts) -> None:
        for amounts in used:
            for name, amount in amounts.items():
                self.amounts[name] += times * amount

    def access(self, times: float, bits: int, memory: str) -> None:
        self.amounts[memory] += times * bits / self.costs[memory].bits


def spiking_bill(
    counts: OperationCounts,
    numbers: Numbers,
    costs: CostTable,
    memory: bool,
    sums_at_hand: bool = False,
) -> Bill:
    """What the spiking network uses.

    Accumulates, additions and the subtraction at each spike go with the number of events, and so do
    the weight and the sum of each accumulate and addition. A subtraction finds its potential at
    hand: the comparison of the same step has read it.

    Args:
        sums_at_hand: leave out that each event reads and writes the sums that it is added to.
    """
    fixed, with_events = _Sum(costs), _Sum(costs)
    add = numbers.add(costs)
    accumulates = counts[Quantity.ACCUMULATES]
    on_sums = accumulates + counts[Quantity.ADDITIONS]
    updates = counts[Quantity.NEURON_UPDATES]
    subtractions = min(counts[Quantity.EVENTS], updates)
    with_events.add(on_sums + subtractions, add)
    fixed.add(updates - subtractions, add)
    by_d = numbers.multiply(numbers.sum_bits, INTEGER_BITS)
    fixed.add(counts[Quantity.SCALINGS], by_d, add)
    analog = numbers.multiply(numbers.value_bits, numbers.weight_bits)
    fixed.add(counts[Quantity.MULTIPLY_ACCUMULATES], analog, add)
    if memory:
        traffic = (
            (Quantity.WEIGHT_READS, accumulates, numbers.weight_bits, numbers.weight_memory),
            (Quantity.STATE_READS, on_sums, numbers.sum_bits, numbers.state_memory),
            (Quantity.STATE_WRITES, on_sums, numbers.sum_bits, numbers.state_memory),
        )
        for quantity, of_events, bits, where in traffic:
            share = min(of_events, counts[quantity])
            if quantity == Quantity.WEIGHT_READS or not sums_at_hand:
                with_events.access(share, bits, where)
            fixed.access(counts[quantity] - share, bits, where)
    return Bill(dict(fixed.amounts), dict(with_events.amounts))


def value_bill(
    counts: OperationCounts,
    numbers: Numbers,
    costs: CostTable,
    memory: bool,
    operations: Quantity = Quantity.DENSE_MULTIPLY_ACCUMULATES,
) -> Bill:
    """What a network of values uses on the same layers: the original, or a quantised one.

    A multiply-accumulate reads a weight and a value, a product of two signals two values. The sum
    stays at hand, and each value is written once.

    Args:
        operations: all multiply-accumulates, or those whose input isn't 0.
    """
    used = _Sum(costs)
    add = numbers.add(costs)
    products = sum(layer[operations] for layer in counts.layers if is_product(layer))
    weighted = max(counts[operations] - products, 0.0)
    used.add(weighted, numbers.multiply(numbers.value_bits, numbers.weight_bits), add)
    used.add(products, numbers.multiply(numbers.value_bits, numbers.value_bits), add)
    if memory:
        used.access(weighted, numbers.weight_bits, numbers.weight_memory)
        values = weighted + 2 * products + counts[Quantity.DENSE_VALUES]
        used.access(values, numbers.value_bits, numbers.state_memory)
    return Bill(dict(used.amounts), {})


def is_product(layer: LayerCounts) -> bool:
    """Whether a layer multiplies two signals: it has multiply-accumulates and reads no weight."""
    return layer[Quantity.MULTIPLY_ACCUMULATES] > 0 and layer[Quantity.WEIGHT_READS] == 0
