"""The engines that only move data: load, fetch and store.

Each splits the block of a command into bursts. A store begins at the first port, so that the duration of a
transfer from rest depends on nothing before it.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.fifo import Fifo, operands
from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, WritePort
from codesign.hw.primitives.multiply import delay
from codesign.hw.system.bus import (
    ADDR_BITS,
    LOAD,
    TABLE,
    WEIGHTS,
    AxiWrite,
    BurstMaker,
    BurstRequest,
    Bus,
    next_burst,
)
from codesign.hw.verilog import SharedComponent
from codesign.target.engines import MOVERS

LOAD_OPERANDS, STORE_OPERANDS, FETCH_OPERANDS = (operands(**MOVERS[name]) for name in ("load", "store", "fetch"))


class LoadEngine(wiring.Component):
    """Copies a block of DRAM into an on-chip memory; one command at a time.

    Memories 0 .. ``memories - 1`` take a bus word per cycle, but the last of them, the 8-bit tables, takes
    a byte per cycle, so its bursts wait until the previous one is written.
    """

    def __init__(self, bus: Bus, memories: int) -> None:
        self.bus, self.memories = bus, memories
        super().__init__(
            {
                "command": In(stream.Signature(LOAD_OPERANDS)), "done": Out(1), "busy": Out(1), "error": Out(1),
                "request": Out(stream.Signature(BurstRequest())), "valid": In(1), "data": In(8 * bus.word_bytes),
                "out": Out(WritePort(24, 8 * bus.word_bytes)), "out_select": Out(8),
                "lut": Out(WritePort(24, 8)),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        """Requests bursts, writes arriving data, pulses done after the last word."""
        m = Module()
        bus = self.bus
        m.submodules.bursts = bursts = BurstMaker(bus)
        m.submodules.bytes = queue = Fifo(8 * bus.word_bytes, max(2, bus.burst_words))
        op = self.command.payload
        left, address, select = Signal(24), Signal(24), Signal(8)
        is_lut, legal, taken, pending = Signal(), Signal(), Signal(), Signal()
        written = Signal()
        m.d.comb += [
            legal.eq((op.words != 0) & (op.memory < self.memories)),
            self.command.ready.eq(~self.busy),
            taken.eq(self.command.valid & self.command.ready & legal),
            self.error.eq(self.command.valid & self.command.ready & ~legal),
            is_lut.eq(select == self.memories - 1),
            bursts.start.eq(taken),
            bursts.addr.eq(op.dram),
            bursts.words.eq(op.words),
            bursts.space.eq(Mux(is_lut & pending, 0, bus.burst_words)),
        ]
        wiring.connect(m, bursts.request, wiring.flipped(self.request))
        m.d.comb += self.request.payload.to.eq(LOAD)
        byte = self._bytes(m, queue, address)
        m.d.comb += [
            self.out.en.eq(self.valid & ~is_lut),
            self.out.addr.eq(address),
            self.out.data.eq(self.data),
            self.out_select.eq(select),
            queue.w.valid.eq(self.valid & is_lut),
            queue.w.payload.eq(self.data),
            written.eq(Mux(is_lut, byte, self.valid)),
        ]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += pending.eq(1)
        with m.If(byte & (queue.level == 1)):
            m.d.sync += pending.eq(0)
        with m.If(written):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1), self.busy.eq(left != 1)]
        m.d.sync += self.done.eq(written & (left == 1))
        with m.If(taken):
            m.d.sync += [
                left.eq(op.words),
                address.eq(op.address),
                select.eq(op.memory),
                self.busy.eq(1),
                pending.eq(0),
            ]
        return m

    def _bytes(self, m: Module, queue: Fifo, address: Signal) -> Value:
        """Writes queued words byte by byte; returns a pulse with a word's last byte."""
        count = Signal(range(self.bus.word_bytes))
        last = Signal()
        m.d.comb += [
            self.lut.en.eq(queue.r.valid),
            self.lut.addr.eq(Cat(count, address)),
            self.lut.data.eq(queue.r.payload.word_select(count, 8)),
            last.eq(queue.r.valid & (count == self.bus.word_bytes - 1)),
            queue.r.ready.eq(last),
        ]
        with m.If(queue.r.valid):
            m.d.sync += count.eq(count + 1)
        return last


class FetchEngine(wiring.Component):
    """Keeps the table ring and the weight ring filled, ahead of the linear engine and across layers.

    A command is done when its last burst is requested. ``arrived`` pulses for every complete weight
    word; ``freed`` releases ``freed_words`` weight words and one table word.
    """

    def __init__(self, bus: Bus, *, weight_bytes: int, ring_words: int, table_bytes: int, table_words: int) -> None:
        self.bus = bus
        self.weight_ratio, self.table_ratio = weight_bytes // bus.word_bytes, table_bytes // bus.word_bytes
        self.ring, self.table_ring = ring_words * self.weight_ratio, table_words * self.table_ratio
        for name, value in (("weight", weight_bytes), ("table", table_bytes)):
            if value % bus.word_bytes:
                raise ValueError(
                    f"{name} word of {value} bytes; legal: multiples of the bus word, {bus.word_bytes} bytes"
                )
        bits = 8 * bus.word_bytes
        super().__init__(
            {
                "command": In(stream.Signature(FETCH_OPERANDS)), "done": Out(1), "busy": Out(1), "error": Out(1),
                "request": Out(stream.Signature(BurstRequest())), "valid": In(1), "to": In(2), "data": In(bits),
                "weights": Out(WritePort(24, bits)), "table": Out(WritePort(24, bits)),
                "arrived": Out(1), "freed": In(1), "freed_words": In(16),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        """Requests the table's bursts, then the weights'; write pointers advance independently."""
        m = Module()
        m.submodules.bursts = bursts = BurstMaker(self.bus)
        op = self.command.payload
        weights_left, next_addr, in_weights = Signal(24), Signal(ADDR_BITS), Signal()
        legal, taken = Signal(), Signal()
        m.d.comb += [
            legal.eq((op.table_words != 0) & (op.weight_words != 0)),
            self.command.ready.eq(~self.busy),
            taken.eq(self.command.valid & self.command.ready & legal),
            self.error.eq(self.command.valid & self.command.ready & ~legal),
        ]
        second = self.busy & ~in_weights & bursts.idle
        finished = self.busy & in_weights & bursts.idle
        m.d.comb += [
            bursts.start.eq(taken | second),
            bursts.addr.eq(Mux(taken, op.dram, next_addr)),
            bursts.words.eq(Mux(taken, op.table_words, weights_left)),
            self.done.eq(finished),
        ]
        with m.If(second):
            m.d.sync += in_weights.eq(1)
        with m.If(finished):
            m.d.sync += self.busy.eq(0)
        with m.If(taken):
            m.d.sync += [weights_left.eq(op.weight_words), in_weights.eq(0), self.busy.eq(1)]
            m.d.sync += next_addr.eq(op.dram + op.table_words * self.bus.word_bytes)
        wiring.connect(m, bursts.request, wiring.flipped(self.request))
        m.d.comb += self.request.payload.to.eq(Mux(in_weights, WEIGHTS, TABLE))
        self._space(m, bursts, in_weights)
        self._write(m)
        return m

    def _space(self, m: Module, bursts: BurstMaker, in_weights: Signal) -> None:
        """Free bus words of each ring, less everything requested."""
        weights, table = Signal(24, init=self.ring), Signal(24, init=self.table_ring)
        taken = Mux(self.request.valid & self.request.ready, self.request.payload.words, 0)
        back = Mux(self.freed, self.freed_words * self.weight_ratio, 0)
        m.d.sync += [
            weights.eq(weights + back - Mux(in_weights, taken, 0)),
            table.eq(table + Mux(self.freed, self.table_ratio, 0) - Mux(in_weights, 0, taken)),
        ]
        m.d.comb += bursts.space.eq(Mux(in_weights, weights, table))

    def _write(self, m: Module) -> None:
        """Writes data to the requested ring, in order."""
        for port, to, depth in ((self.weights, WEIGHTS, self.ring), (self.table, TABLE, self.table_ring)):
            m.d.comb += [port.en.eq(self.valid & (self.to == to)), port.data.eq(self.data)]
            with m.If(port.en):
                m.d.sync += port.addr.eq(Mux(port.addr == depth - 1, 0, port.addr + 1))
        mask = self.weight_ratio - 1
        m.d.comb += self.arrived.eq(self.weights.en & ((self.weights.addr & mask) == mask))


class StoreEngine(wiring.Component):
    """Copies a block of an on-chip memory to DRAM; done when the last write is acknowledged.

    A burst is read from memory when its port has a free buffer, and offered to the port when it is
    complete, so the engine never stalls write data.

    Ports:
        source, source_select: read port of the memory chosen by the command.
        axi0..: the AXI ports.
        failed: a write returned an error.
        stop: no more bursts begin. idle: no burst is in flight.
    """

    def __init__(self, bus: Bus, memories: int) -> None:
        self.bus, self.memories = bus, memories
        super().__init__(
            {
                "command": In(stream.Signature(STORE_OPERANDS)), "done": Out(1), "busy": Out(1), "error": Out(1),
                "source": Out(ReadPort(24, 8 * bus.word_bytes)), "source_select": Out(8), "failed": Out(1),
                "stop": In(1), "idle": Out(1),
                **{f"axi{p}": Out(AxiWrite(8 * bus.port_bytes)) for p in range(bus.ports)},
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        """Reads bursts into the ports' buffers in turn."""
        m = Module()
        bus = self.bus
        op = self.command.payload
        ports = [_WritePort(bus) for _ in range(bus.ports)]
        turn, count, words = Signal(range(max(2, bus.ports))), Signal(8), Signal(8)
        left, address, dram, unanswered = Signal(24), Signal(24), Signal(ADDR_BITS), Signal(24)
        legal, taken, read, last = Signal(), Signal(), Signal(), Signal()
        free = Array(port.free for port in ports)[turn]
        m.d.comb += [
            legal.eq((op.words != 0) & (op.memory < self.memories)),
            self.command.ready.eq(~self.busy),
            taken.eq(self.command.valid & self.command.ready & legal),
            self.error.eq(self.command.valid & self.command.ready & ~legal),
            words.eq(next_burst(bus, dram, left)),
            read.eq((left != 0) & ((count != 0) | (free & ~self.stop))),
            self.idle.eq((count == 0) & (unanswered == 0)),
            last.eq(read & (count == words - 1)),
            self.source.addr.eq(address),
        ]
        with m.If(read):
            m.d.sync += [address.eq(address + 1), count.eq(count + 1)]
        with m.If(last):
            m.d.sync += [
                count.eq(0),
                left.eq(left - words),
                dram.eq(dram + (words << (bus.word_bytes - 1).bit_length())),
            ]
            m.d.sync += turn.eq(Mux(turn == bus.ports - 1, 0, turn + 1))
        answers = sum((port.answered for port in ports[1:]), ports[0].answered)
        ending = Signal()
        m.d.comb += ending.eq(self.busy & (left == 0) & (unanswered == 0))
        m.d.sync += [unanswered.eq(unanswered + last - answers), self.done.eq(ending)]
        with m.If(ending):
            m.d.sync += self.busy.eq(0)
        with m.If(taken):
            m.d.sync += [left.eq(op.words), address.eq(op.address), dram.eq(op.dram), self.busy.eq(1)]
            m.d.sync += [self.source_select.eq(op.memory), turn.eq(0)]
        late = delay(m, Cat(read, last, turn, words, dram), READ_LATENCY, "read", reset_less=False)
        late_turn = late[2 : 2 + len(turn)]
        for index, port in enumerate(ports):
            self._port(m, index, port, late, late_turn == index)
            m.d.comb += port.begin.eq(read & (count == 0) & (turn == index))
        return m

    def _port(self, m: Module, index: int, port: "_WritePort", late: Value, mine: Value) -> None:
        axi = getattr(self, f"axi{index}")
        m.submodules[f"port{index}"] = port
        words = late[len(late) - ADDR_BITS - 8 :][:8]
        m.d.comb += [
            port.push.eq(late[0] & mine),
            port.last.eq(late[1] & mine),
            port.data.eq(self.source.data),
            port.words.eq(words),
            port.addr.eq(late[len(late) - ADDR_BITS :]),
        ]
        wiring.connect(m, port.axi, wiring.flipped(axi))
        with m.If(axi.bvalid & (axi.bresp != 0)):
            m.d.comb += self.failed.eq(1)


class _WritePort(SharedComponent):
    """One AXI write port with room for two bursts; the next address follows the last beat."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        super().__init__(
            f"write_port_{bus.ports}x{bus.port_bytes}_{bus.outstanding}",
            {
                "begin": In(1), "push": In(1), "last": In(1), "data": In(8 * bus.word_bytes), "words": In(8),
                "addr": In(ADDR_BITS), "free": Out(1), "answered": Out(1),
                "axi": Out(AxiWrite(8 * bus.port_bytes)),
            }
        )  # fmt: skip

    def build(self, platform: object) -> Module:
        """States: idle, address, beats."""
        m = Module()
        bus = self.bus
        m.submodules.words = words = Fifo(8 * bus.word_bytes, max(2, 2 * bus.burst_words))
        m.submodules.bursts = bursts = Fifo(data.StructLayout({"addr": ADDR_BITS, "beats": 8}), 2)
        in_use, beat, slice_index = Signal(2), Signal(8), Signal(range(max(2, bus.ports)))
        sending, ending = Signal(), Signal()
        axi = self.axi
        m.d.comb += [
            self.free.eq(in_use != 2),
            words.w.valid.eq(self.push),
            words.w.payload.eq(self.data),
            bursts.w.valid.eq(self.last),
            bursts.w.payload.addr.eq(self.addr),
            bursts.w.payload.beats.eq(self.words * bus.ports - 1),
            axi.wvalid.eq(sending),
            axi.wdata.eq(words.r.payload.word_select(slice_index, 8 * bus.port_bytes)),
            axi.wlast.eq(beat == bursts.r.payload.beats),
            ending.eq(sending & axi.wready & axi.wlast),
            words.r.ready.eq(sending & axi.wready & (slice_index == bus.ports - 1)),
            bursts.r.ready.eq(ending),
            axi.bready.eq(1),
            self.answered.eq(axi.bvalid),
        ]
        m.d.sync += in_use.eq(in_use + self.begin - ending)
        with m.If(bursts.r.valid & ~axi.awvalid & ~sending):
            m.d.sync += [axi.awvalid.eq(1), axi.awaddr.eq(bursts.r.payload.addr), axi.awlen.eq(bursts.r.payload.beats)]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [axi.awvalid.eq(0), sending.eq(1)]
        with m.If(sending & axi.wready):
            m.d.sync += [beat.eq(beat + 1), slice_index.eq(Mux(slice_index == bus.ports - 1, 0, slice_index + 1))]
        with m.If(ending):
            m.d.sync += [sending.eq(0), beat.eq(0)]
        return m
