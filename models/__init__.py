"""Models by name, of this package, a library or a file of yours, and images and texts for them."""

from .corrupt import OnCorrupt
from .data import Images, Loader, check_source, load_images, open_images
from .ddpm import ddpm_digits
from .errors import DataError, ModelError, NoPreprocessingError
from .preprocessing import Preprocessing, with_options
from .registry import ACTIVATIONS, get, names, prepared, preprocessing, shipped
from .specs import short_name
from .text import TextPreprocessing, load_texts

__all__ = [
    "ACTIVATIONS",
    "DataError",
    "Images",
    "Loader",
    "ModelError",
    "NoPreprocessingError",
    "OnCorrupt",
    "Preprocessing",
    "TextPreprocessing",
    "check_source",
    "ddpm_digits",
    "get",
    "load_images",
    "load_texts",
    "names",
    "open_images",
    "prepared",
    "preprocessing",
    "shipped",
    "short_name",
    "with_options",
]
