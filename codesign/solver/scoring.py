"""Exact scores of points whose objectives are only bounded by a problem's terms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codesign.errors import CheckError
from codesign.solver.front import Archive, Mask, Points, Values, nondominated
from codesign.solver.problem import Inputs, Problem


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


class PointScorer:
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

        Scores only points whose bound no other waiting point's bound dominates; exact scoring of these is unavoidable.
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
        return self.problem.point(self._points[i])

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
            scores = ((each, self._cached_score(self.problem.point(each))) for each in options)
            same = (each for each, found in scores if found is not None and [*found] == values[i])
            points[i] = next(same, points[i])
        return points
