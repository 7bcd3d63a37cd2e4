"""Compilation of an integer network for a design: command list, memory plan and DRAM image.

Every layer becomes one command per row group (and per group of columns if its weights
do not fit the weight ring). `codesign.compiler.layout` places the matrices on chip.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from codesign.compiler.emission import PAGE, DramMatrix, Emission, emit_commands, emit_linear
from codesign.compiler.layout import Layout, layout
from codesign.errors import NothingFits
from codesign.ir.network import Linear, Network
from codesign.target.commands import Command, ordered
from codesign.target.design import Design
from codesign.target.engines import COMMAND_BYTES, MOVERS, engine_names
from codesign.target.kernel import Number, Params, ceil_div, maximum, minimum

FETCH_LEAD = 4
"""Weight blocks fetched ahead of the block in use."""
_KEPT = 128
"""Programs without constants that are cached: neighbouring designs often run the same one."""


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
    """The program of a layout for ``t_in``, rows per command and tiles per command of each layer, see `_cuts`."""
    inputs, outputs, end = _host_places(found)
    emit = Emission(found, t_in, row_group, end, inputs, outputs, bare=bare)
    for step, (layer, tiles) in enumerate(zip(found.network, cuts, strict=True)):
        if isinstance(layer, Linear):
            emit_linear(emit, layer, tiles)
        else:
            emit_commands(emit, step, layer)
    return _finish(emit)


@lru_cache(_KEPT)
def _bare_program(found: Layout, t_in: int, row_group: int, cuts: tuple[int, ...]) -> Program:
    return _program(found, t_in, row_group, cuts, bare=True)


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


def _finish(emit: Emission) -> Program:
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


def _behind_loads(emit: Emission) -> tuple[list[Command], int]:
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
