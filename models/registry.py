"""Models by name, with their preprocessing and weights: of this package, a library or a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import huggingface, own_file, timm_zoo, torchvision_zoo
from .byte_llama import BYTES, ByteLlama
from .checkpoints import load_weights
from .errors import ModelError, NoPreprocessingError
from .preprocessing import CIFAR10, IMAGENET, Preprocessing, with_options
from .resnet_cifar import ResNetCifar
from .specs import FORMS, Spec, spec_of
from .text import TextPreprocessing, with_text_options
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
    preprocessing: Preprocessing | TextPreprocessing


def _resnet(depth: int, classes: int, activation: Callable[[], nn.Module]) -> nn.Module:
    return ResNetCifar(depth, classes, activation)


def _resnet_digits(classes: int, activation: Callable[[], nn.Module]) -> nn.Module:
    return ResNetCifar(8, classes, activation, in_channels=1)


def _byte_llama(classes: int, activation: Callable[[], nn.Module]) -> nn.Module:
    if classes != BYTES or activation is not nn.SiLU:
        raise ModelError(
            f"byte_llama has {BYTES} outputs, one for each byte, and SiLU; leave classes= and "
            "activation= out"
        )
    return ByteLlama()


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
    texts = TextPreprocessing("bytes", BYTES, 512, causal=True, length=256)
    entries["byte_llama"] = _Entry(_byte_llama, "silu", texts)
    return entries


_ENTRIES = _entries()


def names() -> list[str]:
    """Names of the CIFAR models, then torchvision's classification models."""
    return [*_ENTRIES, *torchvision_zoo.classifiers()]


def shipped() -> list[str]:
    """Names whose weights come with the package."""
    return [name for name in _ENTRIES if _shipped_file(name).is_file()]


def _shipped_file(name: str) -> Path:
    return _WEIGHTS / f"{name}.pt"


def _known(name: str) -> None:
    if name not in names():
        near = get_close_matches(name, names(), 3, 0.4) or list(_ENTRIES)
        raise ModelError(
            f"no model is called {name!r}; did you mean {', '.join(near)}? (a SPEC is {FORMS})"
        )


def preprocessing(name: str) -> Preprocessing | TextPreprocessing:
    """What a named model expects of its images or texts.

    A file of the user is imported for it, which runs its code.

    Raises:
        NoPreprocessingError: if the model doesn't say.
        ModelError: for a name that doesn't exist.
    """
    spec = spec_of(name)
    if spec.kind == "torchvision":
        return torchvision_zoo.preprocessing(spec.name)
    if spec.kind == "timm":
        return timm_zoo.preprocessing(spec.name)
    if spec.kind == "hf":
        return huggingface.preprocessing(spec.name)
    if spec.kind == "file":
        return own_file.preprocessing(spec.name, spec.function)
    _known(name)
    own = _ENTRIES.get(name)
    return own.preprocessing if own else torchvision_zoo.preprocessing(name)


def prepared(
    name: str, *, tokenizer: str | None = None, length: int | None = None, **images: Any
) -> Preprocessing | TextPreprocessing:
    """What a model expects, with some of it overridden; all of it where the model doesn't say.

    Args:
        name: as for `get`.
        tokenizer, length: of texts, in place of the model's own.
        images: of images, see `preprocessing.with_options`; ``classes`` of texts is the number of
            tokens that a model knows which doesn't say.

    Raises:
        ModelError: for a value that is missing, can't be used, or isn't one of this model's.
    """
    base: Preprocessing | TextPreprocessing | None = None
    given = {key: value for key, value in images.items() if value is not None}
    texts = {k: v for k, v in (("tokenizer", tokenizer), ("length", length)) if v is not None}
    try:
        base = preprocessing(name)
    except NoPreprocessingError:
        if not given and not tokenizer:
            raise
    of_texts = isinstance(base, TextPreprocessing) or (base is None and tokenizer is not None)
    odd = [f"--{key}" for key in (given if of_texts else texts) if key != "classes" or base]
    if odd:
        kind, other = ("texts", "images") if of_texts else ("images", "texts")
        raise ModelError(f"{name} takes {kind}, and {', '.join(odd)} is for {other}; leave it out")
    if isinstance(base, Preprocessing) or not of_texts:
        assert not isinstance(base, TextPreprocessing)
        return with_options(base, **given)
    return with_text_options(
        base, tokenizer=tokenizer, length=length, vocabulary=given.get("classes")
    )


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
        name: one of `names()`; ``torchvision:NAME``; ``timm:NAME``; ``hf:NAME`` with a folder that
            has config.json and safetensors, a zip file of one, or a name in the Hugging Face cache;
            or ``FILE.py:FUNCTION``, which imports the file, runs its code and calls the function.
        weights: a checkpoint file; ``"random"`` for an untrained network; ``"DEFAULT"`` for the
            library's own, which it downloads. None for the weights that come with the package,
            with an ``hf:`` folder, or with what the function returns.
        activation: one of `ACTIVATIONS` in place of the model's own (CIFAR models only).
        classes: number of outputs; the model's own if None.
        seed: of random weights.

    Raises:
        ModelError: for an unknown name or activation, or weights that don't exist or don't fit.
    """
    spec = spec_of(name)
    own = name in _ENTRIES
    _check_name(spec)
    _check_activation(name, activation, own)
    if weights == "DEFAULT" and (own or spec.kind == "file"):
        raise ModelError(f"weights='DEFAULT' means those of a library; {name} is not from one")
    if weights is None and spec.kind not in ("hf", "file"):
        weights = _shipped_weights(name)
    _check_classes(spec, weights, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _made(spec, weights, activation, classes)
    if weights is not None and weights not in ("random", "DEFAULT"):
        load_weights(model, weights, name)
    return model.eval()


def _check_name(spec: Spec) -> None:
    """Refuses a name that its library, or this package, doesn't know."""
    if spec.kind == "torchvision":
        torchvision_zoo.check_name(spec.name)
    elif spec.kind == "timm":
        timm_zoo.check_name(spec.name)
    elif not spec.kind:
        _known(spec.name)


def _made(spec: Spec, weights: object, activation: str | None, classes: int | None) -> nn.Module:
    """A model before a checkpoint is loaded into it."""
    if spec.kind == "timm":
        return timm_zoo.make(spec.name, weights, classes)
    if spec.kind == "hf":
        return huggingface.make(spec.name, weights, classes)
    if spec.kind == "file":
        return own_file.make(spec.name, spec.function)
    if spec.kind == "torchvision" or spec.name not in _ENTRIES:
        return torchvision_zoo.make(spec.name, weights, classes)
    entry = _ENTRIES[spec.name]
    return entry.make(
        classes=classes or entry.preprocessing.classes,
        activation=ACTIVATIONS[activation or entry.activation],
    )


def _check_activation(name: str, activation: str | None, own: bool) -> None:
    if activation is None:
        return
    if activation not in ACTIVATIONS:
        raise ModelError(
            f"no activation is called {activation!r}; choose from {', '.join(ACTIVATIONS)}"
        )
    if not own:
        raise ModelError(
            f"activation= is a choice of the CIFAR models ({', '.join(_ENTRIES)}); {name} has its "
            "own: leave activation= out"
        )


def _check_classes(spec: Spec, weights: object, classes: int | None) -> None:
    """Refuses another number of outputs than a library's own weights have."""
    if weights != "DEFAULT" or classes is None or spec.kind == "hf":
        return
    own = (timm_zoo if spec.kind == "timm" else torchvision_zoo).preprocessing(spec.name).classes
    if classes != own:
        raise ModelError(
            f"the library's weights of {spec.name} have {own} outputs, and {classes} are asked "
            "for; leave the number out, or give weights of your own"
        )


def _shipped_weights(name: str) -> Path:
    if not _shipped_file(name).is_file():
        have = ", ".join(shipped()) or "no model yet"
        raise ModelError(
            f"{name} comes without weights (with weights: {have}); pass a checkpoint as "
            "weights=PATH, or weights='random' for an untrained network"
        )
    return _shipped_file(name)
