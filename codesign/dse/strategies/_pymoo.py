"""Evolutionary searches by pymoo, to compare the exact one with: they find good points and prove nothing.

Every axis is an index variable; points that break limits rank lower the further they break them. The result is the
best of all points evaluated, not of the last population alone.
"""

import importlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.dse.strategies import Score, Space
from codesign.errors import ToolError
from codesign.solver.branch import Progress
from codesign.solver.front import Archive, Attempt, Front, Points, Values
from codesign.solver.problem import Problem

INSTALL = "pip install 'codesign[heuristics]'"
"""Command that installs the library."""

_NEEDED = ("pymoo", "numba")
_POPULATION, _GENERATIONS = 20, 100
"""Fewest points per generation; more where `_GENERATIONS` of these would not use up the evaluations."""
_IDLE = 20
"""Generations in a row without a new point after which a search ends."""


@dataclass(frozen=True)
class Evolutionary:
    """A multi-objective algorithm of pymoo as a `codesign.dse.strategies.Strategy`.

    Attributes:
        name: of the strategy.
        module: in ``pymoo.algorithms.moo``.
        kind: the class in it.
    """

    name: str
    module: str
    kind: str

    def missing(self) -> str | None:
        """Missing packages and the command that installs them; None if all are installed."""
        absent = [name for name in _NEEDED if find_spec(name) is None]
        return f"no {' and '.join(absent)}; install: {INSTALL}" if absent else None

    def search(
        self,
        space: Space,
        objectives: tuple[str, ...],
        *,
        evaluations: int,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Front:
        """The best points evaluated; see `codesign.dse.strategies.Strategy.search`.

        Raises:
            ValueError: no evaluations.
            ToolError: pymoo is missing or fails.
        """
        if evaluations < 1:
            raise ValueError(f"{evaluations} evaluations; legal: at least 1")
        problem = space.problem(objectives)
        start, seen = process_time(), _Seen(problem, space.evaluate)
        for points in self._generations(problem, evaluations, seed, seen):
            seen.look(points, evaluations - len(seen.known))
            if progress is not None:
                progress(len(seen.known), evaluations, len(seen.archive))
            if len(seen.known) >= evaluations:
                break
        return seen.front(self.name, seed, process_time() - start)

    def _generations(self, problem: Problem, evaluations: int, seed: int, seen: "_Seen") -> Iterator[Points]:
        """Yields the points that pymoo asks for, by generation, until no new ones come."""
        top = np.array(problem.shape) - 1
        free = np.flatnonzero(top)
        model, algorithm = self._algorithm(top[free], problem, evaluations)
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

    def _algorithm(self, top: NDArray[np.int64], problem: Problem, evaluations: int) -> tuple[Any, Any]:
        """Pymoo's problem of index variables up to ``top``, and the algorithm set up for them as its guide advises."""
        kind = _pymoo(f"algorithms.moo.{self.module}", self.kind)
        repair = _pymoo("operators.repair.rounding", "RoundingRepair")()
        model = _pymoo("core.problem", "Problem")(
            n_var=len(top), n_obj=len(problem.objectives), n_ieq_constr=len(problem.limits) + 1, xl=0 * top, xu=top,
            vtype=int,
        )  # fmt: skip
        algorithm = kind(
            pop_size=min(max(_POPULATION, evaluations // _GENERATIONS), evaluations),
            sampling=_pymoo("operators.sampling.rnd", "IntegerRandomSampling")(),
            crossover=_pymoo("operators.crossover.sbx", "SBX")(prob=1.0, eta=3.0, vtype=float, repair=repair),
            mutation=_pymoo("operators.mutation.pm", "PM")(prob=1.0, eta=3.0, vtype=float, repair=repair),
        )
        return model, algorithm


class _Seen:
    """Every point evaluated, each once, and the best of them.

    Attributes:
        known: objectives and excess over each limit by point.
        archive: the front of the feasible ones.
        feasible: number of feasible points.
        scored: number of calls of the score.
    """

    def __init__(self, problem: Problem, score: Score | None) -> None:
        self.problem, self.score = problem, score
        self.known: dict[bytes, tuple[Values, Values]] = {}
        self.archive = Archive(len(problem.objectives), len(problem.axes))
        self.feasible, self.scored = 0, 0
        self._scale = np.array([abs(limit) or 1.0 for limit in problem.limits.values()])

    def look(self, points: Points, most: int) -> None:
        """Evaluates those points that are not known yet, at most ``most``."""
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

    def front(self, strategy: str, seed: int, cpu_s: float) -> Front:
        """The best points as a front, with the counts of the attempt."""
        problem, found = self.problem, self.archive
        order = np.lexsort(found.values.T[::-1])
        attempt = Attempt(
            problem.size, {}, 0, len(self.known), 0, 0, self.scored,
            cpu_s=cpu_s, strategy=strategy, seed=seed, feasible=self.feasible,
        )  # fmt: skip
        return Front(problem.objectives, found.values[order], problem.parameters(found.points[order]), attempt)

    def told(self, points: Points) -> tuple[Values, Values]:
        """Objectives and excess of points evaluated before."""
        values, excess = zip(*(self.known[point.tobytes()] for point in points), strict=True)
        return np.stack(values), np.stack(excess)

    def _evaluated(self, points: Points) -> tuple[Values, Values]:
        """Objectives, and excess over each limit as a share of it; a last column is 1 if the design cannot be built."""
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


def _pymoo(module: str, name: str) -> Any:
    """An attribute of pymoo, which raises more than ImportError if a dependency is missing.

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
    """Calls pymoo without warnings, as of divisions by zero on a front of one point.

    Raises:
        ToolError: the call raises anything.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return action(*arguments, **options)
    except Exception as error:
        raise ToolError(f"pymoo failed: {' '.join(str(error).split())}") from error
