"""The engine in Amaranth: scan a row, then copy it or write zeros."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.fifo import operands
from codesign.hw.primitives.memory import ReadPort, WritePort, address_bits
from codesign.hw.primitives.multiply import delay
from keep_rows import READ_CYCLES, KeepRowsKernel

OPERANDS = operands(**KeepRowsKernel.fields)


class _State(enum.Enum):
    IDLE = 0
    SCAN = 1
    SCANNED = 2
    COPY = 3
    COPIED = 4
    CLEAR = 5


class KeepRowsEngine(wiring.Component):
    """Runs commands one at a time.

    Members:
        command: operands, accepted while no command runs.
        done: pulse in the cycle after the last write; error: pulse as a command is refused.
        busy: a command runs, the cycle of the done pulse included.
        x: read port, y: write port, words of ``lanes`` int8.
    """

    def __init__(self, kernel: KeepRowsKernel, *, x_depth: int, y_depth: int) -> None:
        self.kernel = kernel
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)), "done": Out(1), "busy": Out(1), "error": Out(1),
                "x": Out(ReadPort(address_bits(x_depth), 8 * kernel.lanes)),
                "y": Out(WritePort(address_bits(y_depth), 8 * kernel.lanes)),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        """Control, then the data path."""
        m = Module()
        op = self.command.payload
        state = Signal(_State)
        held = Signal(OPERANDS)
        words, word, row = Signal(16), Signal(16), Signal(16)
        legal, taken, last = Signal(), Signal(), Signal()
        m.d.comb += [
            legal.eq((op.rows != 0) & (op.columns != 0)),
            self.busy.eq((state != _State.IDLE) | self.done),
            self.command.ready.eq(~self.busy),
            taken.eq(self.command.valid & self.command.ready & legal),
            self.error.eq(self.command.valid & self.command.ready & ~legal),
            last.eq(word == words - 1),
        ]
        shift = self.kernel.lanes.bit_length() - 1
        with m.If(taken):
            m.d.sync += [held.eq(op), words.eq((op.columns + self.kernel.lanes - 1) >> shift), state.eq(_State.SCAN)]
            m.d.sync += [word.eq(0), row.eq(0)]
        arrived, keep = self._data(m, state, held, word, last)
        self._steps(m, state, word, last, arrived, keep)
        ending = Signal()
        m.d.comb += ending.eq(((state == _State.COPIED) & arrived) | ((state == _State.CLEAR) & last))
        m.d.sync += self.done.eq(ending & (row == held.rows - 1))
        with m.If(ending):
            m.d.sync += [row.eq(row + 1), held.x_base.eq(held.x_base + held.x_stride)]
            m.d.sync += [held.y_base.eq(held.y_base + held.y_stride), word.eq(0)]
            m.d.sync += state.eq(Mux(row == held.rows - 1, _State.IDLE, _State.SCAN))
        return m

    @staticmethod
    def _steps(m: Module, state: Signal, word: Signal, last: Signal, arrived: Value, keep: Value) -> None:
        """From word to word, and from reading to what follows when the last word is there."""
        with m.If((state == _State.SCAN) | (state == _State.COPY) | (state == _State.CLEAR)):
            m.d.sync += word.eq(word + 1)
        with m.If((state == _State.SCAN) & last):
            m.d.sync += [state.eq(_State.SCANNED), word.eq(0)]
        with m.If((state == _State.COPY) & last):
            m.d.sync += state.eq(_State.COPIED)
        with m.If((state == _State.SCANNED) & arrived):
            m.d.sync += state.eq(Mux(keep, _State.COPY, _State.CLEAR))

    def _data(self, m: Module, state: Signal, held: Signal, word: Signal, last: Signal) -> tuple[Value, Value]:
        """Reads, finds the largest element, writes; returns the pulse of a row's last word, and whether to keep it."""
        lanes = self.kernel.lanes
        issue, copying = Signal(), state == _State.COPY
        m.d.comb += [issue.eq((state == _State.SCAN) | copying), self.x.addr.eq(held.x_base + word)]
        late = delay(m, Cat(issue, issue & last, copying, word), READ_CYCLES, "word", reset_less=False)
        column = Cat(Const(0, lanes.bit_length() - 1), late[3:])
        used = [column + lane < held.columns for lane in range(lanes)]
        data, least = [self.x.data.word_select(lane, 8) for lane in range(lanes)], Const(-128, signed(8))
        elements = [Mux(u, element.as_signed(), least) for u, element in zip(used, data, strict=True)]
        best, top = Signal(signed(8)), _largest(elements)
        now = Signal(signed(8))
        m.d.comb += now.eq(Mux(top > best, top, best))
        with m.If(late[0] & ~late[2]):
            m.d.sync += best.eq(now)
        with m.If((state != _State.SCAN) & (state != _State.SCANNED)):
            m.d.sync += best.eq(-128)
        clear = state == _State.CLEAR
        m.d.comb += [
            self.y.en.eq((late[0] & late[2]) | clear),
            self.y.addr.eq(held.y_base + Mux(clear, word, late[3:])),
            self.y.data.eq(Cat(*(Mux(clear | ~u, 0, element) for u, element in zip(used, data, strict=True)))),
        ]
        return late[1], now >= held.threshold.as_signed()


def _largest(values: list[Value]) -> Value:
    """The largest of some signed values, in a tree."""
    while len(values) > 1:
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [Mux(a > b, a, b) for a, b in pairs]
    return values[0]
