import numpy as np
import pytest

from codesign.hw.vector.lane import RoundShift
from codesign.numerics.fixed_point import limits, round_half_even, saturate_bits
from tests.hw.unit_bench import clocked
from tests.marks import few_fast


@pytest.mark.parametrize(("bits", "wide"), [(8, None), (8, 0), (16, 1)])
@pytest.mark.parametrize("shift", few_fast([0, 1, 8, 31, 2, 15, 19], 4))
def test_round_shift(shift: int, bits: int, wide: int | None, rng: np.random.Generator) -> None:
    most = min(2 * (1 << bits) + 8, 1 << 36 - shift)
    near = [(k << shift) // 2 + j for k in range(1 - most, most, 1 + most // 40) for j in (-1, 0, 1)]
    ends = [((2 * end + k) << shift) // 2 + j for end in limits(bits) for k in (-1, 0, 1) for j in (-1, 0, 1)]
    drawn = rng.integers(-(1 << 35), 1 << 35, 30).tolist() + rng.integers(-(1 << 20), 1 << 20, 30).tolist()
    values = [x for x in (*near, *ends, *drawn, -(1 << 35), (1 << 35) - 1) if -(1 << 35) <= x < 1 << 35]
    constants = {"shift": shift, "lost": ((1 << shift) - 1) >> 1} | ({} if wide is None else {"wide": wide})
    found = clocked(RoundShift(wide is not None), RoundShift.LATENCY, [{"x": x, **constants} for x in values], "y")
    assert found == saturate_bits(round_half_even(np.array(values), shift), bits).tolist()
