"""The accelerator: engines, memories, DMA, sequencer and AXI shell, from one set of parameters.

Every memory has one writing engine and a physical copy per reading engine, so no two
engines share a port and nothing inside ever waits for a port.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from codesign.command import ADDENDS, ENGINES, LOADS, NORM_SOURCES, SOURCES, STORES, TARGETS, WIDE
from codesign.hw import linear_rtl
from codesign.hw.attention import AttentionKernel
from codesign.hw.attention_rtl import AttentionEngine
from codesign.hw.axi import AxiLite, Registers
from codesign.hw.dma import (
    COMMANDS,
    LOAD,
    TABLE,
    WEIGHTS,
    AxiRead,
    AxiWrite,
    Bus,
    FetchEngine,
    LoadEngine,
    ReadPath,
    StoreEngine,
)
from codesign.hw.memory import READ_LATENCY, RowMemory
from codesign.hw.multiply import delay
from codesign.hw.sequencer import Restart, Sequencer
from codesign.hw.vector import VectorKernel
from codesign.hw.vector_rtl import VectorEngine
from codesign.hw.verilog import Resettable

ID, CONTROL, STATUS, ERROR, CYCLES_LOW, CYCLES_HIGH = 0x00, 0x20, 0x24, 0x28, 0x2C, 0x30
LIST_LOW, LIST_HIGH, LIST_COUNT, WATCHDOG, INTERRUPT = 0x34, 0x38, 0x3C, 0x40, 0x44
BUSY, WAIT = 0x80, 0xA0
"""Register offsets. ID: eight words of the design's hash; BUSY and WAIT: cycles per engine.

CONTROL: writing bit 0 starts a run; after an error this also resets every part, as soon as all bursts
on the AXI ports have ended. STATUS: bit 0 running, 1 finished, 2 failed (see ERROR), 3 busy: an engine
works, or after an error a burst has not ended. INTERRUPT: any write takes the interrupt back; for a
finished run it takes back the status bit too."""


@dataclass(frozen=True)
class Shape:
    """Everything the hardware depends on.

    Attributes:
        bus: off-chip interface.
        linear, attention, vector: engines; the last two may be left out.
        memories: capacity in bytes of each memory that the engines there need.
        identity: 32 bytes that the host can read back.
    """

    bus: Bus
    linear: linear_rtl.Shape
    attention: AttentionKernel | None
    vector: VectorKernel | None
    memories: Mapping[str, int]
    identity: bytes = bytes(32)

    def __post_init__(self) -> None:
        if self.wide != ("skip" in self.memories):
            raise ValueError(
                f"vector engine {self.vector} with memories {sorted(self.memories)}; legal: wide=1 exactly with skip"
            )

    @property
    def wide(self) -> bool:
        """Whether the vector engine gives results of 16 bits, to a memory of their own."""
        return self.vector is not None and self.vector.wide == 1

    @property
    def stores(self) -> int:
        """Memories that the store engine takes a number of; the last is that of wide norms."""
        return len(STORES) - (not self.wide)


class Top(wiring.Component):
    """The accelerator with its AXI ports, clock and reset."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        members: dict[str, wiring.Member] = {"irq": Out(1), "s_axil": In(AxiLite())}
        bits = 8 * shape.bus.port_bytes
        for p in range(shape.bus.ports):
            members[f"m_axi{p}"] = Out(wiring.Signature(_axi_members(bits)))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Parts first, then the wires between them."""
        m = Module()
        s = self.shape
        sequencer, reads = Sequencer(s.bus, len(ENGINES)), ReadPath(s.bus)
        load, store = LoadEngine(s.bus, len(LOADS)), StoreEngine(s.bus, s.stores)
        fetch, linear = self._fetch_engine(), linear_rtl.Linear(s.linear)
        engines: dict[str, wiring.Component] = {"load": load, "store": store, "fetch": fetch, "linear": linear}
        if s.attention:
            engines["attention"] = self._attention_engine(s.attention)
        if s.vector:
            engines["vector"] = self._vector_engine(s.vector)
        m.submodules.restart = restart = Restart()
        for name, part in {"sequencer": sequencer, "reads": reads, **engines}.items():
            m.submodules[name] = Resettable(name, part, restart.clear)
        self._axi(m, reads, store)
        self._read_path(m, reads, sequencer, load, fetch)
        self._rings(m, fetch, linear)
        self._memories(m, engines)
        self._commands(m, sequencer, engines)
        m.d.comb += sequencer.bus_failed.eq(reads.failed | store.failed)
        failed = sequencer.error != 0
        m.d.comb += [reads.stop.eq(failed), store.stop.eq(failed)]
        m.d.comb += [restart.failed.eq(failed), restart.settled.eq(reads.idle & store.idle)]
        self._shell(m, sequencer, engines, restart)
        return m

    def _fetch_engine(self) -> FetchEngine:
        s, lin = self.shape, self.shape.linear
        return FetchEngine(
            s.bus,
            weight_bytes=lin.t_in * lin.t_out,
            ring_words=lin.ring_words,
            table_bytes=8 * lin.t_out,
            table_words=lin.table_words,
        )

    def _attention_engine(self, kernel: AttentionKernel) -> AttentionEngine:
        q, k, v, o = (self.shape.memories[name] // kernel.t_a for name in ("query", "key", "value", "context"))
        return AttentionEngine(kernel, q_depth=q, k_depth=k, v_depth=v, o_depth=o)

    def _vector_engine(self, kernel: VectorKernel) -> VectorEngine:
        widths = {"residual": 2, "affine": 8, "normed": 1, "skip": 2}
        r, g, x, y = (self.shape.memories.get(name, 0) // (width * kernel.t_v) for name, width in widths.items())
        return VectorEngine(kernel, r_depth=r, g_depth=g, x_depth=x, y_depth=y)

    def _axi(self, m: Module, reads: ReadPath, store: StoreEngine) -> None:
        """AXI ports, with the signals that never change."""
        size = (self.shape.bus.port_bytes - 1).bit_length()
        for p in range(self.shape.bus.ports):
            axi = getattr(self, f"m_axi{p}")
            for half in (getattr(reads, f"axi{p}"), getattr(store, f"axi{p}")):
                for name, member in half.signature.members.items():
                    mine, theirs = getattr(axi, name), getattr(half, name)
                    m.d.comb += theirs.eq(mine) if member.flow == In else mine.eq(theirs)
            m.d.comb += [axi.arsize.eq(size), axi.awsize.eq(size), axi.arburst.eq(1), axi.awburst.eq(1)]
            m.d.comb += axi.wstrb.eq(~0)

    @staticmethod
    def _read_path(m: Module, reads: ReadPath, sequencer: Sequencer, load: LoadEngine, fetch: FetchEngine) -> None:
        clients: tuple[wiring.Component, ...] = (sequencer, load, fetch)
        for index, client in enumerate(clients):
            wiring.connect(m, client.request, getattr(reads, f"request{index}"))
            m.d.comb += client.data.eq(reads.data)
        m.d.comb += [
            sequencer.valid.eq(reads.valid & (reads.to == COMMANDS)),
            load.valid.eq(reads.valid & (reads.to == LOAD)),
            fetch.valid.eq(reads.valid & ((reads.to == TABLE) | (reads.to == WEIGHTS))),
            fetch.to.eq(reads.to),
        ]

    def _rings(self, m: Module, fetch: FetchEngine, linear: linear_rtl.Linear) -> None:
        """The weight ring and the requantization ring."""
        lin, bus_bits = self.shape.linear, 8 * self.shape.bus.word_bytes
        for name, write, read, words in (
            ("weight_ring", fetch.weights, linear.weights, lin.ring_words),
            ("table_ring", fetch.table, linear.table, lin.table_words),
        ):
            width = len(read.data)
            m.submodules[name] = ring = RowMemory(bits=width * words, write_bits=bus_bits, read_bits=(width,))
            m.d.comb += [
                ring.write.en.eq(write.en),
                ring.write.addr.eq(write.addr),
                ring.write.data.eq(write.data),
                ring.read0.addr.eq(read.addr),
                read.data.eq(ring.read0.data),
            ]
        m.d.comb += [
            linear.arrived.eq(fetch.arrived),
            fetch.freed.eq(linear.freed),
            fetch.freed_words.eq(linear.freed_words),
        ]

    def _memories(self, m: Module, engines: Mapping[str, wiring.Component]) -> None:
        """Instantiates each memory with its writer and a copy per reader."""
        readers = _readers(engines)
        found: dict[int, list[tuple[int, Value]]] = {index: [] for index in range(len(readers))}
        for name, size in self.shape.memories.items():
            en, addr, bits = _writer(name, engines)
            mine = [(i, reader) for i, reader in enumerate(readers) if name in reader.memories]
            m.submodules[f"memory_{name}"] = ram = RowMemory(
                bits=8 * size, write_bits=len(bits), read_bits=tuple(len(reader.port.data) for _, reader in mine)
            )
            m.d.comb += [ram.write.en.eq(en), ram.write.addr.eq(addr), ram.write.data.eq(bits)]
            for copy, (index, reader) in enumerate(mine):
                read = getattr(ram, f"read{copy}")
                m.d.comb += read.addr.eq(reader.port.addr)
                found[index].append((reader.memories.index(name), read.data))
        for index, reader in enumerate(readers):
            m.d.comb += reader.port.data.eq(_selected(m, reader.select, found[index]))
        load, linear = engines["load"], engines["linear"]
        m.d.comb += [
            linear.lut.en.eq(load.lut.en),
            linear.lut.addr.eq(load.lut.addr),
            linear.lut.data.eq(load.lut.data),
        ]

    def _commands(self, m: Module, sequencer: Sequencer, engines: Mapping[str, wiring.Component]) -> None:
        """Command streams; an engine that is left out refuses its commands."""
        for e, name in enumerate(ENGINES):
            source = getattr(sequencer, f"command{e}")
            done, error = getattr(sequencer, f"done{e}"), getattr(sequencer, f"error{e}")
            if name not in engines:
                m.d.comb += [source.ready.eq(1), error.eq(source.valid)]
                continue
            engine = engines[name]
            m.d.comb += [
                engine.command.valid.eq(source.valid),
                engine.command.payload.eq(source.payload[: len(engine.command.payload.as_value())]),
                source.ready.eq(engine.command.ready),
                done.eq(engine.done),
                error.eq(engine.error),
            ]

    def _shell(
        self, m: Module, sequencer: Sequencer, engines: Mapping[str, wiring.Component], restart: Restart
    ) -> None:
        """Registers and interrupt."""
        reads = (
            ID,
            ID + 4,
            ID + 8,
            ID + 12,
            ID + 16,
            ID + 20,
            ID + 24,
            ID + 28,
            STATUS,
            ERROR,
            CYCLES_LOW,
            CYCLES_HIGH,
        )
        counters = [base + 4 * e for base in (BUSY, WAIT) for e in range(len(ENGINES))]
        writes = {LIST_LOW: 32, LIST_HIGH: 8, LIST_COUNT: 24, WATCHDOG: 32}
        m.submodules.registers = regs = Registers(
            writes=writes, strobes=(CONTROL, INTERRUPT), reads=(*reads, *counters)
        )
        wiring.connect(m, wiring.flipped(self.s_axil), regs.bus)
        start = restart.start & ~sequencer.running
        finished, seen, failed = Signal(), Signal(), restart.failed & ~restart.pending
        busy = Mux(restart.failed, ~restart.settled, Cat(*(engine.busy for engine in engines.values())).any())
        m.d.comb += [
            restart.wanted.eq(getattr(regs, f"strobe_{CONTROL:x}") & regs.strobe_data[0]),
            sequencer.start.eq(start),
            sequencer.base.eq(Cat(_value(regs, LIST_LOW), _value(regs, LIST_HIGH))),
            sequencer.count.eq(_value(regs, LIST_COUNT)),
            sequencer.watchdog.eq(_value(regs, WATCHDOG)),
            self.irq.eq(finished | (failed & ~seen)),
        ]
        acknowledged = getattr(regs, f"strobe_{INTERRUPT:x}")
        with m.If(sequencer.finished):
            m.d.sync += finished.eq(1)
        with m.If(start | acknowledged):
            m.d.sync += finished.eq(0)
        m.d.sync += seen.eq(failed & (seen | acknowledged))
        status = {
            STATUS: Cat((sequencer.running & ~restart.failed) | restart.pending, finished, failed, busy),
            ERROR: Cat(sequencer.error, Const(0, 8), sequencer.error_index),
            CYCLES_LOW: sequencer.cycles[:32],
            CYCLES_HIGH: sequencer.cycles[32:],
        }
        for word in range(8):
            status[ID + 4 * word] = Const(int.from_bytes(self.shape.identity[4 * word :][:4], "little"), 32)
        for e, name in enumerate(ENGINES):
            active = engines[name].busy if name in engines else Const(0)
            status[BUSY + 4 * e] = _counter(m, start, active & sequencer.running, f"busy_{name}")
            status[WAIT + 4 * e] = _counter(m, start, sequencer.waiting[e] & ~active, f"wait_{name}")
        for offset, signal in status.items():
            m.d.comb += getattr(regs, f"read_{offset:x}").eq(signal)


@dataclass(frozen=True)
class _Reader:
    """A read port, the memories it can see by number, and the signal that chooses."""

    port: wiring.PureInterface
    memories: tuple[str, ...]
    select: Value


def _readers(engines: Mapping[str, wiring.Component]) -> list[_Reader]:
    """All read ports of the engines there are."""
    linear, store, zero = engines["linear"], engines["store"], Const(0)
    readers = [
        _Reader(linear.source, SOURCES, linear.source_select),
        _Reader(linear.addend, ADDENDS, linear.addend_select),
        _Reader(store.source, STORES, store.source_select),
    ]
    if attention := engines.get("attention"):
        readers += [
            _Reader(getattr(attention, p), (n,), zero) for p, n in (("q", "query"), ("k", "key"), ("v", "value"))
        ]
    if vector := engines.get("vector"):
        readers += [_Reader(vector.r, NORM_SOURCES, zero), _Reader(vector.g, ("affine",), zero)]
    return readers


def _writer(name: str, engines: Mapping[str, wiring.Component]) -> tuple[Value, Value, Value]:
    """Enable, address and data of the one port that writes a memory."""
    load, linear = engines["load"], engines["linear"]
    if name in LOADS:
        return load.out.en & (load.out_select == LOADS.index(name)), load.out.addr, load.out.data
    if name == "normed":
        return engines["vector"].x.en, engines["vector"].x.addr, engines["vector"].x.data
    if name == "skip":
        return engines["vector"].y.en, engines["vector"].y.addr, engines["vector"].y.data
    if name == "context":
        return engines["attention"].o.en, engines["attention"].o.addr, engines["attention"].o.data
    wide = linear.out.data
    narrow = Cat(*(wide.word_select(index, 16)[:8] for index in range(len(wide) // 16)))
    return linear.out.en & (linear.out_select == TARGETS.index(name)), linear.out.addr, wide if name in WIDE else narrow


def _selected(m: Module, select: Value, found: list[tuple[int, Value]]) -> Value:
    """The data of the memory that was chosen when the address was given."""
    if not found:
        return Const(0)
    late = delay(m, select, READ_LATENCY, "select")
    value = found[0][1]
    for number, candidate in found[1:]:
        value = Mux(late == number, candidate, value)
    return value


def _axi_members(bits: int) -> dict[str, wiring.Member]:
    extra = {"arsize": 3, "arburst": 2, "awsize": 3, "awburst": 2, "wstrb": bits // 8}
    members = dict(AxiRead(bits).members.items()) | dict(AxiWrite(bits).members.items())
    return members | {name: Out(width) for name, width in extra.items()}


def _value(registers: Registers, offset: int) -> Value:
    value: Value = getattr(registers, f"value_{offset:x}")
    return value


def _counter(m: Module, clear: Value, count: Value, name: str) -> Signal:
    """Cycles in which ``count`` was high since ``clear``."""
    counter = Signal(32, name=name)
    m.d.sync += counter.eq(Mux(clear, 0, counter + count))
    return counter
