"""Softmax of the attention engine: row maxima and exponentials, and the division of the sums by the row's total."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.attention import AttentionKernel
from codesign.hw.attention.formulas import DIVIDER_LATENCY
from codesign.hw.primitives.memory import READ_LATENCY, RowMemory
from codesign.hw.primitives.multiply import Requantizer, delay
from codesign.hw.verilog import SharedComponent
from codesign.numerics.nonlinear import EXP_ENTRIES, exp_table


class ExpTable(SharedComponent):
    """Exponential table with two read ports in one 18-Kbit block RAM; latency `EXP_LATENCY`."""

    def __init__(self) -> None:
        super().__init__(
            "exp_table",
            {
                "u0": In(10),
                "u1": In(10),
                "e0": Out(8),
                "e1": Out(8),
            },
        )

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
        super().__init__(
            f"softmax_pair_{score_bits}", {"s0": score, "s1": score, **control, "stored": In(word), **scale, **results}
        )

    def build(self, platform: object) -> Module:
        """Two lanes around one dual-port table."""
        m = Module()
        m.submodules.table = table = ExpTable()
        m.d.comb += [
            self.word.eq(Cat(self.s0, self.allowed[0], self.s1, self.allowed[1])),
            self.e0.eq(table.e0),
            self.e1.eq(table.e1),
        ]
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
        allowed = delay(m, stored[bits], 1 + Requantizer.LATENCY, f"allowed{lane}")
        return Mux(allowed, scale.y[:10], EXP_ENTRIES - 1)


class SoftmaxReciprocal(SharedComponent):
    """Divider: ``quotient = (multiplier << (L - 1)) // total`` and ``places = L - 1``, one result per cycle.

    L is the bit length of ``total``. Latency is `DIVIDER_LATENCY` from ``total``; ``multiplier`` (in
    [2**16, 2**17)) is constant meanwhile.
    """

    def __init__(self, total_bits: int) -> None:
        self.total_bits = total_bits
        super().__init__(
            f"reciprocal_{total_bits}",
            {"total": In(total_bits), "multiplier": In(17), "quotient": Out(17), "places": Out(5)},
        )

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


class SumDrain(wiring.Component):
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
