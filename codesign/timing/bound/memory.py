"""Memory interfaces: durations of single transfers, and upper bounds of how much they deliver how soon."""

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
"""Most candidate tile counts of a first fetch that are all tried."""
FREE = 1 << 20
"""Words of a ring that is never full."""
_REQUEST = 2
"""Cycles from a request to its earliest grant."""
_IDLE = Formulas({"idle": lambda work: 0}, 0, 0)
"""Formulas of a placeholder engine whose commands take no time."""


class Interface:
    """Durations of transfers on one memory, taken from runs of the cycle model and cached.

    Args:
        network: the layers.
        board: the board with the memory.
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
        return (self._listed if len(self.network.layers) > 1 else self._run)([_transfer(1)]).start[0]

    def prologue(self, bytewise: tuple[bool, ...], sizes: tuple[int, ...]) -> int:
        """Earliest done cycle of the last of the loads that open a multi-layer program.

        They share the memory with the first fetch alone, of as many tiles as the rings hold; the fetch is ignored if
        too many tile counts are possible.

        Args:
            bytewise: for each load, whether it fills the 8-bit tables.
            sizes: bus words of each load; of a tile's table and of its weights; fewest and most tiles.
        """
        key = bytewise, sizes
        if key not in self._prologues:
            words, (table, weights, fewest, tiles) = sizes[: len(bytewise)], sizes[len(bytewise) :]
            loads = [_transfer(count, bytewise=each) for each, count in zip(bytewise, words, strict=True)]
            counts = range(fewest, tiles + 1) if tiles - fewest < _FEW_TILES else (0,)
            found = [self._loads(loads, [_fetch(n * table, n * weights)] * (n > 0)) for n in counts]
            self._prologues[key] = min(found)
        return self._prologues[key]

    def _loads(self, loads: list[Command], fetch: list[Command]) -> int:
        machine = self._listed([loads[0], *fetch, *loads[1:]])
        return machine.stop[(len(loads) - 1 + len(fetch)) * (len(loads) > 1)]

    def _listed(self, commands: list[Command]) -> Machine:
        """Runs the first commands of a list, filled up with idle ones to the shortest list or the read-ahead."""
        fewest = 2 + sum(1 + isinstance(layer, Linear) for layer in self.network)
        return self._run(commands + [Command("idle", {})] * (min(fewest, COMMAND_QUEUE) - len(commands)))

    def isolated_cycles(self, engine: str, words: int, *, bytewise: bool = False) -> int:
        """Cycles from accept to done of a transfer with nothing else in flight.

        Args:
            engine: ``load`` or ``store``.
            words: bus words.
            bytewise: whether it fills the 8-bit tables.
        """
        key = engine, words, bytewise
        if key not in self._alone:
            machine = self._run([_transfer(words, engine, bytewise=bytewise)])
            self._alone[key] = machine.stop[0] - machine.start[0]
        return self._alone[key]

    def _run(self, commands: list[Command]) -> Machine:
        linear = {"t_in": 8, "t_out": self.word, "n_l": 1, "ring_words": FREE, "table_words": FREE}
        program = Program(tuple(commands), 0, b"", 0, {}, {}, 0, engine_names(["idle"]))
        machine = Machine(program, Design(self.board, {RING: linear}), _IDLE)
        machine.run()
        return machine


def _transfer(words: int, engine: str = "load", *, bytewise: bool = False) -> Command:
    writes = (Span(LUT, 0, 1),) if bytewise else ()
    return Command(engine, {"memory": 0, "address": 0, "words": words, "dram": 0}, writes=writes)


def _fetch(table: int, weights: int) -> Command:
    return Command("fetch", {"table_words": table, "weight_words": weights, "dram": 0})


class Interfaces:
    """Several memory interfaces, by index.

    Args:
        network: the layers.
        boards: the boards with the memories.
    """

    def __init__(self, network: Network, boards: Sequence[Board]) -> None:
        self.all = [Interface(network, board) for board in boards]

    def of(self, variant: Number, what: Callable[[Interface], int]) -> Number:
        """A figure of the interface per index in ``variant``."""
        if isinstance(variant, int):
            return what(self.all[variant])
        return np.array([what(each) for each in self.all], np.int64)[variant]

    def each(
        self, variant: Number, sizes: Sequence[Number], what: Callable[[Interface, tuple[int, ...]], int]
    ) -> Number:
        """A figure per interface index and sizes, computed once per distinct combination."""
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
    """Best-case rates of a memory, or of one of several per design.

    Args:
        interfaces: the memory interfaces.
        variant: index of the interface, an integer or an array.

    Attributes:
        word: bytes of a bus word.
        latency: cycles from a grant to its data.
        ports: read ports.
        pace: cycles between grants of full-length bursts.
        outstanding: most bursts in flight.
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
        """Bytes that the memory may grant in some cycles."""
        found: Number = cycles * self.numerator // self.denominator
        return found

    def granted(self, size: Any) -> Number:
        """Fewest cycles from the first grant until ``size`` bytes are granted; the bandwidth bucket holds a burst."""
        found: Number = (maximum(size - BURST_BYTES, 0) * self.denominator + self._up) // self.numerator
        return found

    def come(self, size: Any) -> Number:
        """Fewest cycles from when ``size`` bytes can be requested until all have arrived."""
        return self._there + maximum(self.granted(size) + 1, size // self.word)

    def moved(self, size: Any, bursts: Number, even: Number) -> Number:
        """Fewest cycles from a request until ``size`` bytes have arrived, without the latency.

        The bandwidth bucket holds one burst and is empty after it, so full-length bursts are ``pace`` cycles apart.
        A burst crosses one port and then, like all data, the one bus, a word per cycle.

        Args:
            size: bytes.
            bursts: fewest full-length bursts among them.
            even: 1 where the last burst has full length.
        """
        granted = maximum(self.granted(size), self.pace * maximum(bursts - 1, 0))
        last = 1 + even * (BURST_BYTES // self.word - 1)
        through = granted + last * (self.ports + 1)
        return _REQUEST + 1 + maximum(through, size // self.word + self.ports)
