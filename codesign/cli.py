"""The command line: each verb is a thin call of the function of that name in ``codesign.flow``.

A verb is an entry of ``VERBS``: its options, the function, and how its result is shown. With
``--json`` exactly one object goes to stdout; logs and errors go to stderr. A failure that a user can
act on is one line, ``codesign: error: ...``, and sets the exit code (see ``codesign.errors``).
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from codesign import flow
from codesign.board import Board
from codesign.doctor import Doctor
from codesign.errors import CodesignError, InputError, ToolError

_INTERRUPTED = 130  # as a shell reports SIGINT


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of a verb; the function gets it by its long name.

    Attributes:
        flag: ``name`` of a positional or ``--long-name`` of an option.
        help: one line.
        settings: what else ``argparse`` takes: type, choices, default, nargs, metavar.
    """

    flag: str
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb has to say.

    Attributes:
        data: the object that ``--json`` prints.
        text: what is printed otherwise.
        exit_code: 0, or 1 if a check failed.
    """

    data: Mapping[str, object]
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Verb:
    """One sub-command.

    Attributes:
        name: what the user types.
        help: one line.
        call: the function; its keyword arguments are the options.
        show: what its result says.
        options: the verb's own options; ``--json`` and ``--quiet`` come by themselves.
    """

    name: str
    help: str
    call: Callable[..., Any]
    show: Callable[[Any], Answer]
    options: tuple[Option, ...] = ()


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as an ``InputError``, so in one line."""

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


def _show_boards(found: Sequence[Board]) -> Answer:
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


VERBS = (
    Verb("boards", "list the boards that ship", flow.boards, _show_boards),
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
        parser.add_argument(option.flag, help=option.help, **option.settings)
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
    print(json.dumps(answer.data, indent=1) if as_json else answer.text)
    return answer.exit_code


def _log_to_stderr(level: int) -> None:
    """Sends what the library logs, its progress included, to stderr without decoration."""
    logger = logging.getLogger("codesign")
    logger.handlers = [logging.StreamHandler(sys.stderr)]
    logger.setLevel(level)


def _report(error: CodesignError) -> int:
    print(f"codesign: error: {' '.join(str(error).split())}", file=sys.stderr)
    if isinstance(error, ToolError) and error.details():
        print(error.details(), file=sys.stderr)
    return error.exit_code
