"""The parts of a model: recorded while it runs, converted one by one, put in their places."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..assembly.build import build
from ..assembly.site_numbers import by_site, gates_of
from ..assembly.stages import Ready, calibrated, made_ready
from ..capture.isolate import isolated
from ..capture.model_kinds import eager_module
from ..common.batches import batches_of
from ..common.kept_stages import Stages
from ..errors import CaptureError, ConversionError, InputError, SiteError
from ..network.model import SpikingModel
from ..network.settings import ConversionSettings
from .assembling import Made, assembled, keeps_caches, python_modules
from .chosen import Wanted, choose
from .lengths import lengths_apart
from .model import SpikingParts
from .part_settings import check_settings, numbers_of_parts, of_part
from .recording import Recorded, Recorder, Recording, check_called, given_of
from .report import PartRow, output_error
from .whole_calls import image_count
from .whole_model import WholeModel

# The parts that an error of capture names.
_PARTS = re.compile(r"modules=\[(.*?)\]")
# So many modules are named in a note.
_NAMED = 5


@dataclass
class _Network:
    """One network of a part before its neurons.

    Args:
        name: in the report.
        recorded: the calls that it is for.
        ready: the captured part.
    """

    name: str
    recorded: Recorded
    ready: Ready


def convert_parts(
    model: nn.Module,
    calibration: Any,
    wanted: Sequence[Wanted],
    settings: ConversionSettings,
    *,
    stages: Stages | None = None,
    device: torch.device | None = None,
    progress: bool = True,
) -> SpikingParts:
    """The model with converted parts.

    Args:
        model: the user's; it is left as it was.
        calibration: as for `to_spiking`; a batch is given to the model in the form that it takes.
        wanted: names, globs and classes of the parts.
        settings: of the conversion; numbers by site name sites with their part.
        stages: where what is made is kept, each part's under its name.
        device: where the result lives; the model's own device if None.
        progress: shows bars on stderr.

    Raises:
        ConversionError: a subclass for parts, data or a setting that can't be used.
    """
    check_settings(settings)
    notes: list[str] = []
    with isolated(model, notes) as isolation:
        for note in notes:
            warnings.warn(note, stacklevel=4)
        chosen, told = choose(isolation.copied, wanted)
        notes += told
        whole = WholeModel(isolation, batches_of(calibration))
        recording = Recording(whole.model, chosen, whole.batches, whole.home, image_count)
        kept = keeps_caches(whole, recording, notes)
        recording.probe(lengths_apart(whole, settings))
        networks = _networks(recording, settings, notes, device, progress)
        converted = _converted(networks, settings, stages or Stages(), progress)
        python = python_modules(whole.model, recording.parts)
        rows = [_row(each, converted[each.name], recording) for each in networks]
        made = Made(converted, rows, python, notes, kept)
        return assembled(eager_module(model), whole, recording, made, settings, device)


def _networks(
    recording: Recording,
    settings: ConversionSettings,
    notes: list[str],
    device: torch.device | None,
    progress: bool,
) -> list[_Network]:
    """The captured networks of all parts, in the order of the model's modules.

    Raises:
        ConversionError: a subclass, naming the part that can't be converted.
    """
    recorded = recording.record()
    found: list[_Network] = []
    unused: list[str] = []
    plain: list[str] = []
    for part in recording.parts:
        recorder, forms = recording.recorders[part.name], recorded[part.name]
        if not check_called(part, recorder, forms, recording.model):
            unused.append(part.name)
            continue
        for index, each in enumerate(forms):
            name = part.name if not index else f"{part.name}#{index + 1}"
            own = of_part(settings, name)
            with named(name):
                try:
                    ready = _ready(recording, recorder, each, own, device, progress)
                except SiteError:
                    if part.exact:
                        raise
                    plain.append(name)
                    continue
            found.append(_Network(name, each, ready))
    if unused:
        notes.append(f"never called on the calibration data, and left as they are: {_few(unused)}")
    if plain:
        notes.append(f"without a nonlinear function, and left as they are: {_few(plain)}")
    if not found:
        raise InputError(
            "modules= chooses no module that is called on the calibration data and has a nonlinear "
            f"function; it chose {_few(unused + plain)}"
        )
    return found


def _ready(
    recording: Recording,
    recorder: Recorder,
    recorded: Recorded,
    settings: ConversionSettings,
    device: torch.device | None,
    progress: bool,
) -> Ready:
    """One network of a part, captured; calls without a batch are read as batches of one.

    Raises:
        ConversionError: a subclass where it can't be captured.
    """
    batches = recording.calls(recorded)

    def ready() -> Ready:
        shapes = recorded.shapes
        if recorded.alone:
            shapes = [{name: (1, *shape) for name, shape in row.items()} for row in shapes]
        return made_ready(
            recorder.replaced,
            given_of(recorded.first, recorded.alone),
            lambda _: batches,
            settings,
            seen=shapes,
            device=device,
            progress=progress,
        )

    try:
        return ready()
    except (CaptureError, InputError) as error:
        if recorder.takes_batches(recorded.first):
            recorded.alone = True
            with contextlib.suppress(CaptureError, InputError):
                return ready()
        raise type(error)(f"{error}{_shapes(recorded)}") from error.__cause__


def _shapes(recorded: Recorded) -> str:
    """What to think of where the inputs of a part that can't be captured vary."""
    if len(recorded.shapes) < 2:
        return ""
    some = " and ".join(
        ", ".join(f"{name} {list(shape)}" for name, shape in row.items())
        for row in recorded.shapes[:2]
    )
    return (
        f"; the model calls it with inputs of {len(recorded.shapes)} shapes ({some}): give data on "
        "which they are alike, or choose parts inside it"
    )


def _converted(
    networks: Sequence[_Network],
    settings: ConversionSettings,
    stages: Stages,
    progress: bool,
) -> dict[str, SpikingModel]:
    """The networks with their neurons, by name."""
    names = {each.name: [site.name for site in each.ready.sites] for each in networks}
    own = numbers_of_parts(settings, names)
    found = {}
    for each in networks:
        settings, sites = own[each.name], each.ready.sites
        with named(each.name):
            source = calibrated(
                each.ready,
                settings,
                by_site(sites, settings.per_site_steps, "per_site_steps"),
                gates_of(sites, settings),
                stages=stages.under(f"{each.name} "),
                progress=progress,
            )
            found[each.name] = build(
                source, settings, seconds=each.ready.seconds, part=each.name, progress=progress
            )
    return found


def _row(network: _Network, converted: SpikingModel, recording: Recording) -> PartRow:
    report = converted.report
    assert report is not None
    return PartRow(
        name=network.name,
        module=type(recording.recorders[network.recorded.part.name].replaced).__name__,
        calls=network.recorded.count / recording.runs,
        per_image=report.calibration_images / recording.images,
        error=output_error(converted),
        alone=network.recorded.alone,
    )


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _inside(part: str, names: str) -> str:
    """The call that converts modules inside a part, by their names in the model."""
    own = ", ".join(f'"{part}.{name}"' for name in re.findall('"(.*?)"', names))
    return f"modules=[{own}]"


@contextmanager
def named(part: str) -> Iterator[None]:
    """A block whose errors and warnings begin with the name of a part.

    Raises:
        ConversionError: of the same class.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except ConversionError as error:
            told = _PARTS.sub(lambda found: _inside(part, found[1]), str(error))
            raise type(error)(f"the part {part}: {told}") from error.__cause__
    for warning in caught:
        warnings.warn(f"{part}: {warning.message}", warning.category, stacklevel=7)
