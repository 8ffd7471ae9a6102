"""A model as torch.export sees it: a plain graph with a symbolic batch size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

from ..calls.batch_bounds import BatchBounds
from ..calls.size_bounds import as_dim, suggested
from ..common.messages import reason, users_line
from ..common.silence import silent
from ..errors import CaptureError
from ..graph.decompositions import table
from ..graph.recurrence import kept_whole
from ..graph.unroll import unroll
from .cached_state import CachedState
from .capturable_parts import advice as parts_advice
from .examples import Examples
from .flat_call import FlatCall, called_flat, exportable
from .graph_checks import check_graph, reads_values
from .guards import Guard, line_of, noted
from .value_branches import Refused, Settled, settle
from .varying import Varying
from .varying_bounds import narrowed

# torch names bounds on the batch one after the other.
_ATTEMPTS = 6


@dataclass(frozen=True)
class Exported:
    """A model's program.

    Args:
        program: taken apart as the decompositions say; flat inputs and outputs.
        out_spec: the tree of the model's outputs.
        size: images of the batch that was exported.
        bounds: the sizes of a batch that it holds for; None for any.
        varying: the lengths that vary beside the batch, each with its bounds.
        left_out: lines of forward that ask for values, and that no output depends on.
    """

    program: torch.export.ExportedProgram
    out_spec: pytree.TreeSpec
    size: int
    bounds: BatchBounds | None
    varying: tuple[Varying, ...] = ()
    left_out: tuple[str, ...] = ()


def export(model: nn.Module, given: Examples, state: CachedState) -> Exported:
    """The model's program, within the bounds that forward sets to the size of a batch.

    Args:
        model: a copy of the user's model; it is left as it was.
        given: example inputs.
        state: what forward keeps from call to call.

    Raises:
        CaptureError: with torch's reason and the user's line, if the model can't be exported.
    """
    exporter = _Exporter(model, given, state)
    failure: Exception | None = None
    with silent():
        for size in given.sizes:
            try:
                return exporter.at(size)
            except Exception as error:
                failure = failure or error
                if not _of_size(error):
                    break
        assert failure is not None
        raise exporter.refusal(failure) from failure


class _Exporter:
    """Exports one model, again where torch says what would do.

    Args:
        model: a copy of the user's model.
        given: example inputs.
        state: what forward keeps from call to call.

    Attributes:
        settled: what forward asks of values, once that is settled.
        copies: whether forward writes to its inputs, and is given copies.
        guards: what the last capture took for granted of sizes.
    """

    def __init__(self, model: nn.Module, given: Examples, state: CachedState) -> None:
        self.model, self.given, self.state = model, given, state
        self.varying = given.varying
        self.settled: Settled | None = None
        self.copies = False
        self.guards: list[Guard] = []

    def at(self, size: int) -> Exported:
        """The program, from a batch of `size` images."""
        bounds = BatchBounds()
        for _ in range(_ATTEMPTS * (1 + len(self.varying))):
            try:
                exported = self._settled(size, bounds)
            except Exception as error:
                varying = narrowed(self.varying, str(error), self.guards)
                narrower = self._narrower(bounds, error)
                if varying is None and narrower is None:
                    raise
                self.varying = self.varying if varying is None else varying
                bounds = bounds if narrower is None else narrower
                continue
            return replace(exported, bounds=None if bounds == BatchBounds() else bounds)
        raise CaptureError("forward asks for the size of the batch in too many ways")

    def _narrower(self, bounds: BatchBounds, error: Exception) -> BatchBounds | None:
        """The bounds on the batch that an error asks for."""
        narrower = suggested(str(error), bounds)
        varies = any(v.name in str(error) for v in self.varying)
        if narrower is None and _of_size(error) and not varies and bounds.divisor < self.given.unit:
            narrower = BatchBounds(divisor=self.given.unit)
        if narrower is None:
            return None
        most = narrower.most or 0
        numbers = [most, most + 1, narrower.least, narrower.divisor]
        return replace(narrower, asked=line_of(self.guards, [n for n in numbers if n > 1]))

    def _settled(self, size: int, bounds: BatchBounds) -> Exported:
        """The program; what forward asks of values is settled where torch can't go on."""
        if self.settled is not None:
            return self._once(size, bounds)
        try:
            exported = self._once(size, bounds)
        except Exception as error:
            if _of_size(error) or (settled := self._answers()) is None:
                raise
            self.settled = settled
            return self._once(size, bounds)
        if reads_values(exported.program.graph):
            try:
                # A number that is read from a weight is a constant.
                self.settled = self._answers()
            except Refused:
                return exported
            return self._once(size, bounds) if self.settled else exported
        return exported

    def _once(self, size: int, bounds: BatchBounds) -> Exported:
        call = FlatCall.of(self.model, *self.given.of(size))
        call.copies = self.copies
        settled = self.settled
        self.guards = []
        with (
            self.state.fresh(),
            called_flat(self.model, call, settled.within if settled else nullcontext),
            _causal_masks_are_masks(),
            kept_whole(),
            noted(self.guards),
            warnings.catch_warnings(),
        ):
            # Caches are put back afterwards.
            warnings.filterwarnings("ignore", "The tensor attribute")
            program = torch.export.export(
                exportable(self.model),
                tuple(call.leaves),
                dynamic_shapes=self._shapes(call, bounds),
            )
        assert call.out_spec is not None
        check_graph(program.graph)
        left_out = tuple(settled.left_out) if settled else ()
        program = _decomposed(program)
        if program.graph_signature.user_inputs_to_mutate and not self.copies:
            # A graph writes to nothing; what it is given stays as it is.
            self.copies = True
            return self._once(size, bounds)
        return Exported(program, call.out_spec, size, None, self.varying, left_out)

    def _shapes(self, call: FlatCall, bounds: BatchBounds) -> dict[str, Any]:
        """Which axes of which input vary, by the names of the inputs."""
        batch = as_dim("batch", bounds)
        shapes: list[dict[int, Any]] = [
            {} if axis is None else {axis: batch} for axis in self.given.axes
        ]
        for v in self.varying:
            length = as_dim(v.name, v.bounds)
            for leaf, axis in v.places:
                shapes[leaf][axis] = length
        return {name: dims or None for name, dims in zip(call.names, shapes, strict=True)}

    def _answers(self) -> Settled | None:
        call, other = (
            FlatCall.of(self.model, *inputs)
            for inputs in (self.given.of(self.given.exported), self.given.checked)
        )
        with (
            called_flat(self.model, call, self.state.fresh) as flat,
            _causal_masks_are_masks(),
            torch.no_grad(),
        ):
            return settle(flat, call.leaves, other.leaves)

    def refusal(self, error: Exception) -> CaptureError:
        """What is said of a model that can't be exported."""
        name = type(self.model).__name__
        advice = (
            "; forward must not branch on tensor values, nor on the batch size: use torch.where, "
            "or convert the parts that are free of such branches"
        )
        if isinstance(error, CaptureError):
            text = f"{name} can't be captured: {error}"
            text += advice if isinstance(error, Refused) else ""
        else:
            line = users_line(error)
            if line is None and _of_size(error):
                line = line_of(self.guards, [self.given.exported])
            where = f" at {line}" if line else ""
            text = f"{name} can't be captured by torch.export{where}: {reason(error)}{advice}"
        args, kwargs = self.given.checked
        if call := parts_advice(self.model, args, kwargs):
            text += f"; {call}"
        return CaptureError(text)


class _causal_masks_are_masks:
    """Inside, `nn.Transformer` applies its masks without looking whether they are causal.

    It looks for a hint alone, by which a faster kernel may be taken; values aren't known here.
    """

    def __enter__(self) -> None:
        self._detect: Callable[..., bool] = transformer._detect_is_causal_mask

        def told(mask: Tensor | None, is_causal: bool | None = None, size: Any = None) -> bool:
            return is_causal is True

        transformer._detect_is_causal_mask = told

    def __exit__(self, *_: object) -> None:
        transformer._detect_is_causal_mask = self._detect


def _decomposed(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """A program, taken apart as the decompositions say.

    Torch leaves out copies that the strides of an operator's result make needless. A decomposition
    may give its result other strides, and a view of it is refused: then views may copy.
    """
    try:
        return program.run_decompositions(table())
    except (RuntimeError, ValueError) as error:
        if "view" not in str(error):
            raise
        for node in program.graph.find_nodes(
            op="call_function", target=torch.ops.aten.view.default
        ):
            node.target = torch.ops.aten.reshape.default
        return program.run_decompositions(table())


def _of_size(error: BaseException) -> bool:
    """Whether torch complains of what forward asks of the size of the batch."""
    text = str(error)
    return "Constraints violated" in text or "Specializations unexpectedly" in text


def plain(module: nn.Module) -> GraphModule:
    """A GraphModule without guards, hooks, input trees or assertions; flat inputs and outputs."""
    source = module.graph
    assert isinstance(source, Graph)
    source.set_codegen(CodeGen())
    for node in list(source.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            source.erase_node(node)
        elif node.op == "call_function" and _is_assertion(node.target):
            source.erase_node(node)
        elif node.target is torch.ops.aten.copy_.default:
            # State that forward would write back; the check of the outputs decides if it matters.
            node.replace_all_uses_with(node.args[1])
            source.erase_node(node)
    output = next(iter(reversed(source.nodes)))
    leaves = output.args[0]
    output.args = (tuple(leaves) if isinstance(leaves, tuple | list) else (leaves,),)
    source.eliminate_dead_code()
    graph_module = GraphModule(module, source, class_name="Captured")
    unroll(graph_module)
    return graph_module.eval()


def _is_assertion(target: Callable[..., Any] | str) -> bool:
    name = str(target)
    return "_assert" in name or "sym_constrain" in name
