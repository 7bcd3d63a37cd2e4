import numpy as np
import pytest
from amaranth.sim import SimulatorContext
from numpy.typing import NDArray

from codesign.hw.attention.formulas import DIVIDER_LATENCY
from codesign.hw.attention.softmax import SoftmaxReciprocal
from tests.hw.unit_bench import simulate


class TestReciprocal:
    @pytest.mark.parametrize("total_bits", [9, 18])
    def test_quotient_and_places(self, total_bits: int, rng: np.random.Generator) -> None:
        ends = [1 << bit for bit in range(total_bits)] + [(1 << bit) - 1 for bit in range(1, total_bits + 1)]
        totals = [*ends, *(int(x) for x in rng.integers(1, 1 << total_bits, 60))]
        for multiplier in (1 << 16, (1 << 17) - 1, 99_991):
            quotients, places = divide(total_bits, totals, multiplier)
            lengths = [total.bit_length() - 1 for total in totals]
            assert places.tolist() == lengths
            assert quotients.tolist() == [(multiplier << p) // t for p, t in zip(lengths, totals, strict=True)]


def divide(total_bits: int, totals: list[int], multiplier: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One total per cycle through the divider."""
    unit, seen = SoftmaxReciprocal(total_bits), []

    async def drive(ctx: SimulatorContext) -> None:
        ctx.set(unit.multiplier, multiplier)
        for total in [*totals, *[1] * DIVIDER_LATENCY]:
            ctx.set(unit.total, total)
            seen.append((ctx.get(unit.quotient), ctx.get(unit.places)))
            await ctx.tick()

    simulate(unit, drive)
    results = np.array(seen[DIVIDER_LATENCY:])
    return results[:, 0], results[:, 1]
