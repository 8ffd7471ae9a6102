"""Errors relative to the reference's spread, whatever the batches."""

import pytest
import torch
from torch import Tensor

from convert.errors import InputError
from convert.evaluation.relative_error import RelativeError, Spread


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    reference = torch.randn(60, 3, generator=random) + 100
    return reference + 0.3 * torch.randn(60, 3, generator=random), reference


def test_logits_around_each_images_mean(pair: tuple[Tensor, Tensor]) -> None:
    found, reference = pair
    error = RelativeError()
    for part in zip(found.split(7), reference.split(7), strict=True):
        error.add(*part)
    centred = reference.double() - reference.double().mean(1, keepdim=True)
    expected = (found.double() - reference.double()).norm() / centred.norm()
    assert error.value == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("shape", [(60, 1), (15, 1, 2, 2)])
def test_one_logit_around_the_mean_over_the_images(
    pair: tuple[Tensor, Tensor], shape: tuple[int, ...]
) -> None:
    found, reference = (tensor[:, :1].reshape(shape).double() for tensor in pair)
    error = RelativeError()
    for part in zip(found.split(4), reference.split(4), strict=True):
        error.add(*part)
    expected = (found - reference).norm() / (reference - reference.mean()).norm()
    assert error.value == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("classes", [1, 3])
def test_no_value_is_none(classes: int) -> None:
    ones = torch.ones(4, classes)
    for found, reference, expected in (
        (ones, ones, 0.0),
        (2 * ones, ones, None),
        (torch.nan * ones, ones, None),
        (torch.inf * ones, ones, None),
        (torch.inf * ones, torch.inf * ones, None),
    ):
        error = RelativeError()
        error.add(found, reference)
        assert error.value == expected


def test_an_output_with_other_axes_is_refused() -> None:
    spread = Spread("output")
    spread.add(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(InputError, match=r"output was \[3\].*\[3, 1\]"):
        spread.add(torch.ones(2, 3, 1), torch.ones(2, 3, 1))


@pytest.mark.parametrize("order", [1, -1])
def test_the_mean_is_over_axes_that_vary(order: int) -> None:
    """Texts of several lengths: the mean is that of each channel over images and positions."""
    random = torch.Generator().manual_seed(0)
    shapes = [(4, 5, 3), (2, 5, 3), (3, 7, 3), (1, 2, 3)][::order]
    exact = [torch.randn(shape, generator=random) * 2 + torch.arange(3) * 50 for shape in shapes]
    found = [part + 0.3 * torch.randn(part.shape, generator=random) for part in exact]
    spread = Spread("output")
    for pair in zip(found, exact, strict=True):
        spread.add(*pair)
    rows = torch.cat([part.reshape(-1, 3) for part in exact]).double()
    other = torch.cat([part.reshape(-1, 3) for part in found]).double()
    expected = (other - rows).norm() / (rows - rows.mean(0)).norm()
    assert spread.varies and spread.relative_error == pytest.approx(float(expected), rel=1e-9)


def test_axes_that_vary_one_after_the_other() -> None:
    random = torch.Generator().manual_seed(1)
    exact = [torch.randn(2, 3, h, w, generator=random) + 9 for h, w in ((4, 4), (4, 6), (5, 4))]
    spread = Spread("output")
    for part in exact:
        spread.add(part * 1.1, part)
    rows = torch.cat([part.movedim(1, -1).reshape(-1, 3) for part in exact]).double()
    expected = 0.1 * rows.norm() / (rows - rows.mean(0)).norm()
    assert spread.relative_error == pytest.approx(float(expected), rel=1e-5)


def test_one_number_without_dimensions_is_one_image() -> None:
    spread = Spread("output")
    for value in (1.0, 3.0):
        spread.add(torch.tensor(value + 0.5), torch.tensor(value))
    assert spread.count == 2 and spread.relative_error == pytest.approx(0.5)
