"""Batches in the form that the whole model takes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from convert.calls.batch_forms import Given
from convert.parts.whole_calls import WholeCall, image_count, reader_for

IMAGES = [torch.rand(3, 4, 5), torch.rand(3, 6, 4)]
STACK = torch.rand(7, 3, 4, 4)


class Lists(nn.Module):
    """Takes a list of images, as detectors do."""

    def forward(self, images: list[Tensor], targets: Any = None) -> Tensor:
        assert isinstance(images, list) and all(image.dim() == 3 for image in images)
        return torch.stack([image.mean() for image in images])


class Stacks(nn.Module):
    """Takes a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1)


def _read(model: nn.Module, batch: Any) -> Given:
    def call(given: Given) -> Any:
        return model(*given.args, **given.kwargs)

    return reader_for(model, batch, call).read(batch)


@pytest.mark.parametrize(
    ("model", "batch", "images", "label"),
    [
        (Lists(), IMAGES, 2, None),
        (Lists(), (IMAGES, ["a", "b"]), 2, ["a", "b"]),
        (Lists(), (tuple(IMAGES), ["a", "b"]), 2, ["a", "b"]),
        (Lists(), IMAGES[0], 1, None),
        (Stacks(), STACK, 7, None),
        (Stacks(), {"x": STACK}, 7, None),
    ],
    ids="list,with targets,tuple,one image,stack,dict".split(","),
)
def test_a_batch_is_given_as_the_model_calls_for_it(
    model: nn.Module, batch: Any, images: int, label: Any
) -> None:
    given = _read(model, batch)
    assert image_count(given) == images and given.label == label
    assert model(*given.args, **given.kwargs).shape == (images,)


def test_labels_of_a_tensor_are_no_image() -> None:
    given = _read(Stacks(), (STACK, torch.arange(7)))
    assert torch.equal(given.label, torch.arange(7)) and given.args[0] is STACK


def test_a_packed_sequence_stays_whole() -> None:
    packed = pack_padded_sequence(torch.rand(3, 5, 2), torch.tensor([5, 4, 2]), batch_first=True)

    class Sums(nn.Module):
        def forward(self, x: PackedSequence) -> Tensor:
            return x.data.sum(0)

    given = _read(Sums(), (packed, torch.arange(3)))
    assert given.args == (packed,) and image_count(given) == 3
    assert torch.equal(given.label, torch.arange(3))


def test_the_whole_is_never_cut() -> None:
    signature = WholeCall.by(Lists(), lists=True)
    assert signature.whole and signature.names == ("images", "targets")
    assert signature.images(signature.flatten((IMAGES,), {})) == 2
