"""Reference operators for matrix products, convolutions and quantizers."""

import functools
import math
from collections.abc import Mapping

import numpy as np

from codesign.frontend.operators.call import Array, Call, Ints, Operator, Shape, check_size, whole_numbers
from codesign.numerics.fixed_point import limits, quantize, saturate

MAX_EINSUM_MACS = 1 << 32
"""Multiply-accumulate limit of one ``Einsum``."""

# Products ----------------------------------------------------------------------


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """Shape of a matrix product of at least 1-D operands, with numpy's broadcasting."""
    if not a or not b or a[-1] != b[-2 if len(b) > 1 else 0]:
        raise ValueError(f"shapes {a} and {b} do not multiply")
    left, right = (a[:-2], a[-2:-1]) if len(a) > 1 else ((), ()), (b[:-2], b[-1:]) if len(b) > 1 else ((), ())
    return check_size((*np.broadcast_shapes(left[0], right[0]), *left[1], *right[1]))


def _matmul(c: Call) -> tuple[Array, ...]:
    a, b = c.array(0), c.array(1)
    matmul_shape(a.shape, b.shape)
    return (np.matmul(a, b),)


def _zero_points(parameter: Array | None, matrix: Array, row: bool) -> Array:
    """Zero points or scales shaped to broadcast per row or per column of a matrix, or one for all."""
    if parameter is None or parameter.size == 1:
        return np.zeros((), np.int64) if parameter is None else parameter.reshape(())
    if parameter.ndim > 1:
        return parameter
    if len(parameter) != matrix.shape[-2 if row else -1]:
        raise ValueError(f"{len(parameter)} scales for a matrix {matrix.shape}; legal: one, or one per row or column")
    return parameter.reshape(-1, 1) if row else parameter


def _integer_product(a: Array, b: Array, zero_a: Array | None, zero_b: Array | None) -> Array:
    """The exact product of two integer matrices with zero points."""
    whole_numbers(a[:0]), whole_numbers(b[:0])
    matmul_shape(a.shape, b.shape)
    return np.asarray(np.matmul(a - _zero_points(zero_a, a, True), b - _zero_points(zero_b, b, False)))


def _qlinear_matmul(c: Call) -> tuple[Array, ...]:
    a, b, scales = c.array(0), c.array(3), (c.array(1), c.array(4), c.array(6))
    for scale in scales:
        _check_scale(scale)
    total = _integer_product(a, b, c.array(2), c.array(5))
    factor = _zero_points(scales[0], a, True) * _zero_points(scales[1], b, False)
    low, high = c.integers("range", (0, 255))
    result = quantize(total * (factor / _zero_points(scales[2], total, True)), 1.0, 53)
    return (saturate(result + _zero_points(c.array(7), total, True), low, high),)


def _einsum_sizes(equation: str, values: list[Array]) -> tuple[dict[str, int], Shape]:
    """Size of each letter, and broadcast shape of the ellipsis axes."""
    sizes: dict[str, int] = {}
    free: Shape = ()
    terms = equation.split("->")[0].split(",")
    for term, value in zip(terms, values, strict=True):
        before, dots, after = term.partition("...")
        end = value.ndim - len(after)
        if end < len(before) or (end > len(before) and not dots):
            raise ValueError(f"term {term!r} for an array of {value.ndim} axes; legal: one letter per axis")
        sizes.update(zip(before + after, (*value.shape[: len(before)], *value.shape[end:]), strict=True))
        free = np.broadcast_shapes(free, value.shape[len(before) : end])
    return sizes, free


def _einsum(c: Call) -> tuple[Array, ...]:
    equation, values = "".join(c.text("equation", "").split()), [c.array(i) for i in range(len(c.inputs))]
    sizes, free = _einsum_sizes(equation, values)
    letters = equation.split("->")[0].replace(",", "").replace(".", "")
    once = [letter for letter in sizes if letters.count(letter) == 1]
    result = equation.split("->")[1].replace(".", "") if "->" in equation else once
    check_size((*free, *(sizes.get(letter, 1) for letter in result)))
    if math.prod(free) * math.prod(sizes.values()) > MAX_EINSUM_MACS:
        raise ValueError(f"{equation} of {[v.shape for v in values]}; legal: at most {MAX_EINSUM_MACS} products")
    return (np.asarray(np.einsum(equation, *values)),)


def _gemm_operands(c: Call) -> tuple[Array, Array]:
    a, b = c.array(0), c.array(1)
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"shapes {a.shape} and {b.shape}; legal: two matrices")
    return (a.T if c.integer("transA", 0) else a), (b.T if c.integer("transB", 0) else b)


def _gemm(c: Call) -> tuple[Array, ...]:
    a, b = _gemm_operands(c)
    shape = matmul_shape(a.shape, b.shape)
    result, addend = c.real("alpha", 1.0) * (a @ b), c.optional(2)
    if addend is not None and np.broadcast_shapes(shape, addend.shape) != shape:
        raise ValueError(f"shape {addend.shape} of C does not broadcast to {shape}")
    return (result if addend is None else result + c.real("beta", 1.0) * addend,)


def _conv_geometry(c: Call, x: Shape, w: Shape) -> tuple[tuple[int, ...], ...]:
    """Strides, leading pads, trailing pads, dilations and output size of a convolution."""
    dims = len(x) - 2
    if dims < 1 or len(w) != dims + 2 or w[1] != x[1] or min(w) < 1 or c.integer("group", 1) != 1:
        raise ValueError(f"input {x} and weights {w}; legal: [1, C, ...] and [D, C, ...], group 1")
    if c.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError("automatic padding; legal: explicit pads")
    strides, dilations = (c.integers(name, (1,) * dims) for name in ("strides", "dilations"))
    pads = c.integers("pads", (0,) * 2 * dims)
    if len(strides) != dims or len(dilations) != dims or len(pads) != 2 * dims:
        raise ValueError(f"strides {strides}, dilations {dilations}, pads {pads}; legal: one per axis")
    if min(*strides, *dilations) < 1 or min(pads) < 0:
        raise ValueError(f"strides {strides}, dilations {dilations}, pads {pads}; legal: positive")
    spans = [(w[i + 2] - 1) * dilations[i] + 1 for i in range(dims)]
    size = tuple((x[i + 2] + pads[i] + pads[dims + i] - spans[i]) // strides[i] + 1 for i in range(dims))
    if min(size) < 1:
        raise ValueError(f"kernel {w[2:]} is larger than the padded input {x[2:]}")
    return strides, pads[:dims], dilations, size


def conv_shape(c: Call, x: Shape, w: Shape) -> Shape:
    """Output shape of a convolution of ``[N, C, ...]`` with ``[D, C, ...]``."""
    return check_size((x[0], w[0], *_conv_geometry(c, x, w)[3]))


def conv_windows(c: Call, x: Shape, w: Shape) -> Ints:
    """Index into one flat sample ``[C, ...]`` of each product's operand.

    Returns:
        int64 ``[positions, C * kernel size]``, channel outermost as in flat weights; -1 is padding.
    """
    strides, before, dilations, size = _conv_geometry(c, x, w)
    check_size((math.prod(size), math.prod(w[1:])))
    index, inside = np.arange(x[1], dtype=np.int64)[None, :, None], np.ones((1, 1, 1), np.bool_)
    for axis, out in enumerate(size):
        step = np.arange(out)[:, None] * strides[axis] - before[axis] + np.arange(w[axis + 2]) * dilations[axis]
        index = (index[:, None, :, :, None] * x[axis + 2] + step[None, :, None, None, :]).reshape(
            index.shape[0] * out, x[1], -1
        )
        good = ((step >= 0) & (step < x[axis + 2]))[None, :, None, None, :]
        inside = (inside[:, None, :, :, None] & good).reshape(inside.shape[0] * out, 1, -1)
    return np.where(inside, index, -1).reshape(math.prod(size), -1)


def _conv(c: Call) -> tuple[Array, ...]:
    x, w, bias = c.array(0), c.array(1), c.optional(2)
    shape, windows = conv_shape(c, x.shape, w.shape), conv_windows(c, x.shape, w.shape)
    flat = np.concatenate([x.reshape(len(x), -1), np.zeros((len(x), 1))], axis=1)
    result = (flat[:, windows] @ w.reshape(len(w), -1).T).swapaxes(1, 2).reshape(shape)
    return (result if bias is None else result + bias.reshape(-1, *(1,) * (len(shape) - 2)),)


# Quantizers --------------------------------------------------------------------


def quant_range(c: Call) -> tuple[int, int]:
    """Smallest and largest integer of a QONNX ``Quant`` node; ValueError for unsupported settings."""
    bits = float(c.array(3).ravel()[0])
    if c.array(3).size != 1 or bits != math.floor(bits) or not 1 <= bits <= 32:
        raise ValueError(f"bit width {bits:g}; legal: one whole number in 1..32")
    if c.text("rounding_mode", "ROUND").upper() not in ("ROUND", "HALF_EVEN"):
        raise ValueError(f"rounding mode {c.text('rounding_mode', 'ROUND')}; legal: ROUND (half to even)")
    signed, narrow = bool(c.integer("signed", 1)), bool(c.integer("narrow", 0))
    low, high = limits(int(bits), signed, narrow and signed)
    return low, high - 1 if narrow and not signed else high


def _check_scale(scale: Array) -> None:
    bad = scale[~((scale > 0) & np.isfinite(scale))]
    if bad.size:
        raise ValueError(f"scale {bad.ravel()[0]}; legal: positive and finite")


def _quant(c: Call) -> tuple[Array, ...]:
    x, scale, zero = c.array(0), c.array(1), c.array(2)
    low, high = quant_range(c)
    _check_scale(scale)
    return ((quantize(x / scale + zero, 1.0, low=low, high=high) - zero) * scale,)


def _per_axis(parameter: Array, x: Array, axis: int) -> Array:
    """Scale or zero point shaped to broadcast along one axis of x, or one for all."""
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim != 1 or not -x.ndim <= axis < x.ndim or len(parameter) != x.shape[axis]:
        raise ValueError(f"{parameter.shape} scales along axis {axis} of {x.shape}; legal: one, or one per index")
    return parameter.reshape(-1, *(1,) * (x.ndim - 1 - axis % x.ndim))


def _scales(c: Call) -> tuple[Array, Array | int]:
    x, axis, zero = c.array(0), c.integer("axis", 1), c.optional(2)
    scale = _per_axis(c.array(1), x, axis)
    _check_scale(scale)
    return scale, 0 if zero is None else _per_axis(zero, x, axis)


def _quantize_linear(c: Call) -> tuple[Array, ...]:
    scale, zero = _scales(c)
    low, high = c.integers("range", (0, 255))
    return (saturate(quantize(c.array(0) / scale, 1.0, 53) + zero, low, high),)


def _dequantize_linear(c: Call) -> tuple[Array, ...]:
    scale, zero = _scales(c)
    return ((c.array(0) - zero) * scale,)


# By name ------------------------------------------------------------------------


@functools.cache
def products() -> Mapping[str, Operator]:
    """Matrix products, convolutions and quantizers."""
    return {
        "Conv": _conv,
        "DequantizeLinear": _dequantize_linear,
        "Einsum": _einsum,
        "Gemm": _gemm,
        "MatMul": _matmul,
        "MatMulInteger": lambda c: (_integer_product(c.array(0), c.array(1), c.optional(2), c.optional(3)),),
        "QLinearMatMul": _qlinear_matmul,
        "Quant": _quant,
        "QuantizeLinear": _quantize_linear,
    }
