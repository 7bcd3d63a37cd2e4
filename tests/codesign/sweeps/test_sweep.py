"""Sweeps: whole, the same after any number of kills, and one line for what users get wrong."""

import importlib.util
import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from codesign.cli import main
from codesign.compiler.program import compile_network
from codesign.dse.planner import RESOURCES
from codesign.errors import CheckError, InputError
from codesign.flow.build import integers, tools
from codesign.hw.system.accelerator import formulas
from codesign.solver.front import nondominated
from codesign.sweeps import sweep as sweeps
from codesign.sweeps.grid import Grid, ThinnedSpace
from codesign.sweeps.request import SweepRequest, swept_parameters
from codesign.sweeps.shards import Shards
from codesign.sweeps.sweep import KEYS, Sweep, sweep
from codesign.target.board import Board
from codesign.timing.cycles import exact
from tests.codesign.sweeps.folders import REQUEST, tree

PARAMETERS = swept_parameters()


@pytest.fixture(scope="module")
def rows(swept: Sweep) -> pl.DataFrame:
    """Its rows."""
    return swept.scan().collect()


# The rows.


def test_every_design_of_every_combination_is_one_row(swept: Sweep, rows: pl.DataFrame) -> None:
    assert [(c.model, c.board, c.clock_mhz, c.budget) for c in swept.combinations] == [
        (m, b, c, d)
        for m in REQUEST.models
        for b in REQUEST.boards
        for c in REQUEST.clocks_mhz
        for d in REQUEST.budgets
    ]
    assert len(rows) == swept.rows == sum(c.points for c in swept.combinations)
    assert rows.select(*KEYS, *PARAMETERS).is_unique().all()
    for c in swept.combinations:
        part = rows.filter(model=c.model, board=c.board, clock_mhz=c.clock_mhz, budget=c.budget)
        whole = ThinnedSpace(integers(c.model), Board.load(c.board), REQUEST.limit).axes
        axes = {name: values for name, values in whole.items() if name in PARAMETERS}
        assert {name: tuple(sorted(set(part[name]))) for name in axes} == axes
        assert len(part) == np.prod([len(values) for values in axes.values()]) == c.points


def test_columns_are_documented(rows: pl.DataFrame) -> None:
    expected = [*KEYS, *PARAMETERS, "evidence", "cycles", "latency_us", *RESOURCES, "legal", "feasible", "binding"]
    assert rows.columns == expected
    nulls = {name for name in rows.columns if rows[name].null_count()}
    assert nulls == {"t_a", "n_a", "t_v"}
    assert rows["t_a"].dtype == pl.Int32
    text = sweeps.__doc__ or ""
    assert all(name in text for name in expected if name not in PARAMETERS[1:])


def test_feasible_rows_keep_their_budget(rows: pl.DataFrame) -> None:
    boards = {name: Board.load(name).resources for name in REQUEST.boards}
    for row in rows.iter_rows(named=True):
        limit = {name: getattr(boards[row["board"]], name) for name in RESOURCES}
        if row["budget"] != "all":
            limit["dsp"] = 300
        share = {name: row[name] / limit[name] if limit[name] else 0.0 for name in RESOURCES}
        assert row["feasible"] == (row["legal"] and max(share.values()) <= 1)
        assert share[row["binding"]] == max(share.values())
        assert row["latency_us"] == row["cycles"] / row["clock_mhz"]


def test_modelled_rows_are_exact_and_the_front(swept: Sweep, rows: pl.DataFrame) -> None:
    for c in swept.combinations[:6]:
        part = rows.filter(model=c.model, board=c.board, clock_mhz=c.clock_mhz, budget=c.budget)
        front = part.filter(evidence="modelled")
        assert front["feasible"].all()
        board = Board.load(c.board).with_overrides([f"clock_hz={round(c.clock_mhz * 1e6)}"])
        space = ThinnedSpace(integers(c.model), board, REQUEST.limit)
        scored = []
        for row in part.filter(pl.col("feasible")).iter_rows(named=True):
            design = space.design({name: row[name] for name in space.axes if name in PARAMETERS})
            cycles = exact(compile_network(space.network, design), design, formulas(design.engines)).total
            scored.append((cycles, row["dsp"]))
            assert row["cycles"] == cycles if row["evidence"] == "modelled" else row["cycles"] <= cycles
        values = np.array(scored, np.float64)
        best = {tuple(value) for value in values[nondominated(values)].tolist()}
        assert {(float(a), float(b)) for a, b in front.select("cycles", "dsp").iter_rows()} == best
        assert len(front) == len(best)


def test_the_summary_is_of_each_combination(swept: Sweep, rows: pl.DataFrame) -> None:
    summary = swept.summary()
    assert [tuple(row[key] for key in KEYS) for row in summary] == [
        tuple(getattr(c, key) for key in KEYS) for c in swept.combinations
    ]
    for row in summary:
        part = rows.filter(**{key: row[key] for key in KEYS}).filter(pl.col("feasible"))
        assert (row["feasible"], row["evidence"]) == (len(part), "modelled")
        assert row["best_latency_us"] == part.filter(evidence="modelled")["latency_us"].min()
    assert "best_latency_us" in swept._repr_html_()


def test_without_exact_scores_there_are_bounds_only(tmp_path: Path) -> None:
    found = sweep(SweepRequest(("gemm:8x16x16",), ("zcu102",), limit=50), tmp_path / "s")
    assert set(found.scan().collect()["evidence"]) == {"bound"}
    assert found.summary()[0]["evidence"] == "bound"
    nothing = sweep(SweepRequest(("gemm:8x16x16",), ("zcu102",), (), ("dsp=1",), limit=50), tmp_path / "t")
    assert (nothing.summary()[0]["feasible"], nothing.summary()[0]["best_latency_us"]) == (0, None)
    assert set(nothing.scan().collect()["binding"]) == {"dsp"}


def test_a_transformer_has_all_parameters(tmp_path: Path) -> None:
    found = sweep(SweepRequest(("digits-vit",), ("zcu102",), limit=100), tmp_path / "s").scan().collect()
    assert not any(found[name].null_count() for name in PARAMETERS)


def documented(tool: str) -> list[str]:
    """Lines of the module's text that begin with the name of a tool."""
    return [line.strip() for line in (sweeps.__doc__ or "").splitlines() if line.strip().startswith(f"{tool}.")]


def test_the_documented_lines_of_polars_run(swept: Sweep) -> None:
    assert len(documented("pl")) == 2
    for line in documented("pl"):
        assert len(eval(line.replace("DIR", str(swept.path)), {"pl": pl})) > 0


def test_the_documented_lines_of_duckdb_run(swept: Sweep, rows: pl.DataFrame) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    assert len(documented("duckdb")) == 2
    found = [eval(line.replace("DIR", str(swept.path)), {"duckdb": duckdb}).fetchall() for line in documented("duckdb")]
    best = rows.filter(pl.col("feasible")).group_by("model", "board").agg(pl.col("latency_us").min())
    assert sorted(found[0]) == sorted(best.iter_rows())
    wrong = rows.filter(pl.col("legal") & ~pl.col("feasible"))
    assert sum(line[-1] for line in found[1]) == len(wrong) > 0


# Parts of a space.


def test_an_axis_may_be_cut_to_some_values(tmp_path: Path) -> None:
    whole = sweep(SweepRequest(("gemm:8x16x16",), ("zcu102",), limit=10**6), tmp_path / "whole").scan().collect()
    request = SweepRequest(("gemm:8x16x16",), ("zcu102",), limit=10**6, axes=("n_l=4,1, 2", "t_in=8"))
    assert request.axes == ("n_l=1,2,4", "t_in=8")
    part = sweep(request, tmp_path / "part").scan().collect()
    expected = whole.filter(pl.col("n_l").is_in([1, 2, 4]), pl.col("t_in") == 8)
    assert part.equals(expected)
    assert 0 < len(part) < len(whole)


def test_the_front_of_a_part_is_the_part_s(tmp_path: Path) -> None:
    request = SweepRequest(("gemm:8x16x16",), ("zcu102",), exact=True, axes=("n_l=1", "t_out=8"))
    front = sweep(request, tmp_path / "s").scan().filter(evidence="modelled").collect()
    assert len(front) > 0
    assert front.select("n_l", "t_out").unique().rows() == [(1, 8)]


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sweep", "gemm:8x16x16", "--board", "zcu102", "--limit", "40", "--axis", "n_l=1,8", "--out"]
    assert main([*argv, str(tmp_path / "s")]) == 0
    found = re.search(r"gemm:8x16x16 on zcu102: ([\d,]+) of ([\d,]+) points, thinned to (.*); --limit takes more",
                      capsys.readouterr().err)  # fmt: skip
    assert found is not None
    space = ThinnedSpace(integers("gemm:8x16x16"), Board.load("zcu102"), 10**9, keep={"n_l": (1, 8)})
    assert int(found[2].replace(",", "")) == np.prod([len(values) for values in space.axes.values()])
    assert int(found[1].replace(",", "")) <= 40
    assert "t_in " in found[3]
    assert "n_l" not in found[3].replace("n_l 1 of 2 values", "")
    assert main([*argv[:4], "--axis", "n_l=8", "--out", str(tmp_path / "t")]) == 0
    assert "thinned" not in capsys.readouterr().err


def test_time_and_bytes_of_many_points_are_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["sweep", "gemm:64x256x256", "--board", "zcu102,kv260", "--limit", "3000", "--out"]
    assert main([*argv, str(tmp_path / "s")]) == 0
    assert "about" not in capsys.readouterr().err
    monkeypatch.setattr(sweeps, "_LARGE", 2000)
    assert main([*argv, str(tmp_path / "t")]) == 0
    told = capsys.readouterr().err
    found = re.search(r"([\d,]+) points: about (\d+) s and (\d+\.\d) MB; --limit and --axis take fewer", told)
    assert found is not None
    assert told.index("tables of what they have in common") < told.index("about") < told.index("per second")
    parts = [*(tmp_path / "t").glob("part-*")]
    assert int(found[1].replace(",", "")) == sum(pl.read_parquet(path).height for path in parts)
    assert int(found[2]) < 60
    assert main([*argv, str(tmp_path / "t"), "--resume"]) == 0
    assert "about" not in capsys.readouterr().err


def test_bytes_are_foretold_from_some_rows(
    swept: Sweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    combination = swept.combinations[0]
    grid = Grid(REQUEST.space(integers(combination.model), REQUEST.subjects[0][2]))
    there = sum((swept.path / name).stat().st_size for name in combination.ranges(REQUEST.shard_rows))
    monkeypatch.setattr(logging.getLogger("codesign"), "handlers", [])
    caplog.set_level(logging.INFO, logger="codesign.sweeps.sweep")
    sweeps._foretell(REQUEST, combination, grid, 1000 * combination.points)
    found = re.search(r"s beside the searches and ([\d.]+) MB", caplog.text)
    assert found is not None
    assert float(found[1]) == pytest.approx(1000 * there / 1e6, rel=0.3)


def test_cycles_follow_from_a_latency_without_rounding(rng: np.random.Generator) -> None:
    for clock_hz in (100_000_000, 312_500_000, 333_333_333, 299_999_997):
        megahertz = clock_hz / 1e6
        for cycles in [1, 2, 3, *rng.integers(1, 1 << 40, 500).tolist()]:
            assert sweeps._cycles(cycles / megahertz, megahertz) == cycles
    with pytest.raises(CheckError, match="no whole number of cycles"):
        sweeps._cycles(6242.3 / 300, 300.0)


# The folder.


def test_the_manifest_says_what_is_there(swept: Sweep) -> None:
    document = json.loads((swept.path / "manifest.json").read_text())
    assert document["format"] == 1
    assert document["identity"]["budgets"] == ["all", "dsp=300"]
    assert set(document["identity"]["models"]) == set(REQUEST.models)
    assert sum(shard["rows"] for shard in document["shards"].values()) == swept.rows
    assert set(document["shards"]) | {"manifest.json"} == {path.name for path in swept.path.iterdir()}
    assert all(shard["rows"] <= 16 for shard in document["shards"].values())
    for number, combination in enumerate(swept.combinations):
        note = document["notes"][str(number)]
        assert note["proof"].startswith(f"{combination.points:,} points: ")
        assert 1 <= len(note["front"]) <= combination.points


def test_a_complete_sweep_is_left_as_it_is(swept: Sweep) -> None:
    before = tree(swept.path)
    again = sweep(REQUEST, swept.path, resume=True)
    assert (again.rows, again.resumed) == (swept.rows, swept.rows)
    assert tree(swept.path) == before


def test_resuming_nothing_begins(tmp_path: Path) -> None:
    request = SweepRequest(("gemm:8x16x16",), ("zcu102",), limit=20)
    assert sweep(request, tmp_path / "s", resume=True).resumed == 0


def test_an_interrupt_leaves_what_can_be_resumed(
    swept: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = Shards.add
    calls = list[str]()

    def add(store: Shards, name: str, rows: int, data: bytes) -> None:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(name)
        written(store, name, rows, data)

    monkeypatch.setattr(Shards, "add", add)
    argv = ["sweep", "gemm:8x16x16", "--board", "zcu102,kv260", "--out", str(tmp_path / "s"), "--limit", "30"]
    argv += ["--clock-mhz", "100,200", "--quiet"]
    assert main(argv) == 130
    assert capsys.readouterr().err == "codesign: interrupted\n"
    monkeypatch.undo()
    assert main(argv) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*argv, "--resume", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert 0 < document["resumed"] < document["rows"]
    assert len(document["combinations"]) == 4


def test_other_formulas_are_not_mixed_in(tmp_path: Path) -> None:
    request = SweepRequest(("gemm:8x16x16",), ("zcu102",), limit=20, shard_rows=8)
    sweep(request, tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    document = json.loads(path.read_text())
    document["notes"]["0"]["values"] = "0" * 64
    document["shards"].popitem()
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="other formulas"):
        sweep(request, tmp_path / "s", resume=True)
    document["notes"]["0"] = {"front": 3}
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        sweep(request, tmp_path / "s", resume=True)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"models": ("gemm:8x16x16", "gemm:9x70x34")}, "models"), ({"boards": ("zcu102",)}, "boards"),
        ({"clocks_mhz": (200.0,)}, "clocks_mhz"), ({"budgets": ("all",)}, "budgets"), ({"limit": 99}, "limit"),
        ({"exact": False}, "exact"), ({"shard_rows": 17}, "shard_rows"), ({"axes": ("n_l=1,2",)}, "axes"),
    ],
)  # fmt: skip
def test_another_request_is_not_resumed(swept: Sweep, changes: dict[str, Any], part: str) -> None:
    before = tree(swept.path)
    with pytest.raises(InputError, match=f"other arguments: {part} is"):
        sweep(replace(REQUEST, **changes), swept.path, resume=True)
    assert tree(swept.path) == before


def test_a_changed_board_file_is_another_board(tmp_path: Path) -> None:
    text = (resources.files("codesign.boards") / "zcu102.toml").read_text()
    (tmp_path / "b.toml").write_text(text)
    request = SweepRequest(("gemm:8x16x16",), (str(tmp_path / "b.toml"),), limit=20)
    assert sweep(request, tmp_path / "s").scan().collect()["board"][0] == str(tmp_path / "b.toml")
    (tmp_path / "b.toml").write_text(text.replace("300_000_000", "250_000_000"))
    with pytest.raises(InputError, match="boards"):
        sweep(request, tmp_path / "s", resume=True)


def test_a_board_of_the_user_goes_by_its_name_wherever_its_file_lies(tmp_path: Path) -> None:
    (tmp_path / "boards").mkdir()
    text = (resources.files("codesign.boards") / "zcu102.toml").read_text()
    (tmp_path / "boards" / "mine.toml").write_text(text.replace('name = "zcu102"', 'name = "mine"'))
    request = SweepRequest(("gemm:8x16x16",), ("mine",), limit=20, folders=(tmp_path / "boards",))
    assert sweep(request, tmp_path / "s").scan().collect()["board"][0] == "mine"
    (tmp_path / "boards").rename(tmp_path / "moved")
    again = sweep(replace(request, folders=(tmp_path / "moved",)), tmp_path / "s", resume=True)
    assert again.resumed == again.rows


# The command line and the Python face.


def test_progress_has_a_rate_and_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["sweep", "gemm:8x16x16", "--board", "zcu102", "--out", str(tmp_path / "s"), "--limit", "30", "--exact"]
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert re.search(r"\d+ of \d+ points, [\d,]+ per second, \d+ s left", printed.err)
    assert "front of combination 1" in printed.err
    heading, row, last = printed.out.splitlines()
    assert heading.split() == ["model", "board", "MHz", "budget", "designs", "feasible", "fastest", "evidence"]
    assert row.split()[:4] == ["gemm:8x16x16", "zcu102", "300", "all"]
    assert row.split()[-1] == "modelled"
    assert str(tmp_path / "s") in last
    assert main([*argv, "--resume", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_progress_is_said_once_per_second(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(sweeps, "monotonic", lambda: now[0])
    monkeypatch.setattr(logging.getLogger("codesign"), "handlers", [])
    caplog.set_level("INFO", logger="codesign.sweeps.sweep")
    progress = sweeps._SweepProgress(1000, 200)
    for _ in range(8):
        now[0] += 0.5
        progress.step(100)
    assert caplog.messages == [
        "200 of 1,000 points are there",
        "400 of 1,000 points, 200 per second, 3 s left", "600 of 1,000 points, 200 per second, 2 s left",
        "800 of 1,000 points, 200 per second, 1 s left", "1,000 of 1,000 points, 200 per second, 0 s left",
    ]  # fmt: skip


def test_a_layer_without_a_kernel_fits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in tools().kernels.values():
        monkeypatch.setattr(kind, "supports", classmethod(lambda cls, layer: "it is odd"))
    assert main(["sweep", "gemm:4x4x4", "--board", "zcu102", "--out", str(tmp_path / "s"), "--quiet"]) == 1
    assert "no kernel runs layer gemm: it is odd" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_without_polars_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(sweeps, "find_spec", lambda name: None if name == "polars" else found(name))
    assert main(["sweep", "gemm:4x4x4", "--board", "zcu102", "--out", str(tmp_path / "s"), "--quiet"]) == 3
    printed = capsys.readouterr().err
    assert "pip install 'codesign[sweep]'" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.rtl
def test_many_rows_take_the_memory_of_a_shard(tmp_path: Path) -> None:
    """The peak of a process with many shards is that of one with few."""
    code = (
        "import resource, sys; from pathlib import Path;"
        "from codesign.sweeps.request import SweepRequest; from codesign.sweeps.sweep import sweep;"
        "budgets = tuple(f'dsp={n}' for n in range(100, 100 + int(sys.argv[1])));"
        "r = SweepRequest(('gemm:64x64x64',), ('zcu102',), (), budgets);"
        "sweep(r, Path(sys.argv[2])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (2, 60):
        command = [sys.executable, "-c", code, str(count), str(tmp_path / str(count))]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < 1.15 * peaks[0]
