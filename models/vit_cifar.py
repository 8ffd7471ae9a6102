"""Small vision transformers for CIFAR, on torchvision's VisionTransformer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer


class StemGELU(nn.GELU):
    """GELU that accepts the `inplace` that torchvision's convolutional stem passes."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()


def _with_activation(model: nn.Module, activation: Callable[[], nn.Module] | None) -> nn.Module:
    if activation is not None:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.GELU):
                    setattr(parent, name, activation())
    return model


def vit_tiny(classes: int = 10, activation: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Four layers of width 128 on 4x4 patches; GELU; 0.56 million parameters.

    Takes ``[N, 3, 32, 32]``, returns ``[N, classes]``.
    """
    model = VisionTransformer(
        image_size=32,
        patch_size=4,
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=256,
        num_classes=classes,
    )
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return _with_activation(model, activation)


def vit_small(classes: int = 10, activation: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Five layers of width 128 behind a convolutional stem; GELU; 1.0 million parameters.

    Three of the stem's four 3x3 convolutions have stride 2, so 4x4 tokens enter the transformer
    (a convolutional stem: Xiao et al. 2021, arXiv 2106.14881). Takes ``[N, 3, 32, 32]``, returns
    ``[N, classes]``.
    """
    stem = partial(
        ConvStemConfig, kernel_size=3, norm_layer=nn.BatchNorm2d, activation_layer=StemGELU
    )
    model = VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=5,
        num_heads=4,
        hidden_dim=128,
        mlp_dim=256,
        num_classes=classes,
        conv_stem_configs=[
            stem(out_channels=48, stride=1),
            stem(out_channels=96, stride=2),
            stem(out_channels=128, stride=2),
            stem(out_channels=160, stride=2),
        ],
    )
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return _with_activation(model, activation)
