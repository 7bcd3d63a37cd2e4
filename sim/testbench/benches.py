"""Benches of the kernels: random commands, legal and illegal, with and without gaps, on generated Verilog.

`run_kernel_bench` compiles a kernel's rig (`codesign.hw.emit.rig`) and runs its bench, an ordinary cocotb
module named by the kernel: ``codesign.sim.testbench.bench_command`` for most. To extend a bench, pass as
``module`` one that imports from it and adds ``@cocotb.test()`` coroutines.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from codesign.errors import InputError
from codesign.hw.emit.rig import TOP, make_rig
from codesign.hw.verilog import generate
from codesign.sim.testbench.runner import BenchReport, run_bench
from codesign.target.engines import kernels
from codesign.target.kernel import Kernel

_SETTING = "bench.json"
_LOG = logging.getLogger(__name__)


def default_kernel(name: str) -> Kernel:
    """Small design that a kernel's bench runs by default.

    Raises:
        InputError: the kernel is unknown.
    """
    if name not in kernels():
        raise InputError(f"kernel {name!r} is not known; legal: {', '.join(kernels())}")
    return kernels()[name].small()


def kernel_sources(kernel: Kernel) -> dict[str, str]:
    """Verilog of a kernel's rig, file name to text; the top module is `TOP`."""
    return dict(generate(make_rig(kernel), TOP).files)


def run_kernel_bench(
    name: str,
    *,
    directory: Path,
    seed: int = 0,
    commands: int = 24,
    waves: bool = False,
    kernel: Kernel | None = None,
    sources: Mapping[str, str] | None = None,
    module: str | None = None,
    tests: Sequence[str] | None = None,
    cache: Path | None = None,
    compiler: Sequence[str] | None = None,
    timeout_s: float = 600.0,
) -> BenchReport:
    """Runs the bench of a kernel: protocol, bits against golden, cycles against the formula.

    Args:
        name: name of the kernel.
        directory: folder for results, log and waves; created if missing.
        seed: for commands, data and gaps.
        commands: number per test; about a quarter of them is illegal.
        waves: write ``waves.vcd``.
        kernel: the design, of the kernel's own class; None is `default_kernel`.
        sources: Verilog to run instead of `kernel_sources`, for instance after an edit.
        module: another module with tests, importable with the present ``sys.path``.
        tests: names of the tests to run; None runs all.
        cache: as for `run_bench`.
        compiler: as for `run_bench`.
        timeout_s: as for `run_bench`.

    Raises:
        CheckError: a test failed; the message has test, seed, cycle, command, element, expected and got.
        InputError: no such kernel, or no commands.
        ToolError: a tool or cocotb is missing or fails, or no test ran.
        ValueError: ``kernel`` is of another class.
    """
    default = default_kernel(name)
    kernel = kernel or default
    if type(kernel) is not type(default):
        raise ValueError(f"the bench of {name} is for a {type(default).__name__}, not a {type(kernel).__name__}")
    if commands < 1:
        raise InputError(f"{commands} commands; legal: at least 1")
    _LOG.info("bench of %s: seed %d, %d commands per test; compiling, unless it is in the cache", name, seed, commands)
    sources = kernel_sources(kernel) if sources is None else sources
    directory.mkdir(parents=True, exist_ok=True)
    setting = {"kernel": name, "parameters": kernel.params, "commands": commands}
    (directory / _SETTING).write_text(json.dumps(setting), encoding="utf-8")
    return run_bench(
        sources, TOP, module or kernel.bench, directory=directory, seed=seed, tests=tests,
        waves=waves, cache=cache, compiler=compiler, timeout_s=timeout_s,
    )  # fmt: skip


def read_setting() -> tuple[Kernel, int]:
    """Kernel and commands per test of the bench in the current folder, for use in its tests."""
    setting = json.loads(Path(_SETTING).read_text(encoding="utf-8"))
    return kernels()[setting["kernel"]](**setting["parameters"]), int(setting["commands"])
