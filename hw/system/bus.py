"""The off-chip interface: its shape, its AXI ports, and transfers cut into bursts.

The bus word is as wide as all AXI ports together. A burst of up to 256 bytes uses one port;
successive bursts rotate over the ports, so a block is striped over all of them and its order
never changes.
"""

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

BURST_BYTES = 256
ADDR_BITS = 40
COMMANDS, LOAD, TABLE, WEIGHTS = range(4)
"""Destinations of read data: the sequencer, the load engine, and the two rings."""


@dataclass(frozen=True)
class Bus:
    """Shape of the off-chip interface.

    Attributes:
        ports: AXI ports.
        port_bytes: width of a port.
        outstanding: bursts in flight per port, a power of two.
    """

    ports: int
    port_bytes: int
    outstanding: int

    @property
    def word_bytes(self) -> int:
        """Bytes of a bus word: all ports together."""
        return self.ports * self.port_bytes

    @property
    def burst_words(self) -> int:
        """Bus words of a full burst."""
        return BURST_BYTES // self.word_bytes


def next_burst(bus: Bus, addr: Value, left: Value) -> Value:
    """Bus words of the next burst: up to the next multiple of 256 bytes, so that it never crosses a page."""
    low = (bus.word_bytes - 1).bit_length()
    room = bus.burst_words - addr[low : (BURST_BYTES - 1).bit_length()]
    return Mux(left > room, room, left)


class AxiRead(wiring.Signature):
    """Read half of an AXI4 master, without the constant signals driven by the top."""

    def __init__(self, bits: int) -> None:
        super().__init__(
            {
                "araddr": Out(ADDR_BITS), "arlen": Out(8), "arvalid": Out(1), "arready": In(1),
                "rdata": In(bits), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1),
            }
        )  # fmt: skip


class AxiWrite(wiring.Signature):
    """Write half of an AXI4 master, without the constant signals driven by the top."""

    def __init__(self, bits: int) -> None:
        super().__init__(
            {
                "awaddr": Out(ADDR_BITS), "awlen": Out(8), "awvalid": Out(1), "awready": In(1),
                "wdata": Out(bits), "wlast": Out(1), "wvalid": Out(1), "wready": In(1),
                "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            }
        )  # fmt: skip


class BurstRequest(data.StructLayout):
    """One burst: byte address, bus words, destination."""

    def __init__(self) -> None:
        super().__init__({"addr": ADDR_BITS, "words": 8, "to": 2})


class BurstMaker(wiring.Component):
    """Splits a transfer into bursts of at most 256 bytes, each issued once the destination has room for it.

    ``start`` with ``addr`` and ``words`` begins a transfer when ``idle``; ``space`` is the room at the
    destination in bus words, less everything already requested.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        super().__init__(
            {
                "start": In(1), "addr": In(ADDR_BITS), "words": In(24), "idle": Out(1),
                "space": In(24), "request": Out(stream.Signature(BurstRequest())),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        """Counts down the remaining words."""
        m = Module()
        addr, left = Signal(ADDR_BITS), Signal(24)
        words = Signal(8)
        m.d.comb += [
            words.eq(next_burst(self.bus, addr, left)),
            self.idle.eq(left == 0),
            self.request.valid.eq((left != 0) & (self.space >= words)),
            self.request.payload.addr.eq(addr),
            self.request.payload.words.eq(words),
        ]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [addr.eq(addr + (words << (self.bus.word_bytes - 1).bit_length())), left.eq(left - words)]
        with m.If(self.start):
            m.d.sync += [addr.eq(self.addr), left.eq(self.words)]
        return m
