"""Non-dominated sets: a fast archive of points to be minimised, and the front that a search returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

from codesign.render.svg import Picture, scatter

Values = NDArray[np.float64]
"""Objective vectors, one per row."""
Mask = NDArray[np.bool_]
Points = NDArray[np.int64]
"""Positions on the axes, one point per row."""

_CELLS = 1 << 19
_SMALL = 48


class DominatedRegion:
    """All vectors that a member dominates or equals: the member is at most as large in every coordinate.

    Args:
        members: the vectors.
    """

    def __init__(self, members: Values) -> None:
        self._members = members
        if not len(members):
            return
        if members.shape[1] == 1:
            self._least = float(members[:, 0].min())
        elif members.shape[1] == 2:
            self._stair(members)
        else:
            self._grid(members)

    def _stair(self, members: Values) -> None:
        order = np.argsort(members[:, 0], kind="stable")
        self._edges = [members[order, 0]]
        self._table = np.concatenate([[np.inf], np.minimum.accumulate(members[order, 1])])
        self._exact = True

    def _grid(self, members: Values) -> None:
        """Tabulates the least last coordinate of the members below each edge of a grid over the others."""
        dims = members.shape[1] - 1
        most = max(2, int(_CELLS ** (1 / dims)) - 1)
        columns = [np.unique(members[:, j]) for j in range(dims)]
        picks = [np.linspace(0, len(c) - 1, min(len(c), most)).astype(np.int64) for c in columns]
        self._edges = [c[p] for c, p in zip(columns, picks, strict=True)]
        self._exact = all(len(e) == len(c) for e, c in zip(self._edges, columns, strict=True))
        table = np.full([len(e) + 1 for e in self._edges], np.inf)
        cell = tuple(np.searchsorted(e, members[:, j], "left") + 1 for j, e in enumerate(self._edges))
        np.minimum.at(table, cell, members[:, -1])
        for j in range(dims):
            np.minimum.accumulate(table, axis=j, out=table)
        self._table = table.ravel()

    def reaches(self, queries: Values, *, fast: bool = False) -> Mask:
        """Whether, per query, some member is at most as large in every coordinate.

        Args:
            queries: vectors, one per row.
            fast: allows false negatives, but no false positives.
        """
        if not len(self._members) or not len(queries):
            return np.zeros(len(queries), dtype=np.bool_)
        if queries.shape[1] == 1:
            return np.asarray(queries[:, 0] >= self._least)
        cell: NDArray[np.int64] = np.zeros(len(queries), dtype=np.int64)
        for j, edges in enumerate(self._edges):
            cell *= len(edges) + 1
            cell += np.searchsorted(edges, queries[:, j], "right")
        found: Mask = self._table.take(cell) <= queries[:, -1]
        if not self._exact and not fast:
            rest = np.flatnonzero(~found)
            found[rest] = _pairwise(self._members, queries[rest])
        return found


def _pairwise(members: Values, queries: Values) -> Mask:
    """Result of `DominatedRegion.reaches` by comparing every pair, block by block."""
    step, found = max(1, (1 << 20) // len(members)), np.zeros(len(queries), dtype=np.bool_)
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        below = np.ones((len(block), len(members)), dtype=np.bool_)
        for j in range(members.shape[1]):
            below &= members[:, j] <= block[:, j, None]
        found[start : start + step] = below.any(axis=1)
    return found


def nondominated(values: Values, *, ties: bool = False) -> Mask:
    """Whether, per row, no other row is at most as large everywhere.

    Args:
        values: vectors, one per row.
        ties: whether to keep all of equal rows; else only the first.

    >>> nondominated(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [1.0, 3.0]])).tolist()
    [True, True, False, False]
    """
    kept = np.zeros(len(values), dtype=np.bool_)
    if not len(values):
        return kept
    order = np.lexsort(values.T[::-1])
    rows = values[order]
    first = _firsts(rows)
    best = np.flatnonzero(first)[_sorted_best(rows[first])]
    kept[order[best]] = True
    if ties:
        kept[order] = kept[order[np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]]
    return kept


def layers(values: Values, most: int) -> NDArray[np.int64]:
    """Positions of up to ``most`` rows: the non-dominated first, then those of the rest, and so on.

    >>> sorted(layers(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 3.0]]), 3).tolist())
    [0, 1, 2]
    """
    order = np.lexsort(values.T[::-1])
    rows, taken, count = values[order], [order[:0]], 0
    while count < most and len(rows):
        first = _firsts(rows)
        best = np.flatnonzero(first)[_sorted_best(rows[first])]
        taken.append(order[best])
        rows, order, count = np.delete(rows, best, axis=0), np.delete(order, best), count + len(best)
    return np.concatenate(taken)[:most]


def _firsts(rows: Values) -> Mask:
    """Whether each of some sorted rows differs from the one before."""
    return np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])


def _sorted_best(rows: Values) -> NDArray[np.int64]:
    """Positions of the non-dominated among distinct rows in lexicographic order."""
    count, width = rows.shape
    if width == 1:
        return np.zeros(1, dtype=np.int64)
    if width == 2:
        before = np.concatenate([[np.inf], np.minimum.accumulate(rows[:-1, 1])])
        return np.flatnonzero(rows[:, 1] < before)
    if count <= _SMALL:
        below = np.ones((count, count), dtype=np.bool_)
        for j in range(width):
            below &= rows[:, j, None] <= rows[:, j]
        return np.flatnonzero(below.sum(axis=0) == 1)
    half = count // 2
    low, high = _sorted_best(rows[:half]), half + _sorted_best(rows[half:])
    free = ~DominatedRegion(rows[low, 1:]).reaches(rows[high, 1:])
    return np.concatenate([low, high[free]])


class Archive:
    """The non-dominated of all points added so far; of equal vectors the first added stays.

    Attributes:
        values: objective vectors.
        points: points added with them, row by row.
        born: number of the `add` that brought each.
    """

    def __init__(self, objectives: int, width: int) -> None:
        self.values: Values = np.zeros((0, objectives))
        self.points: Points = np.zeros((0, width), dtype=np.int64)
        self.born: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.adds = 0
        self._cover: DominatedRegion | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def cover(self) -> DominatedRegion:
        """The region that the archive dominates."""
        if self._cover is None:
            self._cover = DominatedRegion(self.values)
        return self._cover

    def add(self, values: Values, points: Points) -> bool:
        """Adds undominated points and drops those that they dominate.

        Returns:
            Whether the archive changed.
        """
        self.adds += 1
        fresh = np.flatnonzero(~self.cover.reaches(values, fast=True))
        fresh = fresh[nondominated(values[fresh])]
        joined = np.concatenate([self.values, values[fresh]])
        kept = nondominated(joined)
        if not kept[len(self) :].any():
            return False
        self.points = np.concatenate([self.points, points[fresh]])[kept]
        self.born = np.concatenate([self.born, np.full(len(fresh), self.adds)])[kept]
        self.values = joined[kept]
        self._cover = None
        return True


@dataclass(frozen=True)
class Proof:
    """Account of every point of a searched space: infeasible, dominated and evaluated ones add up to it.

    Attributes:
        points: points of the space.
        infeasible: points cut in boxes that cannot meet a limit, by the limit's name.
        dominated: points cut in boxes whose lower bound the front dominates.
        evaluated: points evaluated one by one.
        boxes: boxes bounded.
        tried: points evaluated before the branching, to have a front to cut with; the other counts have them again.
        scored: points scored by the exact scorer.
        recalled: points that took their score from an equal one.
        gap: largest relative distance of an exact score above the last bound that it had before.
        unscored: points left without a score because the scorer's budget was used up; 0 if the front is exact.
        cpu_s: CPU seconds of the whole search.
    """

    points: int
    infeasible: Mapping[str, int]
    dominated: int
    evaluated: int
    boxes: int
    tried: int
    scored: int = 0
    gap: float = 0.0
    unscored: int = 0
    recalled: int = 0
    cpu_s: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        settled = sum(self.infeasible.values()) + self.dominated + self.evaluated
        if settled != self.points:
            raise ValueError(f"{settled} points settled of {self.points}; legal: all of them, each once")

    @property
    def exact(self) -> bool:
        """Whether the front is proven."""
        return not self.unscored

    def __str__(self) -> str:
        cut = ", ".join(f"{count:,} by {name}" for name, count in self.infeasible.items()) or "none"
        equal = f" and {self.recalled:,} as equal ones" if self.recalled else ""
        scored = f"; {self.scored:,} scored exactly{equal}, largest gap {100 * self.gap:.2f} %" if self.scored else ""
        open_end = "" if self.exact else f"; NOT PROVEN, {self.unscored:,} points unscored"
        return (
            f"{self.points:,} points: cut as infeasible {cut}; {self.dominated:,} cut by bounds of the objectives; "
            f"{self.evaluated:,} evaluated; {self.boxes:,} boxes, {self.tried:,} tried first{scored}{open_end}; "
            f"{self.cpu_s:.2f} CPU-s"
        )


@dataclass(frozen=True, kw_only=True)
class Attempt(Proof):
    """Account of a search without a proof: most points were never evaluated.

    Attributes:
        strategy: name of the strategy.
        seed: seed of its random numbers.
        feasible: of the points evaluated, those that meet every limit and can be built.
    """

    strategy: str
    seed: int
    feasible: int

    def __post_init__(self) -> None:
        if not 0 <= self.feasible <= self.evaluated <= self.points:
            counts = f"{self.feasible} feasible of {self.evaluated} evaluated of {self.points} points"
            raise ValueError(f"{counts}; legal: never more than there are")

    @property
    def exact(self) -> bool:
        """False: a heuristic proves nothing, even if it evaluated every point."""
        return False

    def __str__(self) -> str:
        return (
            f"heuristic {self.strategy}, seed {self.seed}, NOT PROVEN: {self.evaluated:,} of {self.points:,} points "
            f"evaluated, {self.feasible:,} of them feasible; {self.cpu_s:.2f} CPU-s"
        )


@dataclass(frozen=True)
class Front:
    """All non-dominated points of a problem, one per objective vector, ascending by the objectives in order.

    Attributes:
        objectives: names, all minimised.
        values: objective vectors, one per row.
        parameters: per axis, the value of every point.
        proof: account of the points of the space; its ``exact`` says whether the front is proven.
    """

    objectives: tuple[str, ...]
    values: Values
    parameters: Mapping[str, NDArray[np.int64]]
    proof: Proof

    def __post_init__(self) -> None:
        shape = (len(next(iter(self.parameters.values()))), len(self.objectives))
        if self.values.shape != shape:
            raise ValueError(f"values of shape {self.values.shape}; legal: {shape}, points by objectives")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def rows(self) -> list[dict[str, int | float]]:
        """One mapping per point: the parameters, then the objectives."""
        columns = {name: values.tolist() for name, values in self.parameters.items()}
        columns |= {name: self.values[:, j].tolist() for j, name in enumerate(self.objectives)}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def best(self, objective: str) -> dict[str, int | float]:
        """The row with the least value of an objective.

        Raises:
            ValueError: no such objective, or no point at all.
        """
        if objective not in self.objectives or not len(self):
            raise ValueError(f"best {objective!r} of {len(self)} points; legal: one of {self.objectives}, of a point")
        return self.rows[int(np.argmin(self.values[:, self.objectives.index(objective)]))]

    def table(self, limit: int | None = 20) -> str:
        """The points as text, one line each, at most `limit`, evenly spaced, with the proof below."""
        names = [*self.objectives, *self.parameters]
        lines = [[_short(row[name]) for name in names] for row in self._shown(limit)]
        widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
        text = [" ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in (names, *lines)]
        more = [f"{len(lines)} of {len(self)} points"] if len(lines) < len(self) else []
        return "\n".join([*text, *more, str(self.proof)])

    def _shown(self, limit: int | None) -> list[dict[str, int | float]]:
        rows = self.rows
        if limit is None or len(rows) <= limit:
            return rows
        return [rows[i] for i in np.linspace(0, len(rows) - 1, limit).round().astype(int)]

    def plot(self, x: str | None = None, y: str | None = None) -> Picture:
        """Scatter plot of two columns, by default the first two objectives; shows itself in notebooks."""
        return scatter(self.rows, x, y, objectives=self.objectives)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.table())}</pre>"

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Volume between the front and a reference point; see `hypervolume`."""
        return hypervolume(self.values, reference)


def _short(value: int | float) -> str:
    return f"{int(value)}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def hypervolume(values: Values, reference: Sequence[float]) -> float:
    """Volume of the region that vectors dominate below a reference point, exact but for rounding.

    Args:
        values: one vector per row.
        reference: the point; vectors above it in any coordinate add nothing.

    >>> hypervolume(np.array([[0.0, 1.0], [1.0, 0.0]]), (2.0, 2.0))
    3.0
    """
    corner = np.asarray(reference, dtype=np.float64)
    if values.ndim != 2 or corner.shape != (values.shape[1],):
        raise ValueError(f"reference of {corner.size} coordinates for vectors of shape {values.shape}; legal: as many")
    inside = values[(values < corner).all(axis=1)]
    return _volume(inside[nondominated(inside)], corner)


def _volume(rows: Values, corner: Values) -> float:
    """Volume that rows below the corner dominate; they need not be non-dominated."""
    if not len(rows):
        return 0.0
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    if rows.shape[1] == 1:
        return float(corner[0] - rows[0, 0])
    heights = np.diff(np.append(rows[:, -1], corner[-1]))
    if rows.shape[1] == 2:
        return float(((corner[0] - np.minimum.accumulate(rows[:, 0])) * heights).sum())
    return sum(_volume(rows[: i + 1, :-1], corner[:-1]) * float(h) for i, h in enumerate(heights) if h > 0)
