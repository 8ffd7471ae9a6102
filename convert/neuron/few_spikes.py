"""The few-spikes neuron: a SpikingJelly step module."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import base
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import InputError
from . import fused, surrogate


@dataclass(frozen=True)
class NeuronPlan:
    """What one call of a neuron does; it is handed to the call and never kept by the neuron.

    Args:
        steps: time steps after which the neuron is read out; None, or K and more, for all of them.
        corrected: adds the calibrated mean of what the missing steps would have added.
        count: told the number of spikes of the call; None if nobody asks.
        in_place: the output may take the memory of the input.
    """

    steps: int | None = None
    corrected: bool = False
    count: Callable[[int], None] | None = None
    in_place: bool = False


WHOLE = NeuronPlan()
# What a neuron that is called by itself does in this thread, if a network's block says so.
around: ContextVar[Callable[[FewSpikesNeuron], NeuronPlan] | None] = ContextVar(
    "around", default=None
)


class FewSpikesNeuron(base.StepModule, torch.nn.Module):
    """K time steps in which one membrane potential is compared, read out and reset.

    v(1) = x; for t = 1..K: s(t) = [v(t) > T(t)], y += d(t) s(t), v(t+1) = v(t) - h(t) s(t).
    It fires strictly above the threshold; an input at a threshold, and -0.0 at a threshold of 0,
    don't fire. Infinities end at the saturated ends of y(x); NaN stays NaN. Thresholds, resets
    and weights stay float32 (or float64) when the module is cast to half precision, and so does
    the membrane potential. Source: Stöckl & Maass 2021, arXiv 2002.00860, eq. 1-3.

    Args:
        thresholds: T, ``[K]``, in units of the input.
        resets: h, ``[K]``, in units of the input.
        weights: d, ``[K]``, in units of the output.
        offset: y0, what is read out without any spike.
        dtype: float32 or float64.

    Raises:
        InputError: for empty, non-finite, or differently long parameters.
    """

    thresholds: Tensor
    resets: Tensor
    weights: Tensor
    offset: Tensor
    missing_mean: Tensor

    def __init__(
        self,
        thresholds: Any,
        resets: Any,
        weights: Any,
        offset: float = 0.0,
        *,
        dtype: torch.dtype = torch.float32,
        step_mode: str = "s",
    ) -> None:
        super().__init__()
        self.step_mode = step_mode
        named = {"thresholds": thresholds, "resets": resets, "weights": weights, "offset": offset}
        for name, value in named.items():
            tensor = torch.as_tensor(value).detach().to("cpu", dtype).clone()
            if not bool(tensor.isfinite().all()):
                raise InputError(f"{name} of a few-spikes neuron must be finite, found {tensor}")
            self.register_buffer(name, tensor)
        lengths = {name: tuple(getattr(self, name).shape) for name in list(named)[:3]}
        if len(set(lengths.values())) > 1 or self.thresholds.dim() != 1 or not len(self.thresholds):
            raise InputError(f"T, h and d need one length K >= 1 each, found shapes {lengths}")
        self.register_buffer("missing_mean", torch.zeros(len(self.thresholds), dtype=dtype))

    @property
    def steps(self) -> int:
        """K, the number of time steps."""
        return len(self.thresholds)

    def supported_step_mode(self) -> tuple[str, ...]:
        """SpikingJelly's name for the modes: ``s`` and ``m``."""
        return ("s", "m")

    def forward(self, x: Tensor, *, plan: NeuronPlan | None = None) -> Tensor:
        """Decoded output for ``x [...]`` in mode ``s``, and in any mode with a `plan`.

        In mode ``m`` the input currents ``[K, ...]`` are summed and the output ``[K, ...]`` holds
        the weighted spikes d(t) s(t), as in SpikingJelly.
        """
        if plan is not None or self.step_mode == "s":
            return self.decode(x, plan=plan)
        if x.shape[:1] != (self.steps,):
            raise InputError(
                f"step mode m takes [{self.steps}, ...], found {tuple(x.shape)}; stack one input "
                "current a time step"
            )
        x = x.sum(0)
        spikes = self.spikes(x)
        shape = (-1,) + (1,) * x.dim()
        return spikes.to(self.weights.dtype) * self.weights.view(shape)

    def decode(
        self, x: Tensor, addend: Tensor | None = None, *, plan: NeuronPlan | None = None
    ) -> Tensor:
        """Output for ``x [...]``, of x's shape and dtype, whatever the step mode.

        With an `addend` like x, for ``x + addend``, in one pass over memory where that can be.

        Gradients pass each spike by a triangle around its threshold (see `surrogate`), and don't
        pass resets.

        Args:
            x: membrane potentials at the first step, floating point ``[...]``.
            addend: added to x first, of its shape and dtype; None for nothing.
            plan: see `NeuronPlan`; None for what the blocks of the neuron's network say, such as
                `readout`.

        Raises:
            InputError: for a tensor that isn't dense or of floating point, or parameters that
                were replaced by tensors of another length.
        """
        T, h, d = self.thresholds, self.resets, self.weights
        if not T.shape == h.shape == d.shape or T.dim() != 1 or self.offset.numel() != 1:
            self._refuse_lengths()
        K = T.shape[0]
        if plan is None:
            plan = WHOLE if torch.compiler.is_compiling() else _plan_around(self)
        steps = K if plan.steps is None else min(plan.steps, K)
        offset = self.offset
        if plan.corrected and steps < K:
            if self.missing_mean.shape != T.shape:
                self._refuse_lengths()
            offset = offset + self.missing_mean[steps]
        learns = _learns(x, addend, T, h, d)
        if addend is not None and (
            learns
            or not (x.dtype == addend.dtype == T.dtype and x.shape == addend.shape)
            or not (fused.usable(addend) and fused.usable(x))
        ):
            x, addend = x + addend, None
        x = _dense(x)
        v = x.to(torch.promote_types(x.dtype, T.dtype))
        if not learns and fused.usable(v) and _plain(v.dtype, T, h, d, offset):
            y, count = fused.run(
                v,
                T,
                h,
                d,
                offset,
                plan.count is not None,
                steps=steps,
                in_place=plan.in_place or v is not x,
                addend=addend,
            )
            if plan.count is not None:
                plan.count(count)
            return y.to(x.dtype)
        try:
            return self._step_by_step(v, offset, steps, learns, plan.count).to(x.dtype)
        except (TypeError, NotImplementedError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"a neuron can't run on a {type(x).__name__}: {lines[0][:200]}; give a plain tensor"
            ) from error

    def _step_by_step(
        self,
        x: Tensor,
        offset: Tensor,
        steps: int,
        learns: bool,
        count: Callable[[int], None] | None,
    ) -> Tensor:
        """The definition in torch's operations: for gradients, and whatever has no memory."""
        T, h, d = self.thresholds, self.resets, self.weights
        v, y = x, torch.zeros_like(x) + offset
        fired: Tensor | None = None
        widths = surrogate.widths(h) if learns else None
        for t in range(steps):
            fires = v > T[t] if widths is None else surrogate.fire(v, T[t], widths[t])
            s = fires.to(v.dtype)
            y = y + d[t] * s
            v = v - h[t] * s.detach()
            if count is not None:
                spikes = s.sum(dtype=torch.float64)
                fired = spikes if fired is None else fired + spikes
        if count is not None:
            count(_whole(fired))
        return torch.where(x != x, x, y)

    def _refuse_lengths(self) -> None:
        found = {
            name: tuple(getattr(self, name).shape)
            for name in ("thresholds", "resets", "weights", "missing_mean", "offset")
        }
        raise InputError(
            f"T, h, d and the means of missing steps need one length K, and y0 one value, found "
            f"shapes {found}; replace all of them together"
        )

    def spikes(self, x: Tensor) -> Tensor:
        """Binary spike trains, bool ``[K, *x.shape]``."""
        x = _dense(x)
        v = x.to(torch.promote_types(x.dtype, self.thresholds.dtype))
        trains = []
        for t in range(self.steps):
            s = v > self.thresholds[t]
            trains.append(s)
            v = v - self.resets[t] * s.to(v.dtype)
        return torch.stack(trains)

    def set_missing_means(self, x: Tensor, probability: Tensor) -> None:
        """Stores for every step what the steps after it add on average.

        Args:
            x: input values ``[B]``.
            probability: their shares ``[B]``, summing to 1.
        """
        rates = (self.spikes(x).double() * probability.double()).sum(1)
        added = (rates * self.weights.double()).flip(0).cumsum(0).flip(0)
        # Entry t is the mean of the steps with (zero-based) index t and later.
        self.missing_mean.copy_(added.to(self.missing_mean))

    def unfreeze(self) -> FewSpikesNeuron:
        """Makes T, h and d parameters that can be trained; their names stay."""
        for name in ("thresholds", "resets", "weights"):
            tensor = self._buffers.pop(name, None)
            if tensor is not None:
                self.register_parameter(name, torch.nn.Parameter(tensor.clone()))
        return self.requires_grad_()

    def to_table(self) -> sj_neuron.FewSpikeTable:
        """SpikingJelly's table of this neuron; y0 (`offset`) is not part of it.

        SpikingJelly fires at v >= theta, so theta is the next float above T.
        """
        above = torch.full_like(self.thresholds, float("inf"))
        theta = torch.nextafter(self.thresholds, above)
        return sj_neuron.FewSpikeTable(theta, self.resets.clone(), self.weights.clone())

    @classmethod
    def from_table(
        cls, table: sj_neuron.FewSpikeTable, offset: float = 0.0, *, step_mode: str = "s"
    ) -> FewSpikesNeuron:
        """The neuron that equals SpikingJelly's node with this table, plus `offset`."""
        theta = torch.as_tensor(table.theta)
        below = torch.full_like(theta, -float("inf"))
        return cls(
            torch.nextafter(theta, below),
            table.h,
            table.d,
            offset,
            dtype=theta.dtype,
            step_mode=step_mode,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FewSpikesNeuron:
        def guarded(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in (torch.float32, torch.float64):
                return moved
            # Casting to half precision would move the thresholds: follow the device only.
            return tensor.to(moved.device)

        super()._apply(guarded, recurse)
        return self

    def extra_repr(self) -> str:
        """Steps and readout for `print`."""
        return f"steps={self.steps}, offset={float(self.offset):.4g}, step_mode={self.step_mode}"


def _plan_around(neuron: FewSpikesNeuron) -> NeuronPlan:
    found = around.get()
    return WHOLE if found is None else found(neuron)


def _learns(x: Tensor, addend: Tensor | None, *parameters: Tensor) -> bool:
    """Whether somebody follows derivatives: autograd backwards, or forwards in a dual level."""
    if forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    given = addend is not None and addend.requires_grad
    return given or x.requires_grad or any(t.requires_grad for t in parameters)


def _plain(dtype: torch.dtype, *parameters: Tensor) -> bool:
    """Whether compiled code may read the parameters where they lie."""
    return all(
        t.dtype == dtype and type(t) in (Tensor, torch.nn.Parameter) and not t.is_neg()
        for t in parameters
    )


def _dense(x: Tensor) -> Tensor:
    """The same values in memory that can be read as it lies.

    Raises:
        InputError: for a tensor whose values don't all lie in memory, or are no real numbers.
    """
    if x.layout is not torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else str(x.layout).removeprefix("torch.")
        raise InputError(
            f"a neuron takes a dense tensor, found a {kind} one; call .to_dense() or "
            ".to_padded_tensor(0.0) first"
        )
    if not x.dtype.is_floating_point:
        raise InputError(
            f"a neuron takes floating-point values, found {x.dtype}; call .float() first"
        )
    if torch.compiler.is_compiling():
        return x
    if x._is_zerotensor():
        return torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    return x.resolve_neg() if x.is_neg() else x


def _whole(fired: Tensor | None) -> int:
    """Spikes as a number; nobody knows them where there are no values."""
    if fired is None or fired.is_meta:
        return 0
    try:
        return int(fired)
    except RuntimeError as error:
        raise InputError(
            "spikes can't be counted while torch.func or a tracer follows the values; leave "
            "count_spikes out there"
        ) from error
