"""Control of the attention engine: from a command to jobs, the slots that they share, and addresses."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.attention import AttentionKernel
from codesign.hw.primitives.fifo import operands
from codesign.hw.primitives.multiply import Requantizer
from codesign.ir.network import MASKS

OPERANDS = operands(**AttentionKernel.fields)
POINTER_BITS = 24
PRODUCT_BITS = 27
_FULL, _SLIDING = MASKS.index("full"), MASKS.index("sliding")


class AttentionSetup(wiring.Component):
    """Accepts a command, checks it and computes its strides, in the same time for all.

    Members:
        start: pulse, the command is legal and its products are ready.
        error: pulse, the command is illegal.
        stride: words per row; group_stride: words per ``n_a`` rows.
        first_key: query_offset - window + 1; first_offset: first_key in words.
    """

    def __init__(self, kernel: AttentionKernel, depths: dict[str, int]) -> None:
        self._kernel, self._depths = kernel, depths
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "finished": In(1),
                "busy": Out(1),
                "start": Out(1),
                "error": Out(1),
                "operands": Out(OPERANDS),
                "stride": Out(17),
                "group_stride": Out(POINTER_BITS),
                "first_key": Out(signed(18)),
                "first_offset": Out(signed(PRODUCT_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One multiplier and a step counter: heads * db first, then that product times four factors."""
        m = Module()
        m.submodules.product = product = Requantizer(PRODUCT_BITS, PRODUCT_BITS)
        issue = Requantizer.LATENCY + 1
        arrive = issue + Requantizer.LATENCY
        step, bad = Signal(range(arrive + 6)), Signal()
        limit = (1 << PRODUCT_BITS - 1) - 1
        m.d.comb += [self.command.ready.eq(~self.busy), product.low.eq(-limit - 1), product.high.eq(limit)]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [self.operands.eq(self.command.payload), self.busy.eq(1), step.eq(1)]
        with m.If(step != 0):
            m.d.sync += step.eq(step + 1)
        with m.If(self.finished | self.error):
            m.d.sync += self.busy.eq(0)
        with m.If(step == arrive + 5):
            m.d.sync += step.eq(0)
            m.d.comb += [self.start.eq(~bad), self.error.eq(bad)]
        self._issue(m, product, step, issue + 1)
        self._collect(m, product, step, arrive + 1, bad)
        return m

    def _issue(self, m: Module, product: Requantizer, step: Signal, at: int) -> None:
        command = self.operands
        m.d.comb += [self.first_key.eq(command.query_offset - command.window + 1), product.multiplier.eq(self.stride)]
        with m.Switch(step):
            with m.Case(1):
                m.d.comb += [product.acc.eq(command.heads), product.multiplier.eq(command.db)]
            for offset, factor in enumerate((command.rows, command.keys, self._kernel.n_a, self.first_key)):
                with m.Case(at + offset):
                    m.d.comb += product.acc.eq(factor)

    def _collect(self, m: Module, product: Requantizer, step: Signal, at: int, bad: Signal) -> None:
        command, y, depth = self.operands, product.y, self._depths
        with m.Switch(step):
            with m.Case(1):
                m.d.sync += bad.eq(self._illegal())
            with m.Case(at - Requantizer.LATENCY - 1):
                m.d.sync += self.stride.eq(y)
            with m.Case(at):
                m.d.sync += bad.eq(bad | (command.q_base + y > depth["q"]) | (command.o_base + y > depth["o"]))
            with m.Case(at + 1):
                m.d.sync += bad.eq(bad | (command.k_base + y > depth["k"]) | (command.v_base + y > depth["v"]))
            with m.Case(at + 2):
                m.d.sync += self.group_stride.eq(y)
            with m.Case(at + 3):
                m.d.sync += self.first_offset.eq(y)

    def _illegal(self) -> Value:
        command, kernel = self.operands, self._kernel
        empty = (command.rows == 0) | (command.keys == 0) | (command.heads == 0) | (command.db == 0)
        large = (command.keys > kernel.max_keys) | (command.db > kernel.db_max) | (command.mask > _SLIDING)
        scales = (command.score_multiplier[17:] != 0) | (command.score_shift > 63)
        scales |= (command.out_multiplier[16:] != 1) | (command.out_shift > kernel.max_out_shift)
        blind = (command.window == 0) | (command.query_offset + command.rows >= command.keys + command.window)
        return empty | large | scales | ((command.mask == _SLIDING) & blind)


def job_layout(kernel: AttentionKernel) -> data.StructLayout:
    """Layout of a job: one head of one group of rows; without rows and keys if not valid.

    rows: rows left from this group on; q, k: offsets of its first query and key word;
    keys: keys that any of its rows sees; diagonal: first key minus first row.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "rows": 16,
            "q": POINTER_BITS,
            "k": POINTER_BITS,
            "keys": range(kernel.max_keys + 1),
            "diagonal": signed(18),
        }
    )


class Jobs(wiring.Component):
    """Generates the jobs of a command in order; ``job`` changes two cycles after ``start`` or ``advance``."""

    def __init__(self, kernel: AttentionKernel) -> None:
        self._kernel = kernel
        super().__init__(
            {
                "start": In(1),
                "advance": In(1),
                "operands": In(OPERANDS),
                "stride": In(17),
                "group_stride": In(POINTER_BITS),
                "first_key": In(signed(18)),
                "first_offset": In(signed(PRODUCT_BITS)),
                "job": Out(job_layout(kernel)),
            }
        )
        self._left, self._head, self._row = Signal(16), Signal(8), Signal(signed(18))
        self._row_offset, self._head_offset = Signal(POINTER_BITS), Signal(16)
        self._key, self._key_offset = Signal(signed(18)), Signal(signed(PRODUCT_BITS))

    def elaborate(self, platform: object) -> Module:
        """Group and head counters with their offsets, then the key interval of the group."""
        m = Module()
        command = self.operands
        with m.If(self.start):
            m.d.sync += [
                self._left.eq(command.rows),
                self._row.eq(command.query_offset),
                self._row_offset.eq(0),
                self._key.eq(self.first_key),
                self._key_offset.eq(self.first_offset),
                self._head.eq(0),
                self._head_offset.eq(0),
            ]
        with m.Elif(self.advance & (self._head + 1 != command.heads)):
            m.d.sync += [self._head.eq(self._head + 1), self._head_offset.eq(self._head_offset + command.db)]
        with m.Elif(self.advance):
            self._next_group(m)
        self._interval(m)
        return m

    def _next_group(self, m: Module) -> None:
        rows = self._kernel.n_a
        m.d.sync += [
            self._left.eq(Mux(self._left > rows, self._left - rows, 0)),
            self._row.eq(self._row + rows),
            self._row_offset.eq(self._row_offset + self.group_stride),
            self._key.eq(self._key + rows),
            self._key_offset.eq(self._key_offset + self.group_stride),
            self._head.eq(0),
            self._head_offset.eq(0),
        ]

    def _interval(self, m: Module) -> None:
        command, job = self.operands, self.job
        end, last, first, late = Signal(signed(19)), Signal(17), Signal(17), Signal()
        m.d.comb += [
            end.eq(self._row + Mux(self._left < self._kernel.n_a, self._left, self._kernel.n_a)),
            last.eq(Mux((command.mask == _FULL) | (end > command.keys), command.keys, end)),
            late.eq((command.mask == _SLIDING) & (self._key > 0)),
            first.eq(Mux(late, self._key, 0)),
        ]
        valid = self._left != 0
        m.d.sync += [
            job.valid.eq(valid),
            job.rows.eq(self._left),
            job.q.eq(self._row_offset + self._head_offset),
            job.k.eq(Mux(late, self._key_offset, 0) + self._head_offset),
            job.keys.eq(Mux(valid, last - first, 0)),
            job.diagonal.eq(first - self._row),
        ]


class Slots(wiring.Component):
    """Jobs of the three stages and the counters of their common slot.

    Members:
        begin: pulse, the first job is at ``job``.
        load, present, previous: the jobs of the three stages, with valid bits.
        shift: pulse in the cycle before a slot; advance: the same, to the job generator.
        inner, block: cycle within the pass, pass within the slot; turn: last cycle of a pass.
        half: half of the double buffers that ``load`` fills and ``previous`` reads.
        last: the slot is the command's last.
    """

    def __init__(self, kernel: AttentionKernel) -> None:
        self._kernel = kernel
        job = job_layout(kernel)
        super().__init__(
            {
                "begin": In(1),
                "job": In(job),
                "db": In(8),
                "load": Out(job),
                "present": Out(job),
                "previous": Out(job),
                "shift": Out(1),
                "inner": Out(range(max(kernel.max_keys, kernel.n_a))),
                "block": Out(8),
                "turn": Out(1),
                "half": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Counters; a pass is at least two cycles long, so its length may be registered."""
        m = Module()
        running = Signal()
        final = Signal.like(self.inner, init=1)
        present, previous = self.present.keys, self.previous.keys
        longest = Mux(present > previous, present, previous)
        n_a = self._kernel.n_a
        m.d.sync += final.eq(Mux(longest > n_a, longest, n_a) - 1)
        m.d.comb += [
            self.turn.eq(running & (self.inner == final)),
            self.shift.eq(self.begin | (self.turn & (self.block + 1 == self.db))),
            self.last.eq(~(self.job.valid | self.load.valid | self.present.valid)),
        ]
        m.d.sync += self.inner.eq(self.inner + 1)
        with m.If(self.turn):
            m.d.sync += [self.inner.eq(0), self.block.eq(self.block + 1)]
        with m.If(self.shift):
            m.d.sync += [self.inner.eq(0), self.block.eq(0), self.half.eq(~self.half), running.eq(~self.last)]
            m.d.sync += [self.load.eq(self.job), self.present.eq(self.load), self.previous.eq(self.present)]
        return m


class RowWalk(wiring.Component):
    """Row addresses, block by block: from ``base`` at start, one word further at each turn."""

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "turn": In(1),
                "base": In(POINTER_BITS),
                "stride": In(17),
                "address": Out(POINTER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Registers for the address and for the start of the next block."""
        m = Module()
        again = Signal(POINTER_BITS)
        m.d.sync += self.address.eq(self.address + self.stride)
        with m.If(self.turn):
            m.d.sync += [self.address.eq(again), again.eq(again + 1)]
        with m.If(self.start):
            m.d.sync += [self.address.eq(self.base), again.eq(self.base + 1)]
        return m


class KeyWalk(wiring.Component):
    """Key addresses, all blocks of a key before the next key, with the flags that the scores need.

    Members:
        active: there is a key word; first_block, last_block, first_key: flags of that word.
        key: index within the job; block: its block; allowed: one mask bit per row of the group, a cycle late.
    """

    def __init__(self, kernel: AttentionKernel) -> None:
        self._kernel = kernel
        super().__init__(
            {
                "start": In(1),
                "job": In(job_layout(kernel)),
                "operands": In(OPERANDS),
                "stride": In(17),
                "address": Out(POINTER_BITS),
                "active": Out(1),
                "block": Out(8),
                "first_block": Out(1),
                "last_block": Out(1),
                "first_key": Out(1),
                "key": Out(range(kernel.max_keys)),
                "allowed": Out(kernel.n_a),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Block counter inside key counter; the address follows both."""
        m = Module()
        row, base = Signal(POINTER_BITS), Signal(POINTER_BITS)
        left, diagonal = Signal(range(self._kernel.max_keys + 1)), Signal(signed(18))
        m.d.comb += [
            self.active.eq(left != 0),
            self.first_block.eq(self.block == 0),
            self.last_block.eq(self.block + 1 == self.operands.db),
            self.first_key.eq(self.key == 0),
            base.eq(self.operands.k_base + self.job.k),
        ]
        m.d.sync += [self.address.eq(self.address + 1), self.block.eq(self.block + 1)]
        with m.If(self.last_block):
            m.d.sync += [self.address.eq(row + self.stride), row.eq(row + self.stride), self.block.eq(0)]
            m.d.sync += [self.key.eq(self.key + 1), diagonal.eq(diagonal + 1), left.eq(Mux(self.active, left - 1, 0))]
        with m.If(self.start):
            m.d.sync += [self.address.eq(base), row.eq(base), self.block.eq(0), self.key.eq(0)]
            m.d.sync += [left.eq(self.job.keys), diagonal.eq(self.job.diagonal)]
        m.d.sync += self.allowed.eq(self._mask(diagonal))
        return m

    def _mask(self, diagonal: Signal) -> Value:
        """Mask bits: row ``r`` sees keys with ``r - window < diagonal <= r``, or all."""
        mask, window = self.operands.mask, self.operands.window
        lanes = range(self._kernel.n_a)
        past = Cat((mask == _FULL) | (diagonal <= lane) for lane in lanes)
        near = Cat((mask != _SLIDING) | (diagonal + window > lane) for lane in lanes)
        return past & near
