"""Integer arithmetic against exact rational and Python-integer oracles."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from codesign.numerics import fixed_point as number

INT64 = (-(2**63), 2**63 - 1)


def _random_int64(rng: np.random.Generator, count: int, bits: int = 64) -> list[int]:
    """Values of every magnitude up to `bits` signed bits, both signs."""
    wide = rng.integers(*INT64, count, endpoint=True)
    return [int(v) >> int(s) for v, s in zip(wide, rng.integers(64 - bits, 64, count), strict=True)]


def _rhe(x: int, shift: int) -> int:
    return round(Fraction(x, 2**shift))


@pytest.mark.parametrize("shift", range(64))
def test_round_half_even_equals_fractions(shift: int) -> None:
    rng = np.random.default_rng(shift)
    near = [k * 2**shift // 2 + d for k in range(-5, 6) for d in (-1, 0, 1)]
    values = [v for v in near if INT64[0] <= v <= INT64[1]] + list(INT64)
    values += _random_int64(rng, 200)
    got = number.round_half_even(values, shift)
    assert got.dtype == np.int64
    assert got.tolist() == [_rhe(v, shift) for v in values]


def test_round_half_even_broadcasts_shifts() -> None:
    x, shifts = np.arange(-40, 40), np.arange(5)[:, None]
    got = number.round_half_even(x, shifts)
    assert got.tolist() == [[_rhe(v, s) for v in range(-40, 40)] for s in range(5)]


def test_round_half_even_accepts_scalars_and_small_types() -> None:
    assert int(number.round_half_even(-3, 1)) == -2
    assert number.round_half_even(np.array([127, -128], np.int8), 3).tolist() == [16, -16]
    assert number.round_half_even(np.zeros((0, 3), np.int64), 4).shape == (0, 3)


@pytest.mark.parametrize("shift", [-1, 64])
def test_round_half_even_refuses_shift(shift: int) -> None:
    with pytest.raises(ValueError, match=rf"shift must be at (least 0|most 63), got {shift}"):
        number.round_half_even(1, shift)


@pytest.mark.parametrize("x", [1.0, [1, 2.5], True, "a", 2**64])
def test_integers_refuses_other_types(x: object) -> None:
    with pytest.raises(TypeError, match="acc must hold integers of at most 64 bits, got"):
        number.integers("acc", x)  # type: ignore[arg-type]


def test_integers_refuses_what_int64_cannot_hold() -> None:
    with pytest.raises(ValueError, match=f"acc must fit int64, got {2**63}"):
        number.integers("acc", np.array([2**63], np.uint64))
    assert number.integers("acc", np.array([2**63 - 1], np.uint64)).tolist() == [2**63 - 1]


def test_integers_names_the_value_out_of_range() -> None:
    with pytest.raises(ValueError, match="q must be at least -128, got -129"):
        number.integers("q", [0, -129], -128, 127)
    with pytest.raises(ValueError, match="q must be at most 127, got 128"):
        number.integers("q", [0, 128], -128, 127)


def test_limits() -> None:
    assert number.limits(1) == (-1, 0)
    assert number.limits(64) == INT64
    assert number.limits(16, narrow=True) == (-32767, 32767)
    assert number.limits(63, signed=False) == (0, 2**63 - 1)
    for bits, signed in ((0, True), (65, True), (64, False)):
        with pytest.raises(ValueError, match=f"got {bits}"):
            number.limits(bits, signed)
    with pytest.raises(TypeError, match=r"got 2\.5"):
        number.limits(2.5)  # type: ignore[arg-type]


def test_saturate() -> None:
    x = np.array([INT64[0], -129, -128, 0, 127, 128, INT64[1]])
    assert number.saturate_bits(x, 8).tolist() == [-128, -128, -128, 0, 127, 127, 127]
    assert number.saturate_bits(x, 8, signed=False).tolist() == [0, 0, 0, 0, 127, 128, 255]
    assert number.saturate(x, [-1] * 7, 5).tolist() == [-1, -1, -1, 0, 5, 5, 5]
    assert number.saturate_bits(x, 64).tolist() == x.tolist()
    with pytest.raises(ValueError, match="low must not exceed high, got 2 and 1"):
        number.saturate(x, 2, 1)


@pytest.mark.parametrize(("bits", "signed"), [(1, True), (8, True), (27, True), (48, True)])
def test_wrap_signed(bits: int, signed: bool) -> None:
    values = _random_int64(np.random.default_rng(bits), 300) + list(INT64)
    half = 1 << (bits - 1)
    expected = [(v + half) % (2 * half) - half for v in values]
    assert number.wrap_bits(values, bits, signed).tolist() == expected


@pytest.mark.parametrize("bits", [1, 8, 63])
def test_wrap_unsigned(bits: int) -> None:
    values = _random_int64(np.random.default_rng(bits), 300) + list(INT64)
    assert number.wrap_bits(values, bits, signed=False).tolist() == [v % 2**bits for v in values]


def test_wrap_of_64_bits_is_identity() -> None:
    assert number.wrap_bits(list(INT64), 64).tolist() == list(INT64)


@pytest.mark.parametrize("bits", [27, 32, 46, 47])
def test_requantize_equals_fractions(bits: int) -> None:
    rng = np.random.default_rng(bits)
    acc = [*number.limits(bits), 0, 1, -1, *_random_int64(rng, 500, bits)]
    multiplier = [131071, 131071, 0, 65536, 65537, *rng.integers(0, 2**17, 500).tolist()]
    shift = [63, 0, 5, 16, 17, *rng.integers(0, 64, 500).tolist()]
    got = number.requantize(acc, multiplier, shift, -(2**31), 2**31 - 1)
    expected = [min(max(_rhe(a * m, s), -(2**31)), 2**31 - 1) for a, m, s in zip(acc, multiplier, shift, strict=True)]
    assert got.tolist() == expected


def test_requantize_per_channel() -> None:
    acc = np.array([[1000, 1000], [-5, -7]])
    assert number.requantize(acc, [65536, 98304], [18, 17], -128, 127).tolist() == [
        [127, 127],
        [-1, -5],
    ]


def test_requantize_refuses_products_beyond_int64() -> None:
    largest = (2**63 - 1) // 65537
    assert int(number.requantize(largest, 65537, 47, *INT64)) == _rhe(largest * 65537, 47)
    with pytest.raises(ValueError, match=f"must fit int64, got acc {largest + 1}"):
        number.requantize([0, largest + 1], 65537, 47, *INT64)
    with pytest.raises(ValueError, match="must fit int64"):
        number.requantize(INT64[0], 2, 0, *INT64)
    mixed = number.requantize([2**60, 3], [1, 131071], 40, *INT64)
    assert mixed.tolist() == [2**20, 0]


@pytest.mark.parametrize("multiplier", [-1, 1 << 17])
def test_requantize_refuses_multiplier(multiplier: int) -> None:
    with pytest.raises(ValueError, match=f"multiplier must be at (least|most) .*got {multiplier}"):
        number.requantize(1, multiplier, 3, -128, 127)


def test_requantizer_is_exact_for_powers_of_two() -> None:
    for exponent in range(-31, 17):
        assert number.requantizer(2.0**exponent) == (1 << 16, 16 - exponent)


def test_requantizer_is_nearest() -> None:
    rng = np.random.default_rng(5)
    for scale in np.exp2(rng.uniform(-31, 16.9, 500)).tolist():
        multiplier, shift = number.requantizer(scale)
        assert 2**16 <= multiplier < 2**17
        error = abs(Fraction(multiplier, 2**shift) - Fraction(scale))
        assert error <= Fraction(1, 2 ** (shift + 1))


def test_requantizer_rounds_up_to_the_next_power() -> None:
    assert number.requantizer(math.nextafter(0.5, 0)) == (1 << 16, 17)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, 2.0**17, 2.0**-32, 5e-324])
def test_requantizer_refuses(scale: float) -> None:
    with pytest.raises(ValueError, match=f"got {scale}"):
        number.requantizer(scale)


def test_signed_bits() -> None:
    for low, high in itertools.combinations_with_replacement(range(-17, 18), 2):
        bits = number.signed_bits(low, high)
        assert -(2 ** (bits - 1)) <= low
        assert high < 2 ** (bits - 1)
        assert bits == 1 or low < -(2 ** (bits - 2)) or high >= 2 ** (bits - 2)
    with pytest.raises(ValueError, match="got 1 and 0"):
        number.signed_bits(1, 0)


@pytest.mark.parametrize("seed", range(40))
def test_accumulator_range_is_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    weights, bias = rng.integers(-9, 10, (n, k)), rng.integers(-50, 51, n)
    low, high = sorted(rng.integers(-7, 8, 2).tolist())
    sums = []
    for row, start in zip(weights.tolist(), bias.tolist(), strict=True):
        for choice in itertools.product((0, low, high), repeat=k):
            sums.append(start + sum(a * w for a, w in zip(choice, row, strict=True)))
    assert number.accumulator_range(weights, bias, low, high) == (min(sums), max(sums))


def test_accumulator_range_covers_every_prefix_and_no_more_than_all_products() -> None:
    rng = np.random.default_rng(3)
    weights, bias = rng.integers(-127, 128, (16, 200)), rng.integers(-9999, 9999, 16)
    low, high = number.accumulator_range(weights, bias, -128, 127)
    for _ in range(20):
        a = rng.choice([-128, 127], 200)
        prefixes = bias[:, None] + np.cumsum(weights * a, axis=1)
        assert low <= prefixes.min()
        assert prefixes.max() <= high
    extreme = 200 * 128 * 127 + 9999
    assert -extreme <= low
    assert high <= extreme


def test_accumulator_range_refuses_shapes() -> None:
    with pytest.raises(ValueError, match=r"got \(2,\) and \(2,\)"):
        number.accumulator_range([1, 2], [1, 2], 0, 1)
    with pytest.raises(ValueError, match="activation low must not exceed high, got 1 and 0"):
        number.accumulator_range([[1]], [1], 1, 0)
    with pytest.raises(ValueError, match="weights must be at most"):
        number.accumulator_range([[2**31]], [1], 0, 1)


@pytest.mark.parametrize("bits", [8, 16, 24, 28])
def test_matmul_is_exact(bits: int) -> None:
    rng = np.random.default_rng(bits)
    low, high = number.limits(bits)
    a, b = rng.integers(low, high, (3, 5, 33)), rng.integers(low, high, (33, 4))
    a[0, 0], b[:, 0] = low, low
    expected = (a[..., None].astype(object) * b.astype(object)).sum(axis=-2)
    assert number.matmul(a, b).tolist() == expected.tolist()


def test_matmul_refuses_what_int64_cannot_hold() -> None:
    with pytest.raises(ValueError, match=f"must fit int64, its bound is {2**63}"):
        number.matmul([[2**31, 2**31]], [[2**31], [2**31]])
    assert number.matmul(np.zeros((2, 0), int), np.zeros((0, 3), int)).tolist() == [[0] * 3] * 2


def test_bit_length_equals_python() -> None:
    values = [0, 1, 2, 2**63 - 1, *_random_int64(np.random.default_rng(1), 2000)]
    values += [2**k + d for k in range(1, 63) for d in (-1, 0, 1)]
    values = [abs(v) for v in values if v != INT64[0]]
    assert number.bit_length(values).tolist() == [v.bit_length() for v in values]
    with pytest.raises(ValueError, match="at least 0, got -1"):
        number.bit_length(-1)


def test_isqrt_equals_python() -> None:
    rng = np.random.default_rng(2)
    roots = [0, 1, 2, 3037000499, *rng.integers(0, 3037000499, 5000).tolist()]
    roots += [2**k + d for k in range(32) for d in (-1, 0, 1) if 2**k + d <= 3037000499]
    values = [r * r + d for r in roots for d in (-1, 0, 1) if r * r + d >= 0]
    values += [2**63 - 1, 2**63 - 2, *(abs(v) for v in _random_int64(rng, 5000, 63))]
    assert number.isqrt(values).tolist() == [math.isqrt(v) for v in values]
    with pytest.raises(ValueError, match="at least 0, got -4"):
        number.isqrt([4, -4])


def test_quantize_equals_fractions() -> None:
    rng = np.random.default_rng(4)
    scale = 2.0**-5
    x = [*(rng.normal(0, 3, 500)), *((np.arange(-300, 300) + 0.5) * scale), 1e300, -1e300]
    expected = [min(max(round(Fraction(float(v)) / Fraction(scale)), -128), 127) for v in x]
    assert number.quantize(x, scale).tolist() == expected


def test_quantize_ranges_and_channels() -> None:
    x = np.array([[-9.0, 9.0], [0.5, 1.5]])
    assert number.quantize(x, [1.0, 0.5], 4).tolist() == [[-8, 7], [0, 3]]
    assert number.quantize(x, 1.0, 4, narrow=True).tolist() == [[-7, 7], [0, 2]]
    assert number.quantize(x, 1.0, 3, signed=False).tolist() == [[0, 7], [0, 2]]
    assert number.quantize(x, 1.0, low=-2, high=8).tolist() == [[-2, 8], [0, 2]]
    assert number.quantize(1e308, 1e-308).tolist() == 127
    assert number.dequantize([[2, 3]], [0.5, 2.0]).tolist() == [[1.0, 6.0]]


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_quantize_refuses_values(x: float) -> None:
    with pytest.raises(ValueError, match=f"x must be finite, got {x}"):
        number.quantize([1.0, x], 1.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale must be finite and positive, got {scale}"):
        number.quantize(1.0, [1.0, scale])
    with pytest.raises(ValueError, match=f"scale must be finite and positive, got {scale}"):
        number.dequantize(1, scale)


def test_quantize_refuses_empty_and_wide_ranges() -> None:
    with pytest.raises(ValueError, match=r"got \[5, 4\]"):
        number.quantize(1.0, 1.0, low=5, high=4)
    with pytest.raises(ValueError, match="within 2"):
        number.quantize(1.0, 1.0, 63)
