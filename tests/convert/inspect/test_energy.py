"""Energies are amounts times constants, ranges hold, and what loses is named."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.errors import InputError
from convert.inspect import energy
from convert.inspect.energy_costs import known_costs, read_costs
from convert.inspect.energy_report import Energy
from convert.inspect.operation_counts import LayerCounts, OperationCounts

_MEAN = {
    "events": 60.0,
    "accumulates": 400.0,
    "additions": 30.0,
    "scalings": 80.0,
    "multiply_accumulates": 100.0,
    "neuron_updates": 460.0,
    "weight_reads": 500.0,
    "state_reads": 900.0,
    "state_writes": 700.0,
    "dense_multiply_accumulates": 1000.0,
    "active_multiply_accumulates": 600.0,
    "dense_values": 50.0,
}


def _counts(**changed: Any) -> OperationCounts:
    """100 neurons of 4 steps that send 60 events; keywords replace fields, or quantities."""
    fields = {k: changed.pop(k) for k in list(changed) if k not in _MEAN}
    values: dict[str, Any] = {
        "layers": [],
        "images": 7,
        "mean": {**_MEAN, **changed},
        "spread": {},
        "neurons": 100,
        "steps": 4,
        "weights": 5000,
    }
    return OperationCounts(**{**values, **fields})


def _table() -> dict[str, Any]:
    """A table of round numbers."""

    def entry(low: float, usual: float, high: float, **more: Any) -> dict[str, Any]:
        return {"low": low, "usual": usual, "high": high, "unit": "pJ", "source": "me", **more}

    return {
        "title": "a test",
        "arithmetic": {
            "float32_add": entry(1, 2, 4),
            "float32_multiply": entry(5, 10, 20),
            "int32_add": entry(0.5, 1, 2),
            "int16_add": entry(0.25, 0.5, 1),
            "int8_multiply": entry(2, 4, 8),
        },
        "memory": {
            "large": entry(32, 64, 128, kind="sram", bytes=10_000, bits=64),
            "small": entry(16, 32, 64, kind="sram", bytes=1_000, bits=64),
            "dram": entry(320, 640, 1280, kind="dram", bits=64),
        },
    }


def _usual(price: Energy, *key: str) -> float:
    """In pJ."""
    return price.cost(*key).usual * 1000


# States of 100 neurons in 32 bits (400 bytes) lie in the small SRAM, 0.5 pJ a bit. 5,000 weights of
# 8 bits lie in the large one, 1 pJ a bit; in 32 bits they lie in DRAM, 10 pJ a bit.
_FLOAT_SPIKING = (400 + 30) * 2 + 460 * 2 + 80 * (10 + 2) + 100 * (10 + 2)
# An output weight d of 8 bits times a sum of 32 costs four int8 products.
_INTEGER_SPIKING = (400 + 30) * 1 + 460 * 1 + 80 * (4 * 4 + 1) + 100 * (4 + 1)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (("arithmetic", "spiking", "float32"), _FLOAT_SPIKING),
        (("arithmetic", "spiking", "integer"), _INTEGER_SPIKING),
        (("arithmetic", "original", "float32"), 1000 * 12),
        (
            ("with_memory", "spiking", "float32"),
            _FLOAT_SPIKING + 500 * 32 * 10 + (900 + 700) * 32 * 0.5,
        ),
        (
            ("with_memory", "spiking", "integer"),
            _INTEGER_SPIKING + 500 * 8 * 1 + (900 + 700) * 32 * 0.5,
        ),
        (
            ("with_memory", "original", "float32"),
            1000 * 12 + 1000 * 32 * 10 + (1000 + 50) * 32 * 0.5,
        ),
        # 4 bits times 8 bits are half an int8 product.
        (("quantised_dense", "arithmetic"), 1000 * (2 + 1)),
        (("quantised_dense", "with_memory"), 1000 * (2 + 1) + 1000 * 8 + 1050 * 4 * 0.5),
        (("quantised_zero_skipping", "arithmetic"), 600 * (2 + 1)),
        (("quantised_zero_skipping", "with_memory"), 600 * (2 + 1) + 600 * 8 + 650 * 4 * 0.5),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_a_row_is_what_a_hand_calculates(key: tuple[str, ...], expected: float) -> None:
    price = energy(_counts(), _table())
    cost = price.cost(*key)
    assert cost.usual * 1000 == pytest.approx(expected)
    # All constants of this table have half and twice their usual value at the ends.
    assert cost.low * 1000 == pytest.approx(expected / 2)
    assert cost.high * 1000 == pytest.approx(expected * 2)


def test_the_field_s_proxy_at_45_nm() -> None:
    price = energy(_counts())
    assert _usual(price, "arithmetic", "original", "float32") == pytest.approx(1000 * 4.6)
    expected = (400 + 30 + 460) * 0.9 + (80 + 100) * 4.6
    assert _usual(price, "arithmetic", "spiking", "float32") == pytest.approx(expected)


def test_the_memory_of_the_weights() -> None:
    counts, table = _counts(), _table()
    # 1,000 accumulates' weights more, of 8 bits, in each memory.
    more = replace(counts, mean={**counts.mean, "weight_reads": 1500.0})

    def each(**given: Any) -> float:
        weights = given.pop("weights", 5000)
        prices = [energy(replace(c, weights=weights), table, **given) for c in (counts, more)]
        less, much = (_usual(p, "with_memory", "spiking", "integer") for p in prices)
        return (much - less) / 1000

    assert each() == pytest.approx(8 * 1.0)
    assert each(weights=1000) == pytest.approx(8 * 0.5)
    assert each(weights=10_001) == pytest.approx(8 * 10)
    assert each(weights=10_001, memory="sram") == pytest.approx(8 * 1.0)
    assert each(memory="dram") == pytest.approx(8 * 10)
    assert each(weights=None) == pytest.approx(8 * 1.0)
    assert "isn't known" in str(energy(_counts(weights=None), table))


def test_the_memory_of_the_states() -> None:
    def cost(neurons: int) -> float:
        return _usual(energy(_counts(neurons=neurons), _table()), "with_memory", "spiking")

    # 250 sums of 32 bits fill the small memory; where none holds them they lie in the largest.
    assert cost(250) == cost(100)
    assert cost(251) - cost(250) == pytest.approx(1600 * 32 * (1.0 - 0.5))
    assert cost(100_000) == cost(251)


def test_narrower_sums() -> None:
    price = energy(_counts(), _table(), sum_bits=16)
    expected = (400 + 30 + 460) * 0.5 + 80 * (4 * 2 + 0.5) + 100 * (4 + 0.5)
    assert _usual(price, "arithmetic", "spiking") == pytest.approx(expected)
    table = _table()
    table["arithmetic"]["int16_add"]["usual"] = 0.75
    price = energy(_counts(), table, sum_bits=16)
    assert _usual(price, "arithmetic", "spiking") == pytest.approx(expected + (890 + 180) * 0.25)
    # A table without an adder of 16 bits: half of the one of 32.
    table["arithmetic"].pop("int16_add")
    price = energy(_counts(), table, sum_bits=16)
    assert _usual(price, "arithmetic", "spiking") == pytest.approx(expected)


def test_products_read_two_values_and_no_weight() -> None:
    product = LayerCounts(
        "attention",
        "matmul",
        "analog",
        {
            "multiply_accumulates": 100.0,
            "dense_multiply_accumulates": 100.0,
            "active_multiply_accumulates": 100.0,
        },
    )
    plain = energy(_counts(), _table(), memory="dram")
    price = energy(_counts(layers=[product]), _table(), memory="dram")
    for name in ("quantised_dense", "quantised_zero_skipping"):
        arithmetic = _usual(price, name, "arithmetic") - _usual(plain, name, "arithmetic")
        # 4 x 4 bits in place of 4 x 8: a quarter of an int8 product, not half of one.
        assert arithmetic == pytest.approx(-100 * 4 / 4)
        both = _usual(price, name, "with_memory") - _usual(plain, name, "with_memory")
        assert both == pytest.approx(arithmetic - 100 * 8 * 10 + 100 * 4 * 0.5)
    key = ("with_memory", "original", "float32")
    assert _usual(price, *key) - _usual(plain, *key) == pytest.approx(-100 * 32 * (10 - 0.5))


def _at_events(counts: OperationCounts, per_neuron: float) -> OperationCounts:
    """The same network with another number of events, everything that goes with them included."""
    mean = dict(counts.mean)
    factor = per_neuron * counts.neurons / mean["events"]
    changed = {q: mean[q] * factor for q in ("events", "accumulates", "additions")}
    added = {q: changed[q] - mean[q] for q in changed}
    sums = added["accumulates"] + added["additions"]
    mean["neuron_updates"] += added["events"]
    mean["weight_reads"] += added["accumulates"]
    mean["state_reads"] += sums
    mean["state_writes"] += sums
    return replace(counts, mean={**mean, **changed})


@pytest.mark.parametrize("costs", ["45nm", "7nm"])
def test_at_the_break_even_both_cost_the_same(costs: str) -> None:
    counts = _counts()
    found = energy(counts, costs).comparisons
    assert len(found) == 12
    some = 0
    for index, comparison in enumerate(found):
        for at, end in enumerate(("low", "usual", "high")):
            even = comparison.break_even[at]
            if even is None or even == 0:
                continue
            some += 1
            then = energy(_at_events(counts, even), costs).comparisons[index]
            ours, theirs = getattr(then.spiking, end), getattr(then.other, end)
            assert ours == pytest.approx(theirs, rel=1e-9)
            # Above the measured number where it costs less, below it where it costs more.
            assert (even < counts.spikes_per_neuron) == comparison.costs_more[at]
    assert some > 10


def test_no_number_of_events_breaks_even() -> None:
    price = energy(_counts(neuron_updates=1e6), _table())
    found = [c for c in price.comparisons if c.numbers == "integer" and c.memory]
    assert all(c.costs_more == (True, True, True) for c in found)
    assert all(c.break_even == (None, None, None) for c in found)
    assert "No number of events breaks even; measured 0.6 events per neuron." in str(price)


def test_a_loss_is_said_in_words() -> None:
    table = _table()
    counts = _counts(scalings=0.0, multiply_accumulates=0.0)
    text = str(energy(counts, table))
    assert "integer, arithmetic: more than" not in text
    assert "integer, with memory: more than quantised_dense (" in text
    (line,) = (x for x in text.splitlines() if "integer, with memory: more than quantised_d" in x)
    assert "Break-even at " in line and "measured 0.6" in line
    assert "compares number formats" not in line
    assert "float32, with memory: more than quantised_dense" in text
    # Cheaper at the usual costs and at the low ones: only the other end is named.
    table["arithmetic"]["int32_add"]["high"] = 100.0
    price = energy(_counts(scalings=0.0, accumulates=700.0, neuron_updates=460.0), table)
    ours = price.cost("arithmetic", "spiking").high
    theirs = price.cost("quantised_dense", "arithmetic").high
    said = f"more than quantised_dense at high costs ({ours:,.0f} against {theirs:,.0f} nJ)"
    assert f"integer, arithmetic: {said}" in str(price)


def test_a_network_that_never_loses() -> None:
    counts = _counts(
        neurons=1,
        steps=8,
        **{q: 1.0 for q in _MEAN if not q.startswith(("dense", "active"))},
    )
    text = str(energy(counts, _table()))
    assert "costs more than no row" in text


def test_no_single_saving() -> None:
    price = energy(_counts())
    text = str(price)
    for word in ("saving", "saved", "efficien", "times less", "%"):
        assert word not in text
    names = {row.name for row in price.rows}
    assert names == {"arithmetic", "with_memory", "quantised_dense", "quantised_zero_skipping"}
    for name in names:
        assert name in text
    assert names < set(price.to_dict())


def test_sensitivity_has_the_sign_of_what_uses_the_constant() -> None:
    price = energy(_counts(), _table())
    integer = {s.what: s for s in price.sensitivities if s.numbers == "integer"}
    # Only sums of the spiking network lie in the small memory beside few values of 4 bits.
    assert integer["small"].change > 0
    # Most weights are read by the quantised network.
    assert integer["large"].change < 0
    assert integer["dram"].change == 0
    assert integer["float32_add"].change == 0
    assert integer["sums of the spiking network"].change > 0
    of_floats = {s.what: s for s in price.sensitivities if s.numbers == "float32"}
    assert of_floats["float32_add"].change > 0
    assert of_floats["dram"].change > 0
    changes = [abs(s.change) for s in price.sensitivities]
    assert changes == sorted(changes, reverse=True)


def test_a_sensitivity_is_the_ratio_with_that_constant_alone() -> None:
    table = _table()
    price = energy(_counts(), table)
    (found,) = (s for s in price.sensitivities if (s.what, s.numbers) == ("small", "integer"))
    for end, ratio in (("low", found.at_low), ("usual", found.usual), ("high", found.at_high)):
        changed = copy.deepcopy(table)
        value = table["memory"]["small"][end]
        changed["memory"]["small"].update(low=value, usual=value, high=value)
        there = energy(_counts(), changed)
        ours = _usual(there, "with_memory", "spiking")
        assert ratio == pytest.approx(ours / _usual(there, "quantised_dense", "with_memory"))
    (at_hand,) = (
        s
        for s in price.sensitivities
        if (s.what, s.numbers) == ("sums of the spiking network", "integer")
    )
    # 430 sums are read and written, of 32 bits, at 0.5 pJ a bit.
    dense = _usual(price, "quantised_dense", "with_memory")
    assert at_hand.change == pytest.approx(2 * 430 * 32 * 0.5 / dense)
    assert at_hand.at_high == pytest.approx(at_hand.usual)


def test_the_text_names_on_what_the_answer_turns() -> None:
    counts = _counts(
        accumulates=100.0, additions=10.0, state_reads=300.0, state_writes=300.0, scalings=10.0
    )
    price = energy(counts, _table())
    turning = [s.what for s in price.sensitivities if s.turns and s.numbers == "integer"]
    assert turning
    assert f"turns on: {', '.join(turning)}." in str(price)
    sure = energy(_counts(scalings=1e6), _table())
    assert not [s for s in sure.sensitivities if s.turns and s.numbers == "integer"]
    assert "No constant or assumption alone turns" in str(sure)


def test_what_is_not_counted_is_listed() -> None:
    price = energy(_counts(not_counted={"layer_norm": 3}), _table())
    assert "3 calls of layer_norm" in str(price)
    for word in ("routing", "control", "leakage", "clock", "reuse of weights"):
        assert word in str(price)
    assert price.to_dict()["not_counted"] == list(price.not_counted)


def test_gates_are_noted() -> None:
    assert "gates" not in str(energy(_counts(), _table()))
    text = str(energy(_counts(gates=2), _table()))
    assert "those of 4 steps" in text and "3 tables" in text


def test_the_result_is_json_with_its_sources() -> None:
    content = json.loads(json.dumps(energy(_counts()).to_dict(), allow_nan=False))
    assert content["arithmetic"]["spiking"].keys() == {"float32", "integer"}
    assert content["arithmetic"]["original"].keys() == {"float32"}
    assert content["quantised_dense"]["with_memory"]["integer"].keys() == {"low", "usual", "high"}
    assert content["unit"] == "nJ"
    assert content["events_per_neuron"] == 0.6
    constants = content["costs"]["constants"]
    assert all("doi:" in c["source"] for c in constants.values())
    assert constants["float32_add"]["usual"] == 0.9


def test_large_energies_are_in_microjoules() -> None:
    assert "In nJ for one image" in str(energy(_counts()))
    counts = _counts()
    large = replace(counts, mean={q: v * 1e6 for q, v in counts.mean.items()})
    assert "In uJ for one image" in str(energy(large))


@pytest.mark.parametrize("name", known_costs())
def test_tables_of_the_package(name: str) -> None:
    costs = read_costs(name)
    assert costs.notes
    assert all(c.low < c.high for c in costs.constants.values())
    assert [c.size for c in costs.srams] == [8 << 10, 32 << 10, 1 << 20]
    assert costs.srams[-1].label == "1 MiB SRAM"
    # The rule by which products of K bits are priced meets the source's own figure of 32 bits.
    scaled = costs["int8_multiply"].usual * 16
    assert costs["int32_multiply"].low < scaled < costs["int32_multiply"].high


def test_names_paths_and_mappings_are_the_same(tmp_path: Path) -> None:
    assert {"45nm", "7nm"} <= set(known_costs())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(_table()), "utf-8")
    by_mapping = energy(_counts(), _table()).to_dict()
    for given in (path, str(path)):
        by_path = energy(_counts(), given).to_dict()
        assert by_path["with_memory"] == by_mapping["with_memory"]


def _without(part: str, key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda table: table[part].pop(key)


def _with(part: str, key: str, **changed: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda table: table[part][key].update(changed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("arithmetic", "int32_add"), "no entry for int32_add: add it"),
        (lambda table: table["arithmetic"].update(int16_ad={}), "int16_ad is no operation: name"),
        (_without("memory", "dram"), "no entry for a memory of kind 'dram'"),
        (lambda table: table.pop("memory"), "has no 'memory'"),
        (lambda table: table["arithmetic"].update(int32_add=0.1), "is float '0.1': give low"),
        (lambda table: table["arithmetic"]["int32_add"].pop("high"), "int32_add has no 'high'"),
        (_with("arithmetic", "float32_add", low=-1), "float32_add has low -1: give a finite"),
        (_with("arithmetic", "float32_add", high=math.inf), "float32_add has high inf"),
        (_with("memory", "small", usual=math.nan), "small has usual nan"),
        (_with("memory", "small", usual=True), "small has usual bool 'True'"),
        (_with("arithmetic", "int8_multiply", low=9), "low 9, usual 4, high 8: give them in this"),
        (_with("arithmetic", "int8_multiply", source=" "), "int8_multiply has no source"),
        (_with("arithmetic", "int8_multiply", unit="nJ"), "has unit 'nJ': give it in 'pJ'"),
        (_with("memory", "small", kind="flash"), "has kind 'flash': give 'sram' or 'dram'"),
        (_with("memory", "small", bytes=0), "small has bytes int '0'"),
        (_with("memory", "dram", bits=None), "dram has bits nothing"),
        (_with("memory", "small", kind="dram"), "2 memories of kind 'dram'"),
    ],
)
def test_a_table_that_cannot_be_used(change: Callable[[Any], Any], said: str) -> None:
    table = _table()
    change(table)
    with pytest.raises(InputError) as error:
        energy(_counts(), table)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_costs_that_are_no_table(tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{", "utf-8")
    a_list = tmp_path / "list.json"
    a_list.write_text("[]", "utf-8")
    for given, said in (
        ("3nm", "give one of 45nm, 7nm"),
        (tmp_path / "none.json", "can't be read"),
        (bad, "is no JSON"),
        (a_list, "not a mapping"),
        (4.6, "give a name (45nm, 7nm)"),
    ):
        with pytest.raises(InputError) as error:
            energy(_counts(), given)  # type: ignore[arg-type]
        assert said in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"accumulates": 1.0}, "takes OperationCounts, not dict"),
        (_counts(neurons=0), "have 0 neurons of 4 steps"),
        (_counts(steps=0), "have 100 neurons of 0 steps"),
        (_counts(mean={**_MEAN, "acumulates": 3.0}), "have 'acumulates': give one of events"),
        (_counts(scalings=math.nan), "have scalings nan"),
        (_counts(additions=-1.0), "have additions -1.0"),
        (_counts(state_reads=0.0, dense_values=0.0), "no state_reads, dense_values: count these"),
        (_counts(active_multiply_accumulates=2000.0), "2000 active multiply-accumulates of 1000"),
        (_counts(weights=-1), "have -1 weights"),
        (
            _counts(layers=[LayerCounts("fc", "linear", "spikes", {"acumulates": 1.0})]),
            "the counts of fc have 'acumulates': give one of",
        ),
        (
            _counts(layers=[LayerCounts("fc", "linear", "spikes", {"accumulates": 500.0})]),
            "have 500 accumulates in the layers and 400 in all",
        ),
    ],
)
def test_counts_that_cannot_be_priced(counts: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        energy(counts)
    assert said in str(error.value)


def test_a_row_that_does_not_exist() -> None:
    with pytest.raises(InputError, match=r"no row 'arithmetic' of 'original' in 'integer'"):
        energy(_counts()).cost("arithmetic", "original")


def test_keywords_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="memory='flash': give 'sram', 'dram', or None"):
        energy(_counts(), memory="flash")
    with pytest.raises(InputError, match="sum_bits=8: give 16 or 32"):
        energy(_counts(), sum_bits=8)


def _layer(name: str, op: str, inputs: str, macs: float = 0, reads: float = 0) -> LayerCounts:
    return LayerCounts(name, op, inputs, {"multiply_accumulates": macs, "weight_reads": reads})


_IMAGE = _layer("conv1", "conv2d", "analog", 50, 50)
_NEURONS = _layer("relu1", "neurons", "")
_ON_SPIKES = _layer("conv2", "conv2d", "spikes", 0, 80)
_PRODUCT = _layer("attention", "matmul", "analog", 10)
_SUMS = _layer("head", "linear", "sums", 10, 10)


def test_hardware_only_takes_spikes_and_the_first_layer() -> None:
    good = [_IMAGE, _NEURONS, _ON_SPIKES]
    there = energy(_counts(layers=good), hardware_only=True).to_dict()
    assert there == energy(_counts(layers=good)).to_dict()
    # Images that are encoded as spikes need no first layer.
    energy(_counts(layers=[_NEURONS, _ON_SPIKES]), hardware_only=True)


@pytest.mark.parametrize(
    ("layers", "left", "said"),
    [
        ([_IMAGE, _NEURONS, _PRODUCT], {}, "attention (matmul on analog):"),
        ([_PRODUCT, _NEURONS], {}, "attention (matmul on analog):"),
        ([_IMAGE, _SUMS, _NEURONS], {}, "head (linear on sums):"),
        ([_IMAGE, _IMAGE, _NEURONS], {}, "conv1 (conv2d on analog):"),
        ([_NEURONS, _IMAGE], {}, "conv1 (conv2d on analog):"),
        ([_IMAGE, _NEURONS], {"layer_norm": 2}, "layer_norm (2 calls):"),
        ([_NEURONS] + 5 * [_PRODUCT], {"amax": 1}, "and 3 more:"),
        ([], {}, "needs counts by layer"),
    ],
)
def test_hardware_only_refuses(layers: list[LayerCounts], left: dict[str, int], said: str) -> None:
    counts = _counts(layers=layers, not_counted=left)
    energy(counts)
    with pytest.raises(InputError) as error:
        energy(counts, hardware_only=True)
    assert said in str(error.value)
    assert str(error.value).count("attention") <= 3
