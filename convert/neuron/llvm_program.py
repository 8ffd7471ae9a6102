"""The program of a neuron's time steps, in LLVM's language.

One function serves every number of steps: several vectors of values stay in registers while the
steps pass over them, so that each value is read and written once. It has no fast-math flags:
every operation rounds as in torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import reduce

from llvmlite import ir


class Job(IntEnum):
    """What a function is given, as int64: addresses but for SIZE to NUMBER, and COUNTS."""

    X = 0
    # What is added to x before the first step; read by functions that add.
    ADDEND = 1
    Y = 2
    T = 3
    H = 4
    D = 5
    OFFSET = 6
    # Of a neuron with gates, whose T, H and D have a row of one value a lane for each step.
    GATES = 7
    # The values behind the last whole group, filled up with NaN; overwritten by their outputs.
    # What is added to them follows, as a group of its own.
    REST = 8
    SIZE = 9
    # How many of the K steps are done.
    STEPS = 10
    THREADS = 11
    # Number of the thread, or -1: then ASK is a C function that tells it.
    NUMBER = 12
    ASK = 13
    # Where functions that tally write: whole groups, so what lies behind the last value as well.
    TALLY = 14
    # From here on the spikes of each thread.
    COUNTS = 15


@dataclass(frozen=True)
class Form:
    """Which function is built.

    Args:
        double: values are float64, not float32.
        counting: it counts spikes.
        adding: it adds two inputs first.
        intervals: G, the tables; 1 without gates.
        tally: bits of a whole number in which it writes each value's events, 8 or 32, and counts
            all of them; 0 for none.
    """

    double: bool
    counting: bool
    adding: bool
    intervals: int = 1
    tally: int = 0


@dataclass(frozen=True)
class Registers:
    """What a processor offers.

    Args:
        bits: of a vector.
        vectors: how many vectors pass through the steps together; twice so many registers hold
            the state, and the parameters and the count need some as well.
        masks: masks have registers of their own: one instruction adds where a mask is set.
        permutes: one instruction picks for each lane any lane of a register: ``avx512``, ``avx2``
            (float32 alone), or empty.
    """

    bits: int
    vectors: int
    masks: bool
    permutes: str = ""


@dataclass(frozen=True)
class _Pointers:
    """Addresses that a job holds; see `Job`."""

    x: ir.Value
    addend: ir.Value
    y: ir.Value
    T: ir.Value
    h: ir.Value
    d: ir.Value
    offset: ir.Value
    gates: ir.Value
    rest: ir.Value


@dataclass(frozen=True)
class _Share:
    """What a thread does: groups from `begin` to `end`, of which the first `complete` are whole."""

    number: ir.Value
    complete: ir.Value
    begin: ir.Value
    end: ir.Value
    offset: ir.Value


@dataclass(frozen=True)
class _State:
    """A group's potentials and outputs, a vector each, and its spikes, after a step.

    The spikes are one vector, `count`, for all; or one each, `tally`, if they are written.
    """

    v: list[ir.Value]
    out: list[ir.Value]
    count: ir.Value
    tally: list[ir.Value]


@dataclass(frozen=True)
class _Group:
    """Where a group's outputs go, its inputs, a vector each, and its state before the first step.

    With gates, `index` has the table of each value. `place` is the number of its first value.
    """

    place: ir.Value
    target: ir.Value
    given: list[ir.Value]
    first: _State
    index: list[ir.Value]


class Program:
    """The module with the function ``steps``: one thread's share of a job, see `Job`.

    Groups of vectors pass through all steps one after the other. Each method writes one block of
    the function, but for `_step`, which is a loop of one block. `GatedProgram` says what a neuron
    with gates does otherwise.
    """

    def __init__(self, form: Form, registers: Registers) -> None:
        self.form, self.registers = form, registers
        self.width = registers.bits // (64 if form.double else 32)
        # Values that pass through the steps together.
        self.group_size = self.width * registers.vectors
        self.align = 8 if form.double else 4
        self.whole, self.small = ir.IntType(64), ir.IntType(32)
        self.value = ir.DoubleType() if form.double else ir.FloatType()
        self.many = ir.VectorType(self.value, self.width)
        self.counts = ir.VectorType(self.small, self.width)
        # A whole number for each value, of its size.
        self.lane = ir.VectorType(self.whole if form.double else self.small, self.width)
        self.module = ir.Module("neuron")
        kind = ir.FunctionType(ir.VoidType(), [self.whole.as_pointer()])
        function = ir.Function(self.module, kind, "steps")
        names = "entry ask share groups group step written done"
        self.blocks = {name: function.append_basic_block(name) for name in names.split()}
        self.job = function.args[0]
        self.at = ir.IRBuilder(self.blocks["entry"])
        self._write()

    @property
    def lanes(self) -> int:
        """Values in a row of the tables; plain tables have rows of one."""
        return 1

    def _write(self) -> None:
        pointers, (size, steps, threads, known) = self._entry()
        told = self._ask()
        share = self._share(pointers, size, threads, known, told)
        index, fired = self._groups(share)
        group = self._group(pointers, share, index)
        state = self._step(pointers, group, steps)
        self._written(group, state, index, fired)
        self._done(share, fired)

    def _entry(self) -> tuple[_Pointers, list[ir.Value]]:
        """Reads the job: its addresses, and SIZE, STEPS, THREADS, NUMBER."""
        names = [Job.X, Job.ADDEND, Job.Y, Job.T, Job.H, Job.D, Job.OFFSET, Job.GATES, Job.REST]
        pointers = [self.at.inttoptr(self._field(n), self.value.as_pointer()) for n in names]
        numbers = [self._field(n) for n in (Job.SIZE, Job.STEPS, Job.THREADS, Job.NUMBER)]
        unknown = self.at.icmp_signed("<", numbers[-1], self._const(0))
        self.at.cbranch(unknown, self.blocks["ask"], self.blocks["share"])
        return _Pointers(*pointers), numbers

    def _ask(self) -> ir.Value:
        """Asks for the thread's number."""
        at = self._begin("ask")
        function = ir.FunctionType(self.small, []).as_pointer()
        told = at.sext(at.call(at.inttoptr(self._field(Job.ASK), function), []), self.whole)
        at.branch(self.blocks["share"])
        return told

    def _share(
        self,
        pointers: _Pointers,
        size: ir.Value,
        threads: ir.Value,
        known: ir.Value,
        told: ir.Value,
    ) -> _Share:
        """Shares the groups out among the threads."""
        at = self._begin("share")
        number = at.phi(self.whole)
        number.add_incoming(known, self.blocks["entry"])
        number.add_incoming(told, self.blocks["ask"])
        group = self._const(self.group_size)
        complete = at.udiv(size, group)
        total = at.udiv(at.add(size, self._const(self.group_size - 1)), group)
        begin = at.udiv(at.mul(total, number), threads)
        end = at.udiv(at.mul(total, at.add(number, self._const(1))), threads)
        # -0.0 becomes 0.0, as in a sum that starts with 0.
        offset = self._spread(at.fadd(at.load(pointers.offset), ir.Constant(self.value, 0.0)))
        at.branch(self.blocks["groups"])
        return _Share(number, complete, begin, end, offset)

    def _groups(self, share: _Share) -> tuple[ir.PhiInstr, ir.PhiInstr]:
        """The loop over groups: the index of one, and the spikes before it."""
        at = self._begin("groups")
        index, fired = at.phi(self.whole), at.phi(self.whole)
        index.add_incoming(share.begin, self.blocks["share"])
        fired.add_incoming(self._const(0), self.blocks["share"])
        more = at.icmp_unsigned("<", index, share.end)
        at.cbranch(more, self.blocks["group"], self.blocks["done"])
        return index, fired

    def _group(self, pointers: _Pointers, share: _Share, index: ir.Value) -> _Group:
        """Reads a group's inputs; what is behind the last whole group lies apart."""
        at = self._begin("group")
        place = at.mul(index, self._const(self.group_size))
        last = at.icmp_unsigned(">=", index, share.complete)
        source, target = (
            at.select(last, pointers.rest, at.gep(pointer, [place]))
            for pointer in (pointers.x, pointers.y)
        )
        given = self._vectors(source)
        if self.form.adding:
            apart = at.gep(pointers.rest, [self._const(self.group_size)])
            more = at.select(last, apart, at.gep(pointers.addend, [place]))
            given = [at.fadd(x, self._vector(more, i)) for i, x in enumerate(given)]
        first, index = self._first(pointers, share, given)
        at.branch(self.blocks["step"])
        return _Group(place, target, given, first, index)

    def _first(
        self, pointers: _Pointers, share: _Share, given: list[ir.Value]
    ) -> tuple[_State, list[ir.Value]]:
        """A group's state before the first step, and the table of each value, if there are any."""
        none = ir.Constant(self.counts, [0] * self.width)
        tally = [ir.Constant(self.lane, [0] * self.width)] * (len(given) if self.form.tally else 0)
        return _State(given, [share.offset] * len(given), none, tally), []

    def _step(self, pointers: _Pointers, group: _Group, steps: ir.Value) -> _State:
        """The loop over steps, through which all vectors of a group pass together."""
        at = self._begin("step")
        step = at.phi(self.whole)
        before = _State(
            [at.phi(self.many) for _ in group.given],
            [at.phi(self.many) for _ in group.given],
            at.phi(self.counts),
            [at.phi(self.lane) for _ in group.first.tally],
        )
        after = self._fire(before, self._tables(pointers, group, step))
        step_after = at.add(step, self._const(1))
        step.add_incoming(self._const(0), self.blocks["group"])
        step.add_incoming(step_after, self.blocks["step"])
        for state, block in ((group.first, "group"), (after, "step")):
            before.count.add_incoming(state.count, self.blocks[block])
            phis = (*before.v, *before.out, *before.tally)
            for phi, value in zip(phis, (*state.v, *state.out, *state.tally), strict=True):
                phi.add_incoming(value, self.blocks[block])
        again = at.icmp_unsigned("<", step_after, steps)
        at.cbranch(again, self.blocks["step"], self.blocks["written"])
        return after

    def _tables(self, pointers: _Pointers, group: _Group, step: ir.Value) -> list[list[ir.Value]]:
        """T, h and d of a step for each vector of a group."""
        at = self.at
        table = [
            self._spread(at.load(at.gep(row, [step])))
            for row in (pointers.T, pointers.h, pointers.d)
        ]
        return [table] * len(group.given)

    def _fire(self, before: _State, tables: list[list[ir.Value]]) -> _State:
        """One step of every vector of a group."""
        at = self.at
        v, out, count, tally = [], [], before.count, list(before.tally)
        nothing = ir.Constant(self.many, [0.0] * self.width)
        for i, (potential, read, (T, h, d)) in enumerate(
            zip(before.v, before.out, tables, strict=True)
        ):
            fires = at.fcmp_ordered(">", potential, T)
            if self.registers.masks:
                out.append(at.select(fires, at.fadd(read, d), read))
                v.append(at.select(fires, at.fsub(potential, h), potential))
            else:
                out.append(at.fadd(read, at.select(fires, d, nothing)))
                v.append(at.fsub(potential, at.select(fires, h, nothing)))
            if tally:
                tally[i] = at.add(tally[i], at.zext(fires, self.lane))
            elif self.form.counting:
                count = at.add(count, at.zext(fires, self.counts))
        return _State(v, out, count, tally)

    def _written(
        self, group: _Group, state: _State, index: ir.PhiInstr, fired: ir.PhiInstr
    ) -> None:
        """Writes a group's outputs, adds up its spikes, and goes on to the next group."""
        at = self._begin("written")
        for i, (potential, read) in enumerate(zip(state.v, state.out, strict=True)):
            # NaN never fires and so is still there.
            nan = at.fcmp_unordered("uno", potential, potential)
            result = at.select(nan, potential, read)
            at.store(result, self._place(group.target, i), align=self.align)
        count = self._tallied(group, state.tally) if state.tally else state.count
        index.add_incoming(at.add(index, self._const(1)), self.blocks["written"])
        fired.add_incoming(self._more_fired(fired, count), self.blocks["written"])
        at.branch(self.blocks["groups"])

    def _tallied(self, group: _Group, tally: list[ir.Value]) -> ir.Value:
        """Writes the events of each value of a group; their sum, a number for each lane."""
        at, kind = self.at, ir.IntType(self.form.tally)
        many = ir.VectorType(kind, self.width)
        target = at.inttoptr(self._field(Job.TALLY), kind.as_pointer())
        for i, events in enumerate(tally):
            place = at.add(group.place, self._const(i * self.width))
            there = at.bitcast(at.gep(target, [place]), many.as_pointer())
            at.store(self._narrowed(events, many), there, align=self.form.tally // 8)
        return self._narrowed(reduce(at.add, tally), self.counts)

    def _narrowed(self, numbers: ir.Value, kind: ir.VectorType) -> ir.Value:
        """Whole numbers in as many or fewer bits."""
        return numbers if numbers.type == kind else self.at.trunc(numbers, kind)

    def _more_fired(self, fired: ir.Value, count: ir.Value) -> ir.Value:
        """The spikes so far and those of a group ``count``, a number for each lane."""
        if not (self.form.counting or self.form.tally):
            return fired
        name = f"llvm.vector.reduce.add.v{self.width}i32"
        kind = ir.FunctionType(self.small, [self.counts])
        total = self.at.call(ir.Function(self.module, kind, name), [count])
        return self.at.add(fired, self.at.zext(total, self.whole))

    def _done(self, share: _Share, fired: ir.Value) -> None:
        """Leaves the thread's spikes in the job."""
        at = self._begin("done")
        place = at.add(share.number, self._const(Job.COUNTS))
        at.store(fired, at.gep(self.job, [place]))
        at.ret_void()

    def _begin(self, block: str) -> ir.IRBuilder:
        self.at.position_at_end(self.blocks[block])
        return self.at

    def _const(self, n: int) -> ir.Constant:
        return ir.Constant(self.whole, n)

    def _field(self, name: Job) -> ir.Value:
        return self.at.load(self.at.gep(self.job, [self._const(name)]))

    def _spread(self, number: ir.Value) -> ir.Value:
        """A vector of one number."""
        none = ir.Constant(self.many, ir.Undefined)
        first = self.at.insert_element(none, number, ir.Constant(self.small, 0))
        zeros = ir.Constant(ir.VectorType(self.small, self.width), [0] * self.width)
        return self.at.shuffle_vector(first, none, zeros)

    def _place(self, pointer: ir.Value, i: int) -> ir.Value:
        """The address of a group's i-th vector."""
        there = self.at.gep(pointer, [self._const(i * self.width)])
        return self.at.bitcast(there, self.many.as_pointer())

    def _vector(self, pointer: ir.Value, i: int) -> ir.Value:
        return self.at.load(self._place(pointer, i), align=self.align)

    def _vectors(self, pointer: ir.Value) -> list[ir.Value]:
        return [self._vector(pointer, i) for i in range(self.registers.vectors)]
