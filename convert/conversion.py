"""The one verb: a trained network and calibration data in, a spiking network out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .assembly.build import build
from .assembly.site_numbers import by_site, gates_of
from .assembly.stages import calibrated, made_ready
from .calls.sizes import NewShape, Shapes
from .capture.capture import Captured
from .capture.model_kinds import refuse_packed
from .common.batches import batches_of, others_of
from .common.devices import usable_device
from .common.fingerprints import surroundings
from .common.kept_stages import SETTINGS, KeptStages, opened
from .common.ranks import RankFailed, together
from .errors import CalibrationError, CaptureError, InputError
from .fitting.methods import DEFAULT
from .fitting.problem import warn_of_many_steps
from .inspect.size_costs import costs_of
from .network.model import SpikingModel
from .network.settings import ConversionSettings
from .parts.converting import convert_parts
from .parts.suggesting import with_parts


@together
def to_spiking(
    model: nn.Module,
    calibration: Any,
    *,
    steps: int | Sequence[int] | str = 8,
    max_loss: float | None = None,
    budget: int | None = None,
    budget_spikes: float | None = None,
    budget_operations: float | None = None,
    budget_energy: float | None = None,
    spike_cost: float = 0.0,
    seed: int = 0,
    method: str = DEFAULT,
    per_site_steps: Mapping[str, int] | None = None,
    gates: int = 0,
    per_site_gates: Mapping[str, int] | None = None,
    effort: str = "normal",
    sequential: bool = True,
    encode: bool | str = False,
    normalisation: bool = False,
    max_pool: bool | str = False,
    batch_axis: int | Mapping[str, int | None] | None = None,
    dynamic: Mapping[str, Any] | None = None,
    modules: Sequence[str | type[nn.Module]] | None = None,
    device: torch.device | str | None = None,
    resume: str | os.PathLike[str] | KeptStages | None = None,
    progress: bool = True,
) -> SpikingModel:
    """Replaces every nonlinear activation of a trained network by a fitted few-spikes neuron.

    Args:
        model: any module that `torch.export` takes; it is left as it was.
        calibration: unlabelled or labelled batches: a DataLoader, any iterable of tensors
            ``[N, ...]``, ``(inputs, label)`` pairs or dicts, one tensor, or a `Dataset`. A model
            that can't do without x and t is given ``(x, t)``, ``(x, t, label)`` or
            ``((x, t), label)``. Labels, and what forward doesn't take, are left out of the inputs;
            the report's notes say how batches were read where that isn't plain. Arrays of numpy
            will do for tensors. Floating-point inputs of another type, and uint8 images, are cast
            to the model's type where it refuses theirs.
        steps: K of every neuron; of several, the first is the network's own and the others are
            fitted beside it (`SpikingModel.with_steps`). ``"auto"`` chooses K for every site by
            what its error does to the outputs on the calibration data.
        max_loss: with ``"auto"``, the largest squared error of the outputs over their square on the
            calibration images (0.005 if None): the fewest steps in total that keep to it.
        budget: with ``"auto"``, the steps of all sites together instead.
        budget_spikes: with ``"auto"``, the events per neuron of the network instead, on average
            over the calibration data.
        budget_operations: with ``"auto"``, the operations for one image instead, as
            `count_operations(...).operations` counts them, events taken to come from all neurons
            of a site alike.
        budget_energy: with ``"auto"``, nanojoules for one image instead: the usual value of
            `energy(counts)` with memory, in float32, at 45 nm.
        spike_cost: price of spikes: neurons are fitted so that the outputs' squared error over
            their square, plus this times the events per neuron, is small to first order. An event
            is a spike, or the constant of a gated interval that has one. 0.001 to 0.02 is usual.
            With ``"auto"`` and no budget of steps, K and gates are chosen for the fewest events
            instead of the fewest steps.
        seed: of everything random; the same seed gives the same network.
        method: a key of `convert.fitting.methods.METHODS`.
        per_site_steps: another K for sites by name or glob (``{"layer4.*": 12}``).
        gates: G - 1, from 0 to 15: gates that divide the inputs of every neuron among G tables of
            K steps. They take one time step, and on curves they make errors far smaller. With
            ``steps="auto"``, the most that a site may get.
        per_site_gates: other gates for sites by name or glob.
        effort: ``"normal"``, or ``"high"`` for about ten times the work of fitting.
        sequential: goes through the network in order once more and takes out of every layer's bias
            the mean error that the sites before it make, channel by channel, where that lowers
            the outputs' error on the calibration data; False leaves the biases as trained.
        encode: True puts an identity neuron on every analog operand of a product or a weight
            layer (query, key, value, a norm's or a product's output), so that every multiplication
            is driven by spikes; ``"all"`` on the image too.
        normalisation: True takes layer, group, instance and RMS norms apart: mean, square, sum,
            inverse root and product, of which square and inverse root become neurons.
        max_pool: True makes max pooling and row maxima tournaments of ``max(a, b) = a + relu(b -
            a)`` with neurons for the ReLUs; ``"first"`` moves a max pooling before the monotone
            activation that precedes it, which saves neurons, and leaves that maximum as it is.
        batch_axis: the axis of the inputs that holds the images of a batch, 1 for sequences
            ``[T, N, F]``; ``{"state": 1, "mask": None}`` says it by the name of an input, None for
            one without a batch. None finds it by what the model does with a few images.
        dynamic: axes of the inputs that may have any length beside the batch, as
            ``{"input_ids": {1: "length"}}``: the axis and a name for its length, by the name of the
            input. Axes of one name are equally long; ``{"input_ids": [1]}`` gives no name. Lengths
            that differ from one calibration batch to the next vary without being named here.
        modules: names or globs of the model's modules, or classes: these parts are converted where
            the model calls them, and the rest stays Python (see ``docs/parts.md``). Sites are then
            named with their part; numbers by site, and a batch axis by input, as well. None
            converts the whole model.
        device: where the result lives; the model's device if None.
        resume: a folder in which stages are kept (see ``docs/resume.md``). A run that was killed
            goes on from them, to the result that it would have had; a run with another model, other
            data or settings is refused. `KeptStages` holds such a folder for several calls.
        progress: shows bars on stderr; one line a minute where that is no terminal.

    Raises:
        ConversionError: a subclass for a model, data or a setting that can't be used.
    """
    settings = ConversionSettings(
        steps=steps,
        max_loss=max_loss,
        budget=budget,
        budget_spikes=budget_spikes,
        budget_operations=budget_operations,
        budget_energy=budget_energy,
        spike_cost=spike_cost,
        seed=seed,
        method=method,
        per_site_steps={} if per_site_steps is None else per_site_steps,
        gates=gates,
        per_site_gates={} if per_site_gates is None else per_site_gates,
        effort=effort,
        sequential=sequential,
        encode=encode,
        normalisation=normalisation,
        max_pool=max_pool,
        batch_axis=batch_axis,
        dynamic=dynamic,
        modules=[] if modules is None else modules,  # type: ignore[arg-type]
    )
    if modules is not None and not settings.modules:
        raise InputError("modules= names no module; leave it out to convert the whole model")
    warn_of_many_steps((*settings.wanted, *settings.per_site_steps.values()), stacklevel=4)
    device = None if device is None else usable_device(device)
    if isinstance(calibration, PackedSequence):
        refuse_packed(calibration)  # a tuple, but none of batches
    with opened(resume) as folder:
        stages = folder.under(facts=partial(_facts, settings, device or _device_of(model)))
        # Other settings are told before any work.
        stages.once(SETTINGS, lambda: None)
        if modules is not None:
            wanted = [modules] if isinstance(modules, str | type) else modules
            return convert_parts(
                model,
                calibration,
                wanted,
                settings,
                stages=stages,
                device=device,
                progress=progress,
            )
        batches = batches_of(calibration)
        # One tensor is cut into batches once it is known along which axis.
        uncut = isinstance(calibration, Tensor | np.ndarray)
        none = object()
        first = calibration if uncut else next(iter(batches), none)
        if first is none:
            raise CalibrationError("the calibration data yields no batch; give at least one image")
        if first is None:
            raise CalibrationError("the first calibration batch is None; give batches of images")
        others = [] if uncut else others_of(batches)
        seen: list[Shapes] = []

        def all_of(captured: Captured) -> Any:
            return batches_of(calibration, captured.signature.cut_axis) if uncut else batches

        while True:
            try:
                ready = made_ready(
                    model, first, all_of, settings, others, seen, device=device, progress=progress
                )
                fixed = by_site(ready.sites, settings.per_site_steps, "per_site_steps")
                gated = gates_of(ready.sites, settings)
                # Each try has a graph of its own, and so stages of its own.
                own = stages.under(f"try {len(seen) + 1} " if seen else "")
                source = calibrated(ready, settings, fixed, gated, stages=own, progress=progress)
                break
            except NewShape as error:
                # A later batch has a length that none had before: once more, now that it varies.
                if error.shapes in seen:
                    raise
                seen.append(error.shapes)
            except RankFailed:
                raise
            except (CaptureError, InputError) as error:
                raise with_parts(error, model, first) from error.__cause__
        costs = costs_of(source, settings.automatic)
        return build(source, settings, costs=costs, seconds=ready.seconds, progress=progress)


def _device_of(model: nn.Module) -> torch.device | None:
    return next((tensor.device for tensor in model.state_dict().values()), None)


def _facts(settings: ConversionSettings, device: torch.device | None) -> dict[str, Any]:
    """What the stages of a conversion are made with."""
    asked = settings.to_dict()
    return surroundings(device) | {
        name: value if isinstance(value, str | int | float | None) else repr(value)
        for name, value in asked.items()
    }
