"""The few-spikes neuron: a SpikingJelly step module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import base
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import InputError
from . import fused, operator
from .steps import Tables, as_count, as_tally, interval, run


@dataclass(frozen=True)
class NeuronPlan:
    """What one call of a neuron does; it is handed to the call and never kept by the neuron.

    Args:
        steps: time steps after which the neuron is read out; None, or K and more, for all of them.
        corrected: adds the calibrated mean of what the missing steps would have added.
        count: told the number of events of the call: spikes, and with gates the constants y0 that
            aren't 0; None if nobody asks. On a GPU it is a tensor there, int64 without dimensions,
            so that nothing waits.
        in_place: the output may take the memory of the input.
        tally: told the number of events of each value, uint8 (int32 from K = 255 on), of the
            input's shape, in memory as the output lies; they sum up to the count. None if nobody
            asks.
    """

    steps: int | None = None
    corrected: bool = False
    count: Callable[[int | Tensor], None] | None = None
    in_place: bool = False
    tally: Callable[[Tensor], None] | None = None

    def tell(self, count: int | Tensor, tally: Tensor | None) -> None:
        """Tells whoever asked the events of a call."""
        if self.count is not None:
            self.count(count)
        if self.tally is not None and tally is not None:
            self.tally(tally)


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

    A gated neuron first compares x with G - 1 gates: x in (g(r-1), g(r)] runs table r for its K
    steps. That takes one time step more (`latency`), and an interval whose y0 isn't 0 costs an
    event beside the spikes. Source of the gates: LAS, arXiv 2505.09659, and SpikingJelly's
    `HGNode`.

    Args:
        thresholds: T, ``[K]``, or ``[G, K]`` with gates, in units of the input.
        resets: h, of that shape, in units of the input.
        weights: d, of that shape, in units of the output.
        offset: y0, what is read out without any spike; ``[G]`` with gates.
        gates: ``[G - 1]``, never falling, in units of the input; none for one table.
        dtype: float32 or float64.

    Raises:
        InputError: for empty, non-finite, or differently long parameters, or gates that fall.
    """

    thresholds: Tensor
    resets: Tensor
    weights: Tensor
    offset: Tensor
    missing_mean: Tensor
    gates: Tensor | None

    def __init__(
        self,
        thresholds: Any,
        resets: Any,
        weights: Any,
        offset: Any = 0.0,
        gates: Any = None,
        *,
        dtype: torch.dtype = torch.float32,
        step_mode: str = "s",
    ) -> None:
        super().__init__()
        self.step_mode = step_mode
        self._rows = fused.Rows()
        named = {"thresholds": thresholds, "resets": resets, "weights": weights, "offset": offset}
        if gates is not None and torch.as_tensor(gates).numel():
            named["gates"] = gates
        for name, value in named.items():
            tensor = torch.as_tensor(value).detach().to("cpu", dtype).clone()
            if not bool(tensor.isfinite().all()):
                raise InputError(f"{name} of a few-spikes neuron must be finite, found {tensor}")
            self.register_buffer(name, tensor)
        if "gates" not in named:
            self.register_buffer("gates", None)
        self._check_shapes()
        self.register_buffer("missing_mean", torch.zeros_like(self.thresholds))

    def _check_shapes(self) -> None:
        shapes = {n: tuple(getattr(self, n).shape) for n in ("thresholds", "resets", "weights")}
        T, gates = self.thresholds, self.gates
        if gates is None:
            if len(set(shapes.values())) > 1 or T.dim() != 1 or not len(T):
                raise InputError(f"T, h and d need one length K >= 1 each, found shapes {shapes}")
            return
        intervals = gates.numel() + 1
        if len(set(shapes.values())) > 1 or T.dim() != 2 or len(T) != intervals or not T.numel():
            raise InputError(
                f"{gates.numel()} gates need T, h and d of shape [{intervals}, K] each, found "
                f"shapes {shapes}"
            )
        if self.offset.shape != (intervals,):
            raise InputError(
                f"{gates.numel()} gates need {intervals} constants y0, found shape "
                f"{tuple(self.offset.shape)}"
            )
        # Gates that a data type can't tell apart have an empty interval between them.
        if gates.dim() != 1 or not bool((gates[1:] >= gates[:-1]).all()):
            raise InputError(f"gates must be one row that never falls, found {gates.tolist()}")

    @property
    def steps(self) -> int:
        """K, the number of time steps of a table."""
        return self.thresholds.shape[-1]

    @property
    def intervals(self) -> int:
        """G, the number of tables; 1 without gates."""
        return 1 if self.gates is None else len(self.thresholds)

    @property
    def latency(self) -> int:
        """Time steps from input to output: K, and one for the gates."""
        return self.steps + (self.gates is not None)

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
        weights = self.weights
        if self.gates is None:
            weights = weights.view((-1,) + (1,) * x.dim())
        else:
            weights = weights.t()[:, self.interval(x)]
        return spikes.to(weights.dtype) * weights

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
        T, h, d, offset, gates = self._numbers()
        shape = T.shape
        offsets = 1 if gates is None else gates.shape[0] + 1
        if not shape == h.shape == d.shape or offset.numel() != offsets:
            self._refuse_lengths()
        if shape[:-1] != (() if gates is None else (offsets,)):
            self._refuse_lengths()
        K = shape[-1]
        if plan is None:
            plan = WHOLE if torch.compiler.is_compiling() else _plan_around(self)
        steps = K if plan.steps is None else min(plan.steps, K)
        if plan.corrected and steps < K:
            if self.missing_mean.shape != shape:
                self._refuse_lengths()
            offset = offset + self.missing_mean[..., steps]
        tables = Tables(T, h, d, offset, gates)
        learns = _learns(x, addend, T, h, d, gates)
        tallying = plan.tally is not None
        counting = tallying or plan.count is not None
        if not learns and operator.wanted(counting):
            return operator.neuron(_dense(x if addend is None else x + addend), tables, steps)
        if addend is not None and (
            learns
            or not (x.dtype == addend.dtype and x.shape == addend.shape)
            or not (x.dtype == T.dtype or fused.casts(x))
            or not (fused.usable(addend) and fused.usable(x))
        ):
            x, addend = x + addend, None
        x = _dense(x)
        state = T.dtype if x.dtype is T.dtype else torch.promote_types(x.dtype, T.dtype)
        cast = x.dtype is not state and (learns or not fused.casts(x))
        v = x.to(state) if cast else x
        if not learns and fused.usable(v) and fused.readable(tables, state):
            y, count, tally = fused.run(
                v,
                tables,
                counting,
                steps=steps,
                in_place=plan.in_place or v is not x,
                addend=addend,
                kept=self._rows,
                tallying=tallying,
            )
            if counting:
                plan.tell(count, tally)
            return y if y.dtype is x.dtype else y.to(x.dtype)
        if addend is not None:
            x = x + addend
        if addend is not None or v.dtype != state:
            v = x.to(state)
        try:
            y, events = run(v, tables, steps, learns=learns, counting=counting)
        except (TypeError, NotImplementedError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"a neuron can't run on a {type(x).__name__}: {lines[0][:200]}; give a plain tensor"
            ) from error
        if events is not None:
            plan.tell(as_count(events), as_tally(events, K) if tallying else None)
        return y.to(x.dtype)

    def _numbers(self) -> Tables:
        """T, h, d, y0 and the gates as they are now; quicker than their names, one by one."""
        own = self._buffers
        T, h, d, offset = map(own.get, ("thresholds", "resets", "weights", "offset"))
        if T is None or h is None or d is None or offset is None or "gates" not in own:
            # Some are parameters, or somebody computes them.
            return Tables(self.thresholds, self.resets, self.weights, self.offset, self.gates)
        return Tables(T, h, d, offset, own["gates"])

    def _refuse_lengths(self) -> None:
        found = {
            name: tuple(getattr(self, name).shape)
            for name in ("thresholds", "resets", "weights", "missing_mean", "offset")
        }
        raise InputError(
            f"T, h, d and the means of missing steps need one length K, and y0 one value, for "
            f"each of {self.intervals} tables, found shapes {found}; replace all of them together"
        )

    def spikes(self, x: Tensor) -> Tensor:
        """Binary spike trains, bool ``[K, *x.shape]``; those of each value's own table."""
        x = _dense(x)
        v = x.to(torch.promote_types(x.dtype, self.thresholds.dtype))
        T, h = self.thresholds, self.resets
        if self.gates is not None:
            index = interval(v, self.gates)
            T, h = T.t()[:, index], h.t()[:, index]
        trains = []
        for t in range(self.steps):
            s = v > T[t]
            trains.append(s)
            v = v - h[t] * s.to(v.dtype)
        return torch.stack(trains)

    def interval(self, x: Tensor) -> Tensor:
        """The table that each value runs, int64 like ``x [...]``; 0 without gates."""
        if self.gates is None:
            return torch.zeros(x.shape, dtype=torch.int64, device=x.device)
        return interval(x.to(torch.promote_types(x.dtype, self.gates.dtype)), self.gates)

    def set_missing_means(self, x: Tensor, probability: Tensor) -> None:
        """Stores for every step what the steps after it add on average.

        Args:
            x: input values ``[B]``.
            probability: their shares ``[B]``, summing to 1.
        """
        spikes, probability = self.spikes(x).double(), probability.double()
        index = self.interval(x)
        means = []
        for r in range(self.intervals):
            inside = torch.where(index == r, probability, 0.0)
            rates = (spikes * inside).sum(1) / inside.sum().clamp_min(1e-300)
            weights = self.weights if self.gates is None else self.weights[r]
            # Entry t is the mean of the steps with (zero-based) index t and later.
            means.append((rates * weights.double()).flip(0).cumsum(0).flip(0))
        self.missing_mean.copy_(torch.stack(means).view_as(self.missing_mean))

    def unfreeze(self) -> FewSpikesNeuron:
        """Makes T, h, d and the gates parameters that can be trained; their names stay."""
        for name in ("thresholds", "resets", "weights", "gates"):
            tensor = self._buffers.get(name)
            if tensor is not None:
                del self._buffers[name]
                self.register_parameter(name, torch.nn.Parameter(tensor.clone()))
        return self.requires_grad_()

    def to_table(self) -> sj_neuron.FewSpikeTable | GatedTable:
        """SpikingJelly's table of this neuron, or with gates its `HGNode`; y0 is no part of them.

        SpikingJelly fires at v >= theta, so theta is the next float above T. An `HGNode` compares
        its gates as this neuron does; they differ there, so empty intervals are left out.
        """
        if self.gates is None:
            return _sj_table(self.thresholds, self.resets, self.weights)
        gates = self.gates.detach().sort().values
        rows = zip(self.thresholds, self.resets, self.weights, strict=True)
        filled = [True, *(gates[1:] > gates[:-1]).tolist()]
        tables = [_sj_table(*row) for row, kept in zip(rows, [*filled, True], strict=True) if kept]
        return GatedTable(tables, gates[torch.tensor(filled, device=gates.device)])

    @classmethod
    def from_table(
        cls,
        table: sj_neuron.FewSpikeTable | sj_neuron.HGNode,
        offset: Any = 0.0,
        *,
        step_mode: str = "s",
    ) -> FewSpikesNeuron:
        """The neuron that equals SpikingJelly's node with this table, plus `offset`."""
        gates = None
        if isinstance(table, sj_neuron.HGNode):
            theta, h, d = table.region_theta, table.region_h, table.region_d
            gates = table.gate_thresholds
            offset = torch.as_tensor(offset).expand(len(theta))
        else:
            theta, h, d = torch.as_tensor(table.theta), table.h, table.d
        below = torch.full_like(theta, -float("inf"))
        return cls(
            torch.nextafter(theta, below),
            h,
            d,
            offset,
            gates,
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
        y0 = ", ".join(f"{float(value):.4g}" for value in self.offset.view(-1))
        gates = "" if self.gates is None else f"gates={len(self.gates)}, "
        return f"steps={self.steps}, {gates}offset={y0}, step_mode={self.step_mode}"


class GatedTable(sj_neuron.HGNode):
    """SpikingJelly's `HGNode` of a gated neuron; it unpacks into its tables and gates.

    Args:
        tables: one for each interval.
        gates: ``[G - 1]``.
    """

    def __init__(self, tables: Sequence[sj_neuron.FewSpikeTable], gates: Tensor) -> None:
        super().__init__(tables, gates)
        self.tables = list(tables)

    def __iter__(self) -> Iterator[Any]:
        yield self.tables
        yield self.gate_thresholds


def _sj_table(thresholds: Tensor, resets: Tensor, weights: Tensor) -> sj_neuron.FewSpikeTable:
    """SpikingJelly's table: it fires at v >= theta."""
    above = torch.full_like(thresholds, float("inf"))
    theta = torch.nextafter(thresholds.detach(), above)
    return sj_neuron.FewSpikeTable(theta, resets.detach().clone(), weights.detach().clone())


def _plan_around(neuron: FewSpikesNeuron) -> NeuronPlan:
    found = around.get()
    return WHOLE if found is None else found(neuron)


def _learns(x: Tensor, addend: Tensor | None, *parameters: Tensor | None) -> bool:
    """Whether somebody follows derivatives: autograd backwards, or forwards in a dual level."""
    if forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    given = addend is not None and addend.requires_grad
    return given or x.requires_grad or any(t is not None and t.requires_grad for t in parameters)


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
