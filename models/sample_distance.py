"""How far a set of drawn images is from another, on features of a classifier of such images.

The usual features, Inception's, come from a network that must be downloaded and knows photographs.
Digits are compared on those of `resnet8_digits`, which was trained on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Images
from .preprocessing import Preprocessing
from .resnet_cifar import ResNetCifar

_BATCH = 250
# Of the probability of its class, from which an image counts as recognised.
SURE = 0.9


@dataclass(frozen=True)
class Seen:
    """What a classifier makes of images.

    Args:
        features: what its last layer takes, float64 ``[N, D]``.
        classes: the class it predicts, ``[N]``.
        probability: of that class, ``[N]``.
    """

    features: Tensor
    classes: Tensor
    probability: Tensor

    @property
    def recognised(self) -> float:
        """Share of images of whose class the classifier is sure: probability at least 0.9."""
        return float((self.probability >= SURE).double().mean())


def pixels(images: Tensor) -> Images:
    """Images ``[N, C, H, W]`` in -1..1 as uint8 pictures; they have no labels, so all are 0."""
    values = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    x = values.permute(0, 2, 3, 1).cpu().numpy()
    return Images(x, torch.zeros(len(x), dtype=torch.long).numpy(), "drawn images")


def look(classifier: nn.Module, preprocessing: Preprocessing, images: Images) -> Seen:
    """Runs a classifier on images.

    Args:
        classifier: a `ResNetCifar` in eval mode.
        preprocessing: its own.
        images: to look at.
    """
    assert isinstance(classifier, ResNetCifar)
    inputs: list[Tensor] = []
    handle = classifier.linear.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        with torch.no_grad():
            logits = torch.cat([classifier(x) for x, _ in images.batches(preprocessing, _BATCH)])
    finally:
        handle.remove()
    probability, classes = F.softmax(logits.double(), 1).max(1)
    return Seen(torch.cat(inputs).double(), classes, probability)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of two normal distributions with the sets' means and covariances.

    The formula of FID (Heusel et al. 2017, arXiv 1706.08500), on features ``[N, D]``, ``[M, D]``.
    """
    difference = a.mean(0) - b.mean(0)
    first, second = torch.cov(a.T), torch.cov(b.T)
    # Trace of the root of a product, by the eigenvalues of a symmetric matrix that has the same.
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    return float(difference @ difference + first.trace() + second.trace() - 2 * mixed)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under ``(x . y / D + 1)^3``.

    The formula of KID (Binkowski et al. 2018, arXiv 1801.01401), on features ``[N, D]``,
    ``[M, D]``; around 0, and so at times below, for two draws of one distribution. Sets of one
    size may be drawn from the same noise: a pair of images from one noise is left out, as an
    image with itself is (Gretton et al. 2012, lemma 6, equation 4).
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def unpaired(x: Tensor, y: Tensor) -> float:
        k = kernel(x, y)
        if len(x) != len(y):
            return float(k.mean())
        return float((k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1)))

    return unpaired(a, a) + unpaired(b, b) - 2 * unpaired(a, b)
