"""Errors site by site: each alone, and all up to it."""

import copy

import pytest
import torch
from torch import Tensor

from convert import SpikingModel
from convert.evaluation.by_site import errors_by_site
from convert.evaluation.classes import Agreement


def _error(snn: SpikingModel, sites: list[str], images: Tensor) -> float:
    with torch.no_grad():
        with snn.spiking_only(()):
            reference = snn(images)
        with snn.spiking_only(sites):
            difference = snn(images) - reference
    return float(difference.norm() / (reference - reference.mean(1, keepdim=True)).norm())


def test_each_alone_and_all_up_to_it(converted: SpikingModel, noise: Tensor) -> None:
    kept = [(((part,), {}), None) for part in noise.split(20)]
    silu, act = errors_by_site(converted, kept, Agreement(), progress=False)
    assert (silu.name, act.name) == ("silu", "act")
    assert silu.logit_rmse == pytest.approx(_error(converted, ["silu"], noise), rel=1e-4)
    assert act.logit_rmse == pytest.approx(_error(converted, ["act"], noise), rel=1e-4)
    both = _error(converted, ["silu", "act"], noise)
    assert act.accumulated_logit_rmse == pytest.approx(both, rel=1e-4)
    # The first site's accumulated error is its own.
    assert silu.accumulated == silu.own and act.accumulated != act.own


def test_a_broken_site_is_shown_as_the_culprit(converted: SpikingModel, noise: Tensor) -> None:
    snn = copy.deepcopy(converted)
    snn.sites["act"].weights.mul_(-3)
    silu, act = errors_by_site(snn, [(((noise,), {}), None)], Agreement(), progress=False)
    assert act.logit_rmse > 10 * silu.logit_rmse
    snn.sites["act"].weights.mul_(torch.nan)
    _, act = errors_by_site(snn, [(((noise,), {}), None)], Agreement(), progress=False)
    assert act.logit_rmse is None and act.agreement == 0 and act["without_prediction"] == 48
