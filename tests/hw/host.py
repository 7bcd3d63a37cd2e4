"""A host of small accelerators: writes command lists and data to DRAM, starts runs, checks what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from numpy.typing import NDArray

from codesign.hw.linear import LinearKernel
from codesign.hw.system import top as hw
from codesign.hw.system.bus import Bus
from codesign.hw.system.sequencer import ERROR_BUS
from codesign.hw.verilog import generate
from codesign.numerics.fixed_point import requantize, saturate_bits
from codesign.sim.verilator.simulator import Library, MemoryPorts, compile_design
from codesign.target.commands import RELEASE, USE_TABLE, Command
from codesign.target.engines import COMMAND_BYTES, LUT, engine_names

Ints = NDArray[np.int64]

NARROW = hw.Shape(
    Bus(1, 16, 4),
    {"linear": LinearKernel(4, 4, 3, kw_max=4, ring_words=64, table_words=16, tables=2, word_bytes=16)},
    {"input": 4096, "output": 4096, "residual": 4096, "position": 4096}, bytes(range(100, 132)),
)  # fmt: skip
WIDE = hw.Shape(
    Bus(4, 8, 2),
    {"linear": LinearKernel(8, 8, 2, kw_max=4, ring_words=32, table_words=8, tables=1, word_bytes=32)},
    {"input": 8192, "output": 8192, "residual": 8192, "position": 8192}, bytes(32),
)  # fmt: skip
ENGINES = engine_names(NARROW.engines)
"""Engines of both in the order of their numbers."""
MAP = NARROW.map
"""Numbers of memories, which both have in common."""
DRAM_BYTES = 1 << 20
RUNNING, FINISHED, FAILED, BUSY = 1, 2, 4, 8
EXOKAY, SLVERR, DECERR = 1, 2, 3
"""Responses that nobody asked for."""


def linear_of(shape: hw.Shape) -> LinearKernel:
    """The linear engine of an accelerator."""
    found = shape.engines["linear"]
    assert isinstance(found, LinearKernel)
    return found


class Faulty(wiring.Component):
    """The accelerator behind a bus whose port p answers ``response`` while bit p of a fault is high."""

    def __init__(self, shape: hw.Shape) -> None:
        self.top = hw.Top(shape)
        members = dict(self.top.signature.members.items())
        faults = {name: In(shape.bus.ports) for name in ("read_fault", "write_fault")}
        super().__init__(members | faults | {"response": In(2)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.top = self.top
        for (path, member, inner), (_, _, outer) in zip(
            self.top.signature.flatten(self.top), self.top.signature.flatten(self), strict=True
        ):
            if member.flow != In:
                m.d.comb += outer.eq(inner)
            elif path[-1] in ("rresp", "bresp"):
                fault = self.read_fault if path[-1] == "rresp" else self.write_fault
                m.d.comb += inner.eq(Mux(fault[int(path[0].removeprefix("m_axi"))], self.response, outer))
            else:
                m.d.comb += inner.eq(outer)
        return m


def build(shape: hw.Shape) -> Library:
    """Compiles the accelerator with the default memory timing: 12 bytes per cycle, 60 cycles latency."""
    sources = generate(Faulty(shape), "top")
    bus = shape.bus
    memory = MemoryPorts(bus.ports, bus.port_bytes, 12, 1, 60, 20, bus.outstanding)
    return compile_design(dict(sources.files), "top", memory=memory)


@dataclass(frozen=True, eq=False)
class Job:
    """A list that computes one linear layer, and what it must leave in DRAM.

    Attributes:
        commands: the list.
        address, pitch: where the rows of the result go, and their distance in bytes.
        result: int8 or int16 ``[rows, n]``.
    """

    commands: tuple[Command, ...]
    address: int
    pitch: int
    result: NDArray[np.generic]

    def found(self, dram: NDArray[np.uint8]) -> NDArray[np.generic]:
        """The result as it lies in DRAM."""
        rows, columns = self.result.shape
        raw = dram[self.address : self.address + rows * self.pitch].view(self.result.dtype)
        return raw.reshape(rows, -1)[:, :columns]


@dataclass
class Layout:
    """Hands out DRAM, each block at a random multiple of the bus word."""

    rng: np.random.Generator
    word: int
    at: int = 1 << 14
    blocks: list[tuple[int, bytes]] = field(default_factory=list)

    def place(self, data: bytes) -> int:
        """Places bytes, padded to whole words; returns their address."""
        self.at += int(self.rng.integers(0, 300)) // self.word * self.word
        address = self.at
        self.blocks.append((address, data))
        self.at += -(-len(data) // self.word) * self.word
        assert self.at <= DRAM_BYTES
        return address


@dataclass(frozen=True)
class Outcome:
    """What the host reads when the interrupt came."""

    status: int
    error: int
    index: int
    cycles: int


class Host:
    """One running accelerator."""

    def __init__(self, library: Library, shape: hw.Shape, memory: MemoryPorts | None = None) -> None:
        assert (shape.names, shape.map.numbers) == (ENGINES, MAP.numbers)
        self.shape = shape
        self.sim = library.start(dram_bytes=DRAM_BYTES, memory=memory)
        self.sim.set("response", SLVERR)
        self.sim.reset(3)

    def close(self) -> None:
        self.sim.close()

    def put(self, blocks: Sequence[tuple[int, bytes]]) -> None:
        """Writes blocks to DRAM."""
        for address, data in blocks:
            self.sim.dram[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def start(self, commands: bytes, *, address: int = 4096 - 3 * COMMAND_BYTES, watchdog: int = 3000) -> None:
        """Writes a list across a page boundary and starts it."""
        self.put([(address, commands)])
        for register, value in (
            (hw.LIST_LOW, address), (hw.LIST_HIGH, 0), (hw.LIST_COUNT, len(commands) // COMMAND_BYTES),
            (hw.WATCHDOG, watchdog), (hw.CONTROL, 1),
        ):  # fmt: skip
            self.sim.axil_write(register, value)

    def status(self) -> int:
        """The status register."""
        return self.sim.axil_read(hw.STATUS)

    def wait(self, limit: int = 100_000) -> Outcome:
        """Runs until the interrupt and takes it back."""
        self.sim.run_until_irq(limit)
        error = self.sim.axil_read(hw.ERROR)
        outcome = Outcome(self.status(), error & 255, error >> 16, self.sim.axil_read(hw.CYCLES_LOW))
        self.sim.axil_write(hw.INTERRUPT, 1)
        assert self.sim.get("irq") == 0
        return outcome

    def run(self, job: Job) -> Outcome:
        """Runs a correct list and checks status and result."""
        self.sim.dram[job.address : job.address + len(job.result) * job.pitch] = 0xA5
        self.start(encoded(job.commands))
        outcome = self.wait()
        assert (outcome.status & (RUNNING | FINISHED | FAILED), outcome.error) == (FINISHED, 0), outcome
        assert np.array_equal(job.found(self.sim.dram), job.result)
        return outcome


def check_faulty_ports(host: Host, fault: str, engine: str) -> None:
    """A transfer fails if one port alone answers any error, and the next one is right; every port has four bursts."""
    transfer = encoded([Command(engine, {"words": 4 * host.shape.bus.ports * host.shape.bus.burst_words})])
    for port in range(host.shape.bus.ports):
        for response in (EXOKAY, SLVERR, DECERR):
            host.sim.set("response", response)
            host.sim.set(fault, 1 << port)
            host.start(transfer)
            outcome = host.wait()
            assert (outcome.error, outcome.status & (RUNNING | FAILED)) == (ERROR_BUS, FAILED), (port, response)
            host.sim.set(fault, 0)
            host.start(transfer)
            assert host.wait().error == 0


def encoded(commands: Sequence[Command], engines: Sequence[str] = ENGINES) -> bytes:
    return b"".join(command.encode(engines) for command in commands)


def raw(engine: int) -> bytes:
    """A command of an engine by number, all else 0."""
    return engine.to_bytes(COMMAND_BYTES, "little")


def _padded(matrix: NDArray[np.signedinteger], columns: int) -> NDArray[np.signedinteger]:
    wide = np.zeros((len(matrix), columns), matrix.dtype)
    wide[:, : matrix.shape[1]] = matrix
    return wide


@dataclass(frozen=True, eq=False)
class _Layer:
    """A random layer: operands, requantization, and table or addend."""

    x: Ints
    weights: Ints
    bias: Ints
    multiplier: Ints
    shift: Ints
    table: Ints | None
    addend: Ints | None

    def result(self) -> Ints:
        acc = self.x @ self.weights.T + self.bias
        y = requantize(acc, self.multiplier, self.shift, -128, 127)
        if self.table is not None:
            return np.asarray(self.table[y & 255])
        return y if self.addend is None else saturate_bits(y + self.addend, 16)


def _random_layer(rng: np.random.Generator, rows: int, k: int, n: int) -> _Layer:
    mode = rng.integers(3)
    return _Layer(
        rng.integers(-128, 128, (rows, k)), rng.integers(-127, 128, (n, k)), rng.integers(-1000, 1000, n),
        rng.integers(1 << 16, 1 << 17, n), rng.integers(20, 25, n),
        rng.integers(-128, 128, 256) if mode == 1 else None,
        rng.integers(-(1 << 15), 1 << 15, (rows, n)) if mode == 2 else None,
    )  # fmt: skip


def job(host: Host, rng: np.random.Generator, shape: tuple[int, int, int] | None = None) -> Job:
    """A random layer in row groups: load, compute and store overlap in two halves of the memories."""
    rows, k, n = shape or (int(rng.integers(1, 14)), int(rng.integers(1, 60)), int(rng.integers(1, 17)))
    layer, layout = _random_layer(rng, rows, k, n), Layout(rng, host.shape.bus.word_bytes)
    plan = _Plan.of(host.shape, layer, int(rng.integers(1, rows + 1)))
    commands = [_fetch(layout, layer, host.shape, plan.ib, plan.ob), *_constants(layout, layer, plan)]
    x_at = layout.place(_padded(layer.x.astype(np.int8), plan.kw * plan.word).tobytes())
    y_at = layout.place(bytes(rows * plan.pitch))
    for index, first in enumerate(range(0, rows, plan.group)):
        commands += _row_group(plan, index, first, min(plan.group, rows - first), rows, x_at, y_at)
    host.put(layout.blocks)
    return Job(tuple(commands), y_at, plan.pitch, layer.result().astype(np.int16 if plan.wide == 2 else np.int8))


@dataclass(frozen=True)
class _Plan:
    """How a layer lies in the memories: words per row, tiles, bytes per result, and rows per command."""

    word: int
    t_out: int
    kw: int
    ib: int
    ob: int
    wide: int
    pitch: int
    group: int
    table: bool

    @classmethod
    def of(cls, shape: hw.Shape, layer: _Layer, group: int) -> "_Plan":
        lin, word = linear_of(shape), shape.bus.word_bytes
        (_, k), n = layer.x.shape, len(layer.weights)
        ob, wide = -(-n // lin.t_out), 1 if layer.addend is None else 2
        unit = max(word, wide * lin.t_out)
        pitch = -(-ob * lin.t_out * wide // unit) * unit
        return cls(word, lin.t_out, -(-k // word), -(-k // lin.t_in), ob, wide, pitch, group, layer.table is not None)


def _constants(layout: Layout, layer: _Layer, plan: _Plan) -> list[Command]:
    """Loads of the 8-bit table or of the addend, if the layer has one."""
    if layer.table is not None:
        lut = layer.table.astype(np.int8).tobytes()
        return [_transfer("load", "lut", layout.place(lut), 0, len(lut) // plan.word, {}, {"linear": 1})]
    if layer.addend is not None:
        addend = _padded(layer.addend.astype(np.int16), plan.pitch // 2).tobytes()
        return [_transfer("load", "position", layout.place(addend), 0, len(addend) // plan.word, {}, {"linear": 1})]
    return []


def _row_group(plan: _Plan, index: int, first: int, count: int, rows: int, x_at: int, y_at: int) -> list[Command]:
    """Load, compute and store of some rows; the third group uses the halves of the first again."""
    half, again, last = index % 2 * plan.group, index > 1, first + count == rows
    memory, step = ("residual" if plan.wide == 2 else "output"), plan.pitch // (plan.wide * plan.t_out)
    fields = {
        "rows": count, "kw": plan.kw, "ib": plan.ib, "ob": plan.ob, "flags": RELEASE * last | USE_TABLE * plan.table,
        "low": -128, "high": 127, "source": MAP.number("linear", "source", "input"), "source_base": half * plan.kw,
        "source_stride": plan.kw, "target": MAP.number("linear", "out", memory), "target_base": half * step,
        "target_stride": step,
    }  # fmt: skip
    if plan.wide == 2:
        addend = MAP.number("linear", "addend", "position")
        fields |= {"addend": addend, "addend_base": first * step, "addend_stride": step}
    loads = 1 + (index == 0 and (plan.table or plan.wide == 2))
    words = plan.pitch // plan.word
    return [
        _transfer("load", "input", x_at + first * plan.kw * plan.word, half * plan.kw, count * plan.kw,
                  {"linear": 1} if again else {}, {"linear": 1}),
        Command("linear", fields, waits={"load": loads} | ({"store": 1} if again else {}),
                posts={"load": 1, "store": 1}),
        _transfer("store", memory, y_at + first * plan.pitch, half * words, count * words,
                  {"linear": 1}, {"linear": 1}),
    ]  # fmt: skip


def _transfer(
    engine: str, memory: str, dram: int, address: int, words: int, waits: Mapping[str, int], posts: Mapping[str, int]
) -> Command:
    names = (*MAP.numbers["load", "out"], LUT) if engine == "load" else MAP.numbers["store", "source"]
    fields = {"memory": names.index(memory), "address": address, "words": words, "dram": dram}
    return Command(engine, fields, waits=waits, posts=posts)


def _fetch(layout: Layout, layer: _Layer, shape: hw.Shape, ib: int, ob: int) -> Command:
    """Places the weight block and returns its fetch."""
    lin, word = linear_of(shape), shape.bus.word_bytes
    n, k = layer.weights.shape
    table = np.zeros(ob * lin.t_out, np.uint64)
    bias = (layer.bias & 0xFFFFFFFF).astype(np.uint64)
    table[:n] = (
        bias | layer.multiplier.astype(np.uint64) << np.uint64(32) | layer.shift.astype(np.uint64) << np.uint64(49)
    )
    padded = np.zeros((ob * lin.t_out, ib * lin.t_in), np.int8)
    padded[:n, :k] = layer.weights
    order = padded.reshape(ob, lin.t_out, ib, lin.t_in).transpose(0, 2, 1, 3).tobytes()
    head = table.tobytes()
    fields = {"table_words": len(head) // word, "weight_words": len(order) // word, "dram": layout.place(head + order)}
    return Command("fetch", fields)
