"""The plug-in from a model file to bits in registers; tests/test_plugin_engine.py runs this with it installed."""

import json
from pathlib import Path

import numpy as np
import pytest

from codesign.cli import main
from codesign.compiler.program import compile_network
from codesign.errors import InputError
from codesign.flow.samples import random_samples
from codesign.frontend.workload import parse_onnx
from codesign.hw.system.accelerator import formulas, identity, simulation_sources
from codesign.ir.network import counts, run
from codesign.quant.lower.lowering import lower
from codesign.sim.check import VerifySubject, compiled, verify
from codesign.sim.synthesis import fit
from codesign.sim.testbench.benches import run_kernel_bench
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import MOST_ENGINES, engine_names, kernels
from codesign.testing import KernelContract
from codesign.timing.cycles import exact
from keep_rows import KeepRows, KeepRowsKernel
from model import model
from tests.accelerators import SMALL_VIT, board, fitting


class TestKeepRows(KernelContract):
    kernel = KeepRowsKernel


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("keep") / "keep.onnx"
    path.write_bytes(model())
    return path


def test_it_is_found_and_lowered() -> None:
    network = lower(parse_onnx(model(), "keep"))
    (layer,) = (each for each in network if isinstance(each, KeepRows))
    assert (layer.rows, layer.columns, layer.threshold) == (12, 40, 56)
    golden = [run(network, sample) for sample in random_samples(network, 8, 0)]
    kept = [int(counts(network, values)["keep"]["kept"].sum()) for values in golden]
    assert len(set(kept)) > 2
    assert 0 < sum(kept) < 8 * 12


@pytest.mark.parametrize("threshold", [5.0, 1e9])
def test_a_threshold_that_nothing_reaches_is_refused(threshold: float) -> None:
    with pytest.raises(InputError, match=r"keep .*threshold"):
        lower(parse_onnx(model(threshold=threshold), "keep"))


def test_the_protocol_bench(tmp_path: Path) -> None:
    for lanes in (1, 8):
        report = run_kernel_bench(
            "keep_rows", directory=tmp_path, seed=lanes, commands=64, kernel=KeepRowsKernel(lanes)
        )
        assert all(outcome.failure is None for outcome in report.outcomes)


def test_build_verify_and_run_from_the_command_line(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert main(["build", str(file), "--board", "zcu102", "--out", str(out), "--objective", "latency"]) == 0
    assert "keep_rows" in capsys.readouterr().out.splitlines()[0]
    assert main(["verify", str(out), "--images", "6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"][str(file)]
    assert result["passed"]
    assert len(set(result["cycles"]["simulated"])) > 1
    assert main(["verify", str(out), "--kernel", "keep_rows"]) == 0
    assert main(["kernels", "keep_rows"]) == 0
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3, 12, 16)).astype(np.float32))
    capsys.readouterr()
    for target in ("golden", "sim"):
        command = ["run", str(out), "--input", str(tmp_path / "x.npy"), "--target", target]
        assert main([*command, "--output", str(tmp_path / f"{target}.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "golden.npy"), np.load(tmp_path / "sim.npy"))
    report = json.loads((out / "report.json").read_text())
    assert {"keep_rows"} <= {each["name"] for each in report["engines"]}
    assert "BUSY_KEEP_ROWS" in json.loads((out / "registers.json").read_text())


def test_resources_are_those_of_synthesis() -> None:
    for lanes in (4, 32):
        rows = fit.compare("keep_rows", {"lanes": lanes}, fit.sample("keep_rows", {"lanes": lanes}).total.to_json())
        for row in rows:
            assert abs(row.error_pct) <= (15 if row.metric in fit.FITTED else 0), row


def test_a_design_at_the_limit_equals_the_rtl() -> None:
    """As many engines as a command has room for: ten of this kind beside all others."""
    network = lower(parse_onnx(model(), "keep"))
    most = MOST_ENGINES - len(engine_names(SMALL_VIT))
    many = {f"keep_rows{again}": {"lanes": 4} for again in ("", *(f"_{n}" for n in range(2, most + 1)))}
    linear = {**SMALL_VIT["linear"], "kw_max": 64}
    design = fitting(Design(board(), {**SMALL_VIT, "linear": linear, **many}, {}, 5), [network])
    assert len(engine_names(design.engines)) == MOST_ENGINES
    last = {**design.engines, "keep_rows_11": {"lanes": 4}}
    with pytest.raises(ValueError, match="17 engines"):
        Design(design.board, last)
    program, times = compile_network(network, design), formulas(design.engines)
    samples = list(random_samples(network, 3, 0))
    library = compiled(dict(simulation_sources(design).files), design.board.memory)
    result = verify(VerifySubject(network, design, program, times, identity(design)), library, samples)
    assert result.passed, result
    assumed = exact(program, design, times).total
    assert assumed >= max(result.cycles)
    assert len(set(result.modelled)) > 1


def test_ours_stay_as_they_are() -> None:
    assert [*kernels()][:3] == ["linear", "attention", "vector"]
    assert Board.load("zcu102").name == "zcu102"
