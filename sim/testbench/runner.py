"""Runner of cocotb benches on generated Verilog, in Python only: no make, no perl, no cocotb Makefiles.

A bench is an ordinary Python module with ``@cocotb.test()`` coroutines. It is imported inside the
simulator with the present ``sys.path``. `codesign.sim.testbench.streams` has drivers, sinks and monitors
for it.
"""

import importlib
import os
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import CheckError, ToolError
from codesign.sim.verilator.verilate import build_program, find_tools, run

_RESULTS, _WAVES, _LOG = "results.xml", "waves.vcd", "log.txt"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one test of a bench.

    Attributes:
        name: the coroutine's name.
        failure: None if it passed, else cocotb's message.
        simulated_ns: simulated time.
    """

    name: str
    failure: str | None
    simulated_ns: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Result of a bench run.

    Attributes:
        outcomes: tests in execution order.
        waves: the VCD file; None if not requested.
        log: output of cocotb and the tests.
    """

    outcomes: tuple[Outcome, ...]
    waves: Path | None
    log: Path

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Tests that did not pass."""
        return tuple(outcome for outcome in self.outcomes if outcome.failure is not None)


def run_bench(
    sources: Mapping[str, str],
    top: str,
    module: str,
    *,
    directory: Path,
    seed: int = 0,
    tests: Sequence[str] | None = None,
    settings: Mapping[str, str] | None = None,
    waves: bool = False,
    internals: bool = False,
    cache: Path | None = None,
    compiler: Sequence[str] | None = None,
    timeout_s: float = 600.0,
) -> BenchReport:
    """Compiles the design and runs a cocotb module on it.

    Args:
        sources: Verilog file name (no folders) to text.
        top: name of the top module; ``dut`` in the tests.
        module: dotted name of the module with the tests, importable with the present ``sys.path``.
        directory: folder for results, log and waves; created if missing.
        seed: for ``cocotb.RANDOM_SEED`` and Python's ``random`` in the tests.
        tests: names of the tests to run; None runs all.
        settings: additional environment variables for the tests.
        waves: write ``waves.vcd``.
        internals: makes signals below the ports visible to the tests, which is slower.
        cache: folder for compiled simulators; None is the user's cache folder.
        compiler: first arguments of the C++ compiler's command; None searches for one.
        timeout_s: time limit of the run.

    Raises:
        CheckError: a test failed; the message names it, the reason, the seed and the log.
        ToolError: a tool or cocotb is missing or fails, or no test ran.
    """
    main, libraries = _cocotb()
    program = build_program(
        sources, top, tools=find_tools(compiler), main=main, libraries=libraries,
        internals=internals, waves=waves, cache=cache,
    )  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _RESULTS).unlink(missing_ok=True)
    env = {**os.environ, **(settings or {}), **_environment(top, module, directory, seed, tests)}
    trace = ("--trace", "--trace-file", _WAVES) if waves else ()
    printed = run((str(program), *trace), directory, timeout_s, env)
    (directory / _LOG).write_text(printed, encoding="utf-8")
    report = BenchReport(_outcomes(directory, module, printed), directory / _WAVES if waves else None, directory / _LOG)
    for outcome in report.failed:
        raise CheckError(f"{module}.{outcome.name} (seed {seed}): {outcome.failure}; log: {report.log}")
    return report


def _cocotb() -> tuple[Path, tuple[Path, ...]]:
    """Main program that cocotb has for Verilator, and the libraries it needs."""
    try:
        config = importlib.import_module("cocotb_tools.config")
    except ImportError:
        raise ToolError("cocotb is missing; get it with: pip install 'codesign[test]'") from None
    main = Path(config.share_dir) / "lib" / "verilator" / "verilator.cpp"
    library = Path(config.lib_name_path("vpi", "verilator"))
    for path in (main, library):
        if not path.is_file():
            raise ToolError(f"the installed cocotb has no {path}; legal: cocotb>=2.1,<2.2")
    return main, (library,)


def _environment(top: str, module: str, directory: Path, seed: int, tests: Sequence[str] | None) -> dict[str, str]:
    """Environment variables that cocotb reads inside the simulator."""
    entry: str = importlib.import_module("cocotb_tools.config").pygpi_entry_point()
    python = importlib.import_module("find_libpython").find_libpython()
    if python is None:
        raise ToolError("cocotb needs a shared libpython, which this Python does not have; use another build of it")
    chosen = "" if tests is None else rf"\.({'|'.join(map(re.escape, tests))})$"
    return {
        "COCOTB_TOPLEVEL": top,
        "COCOTB_TEST_MODULES": module,
        "COCOTB_TEST_FILTER": chosen,
        "COCOTB_RANDOM_SEED": str(seed),
        "COCOTB_RESULTS_FILE": str(directory.resolve() / _RESULTS),
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "TOPLEVEL_LANG": "verilog",
        "GPI_USERS": f"{python};{entry}",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }


def _outcomes(directory: Path, module: str, printed: str) -> tuple[Outcome, ...]:
    path = directory / _RESULTS
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    outcomes = tuple(_outcome(element) for element in _elements(text) if element.tag == "testcase")
    if not outcomes:
        raise ToolError(f"no test of {module} ran", directory=directory, log=printed)
    return outcomes


def _elements(text: str) -> Iterator[ET.Element]:
    """All elements of a document; none if it has declarations, so that no entity is ever expanded."""
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser()
    if "<!" not in text:
        parser.feed(text)
    found = (event[-1] for event in parser.read_events())
    yield from (element for element in found if isinstance(element, ET.Element))


def _outcome(case: ET.Element) -> Outcome:
    problem = next((e for kind in ("failure", "error") if (e := case.find(kind)) is not None), None)
    failure = None
    if problem is not None:
        failure = (problem.get("message") or problem.get("error_msg") or "failed").partition("\n")[0]
    times = (p.get("value", "0") for p in case.iter("property") if p.get("name") == "sim_time_duration")
    return Outcome(case.get("name", ""), failure, float(next(times, "0")))
