import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign import api as flow
from codesign import cli
from codesign.benchmarks import spine as benches
from codesign.benchmarks.row import Row
from codesign.benchmarks.spine import Bench
from codesign.dse.planner import plain
from codesign.errors import InputError
from codesign.flow.build import plan, tools
from codesign.frontend import zoo
from codesign.target.board import Board

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
    monkeypatch.setattr(benches, "BENCHES", {"finn": lambda options: [replace(row, ours=0.1)]})
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
        (["none"], "legal: spine, search, finn"),
    ],
)
def test_options_of_another_bench_are_one_line(argv: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *argv]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1


def test_an_unknown_bench_is_refused() -> None:
    with pytest.raises(InputError, match="legal: spine, search, finn"):
        flow.bench("none")


def test_scripts_read_names_and_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benches, "BENCHES", {"spine": lambda options: [ROW, replace(ROW, metric="other", ours=0.5)]})
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
    monkeypatch.setattr(benches, "BENCHES", {"spine": lambda options: [ROW]})
    found = flow.bench("spine")
    assert isinstance(found, Bench)
    assert found.rows == (ROW,)


@pytest.mark.rtl
def test_a_product_s_rows_are_those_that_scripts_read() -> None:
    """The rows of the spine bench, on the smallest array."""
    design = plain(zoo.gemm(40, 70, 90), Board.load("zcu102"), tools(), budget={"dsp": 60})
    rows = benches._product(benches._library(design), design, (40, 70, 90), 0.1)
    assert {row.case for row in rows} == {"gemm:40x70x90:int8@zcu102"}
    found = {row.metric: row for row in rows}
    assert found.keys() >= {"mac_utilization", "model_speedup_ratio", "cycles", "cycles_per_s"}
    cycles = plan("gemm:40x70x90", Board.load("zcu102"), budget={"dsp": 60}).timing.total
    assert found["cycles"].ours == cycles
    assert found["mac_utilization"].ours == 40 * 70 * 90 / design.multipliers / cycles
    assert found["mac_utilization"].state == "reached"


@pytest.mark.parametrize(
    ("count", "least"),
    [pytest.param(20, 0.9, marks=pytest.mark.rtl), pytest.param(400, 0.965, marks=pytest.mark.slow)],
)
def test_the_transformer_classifies_heldout_images_on_rtl(tmp_path: Path, count: int, least: float) -> None:
    bundle = flow.build("digits-vit", "zcu102", out=tmp_path / "b")
    images, labels = flow.heldout("digits-vit")
    on_hardware, golden = (bundle.run(images["image"][:count], target=target) for target in ("sim", "golden"))
    np.testing.assert_array_equal(on_hardware.outputs["logits"], golden.outputs["logits"])
    assert set(on_hardware.cycles) == {bundle.report.cycles["modelled"]}
    assert (on_hardware.predictions == labels[:count]).mean() >= least
