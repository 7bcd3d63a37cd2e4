"""Least costs of the engines other than the linear one over boxes of their parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.ir.network import Layer, Network
from codesign.solver.interval_bounds import Nodes, Tree
from codesign.target.engines import RING
from codesign.target.kernel import CommandKernel, Number, Params
from codesign.timing.bound.layer_shapes import constant_words, kernel_of_layer
from codesign.timing.formulas import Formulas

Table = NDArray[np.int64]


class EngineTables:
    """Tables of least costs over the nodes of the engines' axes, filled on demand.

    Args:
        network: the layers.
        axes: values by parameter for each of the engines.
        formulas: duration formulas for parameters by engine.
    """

    def __init__(
        self,
        network: Network,
        axes: Mapping[str, Mapping[str, tuple[int, ...]]],
        formulas: Callable[[Mapping[str, Params]], Formulas],
    ) -> None:
        self.network, self.formulas = network, formulas
        self.axes = {engine: tuple(mine) for engine, mine in axes.items()}
        every = {axis: values for mine in axes.values() for axis, values in mine.items()}
        self.values = {axis: np.array(values, np.int64) for axis, values in every.items()}
        self.trees = {axis: Tree(len(values)) for axis, values in self.values.items()}
        self._tables: dict[tuple[object, ...], Table] = {}

    def leaf(self, axis: str, values: NDArray[np.int64]) -> Nodes:
        """Leaf nodes of some values of an axis."""
        return np.asarray(self.trees[axis].first[-1] + np.searchsorted(self.values[axis], values))

    def at(self, nodes: Mapping[str, Nodes], t_out: Number, word: Number, row_group: Number) -> "Costs":
        """Costs at some nodes, for columns of the array, bytes of a bus word, and ascending rows per command."""
        return Costs(self, nodes, np.asarray(t_out), np.asarray(word), np.asarray(row_group))

    def grid(self, engine: str) -> dict[str, Any]:
        """Values of an engine's axes as arrays that broadcast to all its designs, last axis last."""
        return dict(zip(self.axes[engine], np.ix_(*(self.values[axis] for axis in self.axes[engine])), strict=True))

    def table(self, key: tuple[object, ...], engine: str, make: Callable[[], Any]) -> Table:
        """A cached table whose last axes are an engine's, extended to nodes by minimum."""
        if key not in self._tables:
            axes = self.axes[engine]
            found = np.asarray(make(), np.int64)
            found = np.broadcast_to(found, (*found.shape[: -len(axes)], *(len(self.values[axis]) for axis in axes)))
            for k, axis in enumerate(reversed(axes)):
                found = self.trees[axis].extend(found, found.ndim - 1 - k, np.minimum)
            self._tables[key] = found
        return self._tables[key]


class Costs:
    """Least costs of some boxes, as a `codesign.timing.bound.schedule.EngineMinima`."""

    def __init__(
        self, tables: EngineTables, nodes: Mapping[str, Nodes], t_out: Table, word: Table, row_group: Table
    ) -> None:
        self.tables, self.nodes, self.word_sizes = tables, nodes, np.unique(word)
        self.units, self._unit = np.unique(np.maximum(t_out, word), return_inverse=True)
        self._word = np.searchsorted(self.word_sizes, word)
        _, self._starts, self._group_index = np.unique(row_group, return_index=True, return_inverse=True)

    def columns(self, layer: Layer) -> Number:
        """Fewest columns of a row of the layer's matrices."""
        kernel = kernel_of_layer(layer)
        key = ("columns", type(layer), *layer.shape, *self.units.tolist())

        def make() -> Any:
            grid = self.tables.grid(kernel.op)
            found = kernel.columns(layer, grid, self._along(self.units, kernel))
            assert found is not None, "asked of layers that pad"
            return found.total

        found = self.tables.table(key, kernel.op, make)
        costs: Number = found[(self._unit, *self._nodes(kernel, len(self._unit)))]
        return costs

    def time(self, layer: Layer, first: Number, rows: Number) -> Number:
        """Fewest cycles of a command of some rows."""
        kernel, have = kernel_of_layer(layer), len(np.asarray(rows))
        starts = self._starts[self._starts < have]
        firsts, counts = np.asarray(first)[starts], np.asarray(rows)[starts]
        units = self.units if kernel.padding else self.units[:1]
        key = (type(layer), *layer.shape, *firsts.tolist(), *counts.tolist(), *units.tolist())
        found = self.tables.table(key, kernel.op, lambda: self._times(kernel, layer, (firsts, counts), units))
        unit = self._unit[:have] if kernel.padding else 0
        costs: Number = found[(self._group_index[:have], unit, *self._nodes(kernel, have))]
        return costs

    def _times(self, kernel: type[CommandKernel], layer: Layer, rows: tuple[Table, Table], units: Table) -> Any:
        """Cycles by row group, unit of columns, and the engine's axes."""
        grid = self.tables.grid(kernel.op)
        first, count = (self._along(each[:, None], kernel) for each in rows)
        columns = kernel.columns(layer, grid, self._along(units, kernel))
        engines: Mapping[str, Params] = {kernel.op: grid, RING: {"t_in": 8}}
        shape = len(rows[0]), len(units), *(len(self.tables.values[axis]) for axis in self.tables.axes[kernel.op])
        found = self.tables.formulas(engines).times[kernel.op](kernel.work(layer, first, count, columns))
        return np.broadcast_to(found, shape)

    def words(self, layer: Layer) -> list[Number]:
        """Fewest bus words of each constant."""
        kernel, found = kernel_of_layer(layer), list[Number]()
        for constant in kernel.constants(layer):
            key = ("words", kernel.op, constant.memory, constant.size, *self.word_sizes.tolist())

            def make(size: int = constant.size, memory: str = constant.memory) -> Any:
                words = self._along(self.word_sizes, kernel)
                return constant_words(size, self.tables.grid(kernel.op), kernel.op, memory, words)

            table = self.tables.table(key, kernel.op, make)
            found.append(table[(self._word, *self._nodes(kernel, len(self._word)))])
        return found

    def _along(self, values: Table, kernel: type[CommandKernel]) -> Any:
        """The array with a trailing axis of length 1 for each axis of the engine."""
        return values.reshape(*values.shape, *(1,) * len(self.tables.axes[kernel.op]))

    def _nodes(self, kernel: type[CommandKernel], have: int) -> list[Nodes]:
        """Nodes of an engine's axes, for the leading ``have`` boxes."""
        return [self.nodes[axis][:have] for axis in self.tables.axes[kernel.op]]
