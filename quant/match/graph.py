"""A float graph with its constants evaluated: quantizers, weight grids and constant-weight products."""

import math
from dataclasses import dataclass
from itertools import count

import numpy as np

from codesign.errors import InputError
from codesign.frontend.onnx_reader import Node
from codesign.frontend.operators.call import Array, Call, Ints
from codesign.frontend.operators.movement import layout
from codesign.frontend.operators.products import conv_windows, quant_range
from codesign.frontend.workload import Workload, apply
from codesign.numerics.fixed_point import quantize
from codesign.quant.match.views import Floats


def unused(wanted: str, taken: set[str], mark: str = ".") -> str:
    """Reserves an unused name: the wanted one, or with a number appended after a mark.

    >>> unused("a", {"a", "a.1"})
    'a.2'
    """
    name = next(name for i in count() if (name := f"{wanted}{mark}{i}" if i else wanted) not in taken)
    taken.add(name)
    return name


@dataclass(frozen=True)
class Quantizer:
    """``scale * saturate(rint(x / scale), low, high)``."""

    scale: float
    low: int
    high: int

    @property
    def bits(self) -> int:
        """8, 16 or 64: the narrowest of these signed widths that holds the range."""
        return next(b for b in (8, 16, 64) if -(1 << (b - 1)) <= self.low and self.high < 1 << (b - 1))


@dataclass(frozen=True, eq=False)
class Product:
    """A matrix product with constant weights.

    Attributes:
        node: the node that computes it.
        source: the tensor operand.
        demand: flat index into the source of each factor, ``[rows, k]``; -1 is zero.
        weights: ``[n, k]``.
        grid: the weights as (integers, scales) where the file quantizes them.
        by_column: whether the result is stored column by column.
    """

    node: Node
    source: str
    demand: Ints
    weights: Floats
    grid: tuple[Ints, Floats] | None
    by_column: bool = False

    def coordinates(self, element: Ints) -> tuple[Ints, Ints]:
        """Row and column of flat element indices of the result."""
        if self.by_column:
            return element % len(self.demand), element // len(self.demand)
        return element // len(self.weights), element % len(self.weights)

    def elements(self) -> Ints:
        """Flat element index of the result at each ``[row, column]``."""
        rows, columns = len(self.demand), len(self.weights)
        flat = np.arange(rows * columns, dtype=np.int64)
        return flat.reshape(columns, rows).T if self.by_column else flat.reshape(rows, columns)


class WorkloadGraph:
    """A workload with its constants evaluated, and access to its quantizers and products.

    Attributes:
        workload: the float graph.
        values: all tensors that depend on constants only, quantized weights included.
        makers: producing node of each computed tensor.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.values: dict[str, Array] = dict(workload.constants)
        self.makers = workload.producers

    def node(self, name: str) -> Node:
        """Producing node of a tensor that is neither input nor constant."""
        return self.makers[name]

    def maker(self, name: str | None, op: str) -> Node | None:
        """Producing node of a tensor if it has this operator, else None."""
        node = self.makers.get(name or "")
        return node if node is not None and node.op == op else None

    def scalar(self, name: str) -> float | None:
        """Value of a constant with one element, else None."""
        value = self.values.get(name)
        return float(value.ravel()[0]) if value is not None and value.size == 1 else None

    def optional(self, node: Node, position: int) -> Array:
        """A constant input of a node, zero if omitted."""
        name = node.inputs[position] if len(node.inputs) > position else ""
        return self.values[name] if name else np.zeros(1)

    def evaluate(self, node: Node, arguments: list[Array | None]) -> tuple[Array, ...]:
        """Applies a node's operator; its errors become an InputError with the node's name."""
        return apply(self.workload.name, node, arguments)

    # Quantizers

    def quantizer(self, name: str) -> Quantizer:
        """Quantizer that produces a tensor of kind quant.

        Raises:
            InputError: it has a zero point, several scales, or a range that no layer supports.
        """
        reason = self.quantizer_fault(self.node(name))
        if reason:
            raise InputError(f"{self.workload.name}: node {self.node(name)}: {reason}")
        low, high = self._range(self.node(name))
        return Quantizer(float(self.values[self.node(name).inputs[1]].ravel()[0]), low, high)

    def quantizer_fault(self, node: Node) -> str | None:
        """Reason why an activation quantizer cannot be a layer's output, or None."""
        scale, zero = self.values[node.inputs[1]], self.optional(node, 2)
        if scale.size != 1:
            return f"{scale.size} activation scales; legal: one per tensor"
        if np.any(zero):
            return f"zero point {zero.ravel()[0]:g}; legal: 0, activations are symmetric"
        low, high = self._range(node)
        if low >= -128 and high > 127 and high <= 255:
            return f"range {low} to {high}; legal: within -128 to 127, signed 8 bit"
        if low < -(1 << 15) or high >= 1 << 15 or low >= high:
            return f"range {low} to {high}; legal: within signed 8 or 16 bit"
        return self._pair_fault(node)

    def _pair_fault(self, node: Node) -> str | None:
        """Reason why the two halves of a QDQ pair disagree, or None."""
        if node.op != "DequantizeLinear":
            return None
        first = self.node(self._quantized(node))
        if not np.array_equal(self.values[first.inputs[1]], self.values[node.inputs[1]]) or np.any(
            self.optional(first, 2)
        ):
            return "its scale or zero point is not that of its QuantizeLinear; legal: the same"
        return None

    def _range(self, node: Node) -> tuple[int, int]:
        if node.op == "Quant":
            return quant_range(Call(node.attributes, [None, *(self.values[n] for n in node.inputs[1:])]))
        low, high, name = -(1 << 62), 1 << 62, node.inputs[0]
        while (inner := self.node(name)).op == "Clip":
            bounds = [self.scalar(n) if n else None for n in (*inner.inputs[1:], "", "")[:2]]
            low = low if bounds[0] is None else max(low, int(bounds[0]))
            high = high if bounds[1] is None else min(high, int(bounds[1]))
            name = inner.inputs[0]
        first, last = Call(inner.attributes, []).integers("range")
        return max(low, first), min(high, last)

    def _quantized(self, node: Node) -> str:
        """Output of the QuantizeLinear that belongs to a DequantizeLinear."""
        name = node.inputs[0]
        while self.node(name).op == "Clip":
            name = self.node(name).inputs[0]
        return name

    def quantized(self, name: str) -> str:
        """Tensor that is quantized to a tensor of kind quant."""
        node = self.node(name)
        return node.inputs[0] if node.op == "Quant" else self.node(self._quantized(node)).inputs[0]

    def grid(self, name: str) -> tuple[Ints, Floats] | None:
        """Integers and scales of a quantized constant, both in its shape; None if not quantized."""
        node = self.makers.get(name)
        if node is None:
            return None
        if node.op in ("Quant", "DequantizeLinear"):
            return self._grid_of(node)
        if node.op not in layout() or node.op == "Concat":
            return self.grid(node.inputs[0]) if node.op == "Cast" else None
        inner = self.grid(node.inputs[0])
        if inner is None:
            return None
        rest = [self.values[n] if n else None for n in node.inputs[1:]]
        which = node.outputs.index(name)
        integers, scales = (self.evaluate(node, [x, *rest])[which] for x in inner)
        return integers, scales

    def _grid_of(self, node: Node) -> tuple[Ints, Floats]:
        value, scale = self.values[node.outputs[0]], self.values[node.inputs[1]]
        if node.op == "DequantizeLinear" and scale.size > 1:
            axis = Call(node.attributes, []).integer("axis", 1) % value.ndim
            scale = scale.reshape(-1, *(1,) * (value.ndim - 1 - axis))
        scales = np.broadcast_to(scale.reshape(()) if scale.size == 1 else scale, value.shape)
        return quantize(value / scales, 1.0, 53), scales

    # Products

    def product(self, name: str) -> Product:
        """Matrix product that produces a tensor of kind product."""
        node = self.node(name)
        if node.op == "Conv":
            return self._convolution(node)
        left = node.inputs[0] in self.values
        source, weight = node.inputs[:2][::-1] if left else node.inputs[:2]
        shape = self.workload.shapes[source]
        index = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
        call = Call(node.attributes, [])
        if left:
            index = index.reshape(shape[-2:]).T
        elif node.op == "Gemm" and call.integer("transA", 0):
            index = index.T
        as_rows = left or (node.op == "Gemm" and bool(call.integer("transB", 0)))
        arrays = [a.reshape(a.shape[-2:]) for a in (self.values[weight], *(self.grid(weight) or ()))]
        weights, *grid = arrays if as_rows else [a.T for a in arrays]
        demand = index.reshape(-1, index.shape[-1])
        return Product(node, source, demand, weights, (grid[0], grid[1]) if grid else None, by_column=left)

    def _convolution(self, node: Node) -> Product:
        weight = self.values[node.inputs[1]]
        shape = self.workload.shapes[node.inputs[0]]
        demand = conv_windows(Call(node.attributes, []), shape, weight.shape)
        flat, *grid = (a.reshape(len(weight), -1) for a in (weight, *(self.grid(node.inputs[1]) or ())))
        return Product(node, node.inputs[0], demand, flat, (grid[0], grid[1]) if grid else None, by_column=True)
