"""A lower bound of the cycles of every program of a network, for one design or arrays of them.

Every layer's rows are followed group by group through the engines, each as fast as its own formula
allows, behind the rows that it reads. What only adds cycles is left out: tokens on the way back,
queues, cuts by columns, and whatever else the memory moves while a transfer is under way.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

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
_FEW_TILES = 8
"""Tiles of a first fetch up to which every possible number of them is tried."""
_FREE = 1 << 20
"""Words of a ring that is never full."""
_LAYERS = 8
"""Linear layers whose begin may hold back weights; only the latest matter."""
_IDLE = EngineTimes(lambda fields: 0, lambda fields: 0, 0, 0)


class Interface:
    """What transfers take on one memory, told by runs of the cycle model; each is run once.

    Args:
        network: the layers.
        board: figures of the memory.
    """

    def __init__(self, network: Network, board: Board) -> None:
        self.network, self.board = network, board
        self.word = board.memory.ports * board.memory.port_bits // 8
        self.numerator, self.denominator = board.memory.bytes_numerator, board.memory.bytes_denominator
        self._prologues: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        self._alone: dict[tuple[str, int, int], int] = {}

    @cached_property
    def begin(self) -> int:
        """First cycle in which any command can be accepted."""
        return (self._listed if len(self.network.layers) > 1 else self._run)([_load(0, 1)]).start[0]

    def prologue(self, memories: tuple[int, ...], sizes: tuple[int, ...]) -> int:
        """Cycle in which the last of the loads is done that begin every program of several layers.

        They have the memory to themselves but for the first fetch, of as many tiles as the rings hold; where those
        may be many, they have it whole.

        Args:
            memories: numbers of the loads' on-chip memories.
            sizes: bus words of each load; of the table and of the weights of a tile; fewest and most tiles.
        """
        key = memories, sizes
        if key not in self._prologues:
            words, (table, weights, fewest, tiles) = sizes[: len(memories)], sizes[len(memories) :]
            loads = [_load(memory, count) for memory, count in zip(memories, words, strict=True)]
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
        return self._run(commands + [Command("vector", {})] * (min(fewest, COMMAND_QUEUE) - len(commands)))

    def lone(self, engine: str, words: int, memory: int) -> int:
        """Cycles from the accept of a transfer to its end, if nothing else is under way.

        Args:
            engine: ``load`` or ``store``.
            words: bus words.
            memory: number of the on-chip memory.
        """
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


class Bound:
    """Lower bounds for one network on one board, or on several memories of it; see the module.

    Args:
        network: the layers.
        board: figures of its memory.
        rings: fewest words that the weight ring and the table ring of any design asked for have.
        variants: the board with other memories, by number; the board alone if none are given.
    """

    def __init__(
        self, network: Network, board: Board, rings: tuple[int, int] = (1, 1), variants: Sequence[Board] = ()
    ) -> None:
        self.network, self.board, self.rings = network, board, rings
        self.interfaces = [Interface(network, each) for each in variants or (board,)]
        self.whole = len(network.layers) > 1

    def __call__(
        self,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: int,
        loads: Sequence[int] = (),
        variant: Number = 0,
        boxed: "Boxed | None" = None,
        holding: bool = True,
    ) -> Number:
        """At most the cycles of `codesign.cycles.exact` for any program of the network.

        Args:
            engines: parameters by engine, integers or arrays that broadcast against each other.
            formulas: what the kernels say of these parameters.
            row_group: most rows per command.
            loads: cycles in which the loads are done that begin these programs, if they are known.
            variant: number of the memory, an integer or an array.
            boxed: the least of everything over many attention and vector engines, instead of their formulas.
            holding: whether to follow how the weight ring holds back what comes early. Without it, designs alike but
                for rings that cut their layers alike have one bound, unless a ring is shorter than the memory is late.
        """
        return _Schedule(self, engines, formulas, row_group, loads, variant, boxed, holding).total()

    def of(self, variant: Number, what: Callable[[Interface], int]) -> Number:
        """A figure of the memories by their numbers."""
        if isinstance(variant, int):
            return what(self.interfaces[variant])
        return np.array([what(each) for each in self.interfaces], np.int64)[variant]

    def each(
        self, variant: Number, sizes: Sequence[Number], what: Callable[[Interface, tuple[int, ...]], int]
    ) -> Number:
        """What a memory says of some sizes, asked once for each combination that there is."""
        if all(isinstance(size, int) for size in (variant, *sizes)):
            return what(self.interfaces[int(variant)], tuple(int(size) for size in sizes))
        columns = np.broadcast_arrays(variant, *sizes)
        flat = [column.ravel() for column in columns]
        code = np.zeros(flat[0].size, np.int64)
        for column in flat:
            code = code * (int(column.max()) + 1) + column
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        rows = zip(*(column[first].tolist() for column in flat), strict=True)
        found = [what(self.interfaces[number], tuple(row)) for number, *row in rows]
        return np.array(found, np.int64)[index.reshape(columns[0].shape)]


class Boxed(Protocol):
    """The least that any attention and vector engine of some sets can take; every method once per layer."""

    def columns(self, layer: Attention) -> Number:
        """Columns of a row of padded heads."""

    def attention(self, layer: Attention, first: int, rows: int) -> Number:
        """Cycles of a command of some query rows."""

    def vector(self, rows: int, d: int) -> Number:
        """Cycles of a command."""

    def affine(self, d: int) -> Number:
        """Bus words of a norm's gains and biases."""


def _load(memory: int, words: int, engine: str = "load") -> Command:
    return Command(engine, {"memory": memory, "address": 0, "words": words, "dram": 0})


def _fetch(table: int, weights: int) -> Command:
    return Command("fetch", {"table_words": table, "weight_words": weights, "dram": 0})


class _Held(NamedTuple):
    """Weights that stay in the ring during the last pass over them.

    Attributes:
        freed: cycle in which the first tile of them gives its room back.
        words: how many there are.
    """

    freed: Number
    words: Number


class _Cut(NamedTuple):
    """How a layer's weights are cut.

    Attributes:
        ib, spacing: words and cycles of a tile.
        tiles, blocks, last: tiles of a block; blocks; tiles of the last block.
        passes: times that the array goes over a block.
        freed: cycles from the begin of a block's last pass to the end of its first tile's words.
    """

    ib: Number
    spacing: Number
    tiles: Number
    blocks: Number
    last: Number
    passes: Number
    freed: Number


class _Schedule:
    """The run of one call: when each engine is free, and when each row of each tensor is done."""

    def __init__(
        self,
        bound: Bound,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: int,
        loads: Sequence[int],
        variant: Number,
        boxed: Boxed | None,
        holding: bool,
    ) -> None:
        self.loads, self.variant, self.boxed = loads, variant, boxed
        self.word = bound.of(variant, lambda each: each.word)
        self.rate = (
            bound.of(variant, lambda each: each.numerator),
            bound.of(variant, lambda each: each.denominator),
            bound.of(variant, lambda each: each.board.memory.read_latency),
        )
        self.bound, self.engines, self.formulas, self.row_group = bound, engines, formulas, row_group
        self.network, self.linear = bound.network, engines["linear"]
        self.begin: Number = bound.of(variant, lambda each: each.begin)
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
        self.turning = holding and bound.whole and bool(np.min(self.linear["ring_words"]) < _FREE)
        self.held = _Held(0, 0)
        self.begun_with: list[tuple[Number, Number]] = []

    def total(self) -> Number:
        """Cycles to the interrupt."""
        for layer in self.network:
            if isinstance(layer, Linear):
                self._linear(layer)
            elif isinstance(layer, Attention):
                self._attention(layer)
            elif isinstance(layer, Norm):
                self._norm(layer)
        end: Number = 0
        for output in self.network.outputs:
            ready = self._ready(output.source, 0, self.network.tensors[output.source].rows)
            end = larger(end, ready + self._stored(output.source) if self.bound.whole else ready)
        return end + 1

    def _stored(self, name: str) -> Number:
        """Cycles of the store of an output."""
        tensor = self.network.tensors[name]
        return self._transfer("store", self._words(tensor.rows, tensor.columns, tensor.bits // 8))

    def _transfer(self, engine: str, words: Number, memory: int = 0) -> Number:
        """Cycles of a transfer if nothing else is under way."""
        return self.bound.each(self.variant, [words], lambda each, sizes: each.lone(engine, sizes[0], memory))

    def _prologue(self) -> Number:
        """When the last of the loads that have begun is done; see `Interface.prologue`."""
        memories = tuple(LOADS.index(memory) for memory, _ in self.begun)
        sizes = [*(words for _, words in self.begun), *(self.first or ())]
        return self.bound.each(self.variant, sizes, lambda each, found: each.prologue(memories, found))

    def _words(self, rows: int, columns: int, wide: int) -> Number:
        """Bus words of a matrix of ``wide`` bytes per element, its rows padded as they lie on chip."""
        unit = larger(self.word, wide * self.linear["t_out"])
        return padded(columns * wide, unit) * rows // self.word

    def _padded(self) -> dict[str, Number]:
        """Columns of the matrices that attention touches, padded heads included."""
        found: dict[str, Number] = {}
        for layer in self.network:
            if isinstance(layer, Attention):
                unit = larger(self.linear["t_out"], self.word)
                total = self.boxed.columns(layer) if self.boxed else head_columns(layer.heads, self._head(layer), unit)
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
            self.load_free = self.load_free + self._transfer("load", words, LOADS.index(memory))
        else:
            self.begun.append((memory, words))
            known = len(self.begun) <= len(self.loads)
            self.load_free = self.loads[len(self.begun) - 1] if known else self._prologue()
        return self.load_free

    def _first_tiles(self) -> tuple[Number, ...] | None:
        """What `Bound.prologue` asks of the first linear layer; None in a program of one layer."""
        if not self.bound.whole:
            return None
        layer, p, word = next(each for each in self.network if isinstance(each, Linear)), self.linear, self.word
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
        """The layer's table and the addend that is constant or an input; returns when both are there."""
        at: Number = 0
        if layer.table is not None and layer.table.tobytes() not in self.tables:
            self.tables.add(layer.table.tobytes())
            at = self._load(ceil_div(LUT_BYTES, self.word), "lut") + 1
        if layer.addend in self.network.constants and layer.addend not in self.done:
            rows, columns = self.network.constants[layer.addend].shape
            at = self._load(self._words(rows, columns, 2), "position")
            self.done[layer.addend] = [(0, rows, at)]
        if layer.addend is not None and self.done.get(layer.addend) == []:
            tensor = self.network.tensors[layer.addend]
            at = self._load(self._words(tensor.rows, tensor.columns, 2), "position")
            self.done[layer.addend] = [(0, tensor.rows, at)]
        return at

    # Engines.

    def _linear(self, layer: Linear) -> None:
        p, word = self.linear, self.word
        self.seen_linear += 1
        if self.seen_linear > 1:
            self.first = None
        self._load_source(layer)
        constants = self._load_constants(layer)
        source, target = self._columns(layer.source), self._columns(layer.target)
        ib, ob = ceil_div(source, p["t_in"]), ceil_div(target, p["t_out"])
        spacing, kw = larger(ib, p["n_l"]), ceil_div(source, word)
        before = self.words
        self.tiles, self.words = self.tiles + ob, self.words + ob * ib
        tiles = block_tiles(layer.rows, ib, ob, p, self.row_group)
        blocks = ceil_div(ob, tiles)
        freed = spacing + self.formulas.array_latency + self._last_rows(self._groups(layer.rows)[-1][1])
        cut = _Cut(ib, spacing, tiles, blocks, ob - (blocks - 1) * tiles, self._passes(layer.rows), freed)
        there: Number = self._arrival()
        once: Number = 0
        if self.turning:
            rows = min(layer.rows, self.row_group)
            ready = self._ready(layer.source, layer.first_row, rows) + smaller(p["n_l"], rows) * kw
            self.begun_with.append((before, larger(self.array, ready) + (cut.passes - 1) * tiles * spacing + freed))
            there, once = larger(there, self._behind()), self._once(cut, ob)
        once = larger(once, there + 1 + spacing)
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(constants, self._ready(layer.source, layer.first_row + first, rows))
            t = larger(t, self._ready(layer.addend, first, rows))
            last = self._pass(t, rows, kw, ob * spacing + blocks, blocks)
            turned = once + (self._passes(first + rows) - 1) * cut.last * spacing
            end = larger(self.array, turned) - 1 + self.formulas.array_latency + self.formulas.drain_latency + last
            done.append((first, rows, end))
        self.done[layer.target] = done
        self.array = larger(self.array, once + (cut.passes - 1) * cut.last * spacing)
        begun = self.array - cut.last * spacing
        self.held = _Held((cut.passes > 1) * (begun + freed), (cut.passes > 1) * cut.last * ib)

    def _passes(self, rows: int) -> Number:
        """Times that the array goes over a block of weights for so many rows, cut into commands."""
        n_l = self.linear["n_l"]
        return sum((ceil_div(count, n_l) for _, count in self._groups(rows)), 0 * n_l)

    def _last_rows(self, rows: int) -> Number:
        """Rows of the last pass over a command of so many."""
        n_l = self.linear["n_l"]
        return rows - (ceil_div(rows, n_l) - 1) * n_l

    def _once(self, cut: "_Cut", tiles: Number) -> Number:
        """Cycle before which the array has not gone once over the last block of a layer of so many tiles.

        A block stays in the ring until the last pass over it. Then the next one comes in behind its tiles, but for
        what there was room for before. In a layer of one pass every tile comes in behind an earlier one like that.
        """
        whole, last, spacing = cut.tiles * cut.ib, cut.last * cut.ib, cut.spacing
        held = _Held(cut.freed, whole)
        between = (cut.passes - 2) * cut.tiles * spacing
        step = larger(2 * cut.tiles * spacing, self._refilled(held, whole) + spacing)
        end = larger((cut.tiles + cut.last) * spacing, self._refilled(held, last) + spacing)
        first = larger(self.array + cut.tiles * spacing, self._refilled(self.held, whole) + spacing)
        several: Any = (cut.blocks > 1) * 1
        chain = first + several * ((cut.blocks - 1) * between + (cut.blocks - 2) * step + end)
        fit = larger(self.linear["ring_words"] // cut.ib, 1)
        turn = self._refilled(_Held(cut.freed, fit * cut.ib), cut.ib)
        single = self.array + spacing + (tiles - 1) // fit * turn
        again: Any = (cut.passes > 1) * 1
        found: Number = again * chain + (1 - again) * single
        return found

    def _behind(self) -> Number:
        """Cycle before which the last of the weights up to now are not there, as the ring holds back what comes early.

        Before the first word of a layer is done with, nothing comes that lies further behind it than the ring is long.
        """
        found: Number = 0
        for before, freed in self.begun_with[-_LAYERS:]:
            found = larger(found, self._refilled(_Held(freed, 0), self.words - before))
        return found

    def _refilled(self, held: "_Held", words: Number) -> Number:
        """Cycle before which so many weight words behind those held are not there; 0 if they may be all along."""
        numerator, denominator, latency = self.rate
        p: Any = self.linear
        late: Any = words - (p["ring_words"] - held.words)
        rest = larger(late * p["t_in"] * p["t_out"] - BURST_BYTES, 0)
        found: Number = (late > 0) * (held.freed + latency - (-rest * denominator // numerator))
        return found

    def _pass(self, t: Number, rows: int, kw: Number, period: Number, blocks: Number) -> Number:
        """Runs the groups of a command accepted in cycle ``t``; returns the rows of the last.

        There are two buffers: a group is loaded behind the end of the group before the last, and its
        tiles take a period of the array.
        """
        n_l = self.linear["n_l"]
        groups = ceil_div(rows, n_l)
        last = self._last_rows(rows)
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
        p, (numerator, denominator, latency) = self.linear, self.rate
        late: Any = 8 * p["t_out"] * self.tiles + p["t_in"] * p["t_out"] * self.words - BURST_BYTES
        granted = -(-late * denominator // numerator)
        turns = larger((self.words - 1) // p["ring_words"], (self.tiles - 1) // p["table_words"])
        return self.begin + latency + larger(larger(granted, 0), turns * latency)

    def _attention(self, layer: Attention) -> None:
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(self.free["attention"], self._ready(layer.query, first, rows))
            for name in (layer.key, layer.value):
                t = larger(t, self._ready(name, 0, layer.keys))
            end = t + self._attention_time(layer, first, rows)
            self.free["attention"] = end + 1
            done.append((first, rows, end))
        self.done[layer.target] = done

    def _attention_time(self, layer: Attention, first: int, rows: int) -> Number:
        if self.boxed:
            return self.boxed.attention(layer, first, rows)
        heads = self._columns(layer.query) // self._head(layer)
        return self.formulas.attention(attention_work(layer, first, rows, heads, self._head(layer)))

    def _head(self, layer: Attention) -> Number:
        t_a = self.engines["attention"]["t_a"]
        return padded(layer.head_dim, t_a)

    def _norm(self, layer: Norm) -> None:
        loaded = self._load(self._affine(layer.d), "affine") + 1
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(larger(self.free["vector"], loaded), self._ready(layer.source, layer.first_row + first, rows))
            work = {"rows": rows, "d": layer.d}
            end = t + (self.boxed.vector(rows, layer.d) if self.boxed else self.formulas.vector(work))
            self.free["vector"] = end + 1
            done.append((first, rows, end))
        self.done[layer.target] = done

    def _affine(self, d: int) -> Number:
        """Bus words of gains and biases."""
        return self.boxed.affine(d) if self.boxed else affine_words(d, self.engines["vector"]["t_v"], self.word)


def affine_words(d: int, t_v: Number, word: Number) -> Number:
    """Bus words of a norm's gains and biases as they lie on chip."""
    return padded(d * AFFINE_BYTES, larger(word, AFFINE_BYTES * t_v)) // word


def attention_work(layer: Attention, first: int, rows: int, heads: Number, wide: Number) -> dict[str, Number]:
    """The kernel's work of some query rows, of heads padded to so many and to so many columns."""
    return {
        "rows": rows, "keys": layer.keys, "heads": heads, "head_dim": wide,
        "mask": MASKS.index(layer.mask), "window": layer.window, "query_offset": first,
    }  # fmt: skip
