"""Row groups: the cut of a layer's rows into commands, for one design or an array of designs.

Arrays of designs are sorted by rows per command, ascending. So the designs that have a group of a given number are
the leading ones, and arrays about a group cover these alone: the later the group, the shorter the array.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from codesign.target.kernel import Number, ceil_div, minimum


def take_leading(value: Number, like: Number) -> Number:
    """The leading entries of an array, as many as ``like`` has; scalars stay as they are."""
    if isinstance(value, np.ndarray) and isinstance(like, np.ndarray):
        return value[: len(like)]
    return value


def replace_leading(old: Number, new: Number) -> Number:
    """An array with its leading entries replaced by ``new``; ``new`` itself unless it is a shorter array."""
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and len(new) < len(old):
        return np.concatenate([new, old[len(new) :]])
    return new


class Group(NamedTuple):
    """A row group: its number, its first row, and its count of rows."""

    number: int
    first: Number
    rows: Number


class RowGroups:
    """The cut of a layer's rows into groups.

    Args:
        rows: the layer's rows.
        size: most rows of a group, an integer or an ascending array.

    Attributes:
        count: number of groups.
        last: rows of the last group.
        list: all groups that any design has.
    """

    def __init__(self, rows: int, size: Number) -> None:
        self.rows, self.size = rows, size
        self.count = ceil_div(rows, size)
        self.last: Number = rows - (self.count - 1) * size
        most = int(self.count[0]) if isinstance(self.count, np.ndarray) else self.count
        self.list = [self._group(number) for number in range(most)]

    def _group(self, number: int) -> Group:
        size = self.size
        if number and isinstance(size, np.ndarray):
            size = size[: np.searchsorted(size, (self.rows - 1) // number, side="right")]
        return Group(number, number * size, minimum(size, self.rows - number * size))


class Done:
    """Cycles in which the row groups of a tensor are done.

    Args:
        groups: their cut; None if all rows are done at once.

    Attributes:
        ends: by group.
        all: of the last group.
    """

    def __init__(self, groups: RowGroups | None, ends: Iterable[Number] = ()) -> None:
        self.groups = groups
        self.ends: list[Number] = []
        self.all: Number = 0
        for end in ends:
            self.add(end)

    def add(self, end: Number) -> None:
        """Appends the next group's end."""
        self.ends.append(end)
        self.all = replace_leading(self.all, end)

    def of(self, group: Group, first_row: int = 0) -> Number:
        """Done cycle of the rows for a reader's group; the reader's cut is equal, its row 0 is row ``first_row``."""
        if self.groups is None:
            return take_leading(self.all, group.first)
        if first_row == 0:
            return take_leading(self.ends[group.number], group.first)
        return self.upto(first_row + group.first + group.rows - 1)

    def upto(self, row: Number) -> Number:
        """Done cycle of all rows up to and including ``row``."""
        if self.groups is None:
            return take_leading(self.all, row)
        number = row // take_leading(self.groups.size, row)
        if not isinstance(number, np.ndarray):
            return self.ends[number]
        found: Number = self._table[number, np.arange(len(number))]
        return found

    @cached_property
    def _table(self) -> Any:
        """`ends` as a matrix, groups by designs."""
        found = np.zeros((len(self.ends), len(self.ends[0])), np.int64)  # type: ignore[arg-type]
        for row, end in zip(found, self.ends, strict=True):
            row[: len(end)] = end  # type: ignore[arg-type]
        return found
