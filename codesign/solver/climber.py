"""Local moves of points: tries them, improves them along single axes, and lowers or raises them at equal objectives."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from codesign.solver.front import Archive, DominatedRegion, Mask, Points, Values, nondominated
from codesign.solver.interval_bounds import Bounder, Bounds, Nodes
from codesign.solver.scoring import ExactScorer

_TRIES, _ROUNDS = 1 << 21, 4
"""Most points tried, and rounds of improvement if objectives are expensive."""


class Climber:
    """Evaluates points, improves them along single axes, and lowers them.

    Attributes:
        tried: points evaluated.
    """

    def __init__(self, bounder: Bounder, block: int) -> None:
        self.problem, self.bounder, self.tried = bounder.problem, bounder, 0
        self._chunk = max(1, block // sum(self.problem.shape))

    def climb(self, archive: Archive, starts: Points) -> None:
        """Adds the feasible starts, then points that differ from the archive's in one axis, until nothing changes."""
        archive.add(*self.feasible(starts))
        self.tried += len(starts)
        changed, mark, rounds = len(archive) > 0, -1, _ROUNDS if self.bounder.lazy else _TRIES
        while changed and self.tried < _TRIES and rounds:
            rounds -= 1
            fresh = archive.points[archive.born > mark]
            mark = archive.adds
            chunks = range(0, len(fresh), self._chunk)
            found = [self._around(fresh[i : i + self._chunk], archive.cover) for i in chunks]
            values, points = (np.concatenate(part) for part in zip(*found, strict=True))
            changed = archive.add(values, points)

    def feasible(self, points: Points, asking: bool = True) -> tuple[Values, Points]:
        """The feasible ones of some points and their objectives; expensive ones are bounds unless ``asking``."""
        if self.bounder.lazy and asking:
            ok = self._lines(points, 0, points[:, :1])[1][:, 0]
            boxes = self.bounder.leaves(points[ok])
            self.bounder.ask(boxes, frozenset(boxes))
        values, ok = self._lines(points, 0, points[:, :1])
        return values[:, 0][ok[:, 0]], points[ok[:, 0]]

    def _around(self, points: Points, cover: DominatedRegion) -> tuple[Values, Points]:
        """The best neighbours of points along all axes, feasible and not known to be dominated."""
        self._ask(points, range(points.shape[1]), cover)
        parts = [self._along(points, axis, cover) for axis in range(points.shape[1])]
        values, found = (np.concatenate(part) for part in zip(*parts, strict=True))
        best = nondominated(values)
        return values[best], found[best]

    def _along(self, points: Points, axis: int, cover: DominatedRegion) -> tuple[Values, Points]:
        values, ok = self._lines(points, axis, np.arange(self.problem.shape[axis])[None, :])
        self.tried += ok.size
        rows, at = np.nonzero(ok)
        values = values[rows, at]
        new = ~cover.reaches(values, fast=True)
        found = points[rows[new]]
        found[:, axis] = at[new]
        return values[new], found

    def _lines(self, points: Points, axis: int, places: Points) -> tuple[Values, Mask]:
        """Objectives and feasibility of points with one axis set to other positions, points by positions.

        Expensive objectives are lower bounds, unless they were computed before.
        """
        bounds, ok = self._bounds(points, axis, places)
        return self._objectives(bounds, ok.shape), ok

    def _bounds(self, points: Points, axis: int, places: Points) -> tuple[Bounds, Mask]:
        boxes = self._boxes(points, axis, places)
        bounds = self.bounder.over(boxes, frozenset(boxes))
        ok = np.ones((len(points), places.shape[1]), dtype=np.bool_)
        for term, limit in self.problem.limits.items():
            ok &= bounds.value(term) <= limit
        return bounds, ok

    def _boxes(self, points: Points, axis: int, places: Points) -> dict[str, Nodes]:
        boxes = {name: column[:, None] for name, column in self.bounder.leaves(points).items()}
        name = [*boxes][axis]
        shape = (len(points), places.shape[1])
        boxes[name] = np.broadcast_to(places + self.bounder.trees[name].first[-1], shape)
        return boxes

    def _ask(self, points: Points, axes: Sequence[int], cover: DominatedRegion | None) -> None:
        """Computes the expensive objectives of feasible, undominated points that differ from these in one axis."""
        found = list[Points]()
        for axis in axes if self.bounder.lazy else ():
            places = np.arange(self.problem.shape[axis])[None, :]
            values, ok = self._lines(points, axis, places)
            if cover is not None:
                ok &= ~cover.reaches(values.reshape(-1, values.shape[-1]), fast=True).reshape(ok.shape)
            rows, at = np.nonzero(ok)
            found.append(points[rows])
            found[-1][:, axis] = at
        if found:
            boxes = self.bounder.leaves(np.concatenate(found))
            self.bounder.ask(boxes, frozenset(boxes))

    def _objectives(self, bounds: Bounds, shape: tuple[int, ...]) -> Values:
        values = [np.broadcast_to(bounds.value(term), shape) for term in self.problem.objectives]
        found = np.stack(values, axis=-1).astype(np.float64)
        found[np.isnan(found)] = -np.inf
        return found

    def raised(self, points: Points, refine: ExactScorer) -> Points:
        """The points with each spare axis as high as limits and unrefined objectives allow."""
        points = points.copy()
        for axis in self._spare(refine):
            count = self.problem.shape[axis]
            values, ok = self._lines(points, axis, np.arange(count)[None, :])
            values = values[..., self._plain(refine)]
            here = values[np.arange(len(points)), points[:, axis]]
            same = ok & (values == here[:, None]).all(axis=-1)
            points[:, axis] = count - 1 - np.argmax(same[:, ::-1], axis=1)
        return points

    def _spare(self, refine: ExactScorer) -> list[int]:
        return [at for at, name in enumerate(self.problem.axes) if name in refine.spare]

    def _plain(self, refine: ExactScorer) -> list[int]:
        """Positions of the unrefined objectives."""
        return [at for at, name in enumerate(self.problem.objectives) if name not in refine.objectives]

    def alike(self, points: Points, refine: ExactScorer) -> list[Points]:
        """For each point, the feasible ones that differ in spare axes alone and in no unrefined objective.

        Those that use the least of the limits come first.
        """
        axes, shape = self._spare(refine), self.problem.shape
        places = np.array([*product(*(range(shape[axis]) for axis in axes))], np.int64)
        found = np.repeat(points, len(places), axis=0)
        same = (found[:, axes] == (tiled := np.tile(places, (len(points), 1)))).all(axis=1)
        found[:, axes] = tiled
        bounds, ok = self._bounds(found, 0, found[:, :1])
        values = self._objectives(bounds, ok.shape)[:, 0][:, self._plain(refine)]
        good = ok[:, 0] & (values == np.repeat(values[same], len(places), axis=0)).all(axis=1)
        order = np.lexsort((*found.T[::-1], self._share(bounds, len(found)), np.arange(len(found)) // len(places)))
        parts = np.split(order, len(points)) if len(points) else []
        return [found[part[good[part]]] for part in parts]

    def _share(self, bounds: Bounds, count: int) -> Values:
        """Sum, per point, of the limited terms that are no objectives, as shares of their limits."""
        limits = {name: most for name, most in self.problem.limits.items() if most > 0}
        spare = [bounds.value(name) / most for name, most in limits.items() if name not in self.problem.objectives]
        found: Values = np.zeros(count)
        for each in spare:
            found = found + np.broadcast_to(each, (count, 1))[:, 0]
        return found

    def lowered(self, points: Points) -> Points:
        """Points lowered axis by axis, within limits and at equal objectives, until no axis alone can be lower."""
        points, before = points.copy(), points[:0]
        while len(points) and not np.array_equal(points, before):
            before = points.copy()
            for axis, count in enumerate(self.problem.shape):
                self._ask(points, [axis], None)
                values, ok = self._lines(points, axis, np.arange(count)[None, :])
                here = values[np.arange(len(points)), points[:, axis]]
                points[:, axis] = np.argmax(ok & (values == here[:, None]).all(axis=-1), axis=1)
        return points
