"""timm's models by name, with the preprocessing of their weights. timm is an optional package."""

from __future__ import annotations

import math
from difflib import get_close_matches
from types import ModuleType

from torch import nn

from .errors import ModelError, NoPreprocessingError
from .preprocessing import Preprocessing

DEFAULT = "DEFAULT"


def _timm() -> ModuleType:
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise ModelError("timm: models need timm; run: pip install 'fewspikes[timm]'") from error
    return timm


def check_name(name: str) -> None:
    """Refuses a name that timm doesn't know.

    Raises:
        ModelError: with names like it, or if timm isn't installed.
    """
    timm = _timm()
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        near = get_close_matches(plain, timm.list_models(), 3, 0.4) or ["resnet18"]
        raise ModelError(f"timm has no model {name!r}; did you mean {', '.join(near)}?")
    tagged = [n.partition(".")[2] for n in timm.list_models(f"{plain}.*", pretrained=True)]
    if tag and tag not in tagged:
        raise ModelError(
            f"timm's {plain} has no weights called {tag!r} (it has "
            f"{', '.join(tagged[:6]) or 'none'}); choose one of them, or leave it out"
        )


def preprocessing(name: str) -> Preprocessing:
    """What a model's weights expect of their images.

    Raises:
        ModelError: for a name that doesn't exist.
        NoPreprocessingError: for images that aren't square, or a border around them.
    """
    check_name(name)
    timm = _timm()
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    found = timm.data.resolve_data_config(
        {}, pretrained_cfg=config.to_dict() if config else {"": 0}
    )
    (_, height, width), mode = found["input_size"], found["crop_mode"]
    if height != width or mode not in ("center", "squash"):
        raise NoPreprocessingError(
            f"timm's {name} takes images {height}x{width}, cut by {mode!r}; only squares from the "
            "middle are known: give --size, --mean, --std and --classes"
        )
    return Preprocessing(
        height,
        tuple(found["mean"]),
        tuple(found["std"]),
        (config.num_classes if config else 0) or 1000,
        math.floor(height / found["crop_pct"]),
        mode == "squash",
        found["interpolation"] if found["interpolation"] != "random" else "bilinear",
    )


def make(name: str, weights: object, classes: int | None) -> nn.Module:
    """A model with the library's own weights for ``"DEFAULT"``, with random ones otherwise.

    Raises:
        ModelError: for a name that doesn't exist, or weights that can't be downloaded.
    """
    check_name(name)
    own = weights == DEFAULT
    sized = {} if own or classes is None else {"num_classes": classes}
    try:
        model: nn.Module = _timm().create_model(name, pretrained=own, **sized)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        what = "weights can't be had" if own else "network can't be made"
        raise ModelError(
            f"timm's {what} for {name} ({reason}); pass a checkpoint as weights=PATH"
        ) from error
    return model
