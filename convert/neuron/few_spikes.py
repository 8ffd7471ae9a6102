"""The few-spikes neuron: a SpikingJelly step module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import base
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor

from ..errors import InputError
from . import fused as kernel
from . import surrogate


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
        self.readout_step: int | None = None
        self.readout_corrected = False
        self.counting = False
        self.spike_count = 0
        # Set by a network that has no other use for the neuron's input.
        self.in_place = False

    @property
    def steps(self) -> int:
        """K, the number of time steps."""
        return len(self.thresholds)

    def supported_step_mode(self) -> tuple[str, ...]:
        """SpikingJelly's name for the modes: ``s`` and ``m``."""
        return ("s", "m")

    def forward(self, x: Tensor) -> Tensor:
        """Decoded output for ``x [...]`` in mode ``s``.

        In mode ``m`` the input currents ``[K, ...]`` are summed and the output ``[K, ...]`` holds
        the weighted spikes d(t) s(t), as in SpikingJelly.
        """
        if self.step_mode == "s":
            return self.decode(x)
        if x.shape[:1] != (self.steps,):
            raise InputError(
                f"step mode m takes [{self.steps}, ...], found {tuple(x.shape)}; stack one input "
                "current a time step"
            )
        x = x.sum(0)
        spikes = self.spikes(x)
        shape = (-1,) + (1,) * x.dim()
        return spikes.to(self.weights.dtype) * self.weights.view(shape)

    def decode(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """Output for ``x [...]``, of x's shape and dtype, whatever the step mode.

        With an `addend` like x, for ``x + addend``, in one pass over memory where that can be.

        Gradients pass each spike by a triangle around its threshold (see `surrogate`), and don't
        pass resets. With `readout_step` t < K only the first t steps count, plus the calibrated
        mean of what the others would have added if `readout_corrected`.
        """
        T, h, d, offset = self.thresholds, self.resets, self.weights, self.offset
        steps = len(T) if self.readout_step is None else min(self.readout_step, len(T))
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, T, h, d))
        if addend is not None and not (
            x.dtype == addend.dtype == T.dtype
            and x.shape == addend.shape
            and kernel.usable(addend)
            and kernel.usable(x)
            and not learns
        ):
            return self.decode(x + addend)
        v = x.to(torch.promote_types(x.dtype, T.dtype))
        if self.readout_corrected and steps < len(T):
            offset = offset + self.missing_mean[steps]
        if not learns and v.dtype == T.dtype and kernel.usable(v):
            y, count = kernel.run(
                v,
                T,
                h,
                d,
                offset,
                self.counting,
                steps=steps,
                in_place=self.in_place or v is not x,
                addend=addend,
            )
            if count:
                self.spike_count += count
            return y.to(x.dtype)
        potential, y = v, torch.zeros_like(v) + offset
        fired: Tensor | None = None
        widths = surrogate.widths(h) if learns else None
        for t in range(steps):
            if widths is None:
                s = (potential > T[t]).to(v.dtype)
            else:
                s = surrogate.fire(potential, T[t], widths[t])
            y = y + d[t] * s
            potential = potential - h[t] * s.detach()
            if self.counting:
                spikes = s.sum(dtype=torch.float64)
                fired = spikes if fired is None else fired + spikes
        if fired is not None:
            self.spike_count += int(fired)
        return torch.where(v != v, v, y).to(x.dtype)

    def spikes(self, x: Tensor) -> Tensor:
        """Binary spike trains, bool ``[K, *x.shape]``."""
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
