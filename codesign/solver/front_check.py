"""Independent check of a front by brute force, from the problem's formulas and exact scores alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.solver.front import Front, Points, Values
from codesign.solver.problem import Problem
from codesign.solver.scoring import ExactScorer

_CHUNK = 1 << 17
"""Points evaluated at once."""
_BESIDE = 300
"""Most points next to the front that a check scores."""


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
        found = refine.score(problem.point(place))
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
            f"{problem.point(point)} with the objectives {exact[0].tolist()} is not dominated by the front"
        )
