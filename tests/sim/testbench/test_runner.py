from pathlib import Path

import numpy as np
import pytest

from codesign.errors import CheckError, ToolError
from codesign.sim.testbench.runner import Outcome, run_bench
from codesign.sim.waves import read
from tests.sim.masters import buffer

BENCH = "tests.sim.buffer_bench"
SETTINGS = {"BENCH_SEED": "7"}


@pytest.mark.rtl
class TestRunBench:
    def test_all_tests_of_a_module_run(self, tmp_path: Path) -> None:
        report = run_bench(buffer(), "buffer", BENCH, directory=tmp_path, settings=SETTINGS)
        names = ["full_rate", "random_gaps", "random_bursts", "inner_signals", "no_such_stream"]
        assert [outcome.name for outcome in report.outcomes] == names
        assert report.failed == ()
        assert report.outcomes[0].simulated_ns > 1000
        assert report.waves is None
        assert "PASS=5" in report.log.read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("fault", "why"),
        [
            ("valid falls", r"o, cycle \d+: valid fell before ready"),
            ("payload changes", "payload changed before ready"),
        ],
    )
    def test_a_broken_protocol_is_found(self, tmp_path: Path, fault: str, why: str) -> None:
        with pytest.raises(CheckError, match=rf"{BENCH}\.random_gaps \(seed 5\): .*{why}") as caught:
            run_bench(
                buffer(fault), "buffer", BENCH, directory=tmp_path, tests=["random_gaps"], seed=5, settings=SETTINGS
            )
        assert "\n" not in str(caught.value)

    def test_waves_show_every_transfer(self, tmp_path: Path) -> None:
        report = run_bench(
            buffer(), "buffer", BENCH, directory=tmp_path, tests=["random_bursts"], settings=SETTINGS, waves=True
        )
        assert report.waves is not None
        valid, ready = read(report.waves, ["o__valid", "o__ready"], cycles=100_000, period=10_000)
        assert int(np.sum(np.array(valid.values) & np.array(ready.values))) == 200

    def test_signals_below_the_ports_where_wanted(self, tmp_path: Path) -> None:
        settings = {**SETTINGS, "BENCH_INTERNALS": "1"}
        report = run_bench(
            buffer(), "buffer", BENCH, directory=tmp_path, tests=["inner_signals"], settings=settings, internals=True
        )
        assert report.outcomes == (Outcome("inner_signals", None, 0.0),)

    def test_a_module_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match=r"no test of tests\.sim\.none ran") as caught:
            run_bench(buffer(), "buffer", "tests.sim.none", directory=tmp_path)
        assert "No module named 'tests.sim.none'" in caught.value.log_tail


def test_missing_cocotb_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cocotb_tools.config", None)
    with pytest.raises(ToolError, match=r"cocotb is missing; get it with: pip install 'codesign\[test\]'"):
        run_bench(buffer(), "buffer", BENCH, directory=tmp_path)
