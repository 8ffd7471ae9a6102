"""What a model calls its parts with, recorded while the whole model runs.

One run over the data records the calls of all parts. They are kept in memory up to `KEPT_BYTES`
together; those of the largest parts are given up beyond that, and recorded anew, batch by batch,
each time that somebody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..calls.batch_forms import Given
from ..calls.batch_reading import moved
from ..calls.own_classes import register
from ..calls.sizes import Shapes
from ..capture.fidelity import floats, gap_between
from ..common.messages import first_line
from ..errors import CalibrationError, CaptureError, ConversionError, InputError
from .chosen import Chosen
from .part_calls import Form, PartCall, single
from .stand_in import StandIn, owners, place

# Inputs of all parts together that are kept in memory.
KEPT_BYTES = 2**30
# Outputs that differ by no more of their magnitude are the same.
_SAME = 1e-5
# So many shapes of a part's inputs are looked at.
_MOST_SHAPES = 64
# In so many forms of arguments a part may be called.
MOST_FORMS = 8

Told = Callable[[PartCall], None]


class Recorder(StandIn):
    """Tells the calls of a module while somebody listens, and calls it.

    Args:
        replaced: the module.
    """

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__(replaced)
        self.told: Told | None = None
        # Calls by this module, and calls of the module in whatever way.
        self.calls = self.seen = 0
        self.writes = False
        # Of each form, whether inputs of one row may be made longer.
        self._alike: list[tuple[Form, bool]] = []
        self._handle = replaced.register_forward_pre_hook(self._called)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        self.calls += 1
        call = self.call_of(args, kwargs)
        # As it is before the module or the model writes to it.
        kept = None if self.told is None else _kept(call)
        before = [(t, t._version) for t in call.tensors if not t.is_inference()]
        found = self.replaced(*args, **kwargs)
        self.writes |= any(t._version != version for t, version in before)
        if self.told is not None and kept is not None:
            self.told(self._spread(kept, found))
        return found

    def _spread(self, call: PartCall, found: Any) -> PartCall:
        """The call with inputs of one row as long as the others, if the module takes that so."""
        longer = call.spread()
        if longer is call or call.opaque() is not None:
            return call
        form = call.form()
        known = next((alike for other, alike in self._alike if other == form), None)
        if known is None:
            known = self._gives(longer, found)
            self._alike.append((form, known))
        return longer if known else call

    def _gives(self, call: PartCall, expected: Any) -> bool:
        """Whether the module gives the same for a call written in another way."""
        calls, seen = self.calls, self.seen
        try:
            result = self.replaced(*call.args, **call.kwargs)
            register(result)
            return gap_between(floats(expected), floats(result)) <= _SAME
        except Exception:
            return False
        finally:
            self.calls, self.seen = calls, seen

    def takes_batches(self, call: PartCall) -> bool:
        """Whether the module gives the same for a call and for a batch of one that holds it."""
        try:
            with torch.no_grad():
                expected = floats(self.replaced(*call.args, **call.kwargs))
                batch = call.batched()
                found = floats(single(self.replaced(*batch.args, **batch.kwargs)))
            return bool(found) and gap_between(expected, found) <= _SAME
        except Exception:
            return False

    def _called(self, module: nn.Module, args: Any) -> None:
        self.seen += 1

    def stop_watching(self) -> None:
        """Leaves the module as it was before it was watched."""
        self._handle.remove()


@dataclass
class Recorded:
    """The calls of one part in one form.

    Args:
        part: which part.
        form: what is alike in them.
        first: the call with the most numbers, by which the part is captured.
        count: how many calls.
        calls: all of them; None where they are recorded anew each time.
        alone: whether they have no batch, and are each read as a batch of one.
        size: bytes of these.
        shapes: those of the tensors, by the names of the inputs; each once, not all.
    """

    part: Chosen
    form: Form
    first: PartCall
    count: int = 0
    calls: list[PartCall] | None = field(default_factory=list)
    alone: bool = False
    size: int = 0
    shapes: list[Shapes] = field(default_factory=list)

    def see(self, call: PartCall) -> None:
        """Notes the shapes of a call."""
        shapes = call.shapes
        if shapes not in self.shapes and len(self.shapes) < _MOST_SHAPES:
            self.shapes.append(shapes)

    def add(self, call: PartCall) -> None:
        """Adds a call."""
        self.count += 1
        if _numbers(call) > _numbers(self.first):
            self.first = call
        self.see(call)
        if self.calls is not None:
            self.calls.append(call)
            self.size += sum(t.numel() * t.element_size() for t in call.tensors)


class Recording:
    """A model whose parts tell their calls.

    Args:
        model: the whole, a copy; recorders are put in the places of its parts.
        parts: which are its parts.
        batches: calibration batches as `WholeReader` reads them.
        device: where the model lives.
        count: counts the images of a batch.

    Attributes:
        images: of all batches.
        runs: batches.
        recorders: by the name of the part.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[Chosen],
        batches: Iterable[Given],
        device: torch.device | str | None,
        count: Callable[[Given], int],
    ) -> None:
        self.model, self.parts, self._batches, self._device = model, parts, batches, device
        self._count = count
        self.images = self.runs = 0
        self.recorders: dict[str, Recorder] = {}
        self._probes: list[tuple[str, Given]] = []
        for part in parts:
            recorder = Recorder(owners(model, part.paths)[0])
            self.recorders[part.name] = recorder
            place(model, part.paths, recorder)

    def run(self, given: Given, told: Mapping[str, Told]) -> Any:
        """What the model gives for a batch.

        Args:
            given: the batch.
            told: what hears the calls of each part, by its name.
        """
        args, kwargs = moved(given, self._device)
        with torch.no_grad(), self._told(told):
            return self.model(*args, **kwargs)

    @contextmanager
    def _told(self, told: Mapping[str, Told]) -> Iterator[None]:
        for name, recorder in self.recorders.items():
            recorder.told = told.get(name)
        try:
            yield
        finally:
            for recorder in self.recorders.values():
                recorder.told = None

    def probe(self, batches: Sequence[tuple[str, Given]]) -> None:
        """Notes batches whose lengths alone are wanted: in what they differ, parts may vary.

        Args:
            batches: each with what it is called in messages.
        """
        self._probes = list(batches)

    def record(self) -> dict[str, list[Recorded]]:
        """The calls of every part over all batches, by its name and form.

        Raises:
            InputError: for a part that is called with something that no graph takes.
            CalibrationError: for a part that is never called, or only on nothing.
        """
        found: dict[str, list[Recorded]] = {part.name: [] for part in self.parts}
        self.images = self.runs = 0
        for given in self._batches:
            self.run(given, {part.name: self._adds(part, found[part.name]) for part in self.parts})
            self.images += self._count(given)
            self.runs += 1
            _give_up([r for each in found.values() for r in each])
        if not self.images:
            raise CalibrationError(
                "the calibration data yields no image; give a list, a DataLoader or a tensor with "
                "at least one batch (an iterator that was used before is empty)"
            )
        for what, given in self._probes:
            told = {part.name: self._sees(found[part.name]) for part in self.parts}
            try:
                self.run(given, told)
            except ConversionError:
                raise
            except Exception as error:
                raise InputError(
                    f"dynamic=: the model refuses {what} ({first_line(error)}); name axes whose "
                    "length it leaves free"
                ) from error
        for recorder in self.recorders.values():
            recorder.stop_watching()
        return found

    @staticmethod
    def _sees(known: list[Recorded]) -> Told:
        def see(call: PartCall) -> None:
            form = call.form()
            for each in known:
                if each.form == form and all(t.numel() for t in call.tensors):
                    each.see(call)

        return see

    @staticmethod
    def _adds(part: Chosen, known: list[Recorded]) -> Told:
        def add(call: PartCall) -> None:
            check(part, call)
            if any(not t.numel() for t in call.tensors):
                return
            form = call.form()
            for each in known:
                if each.form == form:
                    each.add(call)
                    return
            if len(known) == MOST_FORMS:
                raise InputError(_too_many(part, [r.form for r in known]))
            known.append(Recorded(part, form, call))
            known[-1].add(call)

        return add

    def calls(self, recorded: Recorded) -> PartBatches:
        """The calls of a part in one form, to be read as often as one likes."""
        return PartBatches(self, recorded)

    def again(self, recorded: Recorded) -> Iterator[PartCall]:
        """The calls of a part in one form, recorded anew."""
        for given in self._batches:
            calls: list[PartCall] = []
            self.run(given, {recorded.part.name: calls.append})
            yield from (
                call
                for call in calls
                if call.form() == recorded.form and all(t.numel() for t in call.tensors)
            )


class PartBatches:
    """The calls of a part in one form as calibration batches.

    Args:
        recording: which records them anew where they weren't kept.
        recorded: the calls.
    """

    def __init__(self, recording: Recording, recorded: Recorded) -> None:
        self.recording, self.recorded = recording, recorded

    def __len__(self) -> int:
        return self.recorded.count

    def __iter__(self) -> Iterator[Given]:
        calls = self.recorded.calls
        for call in self.recording.again(self.recorded) if calls is None else calls:
            yield given_of(call, self.recorded.alone)


def given_of(call: PartCall, alone: bool = False) -> Given:
    """A call as a batch that was read.

    Args:
        call: of a part.
        alone: whether it has no batch, and becomes a batch of one.
    """
    call = call.batched() if alone else call
    return Given(call.args, call.kwargs, names=call.names)


def check(part: Chosen, call: PartCall) -> None:
    """Refuses a call that no graph can take.

    Raises:
        InputError: naming the part, the argument, and what to choose instead.
    """
    opaque = call.opaque()
    if opaque is not None:
        name, value = opaque
        kind = type(value).__name__
        advice = "choose parts inside it or beside it that don't get it"
        if "Cache" in kind:
            advice = f"call the model with use_cache=False, or {advice}, such as its MLPs"
        elif kind == "PackedSequence":
            advice = f"pad the sequences, or {advice}"
        raise InputError(
            f"the part {part.name} is called with {name}, a {kind}, which no graph can hold; "
            f"{advice}"
        )
    if not call.tensors:
        raise InputError(
            f"the part {part.name} is called with no tensor, so nothing in it can spike; leave it "
            "out of modules="
        )


def _too_many(part: Chosen, forms: Sequence[Form]) -> str:
    values: dict[str, list[str]] = {}
    for form in forms:
        for name, value in form.constants:
            if repr(value) not in values.setdefault(name, []):
                values[name].append(repr(value))
    name = max(values, key=lambda n: len(values[n])) if values else "its arguments"
    shown = f" ({', '.join(values[name][:4])}, ...)" if values else ""
    return (
        f"the part {part.name} is called in more than {MOST_FORMS} forms: {name} differs from call "
        f"to call{shown}; choose a part inside it that doesn't get that"
    )


def _kept(call: PartCall) -> PartCall:
    """The call with tensors that nobody writes to later."""

    def own(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf

    args, kwargs = pytree.tree_map(own, (call.args, call.kwargs))
    return replace(call, args=args, kwargs=kwargs)


def _numbers(call: PartCall) -> int:
    return sum(t.numel() for t in call.tensors)


def _give_up(all_recorded: Sequence[Recorded]) -> None:
    """Forgets the calls of the largest parts until the others are small enough."""
    while sum(r.size for r in all_recorded) > KEPT_BYTES:
        largest = max(all_recorded, key=lambda r: r.size)
        largest.calls, largest.size = None, 0


def check_called(
    part: Chosen, recorder: Recorder, recorded: Sequence[Recorded], model: nn.Module
) -> bool:
    """Whether a part was called; one that was named by itself must be.

    Raises:
        CalibrationError: for one that wasn't, or only on nothing.
        CaptureError: for one that the model reaches in another way as well.
    """
    if recorder.seen > recorder.calls:
        raise CaptureError(
            f"{type(model).__name__} calls the module {part.name} by another way than its name "
            "(a list of Python's, a closure), where nothing can stand in its place; choose "
            "another part, or register it in the model alone"
        )
    if recorded:
        return True
    if not part.exact:
        return False
    if recorder.calls:
        raise CalibrationError(
            f"the part {part.name} gets tensors without elements alone on the calibration data; "
            "give data on which it has something to do"
        )
    raise CalibrationError(
        f"the part {part.name} is never called while {type(model).__name__} runs on the "
        "calibration data; choose the modules that forward calls, or data that reaches it"
    )
