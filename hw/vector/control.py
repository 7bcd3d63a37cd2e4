"""Control of the vector engine: accepts and checks a command, and addresses its rows."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.fifo import operands
from codesign.hw.primitives.multiply import MultiplyAdd
from codesign.hw.vector import DIGITS, RMS, WIDE_RESULT, VectorKernel

OPERANDS = operands(**VectorKernel.fields)
POINTER_BITS = 24


def wide_result(command: Any) -> Value:
    """Whether a command's results have 16 bits."""
    found: Value = (command.flags & WIDE_RESULT).any()
    return found


class NormSetup(wiring.Component):
    """Accepts a command and checks it, in the same time for all.

    Members:
        start: pulse, the command is legal; error: pulse, it is illegal. words: words per row.
    """

    def __init__(self, kernel: VectorKernel, depths: dict[str, int]) -> None:
        self._kernel, self._depths = kernel, depths
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "finished": In(1),
                "busy": Out(1),
                "start": Out(1),
                "error": Out(1),
                "operands": Out(OPERANDS),
                "words": Out(range(kernel.max_words + 1)),
                "lost": Out(31),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A step counter and one multiplier for the address bounds."""
        m = Module()
        m.submodules.product = product = MultiplyAdd()
        end = MultiplyAdd.LATENCY + 4
        step, bad, command = Signal(range(end + 2)), Signal(), self.operands
        m.d.comb += self.command.ready.eq(~self.busy)
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [command.eq(self.command.payload), self.busy.eq(1), step.eq(1)]
        with m.If(step != 0):
            m.d.sync += step.eq(step + 1)
        with m.If(self.finished | self.error):
            m.d.sync += self.busy.eq(0)
        with m.If(step == 1):
            m.d.sync += [self.words.eq(self._words()), bad.eq(self._illegal())]
            m.d.sync += self.lost.eq(((Const(1, 1) << command.shift[:5]) - 1)[1:32])
        with m.If(step == end):
            m.d.sync += step.eq(0)
            m.d.comb += [self.start.eq(~bad), self.error.eq(bad)]
        self._bounds(m, product, step, bad)
        return m

    def _words(self) -> Value:
        return (self.operands.d + self._kernel.t_v - 1)[self._kernel.t_v.bit_length() - 1 :]

    def _illegal(self) -> Value:
        command = self.operands
        size = (command.rows == 0) | (command.d < 2) | (command.d > self._kernel.max_d)
        numbers = (command.shift > 31) | (command.flags > RMS + WIDE_RESULT * self._kernel.wide)
        return size | numbers | (command.g_base + self._words() > self._depths["g"])

    def _bounds(self, m: Module, product: MultiplyAdd, step: Signal, bad: Signal) -> None:
        """Checks the end address of r, then of x or y."""
        command = self.operands
        m.d.comb += product.a.eq(command.rows - 1)
        for at, name in ((2, "r"), (3, "x")):
            with m.If(step == at):
                m.d.comb += [
                    product.b.eq(command[f"{name}_stride"]),
                    product.c.eq(command[f"{name}_base"] + self.words),
                ]
            with m.If(step == at + MultiplyAdd.LATENCY):
                m.d.sync += bad.eq(bad | (product.y > self._depth(name)))

    def _depth(self, name: str) -> Value | int:
        """Words of a memory; for the result the one that the command writes."""
        if name == "x" and self._kernel.wide:
            return Mux(wide_result(self.operands), self._depths["y"], self._depths["x"])
        return self._depths[name]


class RowAddresses(wiring.Component):
    """Word addresses of rows that start at a fixed interval.

    Members:
        address: of a word; active: it is valid; first: first word of its row; end: last cycle of a row.
    """

    def __init__(self, kernel: VectorKernel) -> None:
        self._kernel = kernel
        super().__init__(
            {
                "start": In(1),
                "operands": In(OPERANDS),
                "words": In(range(kernel.max_words + 1)),
                "address": Out(POINTER_BITS),
                "active": Out(1),
                "first": Out(1),
                "end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Word counter nested in a row counter."""
        m = Module()
        left, row = Signal(16), Signal(POINTER_BITS)
        inner = Signal(range(max(self._kernel.max_words, DIGITS + 1)))
        final = Mux(self.words > DIGITS + 1, self.words, DIGITS + 1) - 1
        after = row + self.operands.r_stride
        m.d.comb += [
            self.active.eq((left != 0) & (inner < self.words)),
            self.first.eq(inner == 0),
            self.end.eq((left != 0) & (inner == final)),
        ]
        m.d.sync += [inner.eq(inner + 1), self.address.eq(self.address + 1)]
        with m.If(self.end):
            m.d.sync += [inner.eq(0), left.eq(left - 1), row.eq(after), self.address.eq(after)]
        with m.If(self.start):
            base = self.operands.r_base
            m.d.sync += [inner.eq(0), left.eq(self.operands.rows), row.eq(base), self.address.eq(base)]
        return m
