"""The runs of an evaluation: each once, in its own context, cut into pieces that fit a cache."""

import pytest
import torch
from torch import Tensor, nn

from convert import SpikingModel
from convert.evaluation.classes import Agreement
from convert.evaluation.runs import Batch, device_of, eval_mode, planned, run_all

_CPU = torch.device("cpu")


def test_the_plan(converted: SpikingModel) -> None:
    plan = planned(converted, Agreement(), [2, 5])
    assert list(plan.readouts) == list(plan.raw) == [2, 5] and list(plan.refits) == [3]
    # The whole network is its own raw readout; there is no neuron on an operand to leave out.
    assert plan.raw[5] is plan.readouts[5] is plan.whole and plan.bare is None
    assert len(plan.runs) == 4
    assert [run.counted for run in plan.runs] == [True, True, False, True]
    assert converted.longest == 5


def test_every_run_is_what_its_context_gives(converted: SpikingModel, noise: Tensor) -> None:
    plan = planned(converted, Agreement(), [2, 5])
    with torch.no_grad():
        expected = converted(noise)
        for part in noise.split(20):
            batch = Batch(((part,), {}), {"output": converted(part)}, None)
            run_all(converted, plan, batch, _CPU)
        for run in plan.runs:
            with run.within(), converted.count_spikes() as spikes:
                found = converted(noise)
            assert run.spikes == (spikes if run.counted else {})
            alone = Agreement()
            alone.add({"output": found}, {"output": expected}, None)
            assert run.measure.values.agreement == alone.values.agreement
            assert run.measure.values.logit_rmse == pytest.approx(
                alone.values.logit_rmse, rel=1e-4, abs=1e-9
            )
    assert plan.whole.measure.values.logit_rmse == pytest.approx(0, abs=1e-6)
    assert plan.raw[2].measure.values.logit_rmse > plan.readouts[2].measure.values.logit_rmse > 0


@pytest.mark.parametrize(("size", "count"), [(48, 1), (252, 3)])
def test_pieces(converted: SpikingModel, noise: Tensor, size: int, count: int) -> None:
    images = noise.repeat(6, 1, 1, 1)[:size]
    whole = Batch(((images,), {"scale": 2.0}), {"output": images[:, 0]}, torch.arange(size))
    pieces = list(whole.pieces(converted, size, _CPU))
    assert len(pieces) == count
    assert torch.equal(torch.cat([piece.inputs[0][0] for piece in pieces]), images)
    assert torch.equal(torch.cat([piece.expected["output"] for piece in pieces]), images[:, 0])
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    assert torch.equal(torch.cat(labels), torch.arange(size))
    assert all(piece.inputs[1] == {"scale": 2.0} for piece in pieces)


def test_a_batch_without_labels_has_pieces_without(converted: SpikingModel, noise: Tensor) -> None:
    whole = Batch(((noise.repeat(4, 1, 1, 1),), {}), {}, None)
    pieces = list(whole.pieces(converted, 192, _CPU))
    assert [piece.labels for piece in pieces] == [None, None]


def test_modes_come_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    model[1].eval()
    with pytest.raises(RuntimeError, match="inside"), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_model_without_tensors_is_on_the_cpu() -> None:
    assert device_of(nn.ReLU()) == _CPU
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
