"""The integer network under construction: layers are appended, and their float counterparts recorded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.frontend.operators.call import Array, Ints
from codesign.frontend.workload import Workload
from codesign.ir.network import Input, Layer, Linear, Tensor
from codesign.numerics.fixed_point import quantize, requantizer
from codesign.quant.lower.grids import regridded
from codesign.quant.match.graph import Product, Quantizer, unused
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Affine, Floats, inverse, pick

WIDE = (-(1 << 15), (1 << 15) - 1)
"""Range of the residual stream: signed 16 bit."""


class OutOfRange(InputError):
    """A value derived from scales does not fit; irrelevant while a scale is missing."""


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Float counterpart of an integer tensor: element ``index[r, c]`` of a tensor of the file; -1 is none."""

    tensor: str
    index: Ints

    def shown(self, value: Array) -> Floats:
        """The float counterpart's elements, given the value of ``tensor``; 0 where there is none."""
        return np.where(self.index < 0, 0.0, value.reshape(-1)[self.index])


@dataclass(frozen=True, eq=False)
class Operand:
    """Part of an integer tensor: rows from ``first_row``, and the tensor's column of each demanded column."""

    tensor: str
    first_row: int
    rows: int
    columns: Ints
    scale: float

    def whole(self, tensor: Tensor) -> bool:
        """Whether the operand is the entire tensor, in order."""
        columns = np.array_equal(self.columns, np.arange(tensor.columns))
        return columns and self.first_row == 0 and self.rows == tensor.rows


@dataclass(frozen=True, eq=False)
class LinearTarget:
    """Output that a linear layer has to produce.

    Attributes:
        name: of the tensor.
        source: its float counterpart.
        rows: row of the product for each row of the tensor; -1 is a row of zeros.
        columns: columns of the product.
        factor, offset: float gain and bias per column.
        scale, low, high: of the requantized sums.
        bits: of the tensor.
        scale_out: of the tensor.
        table, addend: as in `codesign.ir.network.Linear`.
    """

    name: str
    source: TensorSource
    rows: Ints
    columns: Ints
    factor: Floats
    offset: Floats
    scale: float
    low: int
    high: int
    bits: int
    scale_out: float
    table: NDArray[np.int8] | None = None
    addend: str | None = None

    @property
    def range(self) -> tuple[int, int]:
        """Range of the values written."""
        if self.table is not None:
            return int(self.table.min()), int(self.table.max())
        return WIDE if self.addend else (self.low, self.high)


@dataclass(frozen=True, eq=False)
class Finish:
    """Conversion of a product's sums to a tensor.

    Attributes:
        quantizer: of the tensor; its range decides between 8 and 16 bits.
        view: the tensor before it, as an affine function of the product.
        accumulator: quantizer of the sums, if another one.
        table: maps quantized sums to the tensor.
    """

    quantizer: Quantizer
    view: Affine
    accumulator: Quantizer | None = None
    table: NDArray[np.int8] | None = None


@dataclass
class Emitter(ABC):
    """Base class: the network under construction, with layers in execution order."""

    workload: Workload
    patterns: Patterns
    seen: Mapping[str, float] | None
    layers: list[Layer] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)
    constants: dict[str, NDArray[np.int16]] = field(default_factory=dict)
    sources: dict[str, TensorSource] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    made: dict[tuple[str, bytes], str] = field(default_factory=dict)
    residual: float = 1.0

    @abstractmethod
    def operand(self, name: str, demand: Ints, exact: bool = False) -> Operand:
        """Provides the matrix ``demand`` of elements of a tensor as signed 8 bit."""

    @abstractmethod
    def stream(self, name: str) -> tuple[str, int]:
        """The 16-bit tensor, and first row in it, that holds the rows of a tensor."""

    # Names and errors

    def kind(self, view: Affine) -> str:
        """Kind of the tensor at a view's origin."""
        return self.patterns.kind(view.origin) if view.origin else "constant"

    def fail(self, text: str) -> InputError:
        """Error about the model."""
        return InputError(f"{self.workload.name}: {text}")

    def refuse(self, name: str, text: str) -> InputError:
        """Error about the node that makes a tensor."""
        node = self.workload.producers.get(name)
        return self.fail(f"tensor {name}: {text}" if node is None else f"node {node}: {text}")

    def add(self, tensor: Tensor, source: TensorSource, low: int, high: int) -> None:
        """Records a tensor, its float counterpart, and its range."""
        self.tensors[tensor.name] = tensor
        self.sources[tensor.name] = source
        self.ranges[tensor.name] = (low, high)

    def fresh(self, name: str) -> str:
        """An unused name for a tensor or constant."""
        return unused(name, {*self.tensors, *self.constants})

    def layer_name(self, name: str) -> str:
        """An unused layer name."""
        return unused(name, {layer.name for layer in self.layers})

    def calibrated(self, name: str) -> Quantizer:
        """8-bit quantizer from calibration data; without data records the tensor as missing a scale."""
        if self.seen is None:
            self.missing.append(name)
            return Quantizer(1.0, -128, 127)
        top = self.seen.get(name, 0.0)
        return Quantizer(top / 127 if top else 1.0, -128, 127)

    def requantizer(self, name: str, scale: float) -> tuple[int, int]:
        """Multiplier and shift for a ratio of scales."""
        try:
            return requantizer(scale)
        except ValueError as error:
            raise OutOfRange(str(self.refuse(name, str(error)))) from error

    # Rows and columns

    def lines(self, name: str, rows: Ints, columns: Ints) -> tuple[Ints, Ints]:
        """Row of each line and column of each column of a demanded matrix; refuses mixed ones and gaps."""
        steady = np.all(rows == rows[:, :1]) and np.all(columns == columns[:1])
        if not steady or np.any(np.diff(rows[:, 0]) != 1):
            raise self.refuse(name, "rows and columns are mixed by a reshape or a choice of rows; legal: a run of rows")
        return rows[:, 0], columns[0]

    def separated(self, name: str, product: Product, elements: Ints) -> tuple[Ints, Ints]:
        """Rows and columns of a product that form a matrix of its elements."""
        if np.any(elements < 0):
            raise self.refuse(name, "constants among quantized products; legal: in the residual stream only")
        return self.lines(name, *product.coordinates(elements))

    def per_column(self, name: str, x: Floats, elements: Ints) -> Floats:
        """A factor or offset per column; refuses one that differs between rows."""
        chosen = x.reshape(-1)[elements]
        if np.any(chosen != chosen[:1]):
            raise self.refuse(name, "a bias or gain differs from row to row outside the residual stream")
        return np.asarray(chosen[0], np.float64)

    def uniform(self, name: str, view: Affine, demand: Ints) -> float:
        """Common factor of all demanded elements; refuses several factors or an offset."""
        chosen = demand[demand >= 0]
        factors, offsets = view.factor.reshape(-1)[chosen], view.offset.reshape(-1)[chosen]
        constant = np.any(view.index.reshape(-1)[chosen] < 0)
        if constant or np.any(offsets) or not factors.size or np.ptp(factors) or factors[0] <= 0:
            raise self.refuse(name, "scales or shifts quantized values element by element; legal: one positive factor")
        return float(factors[0])

    # Linear layers

    def product_rows(self, key: str, demand: Ints, exact: bool, finish: Finish) -> Operand:
        """Emits the demanded columns of a product, and selects the demanded rows.

        Args:
            key: name of the resulting tensor.
            demand: flat element indices, ``[rows, columns]``.
            exact: computes only these rows, not all that the tensor has.
            finish: conversion of the sums.
        """
        product, index = self.patterns.product(finish.view.origin), finish.view.index.reshape(-1)
        rows, columns = self.separated(key, product, pick(index, demand))
        elements = inverse(index, len(product.demand) * len(product.weights))[product.elements()[:, columns]]
        have = rows if exact else np.flatnonzero((elements >= 0).all(axis=1))
        memo = (key, np.concatenate([have, [-1], columns]).tobytes())
        if memo not in self.made:
            self.made[memo] = self.fresh(key)
            source = TensorSource(key, elements[have])
            self.emit(product, self.finished(self.made[memo], source, have, columns, finish))
        first = int(np.searchsorted(have, rows[0]))
        return Operand(self.made[memo], first, len(rows), np.arange(len(columns)), finish.quantizer.scale)

    def finished(self, name: str, source: TensorSource, rows: Ints, columns: Ints, finish: Finish) -> LinearTarget:
        """Linear target described by a `Finish`."""
        q, sums = finish.quantizer, finish.accumulator or finish.quantizer
        factor = self.per_column(source.tensor, finish.view.factor, source.index)
        offset = self.per_column(source.tensor, finish.view.offset, source.index)
        limits = sums.scale, sums.low, sums.high
        return LinearTarget(name, source, rows, columns, factor, offset, *limits, q.bits, q.scale, finish.table)

    def emit(self, product: Product, target: LinearTarget) -> None:
        """Appends the linear layer that makes a target."""
        demand = np.where((target.rows < 0)[:, None], -1, product.demand[target.rows])
        x = self.operand(product.source, demand)
        weights, scales = self.weights(product, target, x.scale)
        unit = np.abs(target.factor) * x.scale * scales
        weights, unit = regridded(weights, unit, target.offset, target.scale)
        weights = weights * np.sign(target.factor).astype(np.int64)[:, None]
        pairs = [self.requantizer(product.node.outputs[0], float(s)) for s in unit / target.scale]
        layer = Linear(
            name=self.layer_name(product.node.name),
            source=x.tensor,
            target=target.name,
            rows=x.rows,
            weights=self.spread(product, weights, x),
            bias=self.bias(product, target, unit),
            multiplier=np.array([m for m, _ in pairs], np.int64),
            shift=np.array([s for _, s in pairs], np.int64),
            low=target.low,
            high=target.high,
            table=target.table,
            addend=target.addend,
            first_row=x.first_row,
        )
        self.layers.append(layer)
        made = Tensor(target.name, layer.rows, layer.n, target.bits, target.scale_out)
        self.add(made, target.source, *target.range)

    def bias(self, product: Product, target: LinearTarget, unit: Floats) -> Ints:
        """Bias in units of a product; notes an error larger than the result's step."""
        bias = quantize(target.offset / unit, 1.0, 53)
        error = float(np.abs(target.offset - bias * unit).max(initial=0.0))
        if error > target.scale:
            self.notes.append(f"the bias of {product.node.name} is off by {error:g}: its products are coarser")
        return bias

    def weights(self, product: Product, target: LinearTarget, scale: float) -> tuple[Ints, Floats]:
        """Integer weights of the target's columns, and a scale per column."""
        if not np.all(np.isfinite(target.offset)) or not np.all(target.factor):
            raise self.fail(f"node {product.node}: infinite bias or zero gain; legal: finite, not zero")
        if product.grid is None:
            return _rounded(product.weights[target.columns], target, scale)
        integers, scales = product.grid[0][target.columns], product.grid[1][target.columns]
        if np.any(scales != scales[:, :1]):
            raise self.fail(f"node {product.node}: weight scales along the inputs; legal: per output channel")
        if np.abs(integers).max(initial=0) > 127:
            worst = integers.flat[np.abs(integers).argmax()]
            raise self.fail(f"node {product.node}: quantized weight {worst}; legal: -127 to 127, narrow range")
        return integers, np.asarray(scales[:, 0], np.float64)

    def spread(self, product: Product, weights: Ints, x: Operand) -> NDArray[np.int8]:
        """Weights in the column order of the source tensor, zero for unread columns."""
        if len(np.unique(x.columns)) != len(x.columns):
            raise self.fail(f"node {product.node}: reads a column of its input twice; legal: once")
        result = np.zeros((len(weights), self.tensors[x.tensor].columns), np.int8)
        result[:, x.columns] = weights
        return result


def _rounded(weights: Floats, target: LinearTarget, scale: float) -> tuple[Ints, Floats]:
    """Quantizes float weights to 8 bit per column, with scales large enough for the bias to fit."""
    base = np.abs(target.factor) * scale
    least = np.maximum(np.abs(target.offset) / (base * 2**24), target.scale / (base * 2**30))
    scales = np.maximum(np.abs(weights).max(axis=1) / 127, least)
    return quantize(weights, scales[:, None], 8, narrow=True), scales
