"""What the benches of engines send and expect: commands with their operands, memories and results.

Every kernel draws its own, see `codesign.target.kernel.CommandKernel.trial`; nothing here knows of a simulator.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from codesign.hw.emit.rig import DEPTH
from codesign.numerics.fixed_point import IntArray

BATCH = 8
"""Commands whose operands are in the memories at the same time."""
ROOM = DEPTH // BATCH
"""Words of each memory that a command may use."""
Address = tuple[int, int]
"""Number of the memory that a write goes to, 0 if the engine has but one, and its word."""


@dataclass(frozen=True, eq=False)
class Word:
    """Elements ``[row, column]``, ``[row, column + 1]`` and so on of a result, as one word holds them.

    Attributes:
        values: of the word's first elements; what follows is padding and may be anything.
    """

    row: int
    column: int
    values: IntArray


@dataclass(frozen=True, eq=False)
class Trial:
    """One command, what it needs and what it must do.

    Attributes:
        fields: its operands.
        cycles: from acceptance to done by the kernel's formula; 0 if it is illegal.
        contents: memory name to (first word, words); in place before the command is.
        expected: the words it must write, each once; None if it is illegal and must be refused.
        feed: memory name and word, in order, for memories that are rings.
        bits: of an element.
    """

    fields: Mapping[str, int]
    cycles: int = 0
    contents: Mapping[str, Sequence[tuple[int, Sequence[int]]]] = field(default_factory=dict)
    expected: Mapping[Address, Word] | None = None
    feed: Sequence[tuple[str, int]] = ()
    bits: int = 8

    def illegal(self, change: Mapping[str, int]) -> "Trial":
        """The same command with operands that make it illegal."""
        return Trial({**self.fields, **change})


def cut(result: IntArray, size: int, part: int) -> Iterator[tuple[int, int, Word]]:
    """A result ``[rows, columns]`` cut into words of ``size`` elements, none across a multiple of ``part`` columns.

    Yields:
        Row, number of the word in it, and the word.
    """
    for row, values in enumerate(result):
        starts = [first + at for first in range(0, len(values), part) for at in range(0, part, size)]
        for index, column in enumerate(starts):
            stop = min(column + size, column - column % part + part)
            yield row, index, Word(row, column, values[column:stop])


def pack(elements: IntArray, bits: int) -> list[int]:
    """Rows ``[words, elements]`` as integers, element 0 lowest, in two's complement."""
    mask = (1 << bits) - 1
    return [sum((int(value) & mask) << bits * at for at, value in enumerate(word)) for word in elements]


def place(rng: np.random.Generator, slot: int, rows: int, words: int) -> tuple[int, int]:
    """Base and stride of rows of so many words, at random within a slot; at most `ROOM` words together."""
    stride = words + int(rng.integers(1 + (ROOM - words * rows) // rows))
    return slot * ROOM + int(rng.integers(ROOM - stride * (rows - 1) - words + 1)), stride
