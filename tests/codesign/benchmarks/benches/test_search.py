"""The bench of the search: rows that scripts read, and what is compared with what."""

from collections.abc import Callable

import pytest

from codesign.benchmarks.benches import Options
from codesign.benchmarks.benches import search as bench_search
from codesign.benchmarks.benches.search import output_stationary
from codesign.benchmarks.row import Row
from codesign.flow.build import plan
from codesign.hw.system import accelerator
from codesign.quant.calibrate import minilm
from codesign.target.board import Board


def by_case(rows: list[Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        assert row.metric not in found.setdefault(row.case, {})
        found[row.case][row.metric] = row
    return found


@pytest.mark.rtl
def test_rows_of_a_model_s_designs() -> None:
    rows = by_case(bench_search._designs("gemm:4x16x16", ()))["gemm:4x16x16@zcu102"]
    made = plan("gemm:4x16x16", Board.load("zcu102"))
    assert rows["plain_latency_us"].ours == rows["latency_us"].reference == made.timing.total / 300
    assert rows["plain_dsp"].ours == accelerator.total(accelerator.resources(made.design)).dsp
    assert rows["latency_us"].ours <= rows["latency_at_plain_dsp_us"].ours <= rows["plain_latency_us"].ours
    assert (rows["points"].reference, rows["cpu_s"].reference, rows["peak_mb"].reference) == (1e8, 10, 1000)
    assert rows["points"].state == "missed"
    assert rows["peak_mb"].state == "reached"
    assert rows["front_points"].ours >= 1


@pytest.mark.rtl
def test_another_board_has_its_own_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_search, "_COMPARED", "gemm:4x16x16")
    rows = by_case(bench_search._elsewhere("kv260", ()))
    assert rows.keys() == {"gemm:4x16x16@kv260"}
    assert rows["gemm:4x16x16@kv260"].keys() == {"points", "cpu_s", "front_points"}


def test_cycles_of_the_published_simulator() -> None:
    rows = by_case(bench_search._scale_sim())["scale-sim"]
    assert rows["difference_cycles"].ours == 0
    assert rows["speedup_ratio"].state == "reached"
    assert output_stationary(17, 16, 1, 16, 16) == 2 * (1 + 30) - 1


def test_resources_are_within_their_limits() -> None:
    rows = by_case(bench_search._resources())
    assert rows.keys() == {
        f"resources:{name}@zcu102" for name in ("linear", "attention", "vector", "memories", "shell")
    }
    for found in rows.values():
        assert found.keys() == {f"{name}_error_pct" for name in ("lut", "ff", "dsp", "bram")}
        assert {row.state for row in found.values()} == {"reached"}


@pytest.mark.rtl
def test_the_reference_problem_is_solved() -> None:
    rows = by_case(bench_search._reference(()))["dse-problem"]
    assert (rows["front_points"].ours, rows["hypervolume_ratio"].ours) == (602, 1)
    assert rows["cpu_s"].state == "reached"


def test_what_is_run_for_which_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[str, tuple[str, ...]]]()

    def noted(what: str) -> Callable[..., list[Row]]:
        def rows(*given: object) -> list[Row]:
            asked.append((what, tuple(map(str, given))))
            return []

        return rows

    for name in ("_reference", "_scale_sim", "_designs", "_elsewhere", "_resources", "minilm_rows"):
        monkeypatch.setattr(bench_search, name, noted(name))
    monkeypatch.setattr(minilm, "missing", lambda: ("tokenizers",))
    assert bench_search.rows(Options("exact")) == []
    assert ("_designs", ("digits-vit", "()")) in asked
    assert not any(what == "_elsewhere" for what, _ in asked)
    asked.clear()
    monkeypatch.setattr(minilm, "missing", lambda: ())
    bench_search.rows(Options("nsga2"))
    assert [given[0] for what, given in asked if what == "_designs"] == ["digits-vit", "minilm"]
    assert {given for what, given in asked if what == "_elsewhere"} == {
        (board, "('nsga2',)") for board in ("kv260", "zcu104", "u280")
    }


def test_the_fastest_design_of_so_many_dsps() -> None:
    rows: list[dict[str, int | float]] = [{"latency_us": 1.0, "dsp": 9}, {"latency_us": 2.0, "dsp": 5}]
    assert [bench_search._fastest(rows, dsp) for dsp in (5, 8, 9)] == [2, 2, 1]
