"""Command line: each verb calls the function of the same name in ``codesign.api``.

An entry of ``VERBS`` defines a verb's options, function and output. With ``--json`` exactly one
object goes to stdout; logs and errors go to stderr. An error that the user can act on is one
line, ``codesign: error: ...``, and sets the exit code (see ``codesign.errors``).
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from inspect import getdoc
from typing import TYPE_CHECKING, Any, NoReturn

from codesign import api as flow
from codesign.dse import strategies
from codesign.errors import CodesignError, InputError, ToolError
from codesign.flow.bundle import Bundle, Quantized
from codesign.flow.doctor import Doctor
from codesign.flow.run import RunResult
from codesign.flow.verify import VerifyResult
from codesign.frontend.zoo import Model
from codesign.report.report import Report
from codesign.target.board import Board, Key

if TYPE_CHECKING:
    from codesign.benchmarks.bench import Bench
    from codesign.sweeps.sweep import Sweep

_INTERRUPTED = 130  # as a shell reports SIGINT


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of a verb, passed to the function as a keyword of its long name.

    Attributes:
        flag: ``name`` of a positional or ``--long-name`` of an option.
        help: one line, or a function that returns it.
        settings: further ``argparse`` arguments: type, choices, default, nargs, metavar.
    """

    flag: str
    help: str | Callable[[], str]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Output of a verb.

    Attributes:
        data: object printed with ``--json``.
        text: text printed otherwise.
        exit_code: 0, or 1 if a check failed.
    """

    data: Mapping[str, object]
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Verb:
    """One sub-command.

    Attributes:
        name: name on the command line.
        help: one line.
        call: the function; its keyword arguments are the options.
        show: converts its result to an `Answer`.
        options: the verb's own options; ``--json`` and ``--quiet`` are added to every verb.
    """

    name: str
    help: str
    call: Callable[..., Any]
    show: Callable[[Any], Answer]
    options: tuple[Option, ...] = ()


class _Parser(argparse.ArgumentParser):
    """Argument parser that raises usage errors as one-line ``InputError``."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines with aligned columns; the first row is the heading.

    >>> print(table([["name", "dsp"], ["zcu102", "2520"]]))
    name    dsp
    zcu102  2520
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _show_boards(found: Sequence[Board] | Sequence[Key]) -> Answer:
    keys = [asdict(key) for key in found if isinstance(key, Key)]
    if keys:
        return Answer({"keys": keys}, table([[*keys[0]], *([*key.values()] for key in keys)]))
    return _listed([board for board in found if isinstance(board, Board)])


def _listed(found: Sequence[Board]) -> Answer:
    columns = ("dsp", "bram36", "uram", "lut", "ff")
    rows = [["name", "part", "family", "MHz", *columns, "GB/s"]]
    for board in found:
        figures = [str(getattr(board.resources, name)) for name in columns]
        clock, bandwidth = f"{board.clock_hz / 1e6:g}", f"{board.memory.bytes_per_second / 1e9:g}"
        rows.append([board.name, board.part, board.family, clock, *figures, bandwidth])
    return Answer({"boards": [asdict(board) for board in found]}, table(rows))


def _show_doctor(found: Doctor) -> Answer:
    rows = [["tool", "needed for", "found"]]
    rows += [[tool.name, tool.purpose, tool.found or "-"] for tool in found.tools]
    gets = [f"to get {tool.name}: {tool.get}" for tool in found.missing]
    verdict = "build, verify and run: " + ("ready" if found.ready else "not ready, see above")
    data = {"ready": found.ready, "tools": [asdict(tool) for tool in found.tools]}
    return Answer(data, "\n".join([table(rows), "", *gets, verdict]))


def _show_models(found: Sequence[Model]) -> Answer:
    rows = [["name", "description"], *([model.name, model.description] for model in found)]
    return Answer({"models": [{"name": m.name, "description": m.description} for m in found]}, table(rows))


def _show_kernels(found: Mapping[str, type]) -> Answer:
    data = {
        name: {"parameters": [f.name for f in fields(kind)], "contract": getdoc(kind)} for name, kind in found.items()
    }
    if len(found) == 1:
        return Answer({"kernels": data}, "\n".join(str(entry["contract"]) for entry in data.values()))
    rows = [["name", "parameters"], *([name, " ".join(entry["parameters"] or ())] for name, entry in data.items())]
    return Answer({"kernels": data}, table(rows))


def _show_bundle(found: Bundle) -> Answer:
    engines = ", ".join(
        f"{engine['name']} {'x'.join(str(v) for v in list(engine['parameters'].values())[:3])}"
        for engine in found.report.engines
        if engine["parameters"]
    )
    lines = [f"design     {found.path}: {engines}", *found.report.lines()]
    lines.append(f"next       codesign verify {found.path}")
    return Answer({"path": str(found.path), **found.report.to_json()}, "\n".join(lines))


def _show_checked(found: VerifyResult) -> Answer:
    data = {
        name: {
            "passed": result.passed,
            "bit_exact": result.bit_exact,
            "images": result.images,
            "cycles": {"modelled": max(result.modelled), "simulated": list(result.cycles)},
        }
        for name, result in found.results.items()
    }
    waves = [f"waves      {result.waves}" for result in found.results.values() if result.waves]
    lines = [*_verdict(found), *found.problems, *waves, *_counted(found)]
    document: dict[str, object] = {
        "passed": found.passed, "kernel": found.kernel, "results": data, "problems": found.problems
    }  # fmt: skip
    if found.synthesized is not None:
        document["synthesized"] = dict(found.synthesized)
    return Answer(document, "\n".join(lines), 0 if found.passed else 1)


def _counted(found: VerifyResult) -> list[str]:
    """Table of synthesized against modelled resources by part; empty if nothing was synthesized."""
    if found.synthesized is None:
        return []
    rows = [["part", "resource", "synthesized", "modelled"]]
    for part, counts in found.synthesized.items():
        for name, count in counts.items():
            modelled = found.report.parts.get(part, {}).get(name, 0)
            rows += [[part, name, f"{count:g}", str(modelled)]] if count or modelled else []
    return [table(rows)]


def _verdict(found: VerifyResult) -> list[str]:
    if found.kernel is None:
        return [f"{'verified' if found.passed else 'FAILED':10} {found.report.verdict()}"]
    rows = [["layer", "bits", "cycles", "modelled"]]
    for name, result in found.results.items():
        rows.append(
            [name, "equal" if result.bit_exact else "DIFFER", str(max(result.cycles)), str(max(result.modelled))]
        )
    return [table(rows), f"{found.kernel}: {'every layer agrees' if found.passed else 'FAILED'}"]


def _show_ran(found: RunResult) -> Answer:
    report = found.report
    rows = [["what", "value", "evidence"], ["samples", str(found.samples), found.target]]
    if found.accuracy is not None:
        rows.append(["accuracy", f"{100 * found.accuracy:.2f} %", found.target])
    rows.append(["cycles", str(report.cycles["modelled"]), "modelled"])
    if found.cycles:
        rows.append(["cycles", "-".join(str(c) for c in sorted({min(found.cycles), max(found.cycles)})), "simulated"])
    state = "simulated" if report.cycles["simulated"] else "modelled"
    rows.append([f"latency at {report.clock_mhz:g} MHz", f"{report.latency_ms:.4g} ms", f"{state}, clock assumed"])
    rows.append(["MACs per cycle", f"{report.macs_per_cycle:.4g} of {report.peak_macs}", state])
    rows += [
        [name, text.removesuffix(", binding").removesuffix(", modelled"), "modelled"] for name, text in report.used()
    ]
    rows.append(["golden = RTL", report.verdict(), "verify"])
    data = {
        "target": found.target,
        "samples": found.samples,
        "accuracy": found.accuracy,
        "predictions": found.predictions.tolist(),
        "cycles": list(found.cycles),
        "latency_ms": report.latency_ms,
        "bit_exact": report.bit_exact,
    }
    return Answer(data, table(rows))


def _show_report(found: Report) -> Answer:
    return Answer(found.to_json(), "\n".join([f"model      {found.model} on {found.board}", *found.lines()]))


def _show_sweep(found: "Sweep") -> Answer:
    summary = found.summary()
    rows = [["model", "board", "MHz", "budget", "designs", "feasible", "fastest", "evidence"]]
    for row in summary:
        best, clock = row["best_latency_us"], f"{row['clock_mhz']:g}"
        figures = [f"{row['rows']}", f"{row['feasible']}", "-" if best is None else f"{best:.6g} us"]
        rows.append([row["model"], row["board"], clock, row["budget"], *figures, row["evidence"] or "-"])
    fresh = found.rows - found.resumed
    lines = [table(rows), f"{found.path}: {found.rows} designs, {fresh} of them now in {found.seconds:.1f} s"]
    data = {"path": str(found.path), "rows": found.rows, "resumed": found.resumed, "seconds": found.seconds}
    return Answer({**data, "combinations": summary}, "\n".join(lines))


def _show_bench(found: "Bench") -> Answer:
    columns = ("case", "metric", "unit", "reference", "source", "ours", "evidence")
    data = [{name: getattr(row, name) for name in columns} for row in found.rows]
    rows = [["case", "metric", "ours", "reference", "", "evidence"]]
    for row in found.rows:
        sign = "" if not row.wanted else ">= " if row.at_least else "<= "
        goal = "" if row.reference is None else f"{sign}{row.reference:g}"
        rows.append([row.case, row.metric, f"{row.ours:.6g}", goal, row.state, row.evidence])
    text = f"{table(rows)}\n{found.name}: {found.seconds:.0f} s"
    missed = any(row.state == "missed" for row in found.rows)
    return Answer({"bench": found.name, "rows": data, "seconds": found.seconds}, text, int(missed))


def _show_quantized(found: Quantized) -> Answer:
    data = {"path": str(found.path), "layers": found.layers, "macs": found.macs, "text": found.text}
    lines = [f"quantized  {found.path}: {found.layers} layers in integers", f"how        {found.text}"]
    lines += [f"next       codesign build {found.path} --board zcu102"]
    return Answer(data, "\n".join(lines))


def _searching() -> str:
    return f"of the objective's search (default {strategies.DEFAULT}): {', '.join(strategies.names())}"


def _benches() -> str:
    from codesign.benchmarks import bench

    return ", ".join(bench.names())


def _compared() -> str:
    return f"of bench search, one alone: {', '.join(strategies.names())}"


_FOLDER = Option("dir", "a bundle that build wrote", {"metavar": "DIR"})

VERBS = (
    Verb(
        "build",
        "build an accelerator for a model and a board",
        flow.build,
        _show_bundle,
        (
            Option("model", "a name, a path to a .onnx or .pt2 file, or gemm:MxKxN[:int8]", {"metavar": "MODEL"}),
            Option("--board", "a name or a path to a .toml file", {"required": True}),
            Option("--out", "the bundle's folder (default build/MODEL-BOARD)", {"metavar": "DIR"}),
            Option("--clock-mhz", "instead of the board's clock", {"type": float, "metavar": "F"}),
            Option("--budget", "less than the board has: dsp=N,bram36=N,uram=N,lut=N,ff=N", {"metavar": "LIMITS"}),
            Option("--set", "another figure of the board", {"action": "append", "default": [], "metavar": "KEY=VALUE"}),
            Option("--calibrate", "samples for a model without quantizers", {"metavar": "FILE.npz"}),
            Option("--objective", "search all: latency, area or energy (else a plain choice)", {"metavar": "NAME"}),
            Option("--backend", "rtl, or hls4ml beside it as a cross-check (default rtl)", {"default": "rtl"}),
            Option("--strategy", _searching, {"metavar": "NAME"}),
            Option("--design", "the very design: t_in=16,t_out=32,... as a front names it", {"metavar": "PARAMETERS"}),
        ),
    ),
    Verb(
        "verify",
        "compare golden model, cycle model and simulated Verilog",
        flow.verify,
        _show_checked,
        (
            _FOLDER,
            Option("--kernel", "only the layers of this kernel, each alone, with random data", {"metavar": "NAME"}),
            Option("--waves", "write the waves beside the bundle's folder", {"action": "store_true"}),
            Option("--seed", "of the samples", {"type": int, "default": 0, "metavar": "N"}),
            Option("--images", "samples, run back to back (default 3)", {"type": int, "default": 3, "metavar": "N"}),
            Option("--synth", "synthesize too: engines, top or none", {"default": "none", "metavar": "WHAT"}),
        ),
    ),
    Verb(
        "run",
        "run samples from a file",
        flow.run,
        _show_ran,
        (
            _FOLDER,
            Option("--input", "samples first", {"required": True, "metavar": "FILE.npy|FILE.npz"}),
            Option("--labels", "the right class of each sample", {"metavar": "FILE.npy"}),
            Option("--target", "where to compute: golden or sim (default golden)", {"default": "golden"}),
            Option("--output", "write the first output", {"metavar": "FILE.npy"}),
        ),
    ),
    Verb(
        "sweep",
        "write every design of models, boards, clocks and budgets as rows of Parquet files",
        flow.sweep,
        _show_sweep,
        (
            Option("model", "names, paths or gemm:MxKxN, with commas between", {"metavar": "MODEL[,MODEL...]"}),
            Option("--board", "names or paths, with commas between", {"required": True, "metavar": "BOARD[,BOARD...]"}),
            Option("--out", "a new folder", {"required": True, "metavar": "DIR"}),
            Option("--clock-mhz", "instead of the boards' clocks", {"metavar": "F[,F...]"}),
            Option(
                "--budget",
                "dsp=N,bram36=N,uram=N,lut=N,ff=N, or all; may be given several times",
                {"action": "append", "default": [], "metavar": "LIMITS"},
            ),
            Option(
                "--axis",
                "only these values of a parameter, n_l=1,2,4 for example; may be given several times",
                {"action": "append", "default": [], "metavar": "PARAMETER=N[,N...]"},
            ),
            Option("--limit", "designs per combination (default 262144)", {"type": int, "metavar": "N"}),
            Option("--exact", "score the front of latency and DSPs exactly", {"action": "store_true"}),
            Option("--resume", "continue a sweep that was interrupted", {"action": "store_true"}),
        ),
    ),
    Verb(
        "quantize",
        "quantize a float model with samples and write it as ONNX",
        flow.quantize,
        _show_quantized,
        (
            Option("model", "a name, or a path to a .onnx or .pt2 file", {"metavar": "MODEL"}),
            Option("--calibrate", "32 to 256 typical samples", {"required": True, "metavar": "FILE.npz"}),
            Option("--out", "the new file", {"required": True, "metavar": "FILE.onnx"}),
        ),
    ),
    Verb("report", "show the report of a bundle", flow.report, _show_report, (_FOLDER,)),
    Verb(
        "bench",
        "compute the promised figures",
        flow.bench,
        _show_bench,
        (
            Option("name", _benches, {"metavar": "NAME"}),
            Option("--strategy", _compared, {"metavar": "STRATEGY"}),
            Option("--finn", "of bench finn: ask the finn-plus of this Python", {"metavar": "PYTHON"}),
        ),
    ),
    Verb(
        "models",
        "list the models that ship, or write one and its samples into a folder",
        flow.models,
        _show_models,
        (
            Option("name", "one model", {"nargs": "?", "metavar": "NAME"}),
            Option("--export", "folder", {"metavar": "DIR"}),
        ),
    ),
    Verb(
        "kernels",
        "list the kernels, or show the contract of one",
        flow.kernels,
        _show_kernels,
        (Option("name", "one kernel", {"nargs": "?", "metavar": "NAME"}),),
    ),
    Verb(
        "boards",
        "list the boards, or what their files may say",
        flow.boards,
        _show_boards,
        (Option("--format", "every key of a board file, its unit and its legal values", {"action": "store_true"}),),
    ),
    Verb("doctor", "say which tools are here and how to get the others", flow.doctor, _show_doctor),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments without the program's name; those of the process if None.

    Returns:
        The exit code: 0 done, 1 a check failed or nothing fits, 2 bad input or usage, 3 an external
        tool failed or is missing, 130 interrupted.
    """
    try:
        return _run(_parser().parse_args(argv))
    except CodesignError as error:
        return _report(error)
    except KeyboardInterrupt:
        print("codesign: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except SystemExit as done:  # argparse has printed its help
        return int(done.code or 0)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="codesign", description="From a model file to a verified accelerator.", allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        _add(verbs.add_parser(verb.name, help=verb.help, description=verb.help, allow_abbrev=False), verb)
    return parser


def _add(parser: argparse.ArgumentParser, verb: Verb) -> None:
    for option in verb.options:
        text = option.help if isinstance(option.help, str) else option.help()
        parser.add_argument(option.flag, help=text, **option.settings)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    parser.set_defaults(entry=verb)


def _run(arguments: argparse.Namespace) -> int:
    options = dict(vars(arguments))
    verb: Verb = options.pop("entry")
    as_json, quiet = options.pop("json"), options.pop("quiet")
    options.pop("verb")
    _log_to_stderr(logging.WARNING if quiet else logging.INFO)
    answer = verb.show(verb.call(**options))
    _print(json.dumps(answer.data, indent=1) if as_json else answer.text)
    return answer.exit_code


def _print(text: str) -> None:
    """Prints an answer; a reader that closes the pipe early is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else flushing at exit fails


def _log_to_stderr(level: int) -> None:
    """Sends the library's log messages, progress included, to stderr as plain text."""
    logger = logging.getLogger("codesign")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(level)


def _report(error: CodesignError) -> int:
    print(f"codesign: error: {' '.join(str(error).split())}", file=sys.stderr)
    if isinstance(error, ToolError) and error.details():
        print(error.details(), file=sys.stderr)
    return error.exit_code
