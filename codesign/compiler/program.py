"""Compilation of an integer network for a design: command list, memory plan and DRAM image.

Every layer becomes one command per row group (and per group of columns if its weights
do not fit the weight ring). `codesign.compiler.layout` places the matrices on chip.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.layout import Layout, Region, groups, layout
from codesign.errors import NothingFits
from codesign.ir.network import Layer, Linear, Network
from codesign.target.commands import RELEASE, USE_TABLE, Command, Span, ordered
from codesign.target.design import Design
from codesign.target.engines import COMMAND_BYTES, LUT, MOVERS, RING, command_kernel, engine_names
from codesign.target.kernel import Columns, Number, Params, ceil_div, maximum, minimum, padded

PAGE = 4096
FETCH_LEAD = 4
"""Weight blocks fetched ahead of the block in use."""
LUT_BYTES = 256
_KEPT = 128
"""Programs without constants that are cached: neighbouring designs often run the same one."""


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


class Job(NamedTuple):
    """A work of an engine, and the indices of the commands that do it."""

    engine: str
    work: Mapping[str, int]
    commands: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """Commands and data of one run of the accelerator.

    Attributes:
        commands: the command list, tokens included.
        list_at: its byte address.
        constants: weights, tables and other constants, as they lie in DRAM.
        constants_at: their byte address.
        inputs, outputs: places that the host writes and reads, by tensor name.
        dram_bytes: DRAM that the program uses.
        engines: the design's, ordered by number.
    """

    commands: tuple[Command, ...]
    list_at: int
    constants: bytes
    constants_at: int
    inputs: Mapping[str, DramMatrix]
    outputs: Mapping[str, DramMatrix]
    dram_bytes: int
    engines: tuple[str, ...]

    def encode(self) -> bytes:
        """The command list as bytes."""
        return b"".join(command.encode(self.engines) for command in self.commands)

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Engine and label of every command."""
        return tuple((command.engine, command.label) for command in self.commands)

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Distinct works of the commands; data movers have none."""
        found: dict[tuple[str, tuple[tuple[str, int], ...]], list[int]] = {}
        for index, command in enumerate(self.commands):
            if command.engine not in MOVERS:
                found.setdefault((command.engine, tuple(command.work.items())), []).append(index)
        return tuple(Job(engine, dict(work), tuple(commands)) for (engine, work), commands in found.items())


def block_tiles(rows: int, ib: Number, ob: Number, linear: Params, row_group: Number) -> Number:
    """Tiles of one command: as many as the table ring holds, and also the weight ring if several passes use them.

    Args:
        rows: rows of the layer.
        ib: weight words per tile.
        ob: tiles of the layer.
        linear: n_l, ring_words and table_words.
        row_group: most rows per command.
    """
    again: Number = (rows > minimum(linear["n_l"], row_group)) * 1
    kept = minimum(linear["table_words"], maximum(linear["ring_words"] // ib, 1))
    return minimum(ob, again * kept + (1 - again) * linear["table_words"])


def compile_network(network: Network, design: Design, *, bare: bool = False) -> Program:
    """The program of a network on a design.

    Args:
        network: the network.
        design: the design that runs it.
        bare: leaves out the bytes of the constants, which affect no command. Such a program is shared by all designs
            equal in all that affects a cycle: cycles, traffic and works are those of the design's own program, but
            on-chip addresses may be in units of another design's ports.

    Raises:
        NothingFits: a memory, table or ring of the design is too small; the message names it, the need
            and its size.
    """
    found = layout(network, design)
    _check_memories(found, design)
    cuts = _cuts(found, design)
    t_in, row_group = design.linear["t_in"], design.row_group
    return _bare_program(found.first, t_in, row_group, cuts) if bare else _program(found, t_in, row_group, cuts)


def program_traffic(program: Program, word_bytes: int) -> tuple[int, int]:
    """Bytes that a program reads from and writes to DRAM, its own list included."""
    words = {"load": 0, "fetch": 0, "store": 0}
    for command in program.commands:
        if command.engine in words:
            fields = command.fields
            words[command.engine] += sum(fields.get(name, 0) for name in ("words", "table_words", "weight_words"))
    reads = (words["load"] + words["fetch"]) * word_bytes + len(program.commands) * COMMAND_BYTES
    return reads, words["store"] * word_bytes


def _check_memories(found: Layout, design: Design) -> None:
    for memory, need in found.need.items():
        have = design.memories.get(memory, 0)
        if need > have:
            raise NothingFits(f"memory {memory} needs {need} bytes, the design has {have}; smallest that fits: {need}")
    for layer, places in zip(found.network, found.constants, strict=True):
        for memory, _, need in places:
            if need > (have := design.memories[memory]):
                raise NothingFits(f"memory {memory} needs {need} bytes for {layer.name}, the design has {have}")


def _cuts(found: Layout, design: Design) -> tuple[int, ...]:
    """Tiles per command of every linear layer, 0 for any other layer.

    Raises:
        NothingFits: a layer does not fit the design however it is cut.
    """
    cuts, p = [0] * len(found.network.layers), design.linear
    for layer, numbers in found.kinds:
        ib, ob = found.tiles(layer, p["t_in"])
        _check_linear(found, design, layer, ib)
        tiles = int(block_tiles(layer.rows, ib, ob, p, design.row_group))
        for number in numbers:
            cuts[number] = tiles
    return tuple(cuts)


def _check_linear(found: Layout, design: Design, layer: Linear, ib: int) -> None:
    p = design.linear
    words = ceil_div(found.columns[layer.source].total, design.word_bytes)
    if words > p["kw_max"]:
        raise NothingFits(
            f"{layer.name}: a source row has {words} words, kw_max is {p['kw_max']}; smallest that fits: {words}"
        )
    if ib > p["ring_words"]:
        raise NothingFits(
            f"{layer.name}: a tile has {ib} weight words, the ring {p['ring_words']}; smallest that fits: {ib}"
        )
    number = found.analysis.tables.get(layer, -1)
    if number >= p["tables"]:
        raise NothingFits(f"{layer.name}: table {number + 1}, the design has {p['tables']}")


def _program(found: Layout, t_in: int, row_group: int, cuts: tuple[int, ...], bare: bool = False) -> Program:
    """The program of a layout; the numbers are all else that decides it, see `_cuts`."""
    inputs, outputs, end = _host_places(found)
    emit = _Emitter(found, t_in, row_group, end, inputs, outputs, bare=bare)
    for step, (layer, tiles) in enumerate(zip(found.network, cuts, strict=True)):
        if isinstance(layer, Linear):
            _linear(emit, layer, tiles)
        else:
            _commands(emit, step, layer)
    return _finish(emit)


@lru_cache(_KEPT)
def _bare_program(found: Layout, t_in: int, row_group: int, cuts: tuple[int, ...]) -> Program:
    return _program(found, t_in, row_group, cuts, bare=True)


@dataclass
class _Emitter:
    """Collects commands and the constants they refer to."""

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


def _host_places(found: Layout) -> tuple[dict[str, DramMatrix], dict[str, DramMatrix], int]:
    """DRAM places of inputs and outputs from address 0 on, and the address after them."""
    network, address = found.network, 0
    places: list[dict[str, DramMatrix]] = [{}, {}]
    ports = [[(put.name, put.target) for put in network.inputs], [(out.name, out.source) for out in network.outputs]]
    for side, names in zip(places, ports, strict=True):
        for name, tensor_name in names:
            tensor = network.tensors[tensor_name]
            place = DramMatrix(name, address, tensor.rows, tensor.columns, found.pitch[tensor_name], tensor.bits)
            side[tensor_name] = place
            address += ceil_div(place.size, PAGE) * PAGE
    return places[0], places[1], address


def _finish(emit: _Emitter) -> Program:
    """Inserts the fetches ahead of their use, adds all tokens, and completes the memory plan."""
    commands: list[Command] = []
    uses = dict.fromkeys(index for index, _ in emit.fetches)
    fetches, lead_at = _behind_loads(emit)
    behind, placed, wanted = 0, 0, 1
    for index in sorted({1, lead_at, *uses}):
        wanted += (FETCH_LEAD - 1) * (index == lead_at) + (index in uses)
        until = wanted if index >= lead_at else index > 0
        commands += emit.commands[behind:index] + fetches[placed:until]
        behind, placed = index, max(placed, until)
    commands += emit.commands[behind:]
    list_at = emit.constants_at + emit.size
    return Program(
        commands=tuple(ordered(commands)),
        list_at=list_at,
        constants=bytes(emit.image),
        constants_at=emit.constants_at,
        inputs=emit.inputs,
        outputs=emit.outputs,
        dram_bytes=list_at + ceil_div(len(commands) * COMMAND_BYTES, PAGE) * PAGE,
        engines=engine_names(emit.layout.params),
    )


def _behind_loads(emit: _Emitter) -> tuple[list[Command], int]:
    """The fetches in order, and the index of the command before which the second fetch belongs.

    The loads before its use are needed first and would wait for its bursts, so it starts after them.
    In a single layer rows are loaded all the time, and no fetch waits.
    """
    fetches = [command for _, command in emit.fetches]
    if len(fetches) < 2 or len(emit.layout.network.layers) < 2:
        return fetches, 0
    loads = [index for index in range(emit.fetches[1][0]) if emit.commands[index].engine == "load"]
    spans = tuple(span for index in loads for span in emit.commands[index].writes)
    fetches[1] = fetches[1]._replace(reads=spans)
    return fetches, max(loads, default=-1) + 1


class _WeightBlock(NamedTuple):
    """Tiles ``first`` to ``first + tiles`` of a layer, of ``ib`` weight words each; ``k`` times ``n`` weights."""

    first: int
    tiles: int
    ib: int
    k: int
    n: int


def _linear(emit: _Emitter, layer: Linear, most: int) -> None:
    """Emits all row groups for every block of columns that fits the rings.

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


def _parts(emit: _Emitter, layer: Linear, cut: list[tuple[int, int]], ib: int) -> dict[tuple[int, int], _Part]:
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


def _table(emit: _Emitter, layer: Linear, fields: dict[str, int]) -> tuple[Span, ...]:
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


def _addend(emit: _Emitter, name: str) -> Region:
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


def _need_input(emit: _Emitter, name: str, group: tuple[int, int], first_row: int) -> None:
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


def _store_whole(emit: _Emitter, name: str) -> None:
    """Emits the store of a network output; else nothing."""
    if name in emit.outputs:
        _store_rows(emit, name, 0, emit.outputs[name].rows)


def _store_rows(emit: _Emitter, name: str, first: int, rows: int) -> None:
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


def _pack_weights(emit: _Emitter, layer: Linear, blocks: list[_WeightBlock]) -> dict[int, Command]:
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


def _packed(emit: _Emitter, layer: Linear, blocks: list[_WeightBlock]) -> tuple[NDArray[np.uint64], NDArray[np.int8]]:
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


def _commands(emit: _Emitter, step: int, layer: Layer) -> None:
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
