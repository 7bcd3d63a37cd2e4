import numpy as np
import pytest
from amaranth.sim import SimulatorContext
from numpy.typing import NDArray

from codesign.hw.attention.formulas import DIVIDER_LATENCY
from codesign.hw.attention.softmax import SoftmaxPair, SoftmaxReciprocal
from codesign.hw.primitives.multiply import Requantizer
from codesign.numerics.fixed_point import requantize
from codesign.numerics.nonlinear import EXP_ENTRIES, exp_table
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


class TestPair:
    @pytest.mark.parametrize(("score_bits", "shift"), [(12, 17), (20, 24)])
    def test_exponentials_of_the_distance_to_the_largest_allowed_score(
        self, score_bits: int, shift: int, rng: np.random.Generator
    ) -> None:
        """Rows of any mask, some of whose largest scores are forbidden; a forbidden key has the table's last entry."""
        for keys in (1, 2, 9):
            scores = rng.integers(-(1 << score_bits - 1), 1 << score_bits - 1, (keys, 2))
            allowed = rng.integers(2, size=(keys, 2))
            allowed[rng.integers(keys)] = 1
            scores[allowed.argmin(axis=0), [0, 1]] = (1 << score_bits - 1) - 1
            top = np.where(allowed, scores, -(1 << score_bits - 1)).max(axis=0)
            index = requantize(top - scores, np.int64(90_001), np.int64(shift), 0, EXP_ENTRIES - 1)
            expected = exp_table()[np.where(allowed, index, EXP_ENTRIES - 1)]
            assert np.array_equal(exponentials(score_bits, scores, allowed, 90_001, shift), expected)


def exponentials(
    score_bits: int, scores: NDArray[np.int64], allowed: NDArray[np.int64], multiplier: int, shift: int
) -> NDArray[np.int64]:
    """One key per cycle through the pair of rows, then the stored words one per cycle; the row before is forgotten."""
    unit, words, seen = SoftmaxPair(score_bits), list[int](), list[tuple[int, int]]()
    latency = 1 + Requantizer.LATENCY + 2

    async def drive(ctx: SimulatorContext) -> None:
        ctx.set(unit.multiplier, multiplier)
        ctx.set(unit.shift, shift)
        for first, (key, mask) in enumerate(zip([[0, 0], *scores.tolist()], [[1, 1], *allowed.tolist()], strict=True)):
            ctx.set(unit.complete, 1)
            ctx.set(unit.first, first < 2)
            ctx.set(unit.s0, key[0])
            ctx.set(unit.s1, key[1])
            ctx.set(unit.allowed, mask[0] | mask[1] << 1)
            words.append(ctx.get(unit.word))
            await ctx.tick()
        ctx.set(unit.complete, 0)
        ctx.set(unit.hold, 1)
        await ctx.tick()
        ctx.set(unit.hold, 0)
        for word in [*words[1:], *[0] * latency]:
            ctx.set(unit.stored, word)
            seen.append((ctx.get(unit.e0), ctx.get(unit.e1)))
            await ctx.tick()

    simulate(unit, drive)
    return np.array(seen[latency:])


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
