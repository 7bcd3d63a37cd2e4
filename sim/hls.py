"""C simulation of HLS projects: compiles a kernel's C++ with an ordinary compiler and runs it on arrays.

The C++ program uses the ``ap_int`` and ``hls::stream`` that hls4ml ships. No synthesis tool is involved,
so nothing here is about cycles.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codesign.cache import default_cache, digest, publish
from codesign.errors import CheckError, ToolError
from codesign.hw.emit.hls import ap_types, ap_types_version
from codesign.numerics.fixed_point import IntArray
from codesign.sim.verilator.verilate import find_compiler, run
from codesign.target.kernel import Kernel

PROGRAM = "testbench"
_FLAGS = ("-std=c++14", "-O1", "-w", "-fno-sanitize=undefined")
_IMBALANCE = "WARNING: Hls::stream"


def build(sources: Mapping[str, str], *, compiler: Sequence[str] | None = None, cache: Path | None = None) -> Path:
    """Compiles an HLS project's testbench, or finds it in the cache.

    Args:
        sources: file name to text, from `codesign.hw.emit.hls.project`.
        compiler: first arguments of the compiler's command; None searches for one.
        cache: folder for compiled programs; None is the user's cache.

    Returns:
        Path of the program; its argument is the folder with commands and stream words.

    Raises:
        ToolError: the headers of HLS types or a compiler are missing, or the compiler fails.
    """
    headers = ap_types()
    command = tuple(compiler) if compiler is not None else find_compiler()
    version = run((*command, "--version"), Path.cwd(), 120.0)
    code = {name: text for name, text in sources.items() if name.endswith((".cpp", ".h"))}
    units = [name for name in code if name.endswith(".cpp")]

    def make(work: Path) -> None:
        for name, text in code.items():
            (work / name).write_text(text, encoding="utf-8")
        run((*command, *_FLAGS, f"-isystem{headers}", "-I.", "-o", PROGRAM, *units), work, 600.0)

    parts = (ap_types_version(), version, *command, *_FLAGS, *(part for item in sorted(code.items()) for part in item))
    return publish(cache or default_cache(), f"hls-{digest(*parts)}", make) / PROGRAM


def simulate(program: Path, vectors: Mapping[str, str], folder: Path | None = None) -> dict[str, str]:
    """Runs a testbench on stream words and returns the words it wrote, file name to text.

    Args:
        program: from `build`.
        vectors: input files.
        folder: working folder; None is a temporary one.

    Raises:
        CheckError: a stream was read while empty, words were left over, too few or too many came out,
            or a result is wrong.
        ToolError: the program cannot be run or crashes.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return simulate(program, vectors, Path(temporary))
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in vectors.items():
        (folder / name).write_text(text, encoding="utf-8")
    log = _log(program, folder)
    fault = next((line for line in log.splitlines() if line.startswith(("FAIL", _IMBALANCE))), None)
    if fault is not None:
        raise CheckError(f"HLS testbench in {folder}: {fault}")
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name not in vectors}


def _log(program: Path, folder: Path) -> str:
    """Output of the program, also if it failed one of its own checks."""
    try:
        return run((str(program), str(folder)), folder, 600.0)
    except ToolError as error:
        if "FAIL" in error.log_tail:
            return error.log_tail
        raise


def run_jobs(
    emitter: Any,
    kernel: Kernel,
    jobs: Sequence[Any],
    *,
    compiler: Sequence[str] | None = None,
    cache: Path | None = None,
) -> list[IntArray]:
    """Runs layers one after the other in a design's HLS C++ and returns their targets.

    Args:
        emitter: the kernel's module with ``sources``, ``job_vectors`` and ``targets``, as `codesign.hw.linear.hls`.
        kernel: the design.
        jobs: of the emitter's job type.
        compiler: as in `build`.
        cache: as in `build`.

    Raises:
        CheckError, ToolError: as in `build` and `simulate`.
        NothingFits, ValueError: as in the emitter's ``job_vectors``.
    """
    vectors = emitter.job_vectors(kernel, jobs)
    found = simulate(build(emitter.sources(kernel), compiler=compiler, cache=cache), vectors)
    results: list[IntArray] = emitter.targets(kernel, jobs, found.get("target.hex", ""))
    return results
