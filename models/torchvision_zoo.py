"""torchvision's models by name, with the preprocessing of their weights."""

from __future__ import annotations

from difflib import get_close_matches

import torchvision
from torch import nn
from torchvision.transforms._presets import ImageClassification, SemanticSegmentation

from .errors import ModelError, NoPreprocessingError
from .preprocessing import IMAGENET, Preprocessing

DEFAULT = "DEFAULT"
# Those whose random weights are drawn only if they are asked to.
_DRAWN = ("googlenet", "inception_v3")


def classifiers() -> list[str]:
    """Names of the classification models."""
    return torchvision.models.list_models(module=torchvision.models)


def check_name(name: str) -> None:
    """Refuses a name that torchvision doesn't know.

    Raises:
        ModelError: with names like it.
    """
    known = torchvision.models.list_models()
    if name not in known:
        near = get_close_matches(name, known, 3, 0.4) or ["resnet18"]
        raise ModelError(f"torchvision has no model {name!r}; did you mean {', '.join(near)}?")


def preprocessing(name: str) -> Preprocessing:
    """What the newest weights of a model expect of their images.

    Raises:
        NoPreprocessingError: for a model that isn't called with images of one size.
    """
    check_name(name)
    try:
        weights = torchvision.models.get_model_weights(name).DEFAULT
    except (AttributeError, ValueError):
        return Preprocessing(224, *IMAGENET, 1000, 256)
    recipe, classes = weights.transforms(), len(weights.meta.get("categories") or ())
    if not classes or not isinstance(recipe, ImageClassification | SemanticSegmentation):
        raise NoPreprocessingError(
            f"torchvision's {name} is called with other things than one batch of images "
            f"({type(recipe).__name__}); convert it in Python, where data has the form that it "
            "takes"
        )
    resize = recipe.resize_size[0]
    size = recipe.crop_size[0] if isinstance(recipe, ImageClassification) else resize
    mean, std = tuple(recipe.mean), tuple(recipe.std)
    kind = recipe.interpolation.value
    return Preprocessing(size, mean, std, classes, resize, interpolation=kind)


def make(name: str, weights: object, classes: int | None) -> nn.Module:
    """A model with the library's own weights for ``"DEFAULT"``, with random ones otherwise.

    Raises:
        ModelError: for a name that doesn't exist, or weights that can't be downloaded.
    """
    check_name(name)
    own = DEFAULT if weights == DEFAULT else None
    settings: dict[str, object] = {"weights": own}
    if own is None:
        settings |= {"num_classes": classes} if classes is not None else {}
        settings |= {"init_weights": True} if name in _DRAWN else {}
        builder = torchvision.models.get_model_builder(name)
        if "weights_backbone" in builder.__annotations__:
            settings["weights_backbone"] = None
    try:
        model: nn.Module = torchvision.models.get_model(name, **settings)
    except OSError as error:
        raise ModelError(
            f"torchvision's weights of {name} can't be downloaded ({error}); pass a checkpoint as "
            "weights=PATH"
        ) from error
    return model
