"""Groups of rows: how the commands of a layer cut it, for one design or for many with other rows per command each.

Of many designs the rows per command ascend. So those that have a group of some number are the first so many, and what
is said of a group is said of the first designs alone: arrays of groups further behind are shorter.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from codesign.target.kernel import Number, ceil_div, minimum


def take_leading(value: Number, like: Number) -> Number:
    """What is said of all designs, of as many of them as something else is said of."""
    if isinstance(value, np.ndarray) and isinstance(like, np.ndarray):
        return value[: len(like)]
    return value


def replace_leading(old: Number, new: Number) -> Number:
    """What is said of all designs, with what is new of the first ones; what is new of a first group is of all."""
    if isinstance(old, np.ndarray) and isinstance(new, np.ndarray) and len(new) < len(old):
        return np.concatenate([new, old[len(new) :]])
    return new


class Group(NamedTuple):
    """A group of rows: its number, its first row, and its rows."""

    number: int
    first: Number
    rows: Number


class RowGroups:
    """How the rows of a layer are cut.

    Args:
        rows: of the layer.
        size: most rows of a group, an integer or an ascending array.

    Attributes:
        count: number of groups.
        last: rows of the last one.
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
    """Cycles in which the groups of rows of a tensor are done.

    Args:
        groups: how they are cut; None for rows that come all at once.

    Attributes:
        ends: by group.
        all: of the last.
    """

    def __init__(self, groups: RowGroups | None, ends: Iterable[Number] = ()) -> None:
        self.groups = groups
        self.ends: list[Number] = []
        self.all: Number = 0
        for end in ends:
            self.add(end)

    def add(self, end: Number) -> None:
        """The next group is done."""
        self.ends.append(end)
        self.all = replace_leading(self.all, end)

    def of(self, group: Group, first_row: int = 0) -> Number:
        """Cycle in which the rows of a group of a reader are done that is cut alike, its rows from one of these on."""
        if self.groups is None:
            return take_leading(self.all, group.first)
        if first_row == 0:
            return take_leading(self.ends[group.number], group.first)
        return self.upto(first_row + group.first + group.rows - 1)

    def upto(self, row: Number) -> Number:
        """Cycle in which all rows up to one are done."""
        if self.groups is None:
            return take_leading(self.all, row)
        number = row // take_leading(self.groups.size, row)
        if not isinstance(number, np.ndarray):
            return self.ends[number]
        found: Number = self._table[number, np.arange(len(number))]
        return found

    @cached_property
    def _table(self) -> Any:
        """The ends, groups by designs."""
        found = np.zeros((len(self.ends), len(self.ends[0])), np.int64)  # type: ignore[arg-type]
        for row, end in zip(found, self.ends, strict=True):
            row[: len(end)] = end  # type: ignore[arg-type]
        return found
