"""Strategies are found by name; a new one is one file, and what is broken breaks itself alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import codesign
from codesign.benchmarks.designs import chosen, reference_rows
from codesign.benchmarks.reference_problem import reference_problem
from codesign.cli import main
from codesign.dse import strategies
from codesign.dse.design_space import DesignSpace
from codesign.dse.planner import parse_budget
from codesign.dse.strategies import GROUP, Strategy, searched
from codesign.errors import InputError, ToolError
from codesign.flow.build import integers, tools
from codesign.solver.exact import search
from codesign.solver.front import Attempt
from codesign.target.board import Board
from tests.packages import install

CODE = '''
import numpy as np

from codesign.solver.front import Attempt, Front, nondominated


class Walk:
    """Looks at designs at random."""

    name = "random-walk"

    def missing(self):
        return None

    def search(self, space, objectives, *, evaluations, seed, progress):
        problem, rng = space.problem(objectives), np.random.default_rng(seed)
        points = np.unique(rng.integers(0, problem.shape, (evaluations, len(problem.axes))), axis=0)
        parameters = problem.parameters(points)
        rows = [{name: int(column[i]) for name, column in parameters.items()} for i in range(len(points))]
        score = space.evaluate or self.terms(problem)
        found = [(i, exact) for i, exact in enumerate(map(score, rows)) if exact is not None]
        values = np.array([[exact[name] for name in objectives] for _, exact in found]).reshape(-1, len(objectives))
        best = np.flatnonzero(nondominated(values))
        at = [found[i][0] for i in best]
        account = Attempt(
            problem.size, {}, 0, len(points), 0, 0, strategy=self.name, seed=seed, feasible=len(found)
        )
        return Front(objectives, values[best], {name: column[at] for name, column in parameters.items()}, account)

    def terms(self, problem):
        def score(row):
            point = np.array([[values.index(row[name]) for name, values in problem.axes.items()]])
            found = problem.evaluate(point)
            return dict(zip(problem.objectives, found.values[0])) if found.feasible.all() else None

        return score


STRATEGY = Walk()
'''
"""The file of a strategy."""

CALL = ("gemm:4x16x16", "zcu102")
FEW = "dsp=60"
"""A budget that few designs keep."""
SPACE = ("--board", "zcu102", "--quiet", "--objective", "area")


def add(patch: pytest.MonkeyPatch, folder: Path, **codes: str) -> None:
    """Puts files beside those of the package, as far as Python can tell."""
    folder.mkdir()
    for name, code in codes.items():
        (folder / f"{name}.py").write_text(code)
        patch.delitem(sys.modules, f"codesign.dse.strategies.{name}", raising=False)
    patch.setattr(strategies, "__path__", [*strategies.__path__, str(folder)])


def build(strategy: str, out: Path) -> int:
    return main(["build", CALL[0], *SPACE, "--strategy", strategy, "--out", str(out)])


@pytest.mark.rtl
def test_a_new_strategy_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python, the command line with its help, the bench and the report know it."""
    add(monkeypatch, tmp_path / "more", random_walk=CODE, _helper="raise AssertionError('imported')")
    assert strategies.names() == ("age-moea2", "exact", "nsga2", "random-walk")
    front = codesign.search(*CALL, strategy="random-walk")
    assert isinstance(front.proof, Attempt)
    assert (front.proof.strategy, front.proof.exact, len(front) > 0) == ("random-walk", False, True)
    assert build("random-walk", tmp_path / "b") == 0
    found = json.loads((tmp_path / "b" / "report.json").read_text())["search"]
    assert (found["strategy"], found["proven"]) == ("random-walk", False)
    html = (tmp_path / "b" / "report.html").read_text()
    assert "Strategy random-walk." in html
    assert "cs-mark proven" not in html
    assert "--objective area --strategy random-walk" in html
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "200")
    for verb in ("build", "bench"):
        assert main([verb, "--help"]) == 0
        assert "age-moea2, exact, nsga2, random-walk" in " ".join(capsys.readouterr().out.split())
    assert "random-walk" in chosen(None)
    assert build("walk", tmp_path / "c") == 2
    assert "legal: age-moea2, exact, nsga2, random-walk" in capsys.readouterr().err


def test_one_that_raises_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = CODE.replace("        problem, rng", "        raise KeyError('two\\nlines')\n        problem, rng")
    install(monkeypatch, tmp_path / "p", "walker", code, f"[{GROUP}]\nrandom-walk = walker:STRATEGY\n")
    assert build("random-walk", tmp_path / "b") == 2
    says = "strategy 'random-walk' failed: KeyError: 'two\\nlines'"
    assert capsys.readouterr().err == f"codesign: error: {says}\n"
    with pytest.raises(InputError, match="random-walk"):
        codesign.search(*CALL, strategy="random-walk")


def test_or_a_package_with_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path / "p", "walker", CODE, f"[{GROUP}]\nrandom-walk = walker:STRATEGY\n")
    proof = codesign.search(*CALL, strategy="random-walk").proof
    assert isinstance(proof, Attempt)
    assert proof.strategy == "random-walk"
    assert "random-walk" in chosen(None)


@pytest.mark.rtl
def test_the_bench_sets_it_beside_the_exact_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(monkeypatch, tmp_path / "more", random_walk=CODE)
    monkeypatch.setattr("codesign.benchmarks.designs.REFERENCE_EVALUATIONS", 600)
    problem = reference_problem()
    rows = reference_rows(problem, search(problem), ["random-walk"])
    assert {row.case for row in rows} == {"dse-problem:random-walk"}
    assert {row.metric: row.ours for row in rows}["dominated_points"] == 0


def test_listing_imports_no_strategy_and_finding_one_no_library() -> None:
    code = (
        "import sys; from codesign import cli; from codesign.dse import strategies; strategies.names(); cli._parser();"
        "assert not [name for name in sys.modules if name.startswith('codesign.dse.strategies.')];"
        "strategies.find('nsga2'); assert 'pymoo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_file_is_a_strategy_of_its_name() -> None:
    found = strategies.catalog().loaded()
    assert set(found) == {*strategies.names()}
    for name, strategy in found.items():
        assert isinstance(strategy, Strategy)
        assert strategy.name == name
    assert found["exact"].missing() is None


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("STRATEGY = 3", "TypeError: 3 is no strategy named broken; legal: see codesign.dse.strategies.Strategy"),
        (CODE, "is no strategy named broken"),
        (CODE.replace("Walk()", "Walk"), "is no strategy named broken"),
        ("", "has no attribute 'STRATEGY'"),
    ],
)
def test_a_broken_file_is_one_line_and_the_others_work(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(monkeypatch, tmp_path / "more", broken=code)
    with pytest.raises(ToolError, match=r"strategy 'broken' of codesign\.dse\.strategies\.broken cannot be loaded: "):
        strategies.find("broken")
    assert build("broken", tmp_path / "b") == 3
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert strategies.find("exact").name == "exact"
    assert "broken" not in chosen(None)


def test_a_broken_package_is_named_with_the_command_that_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, tmp_path / "p", "walker", "import nothing_at_all", f"[{GROUP}]\nrandom-walk = walker:S\n")
    assert build("random-walk", tmp_path / "b") == 3
    error = capsys.readouterr().err
    assert "strategy 'random-walk' of walker 1.5 (pip uninstall walker removes it) cannot be loaded: " in error
    assert error.count("\n") == 1
    assert codesign.search(*CALL, budget=FEW).proof.exact
    assert capsys.readouterr().err == ""


def test_a_package_cannot_take_the_name_of_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = f"[{GROUP}]\nexact = walker:STRATEGY\n"
    install(monkeypatch, tmp_path / "p", "walker", CODE.replace("random-walk", "exact"), points)
    assert codesign.search(*CALL, budget=FEW).proof.exact
    assert "strategy 'exact' of walker 1.5 (pip uninstall walker removes it) is refused" in caplog.text
    assert strategies.names() == ("age-moea2", "exact", "nsga2")


def test_two_packages_of_one_name_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("walker", "runner"):
        install(monkeypatch, tmp_path / name, name, CODE, f"[{GROUP}]\nrandom-walk = {name}:STRATEGY\n")
    with pytest.raises(InputError, match=r"strategy 'random-walk' comes from .*; legal: one of them"):
        codesign.search(*CALL, strategy="random-walk")
    assert strategies.names() == ("age-moea2", "exact", "nsga2")


# What is there.


def test_exact_is_the_default_and_proves_its_front() -> None:
    space = DesignSpace(integers(CALL[0]), Board.load(CALL[1]), tools(), budget=parse_budget(FEW))
    found = searched(space, strategies.DEFAULT, ("latency_us", "dsp"), evaluations=1)
    assert found.proof.exact
    assert np.array_equal(found.values, space.search(("latency_us", "dsp")).values)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--strategy", "nsga2"], "--strategy nsga2 without --objective; legal: both"),
        (["--strategy", "has", "--objective", "area"], "strategy 'has' is not known; legal: age-moea2, exact, nsga2"),
    ],
)
def test_a_strategy_without_a_search_or_of_another_name_is_one_line(
    more: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *CALL[:1], "--board", "zcu102", "--out", str(tmp_path / "b"), *more]) == 2
    error = capsys.readouterr().err
    assert error == f"codesign: error: {says}\n"
    assert not (tmp_path / "b").exists()


def test_the_python_face_takes_a_strategy() -> None:
    with pytest.raises(InputError, match="legal: age-moea2, exact, nsga2"):
        codesign.search(*CALL, strategy="optuna")
