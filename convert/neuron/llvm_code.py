"""Machine code for the neuron's time steps, made by LLVM in some ten milliseconds.

One function serves every number of steps: several vectors of values stay in registers while the
steps pass over them, so that each value is read and written once. It has no fast-math flags:
every operation rounds as in torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from threading import Lock
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

_lock = Lock()


class Job(IntEnum):
    """What a function is given, as int64: addresses but for SIZE to NUMBER."""

    X = 0
    # What is added to x before the first step; read by functions that add.
    ADDEND = 1
    Y = 2
    T = 3
    H = 4
    D = 5
    OFFSET = 6
    # The values behind the last whole group, filled up with NaN; overwritten by their outputs.
    # What is added to them follows, as a group of its own.
    REST = 7
    SIZE = 8
    # How many of the K steps are done.
    STEPS = 9
    THREADS = 10
    # Number of the thread, or -1: then ASK is a C function that tells it.
    NUMBER = 11
    ASK = 12
    # From here on the spikes of each thread.
    COUNTS = 13


@dataclass(frozen=True)
class Compiled:
    """A C function ``void (*)(int64_t *)`` and how many values it takes at a time."""

    address: int
    group: int
    # The machine code lives as long as its engine.
    engine: Any


@cache
def compiled(double: bool, counting: bool, adding: bool) -> Compiled:
    """The function that takes one thread's share of a job through its steps.

    Args:
        double: values are float64, not float32.
        counting: it counts spikes.
        adding: the neuron's input is a sum of two.

    Raises:
        RuntimeError, OSError: where LLVM can't make code for this machine.
    """
    with _lock:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3, jit=True
        )
        bits, vectors, masks = _registers(features)
        width = bits // (64 if double else 32)
        module = _module(double, counting, adding, width, vectors, masks)
        module.triple = llvm.get_default_triple()
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        engine = llvm.create_mcjit_compiler(parsed, machine)
        engine.finalize_object()
        return Compiled(engine.get_function_address("steps"), width * vectors, engine)


def _registers(features: Mapping[str, bool]) -> tuple[int, int, bool]:
    """Bits of a vector, vectors taken at a time, and whether masks have registers of their own.

    Twice so many registers hold the state; the parameters and the count need some as well.
    """
    if features.get("avx512f"):
        return 512, 8, True
    return 256 if features.get("avx2") else 128, 4, False


def _module(
    double: bool, counting: bool, adding: bool, width: int, vectors: int, masks: bool
) -> ir.Module:
    """One thread's share: groups of vectors, each through all steps; see `Job`.

    Args:
        double: values are float64.
        counting: counts spikes.
        adding: adds two inputs first.
        width: values in a vector.
        vectors: how many vectors pass through the steps together.
        masks: one instruction adds where a mask is set.
    """
    whole, small = ir.IntType(64), ir.IntType(32)
    value = ir.DoubleType() if double else ir.FloatType()
    many, counts = ir.VectorType(value, width), ir.VectorType(small, width)
    module = ir.Module("neuron")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [whole.as_pointer()]), "steps")
    names = "entry ask share groups group step written done"
    blocks = {name: function.append_basic_block(name) for name in names.split()}
    job = function.args[0]
    at = ir.IRBuilder(blocks["entry"])

    def const(n: int) -> ir.Constant:
        return ir.Constant(whole, n)

    def field(name: Job) -> Any:
        return at.load(at.gep(job, [const(name)]))

    def spread(number: Any) -> Any:
        """A vector of one number."""
        first = at.insert_element(ir.Constant(many, ir.Undefined), number, ir.Constant(small, 0))
        zeros = ir.Constant(ir.VectorType(small, width), [0] * width)
        return at.shuffle_vector(first, ir.Constant(many, ir.Undefined), zeros)

    x, addend, y, T_row, h_row, d_row, start, rest = (
        at.inttoptr(field(name), value.as_pointer())
        for name in (Job.X, Job.ADDEND, Job.Y, Job.T, Job.H, Job.D, Job.OFFSET, Job.REST)
    )
    size, steps, threads, known = (
        field(name) for name in (Job.SIZE, Job.STEPS, Job.THREADS, Job.NUMBER)
    )
    at.cbranch(at.icmp_signed("<", known, const(0)), blocks["ask"], blocks["share"])

    at.position_at_end(blocks["ask"])
    thread_number = ir.FunctionType(small, []).as_pointer()
    told = at.sext(at.call(at.inttoptr(field(Job.ASK), thread_number), []), whole)
    at.branch(blocks["share"])

    at.position_at_end(blocks["share"])
    number = at.phi(whole)
    number.add_incoming(known, blocks["entry"])
    number.add_incoming(told, blocks["ask"])
    group = const(width * vectors)
    complete = at.udiv(size, group)
    total = at.udiv(at.add(size, const(width * vectors - 1)), group)
    begin = at.udiv(at.mul(total, number), threads)
    end = at.udiv(at.mul(total, at.add(number, const(1))), threads)
    # -0.0 becomes 0.0, as in a sum that starts with 0.
    offset = spread(at.fadd(at.load(start), ir.Constant(value, 0.0)))
    at.branch(blocks["groups"])

    at.position_at_end(blocks["groups"])
    index, fired = at.phi(whole), at.phi(whole)
    index.add_incoming(begin, blocks["share"])
    fired.add_incoming(const(0), blocks["share"])
    at.cbranch(at.icmp_unsigned("<", index, end), blocks["group"], blocks["done"])

    at.position_at_end(blocks["group"])
    place = at.mul(index, group)
    last = at.icmp_unsigned(">=", index, complete)
    source, target = (at.select(last, rest, at.gep(pointer, [place])) for pointer in (x, y))
    align = 8 if double else 4

    def vector(pointer: Any, i: int) -> Any:
        there = at.bitcast(at.gep(pointer, [const(i * width)]), many.as_pointer())
        return at.load(there, align=align)

    given = [vector(source, i) for i in range(vectors)]
    if adding:
        more = at.select(last, at.gep(rest, [group]), at.gep(addend, [place]))
        given = [at.fadd(x_i, vector(more, i)) for i, x_i in enumerate(given)]
    at.branch(blocks["step"])

    at.position_at_end(blocks["step"])
    step = at.phi(whole)
    v, out = [at.phi(many) for _ in given], [at.phi(many) for _ in given]
    count = at.phi(counts)
    T, h, d = (spread(at.load(at.gep(row, [step]))) for row in (T_row, h_row, d_row))
    new_v, new_out, new_count = [], [], count
    nothing = ir.Constant(many, [0.0] * width)
    for potential, read in zip(v, out, strict=True):
        fires = at.fcmp_ordered(">", potential, T)
        if masks:
            new_out.append(at.select(fires, at.fadd(read, d), read))
            new_v.append(at.select(fires, at.fsub(potential, h), potential))
        else:
            new_out.append(at.fadd(read, at.select(fires, d, nothing)))
            new_v.append(at.fsub(potential, at.select(fires, h, nothing)))
        if counting:
            new_count = at.add(new_count, at.zext(fires, counts))
    step_after = at.add(step, const(1))
    step.add_incoming(const(0), blocks["group"])
    step.add_incoming(step_after, blocks["step"])
    count.add_incoming(ir.Constant(counts, [0] * width), blocks["group"])
    count.add_incoming(new_count, blocks["step"])
    for i in range(vectors):
        v[i].add_incoming(given[i], blocks["group"])
        v[i].add_incoming(new_v[i], blocks["step"])
        out[i].add_incoming(offset, blocks["group"])
        out[i].add_incoming(new_out[i], blocks["step"])
    at.cbranch(at.icmp_unsigned("<", step_after, steps), blocks["step"], blocks["written"])

    at.position_at_end(blocks["written"])
    for i in range(vectors):
        # NaN never fires and so is still there.
        nan = at.fcmp_unordered("uno", new_v[i], new_v[i])
        result = at.select(nan, new_v[i], new_out[i])
        pointer = at.bitcast(at.gep(target, [const(i * width)]), many.as_pointer())
        at.store(result, pointer, align=align)
    index.add_incoming(at.add(index, const(1)), blocks["written"])
    fired_after = fired
    if counting:
        reduced = ir.Function(
            module, ir.FunctionType(small, [counts]), f"llvm.vector.reduce.add.v{width}i32"
        )
        fired_after = at.add(fired, at.zext(at.call(reduced, [new_count]), whole))
    fired.add_incoming(fired_after, blocks["written"])
    at.branch(blocks["groups"])

    at.position_at_end(blocks["done"])
    at.store(fired, at.gep(job, [at.add(number, const(Job.COUNTS))]))
    at.ret_void()
    return module
