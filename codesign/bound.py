"""A lower bound of the cycles of every program of a network, for one design or arrays of them.

Every layer's rows are followed group by group through the engines, each as fast as its own formula
allows, behind the rows that it reads and the weights that the memory brings and the rings have room for.
What only adds cycles is left out: tokens on the way back, queues, and most of what else the memory moves.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from codesign.board import Board
from codesign.command import COMMAND_BYTES
from codesign.interface import Interfaces, Rates
from codesign.kernel import Number, Params, ceil_div, larger, smaller
from codesign.layout import AFFINE_BYTES, head_columns, padded
from codesign.loads import Load, Loads, first_fetch
from codesign.machine import BURST_BYTES
from codesign.network import MASKS, Attention, Layer, Linear, Network, Norm
from codesign.passes import Array, Passes, Rows
from codesign.program import FETCH_LEAD, block_tiles
from codesign.repeats import Repeat, readers, repeats
from codesign.rings import LATEST, Cut, Rings
from codesign.rowgroups import Done, Group, RowGroups, among, over
from codesign.rules import COMMAND_QUEUE, ENGINE_QUEUE
from codesign.systolic import Formulas

_NEVER = 1 << 28
"""More cycles than anything may be late."""
_EARLY, _SLACK = 6, 128
"""Layers whose loads may be early, and cycles that a load takes at most beside what is counted."""


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
        self.interfaces = Interfaces(network, variants or (board,))
        self.whole = len(network.layers) > 1
        self.readers, self.repeat = readers(network), repeats(network)
        self._kept: dict[tuple[int, ...], list[Number]] = {}

    def __call__(
        self,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: Number,
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
            row_group: most rows per command: an integer, or an array that ascends, and then every other array has as
                many values.
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

    def cuts(self, linear: Params, t_a: Number, word: Number, row_group: Number) -> list[Number]:
        """Tiles per command of the linear layers, one of each shape.

        Args:
            linear: parameters of the linear engine.
            t_a: of the attention engine.
            word: bytes of a bus word.
            row_group: most rows per command.
        """
        tiles = self._tiles(linear, t_a, word)
        cut = zip(self.kinds, tiles[::2], tiles[1::2], strict=True)
        return [block_tiles(shape.rows, ib, ob, linear, row_group) for shape, ib, ob in cut]

    def lengths(self, linear: Params, t_a: Number, t_v: Number, word: Number) -> list[Number]:
        """All else that attention and vector engine decide of fetches and loads: columns, and words of norms."""
        return self._tiles(linear, t_a, word) + [affine_words(d, t_v, word) for d in self.widths]

    def _tiles(self, linear: Params, t_a: Number, word: Number) -> list[Number]:
        """Weight words of a tile and tiles of every kind; those of single designs are kept."""
        given = linear["t_in"], linear["t_out"], t_a, word
        if any(isinstance(each, np.ndarray) for each in given):
            return [size for shape in self.kinds for size in shape.tiles(linear, t_a, word)]
        key = tuple(map(int, given))
        if key not in self._kept:
            self._kept[key] = [size for shape in self.kinds for size in shape.tiles(linear, t_a, word)]
        return self._kept[key]

    def window(self, linear: Params, t_a: Number, word: Number) -> Number:
        """Words of the table ring, more of which hold nothing back; the arguments are as in `cuts`."""
        tiles, found = [shape.tiles(linear, t_a, word)[1] for shape in self.shapes], 0 * linear["t_out"]
        for last in range(len(tiles)):
            found = larger(found, sum(tiles[max(0, last - LATEST // 2) : last + 1]))
        return found


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

    def attention(self, layer: Attention, first: Number, rows: Number) -> Number:
        """Cycles of a command of some query rows, for as many of the first sets as these are said of."""

    def vector(self, rows: Number, d: int) -> Number:
        """Cycles of a command, likewise."""

    def affine(self, d: int) -> Number:
        """Bus words of a norm's gains and biases."""


class _Carried(NamedTuple):
    """What a layer depends on: cycles, and what is counted; loads and linear layers up to then."""

    cycles: list[Number]
    counts: tuple[Number, Number, Number, Number]
    moves: int
    linears: int


class _Schedule:
    """The run of one call: when each engine is free, and when each row of each tensor is done."""

    def __init__(
        self,
        bound: Bound,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: Number,
        variant: Number,
        known: Mapping[tuple[int, int], Number],
        boxed: Boxed | None,
        leaping: bool,
    ) -> None:
        self.bound, self.engines, self.formulas, self.row_group = bound, engines, formulas, row_group
        self.network, self.linear, self.known, self.boxed = bound.network, engines["linear"], known, boxed
        self.rates = Rates(bound.interfaces, variant)
        self.word = self.rates.word
        self.padded = self._padded()
        self.loads = Loads(self.network, bound.interfaces, variant, self.linear, self._first_fetch())
        self.rings, self.array = Rings(self.rates, self.linear), Array(self.linear["n_l"])
        self.free: dict[str, Number] = {"attention": 0, "vector": 0}
        self.listed: Number = 0
        self.ahead: Number = 0
        self.busy: list[Number] = []
        self.done: dict[str, Done] = {}
        self.there: set[object] = set()
        self.groups: dict[int, RowGroups] = {}
        self.passes: dict[int, list[Passes]] = {}
        self.times: dict[tuple[object, ...], Number] = {}
        self.linears = sum(isinstance(layer, Linear) for layer in self.network)
        self.seen_linear = 0
        self.repeat = bound.repeat if leaping else Repeat(0, 0, 1)
        self.leaping = False

    def total(self) -> Number:
        """Cycles to the interrupt."""
        layers, (first, length, times) = self.network.layers, self.repeat
        for layer in layers[:first]:
            self._layer(layer)
        if length:
            before = self._carried(first)
            self.leaping, self.rings.came = True, 0
            for layer in layers[first : first + length]:
                self._layer(layer)
            self._leap(before)
            self.leaping = False
        for layer in layers[first + length * times :]:
            self._layer(layer)
        end: Number = 0
        for output in self.network.outputs:
            ready = self.done[output.source].all + 1
            end = larger(end, ready + self._stored(output.source) if self.bound.whole else ready)
        return end + 1

    def _layer(self, layer: Layer) -> None:
        if isinstance(layer, Linear):
            self._linear(layer)
        elif isinstance(layer, Attention):
            self._attention(layer)
        elif isinstance(layer, Norm):
            self._norm(layer)

    def _carried(self, behind: int) -> _Carried:
        """What the layers from a number on depend on, but for loads and for what the memory brings at any rate."""
        made, rings = self.network.layers[max(0, behind - self.repeat.length) : behind], self.rings
        cycles = [self.array.free, self.array.loader, *self.array.ends]
        for kind, engine in ((Attention, "attention"), (Norm, "vector")):
            cycles += [self.free[engine]] * any(isinstance(layer, kind) for layer in made)
        cycles += [at for layer in made for at in self.done[layer.target].ends]
        cycles += [each.at for each in reversed(rings.freed[-LATEST:])]
        counts = rings.tiles, rings.words, rings.bursts, self.listed
        return _Carried(cycles, counts, len(self.loads.moves), len(self.busy))

    def _leap(self, before: _Carried) -> None:
        """Leaves out repeats of the layers that ended now, which were followed without loads and arrivals.

        They do the same again as much later as all that they depend on is; so each repeat puts everything off by at
        least the least by which this time did.
        """
        first, length, times = self.repeat
        now, more = self._carried(first + length), times - 1
        least: Number = _NEVER
        for then, cycle in zip(before.cycles, now.cycles, strict=False):  # tiles given back may be fewer before
            least = over(least, smaller(among(least, cycle), cycle - then))
        late = more * larger(least, 0)
        self.array.put_off(late)
        self.free = {engine: at + late * bool(np.any(at)) for engine, at in self.free.items()}
        tiles, words, bursts, listed = (more * (at - then) for then, at in zip(before.counts, now.counts, strict=True))
        self.rings.put_off(late, tiles, words, bursts)
        self.listed, linears = self.listed + listed, self.busy[before.linears :]
        self.loads.repeat(self.loads.moves[before.moves :], times, len(linears))
        self.busy += more * linears
        self.seen_linear += more * len(linears)
        for number in range(first, first + length):
            done = self.done[self.network.layers[number].target]
            ends = [at + among(late, at) for at in done.ends]
            self.done[self.network.layers[number + more * length].target] = Done(done.groups, ends)

    def _stored(self, name: str) -> Number:
        """Cycles of the store of an output."""
        tensor = self.network.tensors[name]
        return self.loads.transfer("store", self.loads.words(tensor.rows, tensor.columns, tensor.bits // 8))

    def _first_fetch(self) -> tuple[Number, ...] | None:
        layer = next(each for each in self.network if isinstance(each, Linear))
        return first_fetch(self.linear, self._tiles(layer), self.word, self.bound.rings) if self.bound.whole else None

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

    def _groups(self, rows: int) -> RowGroups:
        if rows not in self.groups:
            self.groups[rows] = RowGroups(rows, self.row_group)
        return self.groups[rows]

    def _passes(self, rows: int) -> list[Passes]:
        """Those over every group of so many rows."""
        if rows not in self.passes:
            self.passes[rows] = [Passes(group.rows, self.linear["n_l"]) for group in self._groups(rows).list]
        return self.passes[rows]

    def _last_passes(self, rows: int) -> Passes:
        """Those over the last group of every design."""
        return Passes(self._groups(rows).last, self.linear["n_l"])

    def _ready(self, name: str | None, group: Group, first_row: int = 0) -> Number:
        """First cycle in which the command of a group can start that reads such rows of a tensor."""
        return self.done[name].of(group, first_row) + 1 if name in self.done else 0

    def _load(self, load: Load, layer: int) -> Number:
        """Loads before a linear layer; returns when that is done."""
        self.listed = self.listed + 1
        done = self.loads.add(load, layer)
        return 0 if self.leaping else done

    # Engines.

    def _linear(self, layer: Linear) -> None:
        self.seen_linear += 1
        if self.seen_linear > 1:
            self.loads.behind_first()
        if self.linears - self.seen_linear == FETCH_LEAD:
            self.ahead = larger(self.listed - COMMAND_QUEUE, 0) * COMMAND_BYTES
        constants: Number = 0
        for load in self.loads.before(layer, self.there):
            at = self._load(load, self.seen_linear - 1)
            if load.tensor is not None:
                self.done[load.tensor] = Done(None, [at])
            constants = at + (load.memory == "lut") if load.memory != "input" else constants
        cut, rings, kw = self._cut(layer), self.rings, ceil_div(self._columns(layer.source), self.word)
        before = rings.take(cut)
        self.busy.append(cut.passes * (cut.all * cut.spacing))
        self.listed = self.listed + cut.blocks * (self._groups(layer.rows).count + 1)
        there = 0 * kw if self.leaping else rings.arrival(self.early if self.bound.whole else ())
        if self.seen_linear == self.linears and self.bound.whole:
            there = larger(there, self._all_moved(layer, cut))
        once: Number = 0
        if turning := self.bound.whole and rings.known:
            group, passes = self._groups(layer.rows).list[0], self._passes(layer.rows)[0]
            ready = self._ready(layer.source, group, layer.first_row) + passes.full * kw
            there, once = rings.turned(cut, before, there, larger(self.array.free, ready))
        once = larger(once, there + 1 + cut.spacing)
        period, turn = cut.all * cut.spacing + cut.blocks, (cut.last if rings.known else 1) * cut.spacing
        self._rows(layer, Rows(constants, kw, period, cut.blocks, once, turn))
        if turning:
            rings.give_back(cut, self.array.free)

    def _rows(self, layer: Linear, work: Rows) -> None:
        """Runs all groups of rows of a layer."""
        groups, drained = self._groups(layer.rows), self.formulas.array_latency + self.formulas.drain_latency
        self.done[layer.target] = done = Done(groups)
        rows_left: Number = 0
        turns: Number = 0
        for group, passes in zip(groups.list, self._passes(layer.rows), strict=True):
            mine, behind = work.among(group.rows), among(drained, group.rows) + passes.last
            t = larger(mine.constants, self._ready(layer.source, group, layer.first_row))
            array = self.array.run(larger(t, self._ready(layer.addend, group)), group.rows, passes, mine)
            turns = among(turns, group.rows) + passes.count
            end = larger(array, mine.once + (turns - 1) * mine.turn) - 1 + behind
            known = self.known.get((self.seen_linear - 1, group.number))
            if known is not None:
                end = larger(end, among(known, end))
                self.array.busy((mine.blocks == 1) * (end + 1 - behind))
            done.add(end)
            rows_left = over(rows_left, behind)
        self.array.busy(done.all + 1 - rows_left)

    def _tiles(self, layer: Linear) -> tuple[Number, Number]:
        """Weight words of a tile of a layer, and its tiles."""
        source, target = self._columns(layer.source), self._columns(layer.target)
        return ceil_div(source, self.linear["t_in"]), ceil_div(target, self.linear["t_out"])

    def _cut(self, layer: Linear) -> Cut:
        p, groups, (ib, ob) = self.linear, self._groups(layer.rows), self._tiles(layer)
        last = self._last_passes(layer.rows)
        tiles, spacing = block_tiles(layer.rows, ib, ob, p, self.row_group), larger(ib, p["n_l"])
        blocks: Any = ceil_div(ob, tiles)
        passes = (groups.count - 1) * self._passes(layer.rows)[0].count + last.count
        freed = spacing + self.formulas.array_latency + last.last
        return Cut(ib, spacing, ob, tiles, blocks, ob - (blocks - 1) * tiles, passes, freed)

    def _all_moved(self, layer: Linear, cut: Cut) -> Number:
        """Cycle before which the weights of the last linear layer are not all there, for all else that is moved.

        Either a load is granted before them, or the layers that wait for it come after them; of both the sooner.
        """
        rest = self.network.layers[self.network.layers.index(layer) + 1 :]
        if any(isinstance(each, Attention) for each in rest):
            return 0
        drained = self.formulas.array_latency + self.formulas.drain_latency
        behind: Number = 2 + cut.spacing + drained + (cut.passes - 1) * cut.last * cut.spacing
        behind = behind + self._last_passes(layer.rows).last
        for norm in rest:
            if isinstance(norm, Norm):
                for group in self._groups(norm.rows).list:
                    taken = among(behind, group.rows) + self._vector(norm, group) + 1
                    behind = over(behind, taken)
        for output in self.network.outputs:
            behind = behind + self._stored(output.source)
        most = BURST_BYTES // self.word
        rings, rates = self.rings, self.rates
        size, bursts = rings.fetched() + self.ahead, rings.bursts + self.ahead // BURST_BYTES
        found: Number = _NEVER
        chains = [sum(self.busy[first:], 0 * cut.spacing) for first in range(len(self.busy))]
        for move in self.loads.moves:
            late = larger(chains[move.layer] - behind, 0) if move.layer < len(chains) else 0
            found = smaller(found, rates.moved(size, bursts, rings.even) + late)
            size, bursts = size + move.words * self.word, bursts + move.words // most
        return rates.begin + 1 + rates.latency + smaller(found, rates.moved(size, bursts, rings.even))

    @cached_property
    def early(self) -> list[tuple[Number, Number]]:
        """Loads that are sure to be asked for before any weights that lie so many bytes behind the first.

        A load that is the first command begins with the first fetch and goes first, as all loads do. Those behind it
        follow one after the other, if no queue before them is full. They are counted as far as that is sure.

        Returns:
            Bus words and bytes of each.
        """
        found, there, rates = list[tuple[Number, Number]](), set[object](), self.rates
        service = larger(rates.pace, BURST_BYTES // self.word)
        turn = rates.latency + _SLACK + rates.outstanding * service
        accepted: Any = rates.begin
        linear: Number = 0 * self.linear["t_out"]
        vector = uses = listed = linear
        sure: Any = 1
        for layer in self.network.layers[:_EARLY]:
            commands: Any = self._groups(layer.rows).count
            sure = sure * (commands <= ENGINE_QUEUE)
            if isinstance(layer, Linear) and layer.table is not None:
                break
            affine = [self._affine(layer.d)] if isinstance(layer, Norm) else []
            for words in (*affine, *(load.words for load in self.loads.before(layer, there))):
                accepted = larger(accepted, rates.begin + (listed > 0) * (1 + listed // COMMAND_QUEUE) * turn)
                asked = rates.credit(accepted - rates.begin) + (rates.outstanding + 4) * BURST_BYTES
                full: Any = larger(larger(linear, uses + FETCH_LEAD + 1) - 1, vector) > ENGINE_QUEUE
                found.append((sure * (1 - full) * words, (listed > 0) * asked))
                accepted = accepted + turn + words * self.word // BURST_BYTES * service + words
                listed = listed + 1
            if isinstance(layer, Linear) and not self.rings.known:
                break
            blocks = self._cut(layer).blocks if isinstance(layer, Linear) else 0
            linear, uses = linear + commands * blocks, uses + blocks
            listed = listed + commands * larger(blocks, 1) + blocks
            vector = vector + commands * int(isinstance(layer, Norm))
        return found

    def _attention(self, layer: Attention) -> None:
        groups = self._groups(layer.rows)
        self.done[layer.target] = done = Done(groups)
        there = larger(*(self.done[name].upto(layer.keys - 1) for name in (layer.key, layer.value))) + 1
        for group in groups.list:
            t = larger(among(self.free["attention"], group.rows), self._ready(layer.query, group))
            end = larger(t, among(there, group.rows)) + self._attention_time(layer, group)
            self.free["attention"] = over(self.free["attention"], end + 1)
            done.add(end)
        self.listed = self.listed + groups.count

    def _attention_time(self, layer: Attention, group: Group) -> Number:
        key = layer.rows, layer.keys, layer.heads, layer.head_dim, layer.mask, layer.window, group.number
        if key not in self.times:
            if self.boxed:
                self.times[key] = self.boxed.attention(layer, group.first, group.rows)
            else:
                heads, wide = self._columns(layer.query) // self._head(layer), self._head(layer)
                work = attention_work(layer, *self._whole(group), heads, wide)
                self.times[key] = among(self.formulas.attention(work), group.rows)
        return self.times[key]

    def _whole(self, group: Group) -> tuple[Number, Number]:
        """First row and rows of a group; something legal for designs without it."""
        return over(0 * self.row_group, group.first), over(self.row_group, group.rows)

    def _head(self, layer: Attention) -> Number:
        t_a = self.engines["attention"]["t_a"]
        return padded(layer.head_dim, t_a)

    def _norm(self, layer: Norm) -> None:
        loaded = self._load(Load("affine", self._affine(layer.d)), self.bound.readers[layer.target]) + 1
        groups = self._groups(layer.rows)
        self.done[layer.target] = done = Done(groups)
        for group in groups.list:
            t = larger(among(self.free["vector"], group.rows), among(loaded, group.rows))
            end = larger(t, self._ready(layer.source, group, layer.first_row)) + self._vector(layer, group)
            self.free["vector"] = over(self.free["vector"], end + 1)
            done.add(end)
        self.listed = self.listed + groups.count

    def _vector(self, norm: Norm, group: Group) -> Number:
        key = norm.rows, norm.d, group.number
        if key not in self.times:
            if self.boxed:
                self.times[key] = self.boxed.vector(group.rows, norm.d)
            else:
                found = self.formulas.vector({"rows": self._whole(group)[1], "d": norm.d})
                self.times[key] = among(found, group.rows)
        return self.times[key]

    def _affine(self, d: int) -> Number:
        """Bus words of gains and biases."""
        return self.boxed.affine(d) if self.boxed else affine_words(d, self.engines["vector"]["t_v"], self.word)


def affine_words(d: int, t_v: Number, word: Number) -> Number:
    """Bus words of a norm's gains and biases as they lie on chip."""
    return padded(d * AFFINE_BYTES, larger(word, AFFINE_BYTES * t_v)) // word


def attention_work(layer: Attention, first: Number, rows: Number, heads: Number, wide: Number) -> dict[str, Number]:
    """The kernel's work of some query rows, of heads padded to so many and to so many columns."""
    return {
        "rows": rows, "keys": layer.keys, "heads": heads, "head_dim": wide,
        "mask": MASKS.index(layer.mask), "window": layer.window, "query_offset": first,
    }  # fmt: skip
