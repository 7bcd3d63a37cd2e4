import inspect
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codesign import api as flow
from codesign import cli
from codesign.answers import Answer
from codesign.cli import Option, Verb, main
from codesign.errors import BundleError, CheckError, CodesignError, InputError, NothingFits, ToolError


def verb(call: object, **settings: object) -> Verb:
    assert callable(call)
    return Verb("toy", "a toy", call, lambda value: Answer({"value": value}, f"value: {value}"), **settings)  # type: ignore[arg-type]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(cli, "VERBS", (verb(lambda: 3),))
    return monkeypatch


@pytest.mark.parametrize("entry", cli.VERBS, ids=lambda entry: entry.name)
def test_a_verb_is_a_thin_call_of_the_function_of_its_name(entry: Verb) -> None:
    assert entry.call is getattr(flow, entry.name)
    names = [option.flag.lstrip("-").replace("-", "_") for option in entry.options]
    assert names == list(inspect.signature(entry.call).parameters)


@pytest.mark.parametrize("verb", [entry.name for entry in cli.VERBS])
def test_every_verb_has_a_page_of_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: codesign {verb} ")


@pytest.mark.usefixtures("toy")
def test_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy"]) == 0
    assert capsys.readouterr().out == "value: 3\n"
    assert main(["toy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"value": 3}


def test_options_reach_the_function_by_name(toy: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = (Option("model", "a name"), Option("--clock-mhz", "a clock", {"type": float, "default": 300.0}))
    toy.setattr(cli, "VERBS", (verb(lambda model, clock_mhz: [model, clock_mhz], options=options),))
    assert main(["toy", "net", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"value": ["net", 300.0]}
    assert main(["toy", "net", "--clock-mhz", "250", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"value": ["net", 250.0]}


def test_a_failed_check_sets_the_exit_code(toy: pytest.MonkeyPatch) -> None:
    toy.setattr(cli, "VERBS", (Verb("toy", "a toy", lambda: None, lambda _: Answer({}, "failed", 1)),))
    assert main(["toy"]) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CodesignError("it failed"), 1),
        (CheckError("it failed"), 1),
        (NothingFits("it failed"), 1),
        (InputError("it\nfailed"), 2),
        (BundleError("it failed"), 2),
        (ToolError("it failed"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("flags", [[], ["--json"], ["--quiet"]])
def test_failures_are_one_line(
    toy: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: CodesignError, code: int, flags: list[str]
) -> None:
    def fail() -> None:
        raise error

    toy.setattr(cli, "VERBS", (verb(fail),))
    assert main(["toy", *flags]) == code
    printed = capsys.readouterr()
    assert printed.err == "codesign: error: it failed\n"
    assert printed.out == ""


def test_a_tool_s_failure_shows_command_directory_and_log(
    toy: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ToolError("it failed", ("c++", "x.cpp"), Path("obj"), "x.cpp:1: error\n")

    toy.setattr(cli, "VERBS", (verb(fail),))
    assert main(["toy"]) == 3
    printed = capsys.readouterr().err
    assert printed == "codesign: error: it failed\ncommand: c++ x.cpp\ndirectory: obj\nx.cpp:1: error\n"


def test_an_interrupt_ends_with_130(toy: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    toy.setattr(cli, "VERBS", (verb(interrupt),))
    assert main(["toy"]) == 130
    assert capsys.readouterr().err == "codesign: interrupted\n"


@pytest.mark.parametrize(
    ("quiet", "expected"), [([], "progress\nwarning\n"), (["--quiet"], "warning\n")], ids=["talking", "quiet"]
)
def test_logs_go_to_stderr(
    toy: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: list[str], expected: str
) -> None:
    def log() -> int:
        logging.getLogger("codesign.toy").info("progress")
        logging.getLogger("codesign.toy").warning("warning")
        return 1

    toy.setattr(cli, "VERBS", (verb(log),))
    assert main(["toy", "--json", *quiet]) == 0
    printed = capsys.readouterr()
    assert printed.err == expected
    assert json.loads(printed.out) == {"value": 1}


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["none"],
        ["--json"],
        ["boards", "extra"],
        ["boards", "--js"],
        ["boards", "--unknown"],
        ["doctor", "--json=1"],
    ],
)
def test_wrong_usage_is_one_line(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("codesign: error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("argv", [["--help"], ["boards", "-h"]])
def test_help_is_no_failure(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert "usage: codesign" in capsys.readouterr().out


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    for tool in data["tools"]:
        assert tool["name"] in text
        assert (f"to get {tool['name']}: {tool['get']}" in text) == (tool["found"] is None)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "codesign", "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("codesign: error: ")


def test_a_reader_who_has_enough_is_no_error() -> None:
    command = f"{sys.executable} -m codesign boards --json"
    done = subprocess.run(["sh", "-c", f"{command} | true"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["quantize", "gemm:2x3x4", "--calibrate", "{x}", "--out", "{d}/q.onnx"], "gemm:2x3x4 is integers already"),
        (["quantize", "digits-vit-float", "--calibrate", "{x}", "--out", "{d}/q.txt"], "legal: a file ending in .onnx"),
        (["quantize", "digits-vit-float", "--calibrate", "{d}/none.npz", "--out", "{d}/q.onnx"], "cannot read"),
        (["quantize", "digits-vit-float", "--calibrate", "{x}", "--out", "{d}/q.onnx"], "calibration arrays ['x']"),
        (["build", "digits-vit-float", "--board", "zcu102", "--calibrate", "{x}", "--out", "{d}/b"], "arrays ['x']"),
        (["build", "digits-vit-float", "--board", "zcu102", "--out", "{d}/b"], "or calibration data (--calibrate)"),
        (["build", "gemm:2x3x4", "--board", "zcu102", "--out", "{d}/b", "--design", "t_in"], "--design 't_in'; legal"),
        (
            ["build", "gemm:2x3x4", "--board", "zcu102", "--out", "{d}/b", "--design", "q=2"],
            "no parameter q; legal: t_in",
        ),
        (["verify", "{d}"], "cannot read bundle"),
        (["verify", "{b}", "--synth", "chip"], "--synth 'chip'; legal: none, engines, top"),
        (["verify", "{b}", "--images", "0"], "--images 0; legal: at least 1"),
        (["run", "{b}", "--input", "{x}", "--labels", "{x}"], "legal: ['a']"),
        (["run", "{b}", "--input", "{a}", "--labels", "{x}"], "legal: one whole number per sample, (2,)"),
    ],
)
def test_every_bad_option_is_one_line(
    argv: list[str], message: str, built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 3)))
    np.save(tmp_path / "a.npy", np.zeros((2, 5, 30)))
    names = {"x": tmp_path / "x.npz", "a": tmp_path / "a.npy", "d": tmp_path, "b": built}
    assert main([*(text.format(**names) for text in argv), "--quiet"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.rtl
def test_build_ends_with_ten_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["build", "gemm:5x30x20", "--board", "zcu102", "--budget", "dsp=60", "--out", str(tmp_path / "b")]
    assert main(argv) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "design", "clock", "cycles", "latency", "dsp", "bram36", "lut", "ff", "evidence", "next",
    ]  # fmt: skip
    assert "assumed, not timed" in lines[1]
    assert lines[4].endswith("binding")
    assert lines[-1].split()[1:] == ["codesign", "verify", str(tmp_path / "b")]
    assert "generating Verilog" in printed.err
    assert main(["report", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cycles"]["simulated"] is None


def test_run_shows_a_table(mlp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "digits-mlp", "--export", str(tmp_path), "--quiet"]) == 0
    capsys.readouterr()
    shutil.copytree(mlp, tmp_path / "b")
    argv = [
        "run",
        str(tmp_path / "b"),
        "--input",
        str(tmp_path / "inputs.npy"),
        "--labels",
        str(tmp_path / "labels.npy"),
    ]
    assert main(argv) == 0
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "98.50 %" in rows["accuracy"]
    assert rows.keys() >= {"cycles", "latency at 300 MHz", "MACs per cycle", "dsp", "golden = RTL"}
    assert main([*argv, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["accuracy"] == 0.985
    assert len(data["predictions"]) == 400


@pytest.mark.rtl
def test_verify_a_bundle_and_a_kernel(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(built, tmp_path / "b")
    assert main(["verify", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.startswith("verified   simulated: bit-exact on 3 images, cycles equal to the model")
    assert main(["verify", str(tmp_path / "b"), "--kernel", "linear", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["passed"], data["kernel"], list(data["results"])) == (True, "linear", ["gemm"])
    assert main(["verify", str(tmp_path / "b"), "--kernel", "attention"]) == 2
    assert "legal: linear" in capsys.readouterr().err
