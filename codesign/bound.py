"""A lower bound of the cycles of every program of a network, for one design or arrays of them.

Every layer's rows are followed group by group through the engines, each as fast as its own formula
allows, behind the rows that it reads and the weights that the memory brings and the rings have room for.
What only adds cycles is left out: tokens on the way back, queues, and most of what else the memory moves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from codesign.board import Board
from codesign.command import COMMAND_BYTES, LOADS, Command
from codesign.design import Design
from codesign.kernel import Number, Params, ceil_div, larger, smaller
from codesign.layout import AFFINE_BYTES, groups, head_columns, padded
from codesign.machine import BURST_BYTES, Machine
from codesign.network import MASKS, Attention, Layer, Linear, Network, Norm
from codesign.program import FETCH_LEAD, LUT_BYTES, Program, block_tiles
from codesign.rules import COMMAND_QUEUE, ENGINE_QUEUE
from codesign.systolic import EngineTimes, Formulas

_Group = tuple[int, int, Number]
"""First row, rows, and the cycle in which they are done."""
_FEW_TILES = 8
"""Tiles of a first fetch up to which every possible number of them is tried."""
_FREE = 1 << 20
"""Words of a ring that is never full."""
_LAYERS = 3
"""Tiles that are looked at as to whether they hold back weights; only the latest matter."""
_EARLY, _SLACK = 6, 128
"""Layers whose loads may be early, and cycles that a load takes at most beside what is counted."""
_REQUEST = 2
"""Cycles from a request to the first in which it can be granted."""
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
        self.pace = -(-BURST_BYTES * self.denominator // self.numerator)
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
        self.readers, self.repeat = _readers(network), _repeats(network)
        self.given: dict[str, tuple[int, ...]] = {each: rows.shape for each, rows in network.constants.items()}
        for put in network.inputs:
            self.given[put.target] = network.tensors[put.target].shape

    def __call__(
        self,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: int,
        variant: Number = 0,
        *,
        begun: Mapping[tuple[int, int], Number] | None = None,
        boxed: "Boxed | None" = None,
        leaping: bool = False,
    ) -> Number:
        """At most the cycles of `codesign.cycles.exact` for any program of the network.

        Args:
            engines: parameters by engine, integers or arrays that broadcast against each other.
            formulas: what the kernels say of these parameters.
            row_group: most rows per command.
            variant: number of the memory, an integer or an array.
            begun: cycles in which the first groups of rows are done, by the numbers of linear layer and group, as far
                as they are known; 0 where not.
            boxed: the least of everything over many attention and vector engines, instead of their formulas.
            leaping: whether to leave out layers that repeat, which takes half the time and is a little lower.
        """
        return _Schedule(self, engines, formulas, row_group, variant, begun or {}, boxed, leaping).total()

    @cached_property
    def shapes(self) -> list["_Shape"]:
        """What decides how the linear layers are cut, layer by layer."""
        heads: dict[str, tuple[int, int]] = {}
        for layer in self.network:
            if isinstance(layer, Attention):
                mine = layer.heads, layer.head_dim
                heads |= dict.fromkeys((layer.query, layer.key, layer.value, layer.target), mine)
        linears = [layer for layer in self.network if isinstance(layer, Linear)]
        return [_Shape(each.rows, each.k, each.n, heads.get(each.source), heads.get(each.target)) for each in linears]

    @cached_property
    def kinds(self) -> list["_Shape"]:
        """The different ones of them."""
        return list(dict.fromkeys(self.shapes))

    @cached_property
    def widths(self) -> list[int]:
        """The different widths of norms."""
        return list(dict.fromkeys(layer.d for layer in self.network if isinstance(layer, Norm)))

    def cuts(self, linear: Params, t_a: Number, word: Number, row_group: int) -> list[Number]:
        """Tiles per command of the linear layers, one of each shape.

        Args:
            linear: parameters of the linear engine.
            t_a: of the attention engine.
            word: bytes of a bus word.
            row_group: most rows per command.
        """
        tiles = ((shape.rows, *shape.tiles(linear, t_a, word)) for shape in self.kinds)
        return [block_tiles(rows, ib, ob, linear, row_group) for rows, ib, ob in tiles]

    def lengths(self, linear: Params, t_a: Number, t_v: Number, word: Number) -> list[Number]:
        """All else that attention and vector engine decide of fetches and loads: columns, and words of norms."""
        found = [size for shape in self.kinds for size in shape.tiles(linear, t_a, word)]
        return found + [affine_words(d, t_v, word) for d in self.widths]

    def window(self, linear: Params, t_a: Number, word: Number) -> Number:
        """Words of the table ring, more of which hold nothing back; the arguments are as in `cuts`."""
        tiles, found = [shape.tiles(linear, t_a, word)[1] for shape in self.shapes], 0 * linear["t_out"]
        for last in range(len(tiles)):
            found = larger(found, sum(tiles[max(0, last - _LAYERS // 2) : last + 1]))
        return found

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


def _readers(network: Network) -> dict[str, int]:
    """Number of the first linear layer that waits for a tensor, by tensor; their count if none does."""
    count = number = sum(isinstance(layer, Linear) for layer in network)
    found = dict.fromkeys(network.tensors, count)
    for layer in reversed(network.layers):
        number -= isinstance(layer, Linear)
        first = number if isinstance(layer, Linear) else found[layer.target]
        for name in _reads(layer):
            found[name] = min(found.get(name, count), first)
    return found


class _Repeat(NamedTuple):
    """Layers that repeat: number of the first, how many they are, and how many times they come."""

    first: int
    length: int
    times: int


class _Carried(NamedTuple):
    """What a layer depends on: cycles, and what is counted; loads and linear layers up to then."""

    cycles: list[Number]
    counts: tuple[Number, Number, Number, Number]
    moves: int
    linears: int


def _repeats(network: Network) -> _Repeat:
    """The longest repeat of layers behind as many others, not up to the last linear layer; none is one of no layers.

    Layers are alike if they have the same shape and read what layers as far before them make.
    """
    layers, tables, looks = network.layers, set[bytes](), list[tuple[object, ...]]()
    makers = {layer.target: number for number, layer in enumerate(layers)}
    for number, layer in enumerate(layers):
        reads = [number - makers[name] if name in makers else -number for name in _reads(layer)]
        shape: tuple[object, ...] = ()
        if isinstance(layer, Linear):
            table = layer.table.tobytes() if layer.table is not None else b""
            shape = layer.k, layer.n, layer.first_row, table in tables, bool(table), layer.addend is None
            tables.add(table)
        elif isinstance(layer, Attention):
            shape = layer.keys, layer.heads, layer.head_dim, layer.mask, layer.window
        elif isinstance(layer, Norm):
            shape = layer.d, layer.first_row, layer.bits
        looks.append((type(layer), layer.rows, *shape, *reads))
    end = max((number for number, layer in enumerate(layers) if isinstance(layer, Linear)), default=0)
    best = _Repeat(0, 0, 1)
    for length in range(1, len(layers) // 3 + 1):
        for first in range(length, len(layers) - 2 * length + 1):
            last = first + length
            while last < end and looks[last] == looks[last - length]:
                last += 1
            times = (last - first) // length
            if (times - 1) * length > (best.times - 1) * best.length:
                best = _Repeat(first, length, times)
    return best


def _reads(layer: Layer) -> tuple[str, ...]:
    """Tensors that all of a layer waits for."""
    if isinstance(layer, Attention):
        return layer.query, layer.key, layer.value
    addend = layer.addend if isinstance(layer, Linear) else None
    return (layer.source,) if addend is None else (layer.source, addend)


class _Shape(NamedTuple):
    """A linear layer: rows, inputs and outputs, and heads and columns of a head of what attention touches."""

    rows: int
    k: int
    n: int
    source: tuple[int, int] | None
    target: tuple[int, int] | None

    def tiles(self, linear: Params, t_a: Number, word: Number) -> tuple[Number, Number]:
        """Weight words of a tile, and tiles."""
        unit, columns = larger(linear["t_out"], word), list[Number]()
        for plain, heads in ((self.k, self.source), (self.n, self.target)):
            columns.append(plain if heads is None else head_columns(heads[0], padded(heads[1], t_a), unit))
        return ceil_div(columns[0], linear["t_in"]), ceil_div(columns[1], linear["t_out"])


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


class _Freed(NamedTuple):
    """A tile that gives its room in the rings back in no cycle before ``at``, so no later tile does.

    Attributes:
        tile, word: its number and that of its first word, of all weights in order.
        at: the cycle.
    """

    tile: Number
    word: Number
    at: Number


class _Cut(NamedTuple):
    """How a layer's weights are cut.

    Attributes:
        ib, spacing: words and cycles of a tile.
        tiles, blocks, last: tiles of a block; blocks; tiles of the last block.
        passes: times that the array goes over a block.
        freed: cycles from the begin of a tile in the last pass until it gives its room back.
    """

    ib: Number
    spacing: Number
    tiles: Number
    blocks: Number
    last: Number
    passes: Number
    freed: Number


class _Move(NamedTuple):
    """A load.

    Attributes:
        words: how many it moves.
        layer: number of the linear layer that cannot begin before it.
    """

    words: Number
    layer: int


class _Schedule:
    """The run of one call: when each engine is free, and when each row of each tensor is done."""

    def __init__(
        self,
        bound: Bound,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: int,
        variant: Number,
        known: Mapping[tuple[int, int], Number],
        boxed: Boxed | None,
        leaping: bool,
    ) -> None:
        self.known, self.variant, self.boxed = known, variant, boxed
        self.word = bound.of(variant, lambda each: each.word)
        self.latency = bound.of(variant, lambda each: each.board.memory.read_latency)
        self.ports = bound.of(variant, lambda each: each.board.memory.ports)
        self.numerator = bound.of(variant, lambda each: each.numerator)
        self.denominator = bound.of(variant, lambda each: each.denominator)
        self.pace = bound.of(variant, lambda each: each.pace)
        self.outstanding = bound.of(variant, lambda each: each.board.memory.ports * each.board.memory.outstanding)
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
        self.bursts: Number = 0
        self.even: Number = 0
        self.moves: list[_Move] = []
        self.listed: Number = 0
        self.ahead: Number = 0
        self.busy: list[Number] = []
        self.done: dict[str, list[_Group]] = {put.target: [] for put in self.network.inputs}
        self.padded = self._padded()
        self.tables: set[bytes] = set()
        self.linears = sum(isinstance(layer, Linear) for layer in self.network)
        self.first = self._first_tiles()
        self.begun: list[tuple[str, Number]] = []
        self.seen_linear = 0
        self.turning = bound.whole and bool(np.min(self.linear["ring_words"]) < _FREE)
        self.repeat = bound.repeat if leaping else _Repeat(0, 0, 1)
        self.leaping = False
        self.freed: list[_Freed] = []
        self.came: Number = 0

    def total(self) -> Number:
        """Cycles to the interrupt."""
        layers, (first, length, times) = self.network.layers, self.repeat
        for layer in layers[:first]:
            self._layer(layer)
        if length:
            before = self._carried(first)
            self.leaping, self.came = True, 0
            for layer in layers[first : first + length]:
                self._layer(layer)
            self._leap(before)
            self.leaping = False
        for layer in layers[first + length * times :]:
            self._layer(layer)
        end: Number = 0
        for output in self.network.outputs:
            ready = self._ready(output.source, 0, self.network.tensors[output.source].rows)
            end = larger(end, ready + self._stored(output.source) if self.bound.whole else ready)
        return end + 1

    def _layer(self, layer: Layer) -> None:
        if isinstance(layer, Linear):
            self._linear(layer)
        elif isinstance(layer, Attention):
            self._attention(layer)
        elif isinstance(layer, Norm):
            self._norm(layer)

    def _carried(self, behind: int) -> "_Carried":
        """What the layers from a number on depend on, but for loads and for what the memory brings at any rate."""
        made = self.network.layers[max(0, behind - self.repeat.length) : behind]
        cycles = [self.array, self.loader, *self.ends]
        for kind, engine in ((Attention, "attention"), (Norm, "vector")):
            cycles += [self.free[engine]] * any(isinstance(layer, kind) for layer in made)
        cycles += [at for layer in made for _, _, at in self.done[layer.target]]
        cycles += [each.at for each in reversed(self.freed[-_LAYERS:])]
        return _Carried(cycles, (self.tiles, self.words, self.bursts, self.listed), len(self.moves), len(self.busy))

    def _leap(self, before: "_Carried") -> None:
        """Leaves out repeats of the layers that ended now, which were followed without loads and arrivals.

        They do the same again as much later as all that they depend on is; so each repeat puts everything off by at
        least the least by which this time did.
        """
        first, length, times = self.repeat
        now, more = self._carried(first + length), times - 1
        least: Number = _FREE << 8
        for then, cycle in zip(before.cycles, now.cycles, strict=False):  # tiles given back may be fewer before
            least = smaller(least, cycle - then)
        late = more * larger(least, 0)
        self.array, self.loader, self.came = self.array + late, self.loader + late, self.came + late
        self.ends = self.ends[0] + late, self.ends[1] + late
        self.free = {engine: at + late * bool(np.any(at)) for engine, at in self.free.items()}
        tiles, words, bursts, listed = (more * (at - then) for then, at in zip(before.counts, now.counts, strict=True))
        self.tiles, self.words = self.tiles + tiles, self.words + words
        self.bursts, self.listed = self.bursts + bursts, self.listed + listed
        self.freed = [_Freed(tile + tiles, word + words, at + late) for tile, word, at in self.freed[-_LAYERS:]]
        linears, moves = self.busy[before.linears :], self.moves[before.moves :]
        for repeat in range(1, times):
            self.moves += [_Move(move.words, move.layer + repeat * len(linears)) for move in moves]
            self.busy += linears
        self.seen_linear += more * len(linears)
        for number in range(first, first + length):
            done = self.done[self.network.layers[number].target]
            self.done[self.network.layers[number + more * length].target] = [(row, n, at + late) for row, n, at in done]

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
        return groups(rows, self.row_group)

    def _ready(self, name: str | None, first: int, rows: int) -> Number:
        """First cycle in which a command can start that reads these rows."""
        found: Number = 0
        for at, count, done in self.done.get(name, []) if name is not None else ():
            if at < first + rows and first < at + count:
                found = larger(found, done + 1)
        return found

    # Loads, one after the other in the order of the list.

    def _load(self, words: Number, memory: str, layer: int) -> Number:
        self.moves.append(_Move(words, layer))
        self.listed = self.listed + 1
        if self.first is None:
            self.load_free = self.load_free + self._transfer("load", words, LOADS.index(memory))
        else:
            self.begun.append((memory, words))
            self.load_free = self._prologue()
        return 0 if self.leaping else self.load_free

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
            loaded = self._load(self._words(tensor.rows, tensor.columns, 1), "input", self.seen_linear - 1)
            self.done[layer.source] = [(0, tensor.rows, loaded)]

    def _load_constants(self, layer: Linear) -> Number:
        """The layer's table and the addend that is constant or an input; returns when both are there."""
        at: Number = 0
        if layer.table is not None and layer.table.tobytes() not in self.tables:
            self.tables.add(layer.table.tobytes())
            at = self._load(ceil_div(LUT_BYTES, self.word), "lut", self.seen_linear - 1) + 1
        if layer.addend in self.network.constants and layer.addend not in self.done:
            rows, columns = self.network.constants[layer.addend].shape
            at = self._load(self._words(rows, columns, 2), "position", self.seen_linear - 1)
            self.done[layer.addend] = [(0, rows, at)]
        if layer.addend is not None and self.done.get(layer.addend) == []:
            tensor = self.network.tensors[layer.addend]
            at = self._load(self._words(tensor.rows, tensor.columns, 2), "position", self.seen_linear - 1)
            self.done[layer.addend] = [(0, tensor.rows, at)]
        return at

    # Engines.

    def _linear(self, layer: Linear) -> None:
        p, word = self.linear, self.word
        self.seen_linear += 1
        if self.seen_linear > 1:
            self.first = None
        if self.linears - self.seen_linear == FETCH_LEAD:
            self.ahead = larger(self.listed - COMMAND_QUEUE, 0) * COMMAND_BYTES
        self._load_source(layer)
        constants = self._load_constants(layer)
        ib, ob, tiles = self.cut(layer)
        spacing, kw = larger(ib, p["n_l"]), ceil_div(self._columns(layer.source), word)
        before = _Freed(self.tiles, self.words, 0)
        self.tiles, self.words = self.tiles + ob, self.words + ob * ib
        blocks: Any = ceil_div(ob, tiles)
        last_block = ob - (blocks - 1) * tiles
        self.bursts = self.bursts + (blocks - 1) * self._whole_bursts(tiles, ib) + self._whole_bursts(last_block, ib)
        odd: Any = last_block * p["t_out"] * (8 + p["t_in"] * ib) % BURST_BYTES
        even: Any = odd == 0
        self.even = even * 1
        freed = spacing + self.formulas.array_latency + self._last_rows(self._groups(layer.rows)[-1][1])
        cut = _Cut(ib, spacing, tiles, blocks, last_block, self._passes(layer.rows), freed)
        self.busy.append(cut.passes * (ob * spacing))
        self.listed = self.listed + blocks * (len(self._groups(layer.rows)) + 1)
        there = self._arrival()
        if self.seen_linear == self.linears and self.bound.whole:
            there = larger(there, self._all_moved(layer, cut))
        once: Number = 0
        if self.turning:
            rows = min(layer.rows, self.row_group)
            ready = self._ready(layer.source, layer.first_row, rows) + smaller(p["n_l"], rows) * kw
            there, once = self._turned(cut, before, there, larger(self.array, ready))
        once = larger(once, there + 1 + spacing)
        done: list[_Group] = []
        drained = self.formulas.array_latency + self.formulas.drain_latency
        for number, (first, rows) in enumerate(self._groups(layer.rows)):
            t = larger(constants, self._ready(layer.source, layer.first_row + first, rows))
            t = larger(t, self._ready(layer.addend, first, rows))
            last = self._pass(t, rows, kw, ob * spacing + blocks, blocks)
            turned = once + (self._passes(first + rows) - 1) * cut.last * spacing
            end = larger(self.array, turned) - 1 + drained + last
            if (self.seen_linear - 1, number) in self.known:
                end = larger(end, self.known[self.seen_linear - 1, number])
                self.array = larger(self.array, (blocks == 1) * (end + 1 - drained - last))
            done.append((first, rows, end))
        self.done[layer.target] = done
        self.array = larger(self.array, done[-1][2] + 1 - drained - last)
        if self.turning:
            self._give_back(cut)

    def cut(self, layer: Linear) -> tuple[Number, Number, Number]:
        """Weight words of a tile of a layer, its tiles, and the tiles of one command."""
        ib = ceil_div(self._columns(layer.source), self.linear["t_in"])
        ob = ceil_div(self._columns(layer.target), self.linear["t_out"])
        return ib, ob, block_tiles(layer.rows, ib, ob, self.linear, self.row_group)

    def _passes(self, rows: int) -> Number:
        """Times that the array goes over a block of weights for so many rows, cut into commands."""
        n_l = self.linear["n_l"]
        return sum((ceil_div(count, n_l) for _, count in self._groups(rows)), 0 * n_l)

    def _last_rows(self, rows: int) -> Number:
        """Rows of the last pass over a command of so many."""
        n_l = self.linear["n_l"]
        return rows - (ceil_div(rows, n_l) - 1) * n_l

    def _turned(self, cut: "_Cut", before: "_Freed", there: Number, start: Number) -> tuple[Number, Number]:
        """What the rings hold back in a layer that the array cannot begin before a cycle.

        Returns:
            Cycle before which its last weights are not there, and before which the array has not gone once over
            its last block.
        """
        whole, last, spacing = cut.tiles * cut.ib, cut.last * cut.ib, cut.spacing
        begin = self._held_back(before.tile + cut.tiles, before.word + whole, whole)
        begin = larger(begin, self.came + self._flow(whole))
        start = larger(start, self._held_back(before.tile + cut.tiles, before.word + cut.ib, cut.ib) + 1)
        first = larger(start + cut.tiles * spacing, begin + 1 + spacing)
        between = (cut.passes - 2) * cut.tiles * spacing
        again: Any = (cut.passes > 1) * 1
        self.freed.append(before._replace(at=again * (first + between) + (1 - again) * start + cut.freed))
        there = larger(there, self._held_back(self.tiles, self.words, last))
        self.came = there = larger(there, begin + self._flow(self.words - before.word - whole))
        step = larger(2 * cut.tiles * spacing, self._back(cut, cut.tiles) + spacing)
        end = larger((cut.tiles + cut.last) * spacing, self._back(cut, cut.last) + spacing)
        several: Any = (cut.blocks > 1) * 1
        chain = first + several * ((cut.blocks - 1) * between + (cut.blocks - 2) * step + end)
        found: Number = again * chain + (1 - again) * self._once(cut, start)
        return there, found

    def _give_back(self, cut: "_Cut") -> None:
        """Tells when the weights of the layer that has ended give back their room.

        In a last pass that is not the only one all weights are there, so it has no gaps.
        """
        again: Any = (cut.passes > 1) * 1
        begun = again * (self.array - cut.last * cut.spacing + cut.freed)
        first, words = self.freed[-1], cut.last * cut.ib
        if bool(np.max(cut.blocks) > 1):
            self.freed.append(_Freed(self.tiles - cut.last, self.words - words, begun))
        else:
            self.freed[-1] = first._replace(at=larger(first.at, begun))
        self.freed.append(_Freed(self.tiles - 1, self.words - cut.ib, self.array - cut.spacing + cut.freed))

    def _once(self, cut: "_Cut", start: Number) -> Number:
        """Cycle before which the array has not gone over a layer of one pass, where every tile gives back its room."""
        fit = larger(self.linear["ring_words"] // cut.ib, 1)
        tiles, late = (cut.blocks - 1) * cut.tiles + cut.last, (fit + 1) * cut.ib - self.linear["ring_words"]
        found = (tiles - 1) // fit * (late > 0) * (cut.freed + self._brought(late))
        several, more = (cut.blocks > 1) * 1, (cut.blocks > 2) * 1
        inner = self._turn(cut, cut.tiles) + (cut.blocks - 3) * self._turn(cut, cut.tiles, asked=True)
        turns = more * (inner + self._turn(cut, cut.last, asked=True)) + (several - more) * self._turn(cut, cut.last)
        return start + cut.spacing + larger(found, turns + several * (cut.last - 1) * cut.spacing)

    def _turn(self, cut: "_Cut", tiles: Number, *, asked: bool = False) -> Number:
        """Cycles from the first tile of a block of one pass to that of the next, of so many tiles.

        The next block's weights are asked for when enough tables of this one are given back. Its tiles come one
        behind the other, and, if its own weights were asked for like that, no faster than these.
        """
        late: Any = tiles - (self.linear["table_words"] - cut.tiles)
        one_by_one = cut.freed + (late - 1) * cut.spacing + self._brought(cut.ib)
        weights = cut.freed + self._brought(late * cut.ib) if asked else 0
        found: Number = (late > 0) * larger(one_by_one, weights)
        return found

    def _back(self, cut: "_Cut", tiles: Number) -> Number:
        """Cycles from the begin of a block's last pass before which the next, of so many tiles, is not all there."""
        p: Any = self.linear
        late: Any = tiles - (p["table_words"] - cut.tiles)
        found = (late > 0) * (cut.freed + (late - 1) * cut.spacing + self._brought(tiles * cut.ib))
        words: Any = (tiles + cut.tiles) * cut.ib - p["ring_words"]
        return larger(found, (words > 0) * (cut.freed + self._brought(words)))

    def _held_back(self, tiles: Number, words: Number, own: Number) -> Number:
        """Cycle before which weights are not there, up to so many tiles and words of all; 0 if they may be all along.

        Nothing comes that lies further behind a tile that is not done with than the ring is long; and the weights of
        a fetch, as many words as are its own, are asked for behind all of its table.
        """
        p: Any = self.linear
        found: Number = 0
        asked: Number = 0
        for tile, word, at in self.freed[-_LAYERS:]:
            late: Any = words - p["ring_words"] - word
            found = larger(found, (late > 0) * (at + self._brought(late)))
            asked = larger(asked, (tiles - p["table_words"] > tile) * at)
        return larger(found, (asked > 0) * (asked + self._brought(own)))

    def _brought(self, words: Any) -> Number:
        """Cycles from when there is room before which so many weight words are not all there."""
        return self.latency + self._moved(words * self.linear["t_in"] * self.linear["t_out"], 0)

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
        its place was there and used. Early loads are asked for before.
        """
        p = self.linear
        if self.leaping:
            return 0 * p["t_out"]
        turns = larger((self.words - 1) // p["ring_words"], (self.tiles - 1) // p["table_words"])
        size, bursts = self._fetched(), self.bursts
        for words, behind in self.early if self.bound.whole else ():
            late: Any = (self._fetched() > behind) * words * self.word
            size, bursts = size + late, bursts + late // BURST_BYTES
        moved = self._moved(size, bursts, self.even)
        return self.begin + 1 + self.latency + larger(moved, turns * self.latency)

    def _all_moved(self, layer: Linear, cut: _Cut) -> Number:
        """Cycle before which the weights of the last linear layer are not all there, for all else that is moved.

        Either a load is granted before them, or the layers that wait for it come after them; of both the sooner.
        """
        rest = self.network.layers[self.network.layers.index(layer) + 1 :]
        if any(isinstance(each, Attention) for each in rest):
            return 0
        drained = self.formulas.array_latency + self.formulas.drain_latency
        behind: Number = 2 + cut.spacing + drained + (cut.passes - 1) * cut.last * cut.spacing
        behind = behind + self._last_rows(self._groups(layer.rows)[-1][1])
        for norm in rest:
            if isinstance(norm, Norm):
                behind = behind + sum(self._vector(rows, norm.d) + 1 for _, rows in self._groups(norm.rows))
        for output in self.network.outputs:
            behind = behind + self._stored(output.source)
        most = BURST_BYTES // self.word
        size, bursts = self._fetched() + self.ahead, self.bursts + self.ahead // BURST_BYTES
        found: Number = _FREE << 8
        chains = [sum(self.busy[first:], 0 * cut.spacing) for first in range(len(self.busy))]
        for move in self.moves:
            late = larger(chains[move.layer] - behind, 0) if move.layer < len(chains) else 0
            found = smaller(found, self._moved(size, bursts, self.even) + late)
            size, bursts = size + move.words * self.word, bursts + move.words // most
        return self.begin + 1 + self.latency + smaller(found, self._moved(size, bursts, self.even))

    @cached_property
    def early(self) -> list[tuple[Number, Number]]:
        """Loads that are sure to be asked for before any weights that lie so many bytes behind the first.

        A load that is the first command begins with the first fetch and goes first, as all loads do. Those behind it
        follow one after the other, if no queue before them is full. They are counted as far as that is sure.

        Returns:
            Bus words and bytes of each.
        """
        found, there = list[tuple[Number, Number]](), set[str]()
        service = larger(self.pace, BURST_BYTES // self.word)
        turn = self.latency + _SLACK + self.outstanding * service
        accepted: Any = self.begin
        linear: Number = 0 * self.linear["t_out"]
        vector = 0
        uses = listed = linear
        for layer in self.network.layers[:_EARLY]:
            commands = len(self._groups(layer.rows))
            if commands > ENGINE_QUEUE or (isinstance(layer, Linear) and layer.table is not None):
                break
            for words in self._loads_of(layer, there):
                accepted = larger(accepted, self.begin + (listed > 0) * (1 + listed // COMMAND_QUEUE) * turn)
                asked = (accepted - self.begin) * self.numerator // self.denominator
                asked = asked + (self.outstanding + 4) * BURST_BYTES
                full: Any = larger(larger(linear, uses + FETCH_LEAD + 1) - 1, vector) > ENGINE_QUEUE
                found.append(((1 - full) * words, (listed > 0) * asked))
                accepted = accepted + turn + words * self.word // BURST_BYTES * service + words
                listed = listed + 1
            blocks = ceil_div(*self.cut(layer)[1:]) if isinstance(layer, Linear) else 0
            linear, uses = linear + commands * blocks, uses + blocks
            listed = listed + commands * larger(blocks, 1) + blocks
            vector += commands * isinstance(layer, Norm)
        return found

    def _loads_of(self, layer: Layer, there: set[str]) -> Iterator[Number]:
        """Bus words of the loads that stand before a layer, but for a table; adds to what is there."""
        if isinstance(layer, Norm):
            yield self._affine(layer.d)
        elif isinstance(layer, Linear):
            for name, wide in ((layer.source, 1), (layer.addend, 2)):
                if name is not None and name in self.bound.given and name not in there:
                    there.add(name)
                    rows, columns = self.bound.given[name]
                    yield self._words(rows, columns, wide)

    def _fetched(self) -> Number:
        """Bytes of all tables and weights up to now."""
        p = self.linear
        found: Number = 8 * p["t_out"] * self.tiles + p["t_in"] * p["t_out"] * self.words
        return found

    def _flow(self, words: Any) -> Number:
        """Cycles in which so many weight words come at least, behind others."""
        size = words * self.linear["t_in"] * self.linear["t_out"]
        return larger(self._granted(size), larger(size - BURST_BYTES, 0) // self.word)

    def _granted(self, size: Any) -> Number:
        """Cycles from the first grant on before which so many bytes are not granted; the bucket holds a burst."""
        rest = larger(size - BURST_BYTES, 0)
        return -(-rest * self.denominator // self.numerator)

    def _moved(self, size: Any, bursts: Number, even: Number = 0) -> Number:
        """Cycles behind a request, less the latency, before which so many bytes do not come, whole bursts among them.

        The bucket holds a burst and is empty behind one, so whole bursts are whole cycles apart. A burst goes over
        one port and then, as all does, over one bus, a word per cycle.

        Args:
            size: how many bytes.
            bursts: how many bursts of full length there are at least.
            even: 1 where the last is one.
        """
        granted = larger(self._granted(size), self.pace * larger(bursts - 1, 0))
        last = 1 + even * (BURST_BYTES // self.word - 1)
        through = granted + last * (self.ports + 1)
        return _REQUEST + 1 + larger(through, size // self.word + self.ports)

    def _whole_bursts(self, tiles: Number, ib: Number) -> Number:
        """Bursts of full length of a block's fetch, tables and weights one behind the other from a page on."""
        p = self.linear
        table, weights = 8 * p["t_out"] * tiles, p["t_in"] * p["t_out"] * ib * tiles
        rest: Any = larger(weights - -table % BURST_BYTES, 0)
        found: Number = table // BURST_BYTES + rest // BURST_BYTES
        return found

    def _attention(self, layer: Attention) -> None:
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(self.free["attention"], self._ready(layer.query, first, rows))
            for name in (layer.key, layer.value):
                t = larger(t, self._ready(name, 0, layer.keys))
            end = t + self._attention_time(layer, first, rows)
            self.free["attention"] = end + 1
            done.append((first, rows, end))
        self.listed = self.listed + len(done)
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
        loaded = self._load(self._affine(layer.d), "affine", self.bound.readers[layer.target]) + 1
        done: list[_Group] = []
        for first, rows in self._groups(layer.rows):
            t = larger(larger(self.free["vector"], loaded), self._ready(layer.source, layer.first_row + first, rows))
            end = t + self._vector(rows, layer.d)
            self.free["vector"] = end + 1
            done.append((first, rows, end))
        self.listed = self.listed + len(done)
        self.done[layer.target] = done

    def _vector(self, rows: int, d: int) -> Number:
        return self.boxed.vector(rows, d) if self.boxed else self.formulas.vector({"rows": rows, "d": d})

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
