"""A lane of the vector engine: one column of a row, normalised and rounded."""

from amaranth.hdl import Cat, Const, Module, Mux, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.multiply import MultiplyAdd, Requantizer, delay
from codesign.hw.vector.row_units import SUM_BITS
from codesign.hw.verilog import SharedComponent

CENTRED_BITS = 27
AFFINE_BITS = 36
_Z_BITS = 18


class RoundShift(SharedComponent):
    """``y = saturate(round_half_even(x / 2**shift), -128, 127)``, latency `LATENCY`.

    ``lost`` masks the bits below the first dropped one, ``((1 << shift) - 1) >> 1``; it and ``shift``
    (0 to 31) are constant during a command.

    Args:
        wide: adds an input ``wide``, also constant during a command, that selects 16-bit saturation.
    """

    LATENCY = 3

    def __init__(self, wide: bool = False) -> None:
        self._wide = wide
        super().__init__(
            "round_shift_16" if wide else "round_shift",
            {
                "x": In(signed(AFFINE_BITS)),
                "shift": In(5),
                "lost": In(31),
                "y": Out(signed(16 if wide else 8)),
                **_wide_member(wide),
            },
        )

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


class NormLane(SharedComponent):
    """One column of a row: centre, scale, gain and bias, round; latency `LATENCY`.

    Members:
        r: the column; d: row length; minus_sum: minus the row's sum; reciprocal, scale: of the row, sampled
        with the column's centred value, `MultiplyAdd.LATENCY` cycles after r; gain, bias: of the
        column, sampled `GAIN_AT` cycles after r; shift, lost: of the command. y: the result. wide: of the
        command, only in a wide lane, see `RoundShift`.
    """

    GAIN_AT = MultiplyAdd.LATENCY + Requantizer.LATENCY
    LATENCY = GAIN_AT + MultiplyAdd.LATENCY + RoundShift.LATENCY

    def __init__(self, wide: bool = False) -> None:
        self._wide = wide
        super().__init__(
            "norm_lane_16" if wide else "norm_lane",
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
            },
        )

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
