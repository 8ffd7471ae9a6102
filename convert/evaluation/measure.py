"""The spiking network against the original: step by step, for every K, and site by site."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm import tqdm

from ..common.batches import ahead, batches_once
from ..errors import InputError
from ..graph.call_signature import batch_size, rows
from ..network.model import SpikingModel
from ..sites.encode_operands import IDENTITY
from .metrics import Agreement, OutputError, metric_named, outputs_of
from .result import Evaluation

# On a CPU the layers' outputs for so many images still fit into a cache, or nearly.
_PIECE = 84


def evaluate(
    snn: SpikingModel,
    model: nn.Module | None,
    data: Any,
    *,
    metric: str = "agreement",
    by_site: int = 64,
    at: Collection[int] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Runs both networks on the same batches, the spiking one cut after every step as well.

    Args:
        snn: from `to_spiking`; the other K it was fitted for are evaluated beside it.
        model: the original; evaluated in eval mode on its own device and left as it was. None
            takes `snn.original()`.
        data: batches ``(inputs, labels)`` with class indices ``[N]``; without labels only the
            agreement is measured. A network that takes x and t is given ``(x, t)``,
            ``(x, t, labels)`` or ``((x, t), labels)``. One tensor of images will do, too, or one
            dict of keyword inputs. Read once.
        metric: ``"agreement"`` (or ``"classes"``) of the predicted classes, with accuracy and
            error of the logits; ``"output"`` for a network whose outputs are no classes: their
            relative error, see `convert.evaluation.metrics.OutputError`. It needs no labels.
        by_site: images on which each site's own and the accumulated error is measured; 0 for
            none.
        at: steps after which the network is read out beside the last; None for every step.
        progress: shows bars on stderr when that is a terminal.

    Raises:
        InputError: for data without batches, labels that don't fit the outputs, an unknown metric,
            or a step that the network doesn't have.
    """
    measure = metric_named(metric)
    original = snn.original() if model is None else model
    device = _device(snn)
    steps = snn.steps
    read = _steps(at, steps)
    exact = measure()
    readouts = {(t, c): measure() for t in read for c in (True, False)}
    bare = measure()
    encoders = {row.name for row in snn.report.sites if row.function == IDENTITY}
    others = [name for name in snn.sites if name not in encoders]
    refits = {int(k): measure() for k in snn.refitted}
    spikes: dict[Any, dict[str, int]] = {key: {} for key in [*read, *snn.refitted]}
    seconds = {"evaluate_original": 0.0, "evaluate_spiking": 0.0}
    kept: list[Any] = []
    images = 0
    data = batches_once(data)
    with torch.no_grad(), eval_mode(original), eval_mode(snn):
        total = len(data) if isinstance(data, Sized) else None
        bar = tqdm(ahead(data), "evaluate", total, disable=None if progress else True)
        for batch in bar:
            args, kwargs = snn.signature.split(batch)
            size = batch_size((args, kwargs))
            if not size:
                continue
            # The original might take what the spiking network can't, or say less of what is wrong.
            snn.signature.flatten(args, kwargs)
            if sum(batch_size(k) for k in kept) < by_site:
                room = by_site - sum(batch_size(k) for k in kept)
                kept.append(rows((args, kwargs), min(size, room)))
            begin = time.perf_counter()
            expected = _outputs(original, (args, kwargs), _device(original), device)
            seconds["evaluate_original"] += time.perf_counter() - begin
            labels = measure.labels(snn.signature.label(batch), expected)
            exact.add(expected, expected, labels)
            begin = time.perf_counter()
            whole = ((args, kwargs), expected, labels)
            for inputs, part, named in _pieces(snn, whole, size, device):
                with snn.repeated():
                    for t in read:
                        with snn.readout(t), snn.count_spikes() as counted:
                            found = _outputs(snn, inputs, device)
                        readouts[t, True].add(found, part, named)
                        _tally(spikes[t], counted)
                        if t < steps:
                            with snn.readout(t, corrected=False):
                                readouts[t, False].add(_outputs(snn, inputs, device), part, named)
                        else:
                            readouts[t, False].add(found, part, named)
                    if encoders:
                        with snn.spiking_only(others):
                            bare.add(_outputs(snn, inputs, device), part, named)
                    for k in snn.refitted:
                        with snn.with_steps(int(k)), snn.count_spikes() as counted:
                            refits[int(k)].add(_outputs(snn, inputs, device), part, named)
                        _tally(spikes[k], counted)
            seconds["evaluate_spiking"] += time.perf_counter() - begin
            images += size
    if not images:
        raise InputError("the test data yields no image; give at least one batch")
    site_rows = _by_site(snn, kept, measure, device, progress) if by_site else []
    return Evaluation.of(
        snn.report,
        metric=metric,
        images=images,
        exact=exact,
        readouts=readouts,
        refits=refits,
        bare=bare if encoders else None,
        spikes=spikes,
        by_site=site_rows,
        by_site_images=min(by_site, images),
        seconds=seconds,
    )


def _pieces(snn: SpikingModel, whole: Any, size: int, device: torch.device) -> Iterator[Any]:
    """A batch's inputs, outputs and labels, cut along the batch if the network takes any batch."""
    free = any(t is not None and t.shape[:1] == (None,) for t in snn.signature.inputs)
    count = max(round(size / _PIECE), 1) if free and device.type == "cpu" else 1
    leaves, spec = pytree.tree_flatten(whole)

    def cut(leaf: Any) -> Any:
        batched = isinstance(leaf, Tensor) and leaf.shape[:1] == (size,)
        return leaf.tensor_split(count) if batched else [leaf] * count

    for piece in zip(*map(cut, leaves), strict=True):
        yield pytree.tree_unflatten(piece, spec)


def _steps(at: Collection[int] | None, steps: int) -> list[int]:
    """Steps to read out after, the last among them, increasing."""
    for step in at or ():
        if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= steps:
            raise InputError(
                f"the network can be read out after steps 1 to {steps}, found {step!r}"
            )
    return list(range(1, steps + 1)) if at is None else sorted({*at, steps})


def _by_site(
    snn: SpikingModel,
    kept: list[Any],
    measure: type[Agreement] | type[OutputError],
    device: torch.device,
    progress: bool,
) -> list[dict[str, Any]]:
    """Error of the output with one site spiking, and with all sites up to it, in graph order."""
    names = list(snn.sites)
    with torch.no_grad(), eval_mode(snn):
        with snn.spiking_only(()):
            expected = [_outputs(snn, inputs, device) for inputs in kept]

        def measured(spiking: list[str]) -> dict[str, Any]:
            result = measure()
            with snn.spiking_only(spiking):
                for inputs, reference in zip(kept, expected, strict=True):
                    result.add(_outputs(snn, inputs, device), reference, None)
            return result.values

        result = []
        bar = tqdm(names, "evaluate by site", disable=None if progress else True)
        for index, name in enumerate(bar):
            own, total = measured([name]), measured(names[: index + 1])
            row = {key: own[key] for key in measure.by_site}
            row |= {f"accumulated_{key}": total[key] for key in measure.by_site}
            result.append({"name": name, **row})
    return result


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode inside the block and leaves all as they were."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


def _outputs(
    model: Callable[..., Any], inputs: Any, device: torch.device, to: torch.device | None = None
) -> dict[str, Tensor]:
    """The floating-point outputs by name, on the model's device or another."""
    args, kwargs = pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs
    )
    found = outputs_of(model(*args, **kwargs))
    return {name: output.to(to or device) for name, output in found.items()}


def _tally(total: dict[str, int], counted: dict[str, int]) -> None:
    for name, count in counted.items():
        total[name] = total.get(name, 0) + count


def _device(model: nn.Module) -> torch.device:
    return next((t.device for t in model.state_dict().values()), torch.device("cpu"))
