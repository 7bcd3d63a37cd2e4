import tracemalloc
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.benchmarks.reference_problem import hypervolume_ratio, known_front, reference_problem
from codesign.errors import CheckError
from codesign.solver import exact
from codesign.solver.exact import search
from codesign.solver.front import Front, Proof
from codesign.solver.front_check import check_front
from codesign.solver.interval_bounds import Bounder, Tree
from codesign.solver.problem import Inputs, Problem, Term, check_directions, monotone
from codesign.solver.scoring import ExactScorer
from tests.codesign.solver.problems import AXES, all_points, lazy_problem, positions, random_problem, true_front
from tests.marks import few_fast

# The whole front.


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", few_fast(range(6), 1))
def test_the_front_is_that_of_enumeration(seed: int, objectives: int) -> None:
    problem = random_problem(seed, objectives)
    for block, cells in ((1 << 15, 1 << 18), (7, 40), (64, 0)):
        front = search(problem, block=block, cells=cells)
        assert np.array_equal(front.values, true_front(problem))
        assert front.proof.points == prod(problem.shape)
        again = problem.evaluate(positions(problem, front))
        assert again.feasible.all()
        assert np.array_equal(again.values, front.values)


@pytest.mark.parametrize("seed", few_fast(range(4), 2))
def test_without_a_first_try_the_front_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_STARTS", 0)
    problem = random_problem(seed, 3)
    corners = problem.evaluate(np.array([[0] * 5, [n - 1 for n in problem.shape]]))
    bare = replace(problem, limits={**problem.limits, "sum": 24.0})
    assert not bare.evaluate(all_points(bare)[[0, -1]]).feasible.any() or corners.feasible.any()
    assert np.array_equal(search(bare).values, true_front(bare))


def test_a_long_axis_and_a_wide_front() -> None:
    axes = {"x": tuple(range(1, 701)), "y": tuple(range(1, 301))}
    terms = (
        Term("time", ("x", "y"), lambda p: 10_000 // (p["x"] + p["y"] // 7)),
        Term("cost", ("x", "y"), lambda p: p["x"] * 3 + (p["y"] * 37) % 101),
        monotone("both", ("time", "cost"), lambda p: p["time"] + 0.1 * p["cost"]),
    )
    problem = Problem(axes, terms, {"cost": 1500}, ("time", "cost", "both"))
    assert np.array_equal(search(problem).values, true_front(problem))


def test_of_equal_points_the_lowest_is_returned() -> None:
    terms = (Term("half", ("x",), lambda p: p["x"] // 4), Term("rest", ("x",), lambda p: -(p["x"] // 4)))
    problem = Problem({"x": tuple(range(3, 23)), "idle": (1, 2, 3)}, terms, {}, ("half", "rest"))
    front = search(problem)
    assert front.parameters["x"].tolist() == [3, 4, 8, 12, 16, 20]
    assert front.parameters["idle"].tolist() == [1] * 6


def test_the_same_problem_gives_the_same_front() -> None:
    first, second = search(random_problem(1, 3)), search(random_problem(1, 3))
    assert first.rows == second.rows
    assert first.proof == second.proof


def test_nothing_feasible_gives_an_empty_front() -> None:
    problem = replace(random_problem(0, 2), limits={"ce": 0.0})
    front = search(problem)
    assert len(front) == 0
    assert front.proof.infeasible["ce"] + front.proof.evaluated == problem.size
    assert front.table().splitlines()[0].split() == ["most", "sum", *AXES]
    assert check_front(problem, front, seed=0).feasible == 0


def test_a_space_of_one_point() -> None:
    problem = Problem({"x": (4,)}, (Term("y", ("x",), lambda p: 2 * p["x"]),), {"x": 5}, ("y",))
    assert search(problem).rows == [{"x": 4, "y": 8}]
    assert len(search(replace(problem, limits={"x": 3}))) == 0
    assert search(problem, refine=ExactScorer(("y",), lambda design: [9.5])).rows == [{"x": 4, "y": 9.5}]


def test_a_floor_bounds_a_term_without_direction() -> None:
    def terms(floor: str | None) -> tuple[Term, ...]:
        return (
            monotone("low", ("x", "y"), lambda p: p["x"] + p["y"]),
            Term("wave", ("x", "y"), lambda p: p["x"] + p["y"] + (p["x"] * p["y"]) % 3, floor=floor),
            monotone("cost", ("x", "y"), lambda p: 1000 // p["x"] + p["y"], falling=("x",)),
        )

    axes = {"x": tuple(range(1, 60)), "y": tuple(range(1, 60))}
    with_floor, without = (Problem(axes, terms(floor), {}, ("wave", "cost")) for floor in ("low", None))
    first, second = search(with_floor, cells=10), search(without, cells=10)
    assert np.array_equal(first.values, true_front(without))
    assert np.array_equal(second.values, first.values)
    assert first.proof.evaluated < second.proof.evaluated
    check_directions(with_floor)


def test_progress_ends_with_every_point() -> None:
    told: list[tuple[int, int, int]] = []
    problem = random_problem(2, 3)
    front = search(problem, block=4, progress=lambda *state: told.append(state))
    settled = [state[0] for state in told]
    assert settled == sorted(settled)
    assert told[-1] == (problem.size, problem.size, len(front))
    assert len(told) > 5


def test_a_term_that_is_no_number_is_named() -> None:
    problem = Problem({"x": (1, 2)}, (Term("odd", ("x",), lambda p: np.where(p["x"] > 1, np.nan, 1.0)),), {}, ("odd",))
    with pytest.raises(CheckError, match="term odd is not a finite number"):
        search(problem)


def test_an_objective_that_is_no_number_is_named() -> None:
    def formula(inputs: Inputs) -> NDArray[np.float64]:
        return np.where(inputs["x"] == 5, np.nan, 1.0 * inputs["x"])

    problem = Problem({"x": tuple(range(2, 40))}, (monotone("odd", ("x",), formula),), {}, ("odd",))
    with pytest.raises(CheckError, match=r"odd is not a finite number at \{'x': 5\}"):
        search(problem, cells=0)


# Terms that are expensive to bound.


@pytest.mark.parametrize("most", [1, 5, 1000])
@pytest.mark.parametrize("seed", few_fast(range(4), 2))
def test_an_expensive_term_changes_no_front(seed: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_DIVE", most)
    problem = lazy_problem(seed)
    front = search(problem)
    assert np.array_equal(front.values, true_front(problem))
    check_front(problem, front, seed=seed)


def test_an_expensive_term_is_not_asked_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_DIVE", 5)
    sizes: list[int] = []
    search(lazy_problem(1, sizes.append))
    boxes = len(AXES["a"]) * len(AXES["b"]) * len(Tree(len(AXES["c"])).size)
    assert 0 < sum(sizes) < boxes // 2
    assert len(sizes) < 10


def test_a_floor_is_tabulated_where_something_is_feasible() -> None:
    problem, seen = lazy_problem(1), set[tuple[int, int]]()
    least = problem.by_name["least"]

    def formula(x: Inputs) -> object:
        seen.update(zip(x["a"].ravel().tolist(), x["b"].ravel().tolist(), strict=True))
        return least.formula(x)

    terms = tuple(replace(term, formula=formula) if term is least else term for term in problem.terms)
    limits = {**problem.limits, "ab": 14.0}
    bounder = Bounder(replace(problem, terms=terms, limits=limits), 1 << 18)
    every, (ab,) = [*product(AXES["a"], AXES["b"])], [term for term in terms if term.name == "ab"]
    hopeful = {pair for pair in every if ab.formula({"a": np.array(pair[0]), "b": np.array(pair[1])}) <= 14}
    assert seen <= hopeful
    assert 0 < len(seen) < len(every)
    root = bounder.over({axis: np.zeros(1, np.int64) for axis in AXES}, frozenset())
    values = [int(least.formula({"a": np.array(a), "b": np.array(b)})) for a, b in seen]
    low = root.low("least")
    assert low is not None
    assert low[0] == min(values)


# The problem with 1.2e9 designs.


@pytest.fixture(scope="module")
def large_front() -> Front:
    return search(reference_problem())


def test_the_large_front_is_the_known_one(large_front: Front) -> None:
    values, points = known_front()
    order = np.lexsort(reference_problem().evaluate(points).values.T[::-1])
    assert len(large_front) == 602
    np.testing.assert_allclose(large_front.values, values[order], rtol=2e-7)
    assert np.array_equal(large_front.values, reference_problem().evaluate(points[order]).values)
    assert hypervolume_ratio(large_front.values) == pytest.approx(1.0, rel=1e-6)
    assert hypervolume_ratio(large_front.values[::2]) < 0.999


def test_the_large_front_takes_few_boxes(large_front: Front) -> None:
    proof = large_front.proof
    assert proof.points == 1_207_959_552
    assert proof.boxes < 1_500_000
    assert proof.evaluated < 200_000
    assert proof.tried < 1_000_000


@pytest.mark.rtl
def test_the_large_front_withstands_brute_force(large_front: Front) -> None:
    found = check_front(reference_problem(), large_front, seed=11)
    assert found.points >= 2_000_000
    assert found.feasible > 0


def test_the_large_problem_keeps_its_directions() -> None:
    check_directions(reference_problem())


def test_the_large_search_needs_little_memory() -> None:
    tracemalloc.start()
    try:
        front = search(replace(reference_problem(), objectives=("latency", "energy")))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(front.proof, Proof)
    assert peak_bytes < 300 << 20
