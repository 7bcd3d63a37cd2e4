"""Stimulus for engine benches: commands with operands, memory contents and expected results.

Each kernel generates its own, see `codesign.target.kernel.CommandKernel.trial`; independent of any simulator.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from codesign.hw.emit.rig import DEPTH
from codesign.numerics.fixed_point import IntArray

BATCH = 8
"""Commands whose operands are in the memories at the same time."""
ROOM = DEPTH // BATCH
"""Words of each memory available to one command."""
Address = tuple[int, int]
"""Memory number of a write (0 if the engine has only one) and word address."""


@dataclass(frozen=True, eq=False)
class Word:
    """Elements ``[row, column]``, ``[row, column + 1]``, ... of a result, stored in one word.

    Attributes:
        values: the word's first elements; the rest is padding with any value.
    """

    row: int
    column: int
    values: IntArray


@dataclass(frozen=True, eq=False)
class Trial:
    """One command with its input data and expected writes.

    Attributes:
        fields: its operands.
        cycles: from acceptance to done by the kernel's formula; 0 if illegal.
        contents: memory name to (first word, words), written before the command is sent.
        expected: words it must write, each once; None if it is illegal and must be refused.
        feed: (memory name, word) in order, for memories that are rings.
        bits: width of an element.
    """

    fields: Mapping[str, int]
    cycles: int = 0
    contents: Mapping[str, Sequence[tuple[int, Sequence[int]]]] = field(default_factory=dict)
    expected: Mapping[Address, Word] | None = None
    feed: Sequence[tuple[str, int]] = ()
    bits: int = 8

    def illegal(self, change: Mapping[str, int]) -> "Trial":
        """The same command with changed operands that make it illegal."""
        return Trial({**self.fields, **change})


def cut(result: IntArray, size: int, part: int) -> Iterator[tuple[int, int, Word]]:
    """Cuts a result ``[rows, columns]`` into words of ``size`` elements not crossing multiples of ``part`` columns.

    Yields:
        Row, word index within the row, and the word.
    """
    for row, values in enumerate(result):
        starts = [first + at for first in range(0, len(values), part) for at in range(0, part, size)]
        for index, column in enumerate(starts):
            stop = min(column + size, column - column % part + part)
            yield row, index, Word(row, column, values[column:stop])


def pack(elements: IntArray, bits: int) -> list[int]:
    """Packs rows ``[words, elements]`` into integers, element 0 lowest, in two's complement."""
    mask = (1 << bits) - 1
    return [sum((int(value) & mask) << bits * at for at, value in enumerate(word)) for word in elements]


def place(rng: np.random.Generator, slot: int, rows: int, words: int) -> tuple[int, int]:
    """Random base and stride, within a slot, of rows of ``words`` words; at most `ROOM` words in total."""
    stride = words + int(rng.integers(1 + (ROOM - words * rows) // rows))
    return slot * ROOM + int(rng.integers(ROOM - stride * (rows - 1) - words + 1)), stride
