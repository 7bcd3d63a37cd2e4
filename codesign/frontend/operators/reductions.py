"""Reference operators for reductions, softmax and norms."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from codesign.frontend.operators.call import Array, Call, Operator


def _reduce(function: Callable[..., Any]) -> Operator:
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


def _log_softmax(c: Call) -> tuple[Array, ...]:
    x, axis = c.array(0), c.integer("axis", -1)
    shifted = x - x.max(axis=axis, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)),)


def _norm(rms: bool) -> Operator:
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


# By name ------------------------------------------------------------------------


@functools.cache
def reductions() -> Mapping[str, Operator]:
    """Reductions over axes, softmax, and norms."""
    return {
        "BatchNormalization": _batch_norm,
        "LayerNormalization": _norm(rms=False),
        "LogSoftmax": _log_softmax,
        "RMSNormalization": _norm(rms=True),
        "ReduceL1": _reduce(lambda x, **over: np.abs(x).sum(**over)),
        "ReduceL2": _reduce(lambda x, **over: np.sqrt(np.square(x).sum(**over))),
        "ReduceLogSum": _reduce(lambda x, **over: np.log(x.sum(**over))),
        "ReduceLogSumExp": _reduce(lambda x, **over: np.log(np.exp(x).sum(**over))),
        "ReduceMax": _reduce(np.max),
        "ReduceMean": _reduce(np.mean),
        "ReduceMin": _reduce(np.min),
        "ReduceProd": _reduce(np.prod),
        "ReduceSum": _reduce(np.sum),
        "ReduceSumSquare": _reduce(lambda x, **over: np.square(x).sum(**over)),
        "Softmax": _softmax,
    }
