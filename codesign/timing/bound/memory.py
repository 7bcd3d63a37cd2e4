"""Memory interfaces: what single transfers take on them, and how much and how soon they can bring at best."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from codesign.compiler.program import Program
from codesign.ir.network import Linear, Network
from codesign.target.board import Board
from codesign.target.commands import Command, Span
from codesign.target.design import Design
from codesign.target.engines import LUT, RING, engine_names
from codesign.target.kernel import Number, maximum
from codesign.timing.event_kernel import COMMAND_QUEUE
from codesign.timing.formulas import Formulas
from codesign.timing.simulate import BURST_BYTES, Machine

_FEW_TILES = 8
"""Tiles of a first fetch up to which every possible number of them is tried."""
FREE = 1 << 20
"""Words of a ring that is never full."""
_REQUEST = 2
"""Cycles from a request to the first in which it can be granted."""
_IDLE = Formulas({"idle": lambda work: 0}, 0, 0)
"""An engine that does nothing, and takes no time for it."""


class Interface:
    """What transfers take on one memory, told by runs of the cycle model; each is run once.

    Args:
        network: the layers.
        board: figures of the memory.
    """

    def __init__(self, network: Network, board: Board) -> None:
        self.network, self.board, self.memory = network, board, board.memory
        self.word = self.memory.ports * self.memory.port_bits // 8
        self.pace = -(-BURST_BYTES * self.memory.bytes_denominator // self.memory.bytes_numerator)
        self._prologues: dict[tuple[tuple[bool, ...], tuple[int, ...]], int] = {}
        self._alone: dict[tuple[str, int, bool], int] = {}

    @cached_property
    def begin(self) -> int:
        """First cycle in which any command can be accepted."""
        return (self._listed if len(self.network.layers) > 1 else self._run)([_load(1)]).start[0]

    def prologue(self, bytewise: tuple[bool, ...], sizes: tuple[int, ...]) -> int:
        """Cycle in which the last of the loads is done that begin every program of several layers.

        They have the memory to themselves but for the first fetch, of as many tiles as the rings hold; where those
        may be many, they have it whole.

        Args:
            bytewise: of each load whether it fills the 8-bit tables.
            sizes: bus words of each load; of the table and of the weights of a tile; fewest and most tiles.
        """
        key = bytewise, sizes
        if key not in self._prologues:
            words, (table, weights, fewest, tiles) = sizes[: len(bytewise)], sizes[len(bytewise) :]
            loads = [_load(count, bytewise=each) for each, count in zip(bytewise, words, strict=True)]
            counts = range(fewest, tiles + 1) if tiles - fewest < _FEW_TILES else (0,)
            found = [self._loads(loads, [_fetch(n * table, n * weights)] * (n > 0)) for n in counts]
            self._prologues[key] = min(found)
        return self._prologues[key]

    def _loads(self, loads: list[Command], fetch: list[Command]) -> int:
        machine = self._listed([loads[0], *fetch, *loads[1:]])
        return machine.stop[(len(loads) - 1 + len(fetch)) * (len(loads) > 1)]

    def _listed(self, commands: list[Command]) -> Machine:
        """The run of a list's begin, with as much behind it as every program has and is read ahead."""
        fewest = 2 + sum(1 + isinstance(layer, Linear) for layer in self.network)
        return self._run(commands + [Command("idle", {})] * (min(fewest, COMMAND_QUEUE) - len(commands)))

    def isolated_cycles(self, engine: str, words: int, *, bytewise: bool = False) -> int:
        """Cycles from the accept of a transfer to its end, if nothing else is under way.

        Args:
            engine: ``load`` or ``store``.
            words: bus words.
            bytewise: whether it fills the 8-bit tables.
        """
        key = engine, words, bytewise
        if key not in self._alone:
            machine = self._run([_load(words, engine, bytewise=bytewise)])
            self._alone[key] = machine.stop[0] - machine.start[0]
        return self._alone[key]

    def _run(self, commands: list[Command]) -> Machine:
        linear = {"t_in": 8, "t_out": self.word, "n_l": 1, "ring_words": FREE, "table_words": FREE}
        program = Program(tuple(commands), 0, b"", 0, {}, {}, 0, engine_names(["idle"]))
        machine = Machine(program, Design(self.board, {RING: linear}), _IDLE)
        machine.run()
        return machine


def _load(words: int, engine: str = "load", *, bytewise: bool = False) -> Command:
    writes = (Span(LUT, 0, 1),) if bytewise else ()
    return Command(engine, {"memory": 0, "address": 0, "words": words, "dram": 0}, writes=writes)


def _fetch(table: int, weights: int) -> Command:
    return Command("fetch", {"table_words": table, "weight_words": weights, "dram": 0})


class Interfaces:
    """Several memories, by number.

    Args:
        network: the layers.
        boards: figures of the memories.
    """

    def __init__(self, network: Network, boards: Sequence[Board]) -> None:
        self.all = [Interface(network, board) for board in boards]

    def of(self, variant: Number, what: Callable[[Interface], int]) -> Number:
        """A figure of the memories by their numbers."""
        if isinstance(variant, int):
            return what(self.all[variant])
        return np.array([what(each) for each in self.all], np.int64)[variant]

    def each(
        self, variant: Number, sizes: Sequence[Number], what: Callable[[Interface, tuple[int, ...]], int]
    ) -> Number:
        """What a memory says of some sizes, asked once for each combination that there is."""
        if all(isinstance(size, int) for size in (variant, *sizes)):
            return what(self.all[int(variant)], tuple(int(size) for size in sizes))
        columns = np.broadcast_arrays(variant, *sizes)
        flat = [column.ravel() for column in columns]
        code = np.zeros(flat[0].size, np.int64)
        for column in flat:
            code = code * (int(column.max()) + 1) + column
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        rows = zip(*(column[first].tolist() for column in flat), strict=True)
        found = [what(self.all[number], tuple(row)) for number, *row in rows]
        return np.array(found, np.int64)[index.reshape(columns[0].shape)]


class Rates:
    """What comes from a memory at best, or from one of several for each of many designs.

    Args:
        interfaces: the memories.
        variant: number of the memory, an integer or an array.

    Attributes:
        word: bytes of a bus word.
        latency: cycles from a grant to its data.
        ports: read ports.
        pace: cycles between grants of whole bursts.
        outstanding: bursts under way at once.
        begin: first cycle in which any command can be accepted.
    """

    def __init__(self, interfaces: Interfaces, variant: Number) -> None:
        def of(what: Callable[[Interface], int]) -> Number:
            return interfaces.of(variant, what)

        self.word, self.pace = of(lambda each: each.word), of(lambda each: each.pace)
        self.latency, self.ports = of(lambda each: each.memory.read_latency), of(lambda each: each.memory.ports)
        self.outstanding = of(lambda each: each.memory.ports * each.memory.outstanding)
        self.begin = of(lambda each: each.begin)
        self.numerator = of(lambda each: each.memory.bytes_numerator)
        self.denominator = of(lambda each: each.memory.bytes_denominator)
        self._up: Number = self.numerator - 1
        self._there: Number = self.latency + _REQUEST + 1 + self.ports

    def credit(self, cycles: Any) -> Number:
        """Bytes that the memory may grant in so many cycles."""
        found: Number = cycles * self.numerator // self.denominator
        return found

    def granted(self, size: Any) -> Number:
        """Cycles from the first grant on before which so many bytes are not granted; the bucket holds a burst."""
        found: Number = (maximum(size - BURST_BYTES, 0) * self.denominator + self._up) // self.numerator
        return found

    def come(self, size: Any) -> Number:
        """Cycles from when so many bytes can be asked for before which they are not all there."""
        return self._there + maximum(self.granted(size) + 1, size // self.word)

    def moved(self, size: Any, bursts: Number, even: Number) -> Number:
        """Cycles behind a request, less the latency, before which so many bytes do not come, whole bursts among them.

        The bucket holds a burst and is empty behind one, so whole bursts are whole cycles apart. A burst goes over
        one port and then, as all does, over one bus, a word per cycle.

        Args:
            size: how many bytes.
            bursts: how many bursts of full length there are at least.
            even: 1 where the last is one.
        """
        granted = maximum(self.granted(size), self.pace * maximum(bursts - 1, 0))
        last = 1 + even * (BURST_BYTES // self.word - 1)
        through = granted + last * (self.ports + 1)
        return _REQUEST + 1 + maximum(through, size // self.word + self.ports)
