"""Converts and measures the networks of the zoo, and writes their files and figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import kinds
from .endings import WRONG_USE, Refusal, ended
from .options import CONVERSION, DATA, MODEL, Seeded, text, together, value, values
from .zoo import FIGURES, FOLDER

if TYPE_CHECKING:
    import convert

# Names of the networks, and what their data is called.
NETWORKS = {"resnet8_digits": "digits", "resnet20_silu": "CIFAR-10", "vit_small": "CIFAR-10"}


@dataclass(kw_only=True)
class BuildOptions(Seeded):
    """What the building of the zoo takes."""

    names: Annotated[
        list[str] | None,
        values(str, "NAME", f"networks; {', '.join(NETWORKS)} if left out", MODEL),
    ] = None
    data: Annotated[str, text("SOURCE", "test images of CIFAR-10", DATA)] = "cifar10"
    calibration: Annotated[str, text("SOURCE", "images of CIFAR-10 to convert with", DATA)] = (
        "cifar10"
    )
    calibration_size: Annotated[int, value(kinds.whole, "N", "images to convert with", DATA)] = 512
    steps: Annotated[int, value(kinds.steps, "K", "of every neuron", CONVERSION)] = 4
    gates: Annotated[int, value(kinds.gates, "N", "of every neuron", CONVERSION)] = 3
    output: Annotated[Path, value(kinds.place, "DIR", "where the files are written")] = FOLDER


_NONE_GIVEN = BuildOptions()


def build_zoo(*, options: Annotated[BuildOptions, together()] = _NONE_GIVEN) -> int:
    """Converts and measures the networks of the zoo, and writes their files and figures."""
    names = options.names or list(NETWORKS)
    return ended(
        lambda: _run(names, options),
        traceback=options.traceback,
        writes=lambda: (options.output, [f"{name}.fsnn" for name in names]),
    )


def _run(names: list[str], options: BuildOptions) -> None:
    """Builds one network after the other; the figures of others stay."""
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        raise Refusal(WRONG_USE, f"the zoo has no {', '.join(unknown)}")
    from convert.common.files import atomic_path

    place = options.output / FIGURES
    found: dict[str, Any] = json.loads(place.read_text("utf-8")) if place.exists() else {}
    for name in names:
        found[name] = _built(name, options)
        print(f"{name}: {found[name]}", flush=True)
    ordered = {name: found[name] for name in NETWORKS if name in found}
    with atomic_path(place) as temporary:
        temporary.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")


def _built(name: str, options: BuildOptions) -> dict[str, Any]:
    """Converts, measures and saves a network; returns its figures."""
    import convert
    from convert.storage.network_json import versions
    from fewspikes import models

    from .our_models import sources

    digits = NETWORKS[name] == "digits"
    preprocessing = models.preprocessing(name)
    data = sources.open_sources(
        "digits" if digits else options.data,
        "digits" if digits else options.calibration,
        preprocessing,
        calibration_size=options.calibration_size,
        seed=options.seed,
    )
    model = models.get(name)
    snn = convert.to_spiking(
        model,
        data.calibration,
        steps=options.steps,
        gates=options.gates,
        seed=options.seed,
        progress=not options.quiet,
    )
    result = convert.evaluate(snn, model, data.test, by_site=0, progress=not options.quiet)
    figures = {
        "data": NETWORKS[name],
        "steps": options.steps,
        "gates": options.gates,
        "seed": options.seed,
        "accuracy": result.spiking["accuracy"],
        "original_accuracy": result.original["accuracy"],
        "agreement": result.spiking["agreement"],
        "images": result.images,
        "spikes_per_neuron": result.spiking["spikes_per_neuron"],
        "calibration_images": options.calibration_size,
        "versions": versions(),
    }
    _save(snn, options.output / f"{name}.fsnn", name, preprocessing.to_dict(), figures)
    return figures


def _save(
    snn: convert.SpikingModel,
    path: Path,
    name: str,
    preprocessing: dict[str, Any],
    figures: dict[str, Any],
) -> None:
    """Writes the file, without histograms: they are half of it, and `refit` makes them anew."""
    snn.histograms = {}
    metadata = {"model": name, "activation": None, "preprocessing": preprocessing}
    snn.save(path, metadata=metadata | {"measured": figures})
