from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from codesign.errors import CheckError
from codesign.solver import exact
from codesign.solver.exact import search
from codesign.solver.front import Values, nondominated
from codesign.solver.front_check import check_front
from codesign.solver.problem import Inputs, Problem
from codesign.solver.scoring import ExactScorer
from tests.codesign.solver.problems import all_points, lazy_problem, positions, random_problem
from tests.marks import few_fast


def _scorer(problem: Problem, exact: Values) -> ExactScorer:
    def score(design: Mapping[str, int]) -> list[float] | None:
        place = tuple(values.index(design[name]) for name, values in problem.axes.items())
        found = float(exact[np.ravel_multi_index(place, problem.shape)])
        return None if np.isnan(found) else [found]

    return ExactScorer((problem.objectives[0],), score)


def _exact_case(seed: int, objectives: int) -> tuple[Problem, ExactScorer, Values]:
    """A problem, a scorer a little above its first objective, and the true front of scores."""
    problem, random = random_problem(seed, objectives), np.random.default_rng(seed)
    found = problem.evaluate(all_points(problem))
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
    found = problem.evaluate(all_points(problem))
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
    problem = lazy_problem(seed)
    refine = _recalling(problem)
    front, plain = (
        search(problem, refine=refine),
        search(problem, refine=replace(_recalling(problem), cached_score=None)),
    )
    assert np.array_equal(front.values, plain.values)
    assert front.proof.recalled
    assert front.proof.scored < plain.proof.scored + plain.proof.recalled
    check_front(problem, front, seed=seed, refine=refine)
    for place in positions(problem, front):
        others = np.array([place, place])
        others[:, -1] = 0, 1
        found = problem.compute(problem.parameters(others), ["ce", "sum"])
        fits = (found["ce"] <= 24) & (found["sum"] <= 60)
        assert place[-1] == np.argmin(np.where(fits, found["ce"], np.inf))


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_a_sparing_point_of_another_score_is_not_taken(seed: int) -> None:
    problem = lazy_problem(seed)
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
    problem = random_problem(0, 2)
    scores = problem.evaluate(all_points(problem)).values[:, 0] * 1.25
    assert search(problem, refine=_scorer(problem, scores)).proof.gap == pytest.approx(0.2)


def test_a_score_below_its_bound_is_an_error() -> None:
    problem = random_problem(0, 2)
    scores = problem.evaluate(all_points(problem)).values[:, 0] - 1
    with pytest.raises(CheckError, match="not finite or below the bounds"):
        search(problem, refine=_scorer(problem, scores))


def test_refined_objectives_must_be_objectives() -> None:
    with pytest.raises(ValueError, match="refined objectives"):
        search(random_problem(0, 2), refine=ExactScorer(("ab",), lambda design: None))
