"""hls4ml itself runs in the slow tests; here a stand-in writes its project and says what it found."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign import api as flow
from codesign.cli import main
from codesign.errors import CheckError, InputError, ToolError
from codesign.flow import hls4ml as module
from codesign.flow.build import integers
from codesign.flow.hls4ml import crosscheck
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.quant.interop.hls4ml_backend import Comparison
from codesign.target.board import Board

KV260 = Board.load("kv260")
compiled = pytest.mark.skipif(
    importlib.util.find_spec("hls4ml") is None, reason="needs hls4ml: pip install codesign[hls]"
)


class Backend:
    """Writes a project with what differs from run to run, and remembers what it was asked."""

    def __init__(self, differing: int = 0) -> None:
        self.differing, self.asked = differing, dict[str, Any]()

    def __call__(self, workload: Workload, inputs: dict[str, Any], **options: Any) -> Comparison:
        self.asked = {"workload": workload, "inputs": inputs, **options}
        folder: Path = options["folder"]
        (folder / "firmware").mkdir()
        (folder / "firmware" / "network-1a2b.so").write_bytes(b"\x7fELF")
        (folder / "firmware" / "network.cpp").write_bytes(b"// caf\xe9\n")
        (folder / "build_lib.sh").write_text(f"CC=g++\nLIB_STAMP={folder.name[-4:]}\n")
        (folder / "hls4ml_config.yml").write_text(f"OutputDir: {folder}\nPart: x\nStamp: 12ab\n")
        samples = len(next(iter(inputs.values())))
        return Comparison(samples, 10 * samples, self.differing, 3 * self.differing)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    found = Backend()
    monkeypatch.setattr(module, "compare", found)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1.3.0")
    return found


@pytest.fixture(scope="module")
def mlp_workload() -> Workload:
    found = zoo.load("digits-mlp")
    assert isinstance(found, Workload)
    return found


def test_a_shipped_model_is_compared_on_all_its_samples(backend: Backend, mlp_workload: Workload) -> None:
    found = crosscheck("digits-mlp", mlp_workload, integers("digits-mlp"), KV260)
    assert (found.samples, found.values, found.version) == (400, 4000, "1.3.0")
    np.testing.assert_array_equal(backend.asked["inputs"]["image"], zoo.heldout("digits-mlp")[0]["image"])
    assert backend.asked["workload"] is mlp_workload
    assert (backend.asked["part"], backend.asked["clock_mhz"]) == (KV260.part, KV260.clock_hz / 1e6)
    assert found.to_json() == {
        "backend": "hls4ml", "version": "1.3.0", "samples": 400, "values": 4000, "evidence": "simulated"
    }  # fmt: skip


def test_another_model_is_compared_on_random_samples(backend: Backend, mlp_workload: Workload) -> None:
    found = crosscheck("mine.onnx", mlp_workload, integers("digits-mlp"), KV260)
    assert found.samples == 100
    assert backend.asked["inputs"]["image"].shape == (100, 1, 8, 8)


@pytest.mark.usefixtures("backend")
def test_a_project_is_the_same_every_time_and_has_nothing_compiled(mlp_workload: Workload) -> None:
    one, other = (crosscheck("digits-mlp", mlp_workload, integers("digits-mlp"), KV260) for _ in range(2))
    assert one.files == other.files
    assert dict(one.files) == {
        "build_lib.sh": b"CC=g++\nLIB_STAMP=0\n",
        "firmware/network.cpp": b"// caf\xe9\n",
        "hls4ml_config.yml": b"OutputDir: .\nPart: x\nStamp: 0\n",
    }


def test_other_integers_are_a_failed_check(backend: Backend, mlp_workload: Workload) -> None:
    backend.differing = 2
    with pytest.raises(CheckError, match="differ in 2 of 4000 integers, by up to 6 steps of the output"):
        crosscheck("digits-mlp", mlp_workload, integers("digits-mlp"), KV260)


@pytest.mark.rtl
@pytest.mark.usefixtures("backend")
def test_a_bundle_has_the_project_and_says_so(tmp_path: Path) -> None:
    bundle = flow.build("digits-mlp", "zcu102", out=tmp_path / "b", backend="hls4ml")
    assert {name for name in bundle.stored.files if name.startswith("hls/")} == {
        "hls/build_lib.sh", "hls/firmware/network.cpp", "hls/hls4ml_config.yml"
    }  # fmt: skip
    assert "rtl/top.v" in bundle.stored.files
    assert bundle.report.crosscheck is not None
    assert "all 4,000 of 400 samples" in bundle.report.html()
    assert "all 4000 of 400 samples" in bundle.stored.data("README.txt").decode()
    assert flow.report(tmp_path / "b") == bundle.report


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["digits-mlp", "--backend", "vhdl"], 2, "--backend 'vhdl'; legal: rtl, hls4ml"),
        (["gemm:2x3x4", "--backend", "hls4ml"], 2, "--backend hls4ml: gemm:2x3x4 is no file"),
        (["digits-vit", "--backend", "hls4ml"], 2, "it is no part of a chain; legal: a chain of MatMul or Gemm"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    argv: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *argv, "--board", "zcu102", "--out", str(tmp_path / "b"), "--quiet"]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "b").exists()


def test_without_hls4ml_the_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "hls4ml", None)
    argv = ["build", "digits-mlp", "--board", "zcu102", "--backend", "hls4ml", "--out", str(tmp_path / "b"), "--quiet"]
    assert main(argv) == 3
    assert "hls4ml is missing; get it with: pip install 'codesign[hls]'" in capsys.readouterr().err


@compiled
def test_without_a_compiler_the_line_says_so(monkeypatch: pytest.MonkeyPatch, mlp_workload: Workload) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ToolError, match=r"g\+\+, which is missing"):
        crosscheck("digits-mlp", mlp_workload, integers("digits-mlp"), KV260)


def test_a_model_that_is_no_chain_is_refused() -> None:
    workload = zoo.load("digits-vit")
    assert isinstance(workload, Workload)
    with pytest.raises(InputError, match="legal: a chain"):
        crosscheck("digits-vit", workload, integers("digits-vit"), KV260)


@compiled
@pytest.mark.slow
def test_the_shipped_network_through_hls4ml(tmp_path: Path) -> None:
    made = [flow.build("digits-mlp", "zcu102", out=tmp_path / name, backend="hls4ml") for name in ("a", "b")]
    assert made[0].stored.files == made[1].stored.files
    assert made[0].report.crosscheck == {
        "backend": "hls4ml", "version": "1.3.0", "samples": 400, "values": 4000, "evidence": "simulated"
    }  # fmt: skip
    assert b"nnet::dense<" in made[0].stored.data("hls/firmware/network.cpp")
