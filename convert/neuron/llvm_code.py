"""Machine code for the neuron's time steps (`llvm_program`), made by LLVM in ten milliseconds."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import nan
from threading import Lock
from typing import Any

import llvmlite.binding as llvm

from .llvm_gated import GatedProgram
from .llvm_program import Form, Program, Registers

_lock = Lock()


@dataclass(frozen=True)
class Compiled:
    """A C function ``void (*)(int64_t *)``, how many values it takes at a time, and its registers.

    `call` calls it with a job; `lanes` is how many values a row of a gated neuron's tables has;
    `blank` makes memory for two groups, filled with NaN.
    """

    address: int
    group: int
    lanes: int
    call: Callable[[Any], None]
    blank: Callable[[], ctypes.Array[ctypes.c_char]]
    # The machine code lives as long as its engine.
    engine: llvm.ExecutionEngine


@cache
def compiled(
    double: bool, counting: bool, adding: bool, intervals: int = 1, tally: int = 0
) -> Compiled:
    """The function that takes one thread's share of a job through its steps.

    Args:
        double: values are float64, not float32.
        counting: it counts spikes.
        adding: the neuron's input is a sum of two.
        intervals: G, tables of the neuron.
        tally: bits in which it writes each value's events; 0 for none.

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
        form, registers = Form(double, counting, adding, intervals, tally), _registers(features)
        program = (Program if intervals == 1 else GatedProgram)(form, registers)
        module = program.module
        module.triple = llvm.get_default_triple()
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        engine = llvm.create_mcjit_compiler(parsed, machine)
        engine.finalize_object()
        address = engine.get_function_address("steps")
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
        group = program.group_size
        return Compiled(address, group, program.lanes, call, _blank(double, group), engine)


def _blank(double: bool, group: int) -> Callable[[], ctypes.Array[ctypes.c_char]]:
    filled = array("d" if double else "f", [nan] * (2 * group)).tobytes()
    return partial((ctypes.c_char * len(filled)).from_buffer_copy, filled)


def _registers(features: Mapping[str, bool]) -> Registers:
    """What a processor with these features offers."""
    if features.get("avx512f"):
        return Registers(512, 8, True, "avx512")
    if features.get("avx2"):
        return Registers(256, 4, False, "avx2")
    return Registers(128, 4, False)
