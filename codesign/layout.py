"""Where the matrices of a network lie in the on-chip memories.

A memory holds matrices row by row, each row padded to a pitch that every port of the memory
divides. Heads are padded so that a row of all heads keeps that pitch; the padding's weights
are zero. All that a network alone decides is found once per network, and every layout of it
once per widths of a design's ports.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from codesign.command import ADDENDS, NORM_SOURCES, SOURCES, STORES, WIDE, Span
from codesign.design import Design
from codesign.errors import NothingFits
from codesign.kernel import Number, ceil_div
from codesign.network import Attention, Linear, Network, Norm

AFFINE_BYTES = 8
"""Bytes of a gain and a bias in the memory ``affine``."""
_NETWORKS = 4
"""Networks whose layouts are kept."""


@overload
def padded(size: int, unit: int) -> int: ...
@overload
def padded(size: Number, unit: Number) -> Number: ...
def padded(size: Number, unit: Number) -> Number:
    """The smallest multiple of a unit that is at least the size; for numbers and arrays.

    >>> padded(10, 4)
    12
    """
    return ceil_div(size, unit) * unit


def head_columns(heads: int, wide: Number, unit: Number) -> Number:
    """Columns of a row of heads of ``wide`` columns each, with empty heads behind until a unit divides it.

    >>> int(head_columns(3, 24, 16))
    96
    """
    step: Number = unit // np.gcd(unit, wide)
    return padded(heads, step) * wide


def groups(rows: int, most: int) -> list[tuple[int, int]]:
    """First row and number of rows of each group of at most so many.

    >>> groups(7, 3)
    [(0, 3), (3, 3), (6, 1)]
    """
    return [(first, min(most, rows - first)) for first in range(0, rows, most)]


def homes(network: Network) -> dict[str, str]:
    """The memory of every tensor, from who makes it and who reads it.

    Raises:
        NothingFits: a tensor is needed in two memories at once, or where its reader cannot read it.
    """
    found: dict[str, set[str]] = {name: set() for name in network.tensors}
    found |= {name: {"position"} for name in network.constants}
    for put in network.inputs:
        found[put.target].add("input" if network.tensors[put.target].bits == 8 else "position")
    for layer in network:
        if isinstance(layer, Attention):
            for name, memory in (
                (layer.query, "query"),
                (layer.key, "key"),
                (layer.value, "value"),
                (layer.target, "context"),
            ):
                found[name].add(memory)
        elif isinstance(layer, Norm):
            found[layer.target].add("normed" if layer.bits == 8 else "skip")
    _linear_homes(network, found)
    for name, memories in found.items():
        if len(memories) != 1:
            raise NothingFits(
                f"tensor {name} would be needed in {sorted(memories) or 'no memory'}; legal: one memory each"
            )
    home = {name: memories.pop() for name, memories in found.items()}
    for name, reader, legal in _reads(network):
        if home[name] not in legal:
            raise NothingFits(f"tensor {name} lies in memory {home[name]}; the {reader} {', '.join(legal)}")
    return home


def _reads(network: Network) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Every tensor that is read but by the attention engine: its name, who reads it, and from which memories."""
    for output in network.outputs:
        yield output.source, "store engine reads", STORES
    for layer in network:
        if isinstance(layer, Linear):
            yield layer.source, "linear engine reads", SOURCES
            if layer.addend is not None:
                yield layer.addend, "linear engine adds", ADDENDS[1:]
        elif isinstance(layer, Norm):
            yield layer.source, "vector engine reads", NORM_SOURCES


def _linear_homes(network: Network, found: dict[str, set[str]]) -> None:
    """Targets of linear layers that nothing else places: wide, output or hidden."""
    outputs = {output.source for output in network.outputs}
    wide = {layer.source for layer in network if isinstance(layer, Norm)}
    wide |= {layer.addend for layer in network if isinstance(layer, Linear) and layer.addend is not None}
    for layer in network:
        if not isinstance(layer, Linear):
            continue
        if network.tensors[layer.target].bits == 16 or layer.target in wide:
            found[layer.target].add("residual")
        elif layer.target in outputs:
            found[layer.target].add("output")
        elif not found[layer.target]:
            found[layer.target].add("hidden")


class Widths(NamedTuple):
    """All of a design that the layout of whole matrices depends on.

    Attributes:
        word: bytes of a bus word.
        t_out, t_a, t_v: of the engines, 0 without one.
    """

    word: int
    t_out: int
    t_a: int
    t_v: int


def widths(design: Design) -> Widths:
    """Those of a design."""
    attend, normalize = design.engines.get("attention", {}), design.engines.get("vector", {})
    return Widths(design.word_bytes, design.linear["t_out"], attend.get("t_a", 0), normalize.get("t_v", 0))


class Streams(NamedTuple):
    """What else the layout of a single layer depends on: its rows may stream through its memories.

    Attributes:
        row_group: most rows per command.
        room: bytes of the memories ``input`` and ``output``, those that there are.
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
        """The byte where a row begins."""
        return self.base + row % self.window * self.pitch

    def span(self, row: int, rows: int) -> Span:
        """The bytes of some rows."""
        start = self.at(row)
        return Span(self.memory, start, start + rows * self.pitch)

    @property
    def streamed(self) -> bool:
        """Whether not all rows are there at once."""
        return self.window < self.rows

    @property
    def chunk(self) -> int:
        """Most rows of a command: half the window, so that the other half can be filled or emptied."""
        return self.window // 2 if self.streamed else self.rows


class Columns(NamedTuple):
    """Physical columns of a matrix: ``heads`` groups of ``wide`` columns, the first ``used`` of each real."""

    heads: int
    used: int
    wide: int
    total: int

    @property
    def places(self) -> NDArray[np.int64]:
        """Physical column of each logical one."""
        head, column = np.divmod(np.arange(self.heads * self.used), self.used)
        return head * self.wide + column


class Anatomy:
    """What a network alone decides of all its layouts and programs.

    Attributes:
        home: memory of every tensor and constant.
        tables: number of every linear layer's 8-bit table; equal ones have one number.
        firsts: see `Layout.first`.

    Raises:
        NothingFits: see `homes`.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.home = network, homes(network)
        self.shapes: dict[str, tuple[int, ...]] = {name: table.shape for name, table in network.constants.items()}
        self.shapes |= {name: tensor.shape for name, tensor in network.tensors.items()}
        self.births, self.last = list(self._births()), self._last_use()
        self.heads: dict[str, Attention] = {}
        numbers: dict[bytes, int] = {}
        self.tables: dict[Linear, int] = {}
        for layer in network:
            if isinstance(layer, Attention):
                for name in (layer.query, layer.key, layer.value, layer.target):
                    self.heads.setdefault(name, layer)
            elif isinstance(layer, Linear) and layer.table is not None:
                self.tables[layer] = numbers.setdefault(layer.table.tobytes(), len(numbers))
        self.firsts: dict[tuple[object, ...], Layout] = {}
        self._layouts: dict[tuple[Widths, Streams | None], Layout] = {}

    def layout(self, wide: Widths, streams: Streams | None = None) -> "Layout":
        """The layout for such ports; of whole matrices, or of what the memories hold of them."""
        key = wide, streams
        if key not in self._layouts:
            self._layouts[key] = Layout(self, wide, streams)
        return self._layouts[key]

    def _births(self) -> Iterator[tuple[int, str]]:
        """Tensors in the order in which they come to life, with the step."""
        for put in self.network.inputs:
            yield -1, put.target
        for name in self.network.constants:
            yield -1, name
        for step, layer in enumerate(self.network):
            yield step, layer.target

    def _last_use(self) -> dict[str, int]:
        """Step after which a tensor's bytes may be written again; an addend's already by its own layer."""
        last = dict.fromkeys(self.home, -1)
        for step, layer in enumerate(self.network):
            last[layer.target] = max(last[layer.target], step)
            reads = (layer.query, layer.key, layer.value) if isinstance(layer, Attention) else (layer.source,)
            for name in reads:
                last[name] = step
            if isinstance(layer, Linear) and layer.addend is not None:
                last[layer.addend] = max(last[layer.addend], step - 1)
        for output in self.network.outputs:
            last[output.source] = len(self.network.layers)
        return last


@lru_cache(_NETWORKS)
def anatomy(network: Network) -> Anatomy:
    """That of a network, found once.

    Raises:
        NothingFits: see `homes`.
    """
    return Anatomy(network)


class Layout:
    """Pitches, windows and addresses of all tensors in the on-chip memories.

    Attributes:
        columns: of every tensor.
        pitch: bytes per row of every tensor and constant.
        regions: where they lie.
        need: bytes by memory.
    """

    def __init__(self, body: Anatomy, wide: Widths, streams: Streams | None) -> None:
        self.anatomy, self.network, self.widths, self.streams = body, body.network, wide, streams
        self.columns = {name: self._columns(name) for name in body.network.tensors}
        self.pitch = {name: self._pitch(name) for name in body.home}
        self.need: dict[str, int] = {}
        self.regions = self._allocate(dict(streams.room) if streams is not None else {})
        if streams is not None:
            self._align(streams.row_group)
        self._spans: dict[tuple[str, int, int, int], list[Span]] = {}

    @cached_property
    def first(self) -> "Layout":
        """The first layout asked for this that is like this one.

        Such layouts have the same bytes in the same places and give the same programs, but for the units in which
        commands of attention and vector engine count.
        """
        ends = (end for _, end in self.norms)
        same = self.widths.word, self.widths.t_out, self.streams, *self.columns.items(), *self.pitch.items(), *ends
        return self.anatomy.firsts.setdefault(same, self)

    @cached_property
    def kinds(self) -> list[tuple[Linear, list[int]]]:
        """Linear layers of equal rows, columns and tables: the first of each kind, and the numbers of all of them."""
        found: dict[tuple[int, ...], tuple[Linear, list[int]]] = {}
        for number, layer in enumerate(self.network):
            if isinstance(layer, Linear):
                columns = self.columns[layer.source].total, self.columns[layer.target].total
                kind = layer.rows, *columns, self.anatomy.tables.get(layer, -1)
                found.setdefault(kind, (layer, []))[1].append(number)
        return list(found.values())

    @cached_property
    def norms(self) -> list[tuple[Norm, int]]:
        """Every norm with the bytes of all gains and biases up to its own."""
        norms = [layer for layer in self.network if isinstance(layer, Norm)]
        return list(zip(norms, accumulate(self.affine(layer.d) for layer in norms), strict=True))

    def tiles(self, layer: Linear, t_in: int) -> tuple[int, int]:
        """Weight words per tile of a layer, and its tiles."""
        source, target = self.columns[layer.source].total, self.columns[layer.target].total
        return ceil_div(source, t_in), ceil_div(target, self.widths.t_out)

    def spans(self, name: str, row: int, rows: int, most: int) -> list[Span]:
        """The bytes of some rows of a tensor, group by group of at most so many."""
        key = name, row, rows, most
        if key not in self._spans:
            region = self.regions[name]
            self._spans[key] = [region.span(row + first, count) for first, count in groups(rows, most)]
        return self._spans[key]

    def chunk(self, layer: Linear, row_group: int) -> int:
        """Most rows of a command of a linear layer."""
        return min(row_group, self.regions[layer.source].chunk, self.regions[layer.target].chunk)

    def affine(self, d: int) -> int:
        """Bytes of a norm's gains and biases."""
        return padded(d * AFFINE_BYTES, max(self.widths.word, AFFINE_BYTES * self.widths.t_v))

    def _columns(self, name: str) -> Columns:
        """Heads are padded in matrices that the attention engine touches."""
        layer = self.anatomy.heads.get(name)
        if layer is None:
            columns = self.network.tensors[name].columns
            return Columns(1, columns, columns, columns)
        wide, unit = padded(layer.head_dim, self.widths.t_a), max(self.widths.t_out, self.widths.word)
        return Columns(layer.heads, layer.head_dim, wide, int(head_columns(layer.heads, wide, unit)))

    def _pitch(self, name: str) -> int:
        """Bytes per row, a multiple of the width of every port of the memory."""
        home = self.anatomy.home[name]
        wide = 2 if home in WIDE else 1
        columns = self.columns[name].total if name in self.columns else self.anatomy.shapes[name][1]
        unit = max(self.widths.word, wide * self.widths.t_out)
        if home in ("residual", "normed", "skip"):
            unit = max(unit, wide * self.widths.t_v)
        return padded(columns * wide, unit)

    def _allocate(self, room: Mapping[str, int]) -> dict[str, Region]:
        """First fit by lifetime; what does not fit the room of its memory gets a window of rows if it may."""
        last = self.anatomy.last
        live: dict[str, list[tuple[int, int, int]]] = {}
        regions: dict[str, Region] = {}
        for step, name in self.anatomy.births:
            memory, pitch, rows = self.anatomy.home[name], self.pitch[name], self.anatomy.shapes[name][0]
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
        """Shrinks windows to a multiple of a command's rows, so that no group crosses the end of one."""
        for layer in self.network:
            if isinstance(layer, Linear):
                chunk = self.chunk(layer, row_group)
                for name in (layer.source, layer.target):
                    region = self.regions[name]
                    if region.streamed:
                        self.regions[name] = region._replace(window=region.window // chunk * chunk)


def _window(rows: int, pitch: int, room: int) -> int:
    """Rows of a streamed matrix that are kept on chip at once: all, or an even number of which the room holds."""
    fit = room // pitch // 2 * 2
    return rows if rows * pitch <= room or fit < 2 else fit


def layout(network: Network, design: Design) -> Layout:
    """The layout of a network on a design.

    Raises:
        NothingFits: see `homes`.
    """
    if len(network.layers) > 1:
        return whole_layout(network, design)
    room = tuple((name, design.memories[name]) for name in ("input", "output") if name in design.memories)
    return anatomy(network).layout(widths(design), Streams(design.row_group, room))


def whole_layout(network: Network, design: Design) -> Layout:
    """The layout that keeps every tensor of a network whole, however large the memories of a design are.

    Raises:
        NothingFits: see `homes`.
    """
    return anatomy(network).layout(widths(design))


def memory_need(network: Network, design: Design) -> dict[str, int]:
    """Bytes that each on-chip memory must hold to keep every tensor of the network whole."""
    found = whole_layout(network, design)
    norms = [layer.d for layer in network if isinstance(layer, Norm)]
    return found.need | ({"affine": len(norms) * found.affine(max(norms))} if norms else {})


def linear_columns(network: Network, design: Design) -> list[tuple[Linear, int, int]]:
    """Every linear layer with the columns of its source and target as they lie on chip, padded heads included."""
    columns = whole_layout(network, design).columns
    layers = [layer for layer in network if isinstance(layer, Linear)]
    return [(layer, columns[layer.source].total, columns[layer.target].total) for layer in layers]
