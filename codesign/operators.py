"""Float reference of the ONNX operators that a model may use, in numpy.

Values are float64, int64 or bool arrays whatever the file's widths are, so that sums of
integers times powers of two stay exact. Every result's size is checked before it is
allocated. Wrong arguments end as ``ValueError`` or ``TypeError``; the reader of a model
adds the node's name.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from codesign.number import limits, quantize, saturate

Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[np.int64]
Attribute: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array
Shape: TypeAlias = tuple[int, ...]

MAX_ELEMENTS = 1 << 27
"""Largest number of elements of one tensor."""


@dataclass(frozen=True)
class Call:
    """One application of an operator: its attributes, its inputs (None if left out), how many outputs."""

    attributes: Mapping[str, Attribute]
    inputs: Sequence[Array | None]
    outputs: int = 1

    def array(self, position: int) -> Array:
        """The input at this position; ValueError if it is missing."""
        value = self.optional(position)
        if value is None:
            raise ValueError(f"input {position} is missing")
        return value

    def optional(self, position: int) -> Array | None:
        """The input at this position, or None."""
        return self.inputs[position] if position < len(self.inputs) else None

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise TypeError(f"attribute {name} is {value!r}; legal: an integer")
        return value

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise TypeError(f"attribute {name} is {value!r}; legal: a finite number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, str):
            raise TypeError(f"attribute {name} is {value!r}; legal: a string")
        return value

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        value = self.attributes.get(name, default)
        if not isinstance(value, tuple):
            raise TypeError(f"attribute {name} is {value!r}; legal: a list of integers")
        numbers = tuple(v for v in value if isinstance(v, int))
        if len(numbers) != len(value):
            raise TypeError(f"attribute {name} is {value!r}; legal: a list of integers")
        return numbers

    def axes(self, position: int) -> tuple[int, ...] | None:
        """Axes from an input (newer files) or from the attribute (older ones); None if neither is there."""
        given = self.optional(position)
        if given is not None:
            return tuple(_whole(given))
        return self.integers("axes") if "axes" in self.attributes else None


def _whole(x: Array) -> list[int]:
    """The values of an integer array as a flat list."""
    if x.dtype.kind not in "iub":
        raise TypeError(f"an integer array is needed, got {x.dtype}")
    return [int(v) for v in x.ravel()]


def check_size(shape: Sequence[int]) -> Shape:
    """Return the shape; ValueError if it is negative or has more than `MAX_ELEMENTS` elements."""
    if any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"shape {'x'.join(map(str, shape))}; legal: at most {MAX_ELEMENTS} elements")
    return tuple(int(n) for n in shape)


# Elementwise -------------------------------------------------------------------


def _unary(function: Callable[[Array], Any]) -> "Operator":
    return lambda c: (np.asarray(function(c.array(0))),)


def _binary(function: Callable[[Array, Array], Any]) -> "Operator":
    def apply(c: Call) -> tuple[Array, ...]:
        a, b = c.array(0), c.array(1)
        check_size(np.broadcast_shapes(a.shape, b.shape))
        return (np.asarray(function(a, b)),)

    return apply


def _erf(x: Array) -> Array:
    return np.array([math.erf(v) for v in x.ravel().tolist()], np.float64).reshape(x.shape)


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


def _fold(function: Callable[[Array, Array], Any]) -> "Operator":
    def apply(c: Call) -> tuple[Array, ...]:
        values = [c.array(i) for i in range(len(c.inputs))]
        check_size(np.broadcast_shapes(*(v.shape for v in values)))
        return (functools.reduce(function, values),)

    return apply


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
    """Smallest and largest value of an ONNX integer type; of 64 bits what int64 holds; None for other types.

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
    """The values as floats; the two 16-bit types round, the wider ones keep what they are given."""
    if code == _BFLOAT16:
        return _bfloat16(x.astype(np.float64))
    return (x.astype(np.float16) if code == _FLOAT16 else x).astype(np.float64)


def _to_integer(x: Array, low: int, high: int) -> Array:
    """Floats lose their fraction; what a narrow type does not hold wraps around."""
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
    """A cast to the type of the second input; where the reader does not know its width, to the widest."""
    codes = {"b": _BOOL, "f": FLOATS[0], "i": 7}
    return _cast(Call({"to": codes[c.array(1).dtype.kind], **c.attributes}, c.inputs))


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
    """A zero point or scale per row or per column of a matrix, or one for all."""
    if parameter is None or parameter.size == 1:
        return np.zeros((), np.int64) if parameter is None else parameter.reshape(())
    if parameter.ndim > 1:
        return parameter
    if len(parameter) != matrix.shape[-2 if row else -1]:
        raise ValueError(f"{len(parameter)} scales for a matrix {matrix.shape}; legal: one, or one per row or column")
    return parameter.reshape(-1, 1) if row else parameter


def _integer_product(a: Array, b: Array, zero_a: Array | None, zero_b: Array | None) -> Array:
    """The exact product of two integer matrices with zero points."""
    _whole(a[:0]), _whole(b[:0])
    matmul_shape(a.shape, b.shape)
    return np.asarray(np.matmul(a - _zero_points(zero_a, a, True), b - _zero_points(zero_b, b, False)))


def _matmul_integer(c: Call) -> tuple[Array, ...]:
    return (_integer_product(c.array(0), c.array(1), c.optional(2), c.optional(3)),)


def _qlinear_matmul(c: Call) -> tuple[Array, ...]:
    a, b, scales = c.array(0), c.array(3), (c.array(1), c.array(4), c.array(6))
    for scale in scales:
        _check_scale(scale)
    total = _integer_product(a, b, c.array(2), c.array(5))
    factor = _zero_points(scales[0], a, True) * _zero_points(scales[1], b, False)
    low, high = c.integers("range", (0, 255))
    result = quantize(total * (factor / _zero_points(scales[2], total, True)), 1.0, 53)
    return (saturate(result + _zero_points(c.array(7), total, True), low, high),)


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
    size = _conv_geometry(c, x, w)[3]
    return check_size((x[0], w[0], *size))


def conv_windows(c: Call, x: Shape, w: Shape) -> Ints:
    """Which element of one flat sample ``[C, ...]`` each product takes.

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


# Reductions and norms ----------------------------------------------------------


def _reduce(function: Callable[..., Any]) -> "Operator":
    def apply(c: Call) -> tuple[Array, ...]:
        axes = c.axes(1)
        if not axes and c.integer("noop_with_empty_axes", 0):
            return (c.array(0),)
        return (np.asarray(function(c.array(0), axis=axes or None, keepdims=bool(c.integer("keepdims", 1)))),)

    return apply


def _softmax(c: Call) -> tuple[Array, ...]:
    x, axis = c.array(0), c.integer("axis", -1)
    top = x.max(axis=axis, keepdims=True)
    e = np.exp(x - np.where(np.isfinite(top), top, 0.0))
    return (e / e.sum(axis=axis, keepdims=True),)


def _log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    return np.asarray(np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)))


def _log_softmax(c: Call) -> tuple[Array, ...]:
    x, axis = c.array(0), c.integer("axis", -1)
    shifted = x - x.max(axis=axis, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)),)


def _norm(rms: bool) -> "Operator":
    def apply(c: Call) -> tuple[Array, ...]:
        x, bias = c.array(0), c.optional(2)
        axes = tuple(range(c.integer("axis", -1) % x.ndim, x.ndim))
        mean = np.zeros(1) if rms else x.mean(axis=axes, keepdims=True)
        root = np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + c.real("epsilon", 1e-5))
        y = (x - mean) / root * c.array(1)
        return y if bias is None else y + bias, mean, 1.0 / root

    return apply


def _batch_norm(c: Call) -> tuple[Array, ...]:
    if c.outputs != 1 or c.integer("training_mode", 0):
        raise ValueError("training mode; legal: inference")
    x = c.array(0)
    scale, bias, mean, var = (c.array(i).reshape(-1, *(1,) * (x.ndim - 2)) for i in range(1, 5))
    return ((x - mean) / np.sqrt(var + c.real("epsilon", 1e-5)) * scale + bias,)


# Layout ------------------------------------------------------------------------


def _dropout(c: Call) -> tuple[Array, ...]:
    x, training = c.array(0), c.optional(2)
    if training is not None and training.any():
        raise ValueError("training mode; legal: inference")
    return (x, np.ones(x.shape, np.bool_))


def _reshape(c: Call) -> tuple[Array, ...]:
    x, target = c.array(0), _whole(c.array(1))
    if not c.integer("allowzero", 0):
        target = [x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    return (x.reshape(target),)


def _transpose(c: Call) -> tuple[Array, ...]:
    x = c.array(0)
    return (x.transpose(c.integers("perm", tuple(range(x.ndim))[::-1])),)


def _concat(c: Call) -> tuple[Array, ...]:
    values = [c.array(i) for i in range(len(c.inputs))]
    check_size((sum(v.size for v in values),))
    return (np.concatenate(values, axis=c.integer("axis", 0)),)


def _slice(c: Call) -> tuple[Array, ...]:
    x, starts, ends = c.array(0), _whole(c.array(1)), _whole(c.array(2))
    axes = c.optional(3)
    chosen = list(range(len(starts))) if axes is None else _whole(axes)
    given = c.optional(4)
    steps = [1] * len(starts) if given is None else _whole(given)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(chosen, starts, ends, steps, strict=True):
        floor = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, floor, step)
    return (x[tuple(index)],)


def _split(c: Call) -> tuple[Array, ...]:
    x, axis, sizes = c.array(0), c.integer("axis", 0), c.optional(1)
    whole = x.shape[axis]
    if sizes is None:
        part = -(-whole // c.outputs)
        parts = [part] * (c.outputs - 1) + [whole - part * (c.outputs - 1)]
    else:
        parts = _whole(sizes)
    if sum(parts) != whole or min(parts, default=0) < 0 or len(parts) != c.outputs:
        raise ValueError(f"sizes {parts} for {c.outputs} outputs; legal: sizes that add up to {whole}")
    return tuple(np.split(x, np.cumsum(parts)[:-1], axis=axis))


def _gather(c: Call) -> tuple[Array, ...]:
    x, index, axis = c.array(0), c.array(1), c.integer("axis", 0)
    _whole(index)
    check_size((x.size // max(x.shape[axis], 1) * index.size,))
    return (np.take(x, index, axis=axis),)


def _gather_elements(c: Call) -> tuple[Array, ...]:
    x, index, axis = c.array(0), c.array(1), c.integer("axis", 0)
    _whole(index[:0])
    return (np.take_along_axis(x, np.where(index < 0, index + x.shape[axis], index), axis),)


def _scatter_elements(c: Call) -> tuple[Array, ...]:
    x, index, axis = c.array(0), c.array(1), c.integer("axis", 0)
    _whole(index[:0])
    reduction = {"none": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
    name = c.text("reduction", "none")
    if name not in reduction:
        raise ValueError(f"attribute reduction is {name!r}; legal: {', '.join(reduction)}")
    result = x.copy()
    place: list[Array] = list(np.indices(index.shape, sparse=True))
    place[axis] = np.where(index < 0, index + x.shape[axis], index)
    combine = reduction[name]
    if combine is None:
        result[tuple(place)] = c.array(2)
    else:
        combine.at(result, tuple(place), c.array(2))
    return (result,)


def _top_k(c: Call) -> tuple[Array, ...]:
    """The k largest (or smallest) values along an axis, in order, and where they are; ties by position."""
    x, k, axis = c.array(0), _whole(c.array(1))[0], c.integer("axis", -1)
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"k is {k}; legal: 0 to {x.shape[axis]}")
    order = np.argsort(-x if c.integer("largest", 1) else x, axis=axis, kind="stable")
    chosen = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, chosen, axis), chosen.astype(np.int64)


def _arg(largest: bool) -> "Operator":
    def apply(c: Call) -> tuple[Array, ...]:
        x, axis = c.array(0), c.integer("axis", 0)
        x = x if largest else -x
        last = bool(c.integer("select_last_index", 0))
        found = x.shape[axis] - 1 - np.flip(x, axis).argmax(axis) if last else x.argmax(axis)
        return (np.expand_dims(found, axis) if c.integer("keepdims", 1) else np.asarray(found),)

    return apply


def _pad(c: Call) -> tuple[Array, ...]:
    x, widths, value, axes = c.array(0), _whole(c.array(1)), c.optional(2), c.optional(3)
    mode = c.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise ValueError(f"attribute mode is {mode!r}; legal: constant, edge, reflect, wrap")
    chosen = list(range(x.ndim)) if axes is None else [a % x.ndim for a in _whole(axes)]
    if len(widths) != 2 * len(chosen):
        raise ValueError(f"{len(widths)} pads for {len(chosen)} axes; legal: two per axis")
    pads = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        pads[axis] = widths[i], widths[len(chosen) + i]
    check_size([n + sum(pad) for n, pad in zip(x.shape, pads, strict=True)])
    for axis, (before, after) in enumerate(pads):
        x = _padded(x, axis, np.arange(-before, x.shape[axis] + after), mode, value)
    return (x,)


def _padded(x: Array, axis: int, index: Ints, mode: str, value: Array | None) -> Array:
    """Pick these positions along an axis; those outside are the value, the edge, or a reflected or repeated one."""
    size = x.shape[axis]
    outside = (index < 0) | (index >= size)
    if mode == "wrap":
        return np.asarray(np.take(x, index % size, axis))
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        return np.asarray(np.take(x, np.minimum(index % period, period - index % period), axis))
    found = np.take(x, np.clip(index, 0, size - 1), axis)
    if mode == "constant":
        found[(slice(None),) * axis + (outside,)] = 0 if value is None else value.ravel()[0]
    return found


def _tile(c: Call) -> tuple[Array, ...]:
    x, times = c.array(0), _whole(c.array(1))
    check_size([n * t for n, t in zip(x.shape, times, strict=True)])
    return (np.tile(x, times),)


def _squeeze(c: Call) -> tuple[Array, ...]:
    return (np.squeeze(c.array(0), axis=c.axes(1)),)


def _unsqueeze(c: Call) -> tuple[Array, ...]:
    axes = c.axes(1)
    if axes is None:
        raise ValueError("input 1 is missing; legal: the axes")
    return (np.expand_dims(c.array(0), axes),)


def _flatten(c: Call) -> tuple[Array, ...]:
    x, axis = c.array(0), c.integer("axis", 1)
    return (x.reshape(math.prod(x.shape[: axis + x.ndim if axis < 0 else axis]), -1),)


def _expand(c: Call) -> tuple[Array, ...]:
    x = c.array(0)
    return (np.broadcast_to(x, check_size(np.broadcast_shapes(x.shape, tuple(_whole(c.array(1)))))),)


def _shape(c: Call) -> tuple[Array, ...]:
    x = c.array(0)
    end = c.integer("end", x.ndim)
    return (np.array(x.shape[c.integer("start", 0) : end], np.int64),)


def _constant(c: Call) -> tuple[Array, ...]:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in c.attributes:
            value = np.asarray(c.attributes[name])
            if value.dtype.kind not in "fiub":
                raise TypeError(f"attribute {name} holds {value.dtype}; legal: numbers")
            return (value,)
    raise ValueError("no value; legal: a tensor, a number or a list of numbers")


def _constant_of_shape(c: Call) -> tuple[Array, ...]:
    value = c.attributes.get("value", np.zeros(1))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise TypeError("attribute value is not a tensor of one element")
    return (np.full(check_size(_whole(c.array(0))), value.ravel()[0]),)


def _range(c: Call) -> tuple[Array, ...]:
    start, limit, step = (c.array(i).ravel()[0] for i in range(3))
    if not step:
        raise ValueError("step 0; legal: any other")
    check_size((max(0, math.ceil((limit - start) / step)),))
    return (np.arange(start, limit, step),)


def _trilu(c: Call) -> tuple[Array, ...]:
    x, k = c.array(0), c.optional(1)
    keep = np.triu if c.integer("upper", 1) else np.tril
    return (keep(x, 0 if k is None else _whole(k)[0]),)


# Quantizers --------------------------------------------------------------------


def quant_range(c: Call) -> tuple[int, int]:
    """Smallest and largest integer of a QONNX ``Quant`` node; ValueError for what has no exact meaning here."""
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
    """Scale or zero point along one axis of x, or one for all."""
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


Operator: TypeAlias = Callable[[Call], tuple[Array, ...]]


@functools.cache
def elementwise() -> Mapping[str, Operator]:
    """Operators that compute each element of the result from one element of each input."""
    return {
        "Abs": _unary(np.abs),
        "Add": _binary(np.add),
        "Ceil": _unary(np.ceil),
        "Celu": lambda c: (_elu(c.array(0), c.real("alpha", 1.0), 1 / c.real("alpha", 1.0)),),
        "Clip": _clip,
        "Cos": _unary(np.cos),
        "Div": _binary(_div),
        "Erf": _unary(_erf),
        "Elu": lambda c: (_elu(c.array(0), c.real("alpha", 1.0), 1.0),),
        "Exp": _unary(np.exp),
        "Floor": _unary(np.floor),
        "Gelu": _gelu,
        "HardSigmoid": lambda c: (_hard_sigmoid(c.array(0), c.real("alpha", 0.2), c.real("beta", 0.5)),),
        "HardSwish": _unary(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5)),
        "LeakyRelu": lambda c: (np.where(c.array(0) > 0, 1.0, c.real("alpha", 0.01)) * c.array(0),),
        "Log": _unary(np.log),
        "Max": _fold(np.maximum),
        "Min": _fold(np.minimum),
        "Mish": _unary(lambda x: x * np.tanh(np.logaddexp(x, 0.0))),
        "Mul": _binary(np.multiply),
        "Neg": _unary(np.negative),
        "PRelu": _binary(lambda x, slope: np.where(x < 0, x * slope, x)),
        "Pow": _binary(_pow),
        "Reciprocal": _unary(lambda x: 1.0 / x),
        "Relu": _unary(lambda x: np.maximum(x, 0)),
        "Round": _unary(np.rint),
        "Selu": _selu,
        "Sigmoid": _unary(_sigmoid),
        "Sign": _unary(np.sign),
        "Sin": _unary(np.sin),
        "Softplus": _unary(lambda x: np.logaddexp(x, 0.0)),
        "Softsign": _unary(lambda x: x / (1.0 + np.abs(x))),
        "Sqrt": _unary(np.sqrt),
        "Sub": _binary(np.subtract),
        "Swish": lambda c: (c.array(0) * _sigmoid(c.real("alpha", 1.0) * c.array(0)),),
        "Tanh": _unary(np.tanh),
        "ThresholdedRelu": lambda c: (np.where(c.array(0) > c.real("alpha", 1.0), c.array(0), 0.0),),
    }


@functools.cache
def layout() -> Mapping[str, Operator]:
    """Operators that only move elements; what they move is their first input (all inputs for Concat)."""
    return {
        "Concat": _concat,
        "Dropout": _dropout,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Identity": _unary(lambda x: x),
        "Reshape": _reshape,
        "Slice": _slice,
        "Split": _split,
        "Squeeze": _squeeze,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }


@functools.cache
def operators() -> Mapping[str, Operator]:
    """Every operator by its ONNX (or QONNX) name."""
    return {
        **elementwise(),
        **layout(),
        "And": _binary(np.logical_and),
        "ArgMax": _arg(largest=True),
        "ArgMin": _arg(largest=False),
        "BatchNormalization": _batch_norm,
        "Cast": _cast,
        "CastLike": _cast_like,
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "Conv": _conv,
        "DequantizeLinear": _dequantize_linear,
        "Equal": _binary(np.equal),
        "GatherElements": _gather_elements,
        "Gemm": _gemm,
        "Greater": _binary(np.greater),
        "GreaterOrEqual": _binary(np.greater_equal),
        "IsNaN": _unary(np.isnan),
        "LayerNormalization": _norm(rms=False),
        "Less": _binary(np.less),
        "LessOrEqual": _binary(np.less_equal),
        "LogSoftmax": _log_softmax,
        "MatMul": _matmul,
        "MatMulInteger": _matmul_integer,
        "Mod": _mod,
        "Not": _unary(np.logical_not),
        "Or": _binary(np.logical_or),
        "Pad": _pad,
        "QLinearMatMul": _qlinear_matmul,
        "Quant": _quant,
        "QuantizeLinear": _quantize_linear,
        "RMSNormalization": _norm(rms=True),
        "Range": _range,
        "ReduceL1": _reduce(lambda x, **over: np.abs(x).sum(**over)),
        "ReduceL2": _reduce(lambda x, **over: np.sqrt(np.square(x).sum(**over))),
        "ReduceLogSum": _reduce(lambda x, **over: np.log(x.sum(**over))),
        "ReduceLogSumExp": _reduce(_log_sum_exp),
        "ReduceMax": _reduce(np.max),
        "ReduceMean": _reduce(np.mean),
        "ReduceMin": _reduce(np.min),
        "ReduceProd": _reduce(np.prod),
        "ReduceSum": _reduce(np.sum),
        "ReduceSumSquare": _reduce(lambda x, **over: np.square(x).sum(**over)),
        "ScatterElements": _scatter_elements,
        "Shape": _shape,
        "Size": lambda c: (np.array(c.array(0).size, np.int64),),
        "Softmax": _softmax,
        "Sum": _fold(np.add),
        "Tile": _tile,
        "TopK": _top_k,
        "Trilu": _trilu,
        "Where": _where,
        "Xor": _binary(np.logical_xor),
    }


def evaluate(op: str, call: Call) -> tuple[Array, ...]:
    """Apply an operator of `operators`; overflow and division by zero follow IEEE 754 silently.

    >>> evaluate("Add", Call({}, [np.array([1.0]), np.array([2.0])]))[0].tolist()
    [3.0]
    """
    with np.errstate(all="ignore"):
        return operators()[op](call)
