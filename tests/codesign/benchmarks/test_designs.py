"""Exact fronts beside heuristics: on no board is one dominated, and a front that is fails loudly."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from codesign.benchmarks import designs as bench_designs
from codesign.benchmarks.designs import Exact, chosen, covered, dominated, heuristic_rows, reference_rows
from codesign.benchmarks.reference_problem import reference_problem
from codesign.dse import strategies
from codesign.dse.design_space import DesignSpace
from codesign.dse.strategies import _pymoo
from codesign.errors import CheckError
from codesign.flow.build import integers, tools
from codesign.solver.exact import search
from codesign.solver.front import Front
from codesign.target.board import Board, boards
from tests.marks import few_fast

pytest.importorskip("pymoo", reason="needs the extra heuristics")

BOARDS = ("kv260", "u280", "zcu102", "zcu104")
METRICS = ["hypervolume_ratio", "dominated_points", "exact_points_found", "exact_points", "evaluations", "cpu_s"]


@cache
def exact(model: str, board: str) -> Exact:
    """A front that was searched in this process."""
    network, target = integers(model), Board.load(board)
    return Exact(f"{model}@{board}", network, target, DesignSpace(network, target, tools()).search(), 0.0)


def test_the_boards_are_those_that_ship() -> None:
    assert tuple(boards()) == BOARDS


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heuristic looks at few designs."""
    monkeypatch.setattr(bench_designs, "EVALUATIONS", 60)


@pytest.mark.parametrize("board", few_fast(BOARDS, 1))
def test_no_heuristic_dominates_a_point_of_the_exact_front(board: str) -> None:
    rows = heuristic_rows(exact("gemm:4x16x16", board), ["nsga2"])
    assert [row.metric for row in rows] == METRICS
    assert {row.case for row in rows} == {f"gemm:4x16x16@{board}:nsga2"}
    found = {row.metric: row.ours for row in rows}
    assert (found["dominated_points"], found["evaluations"]) == (0, 60)
    assert 0.3 < found["hypervolume_ratio"] <= 1
    assert found["exact_points_found"] <= found["exact_points"]


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("seed", range(2))
def test_nor_in_the_space_of_a_transformer(board: str, seed: int) -> None:
    front, space = exact("digits-vit", board).front, DesignSpace(integers("digits-vit"), Board.load(board), tools())
    for strategy in chosen(None):
        found = strategies.searched(space, strategy, front.objectives, evaluations=400, seed=seed)
        assert not dominated(front.values, found.values).any()
        assert covered(found.values, front.values).all()


def test_a_front_that_is_dominated_fails_loudly() -> None:
    true = exact("gemm:4x16x16", "kv260")
    worse = replace(true, front=replace(true.front, values=3 * true.front.values))
    with pytest.raises(CheckError, match=r"16@kv260:nsga2: [1-9]\d* points of the exact front are dominated"):
        heuristic_rows(worse, ["nsga2"])


def test_a_front_that_is_not_whole_fails_loudly() -> None:
    """Nothing of it is dominated, but a heuristic finds what lies beside it."""
    true = exact("gemm:4x16x16", "kv260")
    part = Front(
        true.front.objectives, true.front.values[:1], {n: v[:1] for n, v in true.front.parameters.items()},
        true.front.proof,
    )  # fmt: skip
    with pytest.raises(CheckError, match=r"0 points of the exact front are dominated, [1-9]\d* found points are not"):
        heuristic_rows(replace(true, front=part), ["nsga2"])


def test_dominated_and_covered() -> None:
    front = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0]])
    others = np.array([[2.0, 1.5], [4.0, 1.0], [1.0, 5.0]])
    assert dominated(front, others).tolist() == [False, True, False]
    assert covered(others, front).tolist() == [False, True, True]
    assert dominated(front, others[:0]).tolist() == [False] * 3


@pytest.mark.rtl
def test_a_search_is_measured_in_a_process_of_its_own() -> None:
    here, there = exact("gemm:4x16x16", "zcu102"), Exact.of("case", integers("gemm:4x16x16"), Board.load("zcu102"))
    assert np.array_equal(here.front.values, there.front.values)
    assert here.front.proof == there.front.proof
    assert 20 < there.peak_mb < 1000
    assert there.case == "case"


@pytest.mark.rtl
def test_rows_of_the_reference_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_designs, "REFERENCE_EVALUATIONS", 600)
    problem = reference_problem()
    rows = reference_rows(problem, search(problem), ["nsga2"])
    assert [row.metric for row in rows] == METRICS
    assert {row.case for row in rows} == {"dse-problem:nsga2"}
    found = {row.metric: row.ours for row in rows}
    assert (found["dominated_points"], found["exact_points"], found["evaluations"]) == (0, 602, 600)
    assert 0.6 < found["hypervolume_ratio"] < 1


def test_without_the_library_heuristics_are_left_out_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(None) == ("age-moea2", "nsga2")
    monkeypatch.setattr(_pymoo, "find_spec", lambda name: None if name == "numba" else object())
    assert chosen(None) == ()
    for name in ("age-moea2", "nsga2"):
        assert f"{name} is left out: no numba; install: pip install 'codesign[heuristics]'" in caplog.text
    assert (chosen("exact"), chosen("age-moea2")) == ((), ("age-moea2",))
