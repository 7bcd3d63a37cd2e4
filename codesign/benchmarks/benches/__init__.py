"""The benches, one file each: `codesign bench NAME` runs ``NAME.py``, a `BenchFile`. Nothing else names a bench."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from codesign.benchmarks.row import Row


@dataclass(frozen=True)
class Options:
    """The options of all benches.

    Attributes:
        strategy: the one heuristic that is set beside the exact front, or ``exact`` for none; None for all.
        finn: the Python of an environment with finn-plus to ask; None for its recorded estimates.
    """

    strategy: str | None = None
    finn: Path | None = None


class BenchFile(Protocol):
    """A module of `codesign.benchmarks.benches`."""

    OPTIONS: tuple[str, ...]
    """Names of the fields of `Options` that may be given."""

    def rows(self, options: Options) -> Sequence[Row]:
        """Computes the figures.

        Raises:
            CheckError: golden, cycle model and hardware disagree, so that no figure would mean anything.
            InputError: a value of an option is not legal.
            ToolError: a tool is missing or fails.
        """
