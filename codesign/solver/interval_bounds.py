"""Boxes of a problem's points, and lower bounds of its terms over them.

A box is one node per axis of a tree whose root is all values and whose leaves are the single ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, log, prod

import numpy as np
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.solver.problem import Array, Inputs, Problem, Term

Nodes = NDArray[np.int64]

_FAN = 8
"""Most children per node; a few more where the count of values requires it."""
_CHEAP = 1 << 17


class Tree:
    """The nodes of one axis, level by level from the root; the last level is the values in order.

    Attributes:
        levels: starting positions of the nodes of each level.
        first: number of the first node of each level.
        size: values below each node.
    """

    def __init__(self, count: int) -> None:
        depth = max(1, ceil(log(count) / log(_FAN) - 1e-9)) if count > 1 else 0
        counts = [round(count ** (i / depth)) for i in range(depth)] + [count] if depth else [1]
        self.levels = [np.arange(count)]
        for n in reversed(counts[:-1]):
            below = self.levels[0]
            self.levels.insert(0, below[np.linspace(0, len(below), n + 1).astype(np.int64)[:-1]])
        self.first = np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()
        self.size = np.concatenate([np.diff(np.append(starts, count)) for starts in self.levels])

    @property
    def depth(self) -> int:
        """Steps from the root to the values."""
        return len(self.levels) - 1

    @cached_property
    def kids(self) -> list[tuple[Nodes, NDArray[np.int64]]]:
        """Per step, the children of each node of its level and their sizes; short rows repeat a child, with size 0."""
        return [self._step(*pair, first) for pair, first in zip(pairwise(self.levels), self.first[1:], strict=True)]

    def _step(self, upper: Nodes, lower: Nodes, first: int) -> tuple[Nodes, NDArray[np.int64]]:
        begin = np.searchsorted(lower, upper)
        end = np.append(begin[1:], len(lower))
        at = begin[:, None] + np.arange(int((end - begin).max()))
        kids = first + np.minimum(at, end[:, None] - 1)
        return kids, np.where(at < end[:, None], self.size[kids], 0)

    def extend(self, table: Array, axis: int, extreme: np.ufunc) -> Array:
        """Extends a table from values to nodes along ``axis``."""
        parts = [table]
        for upper, lower in reversed([*pairwise(self.levels)]):
            if len(upper) == 1:
                parts.insert(0, extreme.reduce(parts[0], axis=axis, keepdims=True))
            else:
                parts.insert(0, extreme.reduceat(parts[0], np.searchsorted(lower, upper), axis=axis))
        return np.ascontiguousarray(np.concatenate(parts, axis=axis))


@dataclass(frozen=True)
class _Table:
    """Extremes of a term by node: a flat array and its strides by axis."""

    flat: Array
    strides: Mapping[str, int]

    def look(self, boxes: Mapping[str, Nodes]) -> Array:
        """Entries of boxes; the largest index array is added last."""
        parts = sorted((boxes[axis] * stride for axis, stride in self.strides.items()), key=lambda part: part.size)
        index = parts[0]
        for part in parts[1:]:
            index = index + part
        return np.asarray(self.flat.take(index))


class _Memo:
    """Known bounds of an expensive term by box, 0 where unknown."""

    def __init__(self, term: Term, problem: Problem, trees: Mapping[str, Tree]) -> None:
        self.term, self.trees = term, trees
        self._values = {axis: np.array(problem.axes[axis], np.int64) for axis in term.single}
        self._first = {axis: trees[axis].first[-1] if axis in term.single else 0 for axis in term.of}
        counts = [len(trees[axis].size) - self._first[axis] for axis in term.of]
        self._strides = {axis: prod(counts[i + 1 :]) for i, axis in enumerate(term.of)}
        self._known = np.zeros(prod(counts), np.int64)

    def look(self, boxes: Mapping[str, Nodes]) -> Array:
        """Known bounds of boxes, else 0."""
        return np.asarray(self._known.take(self._index(boxes)))

    def _index(self, boxes: Mapping[str, Nodes]) -> NDArray[np.int64]:
        index: NDArray[np.int64] = np.zeros((), np.int64)
        for axis, stride in self._strides.items():
            index = index + (boxes[axis] - self._first[axis]) * stride
        return index

    def ask(self, boxes: Mapping[str, Nodes]) -> None:
        """Computes the unknown bounds of flat boxes."""
        new = np.unique(self._index(boxes))
        new = new[self._known[new] == 0]
        if not len(new):
            return
        counts = (len(self.trees[axis].size) - first for axis, first in self._first.items())
        nodes = {axis: new // s % count for (axis, s), count in zip(self._strides.items(), counts, strict=True)}
        assert self.term.boxed is not None, "only such terms are asked"
        self._known[new] = self.term.boxed(nodes | {axis: v[nodes[axis]] for axis, v in self._values.items()})


class Bounder:
    """Bounds of a problem's terms over boxes.

    Args:
        problem: the axes and formulas.
        cells: most combinations of axis values for which a term is tabulated; fewer suffice for a term that has a
            bound from its inputs.
    """

    def __init__(self, problem: Problem, cells: int) -> None:
        self.problem = problem
        self.trees = {name: Tree(len(values)) for name, values in problem.axes.items()}
        self._cells = cells
        self._small: set[str] = set(problem.axes)
        for term in problem.terms:
            if self._worth(term):
                self._small.add(term.name)
        self._tables: dict[tuple[str, bool], _Table] = {}
        self._planned: set[tuple[str, bool]] = set()
        self.lazy = {term.name: _Memo(term, problem, self.trees) for term in problem.terms if term.boxed is not None}
        self._floors: set[str | None] = set()
        for name in problem.limits:
            self._plan(name, False)
        self._floors.update(memo.term.floor for memo in self.lazy.values())
        for name in problem.objectives:
            self._plan(name, False)

    def _worth(self, term: Term) -> bool:
        """Whether to tabulate a term; one with a bound from its inputs only if that is cheap."""
        if term.boxed is not None:
            return False
        size = prod(len(self.problem.axes[axis]) for axis in self.problem.support[term.name])
        return size <= (self._cells if self.late(term.name) else min(self._cells, _CHEAP))

    def _plan(self, name: str, high: bool) -> None:
        """Builds the tables that the bound of a term reads."""
        if (name, high) in self._planned:
            return
        self._planned.add((name, high))
        if name in self._small:
            self._tables[name, high] = self._tabulate(name, np.maximum if high else np.minimum)
            return
        term = self.problem.by_name[name]
        for i in term.of if term.boxed is None else ():
            self._plan(i, high ^ (i in term.falling))
        if term.floor is not None and not high:
            self._plan(term.floor, False)

    def _tabulate(self, name: str, extreme: np.ufunc) -> _Table:
        axes = self.problem.support[name]
        shape = [len(self.problem.axes[a]) for a in axes]
        grid = dict(zip(axes, np.ix_(*(np.array(self.problem.axes[a], dtype=np.int64) for a in axes)), strict=True))
        if name in self._floors:
            table = self._sparse(name, grid, extreme)
        else:
            table = np.broadcast_to(self.problem.compute(grid, [name])[name], shape)
        if not np.isfinite(table).all():
            raise CheckError(f"term {name} is not a finite number everywhere over the axes {axes}")
        for k, axis in enumerate(axes):
            table = self.trees[axis].extend(table, k, extreme)
        strides = [stride // table.itemsize for stride in table.strides]
        return _Table(table.ravel(), dict(zip(axes, strides, strict=True)))

    def _sparse(self, name: str, grid: Mapping[str, Array], extreme: np.ufunc) -> Array:
        """Values of a term, computed only where the limits may be met; elsewhere a filler that no uncut box reads."""
        leaves = np.ix_(*(self.trees[axis].first[-1] + np.arange(values.size) for axis, values in grid.items()))
        root = {axis: np.zeros((1,) * len(grid), np.int64) for axis in self.trees}
        single = frozenset(axis for axis, tree in self.trees.items() if axis in grid or not tree.depth)
        bounds = self.over(root | dict(zip(grid, leaves, strict=True)), single)
        hope = np.ones([values.size for values in grid.values()], np.bool_)
        for limit, most in self.problem.limits.items():
            low = bounds.low(limit)
            hope &= True if low is None else low <= most
        arrays = dict(zip(grid, np.broadcast_arrays(*grid.values()), strict=True))
        found = np.asarray(self.problem.compute({axis: a[hope] for axis, a in arrays.items()}, [name])[name])
        table = np.zeros(hope.shape, found.dtype)
        if hope.any():
            table[:] = found.max() if extreme is np.minimum else found.min()
            table[hope] = found
        return table

    def late(self, name: str) -> frozenset[str]:
        """Axes that must be single values before a term has a lower bound; the fewer, the faster the search."""
        if name in self._small:
            return frozenset()
        term = self.problem.by_name[name]
        directed = {*term.rising, *term.falling}
        own = frozenset[str]().union(*(self.late(i) if i in directed else self.problem.support[i] for i in term.of))
        return own if term.floor is None else min(own, self.late(term.floor), key=len)

    def ask(self, boxes: Mapping[str, Nodes], single: frozenset[str], axis: str | None = None) -> bool:
        """Computes the expensive bounds of boxes, one per entry of flat arrays; returns whether there are any.

        Args:
            boxes: nodes by axis.
            single: the axes whose nodes are single values in all boxes.
            axis: only bounds of terms that read this axis; None for all.
        """
        memos = [memo for memo in self.lazy.values() if axis is None or axis in memo.term.of]
        found = [memo for memo in memos if single.issuperset(memo.term.single)]
        for memo in found:
            memo.ask(boxes)
        return bool(found)

    def over(self, boxes: Mapping[str, Nodes], single: frozenset[str]) -> "Bounds":
        """Bounds over some boxes.

        Args:
            boxes: nodes by axis, of shapes that broadcast.
            single: the axes whose nodes are single values in all boxes.
        """
        return Bounds(self, boxes, single)

    def leaves(self, points: NDArray[np.int64]) -> dict[str, Nodes]:
        """The boxes of single points, given by their positions on the axes, one per row."""
        firsts = (tree.first[-1] for tree in self.trees.values())
        return {axis: column + first for axis, column, first in zip(self.trees, points.T, firsts, strict=True)}


class Bounds:
    """Lower and upper bounds of terms over the same boxes, each computed on first use."""

    def __init__(self, bounder: Bounder, boxes: Mapping[str, Nodes], single: frozenset[str]) -> None:
        self._bounder, self._boxes, self._single = bounder, boxes, single
        self._found: dict[tuple[str, bool], Array | None] = {}

    def low(self, name: str) -> Array | None:
        """Lower bounds of a term, its values where the boxes are single points; None if there is no bound."""
        return self._side(name, False)

    def value(self, name: str) -> Array:
        """Values of a term where all boxes are single points."""
        found = self.low(name)
        assert found is not None, "every term has a value at a point"
        return found

    def _side(self, name: str, high: bool) -> Array | None:
        key = (name, high)
        if key not in self._found:
            table = self._bounder._tables.get(key)
            self._found[key] = table.look(self._boxes) if table else self._compose(name, high)
        return self._found[key]

    def _compose(self, name: str, high: bool) -> Array | None:
        term = self._bounder.problem.by_name[name]
        if term.boxed is not None:
            return self._lazily(term, high)
        inputs = {i: self._input(term, i, high) for i in term.of}
        present: Inputs = {i: value for i, value in inputs.items() if value is not None}
        own = np.asarray(term.formula(present)) if len(present) == len(inputs) else None
        if term.floor is None or high or self._settled(name):
            return own
        floor = self._side(term.floor, False)
        if own is None or floor is None:
            return floor if own is None else own
        return np.asarray(np.maximum(own, floor))

    def _lazily(self, term: Term, high: bool) -> Array | None:
        """Known lower bound of an expensive term, or else its floor."""
        floor = self._side(term.floor, False) if term.floor and not high else None
        if floor is None or not self._single.issuperset(term.single):
            return floor
        return np.asarray(np.maximum(self._bounder.lazy[term.name].look(self._boxes), floor))

    def _input(self, term: Term, name: str, high: bool) -> Array | None:
        if name in term.rising or name in term.falling or self._settled(name):
            return self._side(name, high ^ (name in term.falling))
        return None

    def _settled(self, name: str) -> bool:
        """Whether all axes of a term are single values."""
        return self._single.issuperset(self._bounder.problem.support[name])
