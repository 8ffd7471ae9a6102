"""The program of a neuron with gates: each lane takes the numbers of its own table.

A row of a table holds one step's number for each interval, one a lane. An instruction that permutes
lanes picks them; where there is none, or not for so many intervals, comparisons with the gates do.
"""

from __future__ import annotations

from llvmlite import ir

from .llvm_program import Form, Program, Registers, _Group, _Pointers, _Share, _State

_PERMUTE = {
    ("avx512", False): "llvm.x86.avx512.permvar.sf.512",
    ("avx512", True): "llvm.x86.avx512.permvar.df.512",
    ("avx2", False): "llvm.x86.avx2.permps",
}


class GatedProgram(Program):
    """As `Program`, for a neuron of several tables."""

    def __init__(self, form: Form, registers: Registers) -> None:
        width = registers.bits // (64 if form.double else 32)
        name = _PERMUTE.get((registers.permutes, form.double))
        self._permute = name if form.intervals <= width else None
        self._declared: ir.Function | None = None
        super().__init__(form, registers)

    @property
    def lanes(self) -> int:
        """Values in a row of the tables."""
        return self.width if self._permute else self.form.intervals

    def _first(
        self, pointers: _Pointers, share: _Share, given: list[ir.Value]
    ) -> tuple[_State, list[ir.Value]]:
        """The table of each value, and its constant."""
        at = self.at
        bounds = [
            self._spread(at.load(at.gep(pointers.gates, [self._const(r)])))
            for r in range(self.form.intervals - 1)
        ]
        index = []
        for x in given:
            own = ir.Constant(self.lane, [0] * self.width)
            for bound in bounds:
                own = at.add(own, at.zext(at.fcmp_ordered(">", x, bound), self.lane))
            index.append(own)
        zero = ir.Constant(self.many, [0.0] * self.width)
        # -0.0 becomes 0.0, as in a sum that starts with 0.
        offsets = [at.fadd(y0, zero) for y0 in self._picked(pointers.offset, index)]
        count, tally = ir.Constant(self.counts, [0] * self.width), []
        if self.form.counting or self.form.tally:
            for x, y0 in zip(given, offsets, strict=True):
                # A constant is an event; NaN, which also fills up the last group, has none.
                event = at.and_(at.fcmp_ordered("!=", y0, zero), at.fcmp_ordered("ord", x, x))
                if self.form.tally:
                    tally.append(at.zext(event, self.lane))
                else:
                    count = at.add(count, at.zext(event, self.counts))
        return _State(given, offsets, count, tally), index

    def _tables(self, pointers: _Pointers, group: _Group, step: ir.Value) -> list[list[ir.Value]]:
        """T, h and d of a step for each vector of a group: those of each value's own table."""
        place = self.at.mul(step, self._const(self.lanes))
        rows = [
            self._picked(self.at.gep(row, [place]), group.index)
            for row in (pointers.T, pointers.h, pointers.d)
        ]
        return [list(vectors) for vectors in zip(*rows, strict=True)]

    def _picked(self, row: ir.Value, index: list[ir.Value]) -> list[ir.Value]:
        """Numbers of a row for each vector of indices."""
        at = self.at
        if self._permute is not None:
            table = self._vector(row, 0)
            kind = ir.FunctionType(self.many, [self.many, index[0].type])
            if self._declared is None:
                self._declared = ir.Function(self.module, kind, self._permute)
            return [at.call(self._declared, [table, own]) for own in index]
        numbers = [
            self._spread(at.load(at.gep(row, [self._const(r)]))) for r in range(self.form.intervals)
        ]
        picked = []
        for own in index:
            found = numbers[0]
            for r in range(1, self.form.intervals):
                least = ir.Constant(own.type, [r] * self.width)
                found = at.select(at.icmp_unsigned(">=", own, least), numbers[r], found)
            picked.append(found)
        return picked
