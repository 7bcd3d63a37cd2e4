import numpy as np
from amaranth.lib import wiring
from amaranth.sim import SimulatorContext

from codesign.hw.vector import DIGITS
from codesign.hw.vector.row_units import NormReciprocal, Root
from codesign.numerics.fixed_point import isqrt
from tests.hw.unit_bench import simulate


def digits(unit: wiring.Component, operand: str, result: str, values: list[int]) -> list[int]:
    """One operand after the other, each started as the one before is done."""
    seen: list[int] = []

    async def drive(ctx: SimulatorContext) -> None:
        for value in values:
            ctx.set(getattr(unit, operand), value)
            ctx.set(unit.start, 1)
            for cycle in range(DIGITS + 1):
                assert ctx.get(unit.done) == (cycle == 0 and bool(seen))
                await ctx.tick()
                ctx.set(unit.start, 0)
            assert ctx.get(unit.done)
            seen.append(ctx.get(getattr(unit, result)))

    simulate(unit, drive)
    return seen


def test_root(rng: np.random.Generator) -> None:
    roots = [*(int(x) for x in rng.integers(1 << 16, 1 << 17, 20)), 1 << 16, (1 << 17) - 1]
    values = [1 << 32, (1 << 34) - 1, *(r * r + j for r in roots[1:-2] for j in (-1, 0, 1))]
    assert digits(Root(), "square", "root", values) == isqrt(np.array(values)).tolist()


def test_reciprocal(rng: np.random.Generator) -> None:
    values = [1 << 16, (1 << 16) + 1, (1 << 17) - 1, *(int(x) for x in rng.integers(1 << 16, 1 << 17, 40))]
    expected = [min((1 << 33) // value, (1 << 17) - 1) for value in values]
    assert digits(NormReciprocal(), "divisor", "quotient", values) == expected
