"""Migration of ranges from activations into weights and biases, with the float function unchanged.

Channels of a norm, or of attention values, are shifted to the middle of their range and scaled against
the weights that read them (SmoothQuant, arXiv 2211.10438; Outlier Suppression+, 2304.09145); outputs of
tabulated functions are shifted. Tensors that residual sums read stay unchanged; in a post-norm model
`codesign.quant.calibrate.edit.forked` separates these first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from codesign.frontend.operators.call import Ints
from codesign.frontend.workload import Workload
from codesign.quant.calibrate.edit import Edit, Reader, readers
from codesign.quant.calibrate.observe import Sample, TensorStatistics, observe
from codesign.quant.lower.lowering import unscaled
from codesign.quant.match.graph import Product
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Floats

How: TypeAlias = tuple[float | None, bool]

KEPT = 1 / 32
"""Least range of a channel, and of a function's argument, as a fraction of the typical magnitude."""

_LIMITS = (1 / 64, 64.0)
"""Limits of a migrated channel's factor."""


@dataclass(frozen=True, eq=False)
class _Channels:
    """Channels of a tensor that products read: their ranges, and the channel of each factor of a row."""

    low: Floats
    high: Floats
    reads: tuple[tuple[Product, Ints], ...]

    def moved(self, exponent: float | None, centre: bool) -> tuple[Floats, Floats]:
        """Shift and scale per channel."""
        shift = middle(self.low, self.high) if centre else np.zeros(len(self.low))
        reach: Floats = np.maximum(np.abs(self.low - shift), np.abs(self.high - shift))
        reach = np.maximum(reach, KEPT * np.median(np.maximum(np.abs(self.low), np.abs(self.high))))
        weight = np.zeros(len(reach))
        for product, channel in self.reads:
            np.maximum.at(weight, channel, np.abs(product.weights).max(axis=0))
        if exponent is None:
            return shift, np.ones(len(reach))
        used = (reach > 0) & (weight > 0)
        factor = np.ones(len(reach))
        factor[used] = reach[used] ** exponent / weight[used] ** (1 - exponent)
        factor[used] /= np.exp(np.log(factor[used]).mean()) if used.any() else 1.0
        return shift, np.clip(factor, *_LIMITS)


def migrated(
    model: onnx.ModelProto, workload: Workload, each: Sequence[Sample], exponent: float | None, centre: bool
) -> onnx.ModelProto:
    """Shifts and scales what products behind norms, attention and functions read, and adapts their weights.

    Args:
        model: a float model; it may have quantizers elsewhere.
        workload: parsed from the model.
        each: samples that show the range of every channel.
        exponent: share of an activation's range that goes into the weights, 0 to 1; None disables scaling.
        centre: whether channels and functions are shifted to the middle of their range.

    Returns:
        A model of the same float function.
    """
    how = exponent, centre
    patterns = Patterns(workload)
    found = {name: reads for name in unscaled(workload)[0] if (reads := readers(patterns, name))}
    seen = observe(workload, each, found)
    edit = Edit(model, workload)
    for name, reads in found.items():
        kind = patterns.kind(patterns.affine(name).origin)
        if kind == "norm":
            _move_norm(edit, patterns, name, reads, seen[name], how)
        elif kind == "matmul":
            _move_values(edit, patterns, name, reads, seen[name], how)
        elif kind == "function" and centre and not is_clamp(patterns, name):
            _move_function(edit, name, reads, seen[name])
    return edit.finish()


def _move_norm(
    edit: Edit, patterns: Patterns, name: str, reads: tuple[Reader, ...], seen: TensorStatistics, how: How
) -> None:
    """Folds shift and scale into a norm's gain and bias."""
    width = patterns.workload.shapes[name][-1]
    index = patterns.affine(name).index.reshape(-1, width)
    channels = [(r.product, c) for r in reads if (c := r.channels(width)) is not None]
    if len(channels) != len(reads) or np.any(index % width != np.arange(width)):
        return
    low, high = seen.low.reshape(-1, width).min(axis=0), seen.high.reshape(-1, width).max(axis=0)
    shift, factor = _Channels(low, high, tuple(channels)).moved(*how)
    _place(edit, name, shift, factor)
    _absorb(edit, channels, shift, factor)


def _move_values(
    edit: Edit, patterns: Patterns, name: str, reads: tuple[Reader, ...], seen: TensorStatistics, how: How
) -> None:
    """Folds shift and scale into attention values, which is exact since probabilities add up to 1."""
    view = patterns.affine(name)
    values = patterns.node(view.origin).inputs[1]
    shape = patterns.workload.shapes[values]
    rows, depth = patterns.workload.shapes[view.origin][-2:]
    inner = patterns.affine(values)
    distinct = view.plain and np.unique(inner.index).size == inner.index.size
    shared = sum(values in node.inputs for node in patterns.workload.nodes) > 1
    if not distinct or shared or patterns.kind(inner.origin) != "product":
        return
    lead = patterns.workload.shapes[view.origin][:-2]
    own = np.arange(math.prod(shape[:-2])).reshape(shape[:-2])  # heads may share a matrix of values
    channel = np.broadcast_to(own, lead).reshape(-1)[view.index // (rows * depth)] * depth + view.index % depth
    lines = [channel.reshape(-1)[r.element] for r in reads]
    if any(np.any(r.element < 0) or np.any(x != x[:1]) for r, x in zip(reads, lines, strict=True)):
        return
    count = math.prod(shape[:-2]) * depth
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, channel, seen.low)
    np.maximum.at(high, channel, seen.high)
    channels = [(r.product, x[0]) for r, x in zip(reads, lines, strict=True)]
    shift, factor = _Channels(low, high, tuple(channels)).moved(*how)
    _place(edit, values, *(x.reshape(*shape[:-2], 1, depth) for x in (shift, factor)))
    _absorb(edit, channels, shift, factor)


def _move_function(edit: Edit, name: str, reads: tuple[Reader, ...], seen: TensorStatistics) -> None:
    """Folds one shift of all values into a function's table."""
    shift = middle(seen.low.min(), seen.high.max())
    channels = [(r.product, np.zeros(r.element.shape[1], np.int64)) for r in reads]
    _place(edit, name, shift, np.ones(()))
    _absorb(edit, channels, shift.reshape(1), np.ones(1))


def middle(low: Floats, high: Floats) -> Floats:
    """Middle of a range, scaled by 1 - `KEPT`, so that a nearly constant value keeps some magnitude."""
    return np.asarray((1 - KEPT) * (low + high) / 2, np.float64)


def _place(edit: Edit, name: str, shift: Floats, factor: Floats) -> None:
    """Inserts shift and scale behind a tensor."""
    if np.any(shift):
        edit.append(name, "Sub", shift)
    if np.any(factor != 1):
        edit.append(name, "Mul", 1 / factor)


def _absorb(edit: Edit, channels: Sequence[tuple[Product, Ints]], shift: Floats, factor: Floats) -> None:
    """Compensates shift and scale of the factors in the weights and biases of products."""
    for product, channel in channels:
        if np.any(factor != 1):
            edit.weights(product, product.weights * factor[channel])
        edit.add(product, product.weights @ shift[channel])


def is_clamp(patterns: Patterns, name: str) -> bool:
    """Whether a function becomes a clamp of the product's result instead of a table."""
    return patterns.node(patterns.affine(name).origin).op == "Relu"
