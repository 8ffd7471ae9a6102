"""Models by name, with their preprocessing and weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn

from .checkpoints import load_weights
from .errors import ModelError
from .preprocessing import CIFAR10, IMAGENET, Preprocessing
from .resnet_cifar import ResNetCifar
from .vit_cifar import vit_small, vit_tiny

_WEIGHTS = Path(__file__).parent / "weights"

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class _Entry:
    make: Callable[..., nn.Module]
    activation: str
    preprocessing: Preprocessing


def _resnet(depth: int, classes: int, activation: Callable[[], nn.Module]) -> nn.Module:
    return ResNetCifar(depth, classes, activation)


def _resnet_digits(classes: int, activation: Callable[[], nn.Module]) -> nn.Module:
    return ResNetCifar(8, classes, activation, in_channels=1)


def _entries() -> dict[str, _Entry]:
    imagenet = Preprocessing(32, *IMAGENET, 10)
    cifar = Preprocessing(32, *CIFAR10, 10)
    entries = {
        f"resnet{depth}": _Entry(partial(_resnet, depth), "relu", imagenet)
        for depth in (20, 32, 44, 56, 110)
    }
    entries["resnet20_silu"] = _Entry(partial(_resnet, 20), "silu", cifar)
    digits = Preprocessing(8, (0.305,), (0.376,), 10)
    entries["resnet8_digits"] = _Entry(_resnet_digits, "silu", digits)
    entries["vit_tiny"] = _Entry(vit_tiny, "gelu", cifar)
    entries["vit_small"] = _Entry(vit_small, "gelu", cifar)
    return entries


_ENTRIES = _entries()


def names() -> list[str]:
    """Names of the CIFAR models, then torchvision's classification models."""
    return [*_ENTRIES, *torchvision.models.list_models(module=torchvision.models)]


def shipped() -> list[str]:
    """Names whose weights come with the package."""
    return [name for name in _ENTRIES if _shipped_file(name).is_file()]


def _shipped_file(name: str) -> Path:
    return _WEIGHTS / f"{name}.pt"


def _known(name: str) -> None:
    if name not in names():
        near = get_close_matches(name, names(), 3, 0.4) or list(_ENTRIES)
        raise ModelError(f"no model is called {name!r}; did you mean {', '.join(near)}?")


def preprocessing(name: str) -> Preprocessing:
    """What a named model expects of its images.

    Raises:
        ModelError: for a name that doesn't exist.
    """
    _known(name)
    if name in _ENTRIES:
        return _ENTRIES[name].preprocessing
    try:
        recipe = torchvision.models.get_model_weights(name).DEFAULT.transforms()  # type: ignore[attr-defined]
        size, mean, std = recipe.crop_size[0], tuple(recipe.mean), tuple(recipe.std)
    except (AttributeError, ValueError):
        size, (mean, std) = 224, IMAGENET
    return Preprocessing(size, mean, std, 1000)


def get(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    activation: str | None = None,
    classes: int | None = None,
    *,
    seed: int = 0,
) -> nn.Module:
    """A model by name, in eval mode.

    Args:
        name: one of `names()`.
        weights: a checkpoint file; None for the weights that come with the package; ``"random"``
            for an untrained network; ``"DEFAULT"`` for torchvision's own (downloaded by it).
        activation: one of `ACTIVATIONS` in place of the model's own (CIFAR models only).
        classes: number of outputs; the model's own if None.
        seed: of random weights.

    Raises:
        ModelError: for an unknown name or activation, or weights that don't exist or don't fit.
    """
    _known(name)
    if activation is not None and activation not in ACTIVATIONS:
        raise ModelError(
            f"no activation is called {activation!r}; choose from {', '.join(ACTIVATIONS)}"
        )
    count = classes or preprocessing(name).classes
    if weights is None:
        if not _shipped_file(name).is_file():
            have = ", ".join(shipped()) or "no model yet"
            raise ModelError(
                f"{name} comes without weights (with weights: {have}); pass a checkpoint as "
                "weights=PATH, or weights='random' for an untrained network"
            )
        weights = _shipped_file(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in _ENTRIES:
            entry = _ENTRIES[name]
            model = entry.make(
                classes=count, activation=ACTIVATIONS[activation or entry.activation]
            )
        else:
            model = _torchvision(name, weights, activation, count)
    if weights not in ("random", "DEFAULT"):
        load_weights(model, weights, name)
    elif weights == "DEFAULT" and name in _ENTRIES:
        raise ModelError(f"weights='DEFAULT' means torchvision's own; {name} is not theirs")
    return model.eval()


def _torchvision(name: str, weights: object, activation: str | None, classes: int) -> nn.Module:
    if activation is not None:
        raise ModelError(
            f"activation= is a choice of the CIFAR models ({', '.join(_ENTRIES)}); {name} has its "
            "own: leave activation= out"
        )
    own = "DEFAULT" if weights == "DEFAULT" else None
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") and own is None else {}
    sized = {} if own else {"num_classes": classes}
    try:
        model = torchvision.models.get_model(name, weights=own, **sized, **extra)
    except OSError as error:
        raise ModelError(
            f"torchvision's weights of {name} can't be downloaded ({error}); pass a checkpoint as "
            "weights=PATH"
        ) from error
    return model


def with_options(
    base: Preprocessing,
    *,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: int | None = None,
) -> Preprocessing:
    """A preprocessing with some of its values overridden.

    Args:
        base: what holds where nothing is given.
        size, classes: in place of its own.
        mean, std: in place of its own; one value holds for all channels.

    Raises:
        ModelError: for another number of channels, or a value that can't be used.
    """
    channels = len(base.mean)
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, channels):
            raise ModelError(
                f"{name} has {len(values)} values and the images have {channels} channels; give "
                "one value, or one for each channel"
            )
    mean, std = (v * channels if v is not None and len(v) == 1 else v for v in (mean, std))
    given = {"size": size, "mean": mean, "std": std, "classes": classes}
    return replace(base, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
