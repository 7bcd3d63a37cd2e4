"""Elementwise reference operators and type conversions."""

import functools
import math
from collections.abc import Mapping

import numpy as np

from codesign.frontend.operators.call import Array, Call, Operator, binary, check_size, fold, unary

_ERF_STEPS = 128  # points per 1 at which the error function and its derivatives are tabulated
_ERF_TERMS = 6  # Taylor terms about the nearest point; the remainder is below 1e-16 of the value
_ERF_END = 6.0  # the error function is 1 from here on, in float64


@functools.cache
def _erf_series() -> Array:
    """Coefficients of the Taylor series of erf, ``[terms, points]``, the constants first.

    The derivatives are Hermite polynomials times a Gaussian, https://dlmf.nist.gov/7.10.E1.
    """
    x = np.arange(int(_ERF_END * _ERF_STEPS) + 1) / _ERF_STEPS
    found = [np.array([math.erf(v) for v in x.tolist()])]
    slope = 2 / math.sqrt(math.pi) * np.exp(-x * x)
    before, hermite = np.zeros_like(x), np.ones_like(x)
    for n in range(_ERF_TERMS):
        found.append((-1) ** n / math.factorial(n + 1) * slope * hermite)
        before, hermite = hermite, 2 * x * hermite - 2 * n * before
    return np.array(found)


def _erf(x: Array) -> Array:
    """The error function to 4 units in the last place; NaN stays NaN."""
    series, size = _erf_series(), np.minimum(np.abs(x), _ERF_END)
    index = np.rint(np.fmin(size, _ERF_END) * _ERF_STEPS).astype(np.intp)
    size = size - index / _ERF_STEPS
    result = series[-1][index]
    for row in series[-2::-1]:
        result = result * size + row[index]
    return np.asarray(np.copysign(result, x))


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def _elu(x: Array, alpha: float, slope: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) * slope))


def _selu(c: Call) -> tuple[Array, ...]:
    return (c.real("gamma", 1.05070102214813232) * _elu(c.array(0), c.real("alpha", 1.67326319217681884), 1.0),)


def _hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _mod(c: Call) -> tuple[Array, ...]:
    a, b = c.array(0), c.array(1)
    check_size(np.broadcast_shapes(a.shape, b.shape))
    if b.dtype.kind != "f" and not np.all(b):
        raise ValueError("a remainder of a division by 0; legal: any other divisor")
    return (np.fmod(a, b) if c.integer("fmod", 0) else np.mod(a, b),)


def _gelu(c: Call) -> tuple[Array, ...]:
    x, form = c.array(0), c.text("approximate", "none")
    if form == "tanh":
        return (0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))),)
    if form != "none":
        raise ValueError(f"attribute approximate is {form!r}; legal: none, tanh")
    return (0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))),)


def _div(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f" or b.dtype.kind == "f":
        return np.asarray(a / b)
    quotient = np.abs(a) // np.maximum(np.abs(b), 1)
    return np.asarray(quotient * np.sign(a) * np.sign(b))


def _pow(a: Array, b: Array) -> Array:
    return np.asarray(np.power(a, b) if a.dtype.kind == "f" else np.power(a.astype(np.float64), b).astype(np.int64))


def _clip(c: Call) -> tuple[Array, ...]:
    x, low, high = c.array(0), c.optional(1), c.optional(2)
    x = x if low is None else np.maximum(x, low)
    return (x if high is None else np.minimum(x, high),)


def _where(c: Call) -> tuple[Array, ...]:
    parts = c.array(0), c.array(1), c.array(2)
    check_size(np.broadcast_shapes(*(p.shape for p in parts)))
    return (np.where(parts[0].astype(np.bool_), parts[1], parts[2]),)


# Types -------------------------------------------------------------------------

FLOATS: tuple[int, ...] = (1, 10, 11, 16)
"""ONNX's codes of float, float16, double and bfloat16."""

_FLOAT16, _BOOL, _BFLOAT16 = 10, 9, 16
_WHOLE = (1 << 63) - 1024  # the largest float64 below 2**63
_SIGNED = {3: 8, 5: 16, 6: 32, 7: 64, 22: 4, 26: 2}
_UNSIGNED = {2: 8, 4: 16, 12: 32, 13: 64, 21: 4, 25: 2}


def integer_range(code: int) -> tuple[int, int] | None:
    """Smallest and largest value of an ONNX integer type, limited to int64; None for other types.

    >>> integer_range(2), integer_range(22), integer_range(1)
    ((0, 255), (-8, 7), None)
    """
    if code in _SIGNED:
        return -(1 << (_SIGNED[code] - 1)), (1 << (_SIGNED[code] - 1)) - 1
    if code in _UNSIGNED:
        return 0, (1 << min(_UNSIGNED[code], 63)) - 1
    return None


def _bfloat16(x: Array) -> Array:
    """Round to 8 significant bits, ties to even."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(np.isfinite(x), rounded, x).astype(np.float64)


def _to_float(x: Array, code: int) -> Array:
    """Values as floats; the two 16-bit types round, wider ones keep float64 precision."""
    if code == _BFLOAT16:
        return _bfloat16(x.astype(np.float64))
    return (x.astype(np.float16) if code == _FLOAT16 else x).astype(np.float64)


def _to_integer(x: Array, low: int, high: int) -> Array:
    """Values as integers: fractions are truncated, overflow of types below 64 bits wraps around."""
    if x.dtype.kind == "f":
        x = np.clip(np.trunc(np.where(np.isfinite(x), x, 0.0)), -_WHOLE, _WHOLE)
    wide = x.astype(np.int64)
    return wide if high >= _WHOLE else (wide - low) % (high - low + 1) + low


def _cast(c: Call) -> tuple[Array, ...]:
    x, code = c.array(0), c.integer("to", 1)
    ends = integer_range(code)
    if ends is not None:
        return (_to_integer(x, *ends),)
    if code in FLOATS:
        return (_to_float(x, code),)
    if code == _BOOL:
        return (x.astype(np.bool_),)
    raise ValueError(f"attribute to is {code}; legal: float, integer and bool types")


def _cast_like(c: Call) -> tuple[Array, ...]:
    """Cast to the type of the second input; if its width is unknown, to the widest of its kind."""
    codes = {"b": _BOOL, "f": FLOATS[0], "i": 7}
    return _cast(Call({"to": codes[c.array(1).dtype.kind], **c.attributes}, c.inputs))


# By name ------------------------------------------------------------------------


@functools.cache
def elementwise() -> Mapping[str, Operator]:
    """Operators whose result elements depend on one element of each input."""
    return {
        "Abs": unary(np.abs),
        "Add": binary(np.add),
        "Ceil": unary(np.ceil),
        "Celu": lambda c: (_elu(c.array(0), c.real("alpha", 1.0), 1 / c.real("alpha", 1.0)),),
        "Clip": _clip,
        "Cos": unary(np.cos),
        "Div": binary(_div),
        "Erf": unary(_erf),
        "Elu": lambda c: (_elu(c.array(0), c.real("alpha", 1.0), 1.0),),
        "Exp": unary(np.exp),
        "Floor": unary(np.floor),
        "Gelu": _gelu,
        "HardSigmoid": lambda c: (_hard_sigmoid(c.array(0), c.real("alpha", 0.2), c.real("beta", 0.5)),),
        "HardSwish": unary(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
        "LeakyRelu": lambda c: (np.where(c.array(0) > 0, 1.0, c.real("alpha", 0.01)) * c.array(0),),
        "Log": unary(np.log),
        "Max": fold(np.maximum),
        "Min": fold(np.minimum),
        "Mish": unary(lambda x: x * np.tanh(np.logaddexp(x, 0.0))),
        "Mul": binary(np.multiply),
        "Neg": unary(np.negative),
        "PRelu": binary(lambda x, slope: np.where(x < 0, x * slope, x)),
        "Pow": binary(_pow),
        "Reciprocal": unary(lambda x: 1.0 / x),
        "Relu": unary(lambda x: np.maximum(x, 0)),
        "Round": unary(np.rint),
        "Selu": _selu,
        "Sigmoid": unary(_sigmoid),
        "Sign": unary(np.sign),
        "Sin": unary(np.sin),
        "Softplus": unary(lambda x: np.logaddexp(x, 0.0)),
        "Softsign": unary(lambda x: x / (1.0 + np.abs(x))),
        "Sqrt": unary(np.sqrt),
        "Sub": binary(np.subtract),
        "Swish": lambda c: (c.array(0) * _sigmoid(c.real("alpha", 1.0) * c.array(0)),),
        "Tanh": unary(np.tanh),
        "ThresholdedRelu": lambda c: (np.where(c.array(0) > c.real("alpha", 1.0), c.array(0), 0.0),),
    }


@functools.cache
def typed() -> Mapping[str, Operator]:
    """Elementwise operators that produce or consume booleans, or convert types."""
    return {
        "And": binary(np.logical_and),
        "Cast": _cast,
        "CastLike": _cast_like,
        "Equal": binary(np.equal),
        "Greater": binary(np.greater),
        "GreaterOrEqual": binary(np.greater_equal),
        "IsNaN": unary(np.isnan),
        "Less": binary(np.less),
        "LessOrEqual": binary(np.less_equal),
        "Mod": _mod,
        "Not": unary(np.logical_not),
        "Or": binary(np.logical_or),
        "Sum": fold(np.add),
        "Where": _where,
        "Xor": binary(np.logical_xor),
    }
