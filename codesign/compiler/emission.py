"""Commands of each layer of a network: operands, on-chip byte ranges, and the constants behind them in DRAM."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.layout import Layout, Region, groups
from codesign.ir.network import Layer, Linear
from codesign.target.commands import RELEASE, USE_TABLE, Command, Span
from codesign.target.engines import LUT, RING, command_kernel
from codesign.target.kernel import Columns, ceil_div, padded

PAGE = 4096
"""Bytes; constants and matrices in DRAM begin at a multiple of it."""
LUT_BYTES = 256
"""Bytes of an 8-bit table."""


@dataclass(frozen=True)
class DramMatrix:
    """A matrix in DRAM: byte address, shape, bytes per row and bits per element."""

    name: str
    address: int
    rows: int
    columns: int
    pitch: int
    bits: int

    @property
    def size(self) -> int:
        """Bytes of all rows, padding included."""
        return self.rows * self.pitch


@dataclass
class Emission:
    """The commands emitted so far and the constants they refer to.

    Attributes:
        layout: places of the matrices on chip.
        t_in: inputs per weight word of the linear engine.
        row_group: most rows per command.
        constants_at: byte address of the first constant.
        inputs, outputs: places in DRAM by tensor name.
        commands: commands without the fetches.
        fetches: each fetch with the index in ``commands`` of the command that needs it.
        image: bytes of the constants.
        present: tensors, constants and tables that have been loaded.
        bare: leaves ``image`` empty.
        size: bytes of the constants.
    """

    layout: Layout
    t_in: int
    row_group: int
    constants_at: int
    inputs: Mapping[str, DramMatrix]
    outputs: Mapping[str, DramMatrix]
    commands: list[Command] = field(default_factory=list)
    fetches: list[tuple[int, Command]] = field(default_factory=list)
    image: bytearray = field(default_factory=bytearray)
    present: set[str | int] = field(default_factory=set)
    bare: bool = False
    size: int = 0

    def constant(self, size: int, data: Callable[[], bytes]) -> int:
        """Puts bytes into the image on pages of their own, or if ``bare`` only counts them; returns their address."""
        address = self.constants_at + self.size
        self.size += padded(size, PAGE)
        if not self.bare:
            self.image += data() + bytes(-size % PAGE)
        return address

    def load(self, span: Span, data: Callable[[], bytes], label: str) -> None:
        """Emits the load of a constant into a byte range of an on-chip memory."""
        word = self.layout.widths.word
        fields = {
            "memory": self.load_number(span.memory),
            "address": span.start // word,
            "words": (span.stop - span.start) // word,
            "dram": self.constant(span.stop - span.start, data),
        }
        self.commands.append(Command("load", fields, writes=(span,), label=label))

    def load_number(self, memory: str) -> int:
        """Number of a memory at the load engine; the 8-bit tables come last."""
        loaded = self.layout.memories.numbers["load", "out"]
        return len(loaded) if memory == LUT else loaded.index(memory)


class _WeightBlock(NamedTuple):
    """Tiles ``first`` to ``first + tiles`` of a layer, of ``ib`` weight words each; ``k`` times ``n`` weights."""

    first: int
    tiles: int
    ib: int
    k: int
    n: int


def emit_linear(emit: Emission, layer: Linear, most: int) -> None:
    """Emits all row groups of a linear layer for every block of at most ``most`` tiles.

    A streamed output is written row group by row group, so its blocks are the inner loop and
    their weights are fetched again for every group.
    """
    found = emit.layout
    ib, ob = found.tiles(layer, emit.t_in)
    cuts = [(first, min(most, ob - first)) for first in range(0, ob, most)]
    blocks = [_WeightBlock(first, tiles, ib, ib * emit.t_in, tiles * found.t_out) for first, tiles in cuts]
    packed = _pack_weights(emit, layer, blocks)
    streamed = found.regions[layer.target].streamed
    again = streamed and len(blocks) > 1
    cut = groups(layer.rows, found.chunk(layer, emit.row_group))
    order = [(block, group) for group in cut for block in blocks] if again else list(product(blocks, cut))
    parts: dict[tuple[int, int], _Part] = {}
    for block, group in order:
        _need_input(emit, layer.source, group, layer.first_row)
        if again or group is cut[0]:
            emit.fetches.append((len(emit.commands), packed[block.first]))
        parts = parts or _parts(emit, layer, cut, ib)
        emit.commands.append(parts[group].command(layer, block, release=again or group is cut[-1]))
        if streamed and block is blocks[-1]:
            _store_rows(emit, layer.target, *group)
    if not streamed:
        _store_whole(emit, layer.target)


class _Part(NamedTuple):
    """Common part of a row group's commands, one per block.

    Attributes:
        fields: operands, with bases of the first block and flags without `RELEASE`.
        reads, writes: on-chip byte ranges.
        first: first row.
    """

    fields: dict[str, int]
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    first: int

    def command(self, layer: Linear, block: _WeightBlock, *, release: bool) -> Command:
        """The command of a block."""
        fields = self.fields.copy()
        fields["ob"] = block.tiles
        fields["target_base"] += block.first
        if layer.addend is not None:
            fields["addend_base"] += block.first
        if release:
            fields["flags"] |= RELEASE
        work = {"rows": fields["rows"], "k": block.k, "n": block.n}
        return Command(RING, fields, self.reads, self.writes, layer.name, work, self.first, fields["rows"])


def _parts(emit: Emission, layer: Linear, cut: list[tuple[int, int]], ib: int) -> dict[tuple[int, int], _Part]:
    """The `_Part` of every row group; emits the loads of the layer's table and of the rows to add."""
    found, word = emit.layout, emit.layout.widths.word
    source, target = found.regions[layer.source], found.regions[layer.target]
    port, memories = found.width(target.memory, RING, "out"), found.memories
    shared = {
        "source": memories.number(RING, "source", source.memory),
        "target": memories.number(RING, "out", target.memory),
        "kw": ceil_div(found.columns[layer.source].total, word), "ib": ib, "source_stride": source.pitch // word,
        "target_stride": target.pitch // port, "low": layer.low, "high": layer.high, "flags": 0,
    }  # fmt: skip
    fixed = _table(emit, layer, shared)
    addend = _addend(emit, layer.addend) if layer.addend is not None else None
    if addend is not None:
        shared |= {"addend": memories.number(RING, "addend", addend.memory), "addend_stride": addend.pitch // port}
    most, parts = cut[0][1], dict[tuple[int, int], _Part]()
    reads = found.spans(layer.source, layer.first_row, layer.rows, most)
    writes = found.spans(layer.target, 0, layer.rows, most)
    adds = found.spans(layer.addend, 0, layer.rows, most) if layer.addend is not None else []
    for index, (group, read, write) in enumerate(zip(cut, reads, writes, strict=True)):
        fields = shared | {"rows": group[1], "source_base": read.start // word, "target_base": write.start // port}
        spans = (read, *fixed, *adds[index : index + 1])
        if adds:
            fields["addend_base"] = adds[index].start // port
        parts[group] = _Part(fields, spans, (write,), group[0])
    return parts


def _table(emit: Emission, layer: Linear, fields: dict[str, int]) -> tuple[Span, ...]:
    """Puts the layer's 8-bit table into the operands; returns its byte range. Equal tables are loaded once."""
    if layer.table is None:
        return ()
    number = emit.layout.analysis.tables[layer]
    fields |= {"table": number, "flags": USE_TABLE}
    span = Span(LUT, LUT_BYTES * number, LUT_BYTES * (number + 1))
    if number not in emit.present:
        emit.present.add(number)
        emit.load(span, layer.table.tobytes, layer.name)
    return (span,)


def _addend(emit: Emission, name: str) -> Region:
    """The region of rows to add; constant rows and those of an input are loaded at their first use."""
    region, constants = emit.layout.regions[name], emit.layout.network.constants
    _need_input(emit, name, (0, region.rows), 0)
    if name in constants and name not in emit.present:
        emit.present.add(name)
        emit.load(region.span(0, region.rows), partial(_wide_rows, constants[name], region.pitch), name)
    return region


def _wide_rows(rows: NDArray[np.int16], pitch: int) -> bytes:
    """Rows of 16 bits per element as they lie on chip."""
    wide = np.zeros((len(rows), pitch // 2), "<i2")
    wide[:, : rows.shape[1]] = rows
    return wide.tobytes()


def _need_input(emit: Emission, name: str, group: tuple[int, int], first_row: int) -> None:
    """Emits the load of input rows that a command is about to read: all at once if they stay on chip."""
    if name not in emit.inputs:
        return
    place, region = emit.inputs[name], emit.layout.regions[name]
    if not region.streamed and name in emit.present:
        return
    emit.present.add(name)
    first, rows = (first_row + group[0], group[1]) if region.streamed else (0, place.rows)
    memory = emit.load_number(region.memory)
    emit.commands.append(_transfer("load", memory, emit.layout, place, name, first, rows))


def _store_whole(emit: Emission, name: str) -> None:
    """Emits the store of a network output; else nothing."""
    if name in emit.outputs:
        _store_rows(emit, name, 0, emit.outputs[name].rows)


def _store_rows(emit: Emission, name: str, first: int, rows: int) -> None:
    memory = emit.layout.memories.number("store", "source", emit.layout.regions[name].memory)
    emit.commands.append(_transfer("store", memory, emit.layout, emit.outputs[name], name, first, rows))


def _transfer(engine: str, memory: int, found: Layout, place: DramMatrix, name: str, first: int, rows: int) -> Command:
    """Load or store command of some rows of a tensor."""
    region, word = found.regions[name], found.widths.word
    span = region.span(first, rows)
    fields = {
        "memory": memory, "address": span.start // word, "words": rows * region.pitch // word,
        "dram": place.address + first * place.pitch,
    }  # fmt: skip
    if engine == "load":
        return Command(engine, fields, writes=(span,), label=name)
    return Command(engine, fields, reads=(span,), label=name)


def _pack_weights(emit: Emission, layer: Linear, blocks: list[_WeightBlock]) -> dict[int, Command]:
    """The fetches of a layer's blocks by first tile; puts their requantization tables and weights into the image."""
    t_out, word, packed = emit.layout.t_out, emit.layout.widths.word, list[tuple[Any, Any]]()

    def data(block: _WeightBlock) -> bytes:
        if not packed:
            packed.append(_packed(emit, layer, blocks))
        rows, tiles = packed[0]
        mine = slice(block.first, block.first + block.tiles)
        return bytes(rows[mine].tobytes() + tiles[mine].tobytes())

    fetches = {}
    for block in blocks:
        head, body = block.tiles * 8 * t_out, block.tiles * block.ib * emit.t_in * t_out
        place = emit.constant(head + body, partial(data, block))
        fields = {"table_words": head // word, "weight_words": body // word, "dram": place}
        fetches[block.first] = Command("fetch", fields, label=layer.name)
    return fetches


def _packed(emit: Emission, layer: Linear, blocks: list[_WeightBlock]) -> tuple[NDArray[np.uint64], NDArray[np.int8]]:
    """The layer's requantization table and weights, tile by tile."""
    found, t_in, t_out, ib = emit.layout, emit.t_in, emit.layout.t_out, blocks[0].ib
    inputs, outputs = found.columns[layer.source], found.columns[layer.target]
    ob = sum(block.tiles for block in blocks)
    weights = np.zeros((ob * t_out, ib * t_in), np.int8)
    weights[np.ix_(outputs.places, inputs.places)] = layer.weights
    table = np.zeros(ob * t_out, np.uint64)
    bias = layer.bias.astype(np.int64) & 0xFFFFFFFF
    table[outputs.places] = (bias | layer.multiplier << 32 | layer.shift << 49).astype(np.uint64)
    tiles = weights.reshape(ob, t_out, ib, t_in).transpose(0, 2, 1, 3)
    return table.astype("<u8").reshape(ob, t_out), tiles


class _Placed:
    """Placement of a layer's matrices in words of its engine's ports; see `codesign.target.kernel.Placement`."""

    def __init__(self, found: Layout, step: int, layer: Layer, engine: str) -> None:
        self.layout = found
        reached = command_kernel(engine).reaches(layer)
        self._words = {name: found.width(found.home[name], engine, port) for name, port in reached}
        self._constants = [
            start // found.width(memory, engine, found.reader(memory, engine))
            for memory, start, _ in found.constants[step]
        ]

    def base(self, tensor: str, row: int) -> int:
        """Word address of a row."""
        return self.layout.regions[tensor].at(row) // self._words[tensor]

    def stride(self, tensor: str) -> int:
        """Words from one row to the next."""
        return self.layout.regions[tensor].pitch // self._words[tensor]

    def constant(self, index: int) -> int:
        """Word address of a constant."""
        return self._constants[index]

    def columns(self, tensor: str) -> Columns:
        """Columns of the matrix."""
        return self.layout.columns[tensor]


def emit_commands(emit: Emission, step: int, layer: Layer) -> None:
    """Emits one command per row group; matrices needed whole are read whole, constants are loaded once and stay."""
    found, engine = emit.layout, emit.layout.analysis.runs[step]
    kernel, params, place = command_kernel(engine), found.params[engine], _Placed(found, step, layer, engine)
    for read in layer.reads:
        _need_input(emit, read.tensor, (0, layer.rows), read.first_row)
    fixed = list[Span]()
    for constant, (memory, start, stop) in zip(kernel.constants(layer), found.constants[step], strict=True):
        fixed.append(Span(memory, start, stop))
        emit.load(fixed[-1], partial(constant.data, stop - start), layer.name)
    cut = groups(layer.rows, emit.row_group)
    fixed = [
        found.regions[read.tensor].span(0, found.regions[read.tensor].rows) for read in layer.reads if read.whole
    ] + fixed
    moving = [
        found.spans(read.tensor, read.first_row, layer.rows, emit.row_group) for read in layer.reads if not read.whole
    ]
    writes = found.spans(layer.target, 0, layer.rows, emit.row_group)
    columns = found.columns[layer.target] if kernel.padding else None
    for (first, rows), write, *reads in zip(cut, writes, *moving, strict=True):
        fields, work = kernel.operands(layer, params, place, first, rows), kernel.work(layer, first, rows, columns)
        emit.commands.append(Command(engine, fields, (*reads, *fixed), (write,), layer.name, work, first, rows))  # type: ignore[arg-type]
    _store_whole(emit, layer.target)
