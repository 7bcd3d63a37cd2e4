"""HLS C++ projects, as far as they are common to all kernels.

A kernel's algorithm is a C++ header in its folder, a class template over its design parameters. `HlsTop`
lists the arguments of its top function, from which declaration, interface pragmas, testbench and Tcl
script are generated; Vitis HLS takes the project unchanged.

Here projects are compiled by an ordinary C++ compiler against the ``ap_int.h`` and ``hls_stream.h`` that
hls4ml ships (`codesign.sim.hls`). That checks values, and that streams neither underflow nor keep words;
it checks no pragma, initiation interval or clock: these take Vitis HLS, which is not run here.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.errors import ToolError
from codesign.numerics.fixed_point import IntArray

MAX_BITS = 4096
"""Widest word of a stream, and widest ``ap_int`` that Vitis HLS takes (AMD UG1399, AP_INT_MAX_W)."""
PART = "xczu9eg-ffvb1156-2-e"
"""Default part of the project's script: the ZCU102's."""
CLOCK_MHZ = 300
_KINDS = ("operand", "memory", "input", "output")
_COMMANDS = "commands.txt"
_HEADERS = ("number_hls.h", "testbench_hls.h")
_SCRIPT = "run_hls.tcl"
_HERE = "codesign.hw.emit"
_ENGINES = "codesign.hw"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a top function.

    Attributes:
        name: C++ name, and name of its file for the testbench.
        kind: operand (a register), memory (an array over AXI-Lite), input or output (a stream).
        bits: width of the value or word.
        signed: two's complement; streams are unsigned.
        depth: words of a memory.
        comment: one-line description.
    """

    name: str
    kind: str
    bits: int
    comment: str
    signed: bool = False
    depth: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"argument {self.name} is {self.kind!r}; legal: {', '.join(_KINDS)}")
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"argument {self.name} has {self.bits} bits; legal: 1 to {MAX_BITS}")

    @property
    def type(self) -> str:
        """C++ type of a value or word."""
        return f"ap_{'' if self.signed else 'u'}int<{self.bits}>"

    @property
    def declaration(self) -> str:
        """Declaration in the argument list."""
        if self.kind == "operand":
            return f"{self.type} {self.name}"
        if self.kind == "memory":
            return f"const {self.type} {self.name}[{self.depth}]"
        return f"hls::stream<{self.type} >& {self.name}"

    @property
    def pragma(self) -> str:
        """Interface pragma: AXI4-Stream for streams, else AXI4-Lite."""
        mode = "axis" if self.kind in ("input", "output") else "s_axilite"
        return f"#pragma HLS INTERFACE mode={mode} port={self.name}"


@dataclass(frozen=True, slots=True)
class HlsTop:
    """A kernel's top function.

    Attributes:
        name: of the function and of its files.
        engine: the C++ type that does the work, with its template arguments.
        title: one sentence about the kernel.
        arguments: in order, as ``engine::run`` takes them.
    """

    name: str
    engine: str
    title: str
    arguments: tuple[Argument, ...]

    def kind(self, *kinds: str) -> list[Argument]:
        """Arguments of the given kinds, in order."""
        return [argument for argument in self.arguments if argument.kind in kinds]

    @property
    def header(self) -> str:
        """File name of the kernel's header."""
        return f"{self.name}_hls.h"


def project(top: HlsTop, part: str = PART, clock_mhz: int = CLOCK_MHZ) -> dict[str, str]:
    """A complete HLS project, file name to text.

    Args:
        top: the function.
        part: device, as Vivado names it.
        clock_mhz: clock that synthesis aims at, in MHz.
    """
    headers = {name: text(name) for name in _HEADERS} | {top.header: text(top.header, f"{_ENGINES}.{top.name}")}
    return headers | {
        f"{top.name}.h": _declaration(top),
        f"{top.name}.cpp": _definition(top),
        f"{top.name}_tb.cpp": _testbench(top),
        _SCRIPT: _script(top, part, clock_mhz),
        "README.md": _readme(top),
    }


def text(name: str, package: str = _HERE) -> str:
    """Text of a file shipped in a package: beside this module, or in an engine's folder."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def ap_types() -> Path:
    """Folder of the ``ap_int.h`` and ``hls_stream.h`` (Apache-2.0) that the installed hls4ml ships.

    Raises:
        ToolError: hls4ml is not installed, or has no such files.
    """
    spec = importlib.util.find_spec("hls4ml")
    roots = [Path(place) for place in (spec.submodule_search_locations or ())] if spec is not None else []
    for root in roots:
        folder = root / "templates" / "vivado" / "ap_types"
        if (folder / "ap_int.h").is_file() and (folder / "hls_stream.h").is_file():
            return folder
    raise ToolError("the headers of HLS types are missing; get them with: pip install 'codesign[hls]'")


def ap_types_version() -> str:
    """Version of the package that provides `ap_types`."""
    return importlib.metadata.version("hls4ml")


# Files of a project ----------------------------------------------------------------


def _signature(top: HlsTop) -> str:
    arguments = ",\n".join(f"    {argument.declaration}" for argument in top.arguments)
    return f"void {top.name}(\n{arguments})"


def _declaration(top: HlsTop) -> str:
    width = max(len(argument.name) for argument in top.arguments)
    comments = "\n".join(f"//   {a.name.ljust(width)}  {a.comment}" for a in top.arguments)
    return (
        f"// {top.title}\n//\n{comments}\n#pragma once\n\n"
        f'#include "{top.header}"\n\ntypedef codesign::{top.engine} {top.name}_engine;\n\n{_signature(top)};\n'
    )


def _definition(top: HlsTop) -> str:
    pragmas = "\n".join([*(a.pragma for a in top.arguments), "#pragma HLS INTERFACE mode=s_axilite port=return"])
    names = ", ".join(argument.name for argument in top.arguments)
    return f'#include "{top.name}.h"\n\n{_signature(top)} {{\n{pragmas}\n    {top.name}_engine::run({names});\n}}\n'


def _testbench(top: HlsTop) -> str:
    operands, streams = top.kind("operand"), top.kind("input", "output")
    memories, inputs, outputs = (top.kind(kind) for kind in ("memory", "input", "output"))
    place = {argument.name: len(operands) + i for i, argument in enumerate(streams)}
    given = {argument.name: f"{argument.type}(c[{i}])" for i, argument in enumerate(operands)}
    call = ",\n            ".join(given.get(argument.name, argument.name) for argument in top.arguments)
    lines = [
        f'#include "{top.name}.h"',
        '#include "testbench_hls.h"',
        "",
        "// Runs the commands of a folder, the first argument; see testbench_hls.h.",
        "int main(int argc, char** argv) {",
        '    codesign::Bench bench(argc > 1 ? argv[1] : ".");',
        *(f"    static {a.type} {a.name}[{a.depth}];" for a in memories),
        *(f'    bench.memory("{a.name}", {a.name}, {a.depth});' for a in memories),
        *(f'    hls::stream<{a.type} > {a.name}("{a.name}");' for a in streams),
        "    std::vector<long long> c;",
        f"    while (bench.command(c, {len(operands) + len(streams)})) {{",
        *(f'        bench.push("{a.name}", {a.name}, c[{place[a.name]}]);' for a in inputs),
        f"        {top.name}(\n            {call});",
        *(f'        bench.pull("{a.name}", {a.name}, c[{place[a.name]}]);' for a in outputs),
        *(f'        bench.drained("{a.name}", {a.name});' for a in inputs),
        "    }",
        "    return bench.finish();",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _script(top: HlsTop, part: str, clock_mhz: int) -> str:
    return f"""\
# Simulates, synthesizes, co-simulates and packages the kernel with Vitis HLS:
#   vitis-run --mode hls --tcl {_SCRIPT}      (before 2023.2: vitis_hls -f {_SCRIPT})
# The simulations run the commands in the folder data, if there is one.
set root [file dirname [file normalize [info script]]]
set data [file join $root data]
open_project -reset {top.name}_hls
set_top {top.name}
add_files [file join $root {top.name}.cpp] -cflags "-I$root"
add_files -tb [file join $root {top.name}_tb.cpp] -cflags "-I$root"
open_solution -reset -flow_target vivado solution
set_part {{{part}}}
create_clock -period {1000 / clock_mhz:.3f} -name default
if {{[file exists [file join $data {_COMMANDS}]]}} {{ csim_design -argv $data }}
csynth_design
if {{[file exists [file join $data {_COMMANDS}]]}} {{ cosim_design -argv $data }}
export_design -format ip_catalog
exit
"""


def _readme(top: HlsTop) -> str:
    return (
        f"{top.title} `vitis-run --mode hls --tcl {_SCRIPT}` builds it with Vitis HLS; `{top.name}.h` says what"
        f" its arguments are, `{top.header}` how it works. Its bits were compared with the integer reference by a"
        " C++ compiler; initiation intervals, clock and resources are known only after synthesis by Vitis HLS.\n"
    )


# Testbench data -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HlsCall:
    """One command: operands, words of its input streams, word counts of its outputs.

    Attributes:
        operands: by name.
        inputs: words by stream name, bytes ``[words, bytes per word]``, least significant first.
        outputs: words by stream name.
    """

    operands: Mapping[str, int]
    inputs: Mapping[str, NDArray[np.uint8]]
    outputs: Mapping[str, int]


def vectors(top: HlsTop, calls: Sequence[HlsCall], memories: Mapping[str, IntArray]) -> dict[str, str]:
    """Testbench files, file name to text.

    Args:
        top: the function.
        calls: commands in order.
        memories: values by memory name, ``depth`` of each.
    """
    files = {_COMMANDS: "".join(_line(top, call) for call in calls)}
    for argument in top.kind("memory"):
        files[f"{argument.name}.txt"] = "".join(f"{value}\n" for value in memories[argument.name].tolist())
    for argument in top.kind("input"):
        files[f"{argument.name}.hex"] = "".join(encode(call.inputs[argument.name]) for call in calls)
    return files


def _line(top: HlsTop, call: HlsCall) -> str:
    operands = [call.operands[a.name] for a in top.kind("operand")]
    counts = [
        len(call.inputs[a.name]) if a.kind == "input" else call.outputs[a.name] for a in top.kind("input", "output")
    ]
    return " ".join(map(str, (*operands, *counts))) + "\n"


def words(values: NDArray[np.generic], word_bytes: int) -> NDArray[np.uint8]:
    """Packs elements, little-endian and back to back, into words of ``word_bytes`` bytes.

    >>> words(np.array([1, -2], np.int16), 4).tolist()
    [[1, 0, 254, 255]]
    """
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    return np.frombuffer(little.tobytes(), np.uint8).reshape(-1, word_bytes)


def encode(data: NDArray[np.uint8]) -> str:
    """Words as lines of hexadecimal digits, most significant first.

    >>> encode(np.array([[1, 0, 254, 255]], np.uint8)).split()
    ['fffe0001']
    """
    return "".join(f"{row[::-1].tobytes().hex()}\n" for row in data)


def decode(lines: str) -> NDArray[np.uint8]:
    """Inverse of `encode`; an empty text gives no words.

    >>> decode("fffe0001").tolist()
    [[1, 0, 254, 255]]
    """
    found = list(_decoded(lines))
    return np.array(found, np.uint8).reshape(len(found), -1) if found else np.zeros((0, 0), np.uint8)


def _decoded(lines: str) -> Iterator[list[int]]:
    for line in lines.split():
        yield list(bytes.fromhex(line)[::-1])
