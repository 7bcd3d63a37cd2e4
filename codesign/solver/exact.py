"""Exact search: the whole front of a problem, with the proof.

A few points are tried and improved first, so that there is a front to cut with; then `codesign.solver.branch` settles
every point of the space.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import process_time

import numpy as np

from codesign.errors import CheckError
from codesign.gc_pause import uncollected
from codesign.solver.branch import Branching, Progress
from codesign.solver.climber import Climber
from codesign.solver.front import Archive, Front, Points, Proof, Values
from codesign.solver.interval_bounds import Bounder
from codesign.solver.problem import Problem
from codesign.solver.scoring import ExactScorer, PointScorer

_STARTS = 4096
_FEW = 256
"""Random starts, and their number if objectives are expensive."""
_DIVE = 2000
"""Boxes kept by the initial dive for expensive objectives."""
_WIDE = 1 << 18
"""Boxes bounded at once if objectives are expensive, as calls cost more than boxes."""
_CROWD, _SCOUTS = 1 << 13, 50
"""Waiting points above which a few are scored early, to cut many others, and the number of these few."""
_POOL = 1 << 17
"""Most points that wait for a score while the search goes on."""


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
        where = problem.point(points[i])
        raise CheckError(f"objective {problem.objectives[j]} is not a finite number at {where}")


class _Engine:
    """Tries some points, then branches over all."""

    def __init__(self, bounder: Bounder, block: int, progress: Progress | None) -> None:
        self.problem, self.bounder, self.block, self.progress = bounder.problem, bounder, block, progress
        self.climber = Climber(bounder, block)

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


def _refined(engine: _Engine, refine: ExactScorer) -> tuple[Points, Values, Proof]:
    """The front of exact scores: scores points on or near the front of bounds, then all that may still matter."""
    scorer = PointScorer(engine.problem, refine)
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
