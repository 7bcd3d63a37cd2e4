"""Designs of a thinned space as columns of numbers, computed range by range for a sweep."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.dse.design_space import DesignSpace
from codesign.dse.planner import RESOURCES
from codesign.errors import InputError
from codesign.flow.build import tools
from codesign.ir.network import Network
from codesign.solver.problem import Problem, Term
from codesign.target.board import Board
from codesign.target.kernel import Resources

_TABLE_CELLS, _SMALL_TABLE = 1 << 18, 1 << 16
"""Axis combinations computed at once, and the most for which a sum of terms is tabulated too."""

CLOCK = "clock_hz"
"""Parameter that a sweep fixes to the combination's clock."""

Column = NDArray[Any]


def thinned(axes: Mapping[str, tuple[int, ...]], limit: int) -> dict[str, tuple[int, ...]]:
    """Axes thinned until their product has at most ``limit`` points; see `codesign.sweeps.sweep`.

    >>> thinned({"a": (1, 2, 3, 4), "b": (5, 6)}, 6)
    {'a': (1, 3, 4), 'b': (5, 6)}
    """
    found = dict(axes)
    while prod(map(len, found.values())) > max(1, limit):
        name = max(found, key=lambda axis: len(found[axis]))
        values = found[name]
        found[name] = tuple(dict.fromkeys((*values[::2], values[-1]))) if len(values) > 2 else values[:1]
    return found


class ThinnedSpace(DesignSpace):
    """Design space thinned to at most ``limit`` points, all at the board's clock.

    Args:
        network: every layer must have a kernel.
        board: device and memory.
        limit: maximum points.
        keep: the only allowed values of some parameters.
        budget: limits by resource name, below the board's.
    """

    def __init__(
        self, network: Network, board: Board, limit: int, *,
        keep: Mapping[str, tuple[int, ...]] | None = None, budget: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(network, board, tools(), budget=budget)
        self._most, self._keep = limit, keep or {}

    @cached_property
    def whole(self) -> dict[str, tuple[int, ...]]:
        """Values by parameter before thinning.

        Raises:
            InputError: ``keep`` has an unknown parameter or value.
        """
        found = {name: (self.board.clock_hz,) if name == CLOCK else values for name, values in super().axes.items()}
        for name, values in self._keep.items():
            wrong = sorted({*values} - {*found.get(name, ())})
            if wrong:
                legal = ",".join(map(str, found[name])) if name in found else f"parameters {', '.join(found)}"
                raise InputError(f"{self.network.name}: {name}={wrong[0]} is not in its space; legal: {legal}")
            found[name] = values
        return found

    @cached_property
    def axes(self) -> dict[str, tuple[int, ...]]:
        """Values by parameter after thinning."""
        return thinned(self.whole, self._most)


class Grid:
    """Columns over the points of a space, in product order with the last axis fastest.

    A term is tabulated over the axes it depends on; sums of terms are computed from the tables, so the time per
    point does not depend on the cost of the formulas.

    Args:
        space: the designs.
    """

    def __init__(self, space: ThinnedSpace) -> None:
        self.space, self.problem = space, space.problem(("latency_us",))
        chosen = [term.name for term in self.problem.terms if self._worth(term)]
        self._tables = {name: _tabulate(self.problem, name) for name in chosen}
        self._wrong = [name for name in self.problem.limits if name not in RESOURCES]

    def _worth(self, term: Term) -> bool:
        """Whether a term is tabulated: it depends on axes only, or its table is small."""
        axes = self.problem.axes
        return set(term.of) <= set(axes) or prod(len(axes[a]) for a in self.problem.support[term.name]) <= _SMALL_TABLE

    @property
    def points(self) -> int:
        """Number of points of the space."""
        return self.problem.size

    @cached_property
    def digest(self) -> str:
        """Hash of everything the columns are computed from; equal only if all rows are equal."""
        found = hashlib.sha256(json.dumps(self.problem.axes).encode())
        for name, (axes, table) in self._tables.items():
            found.update(json.dumps([name, axes, table.shape]).encode() + np.ascontiguousarray(table).tobytes())
        return found.hexdigest()

    def columns(self, first: int, stop: int) -> dict[str, Column]:
        """Parameters, ``legal``, ``cycles``, ``latency_us`` and resources of a range of points."""
        at = dict(zip(self.problem.axes, np.unravel_index(np.arange(first, stop), self.problem.shape), strict=True))
        values: dict[str, Column] = {name: np.array(self.problem.axes[name])[at[name]] for name in at}
        known = values | {name: _looked_up(table, at) for name, table in self._tables.items()}
        found = {name: self._value(name, known) for name in ("cycles", "latency_us", *RESOURCES)}
        legal = np.all([self._value(name, known) <= 0 for name in self._wrong], axis=0)
        return {**values, "legal": legal, **found}

    def _value(self, name: str, known: dict[str, Column]) -> Column:
        """Values of a term at some points, from their known columns; extends ``known``."""
        if name not in known:
            term = self.problem.by_name[name]
            known[name] = np.asarray(term.formula({i: self._value(i, known) for i in term.of}))
        return known[name]

    def index(self, parameters: Mapping[str, Column]) -> list[int]:
        """Positions in product order of points given by their parameters."""
        at = tuple(np.searchsorted(values, parameters[name]) for name, values in self.problem.axes.items())
        return [int(i) for i in np.ravel_multi_index(at, self.problem.shape)]


def _tabulate(problem: Problem, name: str) -> tuple[tuple[str, ...], Column]:
    """(axes, table) of a term over the axes it depends on, computed in chunks to bound memory."""
    axes = problem.support[name]
    values = [np.array(problem.axes[axis], np.int64) for axis in axes]
    shape, lead = tuple(map(len, values)), 0
    while prod(shape[lead:]) > _TABLE_CELLS:
        lead += 1
    parts = []
    for at in np.ndindex(*shape[:lead]):
        picked = [axis[i : i + 1] for axis, i in zip(values, at, strict=False)] + values[lead:]
        grid = dict(zip(axes, np.ix_(*picked), strict=True))
        parts.append(np.broadcast_to(problem.compute(grid, [name])[name], (1,) * lead + shape[lead:]))
    return axes, np.stack(parts).reshape(shape)


def _looked_up(table: tuple[tuple[str, ...], Column], at: Mapping[str, Column]) -> Column:
    axes, values = table
    flat = np.ravel_multi_index(tuple(at[axis] for axis in axes), values.shape)
    return np.asarray(values.ravel().take(flat))


def use(columns: Mapping[str, Column], limit: Resources) -> tuple[Column, Column]:
    """Per design: whether it is legal and within a limit, and the index of the binding resource."""
    need = np.stack([columns[name] for name in RESOURCES], axis=1).astype(np.float64)
    there = np.array([float(getattr(limit, name)) for name in RESOURCES])
    share = np.divide(need, there, out=np.where(need > 0, np.inf, 0.0), where=there > 0)
    return columns["legal"] & (need <= there).all(axis=1), share.argmax(axis=1)
