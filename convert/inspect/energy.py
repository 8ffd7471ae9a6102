"""What a network's operations cost: counts times constants, beside what other networks cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from .energy_bills import INTEGER_BITS, Bill, Numbers, spiking_bill, value_bill
from .energy_costs import ENDS, CostTable, read_costs
from .energy_report import Comparison, Energy, Range, Row, Sensitivity
from .operation_counts import QUANTITIES, OperationCounts, Quantity

_QUANTISED = {
    "quantised_dense": Quantity.DENSE_MULTIPLY_ACCUMULATES,
    "quantised_zero_skipping": Quantity.ACTIVE_MULTIPLY_ACCUMULATES,
}
# What weights on spikes can't be without: a count that lacks one would price it as free.
_WITH_ACCUMULATES = (
    Quantity.EVENTS,
    Quantity.WEIGHT_READS,
    Quantity.STATE_READS,
    Quantity.STATE_WRITES,
    Quantity.DENSE_MULTIPLY_ACCUMULATES,
    Quantity.ACTIVE_MULTIPLY_ACCUMULATES,
    Quantity.DENSE_VALUES,
)
_LEFT_OUT = (
    "routing: carrying events to their synapses, queues and addresses (it grows with events)",
    "finding the values that aren't 0, in quantised_zero_skipping",
    "control, clock and leakage; a spiking network waits for its steps, and leaks meanwhile",
    "reuse of weights and values: each operation reads its own, in all networks",
    "filling the memories, and reading the image",
    "the nonlinear functions of the original and the quantised network, and the rescaling of each "
    "quantised value",
)
_FORMATS = (
    "Compare inside one column: float32 beside integers compares number formats, not networks. In "
    "integers the spiking network has int8 weights, as the quantised network."
)


def energy(
    counts: OperationCounts,
    costs: str | Path | Mapping[str, Any] = "45nm",
    *,
    memory: str | None = None,
    sum_bits: int = 32,
    hardware_only: bool = False,
) -> Energy:
    """Prices a network's operations, beside its original's and a quantised network's.

    Each row is a range. There is no single figure of energy saved: which network is cheaper turns
    on assumptions, and the result names them. See docs/energy.md.

    Args:
        counts: of one network, for one image.
        costs: the name of a table (``45nm``, ``7nm``), the path of a JSON file of the same form, or
            a mapping.
        memory: where the weights lie. ``sram``: the smallest SRAM that holds them, else the
            largest; ``dram``; None: the smallest SRAM that holds them, else DRAM, and the largest
            SRAM where the number of weights isn't known.
        sum_bits: width of sums in integers, 16 or 32.
        hardware_only: refuse a network with operations that no spiking hardware does: products,
            norms, weights on values that are no spikes, save the image's first layer.

    Raises:
        InputError: the counts or the table can't be used, or ``hardware_only`` isn't met.
    """
    _check_counts(counts)
    if hardware_only:
        _check_hardware(counts)
    if memory not in (None, "sram", "dram"):
        raise InputError(f"memory={memory!r}: give 'sram', 'dram', or None")
    if sum_bits not in (16, 32):
        raise InputError(f"sum_bits={sum_bits!r}: give 16 or 32")
    constants = read_costs(costs)
    networks = _Networks.of(counts, constants, memory, sum_bits)
    bills = networks.bills()
    return Energy(
        costs=constants,
        rows=[Row(*key, _range(bill, constants)) for key, bill in bills.items()],
        comparisons=list(_comparisons(bills, counts, constants)),
        sensitivities=_sensitivities(networks),
        bits=counts.steps,
        events_per_neuron=counts.spikes_per_neuron,
        images=counts.images,
        notes=[_FORMATS, _quantised_note(counts, sum_bits), networks.memory_note()],
        not_counted=[*_LEFT_OUT, *(f"{n} calls of {op}" for op, n in counts.not_counted.items())],
    )


def usual_energy(
    weights: int, neurons: int, costs: str = "45nm"
) -> Callable[[OperationCounts], float]:
    """Prices the spiking network in nJ: float32, with memory, the usual value of each constant.

    Args:
        weights, neurons: of the network; they say which memories hold weights and states.
        costs: the name of a table.
    """
    table = read_costs(costs)
    size = OperationCounts([], 1, {}, {}, neurons=neurons, steps=1, weights=weights)
    numbers = _Networks.of(size, table, None, 32).floats
    return lambda counts: spiking_bill(counts, numbers, table, True).cost(table, "usual") / 1000


def _check_counts(counts: OperationCounts) -> None:
    if not isinstance(counts, OperationCounts):
        raise InputError(
            f"energy takes OperationCounts, not {type(counts).__name__}: give what "
            "count_operations returns"
        )
    if counts.neurons < 1 or counts.steps < 1:
        raise InputError(
            f"the counts have {counts.neurons} neurons of {counts.steps} steps: count a network "
            "that to_spiking gave neurons"
        )
    _check_quantities("the counts have", counts.mean)
    for layer in counts.layers:
        _check_quantities(f"the counts of {layer.name} have", layer.mean)
    for quantity in QUANTITIES:
        of_layers = sum(layer[quantity] for layer in counts.layers)
        if of_layers > counts[quantity] * (1 + 1e-6):
            raise InputError(
                f"the counts have {of_layers:g} {quantity} in the layers and {counts[quantity]:g} "
                "in all: give the sum of the layers"
            )
    if counts[Quantity.ACCUMULATES]:
        missing = [str(q) for q in _WITH_ACCUMULATES if not counts[q]]
        if missing:
            raise InputError(
                f"the counts have accumulates and no {', '.join(missing)}: count these as well"
            )
    if counts.weights is not None and counts.weights < 0:
        raise InputError(f"the counts have {counts.weights} weights: give their number, or None")
    active, dense = (counts[q] for q in reversed(_QUANTISED.values()))
    if active > dense * (1 + 1e-9):
        raise InputError(
            f"the counts have {active:g} active multiply-accumulates of {dense:g}: count both on "
            "the same layers"
        )


def _check_quantities(where: str, mean: Mapping[str, float]) -> None:
    for name, value in mean.items():
        if name not in QUANTITIES:
            raise InputError(f"{where} {name!r}: give one of {', '.join(QUANTITIES)}")
        if not math.isfinite(value) or value < 0:
            raise InputError(f"{where} {name} {value}: give a finite number, not below 0")


def _check_hardware(counts: OperationCounts) -> None:
    if not counts.layers:
        raise InputError("hardware_only needs counts by layer: give counts with layers")
    bad: list[str] = []
    first = True
    for layer in counts.layers:
        if layer.op == "neurons":
            first = False
        elif layer[Quantity.MULTIPLY_ACCUMULATES]:
            reads_image = first and layer.inputs == "analog" and layer[Quantity.WEIGHT_READS] > 0
            if not reads_image:
                bad.append(f"{layer.name} ({layer.op} on {layer.inputs or 'values'})")
            first = False
    bad += [f"{op} ({n} calls)" for op, n in counts.not_counted.items()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(
            f"hardware_only: the network has operations that aren't on spikes: {', '.join(bad[:3])}"
            f"{more}: convert it with normalisation, max_pool or encode where they apply, or leave "
            "hardware_only out"
        )


Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Networks:
    """The networks that are priced, and the numbers that each computes in."""

    counts: OperationCounts
    costs: CostTable
    floats: Numbers
    integers: Numbers
    sums_at_hand: bool = False

    @classmethod
    def of(
        cls, counts: OperationCounts, costs: CostTable, memory: str | None, sum_bits: int
    ) -> _Networks:
        state = (costs.holding(4.0 * counts.neurons) or costs.srams[-1]).name

        def numbers(name: str, weight_bits: int, value_bits: int, sums: int) -> Numbers:
            weights = _weight_memory(counts, costs, memory, weight_bits)
            return Numbers(name, weight_bits, value_bits, sums, weights, state)

        return cls(
            counts,
            costs,
            numbers("float32", 32, 32, 32),
            numbers("integer", INTEGER_BITS, INTEGER_BITS, sum_bits),
        )

    def bills(self) -> dict[Key, Bill]:
        """By row, network and numbers."""
        counts, costs = self.counts, self.costs
        found: dict[Key, Bill] = {}
        for memory, name in ((False, "arithmetic"), (True, "with_memory")):
            for numbers in (self.floats, self.integers):
                key = (name, "spiking", numbers.name)
                found[key] = spiking_bill(counts, numbers, costs, memory, self.sums_at_hand)
            found[name, "original", "float32"] = value_bill(counts, self.floats, costs, memory)
        values = replace(self.integers, value_bits=counts.steps)
        for name, operations in _QUANTISED.items():
            for memory, what in ((False, "arithmetic"), (True, "with_memory")):
                bill = value_bill(counts, values, costs, memory, operations)
                found[name, what, "integer"] = bill
        return found

    def memory_note(self) -> str:
        """Where weights and states lie, in words."""
        floats, integers, state = (
            self.costs[name].label
            for name in (
                self.floats.weight_memory,
                self.integers.weight_memory,
                self.integers.state_memory,
            )
        )
        count = self.counts.weights
        known = "their number isn't known" if count is None else f"{count:,}"
        return (
            f"Memory: weights ({known}) come from {floats} in float32 and from {integers} in int8, "
            f"states and values of all networks from {state}. At each synapse a spike reads a "
            "weight, and reads and writes the sum. A multiply-accumulate on values reads a weight "
            "and a value, and keeps its sum at hand."
        )


def _weight_memory(
    counts: OperationCounts, costs: CostTable, memory: str | None, weight_bits: int
) -> str:
    if memory == "dram":
        return costs.dram.name
    if counts.weights is None:
        return costs.srams[-1].name
    holding = costs.holding(counts.weights * weight_bits / 8)
    if holding is not None:
        return holding.name
    return costs.srams[-1].name if memory == "sram" else costs.dram.name


def _quantised_note(counts: OperationCounts, sum_bits: int) -> str:
    bits = counts.steps
    text = (
        f"Quantised: the same operations on values of {bits} bits (as many as the longest neuron "
        f"has steps), int8 weights, int{sum_bits} sums. A product of a and b bits costs a x b / 64 "
        "of an int8 product, a sum an addition of its width."
    )
    if counts.gates:
        text += (
            f" Its {bits} bits are those of {bits} steps: a neuron with {counts.gates} gates has "
            f"{counts.gates + 1} tables of them, up to {counts.gates + 1} times the levels. The "
            "quantised network would need more bits or more intervals for that, and they aren't "
            "priced; the events and comparisons of the gates are."
        )
    return text


def _range(bill: Bill, costs: CostTable) -> Range:
    return Range(*(bill.cost(costs, end) / 1000 for end in ENDS))


def _comparisons(
    bills: Mapping[Key, Bill], counts: OperationCounts, costs: CostTable
) -> Iterator[Comparison]:
    measured = counts.spikes_per_neuron
    for numbers in ("float32", "integer"):
        for against in ("original", *_QUANTISED):
            for memory, name in ((False, "arithmetic"), (True, "with_memory")):
                ours = bills[name, "spiking", numbers]
                key = (name, "original", "float32")
                other = bills[key if against == "original" else (against, name, "integer")]
                even = [_break_even(ours, other, measured, costs, at) for at in range(3)]
                yield Comparison(
                    numbers,
                    against,
                    memory,
                    numbers == ("float32" if against == "original" else "integer"),
                    _range(ours, costs),
                    _range(other, costs),
                    (even[0], even[1], even[2]),
                )


def _break_even(
    ours: Bill, other: Bill, measured: float, costs: CostTable, at: int
) -> float | None:
    """Events per neuron at which both cost the same; None where no number of events does that."""
    end = ENDS[at]
    left = other.cost(costs, end) - ours.fixed_cost(costs, end)
    for_events = ours.event_cost(costs, end)
    if left < 0 or for_events == 0:
        return None
    return measured * left / for_events


def _sensitivities(networks: _Networks) -> list[Sensitivity]:
    """Of each constant and of the assumptions beside them, the largest first."""
    costs = networks.costs
    found = []
    for numbers in ("float32", "integer"):
        usual = _ratio(networks, numbers)
        if usual is None:
            return []
        for constant in costs.constants.values():
            ends = [
                _ratio(replace(networks, costs=_moved(costs, constant.name, value)), numbers)
                for value in (constant.low, constant.high)
            ]
            words = [f"{v:g} pJ" for v in (constant.low, constant.high)]
            found.append((constant.name, numbers, words, ends, usual))
        for what, words, ends_of in _assumptions(networks):
            ends = [_ratio(at, numbers) for at in ends_of]
            found.append((what, numbers, words, ends, usual))
    listed = [
        Sensitivity(what, numbers, words[0], words[1], ends[0], usual, ends[1])
        for what, numbers, words, ends, usual in found
        if ends[0] is not None and ends[1] is not None
    ]
    return sorted(listed, key=lambda s: -abs(s.change))


def _assumptions(networks: _Networks) -> Iterator[tuple[str, list[str], Sequence[_Networks]]]:
    """What isn't a constant: its two ends in words, and the networks at each."""
    costs = networks.costs
    small, large = costs.srams[0], costs.srams[-1]

    def where(**changed: Any) -> _Networks:
        return replace(
            networks,
            floats=replace(networks.floats, **changed),
            integers=replace(networks.integers, **changed),
        )

    yield (
        "memory of the weights",
        [small.label, costs.dram.label],
        [where(weight_memory=name) for name in (small.name, costs.dram.name)],
    )
    yield (
        "memory of the states",
        [small.label, large.label],
        [where(state_memory=name) for name in (small.name, large.name)],
    )
    yield (
        "sums of the spiking network",
        ["kept at hand", "read and written at each event"],
        [replace(networks, sums_at_hand=True), networks],
    )
    yield (
        "width of integer sums",
        ["16 bits", "32 bits"],
        [
            replace(networks, integers=replace(networks.integers, sum_bits=bits))
            for bits in (16, 32)
        ],
    )


def _ratio(networks: _Networks, numbers: str) -> float | None:
    """The spiking network's usual cost over quantised_dense's, with memory."""
    bills = networks.bills()
    other = bills["quantised_dense", "with_memory", "integer"].cost(networks.costs, "usual")
    ours = bills["with_memory", "spiking", numbers].cost(networks.costs, "usual")
    return ours / other if other else None


def _moved(costs: CostTable, name: str, value: float) -> CostTable:
    """A table in which the usual value of one constant is another."""
    moved = replace(costs[name], low=value, usual=value, high=value)
    return replace(costs, constants={**costs.constants, name: moved})
