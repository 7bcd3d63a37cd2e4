"""Placement of a network's matrices in the on-chip memories.

A memory holds matrices row by row, each row padded to a pitch that every port of the memory
divides. Heads are padded so that a row of all heads keeps that pitch; the padding's weights
are zero. All that depends on the network alone is computed once per network, and every layout
of it once per port widths of a design.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import NamedTuple

from codesign.compiler.homes import homes, runners
from codesign.ir.network import Layer, Linear, Network
from codesign.target.commands import Span
from codesign.target.design import Design
from codesign.target.engines import (
    RING,
    Geometry,
    MemoryMap,
    command_kernel,
    geometry,
    memory_map,
    memory_name,
)
from codesign.target.kernel import Columns, ceil_div, padded

_NETWORKS = 4
"""Networks whose layouts are cached."""


def groups(rows: int, most: int) -> list[tuple[int, int]]:
    """First row and number of rows of each group of at most ``most`` rows.

    >>> groups(7, 3)
    [(0, 3), (3, 3), (6, 1)]
    """
    return [(first, min(most, rows - first)) for first in range(0, rows, most)]


class Widths(NamedTuple):
    """Parameters of a design that decide the layout of whole matrices.

    Attributes:
        word: bytes of a bus word.
        engines: the engines' parameters that decide where matrices lie.
    """

    word: int
    engines: Geometry


def widths(design: Design) -> Widths:
    """The `Widths` of a design."""
    return Widths(design.word_bytes, geometry(design.engines))


class Streams(NamedTuple):
    """Further parameters of the layout of a single layer, whose rows may stream through its memories.

    Attributes:
        row_group: most rows per command.
        room: bytes of the memories ``input`` and ``output``, as far as they exist.
    """

    row_group: int
    room: tuple[tuple[str, int], ...]


class Region(NamedTuple):
    """A matrix in an on-chip memory: a window of rows, row ``r`` at ``base + (r % window) * pitch`` bytes."""

    memory: str
    base: int
    pitch: int
    window: int
    rows: int

    def at(self, row: int) -> int:
        """Byte address of a row."""
        return self.base + row % self.window * self.pitch

    def span(self, row: int, rows: int) -> Span:
        """Byte range of some rows."""
        start = self.at(row)
        return Span(self.memory, start, start + rows * self.pitch)

    @property
    def streamed(self) -> bool:
        """Whether the window is shorter than the matrix."""
        return self.window < self.rows

    @property
    def chunk(self) -> int:
        """Most rows of a command: half the window, so that the other half can be filled or emptied."""
        return self.window // 2 if self.streamed else self.rows


class NetworkAnalysis:
    """Facts for layouts and programs that depend on a network and its engines, not on the engines' parameters.

    Attributes:
        runs: engine of every layer.
        shapes: rows and columns of every tensor and constant.
        definitions: step and name of every tensor and constant, in order of definition.
        last: by tensor, the step after which its bytes may be overwritten.
        padders: by tensor, the layer and the engine that decide its column padding.
        constants: memory and bytes of every layer's constants.
        tables: index of every linear layer's 8-bit table; equal tables share one.
        firsts: see `Layout.first`.

    Raises:
        NothingFits: see `runners`.
    """

    def __init__(self, network: Network, engines: tuple[str, ...]) -> None:
        self.network, self.runs = network, runners(network, engines)
        self.shapes: dict[str, tuple[int, ...]] = {name: table.shape for name, table in network.constants.items()}
        self.shapes |= {name: tensor.shape for name, tensor in network.tensors.items()}
        self.definitions, self.last = list(self._definitions()), self._last_use()
        self.padders: dict[str, tuple[Layer, str]] = {}
        self.constants: list[list[tuple[str, int]]] = []
        for layer, engine in zip(network, self.runs, strict=True):
            kernel = command_kernel(engine) if engine != RING else None
            if kernel is not None and kernel.padding:
                for tensor, _ in kernel.reaches(layer):
                    self.padders.setdefault(tensor, (layer, engine))
            constants = kernel.constants(layer) if kernel is not None else ()
            self.constants.append([(memory_name(engine, each.memory), each.size) for each in constants])
        numbers: dict[bytes, int] = {}
        self.tables: dict[Linear, int] = {}
        for layer in network:
            if isinstance(layer, Linear) and layer.table is not None:
                self.tables[layer] = numbers.setdefault(layer.table.tobytes(), len(numbers))
        self.firsts: dict[tuple[object, ...], Layout] = {}
        self._homes: dict[tuple[object, ...], dict[str, str]] = {}
        self._layouts: dict[tuple[Widths, Streams | None], Layout] = {}

    def layout(self, wide: Widths, streams: Streams | None = None) -> "Layout":
        """The layout for these port widths, cached; with ``streams``, rows may stream.

        Raises:
            NothingFits: see `homes`.
        """
        key = wide, streams
        if key not in self._layouts:
            self._layouts[key] = Layout(self, wide, streams)
        return self._layouts[key]

    def homes(self, memories: MemoryMap) -> dict[str, str]:
        """The network's `homes`, computed once for all designs of equal memory numbers."""
        key = tuple(memories.numbers.items())
        if key not in self._homes:
            self._homes[key] = homes(self.network, self.runs, memories)
        return self._homes[key]

    def _definitions(self) -> Iterator[tuple[int, str]]:
        """Yields step and name of every tensor and constant in order of definition."""
        for put in self.network.inputs:
            yield -1, put.target
        for name in self.network.constants:
            yield -1, name
        for step, layer in enumerate(self.network):
            yield step, layer.target

    def _last_use(self) -> dict[str, int]:
        """Step after which a tensor's bytes may be overwritten; one less where a layer may overwrite it in place."""
        last = dict.fromkeys(self.shapes, -1)
        for step, layer in enumerate(self.network):
            last[layer.target] = max(last[layer.target], step)
            for read in layer.reads:
                last[read.tensor] = max(last[read.tensor], step - read.in_place)
        for output in self.network.outputs:
            last[output.source] = len(self.network.layers)
        return last


@lru_cache(_NETWORKS)
def analysis(network: Network, engines: tuple[str, ...]) -> NetworkAnalysis:
    """The analysis of a network on these engines, cached.

    Raises:
        NothingFits: see `runners`.
    """
    return NetworkAnalysis(network, engines)


class ConstantPlace(NamedTuple):
    """On-chip byte range of a layer's constant, the same for all commands of the layer."""

    memory: str
    start: int
    stop: int


class Layout:
    """Pitches, windows and addresses of all tensors in the on-chip memories.

    Attributes:
        params: by engine, the parameters that decide where matrices lie.
        memories: the design's memories.
        home: memory of every tensor and constant.
        columns: columns of every tensor.
        pitch: bytes per row of every tensor and constant.
        regions: their regions.
        need: bytes needed, by memory.
    """

    def __init__(self, body: NetworkAnalysis, wide: Widths, streams: Streams | None) -> None:
        self.analysis, self.network, self.widths, self.streams = body, body.network, wide, streams
        self.params = {name: dict(values) for name, values in wide.engines}
        self.memories = memory_map(wide.engines)
        self.home = body.homes(self.memories)
        self.t_out = self.params[RING]["t_out"]
        self._asked: dict[tuple[object, ...], Columns | None] = {}
        self.columns = {name: self._columns(name) for name in body.network.tensors}
        self.pitch = {name: self._pitch(name) for name in self.home}
        self.need: dict[str, int] = {}
        self.regions = self._allocate(dict(streams.room) if streams is not None else {})
        if streams is not None:
            self._align(streams.row_group)
        self._spans: dict[tuple[str, int, int, int], list[Span]] = {}

    @cached_property
    def first(self) -> "Layout":
        """The first layout met that is equivalent to this one.

        Equivalent layouts have the same bytes in the same places and give the same programs, but for the address
        units in commands of engines other than the linear one.
        """
        ends = (place for places in self.constants for place in places)
        same = self.widths.word, self.t_out, self.streams, *self.columns.items(), *self.pitch.items(), *ends
        return self.analysis.firsts.setdefault(same, self)

    @cached_property
    def kinds(self) -> list[tuple[Linear, list[int]]]:
        """Kinds of linear layers with equal rows, columns and table: the first of each, and the indices of all."""
        found: dict[tuple[int, ...], tuple[Linear, list[int]]] = {}
        for number, layer in enumerate(self.network):
            if isinstance(layer, Linear):
                columns = self.columns[layer.source].total, self.columns[layer.target].total
                kind = layer.rows, *columns, self.analysis.tables.get(layer, -1)
                found.setdefault(kind, (layer, []))[1].append(number)
        return list(found.values())

    @cached_property
    def constants(self) -> list[tuple[ConstantPlace, ...]]:
        """Places of every layer's constants, one after the other in each memory."""
        ends: dict[str, int] = defaultdict(int)
        found = list[tuple[ConstantPlace, ...]]()
        for constants in self.analysis.constants:
            mine = list[ConstantPlace]()
            for memory, size in constants:
                start = ends[memory]
                ends[memory] += padded(size, self.unit(memory))
                mine.append(ConstantPlace(memory, start, ends[memory]))
            found.append(tuple(mine))
        return found

    def width(self, memory: str, engine: str, port: str) -> int:
        """Bytes per word of an engine's port to a memory."""
        lanes = self.memories.ports[engine, port].lanes
        return self.widths.word if lanes is None else self.params[engine][lanes] * self.memories.memories[memory].bytes

    def reader(self, memory: str, engine: str) -> str:
        """Port by which an engine reads a memory."""
        return next(each.port.name for each in self.memories.memories[memory].readers if each.engine == engine)

    @cached_property
    def _units(self) -> dict[str, int]:
        """Bytes of the widest word of each memory."""
        found = {}
        for name, reached in self.memories.memories.items():
            users = (reached.writer, *reached.readers)
            lanes = [self.params[each.engine][each.port.lanes] for each in users if each.port.lanes is not None]
            found[name] = max([self.widths.word, *(count * reached.bytes for count in lanes)])
        return found

    def unit(self, memory: str) -> int:
        """Bytes that the words of all ports to a memory divide."""
        return self._units[memory]

    def tiles(self, layer: Linear, t_in: int) -> tuple[int, int]:
        """Weight words per tile of a layer, and its number of tiles."""
        source, target = self.columns[layer.source].total, self.columns[layer.target].total
        return ceil_div(source, t_in), ceil_div(target, self.t_out)

    def spans(self, name: str, row: int, rows: int, most: int) -> list[Span]:
        """Byte ranges of some rows of a tensor, one per group of at most ``most`` rows."""
        key = name, row, rows, most
        if key not in self._spans:
            region = self.regions[name]
            self._spans[key] = [region.span(row + first, count) for first, count in groups(rows, most)]
        return self._spans[key]

    def chunk(self, layer: Linear, row_group: int) -> int:
        """Most rows of a command of a linear layer."""
        return min(row_group, self.regions[layer.source].chunk, self.regions[layer.target].chunk)

    def _columns(self, name: str) -> Columns:
        """Columns of a tensor, padded as the first engine that asks for it requires."""
        columns = self.network.tensors[name].columns
        found = self._padded(*self.analysis.padders[name]) if name in self.analysis.padders else None
        return Columns(*map(int, found)) if found is not None else Columns(1, columns, columns, columns)

    def _padded(self, layer: Layer, engine: str) -> Columns | None:
        """Columns that a layer's kernel asks for; they depend on the layer's type and shape alone."""
        key = engine, type(layer), *layer.shape
        if key not in self._asked:
            unit = max(self.t_out, self.widths.word)
            self._asked[key] = command_kernel(engine).columns(layer, self.params[engine], unit)
        return self._asked[key]

    def _pitch(self, name: str) -> int:
        """Bytes per row, a multiple of the width of every port of the memory."""
        home = self.home[name]
        wide = self.memories.memories[home].bytes
        columns = self.columns[name].total if name in self.columns else self.analysis.shapes[name][1]
        return padded(columns * wide, max(self.unit(home), wide * self.t_out))

    def _allocate(self, room: Mapping[str, int]) -> dict[str, Region]:
        """Allocates first fit by lifetime; a matrix too large for its room gets a window of rows if it may."""
        last = self.analysis.last
        live: dict[str, list[tuple[int, int, int]]] = {}
        regions: dict[str, Region] = {}
        for step, name in self.analysis.definitions:
            memory, pitch, rows = self.home[name], self.pitch[name], self.analysis.shapes[name][0]
            taken = sorted(block for block in live.get(memory, []) if block[2] >= step)
            base = 0
            for start, stop, _ in taken:
                if base + rows * pitch <= start:
                    break
                base = max(base, stop)
            window = _window(rows, pitch, room[memory] - base) if memory in room else rows
            live[memory] = [*taken, (base, base + window * pitch, last[name])]
            self.need[memory] = max(self.need.get(memory, 0), base + window * pitch)
            regions[name] = Region(memory, base, pitch, window, rows)
        return regions

    def _align(self, row_group: int) -> None:
        """Shrinks windows to a multiple of a command's rows, so that no row group wraps around."""
        for layer in self.network:
            if isinstance(layer, Linear):
                chunk = self.chunk(layer, row_group)
                for name in (layer.source, layer.target):
                    region = self.regions[name]
                    if region.streamed:
                        self.regions[name] = region._replace(window=region.window // chunk * chunk)


def _window(rows: int, pitch: int, room: int) -> int:
    """Rows of a matrix kept on chip at once: all, or the largest even number that the room holds, if not 0."""
    fit = room // pitch // 2 * 2
    return rows if rows * pitch <= room or fit < 2 else fit


def layout(network: Network, design: Design) -> Layout:
    """The layout of a network on a design.

    Raises:
        NothingFits: see `runners` and `homes`.
    """
    if len(network.layers) > 1:
        return whole_layout(network, design)
    room = tuple((name, design.memories[name]) for name in ("input", "output") if name in design.memories)
    return analysis(network, tuple(design.engines)).layout(widths(design), Streams(design.row_group, room))


def whole_layout(network: Network, design: Design) -> Layout:
    """The layout that keeps every tensor of a network whole, whatever the sizes of the design's memories.

    Raises:
        NothingFits: see `runners` and `homes`.
    """
    return analysis(network, tuple(design.engines)).layout(widths(design))


def memory_need(network: Network, design: Design) -> dict[str, int]:
    """Bytes that each on-chip memory must hold to keep every tensor and every constant of the network whole.

    An engine's own memories hold at least one word, as its ports must be connected.
    """
    found = whole_layout(network, design)
    sizes: dict[str, list[int]] = {}
    for places in found.constants:
        for memory, start, stop in places:
            sizes.setdefault(memory, []).append(stop - start)
    need = found.need | {memory: len(mine) * max(mine) for memory, mine in sizes.items()}
    owned = {name for name, reached in found.memories.memories.items() if reached.owner != RING}
    return need | {name: found.unit(name) for name in sorted(owned - set(need))}


def linear_columns(network: Network, design: Design) -> list[tuple[Linear, int, int]]:
    """Every linear layer with the columns of its source and target as they lie on chip, padded heads included."""
    columns = whole_layout(network, design).columns
    layers = [layer for layer in network if isinstance(layer, Linear)]
    return [(layer, columns[layer.source].total, columns[layer.target].total) for layer in layers]
