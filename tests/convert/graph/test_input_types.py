"""Inputs of another type than the model's are cast only where the model refuses them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from convert import InputError, evaluate, load, refit, to_spiking
from convert.graph.input_types import as_taken


class Careful(nn.Linear):
    """Takes any type, and reads bytes as shares."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype) / 255)


def taken(model: nn.Module, x: Tensor) -> tuple[torch.dtype, list[str]]:
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args, _ = as_taken(model, (x,), {}, notes)
    return args[0].dtype, notes


def test_what_a_model_takes_is_left_alone() -> None:
    for x in (torch.ones(6, 4).double(), torch.ones(6, 4).byte()):
        assert taken(Careful(4, 2), x) == (x.dtype, [])
    assert taken(nn.Embedding(9, 2), torch.ones(6, 4).byte().long()) == (torch.int64, [])


@pytest.mark.parametrize("own", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float64, torch.float16, torch.uint8])
def test_the_rest_is_cast_with_a_note(own: torch.dtype, given: torch.dtype) -> None:
    found, notes = taken(nn.Linear(4, 2).to(own), torch.ones(6, 4).to(given))
    assert found == own and len(notes) == (own != given)
    for note in notes:
        assert str(own) in note and ("not scaled" in note) == (given == torch.uint8)


def test_what_can_not_help_is_left_undone() -> None:
    assert taken(nn.Linear(4, 2), torch.ones(6, 5).double()) == (torch.float64, [])
    assert taken(nn.Linear(4, 2), torch.ones(6, 4).int()) == (torch.int32, [])


def test_bytes_all_the_way(tmp_path: Path) -> None:
    small = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    images = torch.randint(0, 256, (48, 4), dtype=torch.uint8)
    images[0, 0] = 255
    with pytest.warns(UserWarning, match="not scaled to 0..1"):
        snn = to_spiking(small, [images], steps=2, method="binary", progress=False)
    assert any("not scaled" in note for note in snn.report.notes)
    snn.save(tmp_path / "bytes.fsnn")
    back = load(tmp_path / "bytes.fsnn")
    result = evaluate(back, small, images, at=[], by_site=0, progress=False)
    assert any("not scaled" in note for note in result.notes)
    shares = to_spiking(small, images / 255, steps=2, method="binary", progress=False)
    for call in (lambda: evaluate(shares, None, images), lambda: refit(shares, images)):
        with pytest.raises(
            InputError, match=r"uint8 up to 255.*calibrated on values from 0.* to 1;"
        ):
            call()
