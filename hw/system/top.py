"""The accelerator: engines, memories, DMA, sequencer and AXI shell, from one set of parameters.

Every memory has one writing engine and a physical copy per reading engine, so engines share no
port and none waits for a port.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.memory import READ_LATENCY, RowMemory
from codesign.hw.primitives.multiply import delay
from codesign.hw.system.axi import AxiLite, Registers
from codesign.hw.system.bus import COMMANDS, LOAD, TABLE, WEIGHTS, AxiRead, AxiWrite, Bus
from codesign.hw.system.movers import FetchEngine, LoadEngine, StoreEngine
from codesign.hw.system.read_path import ReadPath
from codesign.hw.system.sequencer import Restart, Sequencer
from codesign.hw.verilog import Resettable
from codesign.target.engines import MOST_ENGINES, RING, Access, MemoryMap, Reached, engine_names, geometry, memory_map
from codesign.target.kernel import Kernel

ID, CONTROL, STATUS, ERROR, CYCLES_LOW, CYCLES_HIGH = 0x00, 0x20, 0x24, 0x28, 0x2C, 0x30
LIST_LOW, LIST_HIGH, LIST_COUNT, WATCHDOG, INTERRUPT = 0x34, 0x38, 0x3C, 0x40, 0x44
BUSY = 0x80
WAIT = BUSY + 4 * MOST_ENGINES
"""Register offsets. ID: eight words of the design's hash; BUSY and WAIT: cycles per engine.

CONTROL: writing bit 0 starts a run; after an error this also resets every part, once all bursts on
the AXI ports have ended. STATUS: bit 0 running, 1 finished, 2 failed (see ERROR), 3 busy: an engine
is working, or after an error a burst has not ended. INTERRUPT: any write clears the interrupt and,
for a finished run, the status bit."""


@dataclass(frozen=True)
class Shape:
    """Everything the hardware depends on.

    Attributes:
        bus: off-chip interface.
        engines: kernels by engine, without the data movers; the one with the ring first.
        memories: bytes of each memory present.
        identity: 32 bytes that the host can read back.

    Raises:
        ValueError: a memory that no engine has, or a missing memory that an engine needs.
    """

    bus: Bus
    engines: Mapping[str, Kernel]
    memories: Mapping[str, int]
    identity: bytes = bytes(32)

    def __post_init__(self) -> None:
        strange = set(self.memories) - set(self.map.memories)
        if strange:
            raise ValueError(
                f"memories {sorted(strange)}; legal with {', '.join(self.engines)}: {', '.join(self.map.memories)}"
            )

        needed = {name for name, reached in self.map.memories.items() if reached.owner != RING}
        if missing := sorted(needed - set(self.memories)):
            raise ValueError(
                f"no memory {', '.join(missing)}; legal with {', '.join(self.engines)}: all of {sorted(needed)}"
            )

    @property
    def map(self) -> MemoryMap:
        """Writer and readers of each memory."""
        return memory_map(geometry({name: kernel.params for name, kernel in self.engines.items()}))

    @property
    def names(self) -> tuple[str, ...]:
        """All engines in numeric order."""
        return engine_names(self.engines)

    def width(self, memory: str, access: Access) -> int:
        """Bytes per word of a memory at a port."""
        if access.port.lanes is None:
            return self.bus.word_bytes
        return self.engines[access.engine].params[access.port.lanes] * self.map.memories[memory].bytes


class Top(wiring.Component):
    """The accelerator with its AXI ports, clock and reset."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        port = Out(wiring.Signature(_axi_members(8 * shape.bus.port_bytes)))
        ports = {f"m_axi{p}": port for p in range(shape.bus.ports)}
        super().__init__({"irq": Out(1), "s_axil": In(AxiLite()), **ports})

    def elaborate(self, platform: object) -> Module:
        """Instantiates the parts, then connects them."""
        m = Module()
        s = self.shape
        sequencer, reads = Sequencer(s.bus, len(s.names)), ReadPath(s.bus)
        numbers = s.map.numbers
        load = LoadEngine(s.bus, len(numbers["load", "out"]) + 1)
        store, fetch = StoreEngine(s.bus, len(numbers["store", "source"])), self._fetch_engine()
        engines: dict[str, wiring.Component] = {"load": load, "store": store, "fetch": fetch}
        engines |= {name: s.engines[name].component(self._depths(name)) for name in s.names if name not in engines}
        m.submodules.restart = restart = Restart()
        for name, part in {"sequencer": sequencer, "reads": reads, **engines}.items():
            m.submodules[name] = Resettable(name, part, restart.clear)
        self._axi(m, reads, store)
        self._read_path(m, reads, sequencer, load, fetch)
        self._rings(m, fetch, engines[RING])
        self._memories(m, engines)
        self._commands(m, sequencer, engines)
        failed = sequencer.error != 0
        m.d.comb += [
            sequencer.bus_failed.eq(reads.failed | store.failed),
            reads.stop.eq(failed),
            store.stop.eq(failed),
            restart.failed.eq(failed),
            restart.settled.eq(reads.idle & store.idle),
        ]
        self._shell(m, sequencer, engines, restart)
        return m

    def _fetch_engine(self) -> FetchEngine:
        s, lin = self.shape, self.shape.engines[RING].params
        return FetchEngine(
            s.bus,
            weight_bytes=lin["t_in"] * lin["t_out"],
            ring_words=lin["ring_words"],
            table_bytes=8 * lin["t_out"],
            table_words=lin["table_words"],
        )

    def _depths(self, engine: str) -> dict[str, int]:
        """Words of the memory behind each port of an engine; of several memories the largest."""
        found: dict[str, int] = {}
        for name, reached in self.shape.map.memories.items():
            for access in (reached.writer, *reached.readers):
                if access.engine == engine:
                    words = self.shape.memories.get(name, 0) // self.shape.width(name, access)
                    found[access.port.name] = max(found.get(access.port.name, 0), words)
        return found

    def _axi(self, m: Module, reads: ReadPath, store: StoreEngine) -> None:
        """Connects the AXI ports and drives their constant signals."""
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

    def _rings(self, m: Module, fetch: FetchEngine, linear: wiring.Component) -> None:
        """Connects the weight ring and the requantization ring."""
        lin, bus_bits = self.shape.engines[RING].params, 8 * self.shape.bus.word_bytes
        for name, write, read, words in (
            ("weight_ring", fetch.weights, linear.weights, lin["ring_words"]),
            ("table_ring", fetch.table, linear.table, lin["table_words"]),
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
        chosen: dict[tuple[str, str], list[tuple[int, Value]]] = {}
        for name, size in self.shape.memories.items():
            reached = self.shape.map.memories[name]
            en, addr, bits = self._writer(reached, engines)
            ports = [getattr(engines[each.engine], each.port.name) for each in reached.readers]
            m.submodules[f"memory_{name}"] = ram = RowMemory(
                bits=8 * size, write_bits=len(bits), read_bits=tuple(len(port.data) for port in ports)
            )
            m.d.comb += [ram.write.en.eq(en), ram.write.addr.eq(addr), ram.write.data.eq(bits)]
            for copy, (each, port) in enumerate(zip(reached.readers, ports, strict=True)):
                read = getattr(ram, f"read{copy}")
                m.d.comb += read.addr.eq(port.addr)
                number = self.shape.map.number(each.engine, each.port.name, name)
                chosen.setdefault((each.engine, each.port.name), []).append((number, read.data))
        for (engine, name), found in chosen.items():
            select = getattr(engines[engine], f"{name}_select", Const(0))
            m.d.comb += getattr(engines[engine], name).data.eq(_selected(m, select, found))
        load, linear = engines["load"], engines[RING]
        m.d.comb += [
            linear.lut.en.eq(load.lut.en),
            linear.lut.addr.eq(load.lut.addr),
            linear.lut.data.eq(load.lut.data),
        ]

    def _writer(self, reached: Reached, engines: Mapping[str, wiring.Component]) -> tuple[Value, Value, Value]:
        """Enable, address and data of a memory's write port; a narrower memory takes the low bytes of each lane."""
        engine, port = reached.writer.engine, reached.writer.port.name
        component = engines[engine]
        write = getattr(component, port)
        enable, bits = write.en, 8 * self.shape.width(reached.name, reached.writer)
        if len(self.shape.map.numbers[engine, port]) > 1:
            number = self.shape.map.number(engine, port, reached.name)
            enable = enable & (getattr(component, f"{port}_select") == number)
        if len(write.data) == bits:
            return enable, write.addr, write.data
        lanes = bits // (8 * reached.bytes)
        step = len(write.data) // lanes
        return (
            enable,
            write.addr,
            Cat(*(write.data.word_select(index, step)[: 8 * reached.bytes] for index in range(lanes))),
        )

    def _commands(self, m: Module, sequencer: Sequencer, engines: Mapping[str, wiring.Component]) -> None:
        """Connects the command streams."""
        for e, name in enumerate(self.shape.names):
            source = getattr(sequencer, f"command{e}")
            done, error = getattr(sequencer, f"done{e}"), getattr(sequencer, f"error{e}")
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
        """Registers, counters and interrupt."""
        reads = (*range(ID, ID + 32, 4), STATUS, ERROR, CYCLES_LOW, CYCLES_HIGH)
        counters = [base + 4 * e for base in (BUSY, WAIT) for e in range(len(self.shape.names))]
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
        for e, name in enumerate(self.shape.names):
            active = engines[name].busy
            status[BUSY + 4 * e] = _counter(m, start, active & sequencer.running, f"busy_{name}")
            status[WAIT + 4 * e] = _counter(m, start, sequencer.waiting[e] & ~active, f"wait_{name}")
        for offset, signal in status.items():
            m.d.comb += getattr(regs, f"read_{offset:x}").eq(signal)


def _selected(m: Module, select: Value, found: list[tuple[int, Value]]) -> Value:
    """Read data of the memory that was selected when the address was given."""
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
    """Counts cycles with ``count`` high since ``clear``."""
    counter = Signal(32, name=name)
    m.d.sync += counter.eq(Mux(clear, 0, counter + count))
    return counter
