import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.benchmarks.reference_problem import hypervolume_ratio, known_front, reference_problem
from codesign.errors import CheckError
from codesign.solver import exact
from codesign.solver.branch import Branching
from codesign.solver.exact import search
from codesign.solver.front import Archive, Front, Proof, Values, nondominated
from codesign.solver.front_check import check_front
from codesign.solver.interval_bounds import Bounder, Tree
from codesign.solver.problem import Inputs, Problem, Term, check_directions, monotone, peak, total
from codesign.solver.scoring import ExactScorer
from tests.marks import few_fast

AXES = {"a": (1, 2, 3, 5, 8, 9, 11, 12, 16), "b": (1, 2, 4), "c": tuple(range(2, 24, 2)), "d": (7,), "e": (0, 1)}


def _lookup(name: str, axes: tuple[str, ...], random: np.random.Generator) -> Term:
    """A term with no structure at all: random numbers by value."""
    table = random.integers(1, 30, [max(AXES[axis]) + 1 for axis in axes])
    return Term(name, axes, lambda x: table[tuple(np.asarray(x[axis]) for axis in axes)])


def _problem(seed: int, objectives: int) -> Problem:
    """A small problem of random tables, joined by terms with directions."""
    random = np.random.default_rng(seed)
    terms = (
        _lookup("ab", ("a", "b"), random),
        _lookup("bc", ("b", "c"), random),
        _lookup("ce", ("c", "e"), random),
        _lookup("ad", ("a", "d"), random),
        monotone("rate", ("ab", "ce"), lambda x: 100 * x["ce"] // x["ab"], falling=("ab",)),
        peak("most", ("rate", "bc", "ad")),
        total("sum", ("ab", "bc", "ad")),
        Term("mixed", ("rate", "bc", "e"), lambda x: np.where(x["e"] > 0, x["rate"], x["bc"]) + x["bc"]),
    )
    limits = {"ce": 24.0, "sum": 60.0}
    return Problem(AXES, terms, limits, ("most", "sum", "ce", "mixed")[:objectives])


def _all_points(problem: Problem) -> NDArray[np.int64]:
    return np.array(list(product(*map(range, problem.shape))))


def _true_front(problem: Problem) -> Values:
    found = problem.evaluate(_all_points(problem))
    values = found.values[found.feasible]
    return np.unique(values[nondominated(values)], axis=0)


def _positions(problem: Problem, front: Front) -> NDArray[np.int64]:
    columns = [np.searchsorted(values, front.parameters[name]) for name, values in problem.axes.items()]
    return np.stack(columns, axis=1)


# Trees and bounds.


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
    problem = _problem(3, 4)
    bounder, random = Bounder(problem, cells), np.random.default_rng(0)
    points = _all_points(problem)
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
    problem = _problem(0, 4)
    assert Bounder(problem, 1 << 18).late("mixed") == frozenset()
    assert Bounder(problem, 0).late("mixed") == frozenset(problem.axes) - {"d"}
    assert Bounder(problem, 0).late("sum") == {"a", "b", "c", "d"}
    assert Bounder(problem, 60).late("sum") == frozenset()


# The whole front.


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", few_fast(range(6), 1))
def test_the_front_is_that_of_enumeration(seed: int, objectives: int) -> None:
    problem = _problem(seed, objectives)
    for block, cells in ((1 << 15, 1 << 18), (7, 40), (64, 0)):
        front = search(problem, block=block, cells=cells)
        assert np.array_equal(front.values, _true_front(problem))
        assert front.proof.points == prod(problem.shape)
        again = problem.evaluate(_positions(problem, front))
        assert again.feasible.all()
        assert np.array_equal(again.values, front.values)


@pytest.mark.parametrize("seed", few_fast(range(4), 2))
def test_without_a_first_try_the_front_is_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_STARTS", 0)
    problem = _problem(seed, 3)
    corners = problem.evaluate(np.array([[0] * 5, [n - 1 for n in problem.shape]]))
    bare = replace(problem, limits={**problem.limits, "sum": 24.0})
    assert not bare.evaluate(_all_points(bare)[[0, -1]]).feasible.any() or corners.feasible.any()
    assert np.array_equal(search(bare).values, _true_front(bare))


def test_a_long_axis_and_a_wide_front() -> None:
    axes = {"x": tuple(range(1, 701)), "y": tuple(range(1, 301))}
    terms = (
        Term("time", ("x", "y"), lambda p: 10_000 // (p["x"] + p["y"] // 7)),
        Term("cost", ("x", "y"), lambda p: p["x"] * 3 + (p["y"] * 37) % 101),
        monotone("both", ("time", "cost"), lambda p: p["time"] + 0.1 * p["cost"]),
    )
    problem = Problem(axes, terms, {"cost": 1500}, ("time", "cost", "both"))
    assert np.array_equal(search(problem).values, _true_front(problem))


def test_of_equal_points_the_lowest_is_returned() -> None:
    terms = (Term("half", ("x",), lambda p: p["x"] // 4), Term("rest", ("x",), lambda p: -(p["x"] // 4)))
    problem = Problem({"x": tuple(range(3, 23)), "idle": (1, 2, 3)}, terms, {}, ("half", "rest"))
    front = search(problem)
    assert front.parameters["x"].tolist() == [3, 4, 8, 12, 16, 20]
    assert front.parameters["idle"].tolist() == [1] * 6


def test_the_same_problem_gives_the_same_front() -> None:
    first, second = search(_problem(1, 3)), search(_problem(1, 3))
    assert first.rows == second.rows
    assert first.proof == second.proof


def test_nothing_feasible_gives_an_empty_front() -> None:
    problem = replace(_problem(0, 2), limits={"ce": 0.0})
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
    assert np.array_equal(first.values, _true_front(without))
    assert np.array_equal(second.values, first.values)
    assert first.proof.evaluated < second.proof.evaluated
    check_directions(with_floor)


def test_progress_ends_with_every_point() -> None:
    told: list[tuple[int, int, int]] = []
    problem = _problem(2, 3)
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


def _lazy_problem(seed: int, asked: Callable[[int], None] = lambda count: None) -> Problem:
    """The small problem with a term of three axes that is bounded by boxes of the third; nothing reads the last."""
    base, random = _problem(seed, 2), np.random.default_rng(seed)
    table = random.integers(1, 40, [len(AXES[axis]) for axis in "abc"]) + 3 * np.arange(len(AXES["c"]))[::-1]
    nodes = Tree(len(AXES["c"])).extend(table, 2, np.minimum)

    def at(x: Inputs, axis: str) -> NDArray[np.int64]:
        return np.searchsorted(AXES[axis], x[axis])

    def boxed(x: Inputs) -> NDArray[np.int64]:
        asked(x["c"].size)
        return np.asarray(nodes[at(x, "a"), at(x, "b"), x["c"]])

    least = Term("least", ("a", "b"), lambda x: table.min(axis=2)[at(x, "a"), at(x, "b")])
    cost = Term(
        "cost", ("a", "b", "c"), lambda x: table[at(x, "a"), at(x, "b"), at(x, "c")], floor="least", boxed=boxed,
        single=("a", "b"),
    )  # fmt: skip
    return Problem(AXES, (*base.terms, least, cost), base.limits, ("cost", "sum"))


@pytest.mark.parametrize("most", [1, 5, 1000])
@pytest.mark.parametrize("seed", few_fast(range(4), 2))
def test_an_expensive_term_changes_no_front(seed: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_DIVE", most)
    problem = _lazy_problem(seed)
    front = search(problem)
    assert np.array_equal(front.values, _true_front(problem))
    check_front(problem, front, seed=seed)


def test_an_expensive_term_is_not_asked_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_DIVE", 5)
    sizes: list[int] = []
    search(_lazy_problem(1, sizes.append))
    boxes = len(AXES["a"]) * len(AXES["b"]) * len(Tree(len(AXES["c"])).size)
    assert 0 < sum(sizes) < boxes // 2
    assert len(sizes) < 10


@pytest.mark.parametrize(("most", "all_of_them"), [(3, False), (10_000, True)])
def test_a_dive_ends_at_good_points(most: int, all_of_them: bool) -> None:
    problem = _lazy_problem(2)
    empty = Archive(2, len(problem.axes))
    values, points = Branching(Bounder(problem, 1 << 18), empty, 1 << 15).dive(empty.cover, most)
    found = problem.evaluate(points)
    assert found.feasible.all()
    assert np.array_equal(found.values, values)
    assert 0 < len(points) <= most
    true = _true_front(problem)
    assert {*map(tuple, values)} & {*map(tuple, true)}
    assert (len(points) == problem.evaluate(_all_points(problem)).feasible.sum()) == all_of_them


@pytest.mark.parametrize("seed", range(8))
def test_single_values_come_before_the_axes_that_wait_for_them(seed: int) -> None:
    problem = replace(_lazy_problem(seed), limits={"ce": 5.0})  # so that the third axis is worth most
    empty = Archive(2, len(problem.axes))
    order = [step.axis for step in Branching(Bounder(problem, 1 << 18), empty, 1 << 15)._plan(empty.cover)]
    assert min(at for at, axis in enumerate(order) if axis == "c") > max(
        at for at, axis in enumerate(order) if axis in ("a", "b")
    )


def test_a_floor_is_tabulated_where_something_is_feasible() -> None:
    problem, seen = _lazy_problem(1), set[tuple[int, int]]()
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


# Exact scores.


def _scorer(problem: Problem, exact: Values) -> ExactScorer:
    def score(design: Mapping[str, int]) -> list[float] | None:
        place = tuple(values.index(design[name]) for name, values in problem.axes.items())
        found = float(exact[np.ravel_multi_index(place, problem.shape)])
        return None if np.isnan(found) else [found]

    return ExactScorer((problem.objectives[0],), score)


def _exact_case(seed: int, objectives: int) -> tuple[Problem, ExactScorer, Values]:
    """A problem, a scorer a little above its first objective, and the true front of scores."""
    problem, random = _problem(seed, objectives), np.random.default_rng(seed)
    found = problem.evaluate(_all_points(problem))
    values = found.values.copy()
    values[:, 0] += random.integers(0, 25, len(values))
    values[random.random(len(values)) < 0.1, 0] = np.nan
    allowed = found.feasible & ~np.isnan(values[:, 0])
    front = values[allowed]
    return problem, _scorer(problem, values[:, 0]), np.unique(front[nondominated(front)], axis=0)


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", few_fast(range(5), 2))
def test_the_front_of_scores_is_that_of_scoring_everything(seed: int, objectives: int) -> None:
    problem, refine, true = _exact_case(seed, objectives)
    front = search(problem, refine=refine, block=64)
    assert np.array_equal(front.values, true)
    assert front.proof.exact
    assert 0 < front.proof.scored < problem.size
    check_front(problem, front, seed=seed, refine=refine)


def test_only_points_are_scored_that_must_be() -> None:
    problem, refine, true = _exact_case(1, 2)
    found = problem.evaluate(_all_points(problem))
    must = [not (true <= bound).all(axis=1).any() for bound in found.values[found.feasible]]
    equal = [bool((true == bound).all(axis=1).any()) for bound in found.values[found.feasible]]
    assert sum(must) <= search(problem, refine=refine).proof.scored <= sum(must) + sum(equal)


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_tighter_bounds_save_scores(seed: int) -> None:
    problem, refine, true = _exact_case(seed, 2)
    score = refine.score

    def tight_bound(inputs: Inputs) -> Values:
        designs = [dict(zip(inputs, row, strict=True)) for row in np.stack([*inputs.values()], axis=1).tolist()]
        return np.array([[0 if found is None else found[0] - 1] for found in map(score, designs)], np.float64)

    plain, tight = (search(problem, refine=r) for r in (refine, replace(refine, tight_bound=tight_bound)))
    assert np.array_equal(tight.values, true)
    assert tight.proof.scored < plain.proof.scored
    check_front(problem, tight, seed=seed, refine=refine)


def _recalling(problem: Problem, apart: int = 0) -> ExactScorer:
    """A scorer that knows its designs from those that differ in the last axis alone; its values are so far apart."""
    extra, known = np.random.default_rng(5).integers(0, 9, 1000), dict[tuple[int, ...], list[float]]()

    def key(design: Mapping[str, int]) -> tuple[int, ...]:
        return design["a"], design["b"], design["c"]

    def score(design: Mapping[str, int]) -> list[float]:
        a, b, c = key(design)
        found = problem.compute({axis: np.array(value) for axis, value in design.items()}, ["cost"])["cost"]
        return [known.setdefault((a, b, c), [float(found + extra[31 * a + 7 * b + c])])[0] + apart * design["e"]]

    return ExactScorer(
        ("cost",), score, cached_score=lambda design: score(design) if key(design) in known else None, spare=("e",)
    )


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_of_equal_scores_the_one_that_spares_most_is_returned(seed: int) -> None:
    problem = _lazy_problem(seed)
    refine = _recalling(problem)
    front, plain = (
        search(problem, refine=refine),
        search(problem, refine=replace(_recalling(problem), cached_score=None)),
    )
    assert np.array_equal(front.values, plain.values)
    assert front.proof.recalled
    assert front.proof.scored < plain.proof.scored + plain.proof.recalled
    check_front(problem, front, seed=seed, refine=refine)
    for place in _positions(problem, front):
        others = np.array([place, place])
        others[:, -1] = 0, 1
        found = problem.compute(problem.parameters(others), ["ce", "sum"])
        fits = (found["ce"] <= 24) & (found["sum"] <= 60)
        assert place[-1] == np.argmin(np.where(fits, found["ce"], np.inf))


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_a_sparing_point_of_another_score_is_not_taken(seed: int) -> None:
    problem = _lazy_problem(seed)
    refine = _recalling(problem, apart=3)
    check_front(problem, search(problem, refine=refine), seed=seed, refine=refine)


def test_a_pool_that_overflows_is_settled_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_POOL", 4)
    problem, refine, true = _exact_case(2, 3)
    assert np.array_equal(search(problem, refine=refine, block=8).values, true)


def test_a_budget_of_scores_is_kept_and_said() -> None:
    problem, refine, _ = _exact_case(3, 2)
    front = search(problem, refine=replace(refine, budget=5))
    assert front.proof.scored == 5
    assert not front.proof.exact
    assert front.proof.unscored <= problem.size - 5
    assert search(problem, refine=replace(refine, budget=problem.size)).proof.exact


def test_the_gap_is_that_of_the_scores() -> None:
    problem = _problem(0, 2)
    scores = problem.evaluate(_all_points(problem)).values[:, 0] * 1.25
    assert search(problem, refine=_scorer(problem, scores)).proof.gap == pytest.approx(0.2)


def test_a_score_below_its_bound_is_an_error() -> None:
    problem = _problem(0, 2)
    scores = problem.evaluate(_all_points(problem)).values[:, 0] - 1
    with pytest.raises(CheckError, match="not finite or below the bounds"):
        search(problem, refine=_scorer(problem, scores))


def test_refined_objectives_must_be_objectives() -> None:
    with pytest.raises(ValueError, match="refined objectives"):
        search(_problem(0, 2), refine=ExactScorer(("ab",), lambda design: None))


# What is wrong with a problem.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {"x": (2, 1)}}, "axis x"),
        ({"axes": {"x": ()}}, "axis x"),
        ({"terms": (Term("y", ("z",), lambda p: p["z"]),)}, "term y"),
        ({"terms": (Term("x", ("x",), lambda p: p["x"]),)}, "term x"),
        ({"terms": (Term("y", ("x",), lambda p: p["x"], floor="z"),)}, "term y"),
        ({"objectives": ()}, "objectives"),
        ({"objectives": ("z",)}, "objectives"),
        ({"limits": {"z": 1.0}}, "limits"),
    ],
)
def test_a_wrong_problem_is_named(change: dict[str, object], message: str) -> None:
    good = {"axes": {"x": (1, 2)}, "terms": (), "limits": {}, "objectives": ("x",)}
    with pytest.raises(ValueError, match=message):
        Problem(**{**good, **change})  # type: ignore[arg-type]


def test_a_term_has_one_direction_per_input() -> None:
    with pytest.raises(ValueError, match="at most one direction"):
        Term("y", ("x",), lambda p: p["x"], rising=("x",), falling=("x",))
    with pytest.raises(ValueError, match="at most one direction"):
        Term("y", ("x",), lambda p: p["x"], rising=("z",))


def test_too_large_a_space_is_refused() -> None:
    with pytest.raises(ValueError, match="below 2"):
        Problem({f"x{i}": tuple(range(256)) for i in range(8)}, (), {}, ("x0",))


def _directed(formula: object, falling: tuple[str, ...] = (), floor: str | None = None) -> Problem:
    rising = tuple(name for name in ("x", "y") if name not in falling)
    term = Term("z", ("x", "y"), formula, rising, falling, floor)  # type: ignore[arg-type]
    return Problem({"x": tuple(range(1, 30)), "y": (1, 2, 3)}, (term,), {}, ("z",))


def test_a_wrong_direction_is_found() -> None:
    def ratio(inputs: Inputs) -> NDArray[np.float64]:
        return np.asarray(inputs["x"] / inputs["y"])

    check_directions(_directed(ratio, ("y",)))
    with pytest.raises(CheckError, match="term z is not rising in y"):
        check_directions(_directed(ratio))
    with pytest.raises(CheckError, match="term z is not falling in x"):
        check_directions(_directed(ratio, ("x", "y")))


def test_a_direction_that_is_no_number_is_found() -> None:
    def root(inputs: Inputs) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.sqrt(inputs["x"] - 2.0 * inputs["y"])

    with pytest.raises(CheckError, match="term z is not rising in x"):
        check_directions(_directed(root, ("y",)))


def test_a_wrong_floor_is_found() -> None:
    check_directions(_directed(lambda p: p["x"] + p["y"], floor="x"))
    with pytest.raises(CheckError, match="term z lies below its floor y"):
        check_directions(_directed(lambda p: p["x"], floor="y"))


# What is wrong with a front.


def _without(front: Front, *dropped: int) -> Front:
    keep = np.setdiff1d(np.arange(len(front)), dropped)
    return _picked(front, keep)


def _picked(front: Front, at: NDArray[np.int64]) -> Front:
    return replace(front, values=front.values[at], parameters={k: v[at] for k, v in front.parameters.items()})


def test_a_point_left_out_is_found() -> None:
    problem = _problem(4, 3)
    front = search(problem)
    assert check_front(problem, front, seed=0).points == 2 * problem.size
    for i in range(len(front)):
        with pytest.raises(CheckError, match="is not dominated by the front"):
            check_front(problem, _without(front, i), seed=0)


def test_a_wrong_member_is_found() -> None:
    problem = _problem(4, 3)
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
    problem = _problem(4, 3)
    front = search(problem)
    for seed in range(4):
        assert 200 * 3 <= check_front(problem, front, seed=seed, points=200, spaces=3).points <= 3 * problem.size


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
