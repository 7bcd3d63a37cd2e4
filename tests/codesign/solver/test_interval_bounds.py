import numpy as np
import pytest

from codesign.solver.interval_bounds import Bounder, Tree
from codesign.solver.problem import Problem, Term
from tests.codesign.solver.problems import all_points, random_problem


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 16, 32, 61, 64, 65, 500, 1000])
def test_a_tree_splits_every_value_once(count: int) -> None:
    tree = Tree(count)
    assert tree.size[0] == count
    assert len(tree.levels[-1]) == count
    assert (tree.size[tree.first[-1] :] == 1).all()
    for level, (kids, sizes) in enumerate(tree.kids):
        nodes = slice(tree.first[level], tree.first[level + 1])
        assert np.array_equal(sizes.sum(axis=1), tree.size[nodes])
        assert sorted(kids[sizes > 0]) == list(range(tree.first[level + 1], tree.first[level + 1] + (sizes > 0).sum()))
        assert kids.shape[1] <= 10


@pytest.mark.parametrize("cells", [0, 1 << 18])
def test_bounds_hold_over_every_box(cells: int) -> None:
    problem = random_problem(3, 4)
    bounder, random = Bounder(problem, cells), np.random.default_rng(0)
    points = all_points(problem)
    values = problem.compute(problem.parameters(points), problem.by_name)
    for _ in range(60):
        nodes = {name: random.integers(0, len(tree.size), 1) for name, tree in bounder.trees.items()}
        single = frozenset(name for name, node in nodes.items() if node[0] >= bounder.trees[name].first[-1])
        inside = np.ones(len(points), dtype=np.bool_)
        for k, (name, node) in enumerate(nodes.items()):
            tree = bounder.trees[name]
            level = int(np.searchsorted(tree.first, node[0], "right")) - 1
            start = tree.levels[level][node[0] - tree.first[level]]
            inside &= (points[:, k] >= start) & (points[:, k] < start + tree.size[node[0]])
        bounds = bounder.over(nodes, single)
        for name in (*problem.objectives, *problem.limits):
            low, least = bounds.low(name), values[name][inside].min()
            assert low is None or low[0] <= least
            assert low is not None or bounder.late(name) - single
            assert inside.sum() > 1 or (low is not None and low[0] == least)


def test_a_term_without_direction_is_bounded_late() -> None:
    problem = random_problem(0, 4)
    assert Bounder(problem, 1 << 18).late("mixed") == frozenset()
    assert Bounder(problem, 0).late("mixed") == frozenset(problem.axes) - {"d"}
    assert Bounder(problem, 0).late("sum") == {"a", "b", "c", "d"}
    assert Bounder(problem, 60).late("sum") == frozenset()


def test_a_limit_that_another_axis_can_meet_leaves_no_value_out() -> None:
    """The limit's middle is met by one value of c alone, for every a and b; none of their floors may be a filler."""
    axes = {"a": (1, 2, 3, 4, 5), "b": (1, 2, 3, 4), "c": (1, 2, 3, 4, 5, 6)}
    terms = (
        Term("far", ("a", "b", "c"), lambda x: x["a"] * x["b"] * abs(x["c"] - 4)),
        Term("least", ("a", "b"), lambda x: 7 * x["a"] + 11 * x["b"]),
        Term(
            "cost", ("a", "b", "c"), lambda x: 7 * x["a"] + 11 * x["b"] + x["c"], floor="least",
            boxed=lambda x: 7 * x["a"] + 11 * x["b"] + 1 + 0 * x["c"], single=("a", "b"),
        ),
    )  # fmt: skip
    problem = Problem(axes, terms, {"far": 0.0}, ("cost",))
    bounder, points = Bounder(problem, 60), all_points(problem)
    values = problem.compute(problem.parameters(points), problem.by_name)
    met = values["far"] <= 0
    assert met.sum() == 20
    bounds = bounder.over(bounder.leaves(points[met]), frozenset(axes))
    assert np.array_equal(bounds.value("least"), values["least"][met])
