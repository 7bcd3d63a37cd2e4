"""Integer arithmetic: the one place that rounds, saturates and wraps.

Every golden function, and the hardware that follows it bit for bit, narrows
its results with the functions below. Rounding is half to even everywhere.
Results are int64 arrays (0-dimensional for scalar arguments); functions that
cannot be exact in 64 bits refuse with ``ValueError`` and never wrap silently.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
IntLike: TypeAlias = int | np.integer | npt.NDArray[np.integer] | Sequence[int] | Sequence[Sequence[int]]
FloatLike: TypeAlias = float | npt.ArrayLike

MULTIPLIER_BITS = 17
"""Width of a requantization multiplier (unsigned)."""

MAX_REQUANTIZER_SHIFT = 47
"""Largest shift `requantizer` returns."""

_INT64_MAX = 2**63 - 1
_ISQRT_MAX = math.isqrt(_INT64_MAX)
_FLOAT_EXACT = 2**53


def integers(name: str, x: IntLike, low: int | None = None, high: int | None = None) -> IntArray:
    """Return `x` as an int64 array after checking its type and range.

    Args:
        name: Name of the value in error messages.
        x: An integer or an array of integers, any shape.
        low: Smallest legal value, or None for no limit.
        high: Largest legal value, or None for no limit.

    Raises:
        TypeError: `x` does not hold integers of at most 64 bits.
        ValueError: a value lies outside [low, high] or does not fit int64.
    """
    array = np.asarray(x)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers of at most 64 bits, got {array.dtype}")
    if array.size and array.dtype == np.uint64 and int(array.max()) > _INT64_MAX:
        raise ValueError(f"{name} must fit int64, got {int(array.max())}")
    result = array.astype(np.int64, copy=False)
    if result.size and low is not None and int(result.min()) < low:
        raise ValueError(f"{name} must be at least {low}, got {int(result.min())}")
    if result.size and high is not None and int(result.max()) > high:
        raise ValueError(f"{name} must be at most {high}, got {int(result.max())}")
    return result


def limits(bits: int, signed: bool = True, narrow: bool = False) -> tuple[int, int]:
    """Return the smallest and the largest value of a `bits` wide integer.

    Args:
        bits: Width, 1..63 (64 if signed).
        signed: Two's complement instead of unsigned.
        narrow: Drop the most negative value (signed only): 8 bit is [-127, 127].

    >>> limits(8), limits(8, narrow=True), limits(8, signed=False)
    ((-128, 127), (-127, 127), (0, 255))
    """
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer):
        raise TypeError(f"bits must be an integer, got {bits!r}")
    widest = 64 if signed else 63
    if not 1 <= bits <= widest:
        raise ValueError(f"bits must be in 1..{widest}, got {bits}")
    if not signed:
        return 0, (1 << int(bits)) - 1
    half = 1 << (int(bits) - 1)
    return -half + int(narrow), half - 1


def round_half_even(x: IntLike, shift: IntLike) -> IntArray:
    """Return ``x / 2**shift`` rounded to the nearest integer, ties to even.

    Exact for every int64 `x` and every shift in 0..63: with
    ``floor = x >> shift`` the remainder ``x - (floor << shift)`` lies in
    [0, 2**shift), so no step leaves int64; the result goes up exactly if
    ``remainder + (floor & 1) > 2**(shift - 1)``. Shift 0 is the identity.

    Args:
        x: Integers of any shape.
        shift: 0..63, one value or an array that broadcasts against `x`.

    >>> round_half_even([5, 6, 7, -6, -10], 2).tolist()
    [1, 2, 2, -2, -2]
    """
    value, places = integers("x", x), integers("shift", shift, 0, 63)
    floor = value >> places
    remainder = value - (floor << places)
    half = np.int64(1) << np.maximum(places - 1, 0)
    return np.asarray(floor + (remainder > half - (floor & 1)))


def saturate(x: IntLike, low: IntLike, high: IntLike) -> IntArray:
    """Clamp `x` to [low, high]; the bounds broadcast against `x`.

    >>> saturate([-300, 5, 300], -128, 127).tolist()
    [-128, 5, 127]
    """
    bottom, top = integers("low", low), integers("high", high)
    if np.any(bottom > top):
        raise ValueError(f"low must not exceed high, got {low} and {high}")
    return np.asarray(np.clip(integers("x", x), bottom, top))


def saturate_bits(x: IntLike, bits: int, signed: bool = True) -> IntArray:
    """Clamp `x` to the range of a `bits` wide integer."""
    return saturate(x, *limits(bits, signed))


def wrap_bits(x: IntLike, bits: int, signed: bool = True) -> IntArray:
    """Keep the low `bits` bits of `x`, read as two's complement if `signed`.

    >>> wrap_bits([128, -129, 255], 8).tolist(), wrap_bits(-1, 4, signed=False).tolist()
    ([-128, 127, -1], 15)
    """
    limits(bits, signed)
    value = integers("x", x)
    if not signed:
        return np.asarray(value & np.int64((1 << bits) - 1))
    unused = np.int64(64 - bits)
    return np.asarray((value << unused) >> unused)


def requantize(acc: IntLike, multiplier: IntLike, shift: IntLike, low: IntLike, high: IntLike) -> IntArray:
    """Return ``saturate(round_half_even(acc * multiplier, shift), low, high)``.

    Args:
        acc: Accumulators. Signed 47 bit values always fit (2**46 * (2**17 - 1)
            < 2**63); wider ones fit with smaller multipliers.
        multiplier: 0..2**17 - 1, broadcasts against `acc`.
        shift: 0..63, broadcasts against `acc`.
        low: Smallest result.
        high: Largest result.

    Raises:
        ValueError: a product does not fit int64, or an argument is out of range.

    >>> requantize([1000, 1024, -3000], 1 << 16, 19, -128, 127).tolist()
    [125, 127, -128]
    """
    value = integers("acc", acc)
    factor = integers("multiplier", multiplier, 0, (1 << MULTIPLIER_BITS) - 1)
    _check_product(value, factor)
    return saturate(round_half_even(np.asarray(value * factor), shift), low, high)


def _check_product(value: IntArray, factor: IntArray) -> None:
    """Raise ValueError unless every ``value * factor`` (factor >= 0) fits int64."""
    if not value.size or not factor.size:
        return
    largest = max(int(value.max()), -int(value.min()))
    if largest * int(factor.max()) <= _INT64_MAX:
        return
    limit = _INT64_MAX // np.maximum(factor, 1)
    bad = (value > limit) | (value < -limit)
    if np.any(bad):
        worst = int(np.broadcast_to(value, bad.shape)[bad][0])
        raise ValueError(f"acc * multiplier must fit int64, got acc {worst} (47 bits always fit)")


def requantizer(scale: float) -> tuple[int, int]:
    """Return (multiplier, shift) with ``multiplier / 2**shift`` nearest to `scale`.

    The multiplier is normalised to [2**16, 2**17), so the relative error is at
    most 2**-17; powers of two are exact with multiplier 2**16.

    Args:
        scale: Finite, 2**-31 .. 2**17 - 1 (that is 0 <= shift <= 47).

    >>> requantizer(0.25), requantizer(1 / 3)
    ((65536, 18), (87381, 18))
    """
    if not math.isfinite(scale) or scale <= 0:
        raise ValueError(f"requantization scale must be finite and positive, got {scale}")
    mantissa, exponent = math.frexp(scale)
    multiplier = round(math.ldexp(mantissa, MULTIPLIER_BITS))
    shift = MULTIPLIER_BITS - exponent
    if multiplier == 1 << MULTIPLIER_BITS:
        multiplier, shift = multiplier >> 1, shift - 1
    if not 0 <= shift <= MAX_REQUANTIZER_SHIFT:
        raise ValueError(
            f"requantization scale must give a shift in 0..{MAX_REQUANTIZER_SHIFT}"
            f" (2**-31 <= scale < 2**17), got {scale} with shift {shift}"
        )
    return multiplier, shift


def signed_bits(low: int, high: int) -> int:
    """Return the smallest signed width that holds every value of [low, high].

    >>> signed_bits(-128, 127), signed_bits(-128, 128), signed_bits(0, 0)
    (8, 9, 1)
    """
    if low > high:
        raise ValueError(f"low must not exceed high, got {low} and {high}")
    return 1 + max(high.bit_length() if high >= 0 else 0, (-low - 1).bit_length() if low < 0 else 0)


def accumulator_range(weights: IntLike, bias: IntLike, a_low: int, a_high: int) -> tuple[int, int]:
    """Return the exact (low, high) of every partial sum for the given weights.

    A partial sum is the bias plus the products of any subset of a row, every
    prefix in every order included, over all activations in [a_low, a_high].
    With P the sum of the positive and N of the negative weights of a row and
    the activation range widened to include 0 (an absent product), the range is
    ``bias + P*a_low + N*a_high .. bias + P*a_high + N*a_low``.

    Args:
        weights: Integers of at most 32 bits, shape [n, k], n >= 1.
        bias: Integers of at most 48 bits, shape [n].
        a_low: Smallest activation.
        a_high: Largest activation.

    >>> accumulator_range([[1, -2], [3, 4]], [10, 0], -128, 127)
    (-896, 889)
    """
    matrix = integers("weights", weights, *limits(32))
    start = integers("bias", bias, *limits(48))
    if matrix.ndim != 2 or not len(matrix) or start.shape != matrix.shape[:1]:
        raise ValueError(f"weights must be [n, k] and bias [n], n >= 1, got {matrix.shape} and {start.shape}")
    if a_low > a_high:
        raise ValueError(f"activation low must not exceed high, got {a_low} and {a_high}")
    bottom, top = min(a_low, 0), max(a_high, 0)
    positive = np.maximum(matrix, 0).sum(axis=1).tolist()
    negative = np.minimum(matrix, 0).sum(axis=1).tolist()
    rows = list(zip(start.tolist(), positive, negative, strict=True))
    low = min(b + p * bottom + n * top for b, p, n in rows)
    return low, max(b + p * top + n * bottom for b, p, n in rows)


def matmul(a: IntLike, b: IntLike) -> IntArray:
    """Return the exact integer matrix product ``a @ b`` (numpy's broadcasting).

    Products whose sum of magnitudes stays below 2**53 run as float64 matrix
    products, in which every partial sum is then an exact integer; larger ones
    run in int64, and those that could exceed int64 are refused.

    >>> matmul([[1, 2]], [[3], [4]]).tolist()
    [[11]]
    """
    left, right = integers("a", a), integers("b", b)
    bound = _magnitude(left) * _magnitude(right) * left.shape[-1]
    if bound < _FLOAT_EXACT:
        return np.asarray(np.matmul(left.astype(np.float64), right.astype(np.float64)).astype(np.int64))
    if bound > _INT64_MAX:
        raise ValueError(f"matrix product must fit int64, its bound is {bound}")
    return np.asarray(np.matmul(left, right))


def _magnitude(x: IntArray) -> int:
    """Return the largest magnitude in `x`, 0 if empty."""
    return max(int(x.max()), -int(x.min())) if x.size else 0


def bit_length(x: IntLike) -> IntArray:
    """Return the number of bits of each non-negative value (0 for 0).

    float64 rounds values above 2**53 to the next power of two at worst, so its
    exponent is right or one too large; a shift decides.

    >>> bit_length([0, 1, 255, 256]).tolist()
    [0, 1, 8, 9]
    """
    value = integers("x", x, 0)
    guess = np.frexp(value.astype(np.float64))[1].astype(np.int64)
    overshoot = (value >> np.clip(guess - 1, 0, 63)) == 0
    return np.asarray(guess - (overshoot & (guess > 0)))


def isqrt(x: IntLike) -> IntArray:
    """Return ``floor(sqrt(x))`` of each non-negative int64 value, exactly.

    The float64 root of x < 2**63 is off by at most root * 2**-52 < 1e-6
    (conversion and square root each round once), so its floor is wrong by at
    most one, which two integer comparisons repair without leaving int64.

    >>> isqrt([0, 15, 16, 2**63 - 1]).tolist()
    [0, 3, 4, 3037000499]
    """
    value = integers("x", x, 0)
    root = np.minimum(np.sqrt(value.astype(np.float64)).astype(np.int64), _ISQRT_MAX)
    root = root - (root * root > value)
    return np.asarray(root + (value - root * root > 2 * root))


def quantize(
    x: FloatLike,
    scale: FloatLike,
    bits: int = 8,
    *,
    signed: bool = True,
    narrow: bool = False,
    low: int | None = None,
    high: int | None = None,
) -> IntArray:
    """Return ``saturate(rint(x / scale))`` as integers, ties to even.

    Args:
        x: Finite floats of any shape.
        scale: Finite and positive, broadcasts against `x`.
        bits: Width of the result, 1..53; sets the range together with `signed`
            and `narrow` where `low` or `high` is not given.
        signed: Two's complement instead of unsigned.
        narrow: Drop the most negative value.
        low: Smallest result, overrides the width's.
        high: Largest result, overrides the width's.

    Raises:
        ValueError: NaN or infinite `x`, a scale that is not positive and
            finite, or an empty range.

    >>> quantize([0.25, 0.75, -9.0, 100.0], 0.5).tolist()
    [0, 2, -18, 127]
    """
    bottom, top = limits(bits, signed, narrow)
    bottom, top = bottom if low is None else low, top if high is None else high
    if not -_FLOAT_EXACT <= bottom <= top <= _FLOAT_EXACT:
        raise ValueError(f"range must be ordered and within 2**53, got [{bottom}, {top}]")
    value = np.asarray(x, dtype=np.float64)
    if not np.all(np.isfinite(value)):
        raise ValueError(f"x must be finite, got {value[~np.isfinite(value)].ravel()[0]}")
    with np.errstate(over="ignore"):
        ratio = np.rint(value / _scales(scale))
    return np.asarray(np.clip(ratio, bottom, top).astype(np.int64))


def dequantize(x: IntLike, scale: FloatLike) -> FloatArray:
    """Return ``x * scale`` as float64; `scale` broadcasts against `x`.

    >>> dequantize([-2, 3], 0.5).tolist()
    [-1.0, 1.5]
    """
    return np.asarray(integers("x", x).astype(np.float64) * _scales(scale))


def _scales(scale: FloatLike) -> FloatArray:
    """Return `scale` as float64 after checking that it is finite and positive."""
    value = np.asarray(scale, dtype=np.float64)
    bad = ~(np.isfinite(value) & (value > 0))
    if np.any(bad):
        raise ValueError(f"scale must be finite and positive, got {value[bad].ravel()[0]}")
    return value
