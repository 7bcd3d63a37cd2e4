"""Evolutionary searches through pymoo, to set beside the exact one: they find good points and prove nothing.

Every axis is an index variable; a point that breaks limits is worth less the further it breaks them. What is
returned is the best of all points looked at, not the last population alone.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.branch import Progress
from codesign.designspace import DesignSpace
from codesign.errors import NothingFits, ToolError
from codesign.front import Archive, Front, Points, Proof, Values
from codesign.problem import Problem

ALGORITHMS = {"nsga2": ("nsga2", "NSGA2"), "age-moea2": ("age2", "AGEMOEA2")}
"""Strategies by name: the module of pymoo's multi-objective algorithms and the class."""
STRATEGIES = ("exact", *ALGORITHMS)
"""What designs may be searched with."""
EVALUATIONS = 1000
"""Designs that a heuristic looks at unless another number is given; each takes as long as its exact timing."""
POPULATION = 20
"""Points per generation unless another number is given."""
_IDLE = 20
"""Generations in a row without a new point after which it ends."""
INSTALL = "pip install 'codesign[heuristics]'"
"""What gets the library."""

Score = Callable[[Mapping[str, int]], Mapping[str, float] | None]
"""Exact objectives of a design by name; None if it cannot be built."""


@dataclass(frozen=True, kw_only=True)
class Attempt(Proof):
    """What a heuristic did: no proof, and most points were never looked at.

    Attributes:
        strategy: its name.
        seed: of its random numbers.
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
        """Never: even a heuristic that saw every point does not know it."""
        return False

    def __str__(self) -> str:
        return (
            f"heuristic {self.strategy}, seed {self.seed}, NOT PROVEN: {self.evaluated:,} of {self.points:,} points "
            f"evaluated, {self.feasible:,} of them feasible; {self.cpu_s:.2f} CPU-s"
        )


def searched(
    space: DesignSpace,
    strategy: str,
    objectives: tuple[str, ...],
    *,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Front:
    """The best designs of a space that a strategy finds; only those of ``exact`` are proven.

    Args:
        space: the designs.
        strategy: one of `STRATEGIES`.
        objectives: as `DesignSpace.search` takes them.
        evaluations: designs that a heuristic looks at.
        seed: of a heuristic.
        progress: told how far it is.

    Raises:
        NothingFits: a heuristic met no design that fits.
        ToolError: pymoo is missing or fails.
    """
    if strategy == STRATEGIES[0]:
        return space.search(objectives, progress=progress)
    found = evolve(
        space.problem(objectives), strategy, evaluations=evaluations, score=space.evaluate, seed=seed, progress=progress
    )
    if not len(found):
        more = f"in {evaluations} evaluations, which proves nothing; legal: a larger budget, or strategy exact"
        raise NothingFits(f"{strategy} met no design that fits {more}")
    return found


def evolve(
    problem: Problem,
    strategy: str,
    *,
    evaluations: int,
    score: Score | None = None,
    population: int = POPULATION,
    seed: int = 0,
    progress: Progress | None = None,
) -> Front:
    """The best points that an evolutionary search sees; the same arguments give the same front.

    Args:
        problem: what to search.
        strategy: one of `ALGORITHMS`.
        evaluations: points evaluated at most.
        score: the objectives instead of the problem's terms, asked for points that meet all limits.
        population: points per generation.
        seed: of the random numbers.
        progress: told after every generation how many points were evaluated, of how many, and the front's size.

    Raises:
        ValueError: an unknown strategy, or numbers below 1.
        ToolError: pymoo is missing or fails.
    """
    if strategy not in ALGORITHMS or min(evaluations, population) < 1:
        legal = f"one of {', '.join(ALGORITHMS)}, at least 1"
        raise ValueError(f"strategy {strategy!r}, {evaluations} evaluations, {population} at once; legal: {legal}")
    start, seen = process_time(), _Seen(problem, score)
    for points in _generations(problem, strategy, min(population, evaluations), seed, seen):
        seen.look(points, evaluations - len(seen.known))
        if progress is not None:
            progress(len(seen.known), evaluations, len(seen.archive))
        if len(seen.known) >= evaluations:
            break
    found = seen.archive
    order = np.lexsort(found.values.T[::-1])
    attempt = Attempt(
        problem.size, {}, 0, len(seen.known), 0, 0, seen.scored,
        cpu_s=process_time() - start, strategy=strategy, seed=seed, feasible=seen.feasible,
    )  # fmt: skip
    return Front(problem.objectives, found.values[order], problem.parameters(found.points[order]), attempt)


class _Seen:
    """Every point evaluated, each once, and the best of them.

    Attributes:
        known: objectives and excess over each limit by point.
        archive: the front of the feasible ones.
        feasible: how many are.
        scored: how often the score was asked.
    """

    def __init__(self, problem: Problem, score: Score | None) -> None:
        self.problem, self.score = problem, score
        self.known: dict[bytes, tuple[Values, Values]] = {}
        self.archive = Archive(len(problem.objectives), len(problem.axes))
        self.feasible, self.scored = 0, 0
        self._scale = np.array([abs(limit) or 1.0 for limit in problem.limits.values()])

    def look(self, points: Points, most: int) -> None:
        """Evaluates the points that are not known yet, at most so many."""
        new = {point.tobytes(): point for point in points if point.tobytes() not in self.known}
        fresh = np.array([*new.values()][:most], np.int64)
        if not len(fresh):
            return
        values, excess = self._evaluated(fresh)
        good = (excess <= 0).all(axis=1)
        self.feasible += int(good.sum())
        self.archive.add(values[good], fresh[good])
        for point, value, over in zip(fresh, values, excess, strict=True):
            self.known[point.tobytes()] = value, over

    def told(self, points: Points) -> tuple[Values, Values]:
        """Objectives and excess of points looked at."""
        values, excess = zip(*(self.known[point.tobytes()] for point in points), strict=True)
        return np.stack(values), np.stack(excess)

    def _evaluated(self, points: Points) -> tuple[Values, Values]:
        """Objectives; and the excess over each limit as a share of it, the last one of a design not to be built."""
        if self.score is None:
            found = self.problem.evaluate(points)
            return found.values, np.concatenate([found.excess / self._scale, np.zeros((len(points), 1))], axis=1)
        parameters, limits = self.problem.parameters(points), self.problem.limits
        terms = self.problem.compute(parameters, limits)
        over = [np.broadcast_to(terms[name] - limit, len(points)) for name, limit in limits.items()]
        excess = np.stack([*over, np.zeros(len(points))], axis=1) / np.append(self._scale, 1.0)
        values = np.zeros((len(points), len(self.problem.objectives)))
        for i in np.flatnonzero((excess <= 0).all(axis=1)):
            self.scored += 1
            exact = self.score({name: int(column[i]) for name, column in parameters.items()})
            if exact is None:
                excess[i, -1] = 1.0
            else:
                values[i] = [exact[name] for name in self.problem.objectives]
        return values, excess


def _generations(problem: Problem, strategy: str, population: int, seed: int, seen: _Seen) -> Iterator[Points]:
    """What pymoo wants to have looked at, a generation at a time, until nothing new comes."""
    top = np.array(problem.shape) - 1
    free = np.flatnonzero(top)
    model, algorithm = _algorithm(top[free], problem, strategy, population)
    if not len(free):
        yield top[None]
        return
    _quietly(algorithm.setup, model, termination=_pymoo("core.termination", "NoTermination")(), seed=seed)
    idle = 0
    while idle < _IDLE and len(seen.known) < problem.size and (asked := _quietly(algorithm.ask)) is not None:
        before, points = len(seen.known), np.zeros((len(asked), len(top)), np.int64)
        points[:, free] = asked.get("X")
        yield points
        idle = 0 if len(seen.known) > before else idle + 1
        values, excess = seen.told(points)
        told = _pymoo("problems.static", "StaticProblem")(model, F=values, G=excess)
        _quietly(_pymoo("core.evaluator", "Evaluator")().eval, told, asked)
        _quietly(algorithm.tell, infills=asked)


def _algorithm(top: NDArray[np.int64], problem: Problem, strategy: str, population: int) -> tuple[Any, Any]:
    """Pymoo's problem of index variables up to ``top``, and the algorithm as its guide sets it up for such."""
    module, name = ALGORITHMS[strategy]
    kind, repair = _pymoo(f"algorithms.moo.{module}", name), _pymoo("operators.repair.rounding", "RoundingRepair")()
    model = _pymoo("core.problem", "Problem")(
        n_var=len(top), n_obj=len(problem.objectives), n_ieq_constr=len(problem.limits) + 1, xl=0 * top, xu=top,
        vtype=int,
    )  # fmt: skip
    algorithm = kind(
        pop_size=population,
        sampling=_pymoo("operators.sampling.rnd", "IntegerRandomSampling")(),
        crossover=_pymoo("operators.crossover.sbx", "SBX")(prob=1.0, eta=3.0, vtype=float, repair=repair),
        mutation=_pymoo("operators.mutation.pm", "PM")(prob=1.0, eta=3.0, vtype=float, repair=repair),
    )
    return model, algorithm


def _pymoo(module: str, name: str) -> Any:
    """Something of pymoo; it raises more than ImportError where a library of its own is missing.

    Raises:
        ToolError: it is missing.
    """
    try:
        return getattr(importlib.import_module(f"pymoo.{module}"), name)
    except Exception as error:
        raise ToolError(
            f"pymoo is missing or incomplete ({' '.join(str(error).split())}); to get it: {INSTALL}"
        ) from error


def _quietly(action: Any, *arguments: Any, **options: Any) -> Any:
    """Calls pymoo; what it divides by zero on a front of one point is its own affair.

    Raises:
        ToolError: whatever it raises.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return action(*arguments, **options)
    except Exception as error:
        raise ToolError(f"pymoo failed: {' '.join(str(error).split())}") from error
