"""The linear engine in Amaranth: loader, multiplier array, drain.

Three parts run side by side. The *loader* copies the rows of the next row group into
private double buffers. The *array* walks the tiles of the loaded group: one tile is
``t_out`` columns of all its rows, one weight word per cycle from the ring. The *drain*
requantizes finished tiles, one row of ``t_out`` columns per cycle.
"""

from dataclasses import dataclass

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.linear import ACC_BITS, LinearKernel
from codesign.hw.primitives.fifo import operands
from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, RowMemory, WritePort, address_bits
from codesign.hw.primitives.multiply import MAX_CHAIN, PackedDot, Requantizer, delay
from codesign.hw.verilog import SharedComponent
from codesign.target.commands import RELEASE, USE_TABLE

SLOTS = 4
OPERANDS = operands(**LinearKernel.fields)


def array_latency(t_in: int) -> int:
    """Cycles from the end of a tile to the first cycle in which its accumulators are complete."""
    return READ_LATENCY + PackedDot.latency(min(t_in, MAX_CHAIN)) + (t_in > MAX_CHAIN) + 1


class RowLanes(SharedComponent):
    """Multipliers and accumulators of one row: ``t_in`` inputs by ``t_out`` outputs per cycle.

    ``valid`` and ``first`` apply to the sum at the accumulator input, a fixed latency after its
    operands.
    """

    def __init__(self, t_in: int, t_out: int) -> None:
        self.t_in, self.t_out = t_in, t_out
        width = ACC_BITS * t_out
        super().__init__(
            {"x": In(8 * t_in), "w": In(8 * t_in * t_out), "first": In(1), "valid": In(1), "acc": Out(width)}
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return f"row_lanes_{self.t_in}x{self.t_out}"

    def build(self, platform: object) -> Module:
        """``t_out / 2`` pairs of packed dot products, summed and accumulated."""
        m = Module()
        for pair in range(self.t_out // 2):
            for column, total in zip((2 * pair, 2 * pair + 1), self._pair(m, pair), strict=True):
                acc = Signal(signed(ACC_BITS), name=f"acc{column}", reset_less=True)
                with m.If(self.valid):
                    m.d.sync += acc.eq(Mux(self.first, 0, acc) + total)
                m.d.comb += self.acc.word_select(column, ACC_BITS).eq(acc)
        return m

    def _pair(self, m: Module, pair: int) -> tuple[Value, Value]:
        """Sums over ``t_in`` inputs for two neighbouring columns."""
        chain = min(self.t_in, MAX_CHAIN)
        dots = []
        for start in range(0, self.t_in, chain):
            m.submodules[f"dot{pair}_{start}"] = dot = PackedDot(chain)
            m.d.comb += [
                dot.x.eq(self.x[8 * start :][: 8 * chain]),
                dot.w0.eq(self._weights(2 * pair, start, chain)),
                dot.w1.eq(self._weights(2 * pair + 1, start, chain)),
            ]
            dots.append(dot)
        return _tree(m, [dot.y0 for dot in dots]), _tree(m, [dot.y1 for dot in dots])

    def _weights(self, column: int, start: int, count: int) -> Value:
        return self.w[8 * (column * self.t_in + start) :][: 8 * count]


def _tree(m: Module, terms: list[Value]) -> Value:
    """Sum of the chains, registered if there is more than one."""
    if len(terms) == 1:
        return terms[0]
    total = Signal(signed(ACC_BITS), reset_less=True)
    m.d.sync += total.eq(sum(terms[1:], terms[0]))
    return total


class LinearEngine(wiring.Component):
    """``target = requantize(source @ weights + bias)``, with table or residual add, on the fly.

    Ports:
        command, done, busy, error: common to all engines.
        source, source_select: rows of int8, read from one of several memories.
        weights, table: read ports of the rings; ``arrived`` pulses per weight word written to the ring,
        ``freed`` releases ``freed_words`` weight words and one table word.
        addend, addend_select: int16 rows added to the result.
        out, out_select: results, ``t_out`` times 16 bits; an int8 memory stores the low byte of each.
        lut: write port of the 8-bit tables, one byte per write.
    """

    def __init__(self, shape: LinearKernel) -> None:
        self.shape = s = shape
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "done": Out(1),
                "busy": Out(1),
                "error": Out(1),
                "source": Out(ReadPort(24, 8 * s.word_bytes)),
                "source_select": Out(8),
                "weights": Out(ReadPort(address_bits(s.ring_words), 8 * s.t_in * s.t_out)),
                "table": Out(ReadPort(address_bits(s.table_words), 64 * s.t_out)),
                "arrived": In(1),
                "freed": Out(1),
                "freed_words": Out(16),
                "addend": Out(ReadPort(24, 16 * s.t_out)),
                "addend_select": Out(8),
                "out": Out(WritePort(24, 16 * s.t_out)),
                "out_select": Out(8),
                "lut": In(WritePort(address_bits(256 * s.tables), 8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Connects loader, array and drain; a small register file holds the commands in flight."""
        m = Module()
        s = self.shape
        m.submodules.slots = slots = memory.Memory(shape=OPERANDS, depth=SLOTS, init=[])
        m.submodules.loader = loader = _Loader(s)
        m.submodules.array = array = _Array(s)
        m.submodules.drain = drain = _TileDrain(s)
        self._commands(m, slots, loader)
        array_slot, drain_slot = slots.read_port(domain="comb"), slots.read_port(domain="comb")
        m.d.comb += [
            array_slot.addr.eq(array.slot),
            array.operands.eq(array_slot.data),
            array.loaded.eq(loader.loaded),
            loader.released.eq(array.released),
            array.arrived.eq(self.arrived),
            drain_slot.addr.eq(drain.slot),
            drain.operands.eq(drain_slot.data),
            drain.tile.eq(array.tile),
            drain.valid.eq(array.valid),
            drain.accs.eq(array.accs),
            array.buffer_write.eq(loader.buffer_write),
            self.done.eq(drain.done),
            self.freed.eq(drain.freed),
            self.freed_words.eq(drain.freed_words),
            self.source.addr.eq(loader.source_addr),
            self.source_select.eq(loader.source_select),
            loader.source_data.eq(self.source.data),
            self.weights.addr.eq(array.weights_addr),
            array.weights_data.eq(self.weights.data),
        ]
        for name in ("table", "addend", "out", "lut"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(drain, name))
        m.d.comb += [self.addend_select.eq(drain.addend_select), self.out_select.eq(drain.out_select)]
        return m

    def _commands(self, m: Module, slots: memory.Memory, loader: "_Loader") -> None:
        """Accepts a command when the loader is idle and a slot is free; rejects illegal ones."""
        s = self.shape
        op = self.command.payload
        in_flight = Signal(range(SLOTS + 1))
        tail = Signal(range(SLOTS))
        write = slots.write_port()
        block = Signal(32)
        m.d.comb += block.eq(op.ib * op.ob)
        kept = (op.rows > s.n_l) | ((op.flags & RELEASE) == 0)
        legal = (
            (op.rows != 0) & (op.kw != 0) & (op.kw <= s.kw_max) & (op.ib != 0) & (op.ib <= s.ib_max) & (op.ob != 0)
            & (op.ib <= s.ring_words) & (~kept | (block <= s.ring_words)) & (op.ob <= s.table_words)
            & (op.table < s.tables)
        )  # fmt: skip
        taken = Signal()
        m.d.comb += [
            self.command.ready.eq(loader.idle & (in_flight != SLOTS)),
            taken.eq(self.command.valid & self.command.ready & legal),
            self.error.eq(self.command.valid & self.command.ready & ~legal),
            write.en.eq(taken),
            write.addr.eq(tail),
            write.data.eq(op),
            loader.start.eq(taken),
            loader.operands.eq(op),
            self.busy.eq(in_flight != 0),
        ]
        m.d.sync += [tail.eq(tail + taken), in_flight.eq(in_flight + taken - self.done)]


class _BufferWrite(data.StructLayout):
    """A word on its way to the private row buffers."""

    def __init__(self, s: LinearKernel) -> None:
        super().__init__(
            {"en": 1, "lane": range(max(2, s.n_l)), "addr": address_bits(2 * s.kw_max), "data": 8 * s.word_bytes}
        )


class _Loader(wiring.Component):
    """Copies row groups into the double buffers, one word per cycle, while a buffer is free."""

    def __init__(self, shape: LinearKernel) -> None:
        self.shape = s = shape
        super().__init__(
            {
                "start": In(1),
                "operands": In(OPERANDS),
                "idle": Out(1),
                "loaded": Out(1),
                "released": In(1),
                "source_addr": Out(24),
                "source_select": Out(8),
                "source_data": In(8 * s.word_bytes),
                "buffer_write": Out(_BufferWrite(s)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Walks the words, rows and groups of one command."""
        m = Module()
        s = self.shape
        rows, row_addr, stride = Signal(16), Signal(24), Signal(24)
        word, last_word = Signal(16), Signal(16)
        lane = Signal(range(max(2, s.n_l)))
        buffer, in_use = Signal(), Signal(2)
        first, issue, row_end, group_end = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.idle.eq(rows == 0),
            first.eq((word == 0) & (lane == 0)),
            issue.eq((rows != 0) & (~first | (in_use != 2))),
            row_end.eq(issue & (word == last_word)),
            group_end.eq(row_end & ((lane == s.n_l - 1) | (rows == 1))),
            self.source_addr.eq(row_addr + word),
        ]
        with m.If(issue):
            m.d.sync += word.eq(word + 1)
        with m.If(row_end):
            m.d.sync += [word.eq(0), rows.eq(rows - 1), row_addr.eq(row_addr + stride), lane.eq(lane + 1)]
        with m.If(group_end):
            m.d.sync += [lane.eq(0), buffer.eq(~buffer)]
        m.d.sync += in_use.eq(in_use + (issue & first) - self.released)
        with m.If(self.start):
            op = self.operands
            m.d.sync += [rows.eq(op.rows), row_addr.eq(op.source_base), stride.eq(op.source_stride)]
            m.d.sync += [last_word.eq(op.kw - 1), self.source_select.eq(op.source)]
        self._write(m, Cat(issue, lane, Cat(word[: address_bits(s.kw_max)], buffer), group_end))
        return m

    def _write(self, m: Module, issued: Value) -> None:
        """Writes an issued word when its data arrives."""
        s = self.shape
        word_bits = address_bits(s.kw_max)
        late = delay(m, issued, READ_LATENCY, "issued", reset_less=False)
        lane_bits = len(self.buffer_write.lane)
        word, buffer = late[1 + lane_bits :][:word_bits], late[1 + lane_bits + word_bits]
        m.d.comb += [
            self.buffer_write.en.eq(late[0]),
            self.buffer_write.lane.eq(late[1:][:lane_bits]),
            self.buffer_write.addr.eq(Cat(word, buffer) if s.kw_max > 1 else buffer),
            self.buffer_write.data.eq(self.source_data),
            self.loaded.eq(late[-1]),
        ]


class _Tile(data.StructLayout):
    """Tile descriptor passed from array to drain."""

    def __init__(self, s: LinearKernel) -> None:
        super().__init__(
            {
                "slot": range(SLOTS),
                "rows": range(s.n_l + 1),
                "column": 16,
                "first": 1,
                "new_group": 1,
                "last": 1,
                "release": 1,
                "table_addr": address_bits(s.table_words),
            }
        )


class _Walk:
    """Registers and control signals of the array's walk over groups, tiles and weight words."""

    def __init__(self, s: LinearKernel) -> None:
        self.groups, self.buffer = Signal(2), Signal()
        self.active, self.pending, self.fresh, self.first_group = Signal(), Signal(), Signal(init=1), Signal()
        self.ib, self.ob, self.rows_left, self.rows = Signal(16), Signal(16), Signal(16), Signal(16)
        ring = range(2 * s.ring_words)
        self.base, self.offset, self.available = Signal(ring), Signal(ring), Signal(ring)
        self.table_base = Signal(address_bits(s.table_words))
        self.last_group, self.release, self.issue = Signal(), Signal(), Signal()
        self.tile_end, self.group_end, self.next_ready, self.start = Signal(), Signal(), Signal(), Signal()


class _Array(wiring.Component):
    """Walks the tiles of loaded row groups; a tile starts once its weights are in the ring and then never stalls."""

    def __init__(self, shape: LinearKernel) -> None:
        self.shape = s = shape
        super().__init__(
            {
                "slot": Out(range(SLOTS)),
                "operands": In(OPERANDS),
                "loaded": In(1),
                "released": Out(1),
                "arrived": In(1),
                "buffer_write": In(_BufferWrite(s)),
                "weights_addr": Out(address_bits(s.ring_words)),
                "weights_data": In(8 * s.t_in * s.t_out),
                "tile": Out(_Tile(s)),
                "valid": Out(1),
                "accs": Out(ACC_BITS * s.t_out * s.n_l),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Tile control, then row buffers and lanes."""
        m = Module()
        walk = _Walk(self.shape)
        self._decide(m, walk)
        self._count(m, walk)
        self._step(m, walk)
        self._describe(m, walk)
        self._lanes(m, walk)
        return m

    def _decide(self, m: Module, w: "_Walk") -> None:
        """Control signals of this cycle: issue, end of tile, end of group, start of a group."""
        s, op = self.shape, self.operands
        m.d.comb += [
            w.last_group.eq(w.rows_left <= s.n_l),
            w.rows.eq(Mux(w.last_group, w.rows_left, s.n_l)),
            w.release.eq(w.last_group & ((op.flags & RELEASE) != 0)),
            w.issue.eq(w.active & (w.ib < op.ib)),
            w.tile_end.eq(w.active & (w.ib + 1 >= op.ib) & (w.ib + 1 >= s.n_l)),
            w.group_end.eq(w.tile_end & (w.ob == op.ob - 1)),
            w.next_ready.eq(w.offset + op.ib <= w.available),
            w.start.eq(~w.active & ~w.pending & (w.groups != 0) & (op.ib <= w.available)),
            self.released.eq(w.group_end),
        ]

    def _count(self, m: Module, w: "_Walk") -> None:
        """Counts loaded groups and available weight words; advances the ring bases as words are released."""
        freed = Mux(w.tile_end & w.release, self.operands.ib, 0)
        m.d.sync += [
            w.groups.eq(w.groups + self.loaded - w.group_end),
            w.available.eq(w.available + self.arrived - freed),
            w.base.eq((w.base + freed) & (self.shape.ring_words - 1)),
            w.table_base.eq(w.table_base + (w.tile_end & w.release)),
        ]

    def _step(self, m: Module, w: "_Walk") -> None:
        """Runs tiles without a gap while weights are available, with one idle cycle between groups."""
        op = self.operands
        with m.If(w.start):
            m.d.sync += [w.active.eq(1), w.ib.eq(0), w.ob.eq(0), w.offset.eq(op.ib), w.first_group.eq(w.fresh)]
            m.d.sync += w.rows_left.eq(Mux(w.fresh, op.rows, w.rows_left))
        with m.If(w.active):
            m.d.sync += w.ib.eq(w.ib + 1)
        with m.If(w.tile_end & ~w.group_end):
            m.d.sync += [w.ib.eq(0), w.ob.eq(w.ob + 1), w.active.eq(w.next_ready), w.pending.eq(~w.next_ready)]
            m.d.sync += w.offset.eq(Mux(w.release, w.offset, w.offset + op.ib))
        with m.If(w.pending & (w.offset <= w.available)):
            m.d.sync += [w.active.eq(1), w.pending.eq(0)]
        with m.If(w.group_end):
            m.d.sync += [w.active.eq(0), w.buffer.eq(~w.buffer), w.fresh.eq(w.last_group)]
            m.d.sync += [w.rows_left.eq(w.rows_left - w.rows), self.slot.eq(self.slot + w.last_group)]

    def _describe(self, m: Module, w: "_Walk") -> None:
        """Weight address of this issue, and the tile descriptor for the drain."""
        op = self.operands
        m.d.comb += [
            self.weights_addr.eq(w.base + w.offset - op.ib + w.ib),
            self.valid.eq(w.tile_end),
            self.tile.slot.eq(self.slot),
            self.tile.rows.eq(w.rows),
            self.tile.column.eq(w.ob),
            self.tile.first.eq(w.first_group & (w.ob == 0)),
            self.tile.new_group.eq(w.ob == 0),
            self.tile.last.eq(w.last_group & (w.ob == op.ob - 1)),
            self.tile.release.eq(w.release),
            self.tile.table_addr.eq(Mux(w.release, w.table_base, w.table_base + w.ob)),
        ]

    def _lanes(self, m: Module, w: "_Walk") -> None:
        """Row buffer and multipliers of each row."""
        s = self.shape
        read_addr = Cat(w.ib[: address_bits(s.ib_max)], w.buffer) if s.ib_max > 1 else w.buffer
        late = delay(m, Cat(w.issue, w.issue & (w.ib == 0)), array_latency(s.t_in) - 1, "flags", reset_less=False)
        for lane in range(s.n_l):
            m.submodules[f"buffer{lane}"] = buffer = RowMemory(
                bits=16 * s.kw_max * max(s.word_bytes, s.t_in),
                write_bits=8 * s.word_bytes,
                read_bits=(8 * s.t_in,),
            )
            m.submodules[f"lane{lane}"] = lanes = RowLanes(s.t_in, s.t_out)
            m.d.comb += [
                buffer.write.en.eq(self.buffer_write.en & (self.buffer_write.lane == lane)),
                buffer.write.addr.eq(self.buffer_write.addr),
                buffer.write.data.eq(self.buffer_write.data),
                buffer.read0.addr.eq(read_addr),
                lanes.x.eq(buffer.read0.data),
                lanes.w.eq(self.weights_data),
                lanes.valid.eq(late[0]),
                lanes.first.eq(late[1]),
                self.accs.word_select(lane, ACC_BITS * s.t_out).eq(lanes.acc),
            ]


@dataclass(frozen=True)
class _DrainedRow:
    """One row read from the hold register."""

    accs: Value
    valid: Value
    last: Value
    out: Value
    addend: Value


class _TileDrain(wiring.Component):
    """Requantizes and writes a complete tile, one row per cycle."""

    def __init__(self, shape: LinearKernel) -> None:
        self.shape = s = shape
        super().__init__(
            {
                "slot": Out(range(SLOTS)),
                "operands": In(OPERANDS),
                "tile": In(_Tile(s)),
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
            m.d.sync += self.table.addr.eq(data.View(_Tile(s), ahead).table_addr)
        valid = delay(m, valid_ahead, 2, "tile_late_valid", reset_less=False)
        row = self._rows(m, valid, data.View(_Tile(s), delay(m, ahead, 2, "tile_late")))
        self._pipeline(m, row)
        return m

    def _rows(self, m: Module, valid: Value, tile: data.View) -> _DrainedRow:
        """Steps through the rows of the tile."""
        s, op = self.shape, self.operands
        width = ACC_BITS * s.t_out
        left, lane = Signal(range(s.n_l + 1)), Signal(range(max(2, s.n_l)))
        hold = Signal(width * s.n_l, reset_less=True)
        current = Signal(_Tile(s), reset_less=True)
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
        latency = Requantizer.latency()
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
        """One output column: 16 bits, `Requantizer.latency` + 2 + `READ_LATENCY` cycles after its row."""
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
            {
                "acc": In(signed(ACC_BITS)), "entry": In(64), "low": In(16), "high": In(16),
                "table": In(8), "add": In(1), "term": In(signed(16)), "use": In(1),
                "lut": In(WritePort(address_bits(256 * tables), 8)), "y": Out(16),
            }
        )  # fmt: skip

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return f"drain_column_{self.tables}"

    def build(self, platform: object) -> Module:
        """Pipeline of `Requantizer.latency` + 1 + `READ_LATENCY` cycles from ``acc`` to ``y``."""
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
