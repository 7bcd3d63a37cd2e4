"""The drain of the linear engine: requantizes finished tiles, one row of ``t_out`` columns per cycle."""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.linear import ACC_BITS, LinearKernel, array_latency
from codesign.hw.linear.interfaces import OPERANDS, SLOTS, Tile
from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, RowMemory, WritePort, address_bits
from codesign.hw.primitives.multiply import Requantizer, delay
from codesign.hw.verilog import SharedComponent
from codesign.target.commands import USE_TABLE


@dataclass(frozen=True)
class _DrainedRow:
    """One row read from the hold register."""

    accs: Value
    valid: Value
    last: Value
    out: Value
    addend: Value


class TileDrain(wiring.Component):
    """Requantizes and writes a complete tile, one row per cycle."""

    def __init__(self, shape: LinearKernel) -> None:
        self.shape = s = shape
        super().__init__(
            {
                "slot": Out(range(SLOTS)),
                "operands": In(OPERANDS),
                "tile": In(Tile(s)),
                "valid": In(1),
                "accs": In(ACC_BITS * s.t_out * s.n_l),
                "table": Out(ReadPort(address_bits(s.table_words), 64 * s.t_out)),
                "addend": Out(ReadPort(24, 16 * s.t_out)),
                "addend_select": Out(8),
                "out": Out(WritePort(24, 16 * s.t_out)),
                "out_select": Out(8),
                "lut": In(WritePort(address_bits(256 * s.tables), 8)),
                "done": Out(1),
                "freed": Out(1),
                "freed_words": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Row sequencing, then the pipeline from accumulators to write port."""
        m = Module()
        s = self.shape
        ahead = delay(m, self.tile.as_value(), array_latency(s.t_in) - 2, "tile")
        valid_ahead = delay(m, self.valid, array_latency(s.t_in) - 2, "tile_valid", reset_less=False)
        with m.If(valid_ahead):
            m.d.sync += self.table.addr.eq(data.View(Tile(s), ahead).table_addr)
        valid = delay(m, valid_ahead, 2, "tile_late_valid", reset_less=False)
        row = self._rows(m, valid, data.View(Tile(s), delay(m, ahead, 2, "tile_late")))
        self._pipeline(m, row)
        return m

    def _rows(self, m: Module, valid: Value, tile: data.View) -> _DrainedRow:
        """Steps through the rows of the tile."""
        s, op = self.shape, self.operands
        width = ACC_BITS * s.t_out
        left, lane = Signal(range(s.n_l + 1)), Signal(range(max(2, s.n_l)))
        hold = Signal(width * s.n_l, reset_less=True)
        current = Signal(Tile(s), reset_less=True)
        next_out, next_add = Signal(24), Signal(24)
        group_out, group_add = Signal(24), Signal(24)
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), lane.eq(lane + 1)]
            m.d.sync += [next_out.eq(next_out + op.target_stride), next_add.eq(next_add + op.addend_stride)]
        with m.If(valid):
            m.d.sync += [hold.eq(self.accs), current.eq(tile), left.eq(tile.rows), lane.eq(0)]
        start = Signal()
        m.d.sync += start.eq(valid)
        base_out, base_add = Signal(24), Signal(24)
        m.d.comb += [
            self.slot.eq(current.slot),
            base_out.eq(Mux(current.first, op.target_base, Mux(current.new_group, next_out, group_out))),
            base_add.eq(Mux(current.first, op.addend_base, Mux(current.new_group, next_add, group_add))),
        ]
        with m.If(start):
            m.d.sync += [group_out.eq(base_out), group_add.eq(base_add)]
            m.d.sync += [next_out.eq(base_out + op.target_stride), next_add.eq(base_add + op.addend_stride)]
        m.d.comb += [
            self.freed.eq((left == 1) & current.release),
            self.freed_words.eq(op.ib),
        ]
        rows = Array(hold.word_select(index, width) for index in range(s.n_l))
        return _DrainedRow(
            accs=rows[lane],
            valid=left != 0,
            last=(left == 1) & current.last,
            out=(Mux(start, base_out, next_out) + current.column)[:24],
            addend=(Mux(start, base_add, next_add) + current.column)[:24],
        )

    def _pipeline(self, m: Module, row: _DrainedRow) -> None:
        """Bias, requantizer, table lookup or residual add, write."""
        s, op = self.shape, self.operands
        control = Signal(data.StructLayout({"out": 24, "add": 24, "target": 8, "addend": 8, "use": 1, "table": 8}))
        control_now = Cat(row.out, row.addend, op.target, op.addend, (op.flags & USE_TABLE) != 0, op.table)
        m.d.sync += control.eq(control_now)
        latency = Requantizer.LATENCY
        at_add = data.View(control.shape(), delay(m, control.as_value(), latency - READ_LATENCY, "control"))
        at_y = data.View(control.shape(), delay(m, at_add.as_value(), READ_LATENCY, "control_y"))
        at_end = data.View(control.shape(), delay(m, at_y.as_value(), READ_LATENCY, "control_end"))
        m.d.comb += [self.addend.addr.eq(at_add.add), self.addend_select.eq(at_add.addend)]
        limits = delay(m, Cat(op.low, op.high), Requantizer.LIMITS_AT + 1, "limits")
        results = [self._column(m, index, row.accs, limits, at_y, at_end) for index in range(s.t_out)]
        late = delay(m, Cat(row.valid, row.last), latency + 1 + READ_LATENCY, "valid", reset_less=False)
        late_valid, late_last = late[0], late[1]
        clean = Signal(2)
        m.d.sync += [
            clean.eq(Cat(late_valid, late_valid & late_last)),
            self.out.addr.eq(at_end.out),
            self.out_select.eq(at_end.target),
            self.out.data.eq(Cat(*results)),
            self.done.eq(clean[1]),
        ]
        m.d.comb += self.out.en.eq(clean[0])

    def _column(self, m: Module, index: int, row: Value, limits: Value, at_y: data.View, at_end: data.View) -> Value:
        """One output column: 16 bits, `Requantizer.LATENCY` + 2 + `READ_LATENCY` cycles after its row."""
        m.submodules[f"column{index}"] = column = _Column(self.shape.tables)
        m.d.comb += [
            column.acc.eq(row.word_select(index, ACC_BITS)),
            column.entry.eq(self.table.data.word_select(index, 64)),
            column.low.eq(limits[:16]),
            column.high.eq(limits[16:]),
            column.table.eq(at_y.table),
            column.add.eq(at_y.addend != 0),
            column.term.eq(self.addend.data.word_select(index, 16)),
            column.use.eq(at_end.use),
            column.lut.en.eq(self.lut.en),
            column.lut.addr.eq(self.lut.addr),
            column.lut.data.eq(self.lut.data),
        ]
        return column.y


class _Column(SharedComponent):
    """One column of the drain: bias, requantizer, then table lookup or residual add.

    ``low`` and ``high`` are sampled `Requantizer.LIMITS_AT` + 1 cycles after the ``acc`` they limit.

    Args:
        tables: number of 8-bit tables, a power of two.
    """

    def __init__(self, tables: int) -> None:
        self.tables = tables
        super().__init__(
            f"drain_column_{tables}",
            {
                "acc": In(signed(ACC_BITS)), "entry": In(64), "low": In(16), "high": In(16),
                "table": In(8), "add": In(1), "term": In(signed(16)), "use": In(1),
                "lut": In(WritePort(address_bits(256 * tables), 8)), "y": Out(16),
            }
        )  # fmt: skip

    def build(self, platform: object) -> Module:
        """Pipeline of `Requantizer.LATENCY` + 1 + `READ_LATENCY` cycles from ``acc`` to ``y``."""
        m = Module()
        m.submodules.requantize = quantizer = Requantizer(ACC_BITS, 16)
        biased, scale = Signal(signed(ACC_BITS), reset_less=True), Signal(23, reset_less=True)
        m.d.sync += [biased.eq(self.acc + self.entry[:32].as_signed()), scale.eq(self.entry[32:55])]
        m.d.comb += [
            quantizer.acc.eq(biased),
            quantizer.multiplier.eq(scale[:17]),
            quantizer.shift.eq(scale[17:]),
            quantizer.low.eq(self.low),
            quantizer.high.eq(self.high),
            self.y.eq(Mux(self.use, self._looked_up(m, quantizer.y), self._added(m, quantizer.y))),
        ]
        return m

    def _looked_up(self, m: Module, y: Value) -> Value:
        """Table entry of the low byte, signed."""
        m.submodules.lut = lut = RowMemory(bits=2048 * self.tables, write_bits=8, read_bits=(8,))
        m.d.comb += [
            lut.write.en.eq(self.lut.en),
            lut.write.addr.eq(self.lut.addr),
            lut.write.data.eq(self.lut.data),
            lut.read0.addr.eq(Cat(y[:8], self.table)),
        ]
        return lut.read0.data.as_signed()

    def _added(self, m: Module, y: Value) -> Value:
        """Sum with the addend, saturated to 16 bits, with the latency of a table lookup."""
        total, added = Signal(signed(18)), Signal(signed(16), reset_less=True)
        m.d.comb += total.eq(y + Mux(self.add, self.term, 0))
        m.d.sync += added.eq(Mux(total < -(1 << 15), -(1 << 15), Mux(total > (1 << 15) - 1, (1 << 15) - 1, total)))
        return delay(m, added, READ_LATENCY - 1, "direct").as_signed()
