"""CIFAR networks, a diffusion and a language model, torchvision's models, and images."""

from .byte_llama import byte_llama
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
    "byte_llama",
    "check_source",
    "ddpm_digits",
    "get",
    "load_images",
    "names",
    "preprocessing",
    "shipped",
    "with_options",
]
