"""From an integer network and a design to a command list, a memory plan and a DRAM image.

Every layer becomes one command per group of rows (and per group of columns if its weights
do not fit the weight ring). Matrices lie in on-chip memories row by row, each row padded to
a pitch that every port of the memory divides. Heads are padded so that a row of all heads
keeps that pitch; the padding's weights are zero.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from codesign.command import (
    ADDENDS,
    COMMAND_BYTES,
    LOADS,
    NORM_SOURCES,
    RELEASE,
    RMS,
    SOURCES,
    STORES,
    TARGETS,
    USE_TABLE,
    WIDE,
    WIDE_RESULT,
    Command,
    Span,
    ordered,
)
from codesign.design import Design
from codesign.errors import NothingFits
from codesign.kernel import Number, Params, ceil_div, larger, smaller
from codesign.network import MASKS, Attention, Experts, Linear, Network, Norm, Route, Tensor

PAGE = 4096
FETCH_LEAD = 4
"""Weight blocks whose fetch is put ahead of the block in use."""
LUT_BYTES = 256
AFFINE_BYTES = 8


@dataclass(frozen=True)
class Place:
    """A matrix in DRAM: byte address, shape, bytes per row and bits per element."""

    name: str
    address: int
    rows: int
    columns: int
    pitch: int
    bits: int

    @property
    def size(self) -> int:
        """Bytes from the first to behind the last row."""
        return self.rows * self.pitch


@dataclass(frozen=True, eq=False)
class Program:
    """What one start of the accelerator runs.

    Attributes:
        commands: the list, tokens included.
        list_at: its byte address.
        constants: weights, tables and other constants, as they lie in DRAM.
        constants_at: their byte address.
        inputs, outputs: where the host puts and finds matrices, by tensor name.
        dram_bytes: DRAM that the program uses.
    """

    commands: tuple[Command, ...]
    list_at: int
    constants: bytes
    constants_at: int
    inputs: Mapping[str, Place]
    outputs: Mapping[str, Place]
    dram_bytes: int

    def encode(self) -> bytes:
        """The command list as bytes."""
        return b"".join(command.encode() for command in self.commands)


@dataclass(frozen=True)
class _Region:
    """A matrix in an on-chip memory: a window of rows, row ``r`` at ``base + (r % window) * pitch`` bytes."""

    memory: str
    base: int
    pitch: int
    window: int
    rows: int

    def at(self, row: int) -> int:
        return self.base + row % self.window * self.pitch

    def span(self, row: int, rows: int) -> Span:
        return Span(self.memory, self.at(row), self.at(row) + rows * self.pitch)


@dataclass(frozen=True)
class _Columns:
    """Physical columns of a matrix: ``heads`` groups of ``wide`` columns, the first ``used`` of each real."""

    heads: int
    used: int
    wide: int
    total: int

    @property
    def index(self) -> NDArray[np.int64]:
        """Physical column of each logical one."""
        head, column = np.divmod(np.arange(self.heads * self.used), self.used)
        return head * self.wide + column


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


class _Layout:
    """Pitches, windows and addresses of all tensors in the on-chip memories."""

    def __init__(self, network: Network, design: Design) -> None:
        self.network, self.design = network, design
        self.home = homes(network)
        self.columns = {name: self._columns(tensor) for name, tensor in network.tensors.items()}
        self.pitch = {name: self._pitch(name) for name in self.home}
        self.need: dict[str, int] = {}
        self.regions = self._allocate()

    def _columns(self, tensor: Tensor) -> _Columns:
        """Heads are padded in matrices that the attention engine touches."""
        for layer in self.network:
            if isinstance(layer, Attention) and tensor.name in (layer.query, layer.key, layer.value, layer.target):
                t_a = self.design.engines["attention"]["t_a"]
                wide = ceil_div(layer.head_dim, t_a) * t_a
                unit = max(self.design.linear["t_out"], self.design.word_bytes)
                return _Columns(layer.heads, layer.head_dim, wide, int(head_columns(layer.heads, wide, unit)))
        return _Columns(1, tensor.columns, tensor.columns, tensor.columns)

    def _pitch(self, name: str) -> int:
        """Bytes per row, a multiple of the width of every port of the memory."""
        wide = 2 if self.home[name] in WIDE else 1
        columns = self.columns[name].total if name in self.columns else self.network.constants[name].shape[1]
        unit = max(self.design.word_bytes, wide * self.design.linear["t_out"])
        if "vector" in self.design.engines and self.home[name] in ("residual", "normed", "skip"):
            unit = max(unit, wide * self.design.engines["vector"]["t_v"])
        return padded(columns * wide, unit)

    def _allocate(self) -> dict[str, _Region]:
        """First fit by lifetime; what does not fit its memory gets a window of rows if it may."""
        last = self._last_use()
        live: dict[str, list[tuple[int, int, int]]] = {}
        regions: dict[str, _Region] = {}
        for step, name in self._births():
            memory, pitch = self.home[name], self.pitch[name]
            rows = (
                self.network.tensors[name].rows if name in self.network.tensors else len(self.network.constants[name])
            )
            taken = sorted(block for block in live.get(memory, []) if block[2] >= step)
            base = 0
            for start, stop, _ in taken:
                if base + rows * pitch <= start:
                    break
                base = max(base, stop)
            window = self._window(name, base, rows)
            live[memory] = [*taken, (base, base + window * pitch, last[name])]
            self.need[memory] = max(self.need.get(memory, 0), base + window * pitch)
            regions[name] = _Region(memory, base, pitch, window, rows)
        return regions

    def _window(self, name: str, base: int, rows: int) -> int:
        """Rows kept on chip at once: all, or for streamed inputs and outputs what the memory holds."""
        capacity = self.design.memories.get(self.home[name])
        if capacity is None or base + rows * self.pitch[name] <= capacity:
            return rows
        fit = (capacity - base) // self.pitch[name] // 2 * 2
        if self.home[name] not in ("input", "output") or len(self.network.layers) > 1 or fit < 2:
            return rows
        return fit

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


@dataclass
class _Emitter:
    """Collects commands and the constants they refer to."""

    network: Network
    design: Design
    layout: _Layout
    constants_at: int
    inputs: Mapping[str, Place]
    outputs: Mapping[str, Place]
    commands: list[Command] = field(default_factory=list)
    fetches: list[tuple[int, Command]] = field(default_factory=list)
    image: bytearray = field(default_factory=bytearray)
    luts: dict[bytes, int] = field(default_factory=dict)
    affine: int = 0
    present: set[str] = field(default_factory=set)
    bare: bool = False
    size: int = 0

    def constant(self, size: int, data: Callable[[], bytes]) -> int:
        """Puts bytes into the image on a page of their own, or but leaves room for them; returns their address."""
        address = self.constants_at + self.size
        self.size += padded(size, PAGE)
        if not self.bare:
            self.image += data() + bytes(-size % PAGE)
        return address

    def load(self, memory: str, byte: int, data: bytes, label: str) -> None:
        """Loads a constant into an on-chip memory."""
        word = self.design.word_bytes
        data += bytes(-len(data) % word)
        fields = {
            "memory": LOADS.index(memory),
            "address": byte // word,
            "words": len(data) // word,
            "dram": self.constant(len(data), lambda: data),
        }
        self.commands.append(Command("load", fields, writes=(Span(memory, byte, byte + len(data)),), label=label))


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


def block_tiles(rows: int, ib: Number, ob: Number, linear: Params, row_group: int) -> Number:
    """Tiles of one command: as many as the table ring holds, and the weight ring where more than one group needs them.

    Args:
        rows: of the layer.
        ib: weight words per tile.
        ob: tiles of the layer.
        linear: n_l, ring_words and table_words.
        row_group: most rows per command.
    """
    again: Number = (rows > smaller(linear["n_l"], row_group)) * 1
    kept = smaller(linear["table_words"], larger(linear["ring_words"] // ib, 1))
    return smaller(ob, again * kept + (1 - again) * linear["table_words"])


def compile_network(network: Network, design: Design, *, bare: bool = False) -> Program:
    """The program of a network on a design.

    Args:
        network: its layers.
        design: what it runs on.
        bare: without the bytes of the constants, which decide no command.

    Raises:
        NothingFits: a memory, table or ring of the design is too small; the message names it, the need
            and what there is.
    """
    check_engines(network)
    layout = _Layout(network, design)
    _check_memories(layout, design)
    inputs, outputs, end = _host_places(layout)
    emit = _Emitter(network, design, layout, end, inputs, outputs, bare=bare)
    for layer in network:
        if isinstance(layer, Linear):
            _linear(emit, layer)
        elif isinstance(layer, Attention):
            _attention(emit, layer)
        elif isinstance(layer, Norm):
            _norm(emit, layer)
    return _finish(emit)


def check_engines(network: Network) -> None:
    """Refuse layers for which there is no engine.

    Raises:
        NothingFits: the message names them.
    """
    lost = [layer.name for layer in network if isinstance(layer, Route | Experts)]
    if lost:
        raise NothingFits(f"{network.name}: no engine runs a mixture of experts yet: {', '.join(lost)}")


def program_traffic(program: Program, word_bytes: int) -> tuple[int, int]:
    """Bytes that a program reads from and writes to DRAM, its own list included."""
    words = {"load": 0, "fetch": 0, "store": 0}
    for command in program.commands:
        if command.engine in words:
            fields = command.fields
            words[command.engine] += sum(fields.get(name, 0) for name in ("words", "table_words", "weight_words"))
    reads = (words["load"] + words["fetch"]) * word_bytes + len(program.commands) * COMMAND_BYTES
    return reads, words["store"] * word_bytes


def memory_need(network: Network, design: Design) -> dict[str, int]:
    """Bytes that each on-chip memory must hold to keep every tensor of the network whole."""
    bare = Design(design.board, design.engines, {}, design.row_group)
    need = dict(_Layout(network, bare).need)
    norms = sum(isinstance(layer, Norm) for layer in network)
    if norms:
        widest = max(layer.d for layer in network if isinstance(layer, Norm))
        need["affine"] = norms * _affine_pitch(widest, design)
    return need


def linear_columns(network: Network, design: Design) -> list[tuple[Linear, int, int]]:
    """Every linear layer with the columns of its source and target as they lie on chip, padded heads included."""
    columns = _Layout(network, Design(design.board, design.engines, {}, design.row_group)).columns
    layers = [layer for layer in network if isinstance(layer, Linear)]
    return [(layer, columns[layer.source].total, columns[layer.target].total) for layer in layers]


def _check_memories(layout: _Layout, design: Design) -> None:
    for memory, need in layout.need.items():
        have = design.memories.get(memory, 0)
        if need > have:
            raise NothingFits(f"memory {memory} needs {need} bytes, the design has {have}; smallest that fits: {need}")


def _host_places(layout: _Layout) -> tuple[dict[str, Place], dict[str, Place], int]:
    """DRAM places of inputs and outputs from address 0 on, and the address behind them."""
    network, address = layout.network, 0
    places: list[dict[str, Place]] = [{}, {}]
    ports = [[(put.name, put.target) for put in network.inputs], [(out.name, out.source) for out in network.outputs]]
    for found, names in zip(places, ports, strict=True):
        for name, tensor_name in names:
            tensor = network.tensors[tensor_name]
            place = Place(name, address, tensor.rows, tensor.columns, layout.pitch[tensor_name], tensor.bits)
            found[tensor_name] = place
            address += ceil_div(place.size, PAGE) * PAGE
    return places[0], places[1], address


def _finish(emit: _Emitter) -> Program:
    """Puts the fetches ahead of their use, orders everything by tokens, and closes the memory plan."""
    commands: list[Command] = []
    uses = dict.fromkeys(index for index, _ in emit.fetches)
    fetches, lead_at = _behind_loads(emit)
    placed, wanted = 0, 1
    for index, command in enumerate(emit.commands):
        wanted += (FETCH_LEAD - 1) * (index == lead_at) + (index in uses)
        until = wanted if index >= lead_at else index > 0
        commands += fetches[placed:until]
        placed = max(placed, until)
        commands.append(command)
    list_at = emit.constants_at + emit.size
    return Program(
        commands=tuple(ordered(commands)),
        list_at=list_at,
        constants=bytes(emit.image),
        constants_at=emit.constants_at,
        inputs=emit.inputs,
        outputs=emit.outputs,
        dram_bytes=list_at + ceil_div(len(commands) * COMMAND_BYTES, PAGE) * PAGE,
    )


def _behind_loads(emit: _Emitter) -> tuple[list[Command], int]:
    """The fetches in order, and the index of the command ahead of which the first but one belongs.

    What is loaded before that one's use is needed first and would wait behind its bursts; so it begins
    behind those loads. In a single layer rows are loaded all the time, and nothing waits.
    """
    fetches = [command for _, command in emit.fetches]
    if len(fetches) < 2 or len(emit.network.layers) < 2:
        return fetches, 0
    loads = [index for index in range(emit.fetches[1][0]) if emit.commands[index].engine == "load"]
    spans = tuple(span for index in loads for span in emit.commands[index].writes)
    fetches[1] = replace(fetches[1], reads=spans)
    return fetches, max(loads, default=-1) + 1


def _groups(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each group."""
    for first in range(0, rows, most):
        yield first, min(most, rows - first)


def _linear(emit: _Emitter, layer: Linear) -> None:
    """Blocks of columns that fit the rings, and for each the groups of rows.

    A streamed output is written row group by row group, so its blocks are the inner loop and
    their weights are fetched again for every group.
    """
    p, layout = emit.design.linear, emit.layout
    ib = ceil_div(layout.columns[layer.source].total, p["t_in"])
    ob = ceil_div(layout.columns[layer.target].total, p["t_out"])
    _check_linear(emit, layer, ib)
    groups = list(_groups(layer.rows, _common_chunk(emit, layer)))
    whole = int(block_tiles(layer.rows, ib, ob, p, emit.design.row_group))
    blocks = [_Block(layer, first, min(whole, ob - first), ib) for first in range(0, ob, whole)]
    packed = _pack_weights(emit, layer, blocks)
    streamed = layout.regions[layer.target].window < layout.regions[layer.target].rows
    order = [(b, g) for b in blocks for g in groups]
    if streamed and len(blocks) > 1:
        order = [(b, g) for g in groups for b in blocks]
    for index, (block, group) in enumerate(order):
        before = order[index - 1][0] if index else None
        after = order[index + 1][0] if index + 1 < len(order) else None
        _need_input(emit, layer.source, group, layer.first_row)
        if before is not block:
            emit.fetches.append((len(emit.commands), packed[block.first]))
        _linear_command(emit, layer, group, block, RELEASE * (after is not block))
        if streamed and block is blocks[-1]:
            _store_rows(emit, layer.target, *group)
    if not streamed:
        _store_whole(emit, layer.target)


@dataclass(frozen=True)
class _Block:
    """Tiles ``first`` to ``first + tiles`` of a layer, of ``ib`` weight words each."""

    layer: Linear
    first: int
    tiles: int
    ib: int


def _common_chunk(emit: _Emitter, layer: Linear) -> int:
    """Most rows of a command; windows shrink to a multiple of it, so that no group crosses the end of one."""
    regions = emit.layout.regions
    chunk = min(emit.design.row_group, *(_chunk(regions[name]) for name in (layer.source, layer.target)))
    for name in (layer.source, layer.target):
        region = regions[name]
        if region.window < region.rows:
            regions[name] = replace(region, window=region.window // chunk * chunk)
    return chunk


def _chunk(region: _Region) -> int:
    """Most rows of a command: half the window, so that the other half can be filled or emptied."""
    return region.rows if region.window >= region.rows else region.window // 2


def _check_linear(emit: _Emitter, layer: Linear, ib: int) -> None:
    """Refuses what no cut of the layer could fit into the design."""
    p = emit.design.linear
    words = ceil_div(emit.layout.columns[layer.source].total, emit.design.word_bytes)
    if words > p["kw_max"]:
        raise NothingFits(
            f"{layer.name}: a source row has {words} words, kw_max is {p['kw_max']}; smallest that fits: {words}"
        )
    if ib > p["ring_words"]:
        raise NothingFits(
            f"{layer.name}: a tile has {ib} weight words, the ring {p['ring_words']}; smallest that fits: {ib}"
        )


def _need_input(emit: _Emitter, name: str, group: tuple[int, int], first_row: int) -> None:
    """Loads input rows that a command is about to read: all at once if they stay on chip."""
    if name not in emit.inputs:
        return
    place, region, word = emit.inputs[name], emit.layout.regions[name], emit.design.word_bytes
    whole = region.window >= region.rows
    if whole and name in emit.present:
        return
    emit.present.add(name)
    first, rows = (0, place.rows) if whole else (first_row + group[0], group[1])
    fields = {
        "memory": LOADS.index(region.memory), "address": region.at(first) // word, "words": rows * region.pitch // word,
        "dram": place.address + first * place.pitch,
    }  # fmt: skip
    emit.commands.append(Command("load", fields, writes=(region.span(first, rows),), label=name))


def _store_whole(emit: _Emitter, name: str) -> None:
    """Stores a network output; nothing for any other tensor."""
    if name in emit.outputs:
        _store_rows(emit, name, 0, emit.outputs[name].rows)


def _store_rows(emit: _Emitter, name: str, first: int, rows: int) -> None:
    place, region, word = emit.outputs[name], emit.layout.regions[name], emit.design.word_bytes
    fields = {
        "memory": STORES.index(region.memory),
        "address": region.at(first) // word,
        "words": rows * region.pitch // word,
        "dram": place.address + first * place.pitch,
    }
    emit.commands.append(Command("store", fields, reads=(region.span(first, rows),), label=name))


def _pack_weights(emit: _Emitter, layer: Linear, blocks: list[_Block]) -> dict[int, Command]:
    """Puts the layer's blocks into the image: requantization table, then weights, as the array consumes them."""
    p, word, packed = emit.design.linear, emit.design.word_bytes, list[tuple[Any, Any]]()

    def data(block: _Block) -> bytes:
        if not packed:
            packed.append(_packed(emit, layer, blocks))
        rows, tiles = packed[0]
        mine = slice(block.first, block.first + block.tiles)
        return bytes(rows[mine].tobytes() + tiles[mine].tobytes())

    fetches = {}
    for block in blocks:
        head, body = block.tiles * 8 * p["t_out"], block.tiles * block.ib * p["t_in"] * p["t_out"]
        place = emit.constant(head + body, partial(data, block))
        fields = {"table_words": head // word, "weight_words": body // word, "dram": place}
        fetches[block.first] = Command("fetch", fields, label=layer.name)
    return fetches


def _packed(emit: _Emitter, layer: Linear, blocks: list[_Block]) -> tuple[NDArray[np.uint64], NDArray[np.int8]]:
    """The layer's requantization table and weights, tile by tile."""
    p, layout = emit.design.linear, emit.layout
    t_in, t_out, ib = p["t_in"], p["t_out"], blocks[0].ib
    inputs, outputs = layout.columns[layer.source], layout.columns[layer.target]
    ob = sum(block.tiles for block in blocks)
    weights = np.zeros((ob * t_out, ib * t_in), np.int8)
    weights[np.ix_(outputs.index, inputs.index)] = layer.weights
    table = np.zeros(ob * t_out, np.uint64)
    bias = layer.bias.astype(np.int64) & 0xFFFFFFFF
    table[outputs.index] = (bias | layer.multiplier << 32 | layer.shift << 49).astype(np.uint64)
    tiles = weights.reshape(ob, t_out, ib, t_in).transpose(0, 2, 1, 3)
    return table.astype("<u8").reshape(ob, t_out), tiles


def _linear_command(emit: _Emitter, layer: Linear, group: tuple[int, int], block: _Block, release: int) -> None:
    """One row group of one block."""
    p, word, layout = emit.design.linear, emit.design.word_bytes, emit.layout
    first, rows = group
    source, target = layout.regions[layer.source], layout.regions[layer.target]
    wide = 2 if target.memory in WIDE else 1
    port = wide * p["t_out"]
    start = target.at(first) // port + block.first
    fields = {
        "rows": rows, "source": SOURCES.index(source.memory), "target": TARGETS.index(target.memory),
        "kw": ceil_div(layout.columns[layer.source].total, word), "ib": block.ib, "ob": block.tiles,
        "source_base": source.at(layer.first_row + first) // word, "source_stride": source.pitch // word,
        "target_base": start, "target_stride": target.pitch // port, "low": layer.low, "high": layer.high,
    }  # fmt: skip
    reads = [source.span(layer.first_row + first, rows)]
    flags = release
    if layer.table is not None:
        fields["table"] = _lut(emit, layer)
        flags |= USE_TABLE
        reads.append(Span("lut", LUT_BYTES * fields["table"], LUT_BYTES * (fields["table"] + 1)))
    if layer.addend is not None:
        addend = _addend(emit, layer.addend)
        fields |= {
            "addend": ADDENDS.index(addend.memory), "addend_base": addend.at(first) // port + block.first,
            "addend_stride": addend.pitch // port,
        }  # fmt: skip
        reads.append(addend.span(first, rows))
    command = Command("linear", fields | {"flags": flags}, tuple(reads), (target.span(first, rows),), layer.name)
    emit.commands.append(command)


def _lut(emit: _Emitter, layer: Linear) -> int:
    """Number of the layer's 8-bit table; equal tables are loaded once."""
    assert layer.table is not None
    data = layer.table.tobytes()
    if data not in emit.luts:
        number = len(emit.luts)
        if number >= emit.design.linear["tables"]:
            raise NothingFits(f"{layer.name}: table {number + 1}, the design has {emit.design.linear['tables']}")
        emit.luts[data] = number
        emit.load("lut", LUT_BYTES * number, data, layer.name)
    return emit.luts[data]


def _addend(emit: _Emitter, name: str) -> _Region:
    """The region of rows to add; constant rows and those of an input are loaded at their first use."""
    region = emit.layout.regions[name]
    _need_input(emit, name, (0, region.rows), 0)
    if name in emit.network.constants and name not in emit.present:
        emit.present.add(name)
        rows = emit.network.constants[name]
        padded = np.zeros((len(rows), region.pitch // 2), "<i2")
        padded[:, : rows.shape[1]] = rows
        emit.load("position", region.base, padded.tobytes(), name)
    return region


def _attention(emit: _Emitter, layer: Attention) -> None:
    """One command per group of query rows; keys and values stay whole."""
    t_a = emit.design.engines["attention"]["t_a"]
    q, k, v, o = (emit.layout.regions[name] for name in (layer.query, layer.key, layer.value, layer.target))
    columns = emit.layout.columns[layer.query]
    fields = {
        "keys": layer.keys, "heads": columns.total // columns.wide, "db": columns.wide // t_a, "k_base": k.base // t_a,
        "v_base": v.base // t_a, "mask": MASKS.index(layer.mask), "window": layer.window,
        "score_multiplier": layer.score_multiplier, "score_shift": layer.score_shift,
        "out_multiplier": layer.out_multiplier, "out_shift": layer.out_shift,
    }  # fmt: skip
    for first, rows in _groups(layer.rows, emit.design.row_group):
        mine = {"rows": rows, "query_offset": first, "q_base": q.at(first) // t_a, "o_base": o.at(first) // t_a}
        reads = (q.span(first, rows), k.span(0, layer.keys), v.span(0, layer.keys))
        emit.commands.append(Command("attention", fields | mine, reads, (o.span(first, rows),), layer.name))


def _affine_pitch(d: int, design: Design) -> int:
    """Bytes of a norm's gains and biases on chip."""
    return padded(d * AFFINE_BYTES, max(design.word_bytes, AFFINE_BYTES * design.engines["vector"]["t_v"]))


def _norm(emit: _Emitter, layer: Norm) -> None:
    """One command per group of rows; gains and biases are loaded once and stay."""
    t_v = emit.design.engines["vector"]["t_v"]
    base, size = emit.affine, _affine_pitch(layer.d, emit.design)
    emit.affine += size
    if emit.affine > emit.design.memories["affine"]:
        raise NothingFits(
            f"memory affine needs {emit.affine} bytes for {layer.name}, the design has {emit.design.memories['affine']}"
        )
    packed = (layer.bias.astype(np.int64) & 0xFFFFFFFF) | (layer.gain.astype(np.int64) & 0xFFFF) << 32
    emit.load("affine", base, packed.astype("<u8").tobytes().ljust(size, b"\0"), layer.name)
    source, target = emit.layout.regions[layer.source], emit.layout.regions[layer.target]
    port = layer.bits // 8 * t_v
    fields = {
        "d": layer.d, "r_stride": source.pitch // (2 * t_v), "g_base": base // (AFFINE_BYTES * t_v),
        "x_stride": target.pitch // port, "shift": layer.shift, "eps": layer.eps,
        "flags": RMS * layer.rms + WIDE_RESULT * (layer.bits == 16),
    }  # fmt: skip
    for first, rows in _groups(layer.rows, emit.design.row_group):
        at = layer.first_row + first
        mine = {"rows": rows, "r_base": source.at(at) // (2 * t_v), "x_base": target.at(first) // port}
        reads = (source.span(at, rows), Span("affine", base, base + size))
        emit.commands.append(Command("vector", fields | mine, reads, (target.span(first, rows),), layer.name))
    _store_whole(emit, layer.target)
