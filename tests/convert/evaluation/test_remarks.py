"""What an evaluation says against its own figures, and of how it read the data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import Evaluation, InputError, SpikingModel, evaluate, to_spiking


def result(snn: SpikingModel, model: nn.Module | None, data: Any, **options: Any) -> Evaluation:
    return evaluate(snn, model, data, at=[], by_site=0, progress=False, **options)


def test_nothing_is_said_of_plain_data(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    found = result(converted, small, [(images, labels)])
    assert found.notes == () and "evaluation_notes" not in found.to_dict()
    assert "note:" not in str(found)


def test_labels_of_another_data_set(
    converted: SpikingModel, small: nn.Module, images: Tensor
) -> None:
    with torch.no_grad():
        predicted = small(images).argmax(1)
    right = int(predicted[0])
    kept = predicted == right
    wrong = torch.full((int(kept.sum()),), (right + 1) % 4)
    with pytest.warns(UserWarning, match=f"labels are {(right + 1) % 4}, it predicts {right};"):
        found = result(converted, small, [(images[kept], wrong)])
    assert found.original.accuracy == 0 and "no label's class" in str(found)
    assert "no label's class" in found.to_dict()["evaluation_notes"][0]


def test_images_without_labels_and_without_a_class(
    converted: SpikingModel, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    labels[2] = -1
    found = result(converted, small, [(images[:20], labels[:20]), images[20:]])
    assert found.labelled_images == 19 and found.images == 48
    told = " ".join(found.notes)
    assert "28 of 48 images have no label" in told and "1 images have a label that stands" in told


def test_images_with_nan(converted: SpikingModel, small: nn.Module, images: Tensor) -> None:
    images[5:8, 0, 2] = torch.nan
    with pytest.warns(UserWarning, match="3 of 48 images hold NaN"):
        found = result(converted, small, [images[:6], images[6:]])
    assert found.spiking.agreement <= 45 / 48 and found.original.without_prediction == 3


def test_another_original(converted: SpikingModel, small: nn.Module, images: Tensor) -> None:
    other = copy.deepcopy(small)
    nn.init.normal_(other.head.weight)
    with pytest.warns(UserWarning, match="differ by .*snn.original.*another model"):
        result(converted, other, images)
    assert result(converted, None, images, metric="agreement").notes == ()


def test_positions_are_said_to_be_no_classes(images: Tensor) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.line(x[:, 0]))

    model = Tokens().eval()
    snn = to_spiking(model, images, steps=2, method="binary", progress=False)
    classes = result(snn, model, images, metric="agreement")
    assert "axis 1 of the outputs [N, 8, 5]" in str(classes)
    assert result(snn, model, images, metric="output").notes == ()


@pytest.mark.parametrize(
    "order", ["model first", "data second", "data first", "model last", "twice"]
)
def test_swapped_arguments_are_one_line(
    converted: SpikingModel, small: nn.Module, images: Tensor, order: str
) -> None:
    given = {
        "model first": (small, converted, images),
        "data second": (converted, images, small),
        "data first": (images, converted, small),
        "model last": (converted, None, small),
        "twice": (converted, converted, images),
    }[order]
    with pytest.raises(InputError, match=r"\(snn, model, data\)|as its own original") as caught:
        evaluate(*given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [5, 4])
def test_images_with_nan_are_counted_along_their_axis(length: int) -> None:
    class Sequences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.line(x)).mean(0)

    torch.manual_seed(0)
    model, x = Sequences().eval(), torch.randn(length, 4, 6)
    snn = to_spiking(model, x, steps=2, method="binary", batch_axis=1, progress=False)
    x = x.clone()
    x[:, 2] = torch.nan
    with pytest.warns(UserWarning, match="1 of 4 images hold NaN"):
        result(snn, model, [x])
