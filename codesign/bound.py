"""A lower bound of the cycles of every program of a network, for one design or arrays of them.

Every layer's rows are followed group by group through the engines, each as fast as its own formula
allows, behind the rows that it reads. What only adds cycles is left out: tokens on the way back,
queues, cuts by columns, and whatever else the memory moves while a transfer is under way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codesign.board import Board
from codesign.command import LOADS, Command
from codesign.design import Design
from codesign.kernel import Number, Params, ceil_div, larger, smaller
from codesign.machine import COMMAND_QUEUE, Machine
from codesign.network import MASKS, Attention, Linear, Network, Norm
from codesign.offchip import BURST_BYTES
from codesign.program import AFFINE_BYTES, LUT_BYTES, Program, block_tiles, head_columns, padded
from codesign.systolic import EngineTimes, Formulas

_Group = tuple[int, int, Number]
"""First row, rows, and the cycle in which they are done."""
_FREE = 1 << 20
"""Words of a ring that is never full."""
_IDLE = EngineTimes(lambda fields: 0, lambda fields: 0, 0, 0)


class Bound:
    """Lower bounds for one network on one board; see the module.

    Args:
        network: the layers.
        board: figures of its memory.
        rings: fewest words that the weight ring and the table ring of any design asked for have.
    """

    def __init__(self, network: Network, board: Board, rings: tuple[int, int] = (1, 1)) -> None:
        self.network, self.board, self.rings = network, board, rings
        self.word = board.memory.ports * board.memory.port_bits // 8
        self.whole = len(network.layers) > 1
        self._prologues: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        self._alone: dict[tuple[str, int, int], int] = {}

    def __call__(
        self, engines: Mapping[str, Params], formulas: Formulas, row_group: int, loads: Sequence[int] = ()
    ) -> Number:
        """At most the cycles of `codesign.cycles.exact` for any program of the network.

        Args:
            engines: parameters by engine, integers or arrays that broadcast against each other.
            formulas: what the kernels say of these parameters.
            row_group: most rows per command.
            loads: cycles in which the loads are done that begin these programs, if they are known.
        """
        return _Schedule(self, engines, formulas, row_group, loads).total()

    @property
    def begin(self) -> int:
        """First cycle in which any command can be accepted."""
        return (self._listed if self.whole else self._run)([_load(0, 1)]).start[0]

    def prologue(self, loads: Sequence[tuple[str, Number]], fetch: tuple[Number, ...]) -> Number:
        """Cycle in which the last of the loads is done that begin every program of several layers.

        They have the memory to themselves but for the first fetch, of as many tiles as the rings hold.

        Args:
            loads: on-chip memory and bus words of each, in order.
            fetch: bus words of table and of weights per tile, fewest and most tiles.
        """
        columns = np.broadcast_arrays(*(words for _, words in loads), *fetch)
        rows, index = np.unique(np.stack([c.ravel() for c in columns], axis=1), axis=0, return_inverse=True)
        memories = tuple(LOADS.index(memory) for memory, _ in loads)
        times = np.array([self._prologue(memories, tuple(row)) for row in rows.tolist()], np.int64)
        return times[index.reshape(columns[0].shape)] if columns[0].ndim else int(times[0])

    def _prologue(self, memories: tuple[int, ...], sizes: tuple[int, ...]) -> int:
        key = memories, sizes
        if key not in self._prologues:
            words, (table, weights, fewest, tiles) = sizes[: len(memories)], sizes[len(memories) :]
            loads = [_load(memory, count) for memory, count in zip(memories, words, strict=True)]
            self._prologues[key] = min(
                self._listed([loads[0], _fetch(n * table, n * weights), *loads[1:]]).stop[len(loads) * (len(loads) > 1)]
                for n in range(fewest, tiles + 1)
            )
        return self._prologues[key]

    def _listed(self, commands: list[Command]) -> Machine:
        """The run of a list's begin, with as much behind it as every program has and is read ahead."""
        fewest = 2 + sum(1 + isinstance(layer, Linear) for layer in self.network)
        return self._run(commands + [Command("vector", {})] * (min(fewest, COMMAND_QUEUE) - len(commands)))

    def transfer(self, engine: str, words: Number, memory: int = 0) -> Number:
        """Cycles from the accept of a transfer to its end, if nothing else is under way.

        Args:
            engine: ``load`` or ``store``.
            words: bus words, an integer or an array.
            memory: number of the on-chip memory.
        """
        if isinstance(words, int):
            return self._lone(engine, words, memory)
        sizes, index = np.unique(words, return_inverse=True)
        times = np.array([self._lone(engine, int(size), memory) for size in sizes], np.int64)
        found: Number = times[index.reshape(np.shape(words))]
        return found

    def _lone(self, engine: str, words: int, memory: int) -> int:
        key = engine, words, memory
        if key not in self._alone:
            machine = self._run([_load(memory, words, engine)])
            self._alone[key] = machine.stop[0] - machine.start[0]
        return self._alone[key]

    def _run(self, commands: list[Command]) -> Machine:
        linear = {"t_in": 8, "t_out": self.word, "n_l": 1, "ring_words": _FREE, "table_words": _FREE}
        program = Program(tuple(commands), 0, b"", 0, {}, {}, 0)
        machine = Machine(program, Design(self.board, {"linear": linear}), _IDLE)
        machine.run()
        return machine


def _load(memory: int, words: int, engine: str = "load") -> Command:
    return Command(engine, {"memory": memory, "address": 0, "words": words, "dram": 0})


def _fetch(table: int, weights: int) -> Command:
    return Command("fetch", {"table_words": table, "weight_words": weights, "dram": 0})


class _Schedule:
    """The run of one call: when each engine is free, and when each row of each tensor is done."""

    def __init__(
        self,
        bound: Bound,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: int,
        loads: Sequence[int],
    ) -> None:
        self.loads = loads
        self.bound, self.engines, self.formulas, self.row_group = bound, engines, formulas, row_group
        self.network, self.linear = bound.network, engines["linear"]
        self.begin: Number = bound.begin
        self.load_free: Number = self.begin
        self.loader: Number = 0
        self.array: Number = 0
        self.ends: tuple[Number, Number] = (-1, -1)
        self.free: dict[str, Number] = {"attention": 0, "vector": 0}
        self.tiles: Number = 0
        self.words: Number = 0
        self.done: dict[str, list[_Group]] = {put.target: [] for put in self.network.inputs}
        self.padded = self._padded()
        self.tables: set[bytes] = set()
        self.first = self._first_tiles()
        self.begun: list[tuple[str, Number]] = []
        self.seen_linear = 0

    def total(self) -> Number:
        """Cycles to the interrupt."""
        for layer in self.network:
            if isinstance(layer, Linear):
                self._linear(layer)
            elif isinstance(layer, Attention):
                self._attention(layer)
            else:
                self._norm(layer)
        end: Number = 0
        for output in self.network.outputs:
            ready = self._ready(output.source, 0, self.network.tensors[output.source].rows)
            end = larger(end, ready + self._stored(output.source) if self.bound.whole else ready)
        return end + 1

    def _stored(self, name: str) -> Number:
        """Cycles of the store of an output."""
        tensor = self.network.tensors[name]
        return self.bound.transfer("store", self._words(tensor.rows, tensor.columns, tensor.bits // 8))

    def _words(self, rows: int, columns: int, wide: int) -> Number:
        """Bus words of a matrix of ``wide`` bytes per element, its rows padded as they lie on chip."""
        unit = larger(self.bound.word, wide * self.linear["t_out"])
        return padded(columns * wide, unit) * rows // self.bound.word

    def _padded(self) -> dict[str, Number]:
        """Columns of the matrices that attention touches, padded heads included."""
        found: dict[str, Number] = {}
        for layer in self.network:
            if isinstance(layer, Attention):
                unit = larger(self.linear["t_out"], self.bound.word)
                total = head_columns(layer.heads, self._head(layer), unit)
                found |= dict.fromkeys((layer.query, layer.key, layer.value, layer.target), total)
        return found

    def _columns(self, name: str) -> Number:
        return self.padded.get(name, self.network.tensors[name].columns)

    def _groups(self, rows: int) -> list[tuple[int, int]]:
        return [(first, min(self.row_group, rows - first)) for first in range(0, rows, self.row_group)]

    def _ready(self, name: str | None, first: int, rows: int) -> Number:
        """First cycle in which a command can start that reads these rows."""
        found: Number = 0
        for at, count, done in self.done.get(name, []) if name is not None else ():
            if at < first + rows and first < at + count:
                found = larger(found, done + 1)
        return found

    # Loads, one after the other in the order of the list.

    def _load(self, words: Number, memory: str) -> Number:
        if self.first is None:
            self.load_free = self.load_free + self.bound.transfer("load", words, LOADS.index(memory))
        else:
            self.begun.append((memory, words))
            known = len(self.begun) <= len(self.loads)
            self.load_free = self.loads[len(self.begun) - 1] if known else self.bound.prologue(self.begun, self.first)
        return self.load_free

    def _first_tiles(self) -> tuple[Number, ...] | None:
        """What `Bound.prologue` asks of the first linear layer; None in a program of one layer."""
        if not self.bound.whole:
            return None
        layer, p, word = next(each for each in self.network if isinstance(each, Linear)), self.linear, self.bound.word
        ib, tiles = ceil_div(self._columns(layer.source), p["t_in"]), ceil_div(self._columns(layer.target), p["t_out"])
        ring, table = self.bound.rings
        fewest = larger(smaller(tiles, smaller(table, ring // ib)), 1)
        return 8 * p["t_out"] // word, p["t_in"] * p["t_out"] * ib // word, fewest, tiles

    def _load_source(self, layer: Linear) -> None:
        if self.done.get(layer.source) == [] and self.bound.whole:
            tensor = self.network.tensors[layer.source]
            loaded = self._load(self._words(tensor.rows, tensor.columns, 1), "input")
            self.done[layer.source] = [(0, tensor.rows, loaded)]

    def _load_constants(self, layer: Linear) -> Number:
        """The layer's table and constant addend; returns when both are there."""
        at: Number = 0
        if layer.table is not None and layer.table.tobytes() not in self.tables:
            self.tables.add(layer.table.tobytes())
            at = self._load(ceil_div(LUT_BYTES, self.bound.word), "lut") + 1
        if layer.addend in self.network.constants and layer.addend not in self.done:
            rows, columns = self.network.constants[layer.addend].shape
            at = self._load(self._words(rows, columns, 2), "position")
            self.done[layer.addend] = [(0, rows, at)]
        return at

    # Engines.

    def _linear(self, layer: Linear) -> None:
        p, word = self.linear, self.bound.word
        self.seen_linear += 1
        if self.seen_linear > 1:
            self.first = None
        self._load_source(layer)
        constants = self._load_constants(layer)
        source, target = self._columns(layer.source), self._columns(layer.target)
        ib, ob = ceil_div(source, p["t_in"]), ceil_div(target, p["t_out"])
        spacing, kw = larger(ib, p["n_l"]), ceil_div(source, word)
        self.tiles, self.words = self.tiles + ob, self.words + ob * ib
        there = self._arrival() + 1 + spacing
        blocks = ceil_div(ob, block_tiles(layer.rows, ib, ob, p))
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(constants, self._ready(layer.source, layer.first_row + first, rows))
            t = larger(t, self._ready(layer.addend, first, rows))
            last = self._pass(t, rows, kw, ob * spacing + blocks, blocks)
            self.array = larger(self.array, there)
            end = self.array - 1 + self.formulas.array_latency + self.formulas.drain_latency + last
            done.append((first, rows, end))
        self.done[layer.target] = done

    def _pass(self, t: Number, rows: int, kw: Number, period: Number, blocks: Number) -> Number:
        """Runs the groups of a command accepted in cycle ``t``; returns the rows of the last.

        There are two buffers: a group is loaded behind the end of the group before the last, and its
        tiles take a period of the array.
        """
        n_l = self.linear["n_l"]
        groups = ceil_div(rows, n_l)
        last: Number = rows - (groups - 1) * n_l
        several: Any = groups > 1
        full, least = smaller(n_l, rows) * kw, last * kw
        start = larger(larger(self.loader, t + 1), self.ends[0] + 1)
        one = larger(self.array, start + full + 2) + period
        then = larger(start + full, self.ends[1] + 1)

        def until(count: Any, load: Any) -> Number:
            """End of so many groups, at least two, the last with such a load."""
            second = larger(one, then + load * (count == 2) + full * (count > 2) + 2) + period
            detour, short = full + 2 + period, full - load
            found = larger(second + (count - 2) * period, then + (count - 2) * full + load + 2 + period)
            pairs: Any = second + (count - 2) // 2 * detour + (count - 2) % 2 * period - short * (count > 3)
            others: Any = one + (count - 1) // 2 * detour + (count - 1) % 2 * period - short
            return larger(found, larger(pairs, others))

        end: Any = until(larger(groups, 2), least)
        before: Any = until(larger(groups - 1, 2), full)
        self.loader = larger(self.loader, start + rows * kw * blocks)
        earlier = (groups > 2) * before + (groups == 2) * one + (1 - several) * (self.ends[1] + 1)
        self.array = several * end + (1 - several) * one
        self.array = larger(self.array, self.loader + 3)
        self.ends = earlier - 1, self.array - 1
        return last

    def _arrival(self) -> Number:
        """Cycle before which the last of the weights up to now cannot be there.

        The memory has a rate and a latency; and when a ring is full, a word is asked for only after the word in
        its place was there and used.
        """
        p, memory = self.linear, self.bound.board.memory
        late: Any = 8 * p["t_out"] * self.tiles + p["t_in"] * p["t_out"] * self.words - BURST_BYTES
        granted = -(-late * memory.bytes_denominator // memory.bytes_numerator)
        turns = larger((self.words - 1) // p["ring_words"], (self.tiles - 1) // p["table_words"])
        return self.begin + memory.read_latency + larger(larger(granted, 0), turns * memory.read_latency)

    def _attention(self, layer: Attention) -> None:
        heads = self._columns(layer.query) // self._head(layer)
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(self.free["attention"], self._ready(layer.query, first, rows))
            for name in (layer.key, layer.value):
                t = larger(t, self._ready(name, 0, layer.keys))
            work = {
                "rows": rows, "keys": layer.keys, "heads": heads, "head_dim": self._head(layer),
                "mask": MASKS.index(layer.mask), "window": layer.window, "query_offset": first,
            }  # fmt: skip
            end = t + self.formulas.attention(work)
            self.free["attention"] = end + 1
            done.append((first, rows, end))
        self.done[layer.target] = done

    def _head(self, layer: Attention) -> Number:
        t_a = self.engines["attention"]["t_a"]
        return padded(layer.head_dim, t_a)

    def _norm(self, layer: Norm) -> None:
        unit = larger(self.bound.word, AFFINE_BYTES * self.engines["vector"]["t_v"])
        loaded = self._load(padded(layer.d * AFFINE_BYTES, unit) // self.bound.word, "affine") + 1
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(larger(self.free["vector"], loaded), self._ready(layer.source, layer.first_row + first, rows))
            end = t + self.formulas.vector({"rows": rows, "d": layer.d})
            self.free["vector"] = end + 1
            done.append((first, rows, end))
        self.done[layer.target] = done
