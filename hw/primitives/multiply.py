"""Multipliers: two int8 products per DSP48E2, a requantizer and a multiply-add in one DSP each.

A DSP48E2 multiplies 27 by 18 bits. With ``(w1 << 18) + w0`` on the wide side and ``x`` on
the narrow one, a cascade adds up two dot products in one 48-bit accumulator: the low lane
is the low 18 bits, the high lane the next 18 plus the borrow of the low one. A lane holds
8 products of int8 with [-127, 127], or 4 of uint8 with int8. Source: AMD WP486 and UG579.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from codesign.hw.verilog import SharedComponent, VerilogTarget

LANE_BITS = 18
MAX_CHAIN = 8
_DSP_STAGES = 4


def delay(m: Module, value: Value, cycles: int, name: str = "delay", *, reset_less: bool = True) -> Value:
    """Delays ``value`` by ``cycles`` clock edges; without reset it packs into shift registers."""
    for stage in range(cycles):
        register = Signal.like(value, name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


def sum_tree(m: Module, terms: list[Value], name: str) -> Value:
    """Sum of the terms by a binary tree with a register after every level."""
    level = 0
    while len(terms) > 1:
        pairs = [terms[i] + terms[i + 1] if i + 1 < len(terms) else terms[i] for i in range(0, len(terms), 2)]
        terms = [delay(m, pair, 1, f"{name}_{level}_{i}") for i, pair in enumerate(pairs)]
        level += 1
    return terms[0]


class PackedDot(SharedComponent):
    """Two dot products of int8 vectors that share one operand; ``length`` DSPs in cascade.

    ``y0 = sum(x[i] * w0[i])``, ``y1 = sum(x[i] * w1[i])``; all elements enter in the same cycle, one vector
    per cycle; the result appears `latency` cycles later.

    Args:
        length: elements, 1 to 8 if ``w`` is in [-127, 127], 1 to 4 for full range or unsigned ``x``.
        x_signed: ``x`` is int8, else uint8.
    """

    def __init__(self, length: int, *, x_signed: bool = True) -> None:
        if not 1 <= length <= (MAX_CHAIN if x_signed else MAX_CHAIN // 2):
            raise ValueError(f"dot of {length} elements; legal: 1 to 8, or 1 to 4 with unsigned x")
        self.length, self.x_signed = length, x_signed
        super().__init__(
            f"packed_dot_{length}_{'s' if x_signed else 'u'}",
            {
                "x": In(8 * length),
                "w0": In(8 * length),
                "w1": In(8 * length),
                "y0": Out(signed(LANE_BITS)),
                "y1": Out(signed(LANE_BITS)),
            },
        )

    @staticmethod
    def latency(length: int) -> int:
        """Cycles from the operands to ``y0`` and ``y1``."""
        return _DSP_STAGES + length

    def build(self, platform: object) -> Module:
        """The DSP cascade, or its behavioural model with the same latency."""
        m = Module()
        if isinstance(platform, VerilogTarget) and platform.primitives:
            total = self._cascade(m)
            low, high = total[:LANE_BITS], total[LANE_BITS : 2 * LANE_BITS]
            m.d.sync += [self.y0.eq(low), self.y1.eq(high.as_signed() + low[-1])]
            return m
        sums = Signal(2 * LANE_BITS, reset_less=True)
        m.d.sync += sums.eq(Cat(self._sum(self.w0), self._sum(self.w1)))
        last = delay(m, sums, self.latency(self.length) - 1, "lane")
        m.d.comb += [self.y0.eq(last[:LANE_BITS]), self.y1.eq(last[LANE_BITS:])]
        return m

    def _x(self, index: int) -> Value:
        x = self.x.word_select(index, 8)
        return x.as_signed() if self.x_signed else x

    def _sum(self, w: Signal) -> Value:
        total: Value = Const(0, signed(LANE_BITS))
        for index in range(self.length):
            total = total + self._x(index) * w.word_select(index, 8).as_signed()
        return total[:LANE_BITS]

    def _cascade(self, m: Module) -> Value:
        carry: tuple[Value, Value] | None = None
        for index in range(self.length):
            operands = Cat(self.x.word_select(index, 8), self.w0.word_select(index, 8), self.w1.word_select(index, 8))
            late = delay(m, operands, index, f"skew{index}")
            x = late[:8].as_signed() if self.x_signed else late[:8]
            high, low = late[16:24].as_signed() << LANE_BITS, late[8:16].as_signed()
            carry = _pre_adder(m, f"dsp{index}", high, low, x, carry)
        assert carry is not None
        return carry[0]


def _dsp48e2(*, opmode: int, inmode: int, enables: tuple[str, ...], **settings: object) -> Instance:
    """A DSP48E2 that multiplies, with registers at M and P and none at its control inputs. Source: AMD UG579."""
    return Instance(
        "DSP48E2",
        p_BMULTSEL="B", p_A_INPUT="DIRECT", p_B_INPUT="DIRECT", p_USE_MULT="MULTIPLY", p_USE_SIMD="ONE48",
        p_MREG=1, p_PREG=1, p_INMODEREG=0, p_OPMODEREG=0, p_ALUMODEREG=0, p_CARRYINREG=0, p_CARRYINSELREG=0,
        i_OPMODE=Const(opmode, 9), i_ALUMODE=Const(0, 4), i_INMODE=Const(inmode, 5),
        i_CARRYIN=Const(0), i_CARRYINSEL=Const(0, 3), i_CLK=ClockSignal(),
        **{f"i_CE{register}": Const(1) for register in (*enables, "M", "P")}, **settings,
    )  # fmt: skip


def _pre_adder(
    m: Module, name: str, a: Value, d: Value, b: Value, cascade: tuple[Signal, Signal] | None
) -> tuple[Signal, Signal]:
    """One fully pipelined DSP48E2: ``P = (a + d) * b + PCIN``; returns P and PCOUT."""
    p, pcout = Signal(48, name=f"{name}_p"), Signal(48, name=f"{name}_pcout")
    wide_a, wide_d, wide_b = Signal(signed(30)), Signal(signed(27)), Signal(signed(18))
    m.d.comb += [wide_a.eq(a), wide_d.eq(d), wide_b.eq(b)]
    m.submodules[name] = _dsp48e2(
        opmode=0b000010101 if cascade else 0b000000101, inmode=0b00100, enables=("A1", "A2", "AD", "B1", "B2", "D"),
        p_AMULTSEL="AD", p_AREG=1, p_ACASCREG=1, p_BREG=2, p_BCASCREG=2, p_CREG=0, p_DREG=1, p_ADREG=1,
        i_A=wide_a, i_B=wide_b, i_C=Const(0, 48), i_D=wide_d, i_PCIN=cascade[1] if cascade else Const(0, 48),
        o_P=p, o_PCOUT=pcout,
    )  # fmt: skip
    return p, pcout


class Requantizer(SharedComponent):
    """``y = clamp(round_half_even(acc * multiplier / 2**shift), low, high)`` in one DSP, one result per cycle.

    The result comes `LATENCY` cycles after the accumulator. The limits are used in the last step, `LIMITS_AT`
    cycles after the accumulator, so that requantizers with common limits share one delay of them.

    Args:
        acc_bits: signed accumulator, at most 27.
        out_bits: signed result and limits.
    """

    LIMITS_AT = _DSP_STAGES + 3
    LATENCY = LIMITS_AT + 1

    def __init__(self, acc_bits: int, out_bits: int) -> None:
        if not 2 <= acc_bits <= 27:
            raise ValueError(f"accumulator of {acc_bits} bits; legal: 2 to 27 for one DSP per requantizer")
        super().__init__(
            f"requantizer_{acc_bits}_{out_bits}",
            {
                "acc": In(signed(acc_bits)),
                "multiplier": In(17),
                "shift": In(6),
                "low": In(signed(out_bits)),
                "high": In(signed(out_bits)),
                "y": Out(signed(out_bits)),
            },
        )

    def build(self, platform: object) -> Module:
        """Product in the DSP, then coarse shift, fine shift with sticky bits, rounding, clamping."""
        m = Module()
        product = self._product(m, platform)
        shift = delay(m, self.shift, _DSP_STAGES, "shift")
        coarse, fine_shift = Signal(signed(45), reset_less=True), Signal(3, reset_less=True)
        lost, rounded_off = Signal(8, reset_less=True), Signal(reset_less=True)
        groups = Cat(*(self._sticky(product, group) for group in range(8)))
        m.d.sync += [
            coarse.eq(product >> (shift[3:] << 3)),
            fine_shift.eq(shift[:3]),
            lost.eq(Mux(shift[3:] == 0, 0, self._byte_below(product, shift[3:]))),
            rounded_off.eq(groups.bit_select(shift[3:], 1)),
        ]
        floor, up = self._floor(m, coarse, lost, rounded_off, fine_shift)
        rounded = Signal(signed(46), reset_less=True)
        m.d.sync += rounded.eq(floor + up)
        m.d.sync += self.y.eq(Mux(rounded < self.low, self.low, Mux(rounded > self.high, self.high, rounded)))
        return m

    def _product(self, m: Module, platform: object) -> Value:
        product = Signal(signed(44))
        if isinstance(platform, VerilogTarget) and platform.primitives:
            wide, _ = _pre_adder(m, "dsp", self.acc, Const(0, 1), self.multiplier, None)
            m.d.comb += product.eq(wide)
        else:
            first = Signal(signed(44), reset_less=True)
            m.d.sync += first.eq(self.acc * self.multiplier)
            m.d.comb += product.eq(delay(m, first, _DSP_STAGES - 1, "product"))
        return product

    @staticmethod
    def _sticky(product: Value, group: int) -> Value:
        """Sticky bit: whether any bit is set below the last byte dropped by a coarse shift by ``8 * group``."""
        return product[: max(0, 8 * group - 8)].any() if group > 1 else Const(0, 1)

    @staticmethod
    def _byte_below(product: Value, group: Value) -> Value:
        """Byte just below the bits that a coarse shift keeps."""
        wide = Cat(Const(0, 8), product, product[-1].replicate(12))
        return wide.word_select(group, 8)

    @staticmethod
    def _floor(m: Module, coarse: Signal, lost: Signal, sticky: Signal, shift: Signal) -> tuple[Signal, Signal]:
        """Shifts by 0 to 7 bits; returns the floor and whether round-half-to-even rounds it up."""
        extended = Cat(lost, coarse)
        moved = extended.as_signed() >> shift
        below = Cat(Const(0, 8), lost, coarse[:8]).bit_select(shift + 8, 8)
        floor, up = Signal(signed(45), reset_less=True), Signal(reset_less=True)
        dropped = Cat(Const(0, 8), lost).bit_select(shift, 8)
        half, rest = below[7], below[:7].any() | dropped.any() | sticky
        kept = moved[8:]
        m.d.sync += [floor.eq(kept.as_signed()), up.eq(half & (rest | kept[0]))]
        return floor, up


class MultiplyAdd(SharedComponent):
    """``y = a * b + c`` in one DSP, latency `LATENCY`, one per cycle."""

    LATENCY = 3

    def __init__(self) -> None:
        super().__init__(
            "multiply_add",
            {
                "a": In(signed(27)),
                "b": In(signed(18)),
                "c": In(signed(47)),
                "y": Out(signed(48)),
            },
        )

    def build(self, platform: object) -> Module:
        """A DSP48E2 with one register at A, B, C, M and P, or its behavioural model; C enters a cycle late."""
        m = Module()
        c = delay(m, self.c, 1, "c")
        if isinstance(platform, VerilogTarget) and platform.primitives:
            m.submodules.dsp = _dsp48e2(
                opmode=0b000110101, inmode=0, enables=("A2", "B2", "C"),
                p_AMULTSEL="A", p_AREG=1, p_ACASCREG=1, p_BREG=1, p_BCASCREG=1, p_CREG=1, p_DREG=0, p_ADREG=0,
                i_A=Cat(self.a, self.a[-1].replicate(3)), i_B=self.b, i_C=Cat(c, c[-1]), i_D=Const(0, 27), o_P=self.y,
            )  # fmt: skip
            return m
        a, b, late = (delay(m, value, 1, name) for value, name in ((self.a, "a"), (self.b, "b"), (c, "late")))
        m.d.sync += self.y.eq(delay(m, a * b, 1, "product") + late)
        return m
