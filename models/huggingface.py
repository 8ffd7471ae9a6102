"""Hugging Face models from a folder, a zip of one, or the cache, with tokenizer or image size.

transformers is an optional package. Nothing is downloaded unless the weights are ``"DEFAULT"``, and
no code that comes with a model is run.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import nn

from .errors import ModelError, NoPreprocessingError
from .files import shown
from .preprocessing import Preprocessing
from .text import TextPreprocessing

DEFAULT = "DEFAULT"
_CONFIG, _IMAGES = "config.json", "preprocessor_config.json"
_WEIGHTS = (".safetensors", ".bin", ".msgpack", ".h5", ".onnx", ".pt")
_TOKENIZER = ("tokenizer", "vocab", "merges", "spiece", "sentencepiece")
_USUAL_LENGTH = 128
# Lengths that tokenizers give where there is no limit.
_NO_LIMIT = 1_000_000


class _Loaded:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        marks = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.padding: int = next(mark for mark in marks if mark is not None)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token numbers, never cut."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False).input_ids
        return ids


def tokenizer(name: str) -> _Loaded:
    """The tokenizer of a folder, a zip file or a name in the cache.

    Raises:
        ModelError: if there is none.
    """
    library = _transformers()
    with _folder(name, weights=False) as folder:
        try:
            # Without its files some classes give an empty tokenizer and no error.
            if not any(file.name.startswith(_TOKENIZER) for file in folder.iterdir()):
                raise OSError("there are no files of one")
            found = library.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise NoPreprocessingError(
                f"{shown(name)} has no tokenizer that can be loaded ({_reason(error)}); give one "
                "with --tokenizer, or --tokenizer bytes"
            ) from error
    return _Loaded(found)


def preprocessing(name: str) -> Preprocessing | TextPreprocessing:
    """What a model expects: texts of its tokenizer, or images as its image processor makes them.

    Raises:
        ModelError: if there is no such model.
        NoPreprocessingError: if it has neither, or images are made in a way that isn't known.
    """
    library = _transformers()
    with _folder(name, weights=False) as folder:
        config = _config(library, folder, name)
        if (folder / _IMAGES).is_file() and not hasattr(config, "vocab_size"):
            return _of_images(json.loads((folder / _IMAGES).read_text("utf-8")), config, name)
        if not hasattr(config, "vocab_size"):
            raise NoPreprocessingError(
                f"{shown(name)} says neither how images nor how texts are prepared "
                f"({_IMAGES} is missing); give --size, --mean, --std and --classes"
            )
        asked = folder / "sentence_bert_config.json"
        usual = _USUAL_LENGTH
        if asked.is_file():
            usual = int(json.loads(asked.read_text("utf-8")).get("max_seq_length") or usual)
    limits = (_positions(config), _limit_of_tokenizer(name))
    positions = min((limit for limit in limits if limit is not None), default=None)
    length = min(usual, positions or usual)
    return TextPreprocessing(name, config.vocab_size, positions, _is_causal(config), length)


def make(name: str, weights: object, classes: int | None) -> nn.Module:
    """A model with its own weights for None, with random ones for anything else.

    Args:
        name: a folder, a zip file that holds one, or a name in the cache.
        weights: None; or ``"DEFAULT"`` to download them.
        classes: of a classifier with random weights.

    Raises:
        ModelError: if there is no such model, or its weights don't fill it.
    """
    library = _transformers()
    if weights == DEFAULT:
        return _filled(library, name, name, local=False)
    with _folder(name, weights=weights is None) as folder:
        if weights is None:
            return _filled(library, folder, name, local=True)
        config = _config(library, folder, name)
        if classes is not None and classes != getattr(config, "num_labels", classes):
            config.num_labels = classes
        with _quietly(library):
            model: nn.Module = _auto_class(library, config).from_config(config, dtype=torch.float32)
    return _plain(model)


def _filled(library: ModuleType, place: Path | str, name: str, *, local: bool) -> nn.Module:
    config = _config(library, place, name, local=local)
    try:
        with _quietly(library):
            model, told = _auto_class(library, config).from_pretrained(
                place,
                dtype=torch.float32,
                local_files_only=local,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the weights of {shown(name)} can't be loaded ({_reason(error)}); check the files"
        ) from error
    missing = [*told["missing_keys"], *(str(key[0]) for key in told["mismatched_keys"])]
    if missing:
        raise ModelError(
            f"the weights of {shown(name)} don't fill its {type(model).__name__}: {len(missing)} "
            f"are missing or of another shape ({', '.join(sorted(missing)[:4])}); check the files"
        )
    return _plain(model)


def _plain(model: nn.Module) -> nn.Module:
    """Without what is kept from one call to the next, which a converted network has no use for."""
    model.config.use_cache = False  # type: ignore[union-attr]
    return model


def _config(library: ModuleType, place: Path | str, name: str, *, local: bool = True) -> Any:
    try:
        return library.AutoConfig.from_pretrained(
            place, local_files_only=local, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{shown(name)} is no model that transformers knows ({_reason(error)}); give a folder "
            f"with {_CONFIG} and safetensors"
        ) from error


def _auto_class(library: ModuleType, config: Any) -> Any:
    """The Auto class for what the configuration says that the weights are of."""
    return getattr(library, _task(config), library.AutoModel)


def _task(config: Any) -> str:
    architecture = (config.architectures or [""])[0]
    if architecture.endswith("LMHeadModel"):
        return "AutoModelForCausalLM"
    if architecture.endswith("ForConditionalGeneration"):
        return "AutoModelForSeq2SeqLM"
    found = re.search(r"For([A-Z]\w+)$", architecture)
    return f"AutoModelFor{found[1]}" if found else "AutoModel"


def _is_causal(config: Any) -> bool:
    return _task(config) == "AutoModelForCausalLM"


def _positions(config: Any) -> int | None:
    found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return found if isinstance(found, int) and found > 0 else None


def _limit_of_tokenizer(name: str) -> int | None:
    try:
        limit = tokenizer(name)._tokenizer.model_max_length
    except NoPreprocessingError:  # told when texts are read
        return None
    return int(limit) if limit < _NO_LIMIT else None


def _of_images(said: dict[str, Any], config: Any, name: str) -> Preprocessing:
    """What an image processor's settings mean."""
    sides = _sides(said)
    strange = [key for key in ("do_pad", "do_reduce_labels") if said.get(key)]
    strange += [key for key in ("do_resize", "do_rescale") if said.get(key) is False]
    if sides is None or strange:
        raise NoPreprocessingError(
            f"{shown(name)} prepares images in a way that isn't known here (size {said.get('size')}"
            f"{''.join(f', {key}' for key in strange)}); give --size, --mean, --std and --classes"
        )
    size, resize, squash = sides
    kind = Image.Resampling(said.get("resample", Image.Resampling.BILINEAR)).name.lower()
    normalised = said.get("do_normalize", True)
    mean = tuple(said["image_mean"]) if normalised else (0.0,) * 3
    std = tuple(said["image_std"]) if normalised else (1.0,) * 3
    return Preprocessing(size, mean, std, config.num_labels, resize, squash, kind)


def _sides(said: dict[str, Any]) -> tuple[int, int, bool] | None:
    """The input's side, that of the resized image, and whether both its sides get that length."""
    asked = said.get("size")
    sides = {"shortest_edge": asked} if isinstance(asked, int) else asked or {}
    shortest, height = sides.get("shortest_edge"), sides.get("height")
    resize = height if shortest is None else shortest
    crop = said.get("crop_size")
    if isinstance(crop, dict):
        crop = crop.get("height") if crop.get("height") == crop.get("width") else None
    size = crop if said.get("do_center_crop", crop is not None) else resize
    if not isinstance(resize, int) or not isinstance(size, int):
        return None
    if shortest is None:
        return (size, resize, True) if height == sides.get("width") else None
    if not said.get("crop_pct"):
        return size, resize, False
    # As ConvNeXT's processor has it.
    whole = resize >= 384
    return resize, resize if whole else int(resize / said["crop_pct"]), whole


@contextmanager
def _folder(name: str, *, weights: bool) -> Iterator[Path]:
    """A model's folder: itself, unpacked from a zip file, or in the cache."""
    place = Path(name).expanduser()
    if place.is_dir():
        if not (place / _CONFIG).is_file():
            raise ModelError(
                f"{shown(name)} has no {_CONFIG}; give the folder of a model that save_pretrained "
                "wrote"
            )
        yield place
    elif place.is_file():
        with tempfile.TemporaryDirectory() as folder:
            yield _unpacked(place, Path(folder), weights)
    else:
        yield _cached(name)


def _unpacked(file: Path, folder: Path, weights: bool) -> Path:
    """The folder with the configuration that a zip file holds."""
    if not zipfile.is_zipfile(file):
        raise ModelError(f"{shown(file)} is no zip file; give a model's folder, or a zip of it")
    with zipfile.ZipFile(file) as archive:
        names = [n for n in archive.namelist() if PurePosixPath(n).name == _CONFIG]
        if not names:
            raise ModelError(f"{shown(file)} holds no {_CONFIG}; give a zip of a model's folder")
        root = PurePosixPath(min(names, key=lambda n: n.count("/"))).parent
        for entry in archive.infolist():
            inside = PurePosixPath(entry.filename).is_relative_to(root)
            # zipfile itself keeps names inside the folder.
            if inside and (weights or not entry.filename.endswith(_WEIGHTS)):
                archive.extract(entry, folder)
    return folder / root


def _cached(name: str) -> Path:
    """A model's newest folder in the cache, by its name with or without its owner."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    kept = name.replace("/", "--")
    owners = [place for place in cache.glob("models--*") if place.name == f"models--{kept}"]
    if not owners and "/" not in name:
        owners = [place for place in cache.glob("models--*") if place.name.endswith(f"--{kept}")]
    if len(owners) > 1:
        listed = ", ".join(
            sorted(p.name.removeprefix("models--").replace("--", "/") for p in owners)
        )
        raise ModelError(f"several models in the cache are called {name!r}: {listed}; give one")
    found = [s for o in owners for s in o.glob("snapshots/*") if (s / _CONFIG).is_file()]
    if not found:
        raise ModelError(
            f"no model at hf:{shown(name)}: there is no such folder or zip file, and none of that "
            f"name in the cache ({cache}); give a folder with {_CONFIG} and safetensors"
        )
    main = [s for s in found if _main(s.parents[1]) == s.name]
    return main[0] if main else max(found, key=lambda s: s.stat().st_mtime)


def _main(owner: Path) -> str | None:
    reference = owner / "refs" / "main"
    return reference.read_text().strip() if reference.is_file() else None


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            "hf: models need transformers; run: pip install 'fewspikes[hf]'"
        ) from error
    return transformers


@contextmanager
def _quietly(library: ModuleType) -> Iterator[None]:
    """Without transformers' bars and remarks; what matters of them is checked here."""
    log = library.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
