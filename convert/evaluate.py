"""The spiking network against the original: step by step, for every K, and site by site."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from tqdm import tqdm

from .batches import ahead
from .encode import IDENTITY
from .errors import InputError
from .evaluation import Evaluation
from .metrics import Agreement, RelativeError
from .signature import batch_size, rows, split_batch
from .spiking import SpikingModel


def evaluate(
    snn: SpikingModel,
    model: nn.Module | None,
    data: Iterable[Any],
    *,
    by_site: int = 64,
    at: Collection[int] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Runs both networks on labelled batches, the spiking one cut after every step as well.

    Args:
        snn: from `to_spiking`; the other K it was fitted for are evaluated beside it.
        model: the original; evaluated in eval mode on its own device and left as it was. None
            takes `snn.original()`.
        data: batches ``(inputs, labels)`` with class indices ``[N]``; without labels only the
            agreement is measured. Read once.
        by_site: images on which each site's own and the accumulated error is measured; 0 for
            none.
        at: steps after which the network is read out beside the last; None for every step.
        progress: shows bars on stderr when that is a terminal.

    Raises:
        InputError: for data without batches, labels that don't fit the outputs, or a step that the
            network doesn't have.
    """
    original = snn.original() if model is None else model
    device = _device(snn)
    steps = snn.steps
    read = _steps(at, steps)
    exact = Agreement()
    readouts = {(t, c): Agreement() for t in read for c in (True, False)}
    bare = Agreement()
    encoders = {row.name for row in snn.report.sites if row.function == IDENTITY}
    others = [name for name in snn.sites if name not in encoders]
    refits = {int(k): Agreement() for k in snn.refitted}
    spikes: dict[Any, dict[str, int]] = {key: {} for key in [*read, *snn.refitted]}
    seconds = {"evaluate_original": 0.0, "evaluate_spiking": 0.0}
    kept: list[Any] = []
    images = 0
    with torch.no_grad(), eval_mode(original), eval_mode(snn):
        total = len(data) if isinstance(data, Sized) else None
        bar = tqdm(ahead(data), "evaluate", total, disable=None if progress else True)
        for batch in bar:
            args, kwargs = split_batch(batch)
            size = batch_size((args, kwargs))
            if not size:
                continue
            labels = _labels(batch)
            if sum(batch_size(k) for k in kept) < by_site:
                room = by_site - sum(batch_size(k) for k in kept)
                kept.append(rows((args, kwargs), min(size, room)))
            begin = time.perf_counter()
            expected = _logits(original, (args, kwargs), _device(original)).to(device)
            seconds["evaluate_original"] += time.perf_counter() - begin
            labels = _check_labels(labels, expected)
            exact.add(expected, expected, labels)
            begin = time.perf_counter()
            inputs = (args, kwargs)
            with snn.repeated():
                for t in read:
                    with snn.readout(t), snn.count_spikes() as counted:
                        found = _logits(snn, inputs, device)
                    readouts[t, True].add(found, expected, labels)
                    _tally(spikes[t], counted)
                    if t < steps:
                        with snn.readout(t, corrected=False):
                            readouts[t, False].add(_logits(snn, inputs, device), expected, labels)
                    else:
                        readouts[t, False].add(found, expected, labels)
                if encoders:
                    with snn.spiking_only(others):
                        bare.add(_logits(snn, inputs, device), expected, labels)
                for k in snn.refitted:
                    with snn.with_steps(int(k)), snn.count_spikes() as counted:
                        refits[int(k)].add(_logits(snn, inputs, device), expected, labels)
                    _tally(spikes[k], counted)
            seconds["evaluate_spiking"] += time.perf_counter() - begin
            images += size
    if not images:
        raise InputError("the test data yields no image; give at least one batch")
    site_rows = _by_site(snn, kept, device, progress) if by_site else []
    return Evaluation.of(
        snn.report,
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


def _steps(at: Collection[int] | None, steps: int) -> list[int]:
    """Steps to read out after, the last among them, increasing."""
    for step in at or ():
        if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= steps:
            raise InputError(
                f"the network can be read out after steps 1 to {steps}, found {step!r}"
            )
    return list(range(1, steps + 1)) if at is None else sorted({*at, steps})


def _by_site(
    snn: SpikingModel, kept: list[Any], device: torch.device, progress: bool
) -> list[dict[str, Any]]:
    """Error of the output with one site spiking, and with all sites up to it, in graph order."""
    names = list(snn.sites)
    with torch.no_grad(), eval_mode(snn):
        with snn.spiking_only(()):
            expected = [_logits(snn, inputs, device) for inputs in kept]

        def measured(spiking: list[str]) -> tuple[float, float]:
            error, agreement = RelativeError(), Agreement()
            with snn.spiking_only(spiking):
                for inputs, reference in zip(kept, expected, strict=True):
                    found = _logits(snn, inputs, device)
                    error.add(found, reference)
                    agreement.add(found, reference, None)
            return error.value, agreement.agreement

        result = []
        bar = tqdm(names, "evaluate by site", disable=None if progress else True)
        for index, name in enumerate(bar):
            own, own_agreement = measured([name])
            total, total_agreement = measured(names[: index + 1])
            result.append(
                {
                    "name": name,
                    "logit_rmse": own,
                    "agreement": own_agreement,
                    "accumulated_logit_rmse": total,
                    "accumulated_agreement": total_agreement,
                }
            )
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


def _logits(model: Callable[..., Any], inputs: Any, device: torch.device) -> Tensor:
    """The first floating-point output ``[N, classes, ...]``."""
    args, kwargs = pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs
    )
    for leaf in pytree.tree_leaves(model(*args, **kwargs)):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= 2:
            return leaf
    raise InputError("the model returns no logits [N, classes]; evaluate needs a classifier")


def _labels(batch: Any) -> Tensor | None:
    if isinstance(batch, tuple | list) and len(batch) > 1:
        labels = batch[1]
        return labels if isinstance(labels, Tensor) else torch.as_tensor(labels)
    return None


def _check_labels(labels: Tensor | None, logits: Tensor) -> Tensor | None:
    """Labels on the logits' device.

    Raises:
        InputError: for another shape or a class that the logits don't have.
    """
    if labels is None:
        return None
    expected = (logits.shape[0], *logits.shape[2:])
    if labels.shape != expected or labels.is_floating_point():
        raise InputError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; outputs {tuple(logits.shape)} need "
            f"class indices {expected}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise InputError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, but the network has "
            f"{logits.shape[1]} classes; give the data set that it was trained on"
        )
    return labels.to(logits.device)


def _tally(total: dict[str, int], counted: dict[str, int]) -> None:
    for name, count in counted.items():
        total[name] = total.get(name, 0) + count


def _device(model: nn.Module) -> torch.device:
    return next((t.device for t in model.state_dict().values()), torch.device("cpu"))
