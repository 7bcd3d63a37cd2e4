"""Design fronts for the search bench: exact fronts, and heuristics compared with them.

Each exact search runs in its own process to measure its peak memory, which includes the interpreter, the libraries
and the model.
"""

import logging
import multiprocessing
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.benchmarks.reference_problem import hypervolume_ratio
from codesign.benchmarks.row import GOAL, Row
from codesign.dse import strategies
from codesign.dse.design_space import DesignSpace
from codesign.dse.strategies import DEFAULT, ProblemSpace, searched
from codesign.errors import CheckError
from codesign.flow.build import tools
from codesign.ir.network import Network
from codesign.solver.front import Front, Values
from codesign.solver.problem import Problem
from codesign.target.board import Board

OBJECTIVES = ("latency_us", "dsp")
EVALUATIONS = 400
"""Designs evaluated by a heuristic; most of its time is exact timing."""
REFERENCE_EVALUATIONS, _WARM_EVALUATIONS = 10_000, 500
"""Points of the reference problem evaluated by a heuristic, and by its warm-up run for compilation."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Exact:
    """A proven front.

    Attributes:
        case: ``MODEL@BOARD``.
        network: the integer network.
        board: target board.
        front: Pareto front of latency and DSPs.
        peak_mb: peak memory of the search process in 1e6 bytes.
    """

    case: str
    network: Network
    board: Board
    front: Front
    peak_mb: float

    @classmethod
    def of(cls, case: str, network: Network, board: Board) -> "Exact":
        """Searches for the front in a new process.

        Raises:
            CheckError: the front is not proven.
        """
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            front, peak_mb = process.submit(_searched, network, board).result()
        _LOG.info("%s: %s", case, front.proof)
        if not front.proof.exact:
            raise CheckError(f"{case}: {front.proof}")
        return cls(case, network, board, front, peak_mb)


def _searched(network: Network, board: Board) -> tuple[Front, float]:
    """The front, and the peak memory of this process in 1e6 bytes."""
    front = DesignSpace(network, board, tools()).search(OBJECTIVES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return front, peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def chosen(strategy: str | None) -> tuple[str, ...]:
    """Strategies to compare with the exact one: the given one, none for ``exact``, all installed ones for None.

    Strategies that cannot run here are logged with the missing requirement.
    """
    if strategy is not None:
        return () if strategy == DEFAULT else (strategy,)
    others = {name: found.missing() for name, found in strategies.catalog().loaded().items() if name != DEFAULT}
    for name, reason in others.items():
        if reason is not None:
            _LOG.warning("%s is left out: %s", name, reason)
    return tuple(name for name, reason in others.items() if reason is None)


def heuristic_rows(exact: Exact, names: Sequence[str]) -> list[Row]:
    """Comparison of heuristics with a proven front of the same space.

    Raises:
        CheckError: a heuristic found a point that the front excludes, so the front is wrong.
    """
    rows = []
    for strategy in names:
        space = DesignSpace(exact.network, exact.board, tools())
        found = searched(space, strategy, OBJECTIVES, evaluations=EVALUATIONS)
        rows += _compared(f"{exact.case}:{strategy}", found, exact.front)
    return rows


def reference_rows(problem: Problem, front: Front, names: Sequence[str]) -> list[Row]:
    """Comparison of heuristics with the exact front of a `Problem`; compilation is not timed."""
    rows = []
    for strategy in names:
        space, objectives = ProblemSpace(problem), problem.objectives
        searched(space, strategy, objectives, evaluations=_WARM_EVALUATIONS)
        found = searched(space, strategy, objectives, evaluations=REFERENCE_EVALUATIONS)
        rows += _compared(f"dse-problem:{strategy}", found, front)
    return rows


def _compared(case: str, found: Front, exact: Front) -> list[Row]:
    """Figures of a heuristic's front against the exact one.

    Raises:
        CheckError: the exact front does not cover every found point, or a found point dominates one of its points.
    """
    _LOG.info("%s: %s", case, found.proof)
    beaten, missed = int(dominated(exact.values, found.values).sum()), ~covered(found.values, exact.values)
    if beaten or missed.any():
        shown = found.rows[int(np.argmax(missed))] if missed.any() else found.rows[0]
        counts = f"{beaten} points of the exact front are dominated, {int(missed.sum())} found points are not covered"
        raise CheckError(f"{case}: {counts}, for one {shown}; legal: none, or the front is not exact")
    ratio = round(hypervolume_ratio(found.values, exact.values), 6)
    return [
        Row(case, "hypervolume_ratio", "1", ratio, "modelled"),
        Row(case, "dominated_points", "1", beaten, "modelled", 0, GOAL, at_least=False),
        Row(case, "exact_points_found", "1", len(_rows(found.values) & _rows(exact.values)), "modelled"),
        Row(case, "exact_points", "1", len(exact), "modelled"),
        Row(case, "evaluations", "1", found.proof.evaluated, "modelled"),
        Row(case, "cpu_s", "s", found.proof.cpu_s, "measured"),
    ]


def dominated(values: Values, others: Values) -> NDArray[np.bool_]:
    """Whether each vector is dominated by one of the others, which is nowhere larger and somewhere smaller.

    >>> dominated(np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([[1.0, 3.0], [2.0, 1.0]])).tolist()
    [False, True]
    """
    return np.array([bool(((others <= own).all(axis=1) & (others < own).any(axis=1)).any()) for own in values])


def covered(values: Values, others: Values) -> NDArray[np.bool_]:
    """Whether each vector is nowhere smaller than at least one of the others."""
    return np.array([bool((others <= own).all(axis=1).any()) for own in values])


def _rows(values: Values) -> set[tuple[float, ...]]:
    return {tuple(row) for row in values.tolist()}
