"""What forward asks of the values of tensors, and whether a graph may leave that out.

`if x.isnan().any(): raise`, `assert`, `print(x.mean())` and `self.bound.item()` need values, which
a graph doesn't have while it is captured. An answer that no input changes is taken as it is. One
that an input changes is taken only if the graph is the same whatever the answer, or if forward
refuses the input otherwise: every combination of answers is traced and compared.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ..common.messages import calling_line, is_users, quoted, users_line
from ..errors import CaptureError
from .shown_numbers import Position, only_shown, position

# So many combinations of answers are traced at most.
_MOST = 64
# Answers that are true or false, numbers, and text.
_BOOLEAN = {"__bool__", "is_nonzero", "equal", "allclose", "__contains__", "truth"}
_NUMBER = {"item", "__float__", "__int__", "__index__", "__complex__", "tolist"}
_TEXT = {"__repr__", "__format__", "__str__"}
_ZERO: dict[str, Any] = {"__float__": 0.0, "__complex__": 0j, "tolist": [], "truth": False}
# A question: its kind, the lines of the user's code and of torch's that ask it, the expression
# there, and how often it was asked before.
Place = tuple[str, str, int, str, int, Position, int]


@dataclass
class Settled:
    """Answers that hold for every input, or that no output depends on.

    Args:
        answers: by place, in the order in which they are asked for.
        varying: places whose answers depend on an input.
        left_out: the lines of these, as a note shows them.
    """

    answers: dict[Place, Any]
    varying: frozenset[Place]
    left_out: list[str]

    def within(self) -> TorchFunctionMode:
        """A mode that gives the answers while forward is captured."""
        return _Given(self)


class Refused(CaptureError):
    """A branch on values changes the outputs."""


@dataclass
class _Traced:
    """One trace of forward.

    Args:
        graph_module: outputs of forward, then one output a question.
        count: how many are forward's.
        asked: place and answer of each question.
        raised: what forward raised.
        shown: whether it printed, logged or asserted a value.
    """

    graph_module: GraphModule | None
    count: int
    asked: list[tuple[Place, Any]]
    raised: BaseException | None = None
    shown: bool = False


def settle(
    flat: Callable[..., tuple[Any, ...]], leaves: list[Any], others: list[Any]
) -> Settled | None:
    """The answers to what forward asks of values; None if it asks nothing.

    Args:
        flat: forward with flat inputs and outputs.
        leaves: example inputs; None for what isn't a tensor.
        others: the same for a batch of another size.

    Raises:
        Refused: if an answer changes the outputs, with the line that asks.
    """
    first = _trace(flat, leaves, _Asking())
    if first.raised is not None or not (first.asked or first.shown):
        return None
    varying = _varying(first)
    _check_size(first, _trace(flat, others, _Asking()), varying)
    base = _trace(flat, leaves, _Asking(varying=varying)) if varying else first
    if base.raised is not None:
        line = users_line(base.raised) or _shown(next(iter(varying)))
        raise Refused(f"forward calculates with a value of a tensor ({line})") from base.raised
    answers = dict(base.asked)
    known = {place for place, _ in first.asked} - varying
    _explore(flat, leaves, base, known)
    lines = dict.fromkeys(_shown(place) for place in answers if place not in known)
    return Settled(answers, frozenset(set(answers) - known), list(lines))


def _check_size(a: _Traced, b: _Traced, varying: set[Place]) -> None:
    """Refuses answers that no input changes, but the size of the batch does."""
    others = dict(b.asked)
    for place, answer in a.asked:
        if place not in varying and repr(answer) != repr(others.get(place)):
            raise Refused(f"forward branches on the size of the batch ({_shown(place)})")


def _explore(flat: Callable[..., Any], leaves: list[Any], base: _Traced, known: set[Place]) -> None:
    """Traces forward with every combination of the answers that vary."""
    assert base.graph_module is not None
    waiting: list[tuple[dict[Place, bool], _Traced]] = [({}, base)]
    traced = 0
    while waiting:
        flips, done = waiting.pop()
        decided = dict(flips)
        for place in _open(done, known):
            if place in flips:
                continue
            chosen = decided | {place: True}
            traced += 1
            if traced > _MOST:
                raise Refused(f"forward branches on values in too many places ({_shown(place)})")
            other = _trace(flat, leaves, _Asking(varying=None, known=known, flips=chosen))
            if other.raised is not None:
                if not _refuses(other.raised):
                    raise Refused(
                        f"forward branches on a value ({_shown(place)})"
                    ) from other.raised
            elif not _same(base, other):
                raise Refused(f"forward branches on a value ({_shown(place)})")
            else:
                waiting.append((chosen, other))
            decided[place] = False


def _open(traced: _Traced, known: set[Place]) -> list[Place]:
    """The questions of a trace that an input answers, and that can be answered otherwise."""
    varying = _varying(traced)
    for place in varying & known:
        if place[0] in _NUMBER:
            raise Refused(f"forward calculates with a value of a tensor ({_shown(place)})")
    yes_or_no = _BOOLEAN | {"compare"}
    return [p for p, _ in traced.asked if p[0] in yes_or_no and (p in varying or p not in known)]


class _Asking(TorchFunctionMode):
    """Answers questions by the values, while forward is traced; some are turned round.

    Args:
        varying: places whose numbers may only be shown and compared; None for all but `known`.
        known: places whose answers no input changes.
        flips: places whose answers are turned round.
    """

    def __init__(
        self,
        varying: frozenset[Place] | set[Place] | None = frozenset(),
        known: set[Place] | None = None,
        flips: Mapping[Place, bool] | None = None,
    ) -> None:
        super().__init__()
        self.varying, self.known, self.flips = varying, known or set(), flips or {}
        self.asked: list[tuple[Place, Any]] = []
        self.questions: list[Tensor] = []
        self.shown = False
        self._often: Counter[Any] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = _kind(func, args)
        if kind == "__bool__" and _caller().f_code is torch._assert.__code__:
            self.shown = True  # it looks, and no output depends on it
            return True
        if kind is None:
            return func(*args, **kwargs)
        place = _place(kind, self._often)
        with _disable_current_modes():
            answer = func(*args, **kwargs)
        if kind in _TEXT or _printed(kind):
            self.shown = True
            return answer
        self.questions.append(_reduced([a for a in args if isinstance(a, Tensor)]))
        varies = place not in self.known if self.varying is None else place in self.varying
        if kind in _NUMBER and varies:
            self.asked.append((place, answer))
            return _Shown(answer, self.compare)
        return self._told(place, answer)

    def compare(self, answer: bool) -> bool:
        """The answer to a comparison of a number that an input changes."""
        self.questions.append(torch.zeros(()))
        return self._told(_place("compare", self._often), answer)

    def _told(self, place: Place, answer: Any) -> Any:
        if self.flips.get(place):
            answer = not answer
        self.asked.append((place, answer))
        return answer


class _Given(TorchFunctionMode):
    """Gives answers that were settled before; what wasn't asked then is asked of torch."""

    def __init__(self, settled: Settled) -> None:
        super().__init__()
        self._varying, self._answers = settled.varying, settled.answers
        self._left = list(settled.answers)
        self._often: Counter[Any] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._assert:
            return None
        kind = _kind(func, args)
        if kind in _TEXT:
            return "tensor(...)"
        if kind is None:
            return func(*args, **(kwargs or {}))
        if _printed(kind):
            return _ZERO.get(kind, 0)
        place = self._next(kind)
        answer = self._answers[place]
        if kind in _NUMBER and place in self._varying:
            return _Shown(answer, self.compare)
        return answer

    def compare(self, answer: bool) -> bool:
        """The answer to a comparison of a number that an input changes."""
        told: bool = self._answers[self._next("compare")]
        return told

    def _next(self, kind: str) -> Place:
        """The question that is asked now; it must be the one that was asked next before."""
        place = _place(kind, self._often)
        if not self._left or self._left.pop(0) != place:
            raise Refused(f"forward asks for other values while it is captured ({_shown(place)})")
        return place


class _Shown:
    """A number that may be shown and compared, and nothing else: an input changes it."""

    __slots__ = ("_compare", "_value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Any, compare: Callable[[bool], bool]) -> None:
        self._value, self._compare = value, compare

    def __repr__(self) -> str:
        return repr(self._value)

    def __format__(self, spec: str) -> str:
        return format(self._value, spec)

    def __round__(self, digits: int | None = None) -> _Shown:
        return self

    def __bool__(self) -> bool:
        return self._compare(bool(self._value))

    def __lt__(self, other: Any) -> bool:
        return self._compare(self._value < other)

    def __le__(self, other: Any) -> bool:
        return self._compare(self._value <= other)

    def __gt__(self, other: Any) -> bool:
        return self._compare(self._value > other)

    def __ge__(self, other: Any) -> bool:
        return self._compare(self._value >= other)

    def __eq__(self, other: object) -> bool:
        return self._compare(self._value == other)

    def __ne__(self, other: object) -> bool:
        return self._compare(self._value != other)


def _kind(func: Any, args: Any) -> str | None:
    """What a function of torch asks for; None where it gives a tensor."""
    name = getattr(func, "__name__", "")
    tensors = [a for a in args if isinstance(a, Tensor)]
    if not tensors or name not in _BOOLEAN | _NUMBER | _TEXT:
        return None
    return "truth" if name == "item" and tensors[0].dtype is torch.bool else name


def _printed(kind: str) -> bool:
    """Whether the number that is asked for now is printed or logged, and nothing else."""
    return (kind in _NUMBER or kind == "truth") and only_shown(_caller())


def _caller() -> FrameType:
    """Who asked."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    assert frame is not None
    return frame


def _place(kind: str, often: Counter[Any]) -> Place:
    """The question of a kind that is asked now."""
    frame = _caller()
    user = calling_line(frame) or ("", 0)
    # Not the instruction: Python runs a call by another one once it has run it a few times.
    asked = (kind, *user, frame.f_code.co_filename, frame.f_lineno, position(frame))
    often[asked] += 1
    return (*asked, often[asked])


def _shown(place: Place) -> str:
    _, filename, number, inner, inner_number, *_ = place
    return quoted(filename, number) if filename else quoted(inner, inner_number)


def _reduced(tensors: list[Tensor]) -> Tensor:
    """One tensor that depends on what a question is about."""
    return torch.stack([t.detach().reshape(-1)[:1].double().sum() for t in tensors]).sum()


def _trace(flat: Callable[..., Any], leaves: list[Any], asking: _Asking) -> _Traced:
    """Traces forward on real values."""
    count = 0

    def both(*given: Any) -> tuple[Any, ...]:
        nonlocal count
        with asking:
            outputs = flat(*given)
        count = len(outputs)
        return (*outputs, *asking.questions)

    try:
        made = make_fx(both, tracing_mode="real", _allow_non_fake_inputs=True)(*leaves)
    except Exception as error:
        return _Traced(None, 0, asking.asked, error)
    return _Traced(made, count, asking.asked, shown=asking.shown)


def _varying(traced: _Traced) -> set[Place]:
    """The places whose answers an input changes."""
    assert traced.graph_module is not None
    reached: set[Node] = set()
    for node in traced.graph_module.graph.nodes:
        if node.op == "placeholder" or any(n in reached for n in node.all_input_nodes):
            reached.add(node)
        if node.op == "call_function" and _mutates(node):
            # What is written to, and a buffer in any case: it moves from call to call.
            written = [n for n in node.all_input_nodes if node in reached or n.op == "get_attr"]
            reached.update(written, [node] if written else [])
    output = next(iter(reversed(traced.graph_module.graph.nodes)))
    asked = output.args[0][traced.count :]
    pairs = zip(traced.asked, asked, strict=True)
    return {place for (place, _), node in pairs if isinstance(node, Node) and node in reached}


def _same(a: _Traced, b: _Traced) -> bool:
    """Whether two traces compute the same outputs by the same operations on the same constants."""
    if a.count != b.count or a.graph_module is None or b.graph_module is None:
        return False
    (left, held), (right, other) = _outputs(a), _outputs(b)
    return left == right and all(_equal(x, y) for x, y in zip(held, other, strict=True))


def _outputs(traced: _Traced) -> tuple[list[str], list[Any]]:
    """The operations behind forward's outputs as text, and the constants that they read."""
    module = traced.graph_module
    assert module is not None
    graph = Graph()
    copied: dict[Node, Node] = {}
    result: Any = graph.graph_copy(module.graph, copied)
    graph.output(tuple(result[: traced.count]))
    graph.eliminate_dead_code(_mutates)
    place = {node: i for i, node in enumerate(graph.nodes)}
    lines, constants = [], []
    for node in graph.nodes:
        if node.op == "get_attr":
            constants.append(_attribute(module, str(node.target)))
        target = "" if node.op in ("get_attr", "placeholder") else node.target
        given = torch.fx.map_arg((node.args, node.kwargs), lambda n: f"%{place[n]}")
        lines.append(f"{node.op} {target} {given}")
    return lines, constants


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    tensors = isinstance(a, Tensor) and isinstance(b, Tensor)
    if not tensors or a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return bool(((a == b) | (a != a) & (b != b)).all())


def _mutates(node: Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    schema = getattr(node.target, "_schema", None)
    return node.op != "get_attr" and (schema is None or schema.is_mutable)


def _refuses(error: BaseException) -> bool:
    """Whether an error is what forward raises itself, by `raise`, `assert` or a check of torch."""
    frames = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
    last = next(((f, n) for f, n in reversed(frames) if is_users(f)), None)
    if last is None:
        return False
    source = linecache.getline(*last).strip()
    _, _, after = source.partition(": ")
    said = (
        source if source.startswith(("raise", "assert", "torch._check", "torch._assert")) else after
    )
    own = frames[-1] == last and said.startswith(("raise", "assert"))
    return own or said.startswith(("torch._check", "torch._assert"))
