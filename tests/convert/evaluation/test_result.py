"""A result as a table, a dict, a JSON file."""

import copy
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import Evaluation, SpikingModel, evaluate
from convert.evaluation.rows import ClassMeasures, ClassSite, SiteErrorRow

_FIGURES = {"accuracy", "agreement", "logit_rmse"}


@pytest.fixture(scope="module")
def result(converted: SpikingModel, small_model: nn.Module, noise: Tensor) -> Evaluation:
    data = [(noise, torch.arange(48) % 4)]
    return evaluate(converted, small_model, data, by_site=8, progress=False)


def test_the_keys_of_the_report(result: Evaluation) -> None:
    found = result.to_dict(model="small")
    assert next(iter(found)) == "model"
    assert set(found) == {"model", *result.report.to_dict()} | {
        "metric", "images", "original", "spiking", "by_step", "by_K", "by_site", "by_site_images",
        "seconds",
    }  # fmt: skip
    assert set(found["original"]) == {"accuracy"}
    spikes = {"neurons", "spikes_per_image", "spikes_per_neuron", "spike_driven"}
    assert set(found["spiking"]) == _FIGURES | spikes
    assert set(found["by_step"][0]) == _FIGURES | {"step", "spikes_per_neuron", "raw"}
    assert set(found["by_step"][0]["raw"]) == {"accuracy", "agreement"}
    assert set(found["by_K"][0]) == _FIGURES | {"steps", "spikes_per_neuron", "latency_steps"}
    assert set(found["by_site"][0]) == {
        "name", "logit_rmse", "agreement", "accumulated_logit_rmse", "accumulated_agreement",
    }  # fmt: skip
    assert found["by_site_images"] == 8 and found["metric"] == "agreement"
    for site in found["sites"]:
        assert site["spikes_per_neuron"] == result.spikes_per_neuron[site["name"]] > 0
    assert {"capture", "evaluate_original", "evaluate_spiking"} <= set(found["seconds"])


def test_types_are_plain(result: Evaluation) -> None:
    found = result.to_dict()
    assert type(found["metric"]) is str
    assert type(found["by_step"]) is list and type(found["by_step"][0]["raw"]) is dict
    assert json.loads(json.dumps(found)) == found


def test_written_whole_with_a_picture(result: Evaluation, tmp_path: Path) -> None:
    result.to_json(tmp_path / "deep" / "report.json", model="small")
    result.plot(tmp_path / "deep" / "steps.png")
    found = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert found["model"] == "small"
    assert found["spiking"] == result.spiking
    assert (tmp_path / "deep" / "steps.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["report.json", "steps.png"]


def test_headings_are_copied_and_pickled(result: Evaluation) -> None:
    assert pickle.loads(pickle.dumps(result.shown)) == copy.deepcopy(result.shown) == result.shown
    assert result.shown.axis("logit_rmse") == "logit RMSE (lower is better)"


def test_what_is_not_finite_is_null_and_a_dash(result: Evaluation, tmp_path: Path) -> None:
    measures = ClassMeasures(0.5, 0.75, None, without_prediction=3)
    step = replace(result.by_step[-1], measures=measures)
    broken = replace(
        result,
        by_step=(step,),
        spiking=replace(result.spiking, measures=measures),
        seconds={"evaluate_spiking": math.nan},
    )
    broken.to_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["spiking"]["logit_rmse"] is None and found["seconds"]["evaluate_spiking"] is None
    row = next(line for line in str(broken).splitlines() if line.strip().startswith("5 "))
    assert row.split()[:4] == ["5", "0.5000", "0.7500", "-"]
    assert "count as no agreement and not correct: step 5 3\n" in str(broken)
    assert "count as no agreement" not in str(result)


def test_sites_that_add_most(result: Evaluation) -> None:
    def rows(*errors: float | None) -> tuple[SiteErrorRow, ...]:
        sites = [ClassSite(error, 1.0) for error in errors]
        return tuple(SiteErrorRow(f"s{i}", site, site) for i, site in enumerate(sites))

    shown = str(replace(result, by_site=rows(0.1, None, 0.3, 0.0, 0.2, 0.25)))
    assert "(logit RMSE): s1 -, s2 0.3000, s5 0.2500, s4 0.2000, s0 0.1000\n" in shown
    for sites in (rows(), rows(None, None)):
        assert "add most" not in str(replace(result, by_site=sites))


def test_copied_and_pickled(result: Evaluation) -> None:
    for again in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert again.to_dict() == result.to_dict() and str(again) == str(result)
        assert again.report is not result.report
