"""What a program loads, in the order of its list, and when that is there at best."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from codesign.compiler.program import LUT_BYTES
from codesign.ir.network import Layer, Linear, Network
from codesign.target.engines import LUT
from codesign.target.kernel import Number, Params, ceil_div, maximum, minimum, padded
from codesign.timing.bound.memory import Interfaces


class Load(NamedTuple):
    """What is loaded before a layer: the memory, the bus words, and the tensor if it is one."""

    memory: str
    words: Number
    tensor: str | None = None


class Move(NamedTuple):
    """A load.

    Attributes:
        words: how many it moves.
        layer: number of the linear layer that cannot begin before it.
    """

    words: Number
    layer: int


class Loads:
    """The loads up to now.

    Args:
        network: the layers.
        interfaces: the memories.
        variant: number of the memory, an integer or an array.
        linear: parameters of the linear engine.
        first: of the first fetch, bus words of a tile's table and of its weights, and fewest and most tiles; None for
            a program of one layer.

    Attributes:
        moves: the loads.
    """

    def __init__(
        self,
        network: Network,
        interfaces: Interfaces,
        variant: Number,
        linear: Params,
        first: tuple[Number, ...] | None,
    ) -> None:
        self.network, self.interfaces, self.variant = network, interfaces, variant
        self.linear, self.first = linear, first
        self.word = interfaces.of(variant, lambda each: each.word)
        self.free: Number = interfaces.of(variant, lambda each: each.begin)
        self.moves: list[Move] = []
        self.given: dict[str, tuple[int, ...]] = {name: rows.shape for name, rows in network.constants.items()}
        self.given |= {put.target: network.tensors[put.target].shape for put in network.inputs}
        self.begun: list[Load] = []

    def add(self, load: Load, layer: int) -> Number:
        """The next load; returns when it is done.

        Args:
            load: what it moves.
            layer: number of the linear layer that cannot begin before it.
        """
        self.moves.append(Move(load.words, layer))
        if self.first is None:
            self.free = self.free + self.transfer("load", load.words, bytewise=load.memory == LUT)
        else:
            self.begun.append(load)
            bytewise = tuple(each.memory == LUT for each in self.begun)
            sizes = [*(each.words for each in self.begun), *self.first]
            self.free = self.interfaces.each(self.variant, sizes, lambda each, found: each.prologue(bytewise, found))
        return self.free

    def behind_first(self) -> None:
        """The first linear layer has begun: what is loaded now has the memory no longer to itself."""
        self.first = None

    def repeat(self, moves: list[Move], times: int, layers: int) -> None:
        """The same loads come again and again, for as many linear layers each time."""
        for number in range(1, times):
            self.moves += [Move(move.words, move.layer + number * layers) for move in moves]

    def transfer(self, engine: str, words: Number, *, bytewise: bool = False) -> Number:
        """Cycles of a transfer if nothing else is under way."""
        return self.interfaces.each(
            self.variant, [words], lambda each, sizes: each.isolated_cycles(engine, sizes[0], bytewise=bytewise)
        )

    def words(self, rows: int, columns: int, wide: int) -> Number:
        """Bus words of a matrix of ``wide`` bytes per element, its rows padded as they lie on chip."""
        unit = maximum(self.word, wide * self.linear["t_out"])
        return padded(columns * wide, unit) * rows // self.word

    def before(self, layer: Layer, there: set[object]) -> Iterator[Load]:
        """What is loaded before a linear layer and is not there, which becomes so.

        In a program of one layer its rows are loaded all the time, and are not among it.
        """
        if not isinstance(layer, Linear):
            return
        if len(self.network.layers) > 1:
            yield from self._rows("input", layer.source, 1, there)
        table = layer.table.tobytes() if layer.table is not None else None
        if table is not None and table not in there:
            there.add(table)
            yield Load(LUT, ceil_div(LUT_BYTES, self.word))
        yield from self._rows("position", layer.addend, 2, there)

    def _rows(self, memory: str, name: str | None, wide: int, there: set[object]) -> Iterator[Load]:
        if name in self.given and name not in there:
            there.add(name)
            rows, columns = self.given[name]
            yield Load(memory, self.words(rows, columns, wide), name)


def first_fetch(
    linear: Params, tile: tuple[Number, Number], word: Number, rings: tuple[int, int]
) -> tuple[Number, ...]:
    """What `Loads` asks of the first fetch.

    Args:
        linear: parameters of the linear engine.
        tile: weight words of a tile of the first linear layer, and its tiles.
        word: bytes of a bus word.
        rings: fewest words that the weight ring and the table ring have.
    """
    (ib, tiles), (ring, table), p = tile, rings, linear
    fewest: Any = maximum(minimum(tiles, minimum(table, ring // ib)), 1)
    return 8 * p["t_out"] // word, p["t_in"] * p["t_out"] * ib // word, fewest, tiles
