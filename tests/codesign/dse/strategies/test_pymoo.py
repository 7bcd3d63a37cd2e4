"""Heuristics: honest about what they saw, seeded, within their budget, never better than the exact front."""

import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.benchmarks.reference_problem import hypervolume_ratio, reference_problem
from codesign.cli import main
from codesign.dse import strategies
from codesign.dse.design_space import DesignSpace
from codesign.dse.strategies import ProblemSpace, Score, _pymoo, searched
from codesign.dse.strategies._pymoo import Evolutionary
from codesign.errors import NothingFits, ToolError
from codesign.flow.build import integers, tools
from codesign.solver.exact import search
from codesign.solver.front import Attempt, Front, nondominated
from codesign.solver.problem import Problem, Term
from codesign.target.board import Board
from tests.marks import few_fast

pytest.importorskip("pymoo", reason="needs the extra heuristics")
numba = pytest.importorskip("numba", reason="needs the extra heuristics")

ALGORITHMS = ("age-moea2", "nsga2")
AXES = {"x": tuple(range(40)), "fixed": (7,), "y": (1, 2, 4, 8, 16)}


@pytest.fixture(scope="module", autouse=True)
def interpreted() -> Iterator[None]:
    """Compiling two functions of AGE-MOEA-II takes ten seconds; `codesign bench search` runs them compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", True)
        for name, kind in {"float64": np.float64, "intp": np.intp, "boolean": np.bool_}.items():
            patch.setattr(numba, name, kind)
        yield


def small(limits: Mapping[str, float] | None = None) -> Problem:
    """Two objectives that pull apart, and limits if wanted."""
    terms = (
        Term("time", ("x", "y", "fixed"), lambda v: (100 + v["fixed"] - v["x"]) / v["y"]),
        Term("cost", ("x", "y"), lambda v: v["x"] * 2 + v["y"] * 5),
    )
    return Problem(AXES, terms, limits or {}, ("time", "cost"))


def evolve(problem: Problem, strategy: str, *, score: Score | None = None, **settings: Any) -> Front:
    """The front that a strategy finds of a problem."""
    found = strategies.find(strategy)
    assert isinstance(found, Evolutionary)
    return found.search(ProblemSpace(problem, score), problem.objectives, **settings)


def beaten(front: np.ndarray[Any, Any], others: np.ndarray[Any, Any]) -> int:
    """Vectors of a front that others dominate."""
    below = (others[:, None] <= front[None]).all(axis=2) & (others[:, None] < front[None]).any(axis=2)
    return int(below.any(axis=0).sum())


@pytest.mark.parametrize("strategy", ALGORITHMS)
def test_what_is_returned_is_the_best_of_what_was_seen(strategy: str) -> None:
    seen = list[dict[str, int]]()

    def score(point: Mapping[str, int]) -> dict[str, float]:
        seen.append(dict(point))
        return {"cost": float(point["x"] + 3 * point["y"]), "time": 200.0 - point["x"] * point["y"]}

    found = evolve(small({"cost": 90.0}), strategy, evaluations=60, score=score)
    assert len({tuple(point.items()) for point in seen}) == len(seen) <= 60
    values = np.array([[200.0 - p["x"] * p["y"], p["x"] + 3 * p["y"]] for p in seen])
    best = {tuple(row) for row in values[nondominated(values)].tolist()}
    assert {tuple(row) for row in found.values.tolist()} == best
    assert found.objectives == ("time", "cost")
    for row in found.rows:
        assert row["fixed"] == 7
        assert (row["time"], row["cost"]) == (200 - row["x"] * row["y"], row["x"] + 3 * row["y"])
    assert isinstance(found.proof, Attempt)
    assert found.proof.feasible == found.proof.scored == len(seen) < found.proof.evaluated == 60


@pytest.mark.parametrize("strategy", ALGORITHMS)
def test_the_exact_front_is_never_beaten(strategy: str) -> None:
    problem = small({"cost": 90.0})
    exact = search(problem)
    found = evolve(problem, strategy, evaluations=100)
    assert beaten(exact.values, found.values) == 0
    assert (exact.values[:, None] <= found.values[None]).all(axis=2).any(axis=0).all()
    assert problem.evaluate(positions(problem, found.parameters)).feasible.all()


def positions(problem: Problem, parameters: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.stack([np.searchsorted(values, parameters[name]) for name, values in problem.axes.items()], axis=1)


def test_the_same_seed_gives_the_same_front() -> None:
    first, again, other = (evolve(small(), "nsga2", evaluations=50, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.values, again.values)
    assert all(np.array_equal(first.parameters[name], again.parameters[name]) for name in AXES)
    assert not np.array_equal(first.values, other.values)


@pytest.mark.parametrize("evaluations", [1, 7, 50])
def test_the_budget_is_kept(evaluations: int) -> None:
    told = list[tuple[int, int, int]]()
    found = evolve(small(), "nsga2", evaluations=evaluations, progress=lambda *at: told.append(at))
    assert found.proof.evaluated == evaluations
    assert told[-1] == (evaluations, evaluations, len(found))
    assert [at[0] for at in told] == sorted({at[0] for at in told})


def test_a_space_that_is_seen_whole_ends_and_is_still_no_proof() -> None:
    found = evolve(small(), "nsga2", evaluations=10_000)
    assert 180 <= found.proof.evaluated <= small().size == 200
    assert np.array_equal(found.values, search(small()).values)
    assert not found.proof.exact
    one = Problem({"x": (3,)}, (Term("t", ("x",), lambda v: v["x"]),), {}, ("t",))
    assert evolve(one, "nsga2", evaluations=5).rows == [{"x": 3, "t": 3.0}]


@pytest.mark.parametrize("strategy", ALGORITHMS)
def test_nothing_feasible_is_an_empty_front(strategy: str) -> None:
    found = evolve(small({"cost": -1.0}), strategy, evaluations=40)
    assert (len(found), found.proof.evaluated) == (0, 40)
    assert isinstance(found.proof, Attempt)
    assert found.proof.feasible == 0
    assert len(evolve(small(), strategy, evaluations=40, score=lambda point: None)) == 0


def test_infeasible_points_lead_to_feasible_ones() -> None:
    """One point in a million is allowed; the way there is how far the limits are broken."""
    axes = {name: tuple(range(100)) for name in "xyz"}
    terms = (
        Term("sum", ("x", "y", "z"), lambda v: v["x"] + v["y"] + v["z"]),
        Term("loss", ("sum",), lambda v: 300 - v["sum"]),
    )
    found = evolve(Problem(axes, terms, {"sum": 0.0}, ("loss",)), "nsga2", evaluations=800)
    assert found.rows == [{"x": 0, "y": 0, "z": 0, "loss": 300.0}]
    assert found.proof.evaluated == 800


def test_the_account_claims_no_proof() -> None:
    found = evolve(small({"cost": 90.0}), "nsga2", evaluations=30, seed=5)
    text = str(found.proof)
    assert text.startswith("heuristic nsga2, seed 5, NOT PROVEN: 30 of 200 points evaluated, ")
    assert text.endswith(" CPU-s")
    assert "NOT PROVEN" in found.table()
    with pytest.raises(ValueError, match="never more than there are"):
        Attempt(10, {}, 0, 5, 0, 0, strategy="nsga2", seed=0, feasible=6)


@pytest.mark.rtl
def test_a_tenth_of_a_millionth_finds_most_of_the_volume() -> None:
    found = evolve(reference_problem(), "nsga2", evaluations=600)
    assert 0.6 < hypervolume_ratio(found.values) < 1


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="0 evaluations; legal: at least 1"):
        evolve(small(), "nsga2", evaluations=0)


@pytest.mark.rtl
def test_generations_grow_with_the_evaluations() -> None:
    told = list[int]()
    evolve(reference_problem(), "nsga2", evaluations=2500, progress=lambda done, *_: told.append(done))
    assert told[0] == 25


def test_without_pymoo_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ModuleNotFoundError(f"No module named {name!r}")

    strategy = strategies.find("age-moea2")
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ToolError, match=r"pymoo.*pip install 'codesign\[heuristics\]'") as caught:
        strategy.search(ProblemSpace(small()), ("time", "cost"), evaluations=5, seed=0, progress=None)
    assert caught.value.exit_code == 3


def test_what_pymoo_raises_is_a_tool_s_failure() -> None:
    with pytest.raises(ToolError, match="pymoo failed: no luck"):
        _pymoo._quietly(_unlucky)


# Designs.

BUILD = ("build", "gemm:4x16x16", "--board", "zcu102", "--objective", "area", "--quiet")


@pytest.fixture(scope="module")
def space() -> DesignSpace:
    """The designs for a small product."""
    return DesignSpace(integers("gemm:4x16x16"), Board.load("zcu102"), tools())


@pytest.mark.parametrize("strategy", few_fast(ALGORITHMS, 1))
def test_designs_are_scored_exactly(space: DesignSpace, strategy: str) -> None:
    objectives = ("latency_us", "dsp", "lut")
    found = searched(space, strategy, objectives, evaluations=40)
    assert found.objectives == objectives
    assert len(found) > 3
    for row in found.rows:
        exact = space.evaluate({name: int(row[name]) for name in space.axes})
        assert exact is not None
        assert [row[name] for name in objectives] == [exact[name] for name in objectives]
    assert not found.proof.exact
    again, other = (searched(space, strategy, objectives, evaluations=40, seed=seed) for seed in (0, 1))
    assert np.array_equal(again.values, found.values)
    assert not np.array_equal(other.values, found.values)
    proven = searched(space, "exact", ("latency_us", "dsp"))
    assert proven.proof.exact
    assert beaten(proven.values, found.values[:, :2]) == 0


def test_a_heuristic_that_finds_nothing_does_not_say_that_nothing_fits() -> None:
    tight = DesignSpace(integers("gemm:4x16x16"), Board.load("zcu102"), tools(), budget={"lut": 10})
    assert len(searched(tight, "exact", ("latency_us",))) == 0  # proven, so no error
    with pytest.raises(NothingFits, match="nsga2 met no design that fits in 30 evaluations, which proves nothing"):
        searched(tight, "nsga2", ("latency_us", "dsp"), evaluations=30)


def _build_by(strategy: str, folder: Path) -> int:
    """The exit code of a build into ``b`` in a folder."""
    model = ["gemm:4x16x16", "--board", "zcu102", "--out", str(folder / "b"), "--quiet"]
    return main(["build", *model, "--objective", "area", "--strategy", strategy])


@pytest.mark.rtl
def test_a_report_says_which_strategy_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "searched", partial(searched, evaluations=30))
    assert _build_by("nsga2", tmp_path) == 0
    found = json.loads((tmp_path / "b" / "report.json").read_text())["search"]
    assert (found["strategy"], found["evaluated"], found["proven"]) == ("nsga2", 30, False)
    assert found["proof"].startswith("heuristic nsga2, seed 0, NOT PROVEN: 30 of ")
    assert "CPU-s" not in found["proof"]
    html = (tmp_path / "b" / "report.html").read_text()
    assert "Strategy nsga2." in html
    assert "designs of the 30 looked at, out of " in html
    assert "proven</span>" not in html


def test_what_is_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strategies.find("nsga2").missing() is None
    monkeypatch.setattr(_pymoo, "find_spec", lambda name: None if name == "numba" else object())
    assert strategies.find("nsga2").missing() == "no numba; install: pip install 'codesign[heuristics]'"


def test_without_pymoo_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pymoo", None)
    for name in [name for name in sys.modules if name.startswith("pymoo.")]:
        monkeypatch.delitem(sys.modules, name)
    assert _build_by("age-moea2", tmp_path) == 3
    error = capsys.readouterr().err
    assert error.startswith("codesign: error: pymoo is missing")
    assert "pip install 'codesign[heuristics]'" in error
    assert error.count("\n") == 1


def _unlucky() -> None:
    raise RuntimeError("no\n luck")
