"""CIFAR networks, a diffusion model, torchvision's models by their own names, and images."""

from .data import Images, check_source, load_images
from .ddpm import ddpm_digits
from .errors import DataError, ModelError
from .preprocessing import Preprocessing
from .registry import ACTIVATIONS, get, names, preprocessing, shipped, with_options

__all__ = [
    "ACTIVATIONS",
    "DataError",
    "Images",
    "ModelError",
    "Preprocessing",
    "check_source",
    "ddpm_digits",
    "get",
    "load_images",
    "names",
    "preprocessing",
    "shipped",
    "with_options",
]
