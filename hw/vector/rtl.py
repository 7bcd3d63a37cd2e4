"""The vector engine in Amaranth.

`RowAddresses` starts rows at a fixed interval. Their words go to the sums and into a ring memory. The end of
a row starts a chain of units, each passing the row on to the next when done: variance, square root,
reciprocal, normalisation. None takes longer than the interval.
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, RowMemory, WritePort, address_bits
from codesign.hw.primitives.multiply import MultiplyAdd, delay
from codesign.hw.vector import DIGITS, VectorKernel
from codesign.hw.vector.control import OPERANDS, POINTER_BITS, NormSetup, RowAddresses, wide_result
from codesign.hw.vector.lane import NormLane
from codesign.hw.vector.row_units import HALF_POINT, SUM_BITS, NormReciprocal, Root, RowSums, Variance


@dataclass(frozen=True)
class _NormRow:
    """Row statistics for the normalisation, valid from the cycle after ``start``."""

    start: Value
    total: Value
    spread: Value
    factor: Value


class VectorEngine(wiring.Component):
    """Runs norm commands one at a time; see `codesign.hw.vector`.

    Args:
        kernel: design parameters.
        r_depth, g_depth, x_depth: words of the three memories, at most 2**24.
        y_depth: likewise of the fourth, only in a wide kernel.

    Members:
        command: operands, accepted while no command runs.
        done: pulse in the cycle after the last write; error: pulse instead, the command was illegal.
        busy: a command runs.
        r: read port, words of ``t_v`` int16; g: read port, words of ``t_v`` times 64 bits (bias in
        bits 0 to 31, gain in 32 to 47); x: write port, words of ``t_v`` int8; y: write port, only in a wide
        kernel, words of ``t_v`` int16.
    """

    def __init__(self, kernel: VectorKernel, *, r_depth: int, g_depth: int, x_depth: int, y_depth: int = 0) -> None:
        self.kernel = kernel
        self.depths = {"r": r_depth, "g": g_depth, "x": x_depth, **({"y": y_depth} if kernel.wide else {})}
        if not all(1 <= depth <= 1 << POINTER_BITS for depth in self.depths.values()):
            raise ValueError(f"memories of {self.depths} words; legal: 1 to 2**{POINTER_BITS} each")
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "done": Out(1),
                "error": Out(1),
                "busy": Out(1),
                "r": Out(ReadPort(address_bits(r_depth), 16 * kernel.t_v)),
                "g": Out(ReadPort(address_bits(g_depth), 64 * kernel.t_v)),
                "x": Out(WritePort(address_bits(x_depth), 8 * kernel.t_v)),
                **({"y": Out(WritePort(address_bits(y_depth), 16 * kernel.t_v))} if kernel.wide else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Control, sums, row units, normalisation."""
        m = Module()
        m.submodules.setup = setup = NormSetup(self.kernel, self.depths)
        m.submodules.rows = rows = RowAddresses(self.kernel)
        wiring.connect(m, wiring.flipped(self.command), setup.command)
        m.d.comb += [
            rows.start.eq(setup.start),
            rows.operands.eq(setup.operands),
            rows.words.eq(setup.words),
            setup.finished.eq(self.done),
            self.error.eq(setup.error),
            self.busy.eq(setup.busy),
            self.r.addr.eq(rows.address),
        ]
        row = self._row_units(m, setup, rows)
        ring = self._ring(m, rows)
        self._normalise(m, setup, row, ring)
        return m

    def _row_units(self, m: Module, setup: NormSetup, rows: RowAddresses) -> _NormRow:
        """Units from the end of a row to its reciprocal."""
        m.submodules.sums = sums = RowSums(self.kernel)
        m.submodules.variance = variance = Variance()
        m.submodules.root = root = Root()
        m.submodules.reciprocal = reciprocal = NormReciprocal()
        command = setup.operands
        ready = READ_LATENCY + MultiplyAdd.LATENCY + self.kernel.t_v.bit_length()
        m.d.comb += [
            sums.word.eq(self.r.data),
            sums.active.eq(delay(m, rows.active, READ_LATENCY, "summing")),
            sums.first.eq(delay(m, rows.first, READ_LATENCY, "summing_first")),
            variance.start.eq(delay(m, rows.end, ready, "row", reset_less=False)),
            variance.sum.eq(Mux(command.flags[0], 0, sums.sum)),
            variance.squares.eq(sums.squares),
            variance.d.eq(command.d),
            variance.eps.eq(command.eps),
            root.start.eq(variance.done),
            root.square.eq(variance.square),
            reciprocal.start.eq(root.done),
            reciprocal.divisor.eq(root.root),
        ]
        facts: Value = Cat(variance.total, variance.spread)
        for start in (root.start, reciprocal.start, reciprocal.done):
            held = Signal(len(facts), reset_less=True)
            with m.If(start):
                m.d.sync += held.eq(facts)
            facts = held
        factor = Signal(DIGITS, reset_less=True)
        with m.If(reciprocal.done):
            m.d.sync += factor.eq(reciprocal.quotient)
        return _NormRow(reciprocal.done, facts[:SUM_BITS].as_signed(), facts[SUM_BITS:], factor)

    def _ring(self, m: Module, rows: RowAddresses) -> RowMemory:
        """Ring of the words of r: written as they arrive and read again in the same order."""
        width, depth = 16 * self.kernel.t_v, self.kernel.ring_words
        m.submodules.ring = ring = RowMemory(bits=width * depth, write_bits=width, read_bits=(width,))
        place = Signal(range(depth))
        m.d.comb += [
            ring.write.en.eq(delay(m, rows.active, READ_LATENCY, "storing", reset_less=False)),
            ring.write.addr.eq(place),
            ring.write.data.eq(self.r.data),
        ]
        with m.If(ring.write.en):
            m.d.sync += place.eq(place + 1)
        return ring

    def _normalise(self, m: Module, setup: NormSetup, row: _NormRow, ring: RowMemory) -> None:
        """Passes the words of a row from the ring through the lanes, and addresses the results."""
        command = setup.operands
        left, remaining, place = Signal.like(setup.words), Signal(16), Signal(range(self.kernel.ring_words))
        active = left != 0
        with m.If(active):
            m.d.sync += [left.eq(left - 1), place.eq(place + 1)]
        with m.If(row.start):
            m.d.sync += [left.eq(setup.words), remaining.eq(remaining - 1)]
        with m.If(setup.start):
            m.d.sync += remaining.eq(command.rows)
        m.d.comb += ring.read0.addr.eq(place)
        self._lanes(m, setup, row, ring.read0.data)
        latency = READ_LATENCY + NormLane.LATENCY
        self._enable(m, setup, delay(m, active, latency, "writing", reset_less=False))
        m.d.comb += self.done.eq(delay(m, (left == 1) & (remaining == 0), latency + 1, "done", reset_less=False))
        self._addresses(m, setup, row.start, latency)

    def _enable(self, m: Module, setup: NormSetup, writing: Value) -> None:
        """Write enable of the command's result memory."""
        if not self.kernel.wide:
            m.d.comb += self.x.en.eq(writing)
            return
        wide = wide_result(setup.operands)
        m.d.comb += [self.x.en.eq(writing & ~wide), self.y.en.eq(writing & wide)]

    def _addresses(self, m: Module, setup: NormSetup, start: Value, latency: int) -> None:
        """Addresses of gains and results, counting up from the first word of each row."""
        command, row = setup.operands, Signal(POINTER_BITS)
        gain_at, write_at = Signal(POINTER_BITS), Signal(POINTER_BITS)
        m.d.sync += [gain_at.eq(gain_at + 1), write_at.eq(write_at + 1)]
        with m.If(delay(m, start, NormLane.GAIN_AT, "gain", reset_less=False)):
            m.d.sync += gain_at.eq(command.g_base)
        with m.If(delay(m, start, latency, "write", reset_less=False)):
            m.d.sync += [write_at.eq(row), row.eq(row + command.x_stride)]
        with m.If(setup.start):
            m.d.sync += row.eq(command.x_base)
        m.d.comb += [self.g.addr.eq(gain_at), self.x.addr.eq(write_at)]
        if self.kernel.wide:
            m.d.comb += self.y.addr.eq(write_at)

    def _lanes(self, m: Module, setup: NormSetup, row: _NormRow, word: Value) -> None:
        command = setup.operands
        total = delay(m, row.total, READ_LATENCY, "total")
        factor = delay(m, row.factor, READ_LATENCY + MultiplyAdd.LATENCY, "factor")
        scale = delay(m, HALF_POINT - row.spread, READ_LATENCY + MultiplyAdd.LATENCY, "scale")
        for column in range(self.kernel.t_v):
            m.submodules[f"lane{column}"] = lane = NormLane(self.kernel.wide == 1)
            affine = self.g.data.word_select(column, 64)
            m.d.comb += [
                lane.r.eq(word.word_select(column, 16)),
                lane.d.eq(command.d),
                lane.minus_sum.eq(-total),
                lane.reciprocal.eq(factor),
                lane.scale.eq(scale),
                lane.bias.eq(affine[:32]),
                lane.gain.eq(affine[32:48]),
                lane.shift.eq(command.shift),
                lane.lost.eq(setup.lost),
                self.x.data.word_select(column, 8).eq(lane.y),
            ]
            if self.kernel.wide:
                m.d.comb += [
                    lane.wide.eq(wide_result(command)),
                    self.y.data.word_select(column, 16).eq(lane.y),
                ]
