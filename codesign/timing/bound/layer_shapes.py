"""Shapes of a network's layers on chip: padded columns, weight tiles, tiles per command, and words of constants."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from codesign.compiler.program import block_tiles
from codesign.ir.network import Layer, Linear, Network
from codesign.target.engines import RING, command_kernel, kernel_for
from codesign.target.kernel import Columns, CommandKernel, Number, Params, ceil_div, maximum, padded
from codesign.timing.bound.weight_ring import LATEST


class LayerShapes:
    """Sizes of a network's layers for any design, or for arrays of designs.

    Args:
        network: the layers.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        others = [layer for layer in network if not isinstance(layer, Linear)]
        self._others = [(layer, kernel_of_layer(layer)) for layer in others]
        self._cached: dict[tuple[int, ...], list[Number]] = {}

    @cached_property
    def padders(self) -> dict[str, Layer]:
        """By tensor, the layer that decides its column padding; unpadded tensors are absent."""
        found: dict[str, Layer] = {}
        for layer, kernel in self._others:
            for tensor, _ in kernel.reaches(layer) if kernel.padding else ():
                found.setdefault(tensor, layer)
        return found

    @cached_property
    def linears(self) -> list["LinearShape"]:
        """Shapes of the linear layers, in order; they decide the cuts."""
        pads = {name: Padding(layer) for name, layer in self.padders.items()}
        linears = [layer for layer in self.network if isinstance(layer, Linear)]
        return [
            LinearShape(each.rows, each.k, each.n, pads.get(each.source), pads.get(each.target)) for each in linears
        ]

    @cached_property
    def kinds(self) -> list["LinearShape"]:
        """The distinct `linears`."""
        return list(dict.fromkeys(self.linears))

    @cached_property
    def constants(self) -> list[tuple[str, str, int]]:
        """Distinct constants of the layers: engine, its own name of the memory, and bytes without padding."""
        found = (
            (kernel.op, each.memory, each.size) for layer, kernel in self._others for each in kernel.constants(layer)
        )
        return list(dict.fromkeys(found))

    def cuts(self, engines: Mapping[str, Params], word: Number, row_group: Number) -> list[Number]:
        """Tiles per command of the linear layers, one per distinct shape.

        Args:
            engines: parameters by engine.
            word: bytes of a bus word.
            row_group: most rows per command.
        """
        tiles, linear = self._tiles(engines, word), engines[RING]
        cut = zip(self.kinds, tiles[::2], tiles[1::2], strict=True)
        return [block_tiles(shape.rows, ib, ob, linear, row_group) for shape, ib, ob in cut]

    def lengths(self, engines: Mapping[str, Params], word: Number) -> list[Number]:
        """Sizes that other engines affect: tile words and tiles per shape, bus words per constant."""
        sizes = [constant_words(size, engines[engine], engine, memory, word) for engine, memory, size in self.constants]
        return self._tiles(engines, word) + sizes

    def _tiles(self, engines: Mapping[str, Params], word: Number) -> list[Number]:
        """Weight words per tile and tiles of every distinct shape; cached for single designs."""
        linear, axes = engines[RING], [engines[name][axis] for name, axis in self._padding]
        given = linear["t_in"], linear["t_out"], *axes, word
        if any(isinstance(each, np.ndarray) for each in given):
            return [size for shape in self.kinds for size in shape.tiles(engines, word)]
        key = tuple(map(int, given))
        if key not in self._cached:
            self._cached[key] = [size for shape in self.kinds for size in shape.tiles(engines, word)]
        return self._cached[key]

    @cached_property
    def _padding(self) -> list[tuple[str, str]]:
        """Engines and their parameters that decide column padding."""
        engines = dict.fromkeys(kernel_of_layer(layer) for layer in self.padders.values())
        return [(kernel.op, axis) for kernel in engines for axis in kernel.padding]

    def window(self, engines: Mapping[str, Params], word: Number) -> Number:
        """Table ring words from which on the ring delays nothing here; arguments as in `cuts`."""
        tiles = [shape.tiles(engines, word)[1] for shape in self.linears]
        found = 0 * engines[RING]["t_out"]
        for last in range(len(tiles)):
            found = maximum(found, sum(tiles[max(0, last - LATEST // 2) : last + 1]))
        return found


@dataclass(frozen=True, eq=False)
class Padding:
    """Column padding by a layer's kernel; depends on the layer's type and shape alone."""

    layer: Layer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Padding) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        return type(self.layer), *self.layer.shape

    def columns(self, engines: Mapping[str, Params], unit: Number) -> Columns:
        """Columns of a row, padded to a multiple of ``unit``."""
        kernel = kernel_of_layer(self.layer)
        found = kernel.columns(self.layer, engines[kernel.op], unit)
        assert found is not None, "the kernel says that it pads"
        return found


class LinearShape(NamedTuple):
    """A linear layer's shape: rows, inputs, outputs, and the column padding of its source and of its target."""

    rows: int
    k: int
    n: int
    source: Padding | None
    target: Padding | None

    def tiles(self, engines: Mapping[str, Params], word: Number) -> tuple[Number, Number]:
        """Weight words per tile, and number of tiles."""
        linear = engines[RING]
        unit, columns = maximum(linear["t_out"], word), list[Number]()
        for plain, padding in ((self.k, self.source), (self.n, self.target)):
            columns.append(plain if padding is None else padding.columns(engines, unit).total)
        return ceil_div(columns[0], linear["t_in"]), ceil_div(columns[1], linear["t_out"])


def kernel_of_layer(layer: Layer) -> type[CommandKernel]:
    """The kernel that runs a layer other than a linear one."""
    kernel = kernel_for(layer)
    assert kernel is not None, "a network without a kernel for it is refused"
    assert issubclass(kernel, CommandKernel), "linear layers have a kernel of another kind"
    return kernel


def engine_for(layer: Layer) -> str:
    """Name of the engine that runs a layer."""
    kernel = kernel_for(layer)
    assert kernel is not None, "a network without a kernel for it is refused"
    return kernel.op


def constant_words(size: int, params: Params, engine: str, memory: str, word: Number) -> Number:
    """Bus words of a constant as it lies on chip.

    Args:
        size: bytes without padding.
        params: of the engine.
        engine: its name.
        memory: the kernel's own name for the memory.
        word: bytes of a bus word.
    """
    bytes_, port = _constant_port(engine, memory)
    lanes = params[port] if port is not None else 1
    return padded(size, maximum(word, bytes_ * lanes)) // word


@cache
def _constant_port(engine: str, memory: str) -> tuple[int, str | None]:
    """Bytes per element of a memory of constants, and the lanes parameter of the engine's port to it."""
    kernel = command_kernel(engine)
    found = next(each for each in kernel.memories(dict.fromkeys(kernel.geometry, 1)) if each.name == memory)
    port = next(each for each in kernel.ports if each.name in found.ports)
    return found.bytes, port.lanes
