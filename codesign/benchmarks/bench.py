"""Runs a bench by the name of its file: figures that this project promises, beside their goals."""

import time
from dataclasses import dataclass, fields
from types import ModuleType
from typing import cast

from codesign.benchmarks import benches
from codesign.benchmarks.benches import BenchFile, Options
from codesign.benchmarks.row import Row
from codesign.catalog import Catalog, shipped
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
    return _catalog().names


def bench(name: str, options: Options) -> Bench:
    """Runs a bench.

    Raises:
        InputError: an unknown name, or an option that this bench does not take.
        CheckError, ToolError: see `BenchFile.rows`; a ToolError too if its file cannot be used.
    """
    found = _catalog().load(name)
    for option, value in vars(options).items():
        if value is not None and option not in found.OPTIONS:
            owners = " or ".join(other for other, each in _catalog().loaded().items() if option in each.OPTIONS)
            raise InputError(f"--{option} {value}: bench {name} has no such option; legal: with bench {owners}")
    start = time.monotonic()
    rows = found.rows(options)
    return Bench(name, tuple(rows), time.monotonic() - start)


def _catalog() -> Catalog[BenchFile]:
    return Catalog("bench", tuple(shipped("bench", benches.__name__, benches.__path__, _checked)))


def _checked(_: str, found: ModuleType) -> BenchFile:
    options = getattr(found, "OPTIONS", None)
    if not (isinstance(options, tuple) and set(options) <= {field.name for field in fields(Options)}):
        raise TypeError(f"OPTIONS is {options!r}; legal: a tuple of names of {Options.__name__}, or an empty one")
    if not callable(getattr(found, "rows", None)):
        raise TypeError("it has no function rows; legal: see codesign.benchmarks.benches.BenchFile")
    return cast("BenchFile", found)
