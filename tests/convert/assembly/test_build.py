"""From what calibration saw to the network: what is fitted, and what the network says of it."""

import dataclasses
import pickle

import pytest
import torch
from torch import Tensor, nn

from convert import ConversionSettings, SpikingModel, to_spiking
from convert.assembly import kept_fits
from convert.assembly.build import build
from convert.assembly.calibrated import Calibrated
from convert.assembly.site_numbers import by_site, gates_of
from convert.calibration.observe import calibrate
from convert.capture.capture import capture
from convert.fitting.problem import Problem
from convert.sites.find import find_sites


@pytest.fixture(scope="module")
def fixed(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """One of two K is also that of a site which has its own; not to be changed."""
    settings = {"per_site_steps": {"act": 5}, "method": "binary", "progress": False}
    return to_spiking(small_model, noise, steps=[3, 5], **settings)


def test_a_network_is_known_by_the_first_of_its_steps(fixed: SpikingModel) -> None:
    assert fixed.fitted_as == fixed.steps == fixed.report.steps == 3 and fixed.longest == 5
    assert list(fixed.refitted) == ["5"]
    assert {name: neuron.steps for name, neuron in fixed.sites.items()} == {"silu": 3, "act": 5}
    with fixed.with_steps(5):
        assert {neuron.steps for neuron in fixed.sites.values()} == {5}
    assert [row.steps for row in fixed.report.corrections] == [3, 5]
    assert set(fixed.corrections.held.values()) <= {"3"}


def test_the_report_keeps_the_settings(fixed: SpikingModel) -> None:
    expected = ConversionSettings(steps=[3, 5], per_site_steps={"act": 5}, method="binary")
    assert fixed.report.settings == expected
    data = fixed.report.to_dict()
    assert data["settings"] == expected.to_dict()
    assert (data["steps"], data["method"], data["seed"]) == (3, "binary", 0)
    # Only a graph's nodes can't be pickled.
    plain = dataclasses.replace(fixed.report, operations=[])
    assert pickle.loads(pickle.dumps(plain)) == plain


def test_every_fit_is_made_once(
    small: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[str, int]] = []
    solve = kept_fits.fit_problems

    def counted(problems: list[Problem], *args: object, **settings: object) -> object:
        fitted.extend((problem.name, problem.steps) for problem in problems)
        return solve(problems, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(kept_fits, "fit_problems", counted)
    captured = capture(small, images)
    sites = find_sites(captured.graph_module)
    settings = ConversionSettings(steps=[3, 5], per_site_steps={"act": 5}, method="binary")
    source = Calibrated(
        captured,
        sites,
        calibrate(captured, sites, [images]),
        by_site(sites, settings.per_site_steps, "per_site_steps"),
        gates_of(sites, settings),
        None,
    )
    seconds: dict[str, float] = {}
    snn = build(source, settings, seconds=seconds)
    assert fitted == [("silu", 3), ("act", 5), ("silu", 5)]
    assert set(seconds) == {"compile", "fit"} and snn.report.seconds is seconds
    # One solution, but a neuron of its own for every K: each is corrected by itself.
    assert snn.sites["act"] is not snn.refitted["5"]["act"]
    assert torch.equal(snn.sites["act"].thresholds, snn.refitted["5"]["act"].thresholds)
