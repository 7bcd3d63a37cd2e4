"""The loader of the linear engine: copies the rows of the next group into the private row buffers."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.linear import LinearKernel
from codesign.hw.linear.interfaces import OPERANDS, BufferWrite
from codesign.hw.primitives.memory import READ_LATENCY, address_bits
from codesign.hw.primitives.multiply import delay


class RowLoader(wiring.Component):
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
                "buffer_write": Out(BufferWrite(s)),
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
