"""Loads of a program in list order, and the earliest cycles in which they are done."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from codesign.compiler.emission import LUT_BYTES
from codesign.ir.network import Layer, Linear, Network
from codesign.target.engines import LUT
from codesign.target.kernel import Number, Params, ceil_div, maximum, minimum, padded
from codesign.timing.bound.memory import Interfaces


class Load(NamedTuple):
    """A load before a layer: target memory, bus words, and the tensor's name if it loads one."""

    memory: str
    words: Number
    tensor: str | None = None


class Move(NamedTuple):
    """An issued load.

    Attributes:
        words: bus words moved.
        layer: index of the linear layer that cannot start before it.
    """

    words: Number
    layer: int


class Loads:
    """The loads issued so far.

    Args:
        network: the layers.
        interfaces: the memory interfaces.
        variant: index of the interface, an integer or an array.
        linear: parameters of the linear engine.
        first: the first fetch: bus words of a tile's table and of its weights, fewest and most tiles; None for a
            single-layer program.

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
        """Issues the next load; returns its earliest done cycle.

        Args:
            load: the load.
            layer: index of the linear layer that cannot start before it.
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
        """Marks the start of the first linear layer: later loads share the memory."""
        self.first = None

    def repeat(self, moves: list[Move], times: int, layers: int) -> None:
        """Appends the loads of further repeats, each of ``layers`` linear layers."""
        for number in range(1, times):
            self.moves += [Move(move.words, move.layer + number * layers) for move in moves]

    def transfer(self, engine: str, words: Number, *, bytewise: bool = False) -> Number:
        """Cycles of a transfer with nothing else in flight."""
        return self.interfaces.each(
            self.variant, [words], lambda each, sizes: each.isolated_cycles(engine, sizes[0], bytewise=bytewise)
        )

    def words(self, rows: int, columns: int, wide: int) -> Number:
        """Bus words of a matrix of ``wide`` bytes per element, its rows padded as on chip."""
        unit = maximum(self.word, wide * self.linear["t_out"])
        return padded(columns * wide, unit) * rows // self.word

    def before(self, layer: Layer, there: set[object]) -> Iterator[Load]:
        """Loads that a linear layer needs and that are not in ``there``; adds them to it.

        The input rows of a single-layer program are streamed and not included.
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
    """Sizes of the first fetch, as `Loads` takes them.

    Args:
        linear: parameters of the linear engine.
        tile: weight words per tile and tiles of the first linear layer.
        word: bytes of a bus word.
        rings: fewest words of the weight ring and of the table ring.
    """
    (ib, tiles), (ring, table), p = tile, rings, linear
    fewest: Any = maximum(minimum(tiles, minimum(table, ring // ib)), 1)
    return 8 * p["t_out"] // word, p["t_in"] * p["t_out"] * ib // word, fewest, tiles
