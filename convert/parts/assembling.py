"""The converted parts in a copy of the user's model, and whether they are in the right places."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..calls.batch_reading import moved
from ..calls.own_classes import register
from ..capture.copying import copy_of
from ..capture.fidelity import ROUNDING, floats, largest_gap
from ..errors import CaptureError
from ..network.model import SpikingModel
from ..network.settings import ConversionSettings
from .chosen import Chosen
from .model import SpikingParts, made
from .part_calls import PartCall
from .recording import Recording
from .report import PartRow, joined
from .spiking_part import SpikingPart, put_in
from .whole_model import WholeModel

# Outputs of the model with exact parts that differ by more of their magnitude are told of.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Made:
    """What the conversion has made of the parts.

    Args:
        networks: by name.
        rows: of the report, one a network.
        python: what stays Python, by name, with its class.
        notes: on the whole.
        caches: whether the model goes on keeping keys and values, if it did.
    """

    networks: Mapping[str, SpikingModel]
    rows: Sequence[PartRow]
    python: Mapping[str, str]
    notes: list[str]
    caches: bool


def keeps_caches(whole: WholeModel, recording: Recording, notes: list[str]) -> bool:
    """Whether no part gets the keys and values that a language model keeps for a next token.

    Args:
        whole: the model's copy.
        recording: which tells the calls of its parts.
        notes: gets what the user should know.
    """
    if not whole.caches:
        return True
    found: list[str] = []

    def note(call: PartCall) -> None:
        opaque = call.opaque()
        if opaque is not None:
            found.append(opaque[0])

    with whole.caching():
        recording.run(whole.first, {part.name: note for part in recording.parts})
    if found:
        notes.append(
            f"parts get {found[0]}, the cache of keys and values, which no graph can hold: the "
            "model's config.use_cache was switched off; generate(..., use_cache=False) as well"
        )
    return not found


def python_modules(model: nn.Module, parts: Sequence[Chosen]) -> dict[str, str]:
    """The outermost modules that lie in no part and hold none, by name, with their class."""
    inside = {path for part in parts for path in part.paths}
    around = {
        ".".join(path.split(".")[:count]) for path in inside for count in range(path.count(".") + 1)
    }
    found: dict[str, str] = {}

    def look(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            path = f"{prefix}{name}"
            if path in inside:
                continue
            if path in around:
                look(child, f"{path}.")
            elif not isinstance(child, nn.Dropout | nn.Identity):
                found[path] = type(child).__name__

    look(model, "")
    return found


def assembled(
    user: nn.Module,
    whole: WholeModel,
    recording: Recording,
    made: Made,
    settings: ConversionSettings,
    device: torch.device | None,
) -> SpikingParts:
    """The user's model with its converted parts, checked on the first batch.

    Args:
        user: the user's model, which is copied.
        whole: the copy on which the parts were recorded.
        recording: which parts there are.
        made: of them.
        settings: of the conversion.
        device: where the result lives; the model's own device if None.

    Raises:
        CaptureError: where a part changes what it is given, and the model reads that.
    """
    alone = [row.name for row in made.rows if row.alone]
    module = put_in(
        copy_of(user)[0], recording.parts, made.networks, alone=alone, caches=made.caches
    )
    module.to(device or whole.home)
    paths = {p.name: p.paths for p in recording.parts if p.name in made.networks}
    reports = {name: n.report for name, n in made.networks.items() if n.report is not None}
    report = joined(reports, made.rows, made.python, settings, recording.images, list(made.notes))
    snn = SpikingParts(module, paths, report, whole.reader.lists)
    gap = _gap(snn, whole)
    if gap is None or gap > _ROUNDING:
        writing = [name for name, recorder in recording.recorders.items() if recorder.writes]
        if writing:
            raise CaptureError(
                f"the part {writing[0]} changes its input in place, which the model reads "
                "afterwards; choose a part that begins behind that, or set inplace=False"
            )
        far = "another number of values" if gap is None else f"{gap:.2g} of their magnitude"
        note = (
            "with the parts' exact functions the model's outputs differ from the model's own by "
            f"{far} on the first calibration batch: rounding moves what it decides (a threshold, "
            "a suppression of boxes), or it asks for what a part is"
        )
        snn.report.notes.append(note)
        snn.report.about.append(note)
        warnings.warn(note, stacklevel=5)
    return snn


def _gap(snn: SpikingParts, whole: WholeModel) -> float | None:
    """How far the model with exact parts is off on the first batch; None for other shapes."""
    device = next((t.device for t in snn.state_dict().values()), whole.home)
    args, kwargs = moved(whole.first, device)
    with torch.no_grad(), snn.spiking_only(()), snn.running(check_inputs=False):
        result = snn(*args, **kwargs)
    register(result)
    found: list[Tensor] = [leaf.to(whole.home) for leaf in floats(result)]
    if [t.shape for t in found] != [t.shape for t in whole.expected]:
        return None
    allowed = [ROUNDING.get(t.dtype, 0.0) for t in found]
    gaps = map(largest_gap, whole.expected, found)
    return max((g for g, a in zip(gaps, allowed, strict=True) if not g <= a), default=0.0)


def exchanged(
    snn: SpikingParts,
    networks: Mapping[str, SpikingModel],
    settings: ConversionSettings,
    rows: Sequence[PartRow],
    images: int,
) -> SpikingParts:
    """A copy of a model with other networks for its parts.

    Args:
        snn: the model; it is left as it was.
        networks: by name, all of them.
        settings: of the new ones.
        rows: of the report.
        images: of the whole model's calibration data.
    """
    copied = copy.deepcopy(snn)
    for name in copied.paths:
        part = copied.module.get_submodule(name)
        assert isinstance(part, SpikingPart)
        own = [network for key, network in networks.items() if key.partition("#")[0] == name]
        part.networks = nn.ModuleList(own)
    about = dataclasses.replace(
        copied.report, parts=list(rows), settings=settings, calibration_images=images
    )
    lists, metadata = copied.signature.lists, copied.metadata
    return made(copied.module, copied.paths, about, lists, metadata, origin=snn.known_origin)
