"""Which elements of a model's tensors its outputs depend on, and the multiply-accumulates that these take.

A model may compute more than it uses: all rows of a product of which one is an output, all columns of a head of which
three are sliced. Where a rule is not known, an input counts as needed whole.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from codesign.frontend.onnx_reader import Node
from codesign.frontend.operators.call import Array, Shape
from codesign.frontend.operators.elementwise import elementwise
from codesign.frontend.operators.movement import layout
from codesign.frontend.operators.reductions import reductions
from codesign.frontend.workload import QUANTIZERS, Workload, apply

Mask = NDArray[np.bool_]

_ALIGNED = {*QUANTIZERS, "Cast", "CastLike", "Where", "BatchNormalization"}
"""Operators that make an element from those at its place, beside the elementwise ones."""
_ROWS = ("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization")
"""Operators that make an element from those along some axes of their first input."""


def needed_macs(workload: Workload) -> int:
    """Multiply-accumulates of the product elements that the outputs depend on; see `Workload.macs`."""
    masks, total = needed(workload), 0
    for node in workload.nodes:
        size = math.prod(workload.shapes[node.outputs[0]])
        if size:
            total += workload.node_macs(node) // size * int(masks[node.outputs[0]].sum())
    return total


def needed(workload: Workload) -> dict[str, Mask]:
    """By tensor, whether each element is one that the outputs depend on."""
    masks = {name: np.zeros(shape, np.bool_) for name, shape in workload.shapes.items()}
    for name in workload.outputs:
        masks[name][...] = True
    for node in reversed(workload.nodes):
        if any(masks[name].any() for name in node.outputs if name):
            for name, mask in _inputs(workload, node, masks).items():
                masks[name] |= mask
    return masks


def _inputs(workload: Workload, node: Node, masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """By input of a node, which elements it needs for the needed elements of its outputs; constants are left out."""
    inputs = {name: workload.shapes[name] for name in node.inputs if name and name not in workload.constants}
    out = masks[node.outputs[0]]
    if node.op in layout():
        return _moved(workload, node, inputs, masks)
    if node.op in elementwise() or node.op in _ALIGNED:
        return {name: _narrowed(out, shape) for name, shape in inputs.items()}
    if node.op in ("MatMul", "Gemm") and not any(node.attributes.get(name) for name in ("transA", "transB")):
        return _multiplied(node, inputs, out)
    if node.op in _ROWS:
        axis = node.attributes.get("axis", -1)
        last = isinstance(axis, int) and axis in (-1, out.ndim - 1)
        rows: Mask = np.asarray(out.any(axis=-1, keepdims=True)) if last else np.ones(1, np.bool_)
        return {name: _narrowed(rows, shape) for name, shape in inputs.items()}
    if node.op in reductions():
        kept = out.ndim == len(workload.shapes[node.inputs[0]])
        return {name: _narrowed(out if kept else np.ones(1), shape) for name, shape in inputs.items()}
    return {name: np.ones(shape, np.bool_) for name, shape in inputs.items()}


def _narrowed(mask: Array, shape: Shape) -> Mask:
    """A mask brought to a shape: repeated along axes of length 1, and any along axes that the shape repeats."""
    wide = np.broadcast_shapes(mask.shape, shape)
    found = np.broadcast_to(mask, wide).astype(np.bool_)
    extra = len(wide) - len(shape)
    repeated = tuple(extra + i for i, n in enumerate(shape) if n == 1 and wide[extra + i] != 1)
    return found.any(axis=(*range(extra), *repeated), keepdims=True).reshape(shape)


def _moved(workload: Workload, node: Node, inputs: Mapping[str, Shape], masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """Follows every element through a node that moves them, as a number."""
    ends = np.cumsum([1, *(math.prod(shape) for shape in inputs.values())])
    numbers = {
        name: np.arange(first, last).reshape(shape)
        for (name, shape), (first, last) in zip(inputs.items(), pairwise(ends.tolist()), strict=True)
    }
    arguments: list[Array | None] = [
        numbers.get(name, workload.constants.get(name)) if name else None for name in node.inputs
    ]
    if node.op == "Concat":  # elements of constants have the number 0
        arguments = [numbers.get(name, np.zeros(workload.shapes[name], np.int64)) for name in node.inputs]
    hit = np.zeros(int(ends[-1]), np.bool_)
    for name, moved in zip(node.outputs, apply(workload.name, node, arguments), strict=False):
        if name:
            hit[moved[masks[name]].astype(np.int64)] = True
    return {name: hit[which] for name, which in numbers.items()}


def _multiplied(node: Node, inputs: Mapping[str, Shape], out: Mask) -> dict[str, Mask]:
    """Rows of the first operand and columns of the second that have a needed product; whole vectors."""
    found: dict[str, Mask] = {}
    for position, name in enumerate(node.inputs):
        if name not in inputs:
            continue
        shape = inputs[name]
        if position > 1:
            mask: Mask = out
        elif len(shape) < 2 or out.ndim < 2:
            mask = np.ones(1, np.bool_)
        else:
            mask = np.asarray(out.any(axis=-1 if position == 0 else -2, keepdims=True))
        found[name] = found.get(name, np.zeros(shape, np.bool_)) | _narrowed(mask, shape)
    return found
