"""From a design to hardware: shape, Verilog, registers, resources and engine times."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from codesign.board import Memory
from codesign.command import COMMAND_BYTES, ENGINES
from codesign.design import Design
from codesign.hw import attention, linear_rtl, top, vector
from codesign.hw.attention import AttentionKernel
from codesign.hw.dma import BURST_BYTES, Bus
from codesign.hw.linear import Linear
from codesign.hw.memory import bram36
from codesign.hw.sequencer import COMMAND_QUEUE, ENGINE_QUEUE, FLIGHT_QUEUE
from codesign.hw.top import Shape, Top
from codesign.hw.vector import VectorKernel
from codesign.hw.verilog import Sources, Target, generate, regenerate
from codesign.kernel import Kernel, Resources, ceil_div
from codesign.systolic import EngineTimes

KERNELS: Mapping[str, type[Kernel]] = {"linear": Linear, "attention": AttentionKernel, "vector": VectorKernel}
"""Kernel classes by the name of their engine."""

TOP = "top"
"""Name of the top module."""

_PRIMITIVE = "DSP48E2"
_MODULE = re.compile(r"^module (\\?\S+?) *\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^  (?!module\b)(\\?[\w.$]+) +(?:#\(.*?^  \) )?\\?[\w.$\[\]]+ +\($", re.MULTILINE | re.DOTALL)
_PRODUCT = re.compile(r"= [^';]+ \* [^';\d][^';]*;")
_LUTRAM_DEPTH = 64


@dataclass(frozen=True)
class Hardware:
    """Generated hardware.

    Attributes:
        sources: Verilog for the device, with its DSP48E2 instantiated.
        models: behavioural Verilog, by file name, of those files in which a DSP48E2 is; simulation takes
            these instead.
    """

    sources: Sources
    models: Mapping[str, str]

    @property
    def simulated(self) -> dict[str, str]:
        """Files that a simulator takes."""
        return {**self.sources.files, **self.models}


def bus_of(memory: Memory) -> Bus:
    """The off-chip interface for a board's memory; requests in flight are a power of two.

    Raises:
        ValueError: an interface that the hardware does not have.
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
    """32 bytes that depend on everything the hardware depends on, and on nothing else."""
    bus = bus_of(design.board.memory)
    document = [dict(vars(bus)), {n: dict(p) for n, p in design.engines.items()}, dict(design.memories)]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()


def shape(design: Design) -> Shape:
    """What the hardware generator takes.

    Raises:
        ValueError: a parameter that is not legal; the message names it.
    """
    bus = bus_of(design.board.memory)
    engines = design.engines
    return Shape(
        bus=bus,
        linear=Linear(**engines["linear"], word_bytes=bus.word_bytes).shape,
        attention=AttentionKernel(**engines["attention"]) if "attention" in engines else None,
        vector=VectorKernel(**engines["vector"]) if "vector" in engines else None,
        memories=dict(design.memories),
        identity=identity(design),
    )


def sources(design: Design) -> Hardware:
    """The design as Verilog, for the device and for simulation."""
    target = Target(primitives=True)
    found = generate(Top(shape(design)), TOP, target)
    units = [target.modules[name.removesuffix(".v")] for name, text in found.files.items() if _PRIMITIVE in text]
    return Hardware(found, regenerate(units, Target(primitives=False)))


def simulation_sources(design: Design) -> Sources:
    """The design as behavioural Verilog alone, in half the time of `sources`."""
    return generate(Top(shape(design)), TOP)


def registers() -> dict[str, object]:
    """The register map as JSON values: byte offset and meaning by name."""
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
        fixed |= {f"{name}_{engine.upper()}": (base + 4 * e, meaning) for e, engine in enumerate(ENGINES)}
    return {name: {"offset": offset, "meaning": meaning} for name, (offset, meaning) in fixed.items()}


def engine_times(design: Design) -> EngineTimes:
    """What the kernels say of the duration of this design's commands."""
    attend, normalize = design.engines.get("attention", {}), design.engines.get("vector", {})
    return EngineTimes(
        attention=lambda c: int(AttentionKernel.cycles(attend, attention.work_of(c, attend["t_a"]))),
        vector=lambda c: int(VectorKernel.cycles(normalize, vector.work_of(c))),
        array_latency=linear_rtl.array_latency(design.linear["t_in"]),
        drain_latency=linear_rtl.DRAIN_LATENCY,
    )


# Resources ---------------------------------------------------------------------------


def resources(design: Design) -> dict[str, Resources]:
    """Modelled resources of each engine, of the memories and of the shell; DSP and block RAM are exact."""
    word = {"word_bytes": design.word_bytes}
    found = {name: KERNELS[name].resources({**params, **word}) for name, params in design.engines.items()}
    found["memories"] = sum((_memory(*copy) for copy in _copies(design)), Resources())
    found["shell"] = _shell(bus_of(design.board.memory))
    return found


def total(parts: Mapping[str, Resources]) -> Resources:
    """The sum of all parts."""
    return sum(parts.values(), Resources())


def _copies(design: Design) -> Iterator[tuple[int, int]]:
    """Bits per word and words of every physical copy of an activation memory, one per reader."""
    linear, attend, normalize = (design.engines.get(name, {}) for name in ("linear", "attention", "vector"))
    word, t_out, t_a, t_v = design.word_bytes, linear["t_out"], attend.get("t_a", 0), normalize.get("t_v", 0)
    ports = {
        "input": (word, word), "position": (word, 2 * t_out), "affine": (word, 8 * t_v), "normed": (t_v, word),
        "context": (t_a, word), "hidden": (t_out, word), "output": (t_out, word), "query": (t_out, t_a),
        "key": (t_out, t_a), "value": (t_out, t_a),
        "residual": (2 * t_out, 2 * t_out, word, *([2 * t_v] if t_v else [])),
    }  # fmt: skip
    for name, size in design.memories.items():
        write, *reads = ports[name]
        yield from ((8 * max(write, read), size // max(write, read)) for read in reads)


def _memory(bits: int, depth: int) -> Resources:
    """One physical memory with its output registers."""
    return Resources(bram36=bram36(bits, depth), lut=_lutram(bits, depth), ff=bits)


def _lutram(bits: int, depth: int) -> int:
    """LUTs of a LUT RAM with one read port: four hold 6 bits of 32 words; none where it is block RAM."""
    return 4 * ceil_div(bits, 6) * ceil_div(depth, 32) if depth <= _LUTRAM_DEPTH else 0


def _shell(bus: Bus) -> Resources:
    """DMA, sequencer, AXI ports and registers: queues from their sizes, the rest estimated per port and engine.

    The one DSP is the linear engine's product of tiles and words per tile.
    """
    bits, engines = 8 * bus.word_bytes, len(ENGINES)
    queues = [(bits, bus.outstanding * bus.burst_words)] * bus.ports + [(bits, 8)] * bus.ports + [(bits, 4)]
    queues += [(8 * COMMAND_BYTES, COMMAND_QUEUE)]
    queues += [(8 * COMMAND_BYTES + 16, ENGINE_QUEUE), (32 + 16, FLIGHT_QUEUE)] * engines
    ram = sum(_lutram(*queue) for queue in queues)
    return Resources(
        dsp=1, lut=ram + 4 * bits + 500 * bus.ports + 250 * engines, ff=6 * bits + 400 * bus.ports + 350 * engines
    )


def instances(files: Mapping[str, str], root: str = TOP) -> Counter[str]:
    """How often each module and primitive is instantiated below the root of a generated design."""
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
    """DSPs of a generated design: instantiated ones, and one for each product of two signals outside of them."""
    counts = instances(files)
    inferred = 0
    for text in files.values():
        for module in _MODULE.finditer(text):
            inferred += counts[module[1].lstrip("\\")] * len(_PRODUCT.findall(module[0]))
    return counts[_PRIMITIVE] + inferred
