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
from dataclasses import dataclass, field
from typing import Any, NoReturn

from codesign import answers
from codesign import api as flow
from codesign.dse import strategies
from codesign.errors import CodesignError, InputError, ToolError

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
    show: Callable[[Any], answers.Answer]
    options: tuple[Option, ...] = ()


class _Parser(argparse.ArgumentParser):
    """Argument parser that raises usage errors as one-line ``InputError``."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


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
        answers.show_bundle,
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
            Option("--within", "what counts as equal to the best (default 0%%)", {"default": "0%", "metavar": "SHARE"}),
        ),
    ),
    Verb(
        "verify",
        "compare golden model, cycle model and simulated Verilog",
        flow.verify,
        answers.show_checked,
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
        answers.show_ran,
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
        answers.show_sweep,
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
        answers.show_quantized,
        (
            Option("model", "a name, or a path to a .onnx or .pt2 file", {"metavar": "MODEL"}),
            Option("--calibrate", "32 to 256 typical samples", {"required": True, "metavar": "FILE.npz"}),
            Option("--out", "the new file", {"required": True, "metavar": "FILE.onnx"}),
        ),
    ),
    Verb("report", "show the report of a bundle", flow.report, answers.show_report, (_FOLDER,)),
    Verb(
        "bench",
        "compute the promised figures",
        flow.bench,
        answers.show_bench,
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
        answers.show_models,
        (
            Option("name", "one model", {"nargs": "?", "metavar": "NAME"}),
            Option("--export", "folder", {"metavar": "DIR"}),
        ),
    ),
    Verb(
        "kernels",
        "list the kernels, or show the contract of one",
        flow.kernels,
        answers.show_kernels,
        (Option("name", "one kernel", {"nargs": "?", "metavar": "NAME"}),),
    ),
    Verb(
        "boards",
        "list the boards, or what their files may say",
        flow.boards,
        answers.show_boards,
        (Option("--format", "every key of a board file, its unit and its legal values", {"action": "store_true"}),),
    ),
    Verb("doctor", "say which tools are here and how to get the others", flow.doctor, answers.show_doctor),
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
