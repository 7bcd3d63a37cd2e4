"""The shared read path: bursts of three clients, issued to the AXI ports and delivered in request order.

The rotation over the ports restarts at the first one when no burst is in flight, so that the duration of a
transfer from rest depends on nothing before it.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.fifo import Fifo
from codesign.hw.system.bus import ADDR_BITS, AxiRead, BurstRequest, Bus
from codesign.hw.verilog import SharedComponent


class ReadPath(wiring.Component):
    """Issues the bursts of three clients (lower number has priority) and returns data in request order.

    Args:
        bus: shape of the interface; a port never has more bursts in flight than it can buffer.

    Ports:
        request0..2: burst requests.
        axi0..: the AXI ports.
        failed: a read returned an error.
        stop: no more bursts are issued. idle: no burst is in flight.
        valid, to, data: one bus word per cycle and its destination.
    """

    CLIENTS = 3

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        super().__init__(
            {
                **{f"request{i}": In(stream.Signature(BurstRequest())) for i in range(self.CLIENTS)},
                **{f"axi{p}": Out(AxiRead(8 * bus.port_bytes)) for p in range(bus.ports)},
                "stop": In(1), "idle": Out(1), "failed": Out(1),
                "valid": Out(1), "to": Out(2), "data": Out(8 * bus.word_bytes),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        """Issue, per-port assembly, in-order delivery."""
        m = Module()
        bus = self.bus
        order = Fifo(BurstRequest(), max(2, bus.ports * bus.outstanding))
        m.submodules.order = order
        ports = [_ReadPort(bus) for _ in range(bus.ports)]
        for index, port in enumerate(ports):
            m.submodules[f"port{index}"] = port
            self._axi(m, getattr(self, f"axi{index}"), port)
        axis = [getattr(self, f"axi{p}") for p in range(bus.ports)]
        m.d.comb += [
            self.failed.eq(Cat(*(axi.rvalid & (axi.rresp != 0) for axi in axis)).any()),
            self.idle.eq(~order.r.valid),
        ]
        rest = self._issue(m, order, ports)
        self._deliver(m, order, ports, rest)
        return m

    @staticmethod
    def _axi(m: Module, axi: wiring.PureInterface, port: "_ReadPort") -> None:
        m.d.comb += [
            axi.araddr.eq(port.araddr), axi.arlen.eq(port.arlen), axi.arvalid.eq(port.arvalid),
            port.arready.eq(axi.arready), port.rdata.eq(axi.rdata), port.rlast.eq(axi.rlast),
            port.rvalid.eq(axi.rvalid), axi.rready.eq(1),
        ]  # fmt: skip

    def _issue(self, m: Module, order: Fifo, ports: list["_ReadPort"]) -> Value:
        """Issues one burst per cycle, ports in turn; returns whether none is in flight and none begins."""
        clients = [getattr(self, f"request{i}") for i in range(self.CLIENTS)]
        turn = Signal(range(max(2, len(ports))))
        free = Array(port.free for port in ports)[turn]
        chosen = Signal(BurstRequest())
        may, valid, taken = Signal(), Signal(), Signal()
        m.d.comb += [
            may.eq(free & order.w.ready & ~self.stop),
            taken.eq(valid & may),
            valid.eq(Cat(*(c.valid for c in clients)).any()),
        ]
        earlier: Value = Signal()
        for client in clients:
            with m.If(client.valid & ~earlier):
                m.d.comb += [chosen.eq(client.payload), client.ready.eq(may)]
            earlier = earlier | client.valid
        with m.If(taken):
            m.d.sync += turn.eq(Mux(turn == len(ports) - 1, 0, turn + 1))
        rest = Signal()
        m.d.comb += rest.eq(self.idle & ~taken)
        with m.If(rest):
            m.d.sync += turn.eq(0)
        m.d.comb += [order.w.valid.eq(taken), order.w.payload.eq(chosen)]
        for index, port in enumerate(ports):
            m.d.comb += [port.issue.eq(taken & (turn == index)), port.addr.eq(chosen.addr), port.words.eq(chosen.words)]
        return rest

    def _deliver(self, m: Module, order: Fifo, ports: list["_ReadPort"], rest: Value) -> None:
        """Delivers the bus words of the oldest burst once it is complete."""
        turn = Signal(range(max(2, len(ports))))
        count = Signal(8)
        head = order.r.payload
        go, last = Signal(), Signal()
        m.d.comb += [
            go.eq(order.r.valid & Array(port.complete for port in ports)[turn]),
            last.eq(go & (count == head.words - 1)),
            order.r.ready.eq(last),
        ]
        with m.If(go):
            m.d.sync += count.eq(count + 1)
        with m.If(last):
            m.d.sync += [count.eq(0), turn.eq(Mux(turn == len(ports) - 1, 0, turn + 1))]
        with m.If(rest):
            m.d.sync += turn.eq(0)
        for index, port in enumerate(ports):
            m.d.comb += [port.take.eq(go & (turn == index)), port.take_last.eq(last & (turn == index))]
        m.d.sync += [self.valid.eq(go), self.to.eq(head.to), self.data.eq(Array(port.data for port in ports)[turn])]


class _ReadPort(SharedComponent):
    """One AXI read port: address register, packing of beats into bus words, count of complete bursts."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        bits = 8 * bus.port_bytes
        super().__init__(
            f"read_port_{bus.ports}x{bus.port_bytes}_{bus.outstanding}",
            {
                "issue": In(1), "addr": In(ADDR_BITS), "words": In(8), "free": Out(1),
                "take": In(1), "take_last": In(1), "complete": Out(1), "data": Out(8 * bus.word_bytes),
                "araddr": Out(ADDR_BITS), "arlen": Out(8), "arvalid": Out(1), "arready": In(1),
                "rdata": In(bits), "rlast": In(1), "rvalid": In(1),
            }
        )  # fmt: skip

    def build(self, platform: object) -> Module:
        """Buffer space for a burst is reserved at issue, so data is always accepted."""
        m = Module()
        bus = self.bus
        m.submodules.words = words = Fifo(8 * bus.word_bytes, max(2, bus.outstanding * bus.burst_words))
        in_flight, complete = Signal(range(bus.outstanding + 1)), Signal(range(bus.outstanding + 1))
        m.d.comb += [
            self.free.eq((~self.arvalid | self.arready) & (in_flight != bus.outstanding)),
            self.complete.eq(complete != 0),
            self.data.eq(words.r.payload),
            words.r.ready.eq(self.take),
        ]
        with m.If(self.arready):
            m.d.sync += self.arvalid.eq(0)
        with m.If(self.issue):
            m.d.sync += [self.arvalid.eq(1), self.araddr.eq(self.addr), self.arlen.eq(self.words * bus.ports - 1)]
        m.d.sync += [
            in_flight.eq(in_flight + self.issue - self.take_last),
            complete.eq(complete + (self.rvalid & self.rlast) - self.take_last),
        ]
        self._pack(m, words)
        return m

    def _pack(self, m: Module, words: Fifo) -> None:
        """Packs ``ports`` beats into a bus word, first beat lowest."""
        bus = self.bus
        bits = 8 * bus.port_bytes
        if bus.ports == 1:
            m.d.comb += [words.w.valid.eq(self.rvalid), words.w.payload.eq(self.rdata)]
            return
        held, beat = Signal(bits * (bus.ports - 1), reset_less=True), Signal(range(bus.ports))
        with m.If(self.rvalid):
            m.d.sync += [held.eq(Cat(held[bits:], self.rdata) if bus.ports > 2 else self.rdata)]
            m.d.sync += beat.eq(Mux(beat == bus.ports - 1, 0, beat + 1))
        m.d.comb += [
            words.w.valid.eq(self.rvalid & (beat == bus.ports - 1)),
            words.w.payload.eq(Cat(held, self.rdata)),
        ]
