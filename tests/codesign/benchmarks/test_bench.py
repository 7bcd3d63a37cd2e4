import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codesign import api as flow
from codesign import cli
from codesign.benchmarks import benches
from codesign.benchmarks.bench import Bench
from codesign.benchmarks.benches import finn, spine
from codesign.benchmarks.row import Row
from codesign.errors import InputError

ROW = Row("a@b", "mac_utilization", "1", 0.96, "simulated", 0.95, "goal of the project")


def test_a_missed_goal_is_missed() -> None:
    assert ROW.state == "reached"
    assert replace(ROW, ours=0.94).state == "missed"
    assert replace(ROW, at_least=False).state == "missed"
    assert replace(ROW, reference=None).state == ""


def test_others_figures_are_no_goals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = replace(ROW, wanted=False)
    assert [replace(row, ours=ours).state for ours in (0.94, 0.95, 0.96)] == ["worse", "equal", "better"]
    assert replace(row, at_least=False).state == "worse"
    monkeypatch.setattr(finn, "rows", lambda options: [replace(row, ours=0.1)])
    assert cli.main(["bench", "finn"]) == 0
    cells = capsys.readouterr().out.splitlines()[1].split()
    assert cells == ["a@b", "mac_utilization", "0.1", "0.95", "worse", "simulated"]


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["spine", "--strategy", "exact"], "legal: with bench search"),
        (["search", "--finn", "python"], "legal: with bench finn"),
        (["search", "--strategy", "hill"], "legal: age-moea2, exact, nsga2"),
        (["finn", "--finn", "/none/python"], "/none/python is not a file"),
        (["none"], "legal: finn, search, spine"),
    ],
)
def test_options_of_another_bench_are_one_line(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *argv]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_an_unknown_bench_is_refused() -> None:
    with pytest.raises(InputError, match="legal: finn, search, spine"):
        flow.bench("none")


def test_scripts_read_names_and_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(spine, "rows", lambda options: [ROW, replace(ROW, metric="other", ours=0.5)])
    assert cli.main(["bench", "spine", "--json"]) == 1  # a goal is missed
    document = json.loads(capsys.readouterr().out)
    assert document["bench"] == "spine"
    assert document["seconds"] >= 0
    assert document["rows"][0] == {
        "case": "a@b", "metric": "mac_utilization", "unit": "1", "reference": 0.95, "source": "goal of the project",
        "ours": 0.96, "evidence": "simulated",
    }  # fmt: skip
    assert cli.main(["bench", "spine"]) == 1
    text = capsys.readouterr().out
    assert "reached" in text
    assert "missed" in text


def test_a_bench_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spine, "rows", lambda options: [ROW])
    found = flow.bench("spine")
    assert isinstance(found, Bench)
    assert found.rows == (ROW,)


def test_a_bench_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "from codesign.benchmarks.row import Row\nOPTIONS = ()\nROWS = [Row('a@b', 'more', '1', 2.0, 'modelled')]\n"
    (tmp_path / "mine.py").write_text(code + "def rows(options):\n    return ROWS\n")
    monkeypatch.setattr(benches, "__path__", [*benches.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "codesign.benchmarks.benches.mine", raising=False)
    assert cli.main(["bench", "mine"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["a@b", "more", "2", "modelled"]
    assert cli.main(["bench", "mine", "--strategy", "exact"]) == 2
    assert "bench mine has no such option; legal: with bench search" in capsys.readouterr().err
    assert cli.main(["bench", "--help"]) == 0
    assert "finn, mine, search, spine" in capsys.readouterr().out
    sys.modules.pop("codesign.benchmarks.benches.mine")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("def rows(options): return []", "OPTIONS is None; legal: a tuple of names of Options"),
        ("OPTIONS = ('speed',)\ndef rows(options): return []", "OPTIONS is ('speed',); legal: a tuple of names"),
        ("OPTIONS = ()", "it has no function rows; legal: see codesign.benchmarks.benches.BenchFile"),
    ],
)
def test_a_broken_file_is_one_line_and_the_others_work(
    code: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.setattr(benches, "__path__", [*benches.__path__, str(tmp_path)])
    monkeypatch.setattr(spine, "rows", lambda options: [ROW])
    assert cli.main(["bench", "broken"]) == 3
    error = capsys.readouterr().err
    assert "bench 'broken' of codesign.benchmarks.benches.broken cannot be loaded: " in error
    assert reason in error
    assert error.count("\n") == 1
    assert cli.main(["bench", "spine"]) == 0
    assert cli.main(["bench", "spine", "--strategy", "exact"]) == 2
    sys.modules.pop("codesign.benchmarks.benches.broken", None)
