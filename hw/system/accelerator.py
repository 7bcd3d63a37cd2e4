"""Hardware of a design: shape, Verilog, registers, resources and cycle formulas."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from codesign.hw.linear import DRAIN_LATENCY, array_latency
from codesign.hw.primitives.area import Units, area
from codesign.hw.primitives.memory import lutram, row_memory
from codesign.hw.system import top
from codesign.hw.system.bus import ADDR_BITS, BURST_BYTES, Bus
from codesign.hw.system.sequencer import COMMAND_QUEUE, ENGINE_QUEUE, FLIGHT_QUEUE, INDEX_BITS, flight_bits
from codesign.hw.system.top import Shape, Top
from codesign.hw.verilog import Sources, VerilogTarget, generate, regenerate
from codesign.target.board_figures import BoardMemory
from codesign.target.design import Design
from codesign.target.engines import COMMAND_BYTES, RING, engine_names, geometry, kernel_of, memory_map
from codesign.target.kernel import Kernel, Number, Params, Resources, ceil_div
from codesign.timing.formulas import Formulas

TOP = "top"
"""Name of the top module."""

_KEPT = 1 << 12
"""Cache size for the resources of engines and queues."""

_PRIMITIVE = "DSP48E2"
_MODULE = re.compile(r"^module (\\?\S+?) *\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^  (?!module\b)(\\?[\w.$]+) +(?:#\(.*?^  \) )?\\?[\w.$\[\]]+ +\($", re.MULTILINE | re.DOTALL)
_PRODUCT = re.compile(r"= [^';]+ \* [^';\d][^';]*;")


@dataclass(frozen=True)
class Hardware:
    """Generated hardware.

    Attributes:
        sources: Verilog for the device, with DSP48E2 primitives.
        models: behavioural Verilog, by file name, that replaces the files with a DSP48E2 in simulation.
    """

    sources: Sources
    models: Mapping[str, str]

    @property
    def simulated(self) -> dict[str, str]:
        """File name to Verilog for simulation."""
        return {**self.sources.files, **self.models}


def bus_of(memory: BoardMemory) -> Bus:
    """Off-chip interface of a board's memory; bursts in flight are rounded down to a power of two.

    Raises:
        ValueError: the hardware does not support the interface.
    """
    bus = Bus(memory.ports, memory.port_bits // 8, 1 << (memory.outstanding.bit_length() - 1))
    if bus.word_bytes & (bus.word_bytes - 1) or bus.word_bytes > COMMAND_BYTES:
        raise ValueError(
            f"{memory.ports} ports of {memory.port_bits} bits make a bus word of {bus.word_bytes} bytes; legal: a"
            f" power of two up to {COMMAND_BYTES}"
        )
    if memory.burst_bytes != BURST_BYTES:
        raise ValueError(f"memory.burst_bytes is {memory.burst_bytes}; legal for this hardware: {BURST_BYTES}")
    return bus


def identity(design: Design) -> bytes:
    """32-byte hash of everything the hardware depends on, and nothing else."""
    bus = bus_of(design.board.memory)
    document = [dict(vars(bus)), {n: dict(p) for n, p in design.engines.items()}, dict(design.memories)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()


def shape(design: Design) -> Shape:
    """Parameters of the hardware generator.

    Raises:
        ValueError: a parameter is illegal; the message names it.
    """
    return Shape(
        bus=bus_of(design.board.memory),
        engines={name: made(name, design) for name in engine_names(design.engines) if name in design.engines},
        memories=dict(design.memories),
        identity=identity(design),
    )


def made(engine: str, design: Design) -> Kernel:
    """Instantiates the kernel of an engine of a design.

    Raises:
        ValueError: a parameter is illegal; the message names it.
    """
    return kernel_of(engine)(**design.engines[engine], **_word(engine, design.word_bytes))


def _word(engine: str, word_bytes: int) -> dict[str, int]:
    """Bus word as keyword argument, for the engine that has it as a parameter."""
    return {"word_bytes": word_bytes} if engine == RING else {}


def sources(design: Design) -> Hardware:
    """Verilog of the design, for the device and for simulation."""
    target = VerilogTarget(primitives=True)
    found = generate(Top(shape(design)), TOP, target)
    units = [target.modules[name.removesuffix(".v")] for name, text in found.files.items() if _PRIMITIVE in text]
    return Hardware(found, regenerate(units, VerilogTarget(primitives=False)))


def simulation_sources(design: Design) -> Sources:
    """Behavioural Verilog of the design only, in half the time of `sources`."""
    return generate(Top(shape(design)), TOP)


def registers(design: Design) -> dict[str, object]:
    """Register map of a design as JSON values: byte offset and meaning by name."""
    fixed = {
        "ID": (top.ID, "eight words, the hash of the design"),
        "CONTROL": (top.CONTROL, "writing bit 0 starts a run"),
        "STATUS": (top.STATUS, "bit 0 running, 1 finished, 2 failed, 3 busy"),
        "ERROR": (top.ERROR, "bits 7..0 code, bits 31..16 index of the command"),
        "CYCLES_LOW": (top.CYCLES_LOW, "cycles from start to finish, low word"),
        "CYCLES_HIGH": (top.CYCLES_HIGH, "the same, high word"),
        "LIST_LOW": (top.LIST_LOW, "byte address of the command list, low word"),
        "LIST_HIGH": (top.LIST_HIGH, "the same, high word"),
        "LIST_COUNT": (top.LIST_COUNT, "number of commands"),
        "WATCHDOG": (top.WATCHDOG, "cycles without progress that end a run, 0 for never"),
        "INTERRUPT": (top.INTERRUPT, "any write takes the interrupt back"),
    }
    for base, name, meaning in (
        (top.BUSY, "BUSY", "cycles in which the engine worked"),
        (top.WAIT, "WAIT", "cycles in which a command of the engine waited for others"),
    ):
        fixed |= {
            f"{name}_{engine.upper()}": (base + 4 * e, meaning) for e, engine in enumerate(engine_names(design.engines))
        }
    return {name: {"offset": offset, "meaning": meaning} for name, (offset, meaning) in fixed.items()}


def formulas(engines: Mapping[str, Params]) -> Formulas:
    """Cycle formulas of the kernels, for parameters by engine, integers or arrays."""
    return Formulas(
        times={name: partial(kernel_of(name).cycles, params) for name, params in engines.items() if name != RING},
        array_latency=array_latency(engines[RING]["t_in"]),
        drain_latency=DRAIN_LATENCY,
    )


# Resources ---------------------------------------------------------------------------


def resources(design: Design) -> dict[str, Resources]:
    """Modelled resources of each engine, of the memories and of the shell; DSP and block RAM are exact."""
    word = design.word_bytes
    found = {name: _engine(name, (*params.items(), ("word_bytes", word))) for name, params in design.engines.items()}
    found["memories"] = _memory(copies(design))
    found["shell"] = _shell(design)
    return found


def total(parts: Mapping[str, Resources]) -> Resources:
    """The sum of all parts."""
    return sum(parts.values(), Resources())


def copies(design: Design) -> Iterator[tuple[int, int, int]]:
    """Bits of the write and the read word, and words of the wider, for each copy (one per reader) of each memory."""
    found, word = memory_map(geometry(design.engines)).memories, design.word_bytes
    for name, size in design.memories.items():
        reached = found[name]
        users = (reached.writer, *reached.readers)
        write, *reads = (
            word if each.port.lanes is None else design.engines[each.engine][each.port.lanes] * reached.bytes
            for each in users
        )
        yield from ((8 * write, 8 * read, size // max(write, read)) for read in reads)


@lru_cache(_KEPT)
def _engine(name: str, params: tuple[tuple[str, int], ...]) -> Resources:
    """Cached resources of an engine; the designs of a search often share them."""
    return kernel_of(name).resources(dict(params))


def _memory(copies: Iterable[tuple[int, int, int]]) -> Resources:
    """Resources of the physical memories with their output registers."""
    halves: Number = 0
    found = Resources()
    for copy in copies:
        blocks, logic, registers = row_memory(*copy)
        halves, found = halves + blocks, found + Resources(lut=logic, ff=registers)
    return found + Resources(bram36=ceil_div(halves, 2))


def _shell(design: Design) -> Resources:
    """DMA, sequencer, AXI ports, registers and memory multiplexers, see `codesign.hw.primitives.area`."""
    return Resources(
        lut=area("shell", "lut", shell_lut_units(design)),
        ff=area("shell", "ff", shell_ff_units(design)),
    )


def _queues(design: Design) -> list[tuple[int, int]]:
    """Bits and words of each queue."""
    bus = bus_of(design.board.memory)
    bits, request = 8 * bus.word_bytes, ADDR_BITS + 10
    reads = [(bits, max(2, bus.outstanding * bus.burst_words)), (request, max(2, bus.ports * bus.outstanding))]
    writes = [(bits, max(2, 2 * bus.burst_words)), (ADDR_BITS + 8, 2)]
    engines = len(engine_names(design.engines))
    each = [(8 * COMMAND_BYTES + INDEX_BITS, ENGINE_QUEUE), (flight_bits(engines), FLIGHT_QUEUE)]
    return [
        *(reads[:1] + writes) * bus.ports, reads[1], (bits, max(2, bus.burst_words)),
        (8 * COMMAND_BYTES, COMMAND_QUEUE), *each * engines,
    ]  # fmt: skip


@lru_cache(_KEPT)
def _queue_lut(bits: int, words: int) -> int:
    """LUTs of a queue's memory: LUT RAMs of at most 64 words and the multiplexer between them."""
    rams = ceil_div(words, 64)
    return rams * int(lutram(bits, min(words, 64))) + bits * ceil_div(rams - 1, 3)


def shell_lut_units(design: Design) -> Units:
    """Units of the shell's LUT model: multiplexer bits, LUTs of memories, and part counts."""
    bus, queues, engines = bus_of(design.board.memory), _queues(design), len(engine_names(design.engines))
    bits = 8 * bus.word_bytes
    numbers = memory_map(geometry(design.engines)).numbers
    widths = {(RING, "source"): bits, (RING, "addend"): 16 * design.linear["t_out"], ("store", "source"): bits}
    there = {at: len(set(numbers[at]) & set(design.memories)) for at in widths}
    chosen = sum(width * ceil_div(max(1, there[at]) - 1, 2) for at, width in widths.items())
    return {
        "sequencer": {"engine": 1, "engines": engines, "pairs": engines**2},
        "fifo": {"queues": len(queues), "memories": sum(_queue_lut(*queue) for queue in queues)},
        "read_port": {"ports": bus.ports},
        "write_port": {"ports": bus.ports, "word bits": bits * (bus.ports > 1)},
        "reads": {"engine": 1, "ports": bus.ports, "chosen bits": bits * ceil_div(bus.ports - 1, 3)},
        "load": {"engine": 1, "word bits": bits},
        "fetch": {"engine": 1},
        "store": {"engine": 1, "ports": bus.ports},
        "top": {"engine": 1, "engines": len(design.engines), "chosen bits": chosen},
    }


def shell_ff_units(design: Design) -> Units:
    """Units of the shell's flip-flop model."""
    bus, engines = bus_of(design.board.memory), len(engine_names(design.engines))
    bits = 8 * bus.word_bytes
    return {
        "sequencer": {"engine": 1, "engines": engines, "pairs": engines**2, "held bits": 8 * COMMAND_BYTES - bits},
        "fifo": {"queues": len(_queues(design))},
        "read_port": {"ports": bus.ports, "held bits": (bus.ports - 1) * bits},
        "write_port": {"ports": bus.ports},
        "reads": {"engine": 1, "word bits": bits},
        "load": {"engine": 1},
        "fetch": {"engine": 1},
        "store": {"engine": 1, "ports": bus.ports},
        "top": {"engine": 1, "engines": len(design.engines)},
    }


def instances(files: Mapping[str, str], root: str = TOP) -> Counter[str]:
    """Instances of each module and primitive in a generated design, its root included."""
    bodies = {m[1].lstrip("\\"): m[0] for text in files.values() for m in _MODULE.finditer(text)}
    children = {name: Counter(i[1].lstrip("\\") for i in _INSTANCE.finditer(text)) for name, text in bodies.items()}
    found: Counter[str] = Counter()
    pending = Counter({root: 1})
    while pending:
        name, count = pending.popitem()
        found[name] += count
        for child, times in children.get(name, Counter()).items():
            pending[child] += count * times
    return found


def multipliers(files: Mapping[str, str]) -> int:
    """DSPs of a generated design: DSP48E2 instances plus one per product of two signals."""
    counts = instances(files)
    inferred = 0
    for text in files.values():
        for module in _MODULE.finditer(text):
            inferred += counts[module[1].lstrip("\\")] * len(_PRODUCT.findall(module[0]))
    return counts[_PRIMITIVE] + inferred
