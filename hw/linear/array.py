"""The multiplier array of the linear engine: rows of multipliers, and the walk over tiles and weight words.

One tile is ``t_out`` columns of all rows of a group; it takes one weight word per cycle from the ring.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.linear import ACC_BITS, LinearKernel, array_latency
from codesign.hw.linear.interfaces import OPERANDS, SLOTS, BufferWrite, Tile
from codesign.hw.primitives.memory import RowMemory, address_bits
from codesign.hw.primitives.multiply import MAX_CHAIN, PackedDot, delay
from codesign.hw.verilog import SharedComponent
from codesign.target.commands import RELEASE


class RowLanes(SharedComponent):
    """Multipliers and accumulators of one row: ``t_in`` inputs by ``t_out`` outputs per cycle.

    ``valid`` and ``first`` apply to the sum at the accumulator input, a fixed latency after its
    operands.
    """

    def __init__(self, t_in: int, t_out: int) -> None:
        self.t_in, self.t_out = t_in, t_out
        width = ACC_BITS * t_out
        super().__init__(
            f"row_lanes_{t_in}x{t_out}",
            {"x": In(8 * t_in), "w": In(8 * t_in * t_out), "first": In(1), "valid": In(1), "acc": Out(width)},
        )

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


class TileArray(wiring.Component):
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
                "buffer_write": In(BufferWrite(s)),
                "weights_addr": Out(address_bits(s.ring_words)),
                "weights_data": In(8 * s.t_in * s.t_out),
                "tile": Out(Tile(s)),
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

    def _decide(self, m: Module, w: _Walk) -> None:
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

    def _count(self, m: Module, w: _Walk) -> None:
        """Counts loaded groups and available weight words; advances the ring bases as words are released."""
        freed = Mux(w.tile_end & w.release, self.operands.ib, 0)
        m.d.sync += [
            w.groups.eq(w.groups + self.loaded - w.group_end),
            w.available.eq(w.available + self.arrived - freed),
            w.base.eq((w.base + freed) & (self.shape.ring_words - 1)),
            w.table_base.eq(w.table_base + (w.tile_end & w.release)),
        ]

    def _step(self, m: Module, w: _Walk) -> None:
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

    def _describe(self, m: Module, w: _Walk) -> None:
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

    def _lanes(self, m: Module, w: _Walk) -> None:
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
