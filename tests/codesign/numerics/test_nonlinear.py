"""Integer softmax, norms and tables against Python-integer oracles and float."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from codesign.numerics import nonlinear
from codesign.numerics.fixed_point import requantizer
from tests.marks import few_fast

Array = npt.NDArray[np.int64]


def _rhe(x: int, shift: int) -> int:
    floor, rest = divmod(x, 1 << shift)
    return floor + (2 * rest + floor % 2 > 1 << shift)


def _clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


# Softmax ---------------------------------------------------------------------


def test_exp_table_is_correctly_rounded() -> None:
    with localcontext() as context:
        context.prec = 60
        exact = [255 * (Decimal(-u) / 128).exp() for u in range(1024)]
        expected = [int(x.to_integral_value(rounding="ROUND_HALF_EVEN")) for x in exact]
        margin = min(abs(x - int(x) - Decimal("0.5")) for x in exact)
    assert nonlinear.exp_table().tolist() == expected
    assert margin > Decimal("1e-6")
    assert expected[798] == 1
    assert not any(expected[799:])


def test_exp_table_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        nonlinear.exp_table()[0] = 1


def _attend(
    q: list[int], k: list[list[int]], v: list[list[int]], score: tuple[int, int], out: tuple[int, int]
) -> list[int]:
    """One row and head of integer attention over valid keys only, in Python integers."""
    table = nonlinear.exp_table().tolist()
    scores = [sum(a * b for a, b in zip(q, row, strict=True)) for row in k]
    top = max(scores)
    e = [table[_clamp(_rhe((top - s) * score[0], score[1]), 0, 1023)] for s in scores]
    total = sum(e)
    length = total.bit_length()
    quotient = (out[0] << (length - 1)) // total
    assert 2**15 <= quotient < 2**17
    sums = [sum(a * row[j] for a, row in zip(e, v, strict=True)) for j in range(len(v[0]))]
    return [_clamp(_rhe(s * quotient, out[1] + length - 1), -128, 127) for s in sums]


def _reference(
    q: Array,
    k: Array,
    v: Array,
    heads: int,
    score: tuple[int, int],
    out: tuple[int, int],
    lo: Array,
    hi: Array,
) -> list[list[int]]:
    d = q.shape[1] // heads
    result = []
    for i, row in enumerate(q.tolist()):
        keys = slice(int(lo[i]), int(hi[i]))
        values: list[int] = []
        for h in range(0, heads * d, d):
            part = slice(h, h + d)
            values += _attend(row[part], k[keys, part].tolist(), v[keys, part].tolist(), score, out)
        result.append(values)
    return result


def _draw(rng: np.random.Generator, shape: tuple[int, int], kind: int) -> Array:
    """Random int8, extremes only, or small values."""
    if kind == 1:
        return rng.choice(np.array([-128, 127]), shape)
    return rng.integers(-128, 128, shape) >> (6 if kind == 2 else 0)


@pytest.mark.parametrize("seed", range(45))
def test_attention_equals_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heads, d, keys = (int(rng.integers(1, n)) for n in (4, 20, 40))
    rows = int(rng.integers(1, keys + 1))
    q = _draw(rng, (rows, heads * d), seed % 3)
    k, v = (_draw(rng, (keys, heads * d), seed // 3 % 3) for _ in range(2))
    score, out = requantizer(float(rng.uniform(1e-4, 2))), requantizer(float(rng.uniform(0.2, 4)))
    lo, hi = nonlinear.mask_interval(("full", "causal", "sliding")[seed // 9 % 3], rows, keys, 3)
    got = nonlinear.attention(
        q, k, v, heads=heads, lo=lo, hi=hi, score_multiplier=score[0], score_shift=score[1],
        out_multiplier=out[0], out_shift=out[1],
    )  # fmt: skip
    assert got.dtype == np.int64
    assert got.tolist() == _reference(q, k, v, heads, score, out, lo, hi)


def test_attention_is_close_to_float() -> None:
    rng = np.random.default_rng(9)
    n, heads, d, scale = 65, 4, 16, 2.0**-5
    q, k, v = (np.clip(rng.normal(0, 40, (n, heads * d)).round(), -128, 127).astype(int) for _ in "qkv")
    score, out = requantizer(128 * scale * scale / math.sqrt(d)), requantizer(2.0)
    lo, hi = nonlinear.mask_interval("full", n, n)
    got = nonlinear.attention(
        q, k, v, heads=heads, lo=lo, hi=hi, score_multiplier=score[0], score_shift=score[1],
        out_multiplier=out[0], out_shift=out[1],
    )  # fmt: skip
    qh, kh, vh = (x.reshape(n, heads, d).swapaxes(0, 1) * scale for x in (q, k, v))
    s = qh @ kh.swapaxes(1, 2) / math.sqrt(d)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    exact = (p / p.sum(axis=-1, keepdims=True)) @ vh
    error = np.abs(got * scale / 2 - exact.swapaxes(0, 1).reshape(n, -1))
    assert error.max() < 0.06
    assert error.mean() < 0.006


def test_one_key_returns_the_value() -> None:
    v = np.arange(-128, 128)[None]
    one = np.zeros(1, np.int64)
    got = nonlinear.attention(
        v, v, v, heads=1, score_multiplier=1 << 16, score_shift=20, out_multiplier=1 << 16,
        out_shift=16, lo=one, hi=one + 1,
    )  # fmt: skip
    assert got.tolist() == v.tolist()


def test_softmax_weights_at_extremes() -> None:
    top = 2**24 - 1
    e, total = nonlinear.softmax_weights([[top, -top, top]], True, (1 << 17) - 1, 0)
    assert e.tolist() == [[255, 0, 255]]
    assert total.tolist() == [510]
    e, total = nonlinear.softmax_weights([[top, -top, -top]], [False, True, True], 1 << 16, 63)
    assert e.tolist() == [[0, 255, 255]]
    assert total.tolist() == [510]
    e, _ = nonlinear.softmax_weights([[3, 3, 2]], [True, False, True], 0, 0)
    assert e.tolist() == [[255, 0, 255]]


@pytest.mark.parametrize("total", [1, 255, 256, 511, 512, 65535, 2**32 - 1])
@pytest.mark.parametrize("multiplier", [1 << 16, (1 << 17) - 1])
def test_normalize_at_extremes(total: int, multiplier: int) -> None:
    acc = [-128 * total, 128 * total, 127 * total, 0, total // 2]
    for shift in (16, 17, 63 - (total.bit_length() - 1)):
        length = total.bit_length()
        quotient = (multiplier << (length - 1)) // total
        expected = [_clamp(_rhe(a * quotient, shift + length - 1), -128, 127) for a in acc]
        assert nonlinear.normalize([acc], [total], multiplier, shift).tolist() == [expected]


def test_normalize_refuses() -> None:
    with pytest.raises(ValueError, match="acc must be at most 128"):
        nonlinear.normalize([[129]], [1], 1 << 16, 16)
    with pytest.raises(ValueError, match="total must be at least 1, got 0"):
        nonlinear.normalize([[0]], [0], 1 << 16, 16)
    with pytest.raises(ValueError, match="multiplier must be at least 65536, got 65535"):
        nonlinear.normalize([[0]], [1], 65535, 16)
    with pytest.raises(ValueError, match="shift must be at most 63, got 70"):
        nonlinear.normalize([[0]], [255], 65536, 63)


def test_softmax_refuses() -> None:
    with pytest.raises(ValueError, match="at least one valid key"):
        nonlinear.softmax_weights([[1, 2]], [[False, False]], 1 << 16, 16)
    with pytest.raises(ValueError, match="scores must be at most 16777215, got 16777216"):
        nonlinear.softmax_weights([[2**24]], True, 1 << 16, 16)


def _attention_with(**changes: object) -> Array:
    x, rows = np.ones((2, 4), np.int64), np.zeros(2, np.int64)
    arguments: dict[str, object] = {"q": x, "k": x, "v": x, "heads": 2, "lo": rows, "hi": rows + 2}
    arguments |= {"score_multiplier": 1 << 16, "score_shift": 16}
    arguments |= {"out_multiplier": 1 << 16, "out_shift": 16} | changes
    return nonlinear.attention(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"q must be a non-empty \[n, heads \* d\] with heads 3, got \(2, 4\)"),
        ({"heads": 0}, "with heads 0"),
        ({"k": np.ones((3, 4), int)}, r"got \(2, 4\), \(3, 4\) and \(2, 4\)"),
        ({"q": np.ones((2, 2), int)}, r"got \(2, 2\), \(2, 4\) and \(2, 4\)"),
        ({"q": np.full((2, 4), 128)}, "q must be at most 127, got 128"),
        ({"hi": np.array([2, 3])}, "hi must be at most 2, got 3"),
        ({"lo": np.array([0, 2])}, "lo < hi"),
        ({"lo": np.array([0])}, r"must be \[2\]"),
    ],
)
def test_attention_refuses(changes: dict[str, object], message: str) -> None:
    assert _attention_with().shape == (2, 4)
    with pytest.raises(ValueError, match=message):
        _attention_with(**changes)


def test_mask_intervals() -> None:
    def pairs(kind: str, rows: int, keys: int, window: int | None = None) -> list[tuple[int, int]]:
        lo, hi = nonlinear.mask_interval(kind, rows, keys, window)
        return list(zip(lo.tolist(), hi.tolist(), strict=True))

    assert pairs("full", 2, 5) == [(0, 5), (0, 5)]
    assert pairs("causal", 4, 3) == [(0, 1), (0, 2), (0, 3), (0, 3)]
    assert pairs("sliding", 4, 4, 3) == [(0, 1), (0, 2), (0, 3), (1, 4)]
    assert pairs("sliding", 3, 3, 1) == [(0, 1), (1, 2), (2, 3)]


def test_mask_interval_refuses() -> None:
    with pytest.raises(ValueError, match="full, causal or sliding, got 'banded'"):
        nonlinear.mask_interval("banded", 1, 1)
    with pytest.raises(ValueError, match="at least 1, got None"):
        nonlinear.mask_interval("sliding", 1, 1)
    with pytest.raises(ValueError, match="sliding mask leaves row 4 without a key"):
        nonlinear.mask_interval("sliding", 5, 3, 2)
    with pytest.raises(ValueError, match="got 0 and 1"):
        nonlinear.mask_interval("full", 0, 1)


# Norms -----------------------------------------------------------------------


def _norm_row(r: list[int], gain: list[int], bias: list[int], shift: int, eps: int, rms: bool, bits: int) -> list[int]:
    """One row of the norm in Python integers; asserts the documented ranges."""
    width = len(r)
    s1, s2 = 0 if rms else sum(r), sum(x * x for x in r)
    variance = max(width * s2 - s1 * s1 + eps, 1)
    e = (34 - variance.bit_length()) >> 1
    v = variance << (2 * e) if e >= 0 else variance >> (-2 * e)
    root = math.isqrt(v)
    reciprocal = min((1 << 33) // root, 2**17 - 1)
    assert 2**32 <= v < 2**34
    assert 2**16 <= root < 2**17
    assert 2**16 <= reciprocal < 2**17
    assert 7 <= 23 - e <= 32
    c = [width * x - s1 for x in r]
    assert all(-(2**26) <= x < 2**26 for x in c)
    z = [_clamp(_rhe(x * reciprocal, 23 - e), -(2**17), 2**17 - 1) for x in c]
    assert all(abs(x * g) + abs(b) < 2**34 for x, g, b in zip(z, gain, bias, strict=True))
    half = 1 << (bits - 1)
    return [_clamp(_rhe(x * g + b, shift), -half, half - 1) for x, g, b in zip(z, gain, bias, strict=True)]


def _extreme_rows(width: int, rng: np.random.Generator) -> Array:
    alternating = np.where(np.arange(width) % 2, 32767, -32768)
    spike = np.where(np.arange(width) == width // 2, 32767, -32768)
    step = np.where(np.arange(width) == 0, 1, 0)
    rows = [alternating, -1 - alternating, spike, -1 - spike, step, -step]
    rows += [np.full(width, x) for x in (-32768, -1, 0, 1, 32767)]
    return np.stack(rows + [rng.integers(-32768, 32768, width) >> s for s in range(16)])


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("width", few_fast([2, 3, 17, 64, 1023, 1024], 4))
@pytest.mark.parametrize("eps", few_fast([42950, 0, 1, 2**48 - 1], 1))
@pytest.mark.parametrize("bits", [8, 16])
def test_norm_equals_reference(width: int, eps: int, rms: bool, bits: int) -> None:
    rng = np.random.default_rng(width + eps % 97)
    rows = _extreme_rows(width, rng)
    gain = rng.integers(-32768, 32768, width)
    bias = rng.integers(-(2**31), 2**31, width)
    gain[:2], bias[:2] = (-32768, 32767), (2**31 - 1, -(2**31))
    for shift in (0, 19, 31) if width < 1000 else (19,):
        got = nonlinear.norm(rows, gain, bias, shift, eps, rms, bits)
        assert got.dtype == np.int64
        expected = [_norm_row(r, gain.tolist(), bias.tolist(), shift, eps, rms, bits) for r in rows.tolist()]
        assert got.tolist() == expected


def test_norm_reaches_both_ends_of_the_variance() -> None:
    ones = np.ones(1024, np.int64)
    largest = np.where(np.arange(1024) % 2, 32767, -32768)[None]
    got = nonlinear.norm(largest, ones * 32767, ones * 0, 18, 2**48 - 1)
    assert set(got.ravel().tolist()) == {-114, 114}
    flat = nonlinear.norm(np.full((1, 1024), -32768), ones * 32767, ones * 5, 0, 0)
    assert set(flat.ravel().tolist()) == {5}


def test_a_wide_norm_saturates_just_where_sixteen_bits_end() -> None:
    """Rows of one sign have z of 0, so that the result is the rounded bias alone."""
    ends = [32767, 32768, -32768, -32769, 2**31 - 1, -(2**31), 127, 128]
    flat = np.full((1, len(ends)), 32767)
    for shift in (0, 1, 15):
        bias = np.array([min(max(end << shift, -(2**31)), 2**31 - 1) for end in ends])
        got = nonlinear.norm(flat, np.full(len(ends), -32768), bias, shift, 0, bits=16)
        assert got.tolist() == [[32767, 32767, -32768, -32768, 32767, -32768, 127, 128]]
    half = np.array([2 * 32767 - 1, 2 * 32767 + 1, -2 * 32768 + 1, -2 * 32768 - 1, 1, 3])
    got = nonlinear.norm(np.zeros((1, 6), int), np.zeros(6, int), half, 1, 0, bits=16)
    assert got.tolist() == [[32766, 32767, -32768, -32768, 0, 2]]


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("width", [16, 64, 384, 1024])
def test_norm_is_close_to_float(width: int, rms: bool) -> None:
    rng = np.random.default_rng(width)
    rows = np.clip((rng.normal(0, 1500, (20, width)) + 700).round(), -32768, 32767).astype(int)
    gamma, beta = rng.normal(1, 0.3, width), rng.normal(0, 0.3, width)
    scale_in, scale_out = 2.0**-10, 2.0**-5
    gain, bias, shift, eps = nonlinear.norm_parameters(gamma, beta, 1e-5, scale_in, scale_out, width)
    got = nonlinear.norm(rows, gain, bias, shift, eps, rms)
    x = rows * scale_in
    x = x if rms else x - x.mean(axis=1, keepdims=True)
    exact = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5) * gamma + beta
    error = np.abs(got - np.clip(exact / scale_out, -128, 127))
    assert error.max() < 0.56


def test_norm_parameters_use_the_largest_shift() -> None:
    gain, bias, shift, eps = nonlinear.norm_parameters([1.0, -0.5], [0.25, 0], 1e-5, 2**-10, 2**-5, 2)
    assert (gain.tolist(), bias.tolist(), shift) == ([16384, -8192], [8 << 19, 0], 19)
    assert eps == round(1e-5 * 4 * 2**20)
    gain, _, shift, _ = nonlinear.norm_parameters(0.0, 0.0, 0.0, 1.0, 1.0, 4)
    assert gain.tolist() == [0] * 4
    assert shift == 31
    _, bias, shift, _ = nonlinear.norm_parameters(1e-9, 100.0, 0.0, 1.0, 1.0, 4)
    assert shift == 24
    assert bias.tolist() == [100 << 24] * 4


@pytest.mark.parametrize("seed", range(20))
def test_norm_parameters_fit_and_are_rounded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gamma, beta = rng.normal(0, 2.0 ** rng.integers(-8, 6), 8), rng.normal(0, 2, 8)
    scale = float(2.0 ** -rng.integers(0, 8))
    gain, bias, shift, _ = nonlinear.norm_parameters(gamma, beta, 0.0, 1.0, scale, 8)
    exact = [Fraction(x) / Fraction(scale) * 2 ** (shift - 10) for x in gamma.tolist()]
    assert gain.tolist() == [round(x) for x in exact]
    assert bias.tolist() == [round(Fraction(x) / Fraction(scale) * 2**shift) for x in beta.tolist()]
    too_far = shift == 31 or max(abs(round(2 * x)) for x in exact) > 32767
    assert too_far or np.abs(beta).max() / scale * 2 ** (shift + 1) > 2**31 - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4e4, 0.0, 0.0, 1.0, 1.0, 4), "gain must be below"),
        ((1.0, 3e6, 0.0, 1.0, 1.0, 4), "bias below"),
        ((1.0, 0.0, -1.0, 1.0, 1.0, 4), "eps must be finite and at least 0, got -1"),
        ((1.0, 0.0, math.nan, 1.0, 1.0, 4), "got nan"),
        ((1.0, 0.0, 1.0, 1e-9, 1.0, 4), "needs 48 bits"),
        ((1.0, 0.0, 1.0, 1.0, 1.0, 1), "width must be in 2..1024, got 1"),
        ((1.0, 0.0, 1.0, 1.0, 0.0, 4), "scale must be finite and positive"),
        ((math.inf, 0.0, 1.0, 1.0, 1.0, 4), "x must be finite, got inf"),
    ],
)
def test_norm_parameters_refuse(arguments: tuple[float, float, float, float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nonlinear.norm_parameters(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": [[0, 32768]]}, "r must be at most 32767, got 32768"),
        ({"r": [0, 1]}, r"got \(2,\)"),
        ({"r": np.zeros((1, 1025), int)}, r"D in 2..1024, got \(1, 1025\)"),
        ({"gain": [1, 2, 3]}, r"must be \[2\], got \(3,\)"),
        ({"gain": [1, 32768]}, "gain must be at most"),
        ({"bias": [0, 2**31]}, "bias must be at most"),
        ({"shift": 32}, "shift must be at most 31, got 32"),
        ({"eps": 2**48}, "eps must be at most"),
        ({"eps": -1}, "eps must be at least 0, got -1"),
        ({"bits": 12}, "bits must be 8 or 16, got 12"),
    ],
)
def test_norm_refuses(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"r": [[1, 2]], "gain": [1, 1], "bias": [0, 0]}
    arguments |= {"shift": 10, "eps": 0} | changes
    with pytest.raises(ValueError, match=message):
        nonlinear.norm(**arguments)  # type: ignore[arg-type]


# Tables ----------------------------------------------------------------------


def _expected(function: str, x: float) -> float:
    formulas = {
        "gelu": lambda: x * 0.5 * math.erfc(-x / math.sqrt(2)),
        "gelu_tanh": lambda: x / (1 + math.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "identity": lambda: x,
        "relu": lambda: x if x > 0 else 0.0,
        "sigmoid": lambda: 1 / (1 + math.exp(-x)),
        "silu": lambda: x / (1 + math.exp(-x)),
        "tanh": lambda: math.tanh(x),
    }
    return formulas[function]()


@pytest.mark.parametrize("function", nonlinear.function_names())
@pytest.mark.parametrize(("scale_in", "scale_out"), [(2**-5, 2**-5), (2**-4, 0.013), (0.07, 2**-7)])
def test_table_equals_formula(function: str, scale_in: float, scale_out: float) -> None:
    entries = nonlinear.table(function, scale_in, scale_out)
    assert entries.dtype == np.int8
    assert entries.shape == (256,)
    for x in range(-128, 128):
        exact = _expected(function, x * scale_in) / scale_out
        got = int(nonlinear.lookup(entries, x))
        assert got == int(entries[x & 255])
        assert abs(got - min(max(exact, -128), 127)) <= 0.5 + 1e-9


def test_table_rounds_ties_to_even() -> None:
    entries = nonlinear.table("identity", 0.5, 1.0)
    assert nonlinear.lookup(entries, [-3, -1, 1, 3, 5]).tolist() == [-2, 0, 0, 2, 2]


def test_functions_survive_large_arguments() -> None:
    for function in nonlinear.function_names():
        values = nonlinear.evaluate(function, [[-1e6, 0.0, 1e6]])
        assert values.shape == (1, 3)
        assert np.all(np.isfinite(values))
        assert values[0, 1] == (0.5 if function == "sigmoid" else 0)


def test_table_refuses() -> None:
    with pytest.raises(ValueError, match=r"one of gelu, .*tanh, got 'mish'"):
        nonlinear.table("mish", 1.0, 1.0)
    with pytest.raises(ValueError, match="scale must be finite and positive, got 0"):
        nonlinear.table("gelu", 0.0, 1.0)
    with pytest.raises(ValueError, match=r"256 entries, got shape \(255,\)"):
        nonlinear.lookup(np.zeros(255, np.int8), 0)
    with pytest.raises(ValueError, match="x must be at most 127, got 128"):
        nonlinear.lookup(np.zeros(256, np.int8), 128)
