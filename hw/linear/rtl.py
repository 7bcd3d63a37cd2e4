"""The linear engine in Amaranth: loader, multiplier array, drain.

Three parts run side by side. The *loader* copies the rows of the next row group into
private double buffers. The *array* walks the tiles of the loaded group: one tile is
``t_out`` columns of all its rows, one weight word per cycle from the ring. The *drain*
requantizes finished tiles, one row of ``t_out`` columns per cycle.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.linear import LinearKernel
from codesign.hw.linear.array import TileArray
from codesign.hw.linear.drain import TileDrain
from codesign.hw.linear.interfaces import OPERANDS, SLOTS
from codesign.hw.linear.loader import RowLoader
from codesign.hw.primitives.memory import ReadPort, WritePort, address_bits
from codesign.target.commands import RELEASE


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
        m.submodules.loader = loader = RowLoader(s)
        m.submodules.array = array = TileArray(s)
        m.submodules.drain = drain = TileDrain(s)
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

    def _commands(self, m: Module, slots: memory.Memory, loader: RowLoader) -> None:
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
