"""Reference operators that move, select or generate elements."""

import functools
import math
from collections.abc import Mapping

import numpy as np

from codesign.frontend.operators.call import Array, Call, Ints, Operator, check_size, unary, whole_numbers


def _dropout(c: Call) -> tuple[Array, ...]:
    x, training = c.array(0), c.optional(2)
    if training is not None and training.any():
        raise ValueError("training mode; legal: inference")
    return (x, np.ones(x.shape, np.bool_))


def _reshape(c: Call) -> tuple[Array, ...]:
    x, target = c.array(0), whole_numbers(c.array(1))
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
    x, starts, ends = c.array(0), whole_numbers(c.array(1)), whole_numbers(c.array(2))
    axes = c.optional(3)
    chosen = list(range(len(starts))) if axes is None else whole_numbers(axes)
    given = c.optional(4)
    steps = [1] * len(starts) if given is None else whole_numbers(given)
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
        parts = whole_numbers(sizes)
    if sum(parts) != whole or min(parts, default=0) < 0 or len(parts) != c.outputs:
        raise ValueError(f"sizes {parts} for {c.outputs} outputs; legal: sizes that add up to {whole}")
    return tuple(np.split(x, np.cumsum(parts)[:-1], axis=axis))


def _gather(c: Call) -> tuple[Array, ...]:
    x, index, axis = c.array(0), c.array(1), c.integer("axis", 0)
    whole_numbers(index)
    check_size((x.size // max(x.shape[axis], 1) * index.size,))
    return (np.take(x, index, axis=axis),)


def _gather_elements(c: Call) -> tuple[Array, ...]:
    x, index, axis = c.array(0), c.array(1), c.integer("axis", 0)
    whole_numbers(index[:0])
    return (np.take_along_axis(x, np.where(index < 0, index + x.shape[axis], index), axis),)


def _scatter_elements(c: Call) -> tuple[Array, ...]:
    x, index, axis = c.array(0), c.array(1), c.integer("axis", 0)
    whole_numbers(index[:0])
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
    """The k largest (or smallest) values along an axis, sorted, and their indices; ties by position."""
    x, k, axis = c.array(0), whole_numbers(c.array(1))[0], c.integer("axis", -1)
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"k is {k}; legal: 0 to {x.shape[axis]}")
    order = np.argsort(-x if c.integer("largest", 1) else x, axis=axis, kind="stable")
    chosen = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, chosen, axis), chosen.astype(np.int64)


def _arg(largest: bool) -> Operator:
    def apply(c: Call) -> tuple[Array, ...]:
        x, axis = c.array(0) if largest else -c.array(0), c.integer("axis", 0)
        last = bool(c.integer("select_last_index", 0))
        found = x.shape[axis] - 1 - np.flip(x, axis).argmax(axis) if last else x.argmax(axis)
        return (np.expand_dims(found, axis) if c.integer("keepdims", 1) else np.asarray(found),)

    return apply


def _pad(c: Call) -> tuple[Array, ...]:
    x, widths, value, axes = c.array(0), whole_numbers(c.array(1)), c.optional(2), c.optional(3)
    mode = c.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect", "wrap"):
        raise ValueError(f"attribute mode is {mode!r}; legal: constant, edge, reflect, wrap")
    chosen = list(range(x.ndim)) if axes is None else [a % x.ndim for a in whole_numbers(axes)]
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
    """Select positions along an axis; outside ones give a constant, the edge, or a reflected or wrapped element."""
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
    x, times = c.array(0), whole_numbers(c.array(1))
    check_size([n * t for n, t in zip(x.shape, times, strict=True)])
    return (np.tile(x, times),)


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
    return (np.broadcast_to(x, check_size(np.broadcast_shapes(x.shape, tuple(whole_numbers(c.array(1)))))),)


def _shape(c: Call) -> tuple[Array, ...]:
    x = c.array(0)
    return (np.array(x.shape[c.integer("start", 0) : c.integer("end", x.ndim)], np.int64),)


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
    return (np.full(check_size(whole_numbers(c.array(0))), value.ravel()[0]),)


def _range(c: Call) -> tuple[Array, ...]:
    start, limit, step = (c.array(i).ravel()[0] for i in range(3))
    if not step:
        raise ValueError("step 0; legal: any other")
    check_size((max(0, math.ceil((limit - start) / step)),))
    return (np.arange(start, limit, step),)


def _trilu(c: Call) -> tuple[Array, ...]:
    x, k = c.array(0), c.optional(1)
    keep = np.triu if c.integer("upper", 1) else np.tril
    return (keep(x, 0 if k is None else whole_numbers(k)[0]),)


def _one_hot(c: Call) -> tuple[Array, ...]:
    """One-hot encoding with given on and off values; indices outside the depth give only off values."""
    index, depth, values, axis = c.array(0), int(c.array(1).ravel()[0]), c.array(2), c.integer("axis", -1)
    check_size((*index.shape, depth))
    index = np.expand_dims(np.where(index < 0, index + depth, index), axis)
    place = [1] * index.ndim
    place[axis] = depth
    return (np.where(index == np.arange(depth).reshape(place), values[1], values[0]),)


# By name ------------------------------------------------------------------------


@functools.cache
def layout() -> Mapping[str, Operator]:
    """Operators that only move elements of their first input (of all inputs for Concat)."""
    return {
        "Concat": _concat,
        "Dropout": _dropout,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Identity": unary(lambda x: x),
        "Reshape": _reshape,
        "Slice": _slice,
        "Split": _split,
        "Squeeze": lambda c: (np.squeeze(c.array(0), axis=c.axes(1)),),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }


@functools.cache
def placement() -> Mapping[str, Operator]:
    """Operators that select by value, repeat, pad, or generate elements."""
    return {
        "ArgMax": _arg(largest=True),
        "ArgMin": _arg(largest=False),
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "GatherElements": _gather_elements,
        "OneHot": _one_hot,
        "Pad": _pad,
        "Range": _range,
        "ScatterElements": _scatter_elements,
        "Shape": _shape,
        "Size": lambda c: (np.array(c.array(0).size, np.int64),),
        "Tile": _tile,
        "TopK": _top_k,
        "Trilu": _trilu,
    }
