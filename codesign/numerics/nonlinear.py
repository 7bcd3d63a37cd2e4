"""Integer softmax attention, layer and RMS norm, and 8-bit function tables.

These definitions are exact: hardware, goldens and the torch modules of
quantization-aware training all return the same integers. Arrays are int64
(their ranges are stated and checked); floats appear only in the functions that
make parameters and tables.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from codesign.numerics.fixed_point import (
    FloatArray,
    FloatLike,
    IntArray,
    IntLike,
    bit_length,
    dequantize,
    integers,
    isqrt,
    limits,
    matmul,
    quantize,
    requantize,
    round_half_even,
    saturate_bits,
)

EXP_ENTRIES = 1024
"""Entries of the exponential table; one step is 2**-7 nat."""

NORM_FRACTION_BITS = 10
"""Fractional bits of a normalised value before gain and bias."""

MAX_NORM_WIDTH = 1024
"""Largest row a norm accepts; its range proofs need it."""

_SCORE_LIMIT = (1 << 24) - 1
_MULTIPLIER_RANGE = (1 << 16, (1 << 17) - 1)


# Softmax attention ----------------------------------------------------------


@functools.cache
def exp_table() -> IntArray:
    """Return ``EXP[u] = rint(255 * exp(-u / 128))``, u in 0..1023, read-only.

    Values are unsigned 8 bit; EXP[0] is 255 and all entries from 799 on are 0.

    >>> exp_table()[[0, 1, 128, 1023]].tolist()
    [255, 253, 94, 0]
    """
    exact = np.array([255 * math.exp(-u / 128) for u in range(EXP_ENTRIES)])
    table = quantize(exact, 1.0, 8, signed=False)
    table.setflags(write=False)
    return table


def softmax_weights(scores: IntLike, valid: npt.ArrayLike, multiplier: int, shift: int) -> tuple[IntArray, IntArray]:
    """Return the unnormalised probabilities of each row and their sum.

    ``u = saturate(rhe((max - s) * multiplier, shift), 0, 1023); e = EXP[u]``,
    with the maximum over valid keys and e = 0 for invalid ones. The maximum
    itself gives 255, so the sum is at least 255. ``max - s`` < 2**25 and
    multiplier < 2**17, so the product stays below 2**42.

    Args:
        scores: Shape [..., keys], magnitudes below 2**24.
        valid: Booleans that broadcast to `scores`; every row needs a true one.
        multiplier: 0..2**17 - 1; multiplier / 2**shift is 128 times the value of
            one score step in nat.
        shift: 0..63.

    Returns:
        e, shape [..., keys], 0..255; and its sum over keys, shape [...].
    """
    s = integers("scores", scores, -_SCORE_LIMIT, _SCORE_LIMIT)
    use = np.broadcast_to(np.asarray(valid, dtype=np.bool_), s.shape)
    if not np.all(use.any(axis=-1)):
        raise ValueError("every row needs at least one valid key, got a row without any")
    top = np.where(use, s, -_SCORE_LIMIT).max(axis=-1, keepdims=True)
    index = requantize(np.where(use, top - s, 0), multiplier, shift, 0, EXP_ENTRIES - 1)
    e = np.where(use, exp_table()[index], 0)
    return e, np.asarray(e.sum(axis=-1))


def normalize(acc: IntLike, total: IntLike, multiplier: int, shift: int) -> IntArray:
    """Return the weighted sums divided by their row totals, as signed 8 bit.

    ``L = bit_length(total); Q = (multiplier << (L - 1)) // total;
    out = saturate(rhe(acc * Q, shift + L - 1), -128, 127)``. As total is in
    [2**(L-1), 2**L), Q is in [2**15, 2**17); as |acc| <= 128 * total, the
    product is below 2**(24 + L - 1), within int64 for total < 2**32.

    Args:
        acc: Sums of e * v over keys, shape [..., d], |acc| <= 128 * total.
        total: Sums of e, shape [...], 1..2**32 - 1.
        multiplier: 2**16..2**17 - 1; multiplier / 2**shift is the scale of v over
            that of the output.
        shift: At least 0, shift + L - 1 at most 63.
    """
    sums, value = integers("total", total, 1, 2**32 - 1)[..., None], integers("acc", acc)
    if np.any(np.abs(value) > 128 * sums):
        raise ValueError("acc must be at most 128 * total in magnitude")
    factor = integers("multiplier", multiplier, *_MULTIPLIER_RANGE)
    places = bit_length(sums) - 1
    quotient = (factor << places) // sums
    total_shift = integers("shift", shift, 0) + places
    return saturate_bits(round_half_even(value * quotient, total_shift), 8)


def attention(
    q: IntLike,
    k: IntLike,
    v: IntLike,
    *,
    heads: int,
    score_multiplier: int,
    score_shift: int,
    out_multiplier: int,
    out_shift: int,
    lo: IntLike,
    hi: IntLike,
) -> IntArray:
    """Return softmax(q k^T) v per head, integers in and out.

    Args:
        q: Signed 8 bit, shape [rows, heads * d].
        k: Signed 8 bit, shape [keys, heads * d]; d at most 1023.
        v: Signed 8 bit, shape [keys, heads * d].
        heads: Number of heads, divides the width.
        score_multiplier: See `softmax_weights`.
        score_shift: See `softmax_weights`.
        out_multiplier: See `normalize`.
        out_shift: See `normalize`.
        lo: First valid key of each row, shape [rows].
        hi: One past the last valid key of each row, shape [rows], lo < hi <= keys.

    Returns:
        Signed 8-bit values, shape [rows, heads * d].
    """
    queries, keys, values = (_heads(n, x, heads) for n, x in (("q", q), ("k", k), ("v", v)))
    if keys.shape != values.shape or queries.shape[::2] != keys.shape[::2]:
        raise ValueError(
            "q, k and v must be [rows, width], [keys, width] and [keys, width],"
            f" got {np.shape(q)}, {np.shape(k)} and {np.shape(v)}"
        )
    rows, count = queries.shape[1], keys.shape[1]
    first, last = integers("lo", lo, 0), integers("hi", hi, 0, count)
    if first.shape != (rows,) or last.shape != (rows,) or np.any(first >= last):
        raise ValueError(f"lo and hi must be [{rows}] with lo < hi, got {first} and {last}")
    column = np.arange(count)
    valid = (first[:, None] <= column) & (column < last[:, None])
    scores = matmul(queries, keys.swapaxes(1, 2))
    e, total = softmax_weights(scores, valid, score_multiplier, score_shift)
    out = normalize(matmul(e, values), total, out_multiplier, out_shift)
    return np.ascontiguousarray(out.swapaxes(0, 1)).reshape(rows, -1)


def _heads(name: str, x: IntLike, heads: int) -> IntArray:
    """Return signed 8-bit [n, heads * d] as [heads, n, d]."""
    array = integers(name, x, *limits(8))
    if array.ndim != 2 or heads < 1 or array.shape[1] % heads or not array.size:
        raise ValueError(f"{name} must be a non-empty [n, heads * d] with heads {heads}, got {array.shape}")
    return array.reshape(len(array), heads, -1).swapaxes(0, 1)


def mask_interval(kind: str, rows: int, keys: int, window: int | None = None) -> tuple[IntArray, IntArray]:
    """Return the interval [lo, hi) of valid keys of each row.

    Args:
        kind: "full" (all keys), "causal" (keys up to the row's own index) or
            "sliding" (of those the last `window`).
        rows: Number of query rows, at least 1.
        keys: Number of keys, at least 1.
        window: Window of "sliding", at least 1; not used otherwise.

    Raises:
        ValueError: an unknown kind, or a row would have no valid key.

    >>> [x.tolist() for x in mask_interval("sliding", 4, 4, 2)]
    [[0, 0, 1, 2], [1, 2, 3, 4]]
    """
    if rows < 1 or keys < 1:
        raise ValueError(f"rows and keys must be at least 1, got {rows} and {keys}")
    row = np.arange(rows, dtype=np.int64)
    lo, hi = np.zeros_like(row), np.full_like(row, keys)
    if kind in ("causal", "sliding"):
        hi = np.minimum(row + 1, keys)
    elif kind != "full":
        raise ValueError(f"mask kind must be full, causal or sliding, got {kind!r}")
    if kind == "sliding":
        if window is None or window < 1:
            raise ValueError(f"window of a sliding mask must be at least 1, got {window}")
        lo = np.maximum(0, row - window + 1)
    if np.any(lo >= hi):
        raise ValueError(f"{kind} mask leaves row {int(np.argmax(lo >= hi))} without a key")
    return lo, hi


# Norms ----------------------------------------------------------------------


def norm(r: IntLike, gain: IntLike, bias: IntLike, shift: int, eps: int, rms: bool = False, bits: int = 8) -> IntArray:
    """Return the layer norm (or RMS norm) of each row as signed 8 or 16 bit.

    With D the width, s1 the row's sum (0 if `rms`) and s2 its sum of squares::

        V = max(D*s2 - s1*s1 + eps, 1)        n = bit_length(V)   e = (34 - n) >> 1
        v = V << 2e  or  V >> -2e             q = isqrt(v)
        R = min((1 << 33) // q, 2**17 - 1)    c = D*r - s1
        z = saturate(rhe(c * R, 23 - e), -2**17, 2**17 - 1)
        y = saturate(rhe(z * gain + bias, shift), -2**(bits - 1), 2**(bits - 1) - 1)

    Ranges, for D <= 1024 and 16-bit rows: D*s2 <= 2**50 and eps < 2**48, so
    1 <= n <= 51 and -9 <= e <= 16; v has 33 or 34 bits (n + 2e is 33 or 34), so q
    and R are in [2**16, 2**17); |c| <= (D-1) * 65535 < 2**26 (at most
    2**25 for `rms`), so c is signed 27 bit and c * R below 2**43; the shift 23 - e is
    in 7..32. |z| is at most about sqrt(D) * 2**10, and 2**17 by saturation, so
    |z * gain| + |bias| <= 2**32 + 2**31 < 2**34. Only the last step depends on `bits`: its operand
    has up to 34 bits at shift 0, more than either result.

    Args:
        r: Signed 16 bit, shape [rows, D], 2 <= D <= 1024.
        gain: Signed 16 bit, shape [D].
        bias: Signed 32 bit, shape [D].
        shift: 0..31.
        eps: 0..2**48 - 1, in units of D*D*scale**2.
        rms: No mean is subtracted.
        bits: Of the result, 8 or 16.

    Returns:
        Signed values of `bits` bits, shape [rows, D].
    """
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, got {bits}")
    rows = integers("r", r, *limits(16))
    if rows.ndim != 2 or not 2 <= rows.shape[1] <= MAX_NORM_WIDTH:
        raise ValueError(f"r must be [rows, D] with D in 2..{MAX_NORM_WIDTH}, got {rows.shape}")
    slope, offset = integers("gain", gain, *limits(16)), integers("bias", bias, *limits(32))
    if slope.shape != rows.shape[1:] or offset.shape != rows.shape[1:]:
        raise ValueError(f"gain and bias must be [{rows.shape[1]}], got {slope.shape} and {offset.shape}")
    places = integers("shift", shift, 0, 31)
    z = _normalised(rows, int(integers("eps", eps, 0, 2**48 - 1)), rms)
    return saturate_bits(round_half_even(z * slope + offset, places), bits)


def _normalised(rows: IntArray, eps: int, rms: bool) -> IntArray:
    """Return (r - mean) / deviation with `NORM_FRACTION_BITS` fractional bits."""
    width = rows.shape[1]
    s1 = np.zeros((len(rows), 1), np.int64) if rms else rows.sum(axis=1, keepdims=True)
    s2 = (rows * rows).sum(axis=1, keepdims=True)
    variance = np.maximum(width * s2 - s1 * s1 + eps, 1)
    e = (34 - bit_length(variance)) >> 1
    v = (variance << np.maximum(2 * e, 0)) >> np.maximum(-2 * e, 0)
    reciprocal = np.minimum((1 << 33) // isqrt(v), (1 << 17) - 1)
    centred = width * rows - s1
    return saturate_bits(round_half_even(centred * reciprocal, 23 - e), 18)


def norm_parameters(
    gamma: FloatLike, beta: FloatLike, eps: float, scale_in: float, scale_out: float, width: int
) -> tuple[IntArray, IntArray, int, int]:
    """Return the integers (gain, bias, shift, eps) of `norm` for a float norm.

    ``gain = rint(gamma / scale_out * 2**(shift - 10))`` and
    ``bias = rint(beta / scale_out * 2**shift)`` with the largest shift in 10..31
    for which every gain fits 16 and every bias 32 bit;
    ``eps = rint(eps * width**2 / scale_in**2)``.

    Args:
        gamma: Finite gains, shape [width] or one value.
        beta: Finite biases, shape [width] or one value.
        eps: At least 0.
        scale_in: Scale of the 16-bit input.
        scale_out: Scale of the 8-bit or 16-bit output.
        width: Row length, 2..1024.

    Raises:
        ValueError: gains or biases do not fit even at shift 10, eps needs 48
            bits or more, or an argument is out of range.
    """
    if not 2 <= width <= MAX_NORM_WIDTH:
        raise ValueError(f"width must be in 2..{MAX_NORM_WIDTH}, got {width}")
    slope, offset = (np.broadcast_to(np.asarray(x, np.float64), width) for x in (gamma, beta))
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    eps_int = int(quantize(eps * width * width, scale_in * scale_in, 49, signed=False))
    if eps_int >= 1 << 48:
        raise ValueError(f"eps {eps} needs 48 bits or more at input scale {scale_in}")
    for shift in range(31, NORM_FRACTION_BITS - 1, -1):
        unit = scale_out * 2.0**-shift
        gain = quantize(slope, unit * 2**NORM_FRACTION_BITS, 32)
        bias = quantize(offset, unit, 48)
        if _fits(gain, 16) and _fits(bias, 32):
            return gain, bias, shift, eps_int
    raise ValueError(
        "norm gain must be below 2**15 and bias below 2**21 in output steps, got"
        f" {np.abs(slope).max() / scale_out:g} and {np.abs(offset).max() / scale_out:g}"
    )


def _fits(x: IntArray, bits: int) -> bool:
    """Tell whether every value fits a signed integer of this width."""
    return bool(np.array_equal(saturate_bits(x, bits), x))


# Tables ---------------------------------------------------------------------


def _gelu(x: float) -> float:
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))
    return (1.0 if x >= 0 else small) / (1.0 + small)


def _silu(x: float) -> float:
    return x * _sigmoid(x)


def _relu(x: float) -> float:
    return max(x, 0.0)


def _identity(x: float) -> float:
    return x


def _functions() -> dict[str, Callable[[float], float]]:
    return {
        "gelu": _gelu,
        "gelu_tanh": _gelu_tanh,
        "identity": _identity,
        "relu": _relu,
        "sigmoid": _sigmoid,
        "silu": _silu,
        "tanh": math.tanh,
    }


def function_names() -> tuple[str, ...]:
    """Return the names `evaluate` and `table` accept, sorted."""
    return tuple(sorted(_functions()))


def evaluate(function: str, x: FloatLike) -> FloatArray:
    """Return the named float function of each element of `x`.

    Args:
        function: One of `function_names`: gelu (exact, with erf), gelu_tanh,
            identity, relu, sigmoid, silu, tanh.
        x: Floats of any shape.

    >>> evaluate("relu", [-1.0, 2.0]).tolist()
    [0.0, 2.0]
    """
    known = _functions()
    if function not in known:
        raise ValueError(f"function must be one of {', '.join(sorted(known))}, got {function!r}")
    values = np.asarray(x, dtype=np.float64)
    return np.array([known[function](v) for v in values.ravel().tolist()]).reshape(values.shape)


def table(function: str, scale_in: float, scale_out: float) -> npt.NDArray[np.int8]:
    """Return the 256 entries of a function from signed 8 bit to signed 8 bit.

    Entry ``x & 255`` is ``saturate(rint(f(x * scale_in) / scale_out), -128, 127)``.

    Args:
        function: See `evaluate`.
        scale_in: Scale of the input, positive and finite.
        scale_out: Scale of the output, positive and finite.

    >>> table("relu", 0.5, 0.25)[[0, 1, 100, 255]].tolist()
    [0, 2, 127, 0]
    """
    x = dequantize((np.arange(256) ^ 128) - 128, scale_in)
    return quantize(evaluate(function, x), scale_out, 8).astype(np.int8)


def lookup(entries: IntLike, x: IntLike) -> IntArray:
    """Return ``entries[x & 255]`` for signed 8-bit `x` of any shape."""
    content = integers("entries", entries, *limits(8))
    if content.shape != (256,):
        raise ValueError(f"a table must have 256 entries, got shape {content.shape}")
    return np.asarray(content[integers("x", x, *limits(8)) & 255])
