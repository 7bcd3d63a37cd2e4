"""Exceptions for failures that a user can act on, each with the exit code of the command line.

::

    CodesignError           1   root; never raised itself
    ├── InputError          2   a bad model, board, array, option or path
    ├── BundleError         2   a bundle that is damaged, foreign or not readable
    ├── CheckError          1   golden, cycle model, hardware or a proof disagree
    ├── NothingFits         1   no design fits the budget
    └── ToolError           3   an external tool is missing or failed

Misuse of a function by its caller (a wrong type, a value outside the documented range) is a
``TypeError`` or ``ValueError`` and not part of this family. Every message gives the problem, the
value, and the legal values.
"""

from pathlib import Path
from typing import ClassVar

_LOG_LINES = 20


class CodesignError(Exception):
    """Base class of every failure that a user can act on.

    Attributes:
        exit_code: exit code of the command line.
    """

    exit_code: ClassVar[int] = 1


class InputError(CodesignError):
    """Unusable user input: a model, board, array, option or path."""

    exit_code: ClassVar[int] = 2


class BundleError(CodesignError):
    """Bundle on disk that is damaged, incomplete, foreign or of another format version."""

    exit_code: ClassVar[int] = 2


class CheckError(CodesignError):
    """Mismatch between results that must be equal, or a proof that does not hold."""


class NothingFits(CodesignError):
    """No design fits; the message names the binding resource, the amount needed and the amount available."""


class ToolError(CodesignError):
    """External tool that is missing, failed or timed out.

    Args:
        message: the failure, in one line.
        command: the argument list as run; empty if the tool was not found.
        directory: working directory of the tool.
        log: output of the tool; the last 20 lines are kept.
    """

    exit_code: ClassVar[int] = 3

    def __init__(
        self,
        message: str,
        command: tuple[str, ...] = (),
        directory: Path | None = None,
        log: str = "",
    ) -> None:
        super().__init__(message)
        self.command = command
        self.directory = directory
        self.log_tail = "\n".join(log.splitlines()[-_LOG_LINES:])

    def details(self) -> str:
        """Command, directory and end of the log on separate lines; unknown ones are omitted."""
        lines = [f"command: {' '.join(self.command)}"] if self.command else []
        if self.directory is not None:
            lines.append(f"directory: {self.directory}")
        if self.log_tail:
            lines.append(self.log_tail)
        return "\n".join(lines)
