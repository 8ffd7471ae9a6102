"""Whole pixels in normalised images."""

import torch
from torch import Tensor

from convert.hardware.images import pixels_of

_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def _images(levels: int = 256) -> tuple[Tensor, Tensor]:
    p = torch.randint(0, levels, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return p, (p.float() / 255 - _MEAN.view(3, 1, 1)) / _STD.view(3, 1, 1)


def test_pixels_are_found() -> None:
    p, x = _images()
    found = pixels_of([x[:10], x[10:]])
    assert found is not None and found.levels == 256
    back = (x.double() - found.base.view(3, 1, 1)) / found.step.view(3, 1, 1)
    lowest = p.amin((0, 2, 3)).view(3, 1, 1)
    assert torch.equal(torch.round(back).long(), p - lowest)
    assert torch.allclose(found.step, 1 / (255 * _STD.double()), rtol=1e-5)
    # The pixel nearest to 0.
    assert (found.base + found.step * found.zero).abs().max() <= found.step.max() / 2


def test_other_images_have_none() -> None:
    _, x = _images()
    noise = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert pixels_of([noise]) is None
    assert pixels_of([torch.cat([x[:, :2], noise[:, :1]], 1)]) is None
    assert pixels_of([torch.zeros(4, 3, 8, 8)]) is None
    assert pixels_of([x.where(x > x.min(), torch.nan)]) is None
    assert pixels_of([x[:, :, 0, 0]]) is None and pixels_of([]) is None
