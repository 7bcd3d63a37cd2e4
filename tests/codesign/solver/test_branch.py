from dataclasses import replace

import numpy as np
import pytest

from codesign.solver.branch import Branching
from codesign.solver.front import Archive
from codesign.solver.interval_bounds import Bounder
from tests.codesign.solver.problems import all_points, lazy_problem, true_front


@pytest.mark.parametrize(("most", "all_of_them"), [(3, False), (10_000, True)])
def test_a_dive_ends_at_good_points(most: int, all_of_them: bool) -> None:
    problem = lazy_problem(2)
    empty = Archive(2, len(problem.axes))
    values, points = Branching(Bounder(problem, 1 << 18), empty, 1 << 15).dive(empty.cover, most)
    found = problem.evaluate(points)
    assert found.feasible.all()
    assert np.array_equal(found.values, values)
    assert 0 < len(points) <= most
    true = true_front(problem)
    assert {*map(tuple, values)} & {*map(tuple, true)}
    assert (len(points) == problem.evaluate(all_points(problem)).feasible.sum()) == all_of_them


@pytest.mark.parametrize("seed", range(8))
def test_single_values_come_before_the_axes_that_wait_for_them(seed: int) -> None:
    problem = replace(lazy_problem(seed), limits={"ce": 5.0})  # so that the third axis is worth most
    empty = Archive(2, len(problem.axes))
    order = [step.axis for step in Branching(Bounder(problem, 1 << 18), empty, 1 << 15)._plan(empty.cover)]
    assert min(at for at, axis in enumerate(order) if axis == "c") > max(
        at for at, axis in enumerate(order) if axis in ("a", "b")
    )
