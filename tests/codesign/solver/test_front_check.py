from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.solver.exact import search
from codesign.solver.front import Front
from codesign.solver.front_check import check_front
from tests.codesign.solver.problems import random_problem


def _without(front: Front, *dropped: int) -> Front:
    keep = np.setdiff1d(np.arange(len(front)), dropped)
    return _picked(front, keep)


def _picked(front: Front, at: NDArray[np.int64]) -> Front:
    return replace(front, values=front.values[at], parameters={k: v[at] for k, v in front.parameters.items()})


def test_a_point_left_out_is_found() -> None:
    problem = random_problem(4, 3)
    front = search(problem)
    assert check_front(problem, front, seed=0).points == 2 * problem.size
    for i in range(len(front)):
        with pytest.raises(CheckError, match="is not dominated by the front"):
            check_front(problem, _without(front, i), seed=0)


def test_a_wrong_member_is_found() -> None:
    problem = random_problem(4, 3)
    front = search(problem)
    with pytest.raises(CheckError, match="has the objectives"):
        check_front(problem, replace(front, values=front.values - 1), seed=0)
    twice = _picked(front, np.array([*range(len(front)), 0]))
    with pytest.raises(CheckError, match="or there twice"):
        check_front(problem, twice, seed=0)
    loose = search(replace(problem, limits={}))
    with pytest.raises(CheckError, match="is infeasible"):
        check_front(problem, loose, seed=0)


def test_subspaces_have_the_points_asked_for() -> None:
    problem = random_problem(4, 3)
    front = search(problem)
    for seed in range(4):
        assert 200 * 3 <= check_front(problem, front, seed=seed, points=200, spaces=3).points <= 3 * problem.size
