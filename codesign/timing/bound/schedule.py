"""Lower bound of the cycles of any program of a network, for one design or arrays of designs.

Every layer's row groups are scheduled on the engines, each as fast as its own formula allows, after the rows that
it reads and the weights that the memory delivers and the rings have room for.
What only adds cycles is left out: tokens on the way back, queues, and most other traffic of the memory.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from codesign.compiler.program import FETCH_LEAD, block_tiles
from codesign.ir.network import Layer, Linear, Network
from codesign.target.board import Board
from codesign.target.engines import COMMAND_BYTES, LUT, RING
from codesign.target.kernel import Number, Params, ceil_div, maximum, minimum
from codesign.timing.bound.array_passes import Array, Passes, Rows
from codesign.timing.bound.constant_loads import Load, Loads, first_fetch
from codesign.timing.bound.layer_shapes import LayerShapes, Padding, constant_words, engine_for, kernel_of_layer
from codesign.timing.bound.memory import Interfaces, Rates
from codesign.timing.bound.repeats import Repeat, readers, repeats
from codesign.timing.bound.row_groups import Done, Group, RowGroups, replace_leading, take_leading
from codesign.timing.bound.weight_ring import LATEST, Cut, Rings
from codesign.timing.event_kernel import COMMAND_QUEUE, ENGINE_QUEUE
from codesign.timing.formulas import Formulas
from codesign.timing.simulate import BURST_BYTES

_NEVER = 1 << 28
"""More cycles than any possible delay."""
_EARLY, _SLACK = 6, 128
"""Leading layers whose loads may count as early, and most cycles of a load beside those counted."""


class Bound:
    """Lower bounds for one network on one board, or on variants of its memory; see the module.

    Args:
        network: the layers.
        board: the board with its memory.
        rings: fewest words of the weight ring and of the table ring of any design evaluated.
        variants: the board with other memories, by index; the board alone if none are given.
    """

    def __init__(
        self, network: Network, board: Board, rings: tuple[int, int] = (1, 1), variants: Sequence[Board] = ()
    ) -> None:
        self.network, self.board, self.rings = network, board, rings
        self.interfaces = Interfaces(network, variants or (board,))
        self.whole = len(network.layers) > 1
        self.readers, self.repeat = readers(network), repeats(network)
        self.shapes = LayerShapes(network)

    def __call__(
        self,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: Number,
        variant: Number = 0,
        *,
        begun: Mapping[tuple[int, int], Number] | None = None,
        boxed: "EngineMinima | None" = None,
        leaping: bool = False,
    ) -> Number:
        """Lower bound of the cycles of `codesign.timing.cycles.exact` for any program of the network.

        Args:
            engines: parameters by engine, integers or arrays that broadcast against each other.
            formulas: duration formulas for these parameters.
            row_group: most rows per command: an integer, or an ascending array; every other array then has its length.
            variant: index of the memory, an integer or an array.
            begun: known done cycles of the first row groups, by index of linear layer and of group; 0 where unknown.
            boxed: least costs over many designs of the other engines, instead of their formulas.
            leaping: whether to skip repeats of layers, which takes half the time for a slightly lower bound.
        """
        return _Schedule(self, engines, formulas, row_group, variant, begun or {}, boxed, leaping).total()


class EngineMinima(Protocol):
    """Least costs over sets of the engines other than the linear one; every method is per layer."""

    def columns(self, layer: Layer) -> Number:
        """Fewest columns of a row of the layer's matrices."""

    def time(self, layer: Layer, first: Number, rows: Number) -> Number:
        """Fewest cycles of a command of some rows, for the leading sets in these arrays."""

    def words(self, layer: Layer) -> list[Number]:
        """Fewest bus words of each of the layer's constants."""


class _Carried(NamedTuple):
    """State that later layers depend on: cycles, counters, and the loads and linear layers so far."""

    cycles: list[Number]
    counts: tuple[Number, Number, Number, Number]
    moves: int
    linears: int


class _Schedule:
    """The schedule of one call: when each engine is free, and when each row of each tensor is done."""

    def __init__(
        self,
        bound: Bound,
        engines: Mapping[str, Params],
        formulas: Formulas,
        row_group: Number,
        variant: Number,
        known: Mapping[tuple[int, int], Number],
        boxed: EngineMinima | None,
        leaping: bool,
    ) -> None:
        self.bound, self.engines, self.formulas, self.row_group = bound, engines, formulas, row_group
        self.network, self.linear, self.known, self.boxed = bound.network, engines[RING], known, boxed
        self.rates = Rates(bound.interfaces, variant)
        self.word = self.rates.word
        self.padded = self._padded()
        self.loads = Loads(self.network, bound.interfaces, variant, self.linear, self._first_fetch())
        self.rings, self.array = Rings(self.rates, self.linear), Array(self.linear["n_l"])
        self.free: dict[str, Number] = defaultdict(int)
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
        """Fewest cycles to the interrupt."""
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
            end = maximum(end, ready + self._stored(output.source) if self.bound.whole else ready)
        return end + 1

    def _layer(self, layer: Layer) -> None:
        if isinstance(layer, Linear):
            self._linear(layer)
        else:
            self._commands(layer)

    def _carried(self, behind: int) -> _Carried:
        """State that the layers from index ``behind`` on depend on, without loads and the memory's own rate."""
        made, rings = self.network.layers[max(0, behind - self.repeat.length) : behind], self.rings
        cycles = [self.array.free, self.array.loader, *self.array.ends]
        cycles += [self.free[engine] for engine in sorted({*map(engine_for, made)} - {RING})]
        cycles += [at for layer in made for at in self.done[layer.target].ends]
        cycles += [each.at for each in reversed(rings.freed[-LATEST:])]
        counts = rings.tiles, rings.words, rings.bursts, self.listed
        return _Carried(cycles, counts, len(self.loads.moves), len(self.busy))

    def _leap(self, before: _Carried) -> None:
        """Skips the repeats of the layers just scheduled, which ran without loads and arrivals.

        A repeat depends only on the carried state, so it is later than the one before by at least the smallest delay
        of a carried cycle between ``before`` and now. That delay is applied once per skipped repeat.
        """
        first, length, times = self.repeat
        now, more = self._carried(first + length), times - 1
        least: Number = _NEVER
        for then, cycle in zip(before.cycles, now.cycles, strict=False):  # fewer tiles may be freed before
            least = replace_leading(least, minimum(take_leading(least, cycle), cycle - then))
        late = more * maximum(least, 0)
        self.array.put_off(late)
        self.free |= {engine: at + late * bool(np.any(at)) for engine, at in self.free.items()}
        tiles, words, bursts, listed = (more * (at - then) for then, at in zip(before.counts, now.counts, strict=True))
        self.rings.put_off(late, tiles, words, bursts)
        self.listed, linears = self.listed + listed, self.busy[before.linears :]
        self.loads.repeat(self.loads.moves[before.moves :], times, len(linears))
        self.busy += more * linears
        self.seen_linear += more * len(linears)
        for number in range(first, first + length):
            done = self.done[self.network.layers[number].target]
            ends = [at + take_leading(late, at) for at in done.ends]
            self.done[self.network.layers[number + more * length].target] = Done(done.groups, ends)

    def _stored(self, name: str) -> Number:
        """Cycles of an output's store."""
        tensor = self.network.tensors[name]
        return self.loads.transfer("store", self.loads.words(tensor.rows, tensor.columns, tensor.bits // 8))

    def _first_fetch(self) -> tuple[Number, ...] | None:
        layer = next(each for each in self.network if isinstance(each, Linear))
        return first_fetch(self.linear, self._tiles(layer), self.word, self.bound.rings) if self.bound.whole else None

    def _padded(self) -> dict[str, Number]:
        """Columns of the padded matrices, by tensor."""
        unit, found, known = maximum(self.linear["t_out"], self.word), dict[str, Number](), dict[int, Number]()
        for name, layer in self.bound.shapes.padders.items():
            if id(layer) not in known:
                plain = Padding(layer)
                known[id(layer)] = self.boxed.columns(layer) if self.boxed else plain.columns(self.engines, unit).total
            found[name] = known[id(layer)]
        return found

    def _columns(self, name: str) -> Number:
        return self.padded.get(name, self.network.tensors[name].columns)

    def _groups(self, rows: int) -> RowGroups:
        if rows not in self.groups:
            self.groups[rows] = RowGroups(rows, self.row_group)
        return self.groups[rows]

    def _passes(self, rows: int) -> list[Passes]:
        """Passes over every row group of ``rows`` rows."""
        if rows not in self.passes:
            self.passes[rows] = [Passes(group.rows, self.linear["n_l"]) for group in self._groups(rows).list]
        return self.passes[rows]

    def _last_passes(self, rows: int) -> Passes:
        """Passes over the last row group of every design."""
        return Passes(self._groups(rows).last, self.linear["n_l"])

    def _ready(self, name: str | None, group: Group, first_row: int = 0) -> Number:
        """First cycle in which a group's command can start that reads these rows of a tensor."""
        return self.done[name].of(group, first_row) + 1 if name in self.done else 0

    def _load(self, load: Load, layer: int) -> Number:
        """Issues a load before a linear layer; returns its done cycle."""
        self.listed = self.listed + 1
        done = self.loads.add(load, layer)
        return 0 if self.leaping else done

    # Engines.

    def _linear(self, layer: Linear) -> None:
        self.seen_linear += 1
        if self.seen_linear > 1:
            self.loads.behind_first()
        if self.linears - self.seen_linear == FETCH_LEAD:
            self.ahead = maximum(self.listed - COMMAND_QUEUE, 0) * COMMAND_BYTES
        constants: Number = 0
        for load in self.loads.before(layer, self.there):
            at = self._load(load, self.seen_linear - 1)
            if load.tensor is not None:
                self.done[load.tensor] = Done(None, [at])
            constants = at + (load.memory == LUT) if load.memory != "input" else constants
        cut, rings, kw = self._cut(layer), self.rings, ceil_div(self._columns(layer.source), self.word)
        before = rings.take(cut)
        self.busy.append(cut.passes * (cut.all * cut.spacing))
        self.listed = self.listed + cut.blocks * (self._groups(layer.rows).count + 1)
        there = 0 * kw if self.leaping else rings.arrival(self.early if self.bound.whole else ())
        if self.seen_linear == self.linears and self.bound.whole:
            there = maximum(there, self._all_moved(layer, cut))
        once: Number = 0
        if turning := self.bound.whole and rings.known:
            group, passes = self._groups(layer.rows).list[0], self._passes(layer.rows)[0]
            ready = self._ready(layer.source, group, layer.first_row) + passes.full * kw
            there, once = rings.turned(cut, before, there, maximum(self.array.free, ready))
        once = maximum(once, there + 1 + cut.spacing)
        period, turn = cut.all * cut.spacing + cut.blocks, (cut.last if rings.known else 1) * cut.spacing
        self._rows(layer, Rows(constants, kw, period, cut.blocks, once, turn))
        if turning:
            rings.give_back(cut, self.array.free)

    def _rows(self, layer: Linear, work: Rows) -> None:
        """Schedules all row groups of a linear layer."""
        groups, drained = self._groups(layer.rows), self.formulas.array_latency + self.formulas.drain_latency
        self.done[layer.target] = done = Done(groups)
        rows_left: Number = 0
        turns: Number = 0
        for group, passes in zip(groups.list, self._passes(layer.rows), strict=True):
            mine, behind = work.take_leading(group.rows), take_leading(drained, group.rows) + passes.last
            t = maximum(mine.constants, self._ready(layer.source, group, layer.first_row))
            array = self.array.run(maximum(t, self._ready(layer.addend, group)), group.rows, passes, mine)
            turns = take_leading(turns, group.rows) + passes.count
            end = maximum(array, mine.once + (turns - 1) * mine.turn) - 1 + behind
            known = self.known.get((self.seen_linear - 1, group.number))
            if known is not None:
                end = maximum(end, take_leading(known, end))
                self.array.busy((mine.blocks == 1) * (end + 1 - behind))
            done.add(end)
            rows_left = replace_leading(rows_left, behind)
        self.array.busy(done.all + 1 - rows_left)

    def _tiles(self, layer: Linear) -> tuple[Number, Number]:
        """Weight words per tile of a layer, and its number of tiles."""
        source, target = self._columns(layer.source), self._columns(layer.target)
        return ceil_div(source, self.linear["t_in"]), ceil_div(target, self.linear["t_out"])

    def _cut(self, layer: Linear) -> Cut:
        p, groups, (ib, ob) = self.linear, self._groups(layer.rows), self._tiles(layer)
        last = self._last_passes(layer.rows)
        tiles, spacing = block_tiles(layer.rows, ib, ob, p, self.row_group), maximum(ib, p["n_l"])
        blocks: Any = ceil_div(ob, tiles)
        passes = (groups.count - 1) * self._passes(layer.rows)[0].count + last.count
        freed = spacing + self.formulas.array_latency + last.last
        return Cut(ib, spacing, ob, tiles, blocks, ob - (blocks - 1) * tiles, passes, freed)

    def _all_moved(self, layer: Linear, cut: Cut) -> Number:
        """Earliest arrival of all weights of the last linear layer, given all other traffic.

        For each load taken as the first one granted after these weights, the layers that wait for it add their time;
        the earliest of these cases counts, and the case in which all loads come before the weights.
        """
        rest = self.network.layers[self.network.layers.index(layer) + 1 :]
        if any(read.whole for each in rest for read in each.reads):
            return 0
        drained = self.formulas.array_latency + self.formulas.drain_latency
        behind: Number = 2 + cut.spacing + drained + (cut.passes - 1) * cut.last * cut.spacing
        behind = behind + self._last_passes(layer.rows).last
        for each in rest:
            for group in self._groups(each.rows).list:
                taken = take_leading(behind, group.rows) + self._time(each, group) + 1
                behind = replace_leading(behind, taken)
        for output in self.network.outputs:
            behind = behind + self._stored(output.source)
        most = BURST_BYTES // self.word
        rings, rates = self.rings, self.rates
        size, bursts = rings.fetched() + self.ahead, rings.bursts + self.ahead // BURST_BYTES
        found: Number = _NEVER
        chains = [sum(self.busy[first:], 0 * cut.spacing) for first in range(len(self.busy))]
        for move in self.loads.moves:
            late = maximum(chains[move.layer] - behind, 0) if move.layer < len(chains) else 0
            found = minimum(found, rates.moved(size, bursts, rings.last_full) + late)
            size, bursts = size + move.words * self.word, bursts + move.words // most
        return rates.begin + 1 + rates.latency + minimum(found, rates.moved(size, bursts, rings.last_full))

    @cached_property
    def early(self) -> list[tuple[Number, Number]]:
        """Loads sure to be requested before the weights beyond some offset, in bytes of tables and weights as fetched.

        A load that is the first command starts with the first fetch and, like all loads, has priority. The next ones
        follow one after the other, if no queue ahead of them is full. They are counted as far as that is sure.

        Returns:
            Per load, its bus words (0 where that is not sure) and the offset in bytes.
        """
        found, there, rates = list[tuple[Number, Number]](), set[object](), self.rates
        service = maximum(rates.pace, BURST_BYTES // self.word)
        turn = rates.latency + _SLACK + rates.outstanding * service
        accepted: Any = rates.begin
        linear: Number = 0 * self.linear["t_out"]
        uses = listed = linear
        others: dict[str, Number] = {}
        sure: Any = 1
        for layer in self.network.layers[:_EARLY]:
            commands: Any = self._groups(layer.rows).count
            sure = sure * (commands <= ENGINE_QUEUE)
            if isinstance(layer, Linear) and layer.table is not None:
                break
            constants = self._constants(layer) if not isinstance(layer, Linear) else []
            for words in (*constants, *(load.words for load in self.loads.before(layer, there))):
                accepted = maximum(accepted, rates.begin + (listed > 0) * (1 + listed // COMMAND_QUEUE) * turn)
                asked = rates.credit(accepted - rates.begin) + (rates.outstanding + 4) * BURST_BYTES
                waiting = maximum(linear, uses + FETCH_LEAD + 1) - 1
                for each in others.values():
                    waiting = maximum(waiting, each)
                full: Any = waiting > ENGINE_QUEUE
                found.append((sure * (1 - full) * words, (listed > 0) * asked))
                accepted = accepted + turn + words * self.word // BURST_BYTES * service + words
                listed = listed + 1
            if isinstance(layer, Linear) and not self.rings.known:
                break
            blocks = self._cut(layer).blocks if isinstance(layer, Linear) else 0
            linear, uses = linear + commands * blocks, uses + blocks
            listed = listed + commands * maximum(blocks, 1) + blocks
            if not isinstance(layer, Linear):
                others[engine_for(layer)] = others.get(engine_for(layer), 0) + commands
        return found

    def _commands(self, layer: Layer) -> None:
        """Schedules one command per row group, after the constants of the layer and all that it reads."""
        engine = engine_for(layer)
        there: Number = 0
        for words in self._constants(layer):
            there = self._load(Load("", words), self.bound.readers[layer.target]) + 1
        for read in layer.reads:
            if read.whole and read.tensor in self.done:
                there = maximum(there, self.done[read.tensor].upto(self.network.tensors[read.tensor].rows - 1) + 1)
        moving = [read for read in layer.reads if not read.whole]
        groups = self._groups(layer.rows)
        done = Done(groups)
        for group in groups.list:
            t = maximum(take_leading(self.free[engine], group.rows), take_leading(there, group.rows))
            for read in moving:
                t = maximum(t, self._ready(read.tensor, group, read.first_row))
            end = t + self._time(layer, group)
            self.free[engine] = replace_leading(self.free[engine], end + 1)
            done.add(end)
        self.done[layer.target] = done
        self.listed = self.listed + groups.count

    def _time(self, layer: Layer, group: Group) -> Number:
        """Cycles of a row group's command."""
        key = type(layer), layer.rows, *layer.shape, group.number
        if key not in self.times:
            if self.boxed:
                self.times[key] = self.boxed.time(layer, group.first, group.rows)
            else:
                kernel = kernel_of_layer(layer)
                unit = maximum(self.linear["t_out"], self.word)
                columns = kernel.columns(layer, self.engines[kernel.op], unit)
                work = kernel.work(layer, *self._whole(group), columns)
                self.times[key] = take_leading(self.formulas.times[kernel.op](work), group.rows)
        return self.times[key]

    def _whole(self, group: Group) -> tuple[Number, Number]:
        """First row and rows of a group; legal placeholders for designs without it."""
        return replace_leading(0 * self.row_group, group.first), replace_leading(self.row_group, group.rows)

    def _constants(self, layer: Layer) -> list[Number]:
        """Bus words of the constants of a layer."""
        if self.boxed:
            return self.boxed.words(layer)
        kernel = kernel_of_layer(layer)
        params = self.engines[kernel.op]
        found = kernel.constants(layer)
        return [constant_words(each.size, params, kernel.op, each.memory, self.word) for each in found]
