"""Runs a bench by the name of its file: figures that this project promises, beside their goals."""

import importlib
import time
from dataclasses import dataclass
from pkgutil import iter_modules
from typing import cast

from codesign.benchmarks import benches
from codesign.benchmarks.benches import BenchFile, Options
from codesign.benchmarks.row import Row
from codesign.errors import InputError


@dataclass(frozen=True)
class Bench:
    """A bench that has run.

    Attributes:
        name: of its file.
        rows: its figures.
        seconds: of wall time that it took.
    """

    name: str
    rows: tuple[Row, ...]
    seconds: float


def names() -> tuple[str, ...]:
    """All benches, in order; none is imported."""
    return tuple(sorted(module.name for module in iter_modules(benches.__path__)))


def bench(name: str, options: Options) -> Bench:
    """Runs a bench.

    Raises:
        InputError: an unknown name, or an option that this bench does not take.
        CheckError, ToolError: see `BenchFile.rows`.
    """
    if name not in names():
        raise InputError(f"bench {name!r} is not known; legal: {', '.join(names())}")
    found = _file(name)
    for option, value in vars(options).items():
        if value is not None and option not in found.OPTIONS:
            owners = " or ".join(each for each in names() if option in _file(each).OPTIONS)
            raise InputError(f"--{option} {value}: bench {name} has no such option; legal: with bench {owners}")
    start = time.monotonic()
    rows = found.rows(options)
    return Bench(name, tuple(rows), time.monotonic() - start)


def _file(name: str) -> BenchFile:
    return cast("BenchFile", importlib.import_module(f"{benches.__name__}.{name}"))
