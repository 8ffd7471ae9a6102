"""The independent proof of a report: every operation that really ran outside a neuron."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ..calls.batch_forms import Given
from ..calls.batch_reading import moved
from ..common.tables import table
from ..errors import InputError
from ..graph.node_facts import where
from ..graph.regions import packet
from ..graph.roles import Operation, Role
from ..graph.run import walk
from ..network.model import SpikingModel
from ..network.report import places
from ..neuron.few_spikes import FewSpikesNeuron
from .classification import FILL, GIVEN, LINEAR, NONLINEAR, PRODUCT, classify, is_given, name_of


@dataclass(frozen=True)
class Ran:
    """ATen operations of one kind that ran while one node of the graph was computed.

    Args:
        kind: ``nonlinear``, or ``product`` of two signals.
        op: the node's operation, as the report would call it.
        where: module path of the call, or the line of the source.
        aten: names of the ATen operations that ran, with repetitions.
    """

    kind: str
    op: str
    where: str
    aten: tuple[str, ...]


@dataclass
class Audit:
    """What ran outside the neurons; prints as a table.

    Args:
        ran: one entry for every node of the graph in which something nonlinear, or a product,
            ran.
        neurons: calls of few-spikes neurons.
        linear: linear operations on values that depend on the input.
        given: operations on whole numbers and masks that come with the input.
        differences: where the report, or a plain call of the network, says something else.
    """

    ran: list[Ran]
    neurons: int
    linear: int
    given: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        """Whether the report lists exactly what ran."""
        return not self.differences

    @property
    def nonlinear(self) -> dict[str, int]:
        """Nonlinear ATen operations outside neurons, with counts."""
        return dict(Counter(op for r in self.ran if r.kind == NONLINEAR for op in r.aten))

    def to_dict(self) -> dict[str, Any]:
        """Everything, in JSON's types."""
        return {
            "nonlinear": self._rows(NONLINEAR),
            "products": self._rows(PRODUCT),
            "linear": self.linear,
            "given": self.given,
            "neurons": self.neurons,
            "agrees": self.agrees,
            "differences": list(self.differences),
        }

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        groups: dict[tuple[str, str], list[str]] = {}
        for ran in self.ran:
            if ran.kind == kind:
                for aten in ran.aten:
                    groups.setdefault((aten, ran.op), []).append(ran.where)
        return [
            {"aten": aten, "op": op, "count": len(at), "where": list(dict.fromkeys(at))}
            for (aten, op), at in groups.items()
        ]

    def __str__(self) -> str:
        columns = ("{} outside neurons", "in the report", "count", "where")
        parts = []
        for kind, title in ((NONLINEAR, "nonlinear"), (PRODUCT, "product")):
            rows = [(r["aten"], r["op"], r["count"], places(r["where"])) for r in self._rows(kind)]
            head = (columns[0].format(title), *columns[1:])
            parts.append(table(head, rows) or f"{title} outside neurons: none")
        agreement = "agrees with the report" if self.agrees else "differs from the report:"
        parts.append(
            f"{self.neurons} calls of neurons; beside them ran {self.linear} linear operations, "
            f"and {self.given} on masks and indices of the input; "
            + "\n".join([agreement, *self.differences])
        )
        return "\n\n".join(parts)


def audit(snn: SpikingModel, *example: Any, **inputs: Any) -> Audit:
    """Runs a converted network and lists every nonlinear ATen operation outside its neurons.

    Inside a block such as `SpikingModel.spiking_only` it lists what runs there. The operations are
    those that PyTorch dispatches, classified by what they do to tensors that
    depend on the input; neither the report nor the graph's own names are believed. The report is
    compared afterwards.

    Args:
        snn: from `to_spiking`.
        example: one batch in any form of calibration: a tensor, ``(inputs, label)``, ``(x, t)``
            for a network of two inputs, a dict of inputs, ... Or several inputs as the network is
            called with them.
        inputs: those that are given by name, as the network is called with them; what isn't an
            input, as a batch's ``labels``, is left out.

    Raises:
        InputError: for an example that the network doesn't take.
    """
    if not isinstance(snn, SpikingModel):
        raise InputError(
            f"audit takes a converted network first, then its inputs; found a {type(snn).__name__}"
        )
    device = next((t.device for t in snn.state_dict().values()), torch.device("cpu"))
    args, kwargs = moved(_given(snn, example, inputs), device)
    leaves = snn.signature.flatten(args, kwargs)
    with torch.no_grad(), _outside(snn) as plain:
        plain.start(pytree.tree_leaves((args, kwargs)))
        # The check of the input's range belongs to the call, not to the network.
        with snn.running(check_inputs=False), plain:
            snn(*args, **kwargs)
    # Inside a block other modules run than those that the graph names.
    network = snn.network if snn.plan.plain else snn.as_planned(snn.plan)
    with torch.no_grad(), _outside(snn) as recorder:
        recorder.start(leaves)
        with recorder:
            walk(network, leaves, before=recorder.at)
    ran = recorder.ran()
    result = Audit(ran, recorder.neurons, recorder.linear, recorder.given)
    result.differences += _unplaced(plain, recorder)
    if snn.report is not None:
        result.differences += _compared(ran, snn.report.operations)
    return result


def _given(snn: SpikingModel, example: tuple[Any, ...], inputs: dict[str, Any]) -> Given:
    """The inputs of a call, from one batch or as they are."""
    reader = snn.reader()
    if len(example) + len(inputs) == 1 and "example" in inputs:
        # What the batch was called before inputs could be given by name.
        named = "example" in snn.signature.names
        return reader.read(inputs if named else inputs["example"])
    if not example:
        return reader.read(inputs) if inputs else reader.read(())
    return reader.read(example[0]) if len(example) == 1 and not inputs else Given(example, inputs)


class _Recorder(TorchDispatchMode):
    """Classifies what runs, follows what depends on the input, and pauses inside neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.node: Node | None = None
        self.paused = 0
        self.neurons = self.linear = 0
        self.found: list[tuple[Node | None, str, str]] = []
        self.given = 0
        self._varying: Any = WeakIdKeyDictionary()
        self._given: Any = WeakIdKeyDictionary()

    def start(self, inputs: Sequence[Any]) -> None:
        """Takes the network's input tensors as what varies, or is given: whole numbers, masks."""
        for leaf in inputs:
            if isinstance(leaf, Tensor):
                (self._varying if leaf.is_floating_point() else self._given)[leaf] = True

    def at(self, node: Node) -> None:
        """Takes what runs from now on as a node's."""
        self.node = node

    def varies(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the network's input."""
        return tensor in self._varying

    def mark(self, values: Any) -> None:
        """Takes tensors as depending on the input."""
        for leaf in pytree.tree_leaves(values):
            if isinstance(leaf, Tensor):
                self._varying[leaf] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        read = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        varying = any(self.varies(tensor) for tensor in read)
        if not varying and not self.paused and any(tensor in self._given for tensor in read):
            self._derive(func, args, kwargs, result)
            return result
        if not varying or self.paused:
            if varying:
                self.mark(result)
            return result
        outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        kind = classify(func, args, kwargs, self.varies, outputs)
        if kind == LINEAR:
            self.linear += 1
        elif kind != FILL:
            self.found.append((self.node, kind, name_of(func)))
        if kind != FILL:
            self.mark(outputs)
            self.mark(_written(func, args, kwargs))
        return result

    def _derive(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """What comes of given values alone: given too, or the beginning of a signal."""
        outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        verdict = is_given(func, args, kwargs, self._given.__contains__, outputs)
        if verdict == FILL:
            return
        if verdict == GIVEN:
            self.given += 1
            for output in outputs:
                self._given[output] = True
            return
        if verdict == LINEAR:
            self.linear += 1
        else:
            self.found.append((self.node, NONLINEAR, name_of(func)))
        self.mark(outputs)

    def totals(self) -> Counter[tuple[str, str]]:
        """How often each operation ran, whatever the place."""
        return Counter((kind, aten) for _, kind, aten in self.found)

    def ran(self) -> list[Ran]:
        """What ran, gathered by node and kind, in the order of the first."""
        groups: dict[tuple[Node | None, str], list[str]] = {}
        for node, kind, aten in self.found:
            groups.setdefault((node, kind), []).append(aten)
        nodes = {node for node, kind in groups if kind == NONLINEAR}
        return [
            Ran(kind, packet(node) if node else "?", where(node) if node else "?", tuple(aten))
            for (node, kind), aten in groups.items()
            # The products inside a norm are part of it.
            if kind == NONLINEAR or node not in nodes
        ]


@contextmanager
def _outside(snn: SpikingModel) -> Iterator[_Recorder]:
    """A recorder that pauses while any few-spikes neuron of the network computes."""
    recorder = _Recorder()

    def enter(module: Any, args: Any) -> None:
        recorder.paused += 1

    def leave(module: Any, args: Any, output: Any) -> None:
        recorder.paused -= 1
        recorder.neurons += 1
        recorder.mark(output)

    handles = []
    # Those of other K too, which run inside `with_steps`.
    for module in snn.modules():
        if isinstance(module, FewSpikesNeuron):
            handles += [
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments that an operation writes to."""
    declared = func._schema.arguments
    given = [*zip(declared, args, strict=False)]
    given += [(a, kwargs[a.name]) for a in declared if a.name in kwargs]
    return [value for a, value in given if a.alias_info is not None and a.alias_info.is_write]


def _unplaced(plain: _Recorder, recorder: _Recorder) -> list[str]:
    """What a plain call ran more or less often than the nodes of its graph."""
    called, placed = plain.totals(), recorder.totals()
    return [
        f"{aten} ({kind}) ran {called[kind, aten]} times when the network was called, "
        f"{placed[kind, aten]} times in its graph"
        for kind, aten in sorted(called | placed)
        if called[kind, aten] != placed[kind, aten]
    ]


def _compared(ran: Sequence[Ran], operations: Sequence[Operation]) -> list[str]:
    """Places at which the report says something else than what ran."""
    differences = []
    for kind, listed in ((NONLINEAR, Role.REMAINING), (PRODUCT, Role.PRODUCT)):
        found = Counter((r.op, r.where) for r in ran if r.kind == kind)
        told = Counter((o.op, o.where) for o in operations if o.kind == listed)
        for op, at in sorted(found | told):
            if found[op, at] != told[op, at]:
                differences.append(
                    f"{op} at {at}: {found[op, at]} ran as {kind}, the report lists "
                    f"{told[op, at]} as {listed}"
                )
    return differences
