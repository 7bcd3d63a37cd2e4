"""Domain failures: one family, each child with the exit code the command line ends with.

::

    CodesignError           1   root; never raised itself
    ├── InputError          2   a bad model, board, array, option or path
    ├── BundleError         2   a bundle that is damaged, foreign or not readable
    ├── CheckError          1   golden, cycle model, hardware or a proof disagree
    ├── NothingFits         1   no design fits the budget
    └── ToolError           3   an external tool is missing or failed

Misuse of a function by its caller (a wrong type, a value outside the documented range) is a
``TypeError`` or ``ValueError`` and not part of this family. Every message says what was wrong, the
value, and what would be legal.
"""

from pathlib import Path
from typing import ClassVar

_LOG_LINES = 20


class CodesignError(Exception):
    """Root of the family; catch this to catch every failure that a user can act on.

    Attributes:
        exit_code: what the command line returns for this failure.
    """

    exit_code: ClassVar[int] = 1


class InputError(CodesignError):
    """What the user gave is not usable: a model, board, array, option or path."""

    exit_code: ClassVar[int] = 2


class BundleError(CodesignError):
    """A bundle on disk is damaged, incomplete, foreign or of another format version."""

    exit_code: ClassVar[int] = 2


class CheckError(CodesignError):
    """Two things that must be equal are not, or a proof does not hold."""


class NothingFits(CodesignError):
    """No design fits; the message names the binding resource, the need and what there is."""


class ToolError(CodesignError):
    """An external tool is missing, failed or ran out of time.

    Args:
        message: what failed, in one line.
        command: the argument list as run; empty where the tool was not found.
        directory: where it ran.
        log: what it printed; the last 20 lines are kept.
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
        """Command, directory and the end of the log, one below the other; empty if none is known."""
        lines = [f"command: {' '.join(self.command)}"] if self.command else []
        if self.directory is not None:
            lines.append(f"directory: {self.directory}")
        if self.log_tail:
            lines.append(self.log_tail)
        return "\n".join(lines)
