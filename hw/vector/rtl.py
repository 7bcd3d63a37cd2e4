"""The vector engine in Amaranth.

`_Rows` starts rows at a fixed interval. Their words go to the sums and into a ring memory. The end of
a row starts a chain of units, each passing the row on to the next when done: variance, square root,
reciprocal, normalisation. None takes longer than the interval.
"""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.fifo import operands
from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, RowMemory, WritePort, address_bits
from codesign.hw.primitives.multiply import Requantizer, delay, sum_tree
from codesign.hw.vector import RMS, WIDE_RESULT, VectorKernel
from codesign.hw.verilog import SharedComponent, VerilogTarget
from codesign.numerics.nonlinear import NORM_FRACTION_BITS

OPERANDS = operands(**VectorKernel.fields)
POINTER_BITS = 24
DIGITS = 17
PRODUCT_LATENCY = 3
ROUND_LATENCY = 3
SUM_BITS = 26
SQUARES_BITS = 41
VARIANCE_BITS = 52
CENTRED_BITS = 27
AFFINE_BITS = 36
_Z_BITS = 18
_SPREAD = 9
"""Offset that makes the exponent e of `codesign.numerics.nonlinear.norm` a non-negative left shift."""
_HALF_POINT = 33 - NORM_FRACTION_BITS + _SPREAD
"""Minus the spread, this is the shift from c * R to z: R has 33 fractional bits, z has 10."""


# Parts -------------------------------------------------------------------------


class MultiplyAdd(SharedComponent):
    """``y = a * b + c`` in one DSP, latency `PRODUCT_LATENCY`, one per cycle."""

    def __init__(self) -> None:
        super().__init__(
            {
                "a": In(signed(27)),
                "b": In(signed(18)),
                "c": In(signed(47)),
                "y": Out(signed(48)),
            }
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return "multiply_add"

    def build(self, platform: object) -> Module:
        """The DSP48E2, or its behavioural model with the same latency."""
        m = Module()
        c = delay(m, self.c, 1, "c")
        if isinstance(platform, VerilogTarget) and platform.primitives:
            m.submodules.dsp = self._dsp48e2(c)
            return m
        a, b, late = (delay(m, value, 1, name) for value, name in ((self.a, "a"), (self.b, "b"), (c, "late")))
        m.d.sync += self.y.eq(delay(m, a * b, 1, "product") + late)
        return m

    def _dsp48e2(self, c: Value) -> Instance:
        """DSP48E2 with one register at A, B, C, M and P; C enters a cycle late. Source: AMD UG579."""
        clock = {f"i_CE{port}": Const(1) for port in ("A2", "B2", "C", "M", "P")}
        return Instance(
            "DSP48E2",
            p_AMULTSEL="A", p_BMULTSEL="B", p_A_INPUT="DIRECT", p_B_INPUT="DIRECT",
            p_USE_MULT="MULTIPLY", p_USE_SIMD="ONE48",
            p_AREG=1, p_ACASCREG=1, p_BREG=1, p_BCASCREG=1, p_CREG=1, p_DREG=0, p_ADREG=0, p_MREG=1, p_PREG=1,
            p_INMODEREG=0, p_OPMODEREG=0, p_ALUMODEREG=0, p_CARRYINREG=0, p_CARRYINSELREG=0,
            i_A=Cat(self.a, self.a[-1].replicate(3)), i_B=self.b, i_C=Cat(c, c[-1]), i_D=Const(0, 27),
            i_OPMODE=Const(0b000110101, 9), i_ALUMODE=Const(0, 4), i_INMODE=Const(0, 5),
            i_CARRYIN=Const(0), i_CARRYINSEL=Const(0, 3), i_CLK=ClockSignal(), **clock, o_P=self.y,
        )  # fmt: skip


class RoundShift(SharedComponent):
    """``y = saturate(round_half_even(x / 2**shift), -128, 127)``, latency `ROUND_LATENCY`.

    ``lost`` masks the bits below the first dropped one, ``((1 << shift) - 1) >> 1``; it and ``shift``
    (0 to 31) are constant during a command.

    Args:
        wide: adds an input ``wide``, also constant during a command, that selects 16-bit saturation.
    """

    def __init__(self, wide: bool = False) -> None:
        self._wide = wide
        super().__init__(
            {
                "x": In(signed(AFFINE_BITS)),
                "shift": In(5),
                "lost": In(31),
                "y": Out(signed(16 if wide else 8)),
                **_wide_member(wide),
            }
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return "round_shift_16" if self._wide else "round_shift"

    def build(self, platform: object) -> Module:
        """Shift by bytes, shift by bits keeping one fraction bit, round and clamp."""
        m = Module()
        wide = Cat(Const(0, 1), self.x).as_signed()
        coarse = delay(m, wide >> (self.shift[3:] << 3), 1, "coarse")
        fine = delay(m, coarse >> self.shift[:3], 1, "fine")
        sticky = delay(m, (self.x[:31] & self.lost).any(), 2, "sticky")
        half, floor = fine[0], fine[1:].as_signed()
        up = half & (sticky | floor[0])
        m.d.sync += self.y.eq(self._clamped(floor, up))
        return m

    def _clamped(self, floor: Value, up: Value) -> Value:
        if not self._wide:
            return Mux(floor > 126, 127, Mux(floor < -128, -128, floor[:8].as_signed() + up))
        high, low = (Mux(self.wide, wide, narrow) for wide, narrow in ((32767, 127), (-32768, -128)))
        above, below = (
            Mux(self.wide, wide, narrow)
            for wide, narrow in ((floor > 32766, floor > 126), (floor < -32768, floor < -128))
        )
        return Mux(above, high, Mux(below, low, floor[:16].as_signed() + up))


def _wide_member(wide: bool) -> dict[str, wiring.Member]:
    """Input ``wide``, which selects 16-bit results, if the design has them."""
    return {"wide": In(1)} if wide else {}


class Root(SharedComponent):
    """Integer square root of a 34-bit number, one bit per cycle.

    ``root`` and the pulse ``done`` come ``DIGITS + 1`` cycles after the pulse ``start``, which may coincide
    with the previous ``done``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "square": In(2 * DIGITS),
                "done": Out(1),
                "root": Out(DIGITS),
            }
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return "integer_root"

    def build(self, platform: object) -> Module:
        """Digit recurrence: consumes two bits of the square and yields one of the root per cycle."""
        m = Module()
        below, rest = Signal(2 * DIGITS), Signal(DIGITS + 2)
        busy = _countdown(m, self.start, self.done)
        wide = Cat(below[-2:], rest)
        trial = Cat(Const(1, 2), self.root)
        fits = wide >= trial
        with m.If(self.start):
            m.d.sync += [below.eq(self.square), rest.eq(0), self.root.eq(0)]
        with m.Elif(busy):
            m.d.sync += [
                below.eq(below << 2),
                rest.eq(Mux(fits, wide - trial, wide)),
                self.root.eq(Cat(fits, self.root)),
            ]
        return m


class NormReciprocal(SharedComponent):
    """``min(2**33 // divisor, 2**17 - 1)`` of a divisor in [2**16, 2**17); timing as `Root`."""

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "divisor": In(DIGITS),
                "done": Out(1),
                "quotient": Out(DIGITS),
            }
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return "norm_reciprocal"

    def build(self, platform: object) -> Module:
        """Restoring division with initial remainder 2**16; a divisor of 2**16 gives all ones."""
        m = Module()
        divisor, rest = Signal(DIGITS), Signal(DIGITS)
        busy = _countdown(m, self.start, self.done)
        wide = Cat(Const(0, 1), rest)
        fits = wide >= divisor
        with m.If(self.start):
            m.d.sync += [divisor.eq(self.divisor), rest.eq(1 << DIGITS - 1), self.quotient.eq(0)]
        with m.Elif(busy):
            m.d.sync += [rest.eq(Mux(fits, wide - divisor, wide)), self.quotient.eq(Cat(fits, self.quotient))]
        return m


def _countdown(m: Module, start: Value, done: Signal) -> Value:
    """Counts the digits after a start; returns high during them, ``done`` pulses after the last."""
    left = Signal(range(DIGITS + 1))
    m.d.sync += done.eq(left == 1)
    with m.If(start):
        m.d.sync += left.eq(DIGITS)
    with m.Elif(left != 0):
        m.d.sync += left.eq(left - 1)
    return left != 0


class NormLane(SharedComponent):
    """One column of a row: centre, scale, gain and bias, round; latency `LATENCY`.

    Members:
        r: the column; d: row length; minus_sum: minus the row's sum; reciprocal, scale: of the row, sampled
        with the column's centred value, `PRODUCT_LATENCY` cycles after r; gain, bias: of the
        column, sampled `GAIN_AT` cycles after r; shift, lost: of the command. y: the result. wide: of the
        command, only in a wide lane, see `RoundShift`.
    """

    GAIN_AT = PRODUCT_LATENCY + Requantizer.latency()
    LATENCY = GAIN_AT + PRODUCT_LATENCY + ROUND_LATENCY

    def __init__(self, wide: bool = False) -> None:
        self._wide = wide
        super().__init__(
            {
                "r": In(signed(16)),
                "d": In(11),
                "minus_sum": In(signed(SUM_BITS + 1)),
                "reciprocal": In(17),
                "scale": In(6),
                "gain": In(signed(16)),
                "bias": In(signed(32)),
                "shift": In(5),
                "lost": In(31),
                "y": Out(signed(16 if wide else 8)),
                **_wide_member(wide),
            }
        )

    @property
    def module_name(self) -> str:
        """Verilog name; equal names mean equal hardware."""
        return "norm_lane_16" if self._wide else "norm_lane"

    def build(self, platform: object) -> Module:
        """Three DSPs in series and the final rounding."""
        m = Module()
        m.submodules.centre = centre = MultiplyAdd()
        m.submodules.normalise = normalise = Requantizer(CENTRED_BITS, _Z_BITS)
        m.submodules.affine = affine = MultiplyAdd()
        m.submodules.round = rounding = RoundShift(self._wide)
        limit = 1 << _Z_BITS - 1
        m.d.comb += [
            centre.a.eq(self.r),
            centre.b.eq(self.d),
            centre.c.eq(self.minus_sum),
            normalise.acc.eq(centre.y),
            normalise.multiplier.eq(self.reciprocal),
            normalise.shift.eq(self.scale),
            normalise.low.eq(-limit),
            normalise.high.eq(limit - 1),
            affine.a.eq(self.gain),
            affine.b.eq(normalise.y),
            affine.c.eq(self.bias),
            rounding.x.eq(affine.y),
            rounding.shift.eq(self.shift),
            rounding.lost.eq(self.lost),
            self.y.eq(rounding.y),
        ]
        if self._wide:
            m.d.comb += rounding.wide.eq(self.wide)
        return m


# Control and row units -----------------------------------------------------------


class _NormSetup(wiring.Component):
    """Accepts a command and checks it, in the same time for all.

    Members:
        start: pulse, the command is legal; error: pulse, it is illegal. words: words per row.
    """

    def __init__(self, kernel: VectorKernel, depths: dict[str, int]) -> None:
        self._kernel, self._depths = kernel, depths
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "finished": In(1),
                "busy": Out(1),
                "start": Out(1),
                "error": Out(1),
                "operands": Out(OPERANDS),
                "words": Out(range(kernel.max_words + 1)),
                "lost": Out(31),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A step counter and one multiplier for the address bounds."""
        m = Module()
        m.submodules.product = product = MultiplyAdd()
        end = PRODUCT_LATENCY + 4
        step, bad, command = Signal(range(end + 2)), Signal(), self.operands
        m.d.comb += self.command.ready.eq(~self.busy)
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [command.eq(self.command.payload), self.busy.eq(1), step.eq(1)]
        with m.If(step != 0):
            m.d.sync += step.eq(step + 1)
        with m.If(self.finished | self.error):
            m.d.sync += self.busy.eq(0)
        with m.If(step == 1):
            m.d.sync += [self.words.eq(self._words()), bad.eq(self._illegal())]
            m.d.sync += self.lost.eq(((Const(1, 1) << command.shift[:5]) - 1)[1:32])
        with m.If(step == end):
            m.d.sync += step.eq(0)
            m.d.comb += [self.start.eq(~bad), self.error.eq(bad)]
        self._bounds(m, product, step, bad)
        return m

    def _words(self) -> Value:
        return (self.operands.d + self._kernel.t_v - 1)[self._kernel.t_v.bit_length() - 1 :]

    def _illegal(self) -> Value:
        command = self.operands
        size = (command.rows == 0) | (command.d < 2) | (command.d > self._kernel.max_d)
        numbers = (command.shift > 31) | (command.flags > RMS + WIDE_RESULT * self._kernel.wide)
        return size | numbers | (command.g_base + self._words() > self._depths["g"])

    def _bounds(self, m: Module, product: MultiplyAdd, step: Signal, bad: Signal) -> None:
        """Checks the end address of r, then of x or y."""
        command = self.operands
        m.d.comb += product.a.eq(command.rows - 1)
        for at, name in ((2, "r"), (3, "x")):
            with m.If(step == at):
                m.d.comb += [
                    product.b.eq(command[f"{name}_stride"]),
                    product.c.eq(command[f"{name}_base"] + self.words),
                ]
            with m.If(step == at + PRODUCT_LATENCY):
                m.d.sync += bad.eq(bad | (product.y > self._depth(name)))

    def _depth(self, name: str) -> Value | int:
        """Words of a memory; for the result the one that the command writes."""
        if name == "x" and self._kernel.wide:
            return Mux(_wide_result(self.operands), self._depths["y"], self._depths["x"])
        return self._depths[name]


class _Rows(wiring.Component):
    """Word addresses of rows that start at a fixed interval.

    Members:
        address: of a word; active: it is valid; first: first word of its row; end: last cycle of a row.
    """

    def __init__(self, kernel: VectorKernel) -> None:
        self._kernel = kernel
        super().__init__(
            {
                "start": In(1),
                "operands": In(OPERANDS),
                "words": In(range(kernel.max_words + 1)),
                "address": Out(POINTER_BITS),
                "active": Out(1),
                "first": Out(1),
                "end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Word counter nested in a row counter."""
        m = Module()
        left, row = Signal(16), Signal(POINTER_BITS)
        inner = Signal(range(max(self._kernel.max_words, DIGITS + 1)))
        final = Mux(self.words > DIGITS + 1, self.words, DIGITS + 1) - 1
        after = row + self.operands.r_stride
        m.d.comb += [
            self.active.eq((left != 0) & (inner < self.words)),
            self.first.eq(inner == 0),
            self.end.eq((left != 0) & (inner == final)),
        ]
        m.d.sync += [inner.eq(inner + 1), self.address.eq(self.address + 1)]
        with m.If(self.end):
            m.d.sync += [inner.eq(0), left.eq(left - 1), row.eq(after), self.address.eq(after)]
        with m.If(self.start):
            base = self.operands.r_base
            m.d.sync += [inner.eq(0), left.eq(self.operands.rows), row.eq(base), self.address.eq(base)]
        return m


class _Sums(wiring.Component):
    """Sum and sum of squares of a row, ``t_v`` columns per cycle.

    ``active`` and ``first`` apply to ``word``. ``sum`` and ``squares`` include it
    ``PRODUCT_LATENCY + log2(t_v) + 1`` cycles later.
    """

    def __init__(self, kernel: VectorKernel) -> None:
        self._kernel = kernel
        super().__init__(
            {
                "word": In(16 * kernel.t_v),
                "active": In(1),
                "first": In(1),
                "sum": Out(signed(SUM_BITS)),
                "squares": Out(SQUARES_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Squares in DSPs, two adder trees, two accumulators."""
        m = Module()
        columns = [self.word.word_select(column, 16).as_signed() for column in range(self._kernel.t_v)]
        squares: list[Value] = []
        for index, column in enumerate(columns):
            m.submodules[f"square{index}"] = square = MultiplyAdd()
            m.d.comb += [square.a.eq(column), square.b.eq(column)]
            squares.append(square.y[:31])
        total = delay(m, sum_tree(m, columns, "sums"), PRODUCT_LATENCY, "sum")
        power = sum_tree(m, squares, "powers")
        wait = PRODUCT_LATENCY + self._kernel.t_v.bit_length() - 1
        first = delay(m, self.first, wait, "first")
        with m.If(delay(m, self.active, wait, "active")):
            m.d.sync += [
                self.sum.eq(Mux(first, 0, self.sum) + total),
                self.squares.eq(Mux(first, 0, self.squares) + power),
            ]
        return m


class _Variance(wiring.Component):
    """``V = max(D * s2 - s1**2 + eps, 1)``, normalised.

    Members:
        start: pulse with sum and squares. done: pulse, 2 * PRODUCT_LATENCY + 5 cycles later:
        square is V * 4**e, in [2**32, 2**34); spread is e + 9; total is the sum.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "sum": In(signed(SUM_BITS)),
                "squares": In(SQUARES_BITS),
                "d": In(11),
                "eps": In(48),
                "done": Out(1),
                "square": Out(2 * DIGITS),
                "spread": Out(5),
                "total": Out(signed(SUM_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Four products in one DSP, then the normalising shift."""
        m = Module()
        m.submodules.product = product = MultiplyAdd()
        first, last = 1, PRODUCT_LATENCY + 4
        step, squares = Signal(range(last + 5)), Signal(SQUARES_BITS)
        variance, size = Signal(signed(VARIANCE_BITS)), Signal(SUM_BITS)
        m.d.comb += [size.eq(abs(self.total)), self.done.eq(step == last + 4)]
        with m.If(step != 0):
            m.d.sync += step.eq(step + 1)
        with m.If(self.done):
            m.d.sync += step.eq(0)
        with m.If(self.start):
            m.d.sync += [step.eq(first), self.total.eq(self.sum), squares.eq(self.squares), variance.eq(self.eps)]
        self._products(m, product, step, squares, size)
        y = product.y
        terms = (y, y << 26, -y, -(y << 17))
        for index, term in enumerate(terms):
            with m.If(step == first + PRODUCT_LATENCY + index):
                m.d.sync += variance.eq(variance + term)
        self._normalise(m, variance)
        return m

    def _products(self, m: Module, product: MultiplyAdd, step: Signal, squares: Signal, size: Signal) -> None:
        factors = ((squares[:26], self.d), (squares[26:], self.d), (size, size[:17]), (size, size[17:]))
        for index, (a, b) in enumerate(factors):
            with m.If(step == 1 + index):
                m.d.comb += [product.a.eq(a), product.b.eq(b)]

    def _normalise(self, m: Module, variance: Signal) -> None:
        """Three stages: leading-one position, shift by multiples of 16, shift by multiples of 2."""
        value = Signal(VARIANCE_BITS)
        m.d.sync += [value.eq(variance), self.spread.eq(VARIANCE_BITS // 2 - 1)]
        with m.If(variance == 0):
            m.d.sync += value.eq(1)
        for bit in range(VARIANCE_BITS - 1):
            with m.If(variance[bit]):
                m.d.sync += self.spread.eq((2 * DIGITS - 1 + 2 * _SPREAD - bit) >> 1)
        coarse, spread = Signal(VARIANCE_BITS), self.spread
        m.d.sync += coarse.eq(value << (spread[3:] << 4))
        fine = (coarse << (delay(m, spread[:3], 1, "fine") << 1))[:VARIANCE_BITS]
        m.d.sync += self.square.eq(fine[2 * _SPREAD :])


def _wide_result(command: Any) -> Value:
    """Whether a command's results have 16 bits."""
    found: Value = (command.flags & WIDE_RESULT).any()
    return found


@dataclass(frozen=True)
class _NormRow:
    """Row statistics for the normalisation, valid from the cycle after ``start``."""

    start: Value
    total: Value
    spread: Value
    factor: Value


class VectorEngine(wiring.Component):
    """Runs norm commands one at a time; see `codesign.hw.vector`.

    Args:
        kernel: design parameters.
        r_depth, g_depth, x_depth: words of the three memories, at most 2**24.
        y_depth: likewise of the fourth, only in a wide kernel.

    Members:
        command: operands, accepted while no command runs.
        done: pulse in the cycle after the last write; error: pulse instead, the command was illegal.
        busy: a command runs.
        r: read port, words of ``t_v`` int16; g: read port, words of ``t_v`` times 64 bits (bias in
        bits 0 to 31, gain in 32 to 47); x: write port, words of ``t_v`` int8; y: write port, only in a wide
        kernel, words of ``t_v`` int16.
    """

    def __init__(self, kernel: VectorKernel, *, r_depth: int, g_depth: int, x_depth: int, y_depth: int = 0) -> None:
        self.kernel = kernel
        self.depths = {"r": r_depth, "g": g_depth, "x": x_depth, **({"y": y_depth} if kernel.wide else {})}
        if not all(1 <= depth <= 1 << POINTER_BITS for depth in self.depths.values()):
            raise ValueError(f"memories of {self.depths} words; legal: 1 to 2**{POINTER_BITS} each")
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "done": Out(1),
                "error": Out(1),
                "busy": Out(1),
                "r": Out(ReadPort(address_bits(r_depth), 16 * kernel.t_v)),
                "g": Out(ReadPort(address_bits(g_depth), 64 * kernel.t_v)),
                "x": Out(WritePort(address_bits(x_depth), 8 * kernel.t_v)),
                **({"y": Out(WritePort(address_bits(y_depth), 16 * kernel.t_v))} if kernel.wide else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Control, sums, row units, normalisation."""
        m = Module()
        m.submodules.setup = setup = _NormSetup(self.kernel, self.depths)
        m.submodules.rows = rows = _Rows(self.kernel)
        wiring.connect(m, wiring.flipped(self.command), setup.command)
        m.d.comb += [
            rows.start.eq(setup.start),
            rows.operands.eq(setup.operands),
            rows.words.eq(setup.words),
            setup.finished.eq(self.done),
            self.error.eq(setup.error),
            self.busy.eq(setup.busy),
            self.r.addr.eq(rows.address),
        ]
        row = self._row_units(m, setup, rows)
        ring = self._ring(m, rows)
        self._normalise(m, setup, row, ring)
        return m

    def _row_units(self, m: Module, setup: _NormSetup, rows: _Rows) -> _NormRow:
        """Units from the end of a row to its reciprocal."""
        m.submodules.sums = sums = _Sums(self.kernel)
        m.submodules.variance = variance = _Variance()
        m.submodules.root = root = Root()
        m.submodules.reciprocal = reciprocal = NormReciprocal()
        command = setup.operands
        ready = READ_LATENCY + PRODUCT_LATENCY + self.kernel.t_v.bit_length()
        m.d.comb += [
            sums.word.eq(self.r.data),
            sums.active.eq(delay(m, rows.active, READ_LATENCY, "summing")),
            sums.first.eq(delay(m, rows.first, READ_LATENCY, "summing_first")),
            variance.start.eq(delay(m, rows.end, ready, "row", reset_less=False)),
            variance.sum.eq(Mux(command.flags[0], 0, sums.sum)),
            variance.squares.eq(sums.squares),
            variance.d.eq(command.d),
            variance.eps.eq(command.eps),
            root.start.eq(variance.done),
            root.square.eq(variance.square),
            reciprocal.start.eq(root.done),
            reciprocal.divisor.eq(root.root),
        ]
        facts: Value = Cat(variance.total, variance.spread)
        for start in (root.start, reciprocal.start, reciprocal.done):
            held = Signal(len(facts), reset_less=True)
            with m.If(start):
                m.d.sync += held.eq(facts)
            facts = held
        factor = Signal(DIGITS, reset_less=True)
        with m.If(reciprocal.done):
            m.d.sync += factor.eq(reciprocal.quotient)
        return _NormRow(reciprocal.done, facts[:SUM_BITS].as_signed(), facts[SUM_BITS:], factor)

    def _ring(self, m: Module, rows: _Rows) -> RowMemory:
        """Ring of the words of r: written as they arrive and read again in the same order."""
        width, depth = 16 * self.kernel.t_v, self.kernel.ring_words
        m.submodules.ring = ring = RowMemory(bits=width * depth, write_bits=width, read_bits=(width,))
        place = Signal(range(depth))
        m.d.comb += [
            ring.write.en.eq(delay(m, rows.active, READ_LATENCY, "storing", reset_less=False)),
            ring.write.addr.eq(place),
            ring.write.data.eq(self.r.data),
        ]
        with m.If(ring.write.en):
            m.d.sync += place.eq(place + 1)
        return ring

    def _normalise(self, m: Module, setup: _NormSetup, row: _NormRow, ring: RowMemory) -> None:
        """Passes the words of a row from the ring through the lanes, and addresses the results."""
        command = setup.operands
        left, remaining, place = Signal.like(setup.words), Signal(16), Signal(range(self.kernel.ring_words))
        active = left != 0
        with m.If(active):
            m.d.sync += [left.eq(left - 1), place.eq(place + 1)]
        with m.If(row.start):
            m.d.sync += [left.eq(setup.words), remaining.eq(remaining - 1)]
        with m.If(setup.start):
            m.d.sync += remaining.eq(command.rows)
        m.d.comb += ring.read0.addr.eq(place)
        self._lanes(m, setup, row, ring.read0.data)
        latency = READ_LATENCY + NormLane.LATENCY
        self._enable(m, setup, delay(m, active, latency, "writing", reset_less=False))
        m.d.comb += [
            self.done.eq(delay(m, (left == 1) & (remaining == 0), latency + 1, "done", reset_less=False)),
        ]
        self._addresses(m, setup, row.start, latency)

    def _enable(self, m: Module, setup: _NormSetup, writing: Value) -> None:
        """Write enable of the command's result memory."""
        if not self.kernel.wide:
            m.d.comb += self.x.en.eq(writing)
            return
        wide = _wide_result(setup.operands)
        m.d.comb += [self.x.en.eq(writing & ~wide), self.y.en.eq(writing & wide)]

    def _addresses(self, m: Module, setup: _NormSetup, start: Value, latency: int) -> None:
        """Addresses of gains and results, counting up from the first word of each row."""
        command, row = setup.operands, Signal(POINTER_BITS)
        gain_at, write_at = Signal(POINTER_BITS), Signal(POINTER_BITS)
        m.d.sync += [gain_at.eq(gain_at + 1), write_at.eq(write_at + 1)]
        with m.If(delay(m, start, NormLane.GAIN_AT, "gain", reset_less=False)):
            m.d.sync += gain_at.eq(command.g_base)
        with m.If(delay(m, start, latency, "write", reset_less=False)):
            m.d.sync += [write_at.eq(row), row.eq(row + command.x_stride)]
        with m.If(setup.start):
            m.d.sync += row.eq(command.x_base)
        m.d.comb += [self.g.addr.eq(gain_at), self.x.addr.eq(write_at)]
        if self.kernel.wide:
            m.d.comb += self.y.addr.eq(write_at)

    def _lanes(self, m: Module, setup: _NormSetup, row: _NormRow, word: Value) -> None:
        command = setup.operands
        total = delay(m, row.total, READ_LATENCY, "total")
        factor = delay(m, row.factor, READ_LATENCY + PRODUCT_LATENCY, "factor")
        scale = delay(m, _HALF_POINT - row.spread, READ_LATENCY + PRODUCT_LATENCY, "scale")
        for column in range(self.kernel.t_v):
            m.submodules[f"lane{column}"] = lane = NormLane(self.kernel.wide == 1)
            affine = self.g.data.word_select(column, 64)
            m.d.comb += [
                lane.r.eq(word.word_select(column, 16)),
                lane.d.eq(command.d),
                lane.minus_sum.eq(-total),
                lane.reciprocal.eq(factor),
                lane.scale.eq(scale),
                lane.bias.eq(affine[:32]),
                lane.gain.eq(affine[32:48]),
                lane.shift.eq(command.shift),
                lane.lost.eq(setup.lost),
                self.x.data.word_select(column, 8).eq(lane.y),
            ]
            if self.kernel.wide:
                m.d.comb += [
                    lane.wide.eq(_wide_result(command)),
                    self.y.data.word_select(column, 16).eq(lane.y),
                ]
