"""Cycles of attention and vector engines by box of their parameters: the least over all engines of the box."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.bound import affine_words, attention_work
from codesign.boxes import Nodes, Tree
from codesign.kernel import Number, Params, Work
from codesign.layout import head_columns, padded
from codesign.network import Attention, Network
from codesign.systolic import Formulas

Table = NDArray[np.int64]


class EngineTables:
    """Tables over the values and nodes of the axes ``t_a``, ``n_a`` and ``t_v``, filled when asked for.

    Args:
        network: the layers.
        axes: values by parameter; without those of engines that the network does not use.
        formulas: what the kernels say of parameters by engine.
    """

    def __init__(
        self,
        network: Network,
        axes: Mapping[str, tuple[int, ...]],
        formulas: Callable[[Mapping[str, Params]], Formulas],
    ) -> None:
        self.network, self.formulas = network, formulas
        self.values = {axis: np.array(axes.get(axis, (1,)), np.int64) for axis in ("t_a", "n_a", "t_v")}
        self.trees = {axis: Tree(len(values)) for axis, values in self.values.items()}
        self._tables: dict[tuple[object, ...], Table] = {}

    def leaf(self, axis: str, values: NDArray[np.int64]) -> Nodes:
        """The nodes that are single values."""
        return np.asarray(self.trees[axis].first[-1] + np.searchsorted(self.values[axis], values))

    def at(self, nodes: Mapping[str, Nodes], t_out: Number, word: Number, row_group: Number) -> "Costs":
        """The tables for some nodes, with columns of the array, bytes of a bus word, and ascending rows per command."""
        return Costs(self, nodes, np.asarray(t_out), np.asarray(word), np.asarray(row_group))

    def table(self, key: tuple[object, ...], axes: tuple[str, ...], make: Callable[[], Any]) -> Table:
        """A table whose last axes are those named, over nodes, made once."""
        if key not in self._tables:
            found = np.asarray(make(), np.int64)
            for k, axis in enumerate(reversed(axes)):
                found = self.trees[axis].extend(found, found.ndim - 1 - k, np.minimum)
            self._tables[key] = found
        return self._tables[key]


class Costs:
    """The least of everything for some boxes, see `codesign.bound.Boxed`."""

    def __init__(
        self, tables: EngineTables, nodes: Mapping[str, Nodes], t_out: Table, word: Table, row_group: Table
    ) -> None:
        self.tables, self.nodes, self.words = tables, nodes, np.unique(word)
        self.units, self._unit = np.unique(np.maximum(t_out, word), return_inverse=True)
        self._word = np.searchsorted(self.words, word)
        _, self._starts, self._size = np.unique(row_group, return_index=True, return_inverse=True)

    def columns(self, layer: Attention) -> Number:
        """Columns of a row of padded heads."""
        t_a = self.tables.values["t_a"]
        wide = padded(layer.head_dim, t_a)
        key = ("columns", layer.heads, layer.head_dim, *self.units.tolist())
        found = self.tables.table(key, ("t_a",), lambda: head_columns(layer.heads, wide, self.units[:, None]))
        return found[self._unit, self.nodes["t_a"]]

    def attention(self, layer: Attention, first: Number, rows: Number) -> Number:
        """Cycles of a command of some query rows."""
        starts, have = self._members(rows)
        firsts, counts = np.asarray(first)[starts], np.asarray(rows)[starts]
        shape = layer.heads, layer.head_dim, layer.keys, layer.mask, layer.window
        key = (*shape, *firsts.tolist(), *counts.tolist(), *self.units.tolist())
        found = self.tables.table(key, ("t_a", "n_a"), lambda: self._durations(layer, firsts, counts))
        return found[self._size[:have], self._unit[:have], self.nodes["t_a"][:have], self.nodes["n_a"][:have]]

    def _durations(self, layer: Attention, first: Table, rows: Table) -> Any:
        first, rows = first.reshape(-1, 1, 1, 1), rows.reshape(-1, 1, 1, 1)
        t_a, n_a = self.tables.values["t_a"][:, None], self.tables.values["n_a"]
        wide = padded(layer.head_dim, t_a)
        heads = head_columns(layer.heads, wide, self.units[:, None, None]) // wide
        engines: Mapping[str, Params] = {"attention": {"t_a": t_a, "n_a": n_a}, "linear": {"t_in": 8}}
        return self.tables.formulas(engines).attention(attention_work(layer, first, rows, heads, wide))

    def vector(self, rows: Number, d: int) -> Number:
        """Cycles of a norm's command."""
        starts, have = self._members(rows)
        counts = np.asarray(rows)[starts]
        t_v = self.tables.values["t_v"]
        engines: Mapping[str, Params] = {"vector": {"t_v": t_v}, "linear": {"t_in": 8}}
        work: Work = {"rows": counts[:, None], "d": d}
        key = ("vector", *counts.tolist(), d)
        found = self.tables.table(key, ("t_v",), lambda: self.tables.formulas(engines).vector(work))
        return found[self._size[:have], self.nodes["t_v"][:have]]

    def _members(self, rows: Number) -> tuple[Table, int]:
        """The first sets of each number of rows per command among as many sets as something is said of; how many."""
        have = len(np.asarray(rows))
        return self._starts[self._starts < have], have

    def affine(self, d: int) -> Number:
        """Bus words of a norm's gains and biases."""
        t_v, words = self.tables.values["t_v"], self.words[:, None]
        key = ("affine", d, *self.words.tolist())
        return self.tables.table(key, ("t_v",), lambda: affine_words(d, t_v, words))[self._word, self.nodes["t_v"]]
