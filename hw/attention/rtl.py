"""The attention engine in Amaranth.

`_Slots` walks the jobs of a command; T is the cycle in which it shows a given state. Every other
stage sees that state a fixed number of cycles later, so all of them switch jobs without gaps:

====================================  ==========================================================
T                                     query address; counters of keys and of values
T + 2                                 key address; query buffer read
T + score                             scores complete: written, row maximum updated
T + score - 1                         scores of the previous job read again
T + score + weight                    their exponentials and the value words meet in the multipliers
T + score + weight + value            sums complete; drained lane by lane after a pass
19 and 8 cycles later                 reciprocal of the row's total known; requantized word written
====================================  ==========================================================
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.attention import AttentionKernel
from codesign.hw.primitives.fifo import operands
from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, RowMemory, WritePort, address_bits
from codesign.hw.primitives.multiply import PackedDot, Requantizer, delay, sum_tree
from codesign.hw.verilog import SharedComponent
from codesign.ir.network import MASKS
from codesign.numerics.nonlinear import EXP_ENTRIES, exp_table

OPERANDS = operands(**AttentionKernel.fields)
POINTER_BITS = 24
PRODUCT_BITS = 27
EXP_LATENCY = 2
DIVIDER_LATENCY = 19
_FULL, _SLIDING = MASKS.index("full"), MASKS.index("sliding")


class _Timing:
    """Fixed distances between the stages, in cycles."""

    def __init__(self, kernel: AttentionKernel) -> None:
        self.chain = min(kernel.t_a, 4)
        self.tree = (kernel.t_a // self.chain - 1).bit_length()
        self.operands = 2 * READ_LATENCY
        self.score = self.operands + PackedDot.latency(self.chain) + self.tree + 1
        self.weight = READ_LATENCY + Requantizer.latency() + EXP_LATENCY
        self.sums = self.score + self.weight + PackedDot.latency(1) + 1
        self.write = self.sums + DIVIDER_LATENCY + Requantizer.latency()


# Control ---------------------------------------------------------------------


class _AttentionSetup(wiring.Component):
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
        issue = Requantizer.latency() + 1
        arrive = issue + Requantizer.latency()
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
            with m.Case(at - Requantizer.latency() - 1):
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


def _job(kernel: AttentionKernel) -> data.StructLayout:
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


class _Jobs(wiring.Component):
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
                "job": Out(_job(kernel)),
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


class _Slots(wiring.Component):
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
        job = _job(kernel)
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


class _RowWalk(wiring.Component):
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


class _KeyWalk(wiring.Component):
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
                "job": In(_job(kernel)),
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


# Datapath --------------------------------------------------------------------


class ScorePair(SharedComponent):
    """Scores of two query rows: dot products of ``t_a`` columns, accumulated over the blocks.

    ``valid`` and ``first`` apply to the products at the accumulator input.
    """

    def __init__(self, t_a: int, score_bits: int) -> None:
        self.t_a, self.score_bits = t_a, score_bits
        word = In(8 * t_a)
        scores = {"s0": Out(signed(score_bits)), "s1": Out(signed(score_bits))}
        super().__init__({"x": word, "w0": word, "w1": word, "valid": In(1), "first": In(1), **scores})

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return f"score_pair_{self.t_a}_{self.score_bits}"

    def build(self, platform: object) -> Module:
        """Packed chains of at most four, an adder tree, two accumulators."""
        m = Module()
        chain = min(self.t_a, 4)
        products: tuple[list[Value], list[Value]] = ([], [])
        for part in range(self.t_a // chain):
            m.submodules[f"dot{part}"] = dot = PackedDot(chain)
            for name in ("x", "w0", "w1"):
                m.d.comb += getattr(dot, name).eq(getattr(self, name).word_select(part, 8 * chain))
            products[0].append(dot.y0)
            products[1].append(dot.y1)
        for side, score in enumerate((self.s0, self.s1)):
            total = sum_tree(m, products[side], f"tree{side}")
            with m.If(self.valid):
                m.d.sync += score.eq(Mux(self.first, 0, score) + total)
        return m


class ExpTable(SharedComponent):
    """Exponential table with two read ports in one 18-Kbit block RAM; latency `EXP_LATENCY`."""

    def __init__(self) -> None:
        super().__init__(
            {
                "u0": In(10),
                "u1": In(10),
                "e0": Out(8),
                "e1": Out(8),
            }
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return "exp_table"

    def build(self, platform: object) -> Module:
        """A ROM with registered outputs."""
        m = Module()
        m.submodules.rom = rom = memory.Memory(
            shape=8, depth=EXP_ENTRIES, init=exp_table().tolist(), attrs={"rom_style": "block"}
        )
        for address, result in ((self.u0, self.e0), (self.u1, self.e1)):
            port = rom.read_port(domain="sync")
            m.d.comb += port.addr.eq(address)
            m.d.sync += result.eq(port.data)
        return m


class SoftmaxPair(SharedComponent):
    """Row maxima and exponentials of two query rows.

    Members:
        s0, s1: scores of the present job; complete: they are valid; first: of the job's first key;
        allowed: mask bits. hold: pulse, the maxima are final and belong to the previous job.
        word: scores and mask bits to store; stored: such a word read back. e0, e1: its exponentials.
    """

    def __init__(self, score_bits: int) -> None:
        self.score_bits = score_bits
        word, score = 2 * (score_bits + 1), In(signed(score_bits))
        control = {"complete": In(1), "first": In(1), "allowed": In(2), "hold": In(1)}
        scale = {"multiplier": In(17), "shift": In(6)}
        results = {"word": Out(word), "e0": Out(8), "e1": Out(8)}
        super().__init__({"s0": score, "s1": score, **control, "stored": In(word), **scale, **results})

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return f"softmax_pair_{self.score_bits}"

    def build(self, platform: object) -> Module:
        """Two lanes around one dual-port table."""
        m = Module()
        m.submodules.table = table = ExpTable()
        m.d.comb += [self.word.eq(Cat(self.s0, self.allowed[0], self.s1, self.allowed[1]))]
        m.d.comb += [self.e0.eq(table.e0), self.e1.eq(table.e1)]
        for lane, (score, index) in enumerate(((self.s0, table.u0), (self.s1, table.u1))):
            top = self._maximum(m, score, self.allowed[lane], lane)
            m.d.comb += index.eq(self._index(m, top, self.stored.word_select(lane, self.score_bits + 1), lane))
        return m

    def _maximum(self, m: Module, score: Signal, allowed: Value, lane: int) -> Signal:
        """Largest allowed score of the previous job."""
        lowest = -(1 << self.score_bits - 1)
        running = Signal(signed(self.score_bits), name=f"running{lane}", reset_less=True)
        top = Signal(signed(self.score_bits), name=f"top{lane}", reset_less=True)
        with m.If(self.complete & (self.first | (allowed & (score > running)))):
            m.d.sync += running.eq(Mux(allowed, score, lowest))
        with m.If(self.hold):
            m.d.sync += top.eq(running)
        return top

    def _index(self, m: Module, top: Signal, stored: Value, lane: int) -> Value:
        """Table index of a stored score; that of the last entry, zero, where the mask forbids the key."""
        bits = self.score_bits
        m.submodules[f"scale{lane}"] = scale = Requantizer(bits + 1, 11)
        difference = Signal(signed(bits + 1), name=f"difference{lane}", reset_less=True)
        m.d.sync += difference.eq(top - stored[:bits].as_signed())
        m.d.comb += [
            scale.acc.eq(difference),
            scale.multiplier.eq(self.multiplier),
            scale.shift.eq(self.shift),
            scale.low.eq(0),
            scale.high.eq(EXP_ENTRIES - 1),
        ]
        allowed = delay(m, stored[bits], 1 + Requantizer.latency(), f"allowed{lane}")
        return Mux(allowed, scale.y[:10], EXP_ENTRIES - 1)


class ValueLane(SharedComponent):
    """Weighted sums of ``t_a`` value columns for one query row, and the sum of the weights.

    ``valid`` and ``first`` apply to the products at the accumulator inputs.
    """

    def __init__(self, t_a: int, total_bits: int) -> None:
        self.t_a, self.total_bits, self.acc_bits = t_a, total_bits, total_bits + 8
        super().__init__(
            {
                "e": In(8),
                "v": In(8 * t_a),
                "valid": In(1),
                "first": In(1),
                "acc": Out(t_a * self.acc_bits),
                "total": Out(total_bits),
            }
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return f"value_lane_{self.t_a}_{self.total_bits}"

    def build(self, platform: object) -> Module:
        """Two columns per DSP, one accumulator each."""
        m = Module()
        for pair in range((self.t_a + 1) // 2):
            m.submodules[f"dot{pair}"] = dot = PackedDot(1, x_signed=False)
            columns = self.v[16 * pair :][:16]
            m.d.comb += [dot.x.eq(self.e), dot.w0.eq(columns[:8]), dot.w1.eq(columns[8:])]
            for side, product in enumerate((dot.y0, dot.y1)):
                if 2 * pair + side < self.t_a:
                    self._accumulate(m, 2 * pair + side, product)
        weight = delay(m, self.e, PackedDot.latency(1), "weight")
        with m.If(self.valid):
            m.d.sync += self.total.eq(Mux(self.first, 0, self.total) + weight)
        return m

    def _accumulate(self, m: Module, column: int, product: Value) -> None:
        acc = Signal(signed(self.acc_bits), name=f"acc{column}", reset_less=True)
        with m.If(self.valid):
            m.d.sync += acc.eq(Mux(self.first, 0, acc) + product)
        m.d.comb += self.acc.word_select(column, self.acc_bits).eq(acc)


class SoftmaxReciprocal(SharedComponent):
    """Divider: ``quotient = (multiplier << (L - 1)) // total`` and ``places = L - 1``, one result per cycle.

    L is the bit length of ``total``. Latency is `DIVIDER_LATENCY` from ``total``; ``multiplier`` (in
    [2**16, 2**17)) is constant meanwhile.
    """

    def __init__(self, total_bits: int) -> None:
        self.total_bits = total_bits
        super().__init__({"total": In(total_bits), "multiplier": In(17), "quotient": Out(17), "places": Out(5)})

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return f"reciprocal_{self.total_bits}"

    def build(self, platform: object) -> Module:
        """Normalises the divisor, then divides by restoring division, one bit per stage."""
        m = Module()
        bits = self.total_bits
        total, places = Signal(bits, reset_less=True), Signal(5, reset_less=True)
        m.d.sync += total.eq(self.total)
        for bit in range(bits):
            with m.If(self.total[bit]):
                m.d.sync += places.eq(bit)
        divisor = delay(m, (total << (bits - 1 - places)[:5])[:bits], 1, "divisor")
        m.d.comb += self.places.eq(delay(m, places, DIVIDER_LATENCY - 1, "places"))
        dividend = Cat(Const(0, bits - 1), self.multiplier)
        rest: Value = dividend[17:]
        quotient: Value = Const(0, 0)
        for stage in range(17):
            wide = Cat(dividend[16 - stage], rest)
            fits = wide >= divisor
            rest = delay(m, Mux(fits, wide - divisor, wide)[:bits], 1, f"rest{stage}")
            quotient = delay(m, Cat(fits, quotient), 1, f"quotient{stage}")
            divisor = delay(m, divisor, 1, f"divisor{stage}")
        m.d.comb += self.quotient.eq(quotient)
        return m


class _SumDrain(wiring.Component):
    """Captures the sums of all lanes at once and requantizes them, one lane per cycle.

    Members:
        take: pulse, the sums of a pass are at ``lanes`` (t_a sums and the row's total, lane after lane).
        multiplier, shift: of the command. word: result of lane 0, 1 + divider + requantizer cycles
        after ``take``, then one lane per cycle.
    """

    def __init__(self, kernel: AttentionKernel) -> None:
        self._kernel = kernel
        self.lane_bits = kernel.t_a * kernel.acc_bits + kernel.total_bits
        super().__init__(
            {
                "take": In(1),
                "lanes": In(kernel.n_a * self.lane_bits),
                "multiplier": In(17),
                "shift": In(6),
                "word": Out(8 * kernel.t_a),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A shift register of lanes, the divider in parallel with a delay of the sums, ``t_a`` requantizers."""
        m = Module()
        bits, sums = self.lane_bits, self._kernel.t_a * self._kernel.acc_bits
        stages = [Signal(bits, name=f"lane{lane}", reset_less=True) for lane in range(self._kernel.n_a)]
        for lane, (stage, after) in enumerate(zip(stages, [*stages[1:], stages[-1]], strict=True)):
            m.d.sync += stage.eq(Mux(self.take, self.lanes.word_select(lane, bits), after))
        m.submodules.divide = divide = SoftmaxReciprocal(self._kernel.total_bits)
        m.d.comb += [divide.total.eq(stages[0][sums:]), divide.multiplier.eq(self.multiplier)]
        total_shift = Signal(6)
        m.d.comb += total_shift.eq(self.shift + divide.places)
        late = self._late(m, stages[0][:sums])
        for column in range(self._kernel.t_a):
            m.submodules[f"requantize{column}"] = narrow = Requantizer(self._kernel.acc_bits, 8)
            m.d.comb += [
                narrow.acc.eq(late.word_select(column, self._kernel.acc_bits)),
                narrow.multiplier.eq(divide.quotient),
                narrow.shift.eq(total_shift),
                narrow.low.eq(-128),
                narrow.high.eq(127),
                self.word.word_select(column, 8).eq(narrow.y),
            ]
        return m

    @staticmethod
    def _late(m: Module, sums: Value) -> Value:
        """Delays the sums by the divider latency, through a ring in LUT RAM."""
        depth = 32
        m.submodules.ring = ring = RowMemory(bits=depth * len(sums), write_bits=len(sums), read_bits=(len(sums),))
        now = Signal(range(depth))
        m.d.sync += now.eq(now + 1)
        m.d.comb += [
            ring.write.en.eq(1),
            ring.write.addr.eq(now),
            ring.write.data.eq(sums),
            ring.read0.addr.eq(now - (DIVIDER_LATENCY - READ_LATENCY)),
        ]
        return ring.read0.data


@dataclass(frozen=True)
class _Scores:
    """Outputs of the score stage for one key.

    Attributes:
        pairs: scores per pair of rows; complete: they are valid.
        first: first key of its job; place: word of the score buffer; allowed: mask bit per row.
    """

    pairs: list[tuple[Value, Value]]
    complete: Value
    first: Value
    place: Value
    allowed: Value


class AttentionEngine(wiring.Component):
    """Runs attention commands one at a time; see `codesign.hw.attention`.

    Args:
        kernel: design parameters.
        q_depth, k_depth, v_depth, o_depth: words of the four memories, at most 2**24.

    Members:
        command: operands, accepted while no command runs.
        done: pulse in the cycle after the last write; error: pulse instead, the command was illegal.
        busy: a command runs.
        q, k, v: read ports, words of ``t_a`` bytes; o: write port.
    """

    def __init__(self, kernel: AttentionKernel, *, q_depth: int, k_depth: int, v_depth: int, o_depth: int) -> None:
        self.kernel, self._time = kernel, _Timing(kernel)
        self.depths = {"q": q_depth, "k": k_depth, "v": v_depth, "o": o_depth}
        if not all(1 <= depth <= 1 << POINTER_BITS for depth in self.depths.values()):
            raise ValueError(f"memories of {self.depths} words; legal: 1 to 2**{POINTER_BITS} each")
        word = 8 * kernel.t_a
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "done": Out(1),
                "error": Out(1),
                "busy": Out(1),
                **{name: Out(ReadPort(address_bits(self.depths[name]), word)) for name in ("q", "k", "v")},
                "o": Out(WritePort(address_bits(o_depth), word)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Control, then the stages in data-flow order."""
        m = Module()
        setup, slots = self._control(m)
        queries = self._load(m, setup, slots)
        scores = self._scores(m, setup, slots, queries)
        weights = self._softmax(m, setup, slots, scores)
        self._values(m, setup, slots, weights)
        return m

    def _control(self, m: Module) -> tuple[_AttentionSetup, _Slots]:
        """Setup, job generator and slots; the first job is ready two cycles after the setup."""
        m.submodules.setup = setup = _AttentionSetup(self.kernel, self.depths)
        m.submodules.jobs = jobs = _Jobs(self.kernel)
        m.submodules.slots = slots = _Slots(self.kernel)
        wiring.connect(m, wiring.flipped(self.command), setup.command)
        for name in ("start", "operands", "stride", "group_stride", "first_key", "first_offset"):
            m.d.comb += getattr(jobs, name).eq(getattr(setup, name))
        m.d.comb += [
            jobs.advance.eq(slots.shift),
            slots.job.eq(jobs.job),
            slots.db.eq(setup.operands.db),
            slots.begin.eq(delay(m, setup.start, 2, "begin", reset_less=False)),
            setup.finished.eq(self.done),
            self.error.eq(setup.error),
            self.busy.eq(setup.busy),
        ]
        return setup, slots

    def _load(self, m: Module, setup: _AttentionSetup, slots: _Slots) -> RowMemory:
        """Loads the queries of the next job into their half of the buffer, one word per cycle."""
        m.submodules.query_walk = walk = _RowWalk()
        rows, width = self.kernel.n_a, self.kernel.n_a * 8 * self.kernel.t_a
        place = (self.kernel.db_max - 1).bit_length()
        m.submodules.queries = buffer = RowMemory(
            bits=width << (place + 1), write_bits=width, read_bits=(width,), mask_bits=rows
        )
        m.d.comb += [
            walk.start.eq(slots.shift),
            walk.turn.eq(slots.turn),
            walk.base.eq(setup.operands.q_base + slots.job.q),
            walk.stride.eq(setup.stride),
            self.q.addr.eq(walk.address),
            buffer.write.en.eq(delay(m, slots.load.valid & (slots.inner < rows), READ_LATENCY, "loading")),
            buffer.write.addr.eq(delay(m, Cat(slots.block[:place], slots.half), READ_LATENCY, "load_at")),
            buffer.write.mask.eq(1 << delay(m, slots.inner[: (rows - 1).bit_length()], READ_LATENCY, "load_lane")),
            buffer.write.data.eq(self.q.data.replicate(rows)),
        ]
        return buffer

    def _scores(self, m: Module, setup: _AttentionSetup, slots: _Slots, queries: RowMemory) -> _Scores:
        """Multiplies the keys of the present job by its queries."""
        m.submodules.key_walk = walk = _KeyWalk(self.kernel)
        place, score = (self.kernel.db_max - 1).bit_length(), self._time.score
        query_at = Cat(walk.block[:place], ~slots.half)
        m.d.comb += [
            walk.start.eq(slots.shift),
            walk.job.eq(slots.load),
            walk.operands.eq(setup.operands),
            walk.stride.eq(setup.stride),
            self.k.addr.eq(delay(m, walk.address, READ_LATENCY, "key_at")),
            queries.read0.addr.eq(delay(m, query_at, READ_LATENCY, "query_at")),
        ]
        valid, first = (delay(m, x, score - 1, n) for x, n in ((walk.active, "valid"), (walk.first_block, "first")))
        word, values = 8 * self.kernel.t_a, []
        for pair in range(self.kernel.n_a // 2):
            m.submodules[f"score{pair}"] = lanes = ScorePair(self.kernel.t_a, self.kernel.score_bits)
            m.d.comb += [
                lanes.x.eq(self.k.data),
                lanes.w0.eq(queries.read0.data.word_select(2 * pair, word)),
                lanes.w1.eq(queries.read0.data.word_select(2 * pair + 1, word)),
                lanes.valid.eq(valid),
                lanes.first.eq(first),
            ]
            values.append((lanes.s0, lanes.s1))
        return _Scores(
            pairs=values,
            complete=delay(m, walk.active & walk.last_block, score, "complete"),
            first=delay(m, walk.first_key, score, "first_key"),
            place=delay(m, Cat(walk.key, ~slots.half), score, "score_at"),
            allowed=delay(m, walk.allowed, score - 1, "allowed"),
        )

    def _softmax(self, m: Module, setup: _AttentionSetup, slots: _Slots, scores: _Scores) -> list[Value]:
        """Buffers the scores of the present job and turns those of the previous job into exponentials."""
        width, score = self.kernel.n_a * (self.kernel.score_bits + 1), self._time.score
        m.submodules.buffer = buffer = RowMemory(
            bits=2 * self.kernel.max_keys * width, write_bits=width, read_bits=(width,)
        )
        key = slots.inner[: len(scores.place) - 1]
        m.d.comb += [
            buffer.write.en.eq(scores.complete),
            buffer.write.addr.eq(scores.place),
            buffer.read0.addr.eq(delay(m, Cat(key, slots.half), score - 1, "stored_at")),
        ]
        hold = delay(m, slots.shift, score + 1, "hold")
        weights: list[Value] = []
        for pair, (s0, s1) in enumerate(scores.pairs):
            m.submodules[f"softmax{pair}"] = lanes = SoftmaxPair(self.kernel.score_bits)
            bits = len(lanes.word)
            m.d.comb += [
                lanes.s0.eq(s0),
                lanes.s1.eq(s1),
                lanes.complete.eq(scores.complete),
                lanes.first.eq(scores.first),
                lanes.allowed.eq(scores.allowed.word_select(pair, 2)),
                lanes.hold.eq(hold),
                lanes.stored.eq(buffer.read0.data.word_select(pair, bits)),
                lanes.multiplier.eq(setup.operands.score_multiplier),
                lanes.shift.eq(setup.operands.score_shift),
                buffer.write.data.word_select(pair, bits).eq(lanes.word),
            ]
            weights += [lanes.e0, lanes.e1]
        return weights

    def _values(self, m: Module, setup: _AttentionSetup, slots: _Slots, weights: list[Value]) -> None:
        """Accumulates exponentials times the values of the previous job, then drains the sums."""
        m.submodules.value_walk = walk = _RowWalk()
        m.submodules.drain = drain = _SumDrain(self.kernel)
        meet, sums = self._time.score + self._time.weight - READ_LATENCY, self._time.sums
        m.d.comb += [
            walk.start.eq(slots.shift),
            walk.turn.eq(slots.turn),
            walk.base.eq(setup.operands.v_base + slots.present.k),
            walk.stride.eq(setup.stride),
            self.v.addr.eq(delay(m, walk.address, meet, "value_at")),
            drain.take.eq(delay(m, slots.turn, sums, "take")),
            drain.multiplier.eq(setup.operands.out_multiplier),
            drain.shift.eq(setup.operands.out_shift),
        ]
        valid = delay(m, slots.inner < slots.previous.keys, sums - 1, "summing")
        first = delay(m, slots.inner == 0, sums - 1, "first_value")
        for lane, weight in enumerate(weights):
            m.submodules[f"value{lane}"] = value = ValueLane(self.kernel.t_a, self.kernel.total_bits)
            m.d.comb += [
                value.e.eq(weight),
                value.v.eq(self.v.data),
                value.valid.eq(valid),
                value.first.eq(first),
                drain.lanes.word_select(lane, drain.lane_bits).eq(Cat(value.acc, value.total)),
            ]
        self._write(m, setup, slots, drain)

    def _write(self, m: Module, setup: _AttentionSetup, slots: _Slots, drain: _SumDrain) -> None:
        """Writes the rows of a pass; the last row of the last pass ends the command."""
        m.submodules.write_walk = walk = _RowWalk()
        rows, previous = self.kernel.n_a, slots.previous
        left, final = Signal(range(rows + 1)), Signal()
        with m.If(slots.turn):
            m.d.sync += [left.eq(Mux(previous.rows > rows, rows, previous.rows)), final.eq(slots.shift & slots.last)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.comb += [
            walk.start.eq(slots.turn),
            walk.base.eq(setup.operands.o_base + previous.q + slots.block),
            walk.stride.eq(setup.stride),
            self.o.en.eq(delay(m, left != 0, self._time.write, "writing", reset_less=False)),
            self.o.addr.eq(delay(m, walk.address, self._time.write, "write_at")),
            self.o.data.eq(drain.word),
            self.done.eq(delay(m, final & (left == 1), self._time.write + 1, "done", reset_less=False)),
        ]
