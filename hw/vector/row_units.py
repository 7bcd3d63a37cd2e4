"""Row units of the vector engine: sums of a row, its variance, square root and reciprocal."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.multiply import MultiplyAdd, delay, sum_tree
from codesign.hw.vector import DIGITS, VectorKernel
from codesign.hw.verilog import SharedComponent
from codesign.numerics.nonlinear import NORM_FRACTION_BITS

SUM_BITS = 26
SQUARES_BITS = 41
VARIANCE_BITS = 52
_SPREAD = 9
"""Offset that makes the exponent e of `codesign.numerics.nonlinear.norm` a non-negative left shift."""
HALF_POINT = 33 - NORM_FRACTION_BITS + _SPREAD
"""Minus the spread, this is the shift from c * R to z: R has 33 fractional bits, z has 10."""


class RowSums(wiring.Component):
    """Sum and sum of squares of a row, ``t_v`` columns per cycle.

    ``active`` and ``first`` apply to ``word``. ``sum`` and ``squares`` include it
    ``MultiplyAdd.LATENCY + log2(t_v) + 1`` cycles later.
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
        total = delay(m, sum_tree(m, columns, "sums"), MultiplyAdd.LATENCY, "sum")
        power = sum_tree(m, squares, "powers")
        wait = MultiplyAdd.LATENCY + self._kernel.t_v.bit_length() - 1
        first = delay(m, self.first, wait, "first")
        with m.If(delay(m, self.active, wait, "active")):
            m.d.sync += [
                self.sum.eq(Mux(first, 0, self.sum) + total),
                self.squares.eq(Mux(first, 0, self.squares) + power),
            ]
        return m


class Variance(wiring.Component):
    """``V = max(D * s2 - s1**2 + eps, 1)``, normalised.

    Members:
        start: pulse with sum and squares. done: pulse, 2 * MultiplyAdd.LATENCY + 5 cycles later:
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
        first, last = 1, MultiplyAdd.LATENCY + 4
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
            with m.If(step == first + MultiplyAdd.LATENCY + index):
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


class Root(SharedComponent):
    """Integer square root of a 34-bit number, one bit per cycle.

    ``root`` and the pulse ``done`` come ``DIGITS + 1`` cycles after the pulse ``start``, which may coincide
    with the previous ``done``.
    """

    def __init__(self) -> None:
        super().__init__(
            "integer_root",
            {
                "start": In(1),
                "square": In(2 * DIGITS),
                "done": Out(1),
                "root": Out(DIGITS),
            },
        )

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
            "norm_reciprocal",
            {
                "start": In(1),
                "divisor": In(DIGITS),
                "done": Out(1),
                "quotient": Out(DIGITS),
            },
        )

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
