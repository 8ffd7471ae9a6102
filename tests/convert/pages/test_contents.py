import ast
from dataclasses import replace

import pytest
from torch import Tensor, nn

from convert import Conversion, to_spiking
from convert.fitting.problem import Start
from convert.inspect.energy_report import Range
from convert.pages.contents import STARTS, contents_of, cost_text, energy_table


def test_every_start_is_explained() -> None:
    assert set(STARTS) == set(map(str, Start))


def test_the_sites_have_their_errors_and_events(whole: Conversion) -> None:
    page, result = contents_of(whole), whole.result
    assert result is not None
    assert [line.row for line in page.sites] == whole.report.sites
    for line, row in zip(page.sites, result.by_site, strict=True):
        assert line.alone == row["logit_rmse"]
        assert line.accumulated == row["accumulated_logit_rmse"]
        assert line.events == result.spikes_per_neuron[row.name]
        assert line.curve is not None
    assert page.error_name == "logit RMSE" and page.most_steps == 5
    assert page.starts.keys() == {"binary"}
    assert set(page.versions) == {"python", "fewspikes", "torch", "numpy", "spikingjelly"}
    assert {"capture", "evaluate_spiking"} <= set(page.seconds)


def test_the_call_makes_the_same_settings(small: nn.Module, images: Tensor) -> None:
    snn = to_spiking(
        small, images, steps=3, method="binary", per_site_steps={"act": 2}, sequential=False,
        seed=4, progress=False,
    )  # fmt: skip
    call = contents_of(Conversion(snn)).call
    names = {"to_spiking": lambda model, calibration, **given: given, "model": 0, "calibration": 0}
    given = eval(compile(ast.parse(call, mode="eval"), "call", "eval"), names)
    again = to_spiking(small, images, **given, progress=False)
    assert again.report.settings == snn.report.settings
    assert "effort" not in given


def test_a_network_without_settings(whole: Conversion) -> None:
    import copy

    snn = copy.deepcopy(whole.snn)
    snn.report = replace(snn.report, settings=None)
    page = contents_of(Conversion(snn))
    assert page.settings == {} and page.call.startswith("to_spiking(model, calibration, steps=5")


def test_energy_is_in_a_unit_that_suits(whole: Conversion) -> None:
    assert whole.energy is not None
    small = energy_table(whole.energy)
    assert small.unit == "nJ"
    rows = [
        replace(r, cost=Range(*(1e6 * v for v in (r.cost.low, r.cost.usual, r.cost.high))))
        for r in whole.energy.rows
    ]
    large = energy_table(replace(whole.energy, rows=rows))
    assert large.unit == "µJ"
    for ours, theirs in zip(large.lines, small.lines, strict=True):
        assert ours.name == theirs.name
        if ours.integer is not None and theirs.integer is not None:
            assert ours.integer.usual == pytest.approx(1e3 * theirs.integer.usual)
            bar = large.bar(ours.integer)
            assert 0 <= float(bar["x"]) <= float(bar["usual"]) <= 100
    assert large.bar(Range(0, 0, 1)) == {}
    names = [line.name for line in small.lines]
    assert "spiking, with memory" in names and "quantised, every value, arithmetic only" in names
    assert cost_text(None) == "–" and cost_text(Range(1, 2, 3)) == "2 (1 to 3)"
