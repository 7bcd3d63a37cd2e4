"""What users get wrong: one line on stderr, the right exit code, nothing half-written."""

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest

from codesign.cli import main
from codesign.flow import build as assembly
from codesign.frontend import zoo
from codesign.sim.verilator import verilate
from tests.marks import few_fast

INPUT, FITS, TOOL, INTERRUPT = 2, 1, 3, 130
Stamp = tuple[int, int, int]
"""What changes with a file: its inode, its size, and the time of its last change in nanoseconds."""


@dataclass(frozen=True)
class Place:
    """A folder of good and bad files that the cases name."""

    path: Path
    built: Path
    files: tuple[dict[str, Stamp], dict[str, Stamp]]

    def __truediv__(self, name: str) -> str:
        return str(self.path / name)


def onnx_file(op: str, shape: Sequence[int | str] = (1, 4), weight: float = 1.0, location: str | None = None) -> bytes:
    """One node between a float input and an output; the weights are all alike, or outside of the file."""
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in "xy"]
    weights = np.full((4, 4), weight, np.float32)
    inputs = ["x", "w"] if op == "MatMul" else ["x"]
    node = onnx.helper.make_node(op, inputs, ["y"], name="odd")
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weights, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    if location is not None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Place:
    """Everything that the cases name; it stays as it is, which every case checks."""
    tmp_path = tmp_path_factory.mktemp("place")
    zcu102 = (resources.files("codesign.boards") / "zcu102.toml").read_text()
    texts = {
        "broken.toml": "name = [", "list.toml": "name = 3\n", "extra.toml": zcu102 + "\n[more]\n",
        "ports.toml": zcu102.replace("ports = 4", "ports = 3"), "file": "x", "foreign/notes.txt": "mine",
    }  # fmt: skip
    good = zoo.original("digits-mlp")
    contents = {
        "empty.onnx": b"", "garbage.onnx": bytes(range(256)) * 4, "short.onnx": good[: len(good) // 3],
        "odd.onnx": onnx_file("Tan"), "dynamic.onnx": onnx_file("MatMul", shape=["n", "m"]),
        "nan.onnx": onnx_file("MatMul", weight=np.nan), "float.onnx": onnx_file("MatMul"),
        "outside.onnx": onnx_file("MatMul", location="../secret.bin"), "bytes.npy": b"garbage",
        "model.onnx": good,
    }  # fmt: skip
    for name, data in {**{n: t.encode() for n, t in texts.items()}, **contents}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.onnx").mkdir()
    arrays = {
        "good": np.zeros((3, 5, 30)), "shape": np.zeros((3, 30, 5)), "none": np.zeros((0, 5, 30)),
        "nan": np.full((1, 5, 30), np.nan), "complex": np.zeros((1, 5, 30), complex), "text": np.array(["a"]),
        "labels": np.zeros(3, np.int64), "two": np.zeros(2, np.int64), "floats": np.zeros(3),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "named.npz", other=np.zeros((1, 5, 30)))
    for name in ("flipped", "cut", "older", "linked"):
        shutil.copytree(built, tmp_path / name)
    _damage(tmp_path)
    return Place(tmp_path, built, (stamps(tmp_path), stamps(built)))


def _damage(path: Path) -> None:
    """Bundles that something happened to."""
    (path / "flipped" / "weights.bin").write_bytes(b"x" * (path / "flipped" / "weights.bin").stat().st_size)
    (path / "cut" / "rtl" / "top.v").unlink()
    document = json.loads((path / "older" / "bundle.json").read_text())
    (path / "older" / "bundle.json").write_text(json.dumps({**document, "format": 0}))
    (path / "linked" / "design.json").unlink()
    (path / "linked" / "design.json").symlink_to(path / "file")


def build(model: str, *options: str) -> Callable[[Place], list[str]]:
    """Arguments of a build; names with a dot are files of the place."""
    return lambda place: [
        "build", place / model if model.endswith(".onnx") else model,
        *(["--board", "zcu102"] if "--board" not in options else []),
        *(place / option if option.endswith((".toml", ".npy", ".npz")) else option for option in options),
        *(["--out", place / "out"] if "--out" not in options else []),
    ]  # fmt: skip


def run(*options: str) -> Callable[[Place], list[str]]:
    """Arguments of a run on the good bundle."""
    return lambda place: ["run", str(place.built), *(place / o if "." in o or "/" in o else o for o in options)]


def words(*arguments: str) -> Callable[[Place], list[str]]:
    """Arguments as they are, with ``@name`` for a file of the place and ``@`` for the good bundle."""
    return lambda place: [
        str(place.built) if a == "@" else place / a[1:] if a.startswith("@") else a for a in arguments
    ]


CASES: dict[str, tuple[Callable[[Place], list[str]], int, str]] = {
    "unknown model": (build("resnet"), INPUT, "digits-vit"),
    "missing file": (build("missing.onnx"), INPUT, "missing.onnx"),
    "a folder": (build("folder.onnx"), INPUT, "folder.onnx"),
    "empty onnx": (build("empty.onnx"), INPUT, "empty"),
    "garbage onnx": (build("garbage.onnx"), INPUT, "garbage"),
    "truncated onnx": (build("short.onnx"), INPUT, "short"),
    "unsupported operator": (build("odd.onnx"), INPUT, "Tan"),
    "dynamic shape": (build("dynamic.onnx"), INPUT, "dynamic"),
    "nan weights": (build("nan.onnx"), INPUT, "NaN"),
    "external data outside": (build("outside.onnx"), INPUT, "outside"),
    "float without samples": (build("float.onnx"), INPUT, "--calibrate"),
    "calibration file missing": (build("float.onnx", "--calibrate", "missing.npz"), INPUT, "missing.npz"),
    "calibration of others": (build("float.onnx", "--calibrate", "named.npz"), INPUT, "x"),
    "calibration garbage": (build("float.onnx", "--calibrate", "bytes.npy"), INPUT, "bytes.npy"),
    "gemm of zero": (build("gemm:0x4x4"), INPUT, "0x4x4"),
    "gemm of minus one": (build("gemm:4x-1x4"), INPUT, "4x-1x4"),
    "gemm of two sizes": (build("gemm:4x4"), INPUT, "gemm:MxKxN"),
    "gemm of another type": (build("gemm:4x4x4:int4"), INPUT, "int8"),
    "gemm of letters": (build("gemm:axbxc"), INPUT, "gemm:MxKxN"),
    "gemm too large": (build("gemm:99999999x1x1"), INPUT, "65536"),
    "unknown board": (build("gemm:4x4x4", "--board", "zcu999"), INPUT, "zcu102"),
    "board file missing": (build("gemm:4x4x4", "--board", "missing.toml"), INPUT, "missing.toml"),
    "malformed toml": (build("gemm:4x4x4", "--board", "broken.toml"), INPUT, "broken.toml"),
    "wrong type in toml": (build("gemm:4x4x4", "--board", "list.toml"), INPUT, "list.toml"),
    "unknown table in toml": (build("gemm:4x4x4", "--board", "extra.toml"), INPUT, "more"),
    "a bus that is not built": (build("gemm:4x4x4", "--board", "ports.toml"), INPUT, "power of two"),
    "no board": (words("build", "gemm:4x4x4"), INPUT, "--board"),
    "unknown objective": (build("gemm:4x4x4", "--objective", "beauty"), INPUT, "latency, area"),
    "a tolerance without an objective": (build("gemm:4x4x4", "--within", "2%"), INPUT, "without --objective"),
    "a tolerance that is no share": (
        build("gemm:4x4x4", "--objective", "area", "--within", "two"), INPUT, "legal: 0% to 100%",
    ),
    "a tolerance below zero": (
        build("gemm:4x4x4", "--objective", "area", "--within=-1%"), INPUT, "legal: 0% to 100%",
    ),
    "searched budget for nothing": (
        build("gemm:4x4x4", "--budget", "dsp=1", "--objective", "latency"), FITS,
        "dsp binds: every design needs at least ",
    ),
    "unknown synthesis": (words("verify", "@", "--synth", "all"), INPUT, "none, engines, top"),
    "quantized into no folder": (
        words("quantize", "digits-mlp", "--calibrate", "@named.npz", "--out", "@no/folder.onnx"), INPUT, "--out",
    ),
    "quantized into another kind of file": (
        words("quantize", "digits-mlp", "--calibrate", "@named.npz", "--out", "@new.txt"), INPUT, "ending in .onnx",
    ),
    "quantized product": (
        words("quantize", "gemm:4x4x4", "--calibrate", "@named.npz", "--out", "@new.onnx"), INPUT, "integers already",
    ),
    "samples of other inputs": (
        words("quantize", "digits-mlp", "--calibrate", "@named.npz", "--out", "@new.onnx"), INPUT, "image",
    ),
    "budget for nothing": (build("gemm:4x4x4", "--budget", "dsp=5"), FITS, "dsp binds: every design needs at least "),
    "budget of zero memory": (build("gemm:4x4x4", "--budget", "bram36=0"), FITS, "bram36 binds"),
    "budget of watts": (build("gemm:4x4x4", "--budget", "watts=5"), INPUT, "dsp=N"),
    "budget without a number": (build("gemm:4x4x4", "--budget", "dsp"), INPUT, "dsp=N"),
    "budget below zero": (build("gemm:4x4x4", "--budget", "dsp=-5"), INPUT, "dsp=N"),
    "set of nothing": (build("gemm:4x4x4", "--set", "clock_hz"), INPUT, "KEY=VALUE"),
    "set of an unknown figure": (build("gemm:4x4x4", "--set", "memory.colour=3"), INPUT, "memory.ports"),
    "set of an illegal value": (build("gemm:4x4x4", "--set", "memory.ports=0"), INPUT, "memory.ports"),
    "a clock of zero": (build("gemm:4x4x4", "--clock-mhz", "0"), INPUT, "--clock-mhz"),
    "a clock that is no number": (build("gemm:4x4x4", "--clock-mhz", "fast"), INPUT, "--clock-mhz"),
    "a clock of nan": (build("gemm:4x4x4", "--clock-mhz", "nan"), INPUT, "--clock-mhz"),
    "out is a file": (words("build", "gemm:4x4x4", "--board", "zcu102", "--out", "@file"), INPUT, "not a folder"),
    "out is foreign": (words("build", "gemm:4x4x4", "--board", "zcu102", "--out", "@foreign"), INPUT, "other files"),
    "out cannot be made": (words("build", "gemm:4x4x4", "--board", "zcu102", "--out", "@file/b"), INPUT, "file"),
    "verify nothing": (words("verify", "@missing"), INPUT, "missing"),
    "verify another folder": (words("verify", "@foreign"), INPUT, "foreign"),
    "verify a file": (words("verify", "@file"), INPUT, "file"),
    "verify a changed file": (words("verify", "@flipped"), INPUT, "does not match its hash"),
    "verify a lost file": (words("verify", "@cut"), INPUT, "top.v"),
    "verify an older bundle": (words("verify", "@older"), INPUT, "format"),
    "verify a link": (words("verify", "@linked"), INPUT, "link"),
    "verify no image": (words("verify", "@", "--images", "0"), INPUT, "--images"),
    "run without input": (words("run", "@"), INPUT, "--input"),
    "run a missing file": (run("--input", "missing.npy"), INPUT, "missing.npy"),
    "run garbage": (run("--input", "bytes.npy"), INPUT, "bytes.npy"),
    "run a wrong shape": (run("--input", "shape.npy"), INPUT, "(5, 30)"),
    "run no sample": (run("--input", "none.npy"), INPUT, "at least 1"),
    "run nan": (run("--input", "nan.npy"), INPUT, "NaN"),
    "run complex numbers": (run("--input", "complex.npy"), INPUT, "complex"),
    "run text": (run("--input", "text.npy"), INPUT, "numbers"),
    "run pickled objects": (run("--input", "pickle.npy"), INPUT, "pickle.npy"),
    "run an array of another name": (run("--input", "named.npz"), INPUT, "other"),
    "run with too few labels": (run("--input", "good.npy", "--labels", "two.npy"), INPUT, "labels"),
    "run with labels between classes": (run("--input", "good.npy", "--labels", "floats.npy"), INPUT, "labels"),
    "run on an unknown target": (run("--input", "good.npy", "--target", "gpu"), INPUT, "golden"),
    "run to nowhere": (run("--input", "good.npy", "--output", "file/y.npy"), INPUT, "cannot write"),
    "export an unknown model": (words("models", "resnet", "--export", "@out"), INPUT, "resnet"),
    "export no model": (words("models", "--export", "@out"), INPUT, "--export"),
    "export to a file": (words("models", "digits-mlp", "--export", "@file"), INPUT, "file"),
    "unknown kernel": (words("kernels", "sorter"), INPUT, "linear"),
    "unknown bench": (words("bench", "none"), INPUT, "spine"),
    "report of nothing": (words("report", "@missing"), INPUT, "missing"),
}  # fmt: skip

LATE = ("out cannot be made",)
"""Cases that are noticed behind the generation of hardware, which takes seconds."""


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def stamps(path: Path) -> dict[str, Stamp]:
    """Stamps of all files and folders below a folder; takes a tenth of the time of reading them."""
    found = {str(p): p.lstat() for p in path.rglob("*")}
    return {name: (status.st_ino, status.st_size, status.st_mtime_ns) for name, status in found.items()}


def failed(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail with one line; returns the line."""
    assert main([*argv, "--quiet"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("codesign: error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.rtl) if n in LATE else n for n in CASES])
def test_bad_input_is_one_line(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, part = CASES[name]
    assert part in failed(arguments(place), code, capsys)
    assert (stamps(place.path), stamps(place.built)) == place.files
    assert not (place.path / "out").exists()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("verb", ["verify", "run"])
def test_a_missing_compiler_is_a_tool_s_failure(
    verb: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", _all_but("ziglang"))
    options = ["--input", place / "good.npy", "--target", "sim"] if verb == "run" else []
    assert "install g++ or clang++" in failed([verb, str(place.built), *options], TOOL, capsys)


def _all_but(missing: str) -> Callable[[str], object]:
    found = importlib.util.find_spec
    return lambda name: None if name == missing else found(name)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", few_fast(["files", "fsync"], 1))
def test_an_interrupted_build_leaves_nothing(
    moment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, name = (assembly, "files") if moment == "files" else (os, "fsync")
    monkeypatch.setattr(target, name, interrupt)
    assert main(["build", "gemm:2x2x2", "--board", "zcu102", "--out", str(tmp_path / "out")]) == INTERRUPT
    assert capsys.readouterr().err.endswith("codesign: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rtl
def test_an_interrupted_build_leaves_the_old_bundle(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    shutil.copytree(built, old)
    before = tree(old)
    monkeypatch.setattr(os, "fsync", interrupt)
    assert main(["build", "gemm:2x2x2", "--board", "zcu102", "--out", str(old)]) == INTERRUPT
    assert tree(old) == before
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_broken_tool_shows_its_log(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "bin" / "c++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho it is broken\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(verilate, "_COMPILERS", (str(broken),))
    monkeypatch.setattr(verilate.find_compiler, "__defaults__", ((str(broken),),))
    logging.getLogger("codesign").handlers = []
    assert main(["verify", str(place.built), "--quiet"]) == TOOL
    printed = capsys.readouterr().err
    assert printed.startswith("codesign: error: c++ failed")
    assert "it is broken" in printed
