"""Exact search: the whole front of a problem, with the proof, and an independent check of it.

A few points are tried and improved first, so that there is a front to cut with; then `codesign.solver.branch` settles
every point of the space.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from math import prod
from time import process_time

import numpy as np
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.gc_pause import uncollected
from codesign.solver.branch import Branching, Progress
from codesign.solver.front import Archive, DominatedRegion, Front, Mask, Points, Proof, Values, nondominated
from codesign.solver.interval_bounds import Bounder, Bounds, Nodes
from codesign.solver.problem import Inputs, Problem

_STARTS = 4096
_FEW = 256
"""Random starts, and their number if objectives are expensive."""
_TRIES, _ROUNDS = 1 << 21, 4
"""Most points tried, and rounds of improvement if objectives are expensive."""
_DIVE = 2000
"""Boxes kept by the initial dive for expensive objectives."""
_WIDE = 1 << 18
"""Boxes bounded at once if objectives are expensive, as calls cost more than boxes."""
_CROWD, _SCOUTS = 1 << 13, 50
"""Waiting points above which a few are scored early, to cut many others, and the number of these few."""
_POOL = 1 << 17
_CHUNK = 1 << 17
_BESIDE = 300
"""Most points next to the front that a check scores."""


@dataclass(frozen=True)
class ExactScorer:
    """An expensive exact scorer for objectives whose terms are only lower bounds of them.

    Attributes:
        objectives: the names of those objectives.
        score: their exact values for the parameters of one design, in that order; None if it cannot be built.
        budget: most designs scored; points left over are counted, and the front is not proven.
        told: called with the number of designs scored, after each.
        cheap_bound: better lower bounds of many designs at once, a row each, from their parameters.
        tight_bound: tighter but costlier lower bounds, for the designs that `cheap_bound` does not exclude; called
            after the first designs are scored, so it may use what those scores showed.
        cached_score: the score of a design if it is known to equal that of one already scored, else None; quick. Of
            designs with equal objectives, the front then has the one that uses the least of the limited terms.
        spare: axes whose values are often larger than a design needs, so that smaller ones take the same score.
    """

    objectives: tuple[str, ...]
    score: Callable[[Mapping[str, int]], Sequence[float] | None]
    budget: int | None = None
    told: Callable[[int], None] | None = None
    cheap_bound: Callable[[Inputs], Values] | None = None
    tight_bound: Callable[[Inputs], Values] | None = None
    cached_score: Callable[[Mapping[str, int]], Sequence[float] | None] | None = None
    spare: tuple[str, ...] = ()


@uncollected()
def search(
    problem: Problem,
    *,
    refine: ExactScorer | None = None,
    progress: Progress | None = None,
    block: int = 1 << 15,
    cells: int = 1 << 18,
) -> Front:
    """All non-dominated feasible points of a problem, with the proof.

    Of points with equal objectives one is returned: no single axis of it can be set to a lower value without
    changing an objective or breaking a limit; with `refine` it is the first one scored, but see
    `ExactScorer.cached_score`.
    The same problem gives the same front every time.

    Args:
        problem: what to search.
        refine: exact scores instead of bounds; every point whose bound no score dominates is scored.
        progress: called after every block; with `refine` the space may be searched twice.
        block: boxes bounded at once; sets the memory used. More where terms are expensive to bound.
        cells: terms of at most so many combinations of values are tabulated; one that is not needs directions, or
            else no box is cut by it before its axes are single values (see `interval_bounds.Bounder.late`).

    Returns:
        The front, empty if nothing is feasible.

    Raises:
        CheckError: a term is not a finite number, or a score lies below its bound.
    """
    start = process_time()
    bounder = Bounder(problem, cells)
    engine = _Engine(bounder, max(block, _WIDE) if bounder.lazy else block, progress)
    if refine is None:
        archive, proof = engine.front()
        points, values = engine.climber.lowered(archive.points), archive.values
    else:
        points, values, proof = _refined(engine, refine)
    _check_finite(problem, points, values)
    order = np.lexsort(values.T[::-1])
    proof = replace(proof, cpu_s=process_time() - start)
    return Front(problem.objectives, values[order], problem.parameters(points[order]), proof)


def _check_finite(problem: Problem, points: Points, values: Values) -> None:
    for i, j in np.argwhere(~np.isfinite(values))[:1]:
        where = _design(problem, points[i])
        raise CheckError(f"objective {problem.objectives[j]} is not a finite number at {where}")


def _design(problem: Problem, point: Points) -> dict[str, int]:
    """Parameters of one point."""
    return {name: values[at] for (name, values), at in zip(problem.axes.items(), point.tolist(), strict=True)}


class _Engine:
    """Tries some points, then branches over all."""

    def __init__(self, bounder: Bounder, block: int, progress: Progress | None) -> None:
        self.problem, self.bounder, self.block, self.progress = bounder.problem, bounder, block, progress
        self.climber = _Climber(bounder, block)

    def front(self) -> tuple[Archive, Proof]:
        """Front and proof by the objectives' terms."""
        archive = self.tries()

        def sink(values: Values, points: Points) -> None:
            first = not len(archive)
            archive.add(values, points)
            if first:
                self.climber.climb(archive, points[:0])

        return archive, self.branch(archive, sink)

    def tries(self) -> Archive:
        """A front of some points to cut boxes with."""
        archive = Archive(len(self.problem.objectives), len(self.problem.axes))
        if self.bounder.lazy and self.problem.size > 1:
            archive.add(*self._dive(archive))
        if not len(archive):
            self.climber.climb(archive, self._starts())
        return archive

    def _dive(self, archive: Archive) -> tuple[Values, Points]:
        guide = Archive(len(self.problem.objectives), len(self.problem.axes))
        guide.add(*self.climber.feasible(self._random(_STARTS), asking=False))
        values, points = Branching(self.bounder, archive, self.block).dive(guide.cover, _DIVE)
        self.climber.tried += _STARTS + len(points)
        return values, points

    def branch(self, archive: Archive, sink: Callable[[Values, Points], None]) -> Proof:
        """Hands the feasible points that the archive does not dominate to the sink."""
        if self.problem.size == 1:
            sink(*self.climber.feasible(self._starts()[:1]))
            return Proof(1, {}, 0, 1, 0, self.climber.tried)
        tally = Branching(self.bounder, archive, self.block).run(sink, self.progress)
        return tally.proof(self.problem, self.climber.tried)

    def _starts(self) -> Points:
        """Both corners and some random points."""
        top = np.array(self.problem.shape) - 1
        return np.concatenate([[0 * top, top], self._random(_FEW if self.bounder.lazy else _STARTS)])

    def _random(self, count: int) -> Points:
        return np.random.default_rng(0).integers(0, self.problem.shape, (count, len(self.problem.axes)))


class _Climber:
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
        """The points with every axis as low as it can be, alone, without changing an objective."""
        points, before = points.copy(), points[:0]
        while len(points) and not np.array_equal(points, before):
            before = points.copy()
            for axis, count in enumerate(self.problem.shape):
                self._ask(points, [axis], None)
                values, ok = self._lines(points, axis, np.arange(count)[None, :])
                here = values[np.arange(len(points)), points[:, axis]]
                points[:, axis] = np.argmax(ok & (values == here[:, None]).all(axis=-1), axis=1)
        return points


# Exact scores.


def _refined(engine: _Engine, refine: ExactScorer) -> tuple[Points, Values, Proof]:
    """The front of exact scores: scores points on or near the front of bounds, then all that may still matter."""
    scorer = _PointScorer(engine.problem, refine)
    archive = engine.tries() if engine.bounder.lazy else engine.front()[0]
    scorer.take(*engine.climber.feasible(engine.climber.raised(archive.points, refine), asking=False))
    scorer.settle(0, lifting=False)
    scorer.unscored = 0  # branching hands these over again

    def sink(values: Values, points: Points) -> None:
        scorer.take(values, points)
        if scorer.waiting > _CROWD:
            scorer.scout(_SCOUTS)
        if scorer.waiting > _POOL:
            scorer.settle(_POOL // 2)

    proof = engine.branch(scorer.archive, sink)
    scorer.settle(0)
    proof = replace(proof, scored=scorer.scored, recalled=scorer.recalled, gap=scorer.gap, unscored=scorer.unscored)
    return scorer.spared(partial(engine.climber.alike, refine=refine)), scorer.archive.values, proof


class _PointScorer:
    """Points that wait for an exact score, and the front of those that have one.

    Attributes:
        archive: the front of exact scores.
        known: the points scored or found not to be buildable.
        scored, recalled: how many were scored, and how many took the score of an equal one.
        gap: the largest relative distance of a score above its bound.
        unscored: points dropped because the budget was used up.
    """

    def __init__(self, problem: Problem, refine: ExactScorer) -> None:
        if not set(refine.objectives) <= set(problem.objectives) or not refine.objectives:
            raise ValueError(f"refined objectives {refine.objectives}; legal: some of {problem.objectives}")
        self.problem, self.refine = problem, refine
        self.archive = Archive(len(problem.objectives), len(problem.axes))
        self.known: set[bytes] = set()
        self.scored, self.recalled, self.gap, self.unscored = 0, 0, 0.0, 0
        self._columns = [problem.objectives.index(name) for name in refine.objectives]
        self._values, self._points = self.archive.values, self.archive.points
        self._lifted: Mask = np.zeros(0, np.bool_)

    @property
    def waiting(self) -> int:
        """Number of points without a score."""
        return len(self._values)

    def take(self, values: Values, points: Points) -> None:
        """Adds undominated points with their objectives' bounds."""
        keep = ~self.archive.cover.reaches(values)
        values, points = values[keep], points[keep]
        if len(points):
            values = self._raise_bounds(self.refine.cheap_bound, values, points)
        self._values = np.concatenate([self._values, values])
        self._points = np.concatenate([self._points, points])
        self._lifted = np.concatenate([self._lifted, np.zeros(len(values), np.bool_)])

    def scout(self, most: int) -> None:
        """Scores up to ``most`` points that no other waiting one dominates, spread over these."""
        self._filter()
        chosen = np.flatnonzero(nondominated(self._values, ties=True))
        for i in chosen[:: 1 + len(chosen) // most][: self._left()]:
            self._score(int(i))
        self._filter()

    def settle(self, most: int, *, lifting: bool = True) -> None:
        """Scores points until at most ``most`` wait, the others being scored or dominated.

        Only points are scored that must be anyway: no bound of a waiting point dominates theirs, so no score will.
        """
        self._filter()
        while self.waiting > most:
            if self._left() == 0:
                self.unscored += self.waiting
                return self._keep(np.zeros(self.waiting, dtype=np.bool_))
            loose = np.flatnonzero(~self._lifted)
            if lifting and len(loose) and self.refine.tight_bound is not None:
                self._values[loose] = self._raise_bounds(
                    self.refine.tight_bound, self._values[loose], self._points[loose]
                )
                self._lifted[loose] = True
            else:
                chosen = np.flatnonzero(nondominated(self._values, ties=True))
                for i in chosen[: self._left()]:
                    self._score(int(i))
            self._filter()
        return None

    def _raise_bounds(self, bound: Callable[[Inputs], Values] | None, values: Values, points: Points) -> Values:
        """Bounds, raised to ``bound`` where that is higher."""
        if bound is None:
            return values
        raised = values.copy()
        found = bound(self.problem.parameters(points))
        raised[:, self._columns] = np.maximum(raised[:, self._columns], found)
        return raised

    def _left(self) -> int | None:
        """Scores left in the budget; None without one."""
        return None if self.refine.budget is None else max(0, self.refine.budget - self.scored)

    def _filter(self) -> None:
        """Drops points that are dominated or known."""
        keep = ~self.archive.cover.reaches(self._values)
        keep[keep] = [point.tobytes() not in self.known for point in self._points[keep]]
        self._keep(keep)

    def _keep(self, keep: Mask) -> None:
        self._values, self._points, self._lifted = self._values[keep], self._points[keep], self._lifted[keep]

    def _design(self, i: int) -> dict[str, int]:
        return _design(self.problem, self._points[i])

    def _score(self, i: int) -> None:
        """Scores a point unless the scores of its round already dominate it."""
        bound, key = self._values[i], self._points[i].tobytes()
        if key in self.known or self.archive.cover.reaches(bound[None])[0]:
            return
        self.known.add(key)
        found = self._exact(self._design(i))
        if found is None:
            return
        exact = bound.copy()
        exact[self._columns] = found
        if not (exact >= bound).all() or not np.isfinite(exact).all():
            raise CheckError(
                f"scores {[*found]} of {self._design(i)} are not finite or below the bounds"
                f" {bound[self._columns].tolist()}"
            )
        self.gap = max(self.gap, float(((exact - bound) / np.where(exact == 0, 1.0, np.abs(exact))).max()))
        self.archive.add(exact[None], self._points[i : i + 1])

    def _exact(self, design: Mapping[str, int]) -> Sequence[float] | None:
        found = self._cached_score(design)
        if found is not None:
            self.recalled += 1
            return found
        self.scored += 1
        found = self.refine.score(design)
        if self.refine.told is not None:
            self.refine.told(self.scored)
        return found

    def _cached_score(self, design: Mapping[str, int]) -> Sequence[float] | None:
        return None if self.refine.cached_score is None else self.refine.cached_score(design)

    def spared(self, alike: Callable[[Points], list[Points]]) -> Points:
        """The points of the front, each replaced by the first of its ``alike`` ones known to have its score."""
        points, values = self.archive.points.copy(), self.archive.values[:, self._columns].tolist()
        for i, options in enumerate(alike(points) if self.refine.cached_score is not None else ()):
            scores = ((each, self._cached_score(_design(self.problem, each))) for each in options)
            same = (each for each, found in scores if found is not None and [*found] == values[i])
            points[i] = next(same, points[i])
        return points


# The check.


@dataclass(frozen=True)
class FrontCheck:
    """Counts of points that `check_front` examined.

    Attributes:
        points: points evaluated.
        feasible: those that met every limit.
        scored: those whose exact score was needed.
    """

    points: int
    feasible: int
    scored: int


def check_front(
    problem: Problem,
    front: Front,
    *,
    seed: int,
    points: int = 1_000_000,
    spaces: int = 2,
    refine: ExactScorer | None = None,
) -> FrontCheck:
    """Checks a front by brute force, sharing nothing with the search but the problem's formulas.

    Every point of the front must be feasible, have the objectives that it states and dominate no other. Then
    all points of some random subspaces, half of them through a point of the front, are evaluated without any
    cut: the front must dominate each feasible one, or hold its vector. With a scorer, some points beside the front
    are scored whatever their bounds say.

    Args:
        problem: the problem searched.
        front: the front found.
        seed: seed for the choice of subspaces.
        points: fewest points of a subspace that is not the whole space.
        spaces: number of subspaces.
        refine: the search's scorer.

    Raises:
        CheckError: the front is wrong; the message names the point.
    """
    places = _check_members(problem, front, refine)
    random, count, feasible, scored = np.random.default_rng(seed), 0, 0, 0
    for space in range(spaces):
        through = places[random.integers(len(places))] if len(places) and space % 2 else None
        for chunk in _subspace(problem, random, points, through):
            found = problem.evaluate(chunk)
            allowed = found.feasible
            left = _undominated(front.values, found.values[allowed])
            for point in chunk[allowed][left]:
                _check_outside(problem, front, refine, point)
            count, feasible, scored = count + len(chunk), feasible + int(allowed.sum()), scored + len(left)
    beside = _beside(problem, random, places) if refine is not None and len(places) else places[:0]
    for point in beside:
        _check_outside(problem, front, refine, point)
    return FrontCheck(count + len(beside), feasible + len(beside), scored + len(beside))


def _beside(problem: Problem, random: np.random.Generator, places: Points) -> Points:
    """Some feasible points that differ from one of the front in a single axis."""
    found = places[random.integers(len(places), size=_BESIDE)]
    axes = random.integers(len(problem.shape), size=_BESIDE)
    found[np.arange(_BESIDE), axes] = random.integers(0, np.array(problem.shape)[axes])
    found = np.unique(found, axis=0)
    return found[problem.evaluate(found).feasible]


def _check_members(problem: Problem, front: Front, refine: ExactScorer | None) -> Points:
    """Positions of the front's points, each checked."""
    columns = [np.searchsorted(values, front.parameters[name]) for name, values in problem.axes.items()]
    places = np.stack(columns, axis=1)
    found = problem.evaluate(places)
    exact = _scores(problem, refine, places, found.values)
    wrong = ~found.feasible | (exact != front.values).any(axis=1)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise CheckError(f"{front.rows[i]} is infeasible or has the objectives {exact[i].tolist()}")
    for i, own in enumerate(front.values):
        if (front.values <= own).all(axis=1).sum() > 1:
            raise CheckError(f"{front.rows[i]} is dominated by another point of the front, or there twice")
    return places


def _scores(problem: Problem, refine: ExactScorer | None, places: Points, bounds: Values) -> Values:
    """Exact objectives of points."""
    exact = bounds.copy()
    for i, place in enumerate(places if refine is not None else places[:0]):
        assert refine is not None
        found = refine.score(_design(problem, place))
        exact[i, [problem.objectives.index(name) for name in refine.objectives]] = np.inf if found is None else found
    return exact


def _subspace(problem: Problem, random: np.random.Generator, points: int, through: Points | None) -> Iterator[Points]:
    """Yields the points of a subspace of at least ``points``, chunk by chunk: some axes free, the others fixed."""
    fixed = np.array([random.integers(n) for n in problem.shape]) if through is None else through
    free: list[int] = []
    for axis in random.permutation(len(problem.shape)).tolist():
        if prod(problem.shape[a] for a in free) < points:
            free.append(axis)
    for axis in [*free]:  # drops axes that later ones made needless
        if prod(problem.shape[a] for a in free if a != axis) >= points:
            free.remove(axis)
    shape = tuple(problem.shape[a] for a in free)
    size = prod(shape)
    for first in range(0, size, _CHUNK):
        inner = np.unravel_index(np.arange(first, min(first + _CHUNK, size)), shape)
        chunk = np.tile(fixed, (len(inner[0]), 1))
        chunk[:, free] = np.stack(inner, axis=1)
        yield chunk


def _undominated(members: Values, values: Values) -> NDArray[np.int64]:
    """Positions of the vectors that no member dominates or equals, found member by member."""
    left, columns = np.arange(len(values)), np.ascontiguousarray(values.T)
    sample = values[:: max(1, len(values) // 200)]
    hits = np.array([(sample >= member).all(axis=1).sum() for member in members])
    for member in members[np.argsort(-hits, kind="stable")]:  # the most useful first
        above = np.ones(len(left), dtype=np.bool_)
        for column, value in zip(columns, member, strict=True):
            above &= column >= value
        if above.any():
            left, columns = left[~above], columns[:, ~above]
    return left


def _check_outside(problem: Problem, front: Front, refine: ExactScorer | None, point: Points) -> None:
    """Checks that the front dominates the exact objectives of a point, whatever its bounds."""
    exact = _scores(problem, refine, point[None], problem.evaluate(point[None]).values)
    if np.isfinite(exact).all() and not (front.values <= exact).all(axis=1).any():
        raise CheckError(
            f"{_design(problem, point)} with the objectives {exact[0].tolist()} is not dominated by the front"
        )
