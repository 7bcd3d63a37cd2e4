"""AXI4-Lite register file: the host interface of the accelerator."""

from collections.abc import Mapping

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

ADDRESS_BITS = 12


class AxiLite(wiring.Signature):
    """AXI4-Lite from the host's side, 32 bits wide."""

    def __init__(self) -> None:
        super().__init__(
            {
                "awaddr": Out(ADDRESS_BITS), "awvalid": Out(1), "awready": In(1),
                "wdata": Out(32), "wstrb": Out(4), "wvalid": Out(1), "wready": In(1),
                "bresp": In(2), "bvalid": In(1), "bready": Out(1),
                "araddr": Out(ADDRESS_BITS), "arvalid": Out(1), "arready": In(1),
                "rdata": In(32), "rresp": In(2), "rvalid": In(1), "rready": Out(1),
            }
        )  # fmt: skip


class Registers(wiring.Component):
    """Register file on AXI4-Lite.

    Args:
        writes: byte offset to bits (at most 32) of registers the host writes and reads back, ``value_OFFSET``.
        strobes: byte offsets whose writes pulse ``strobe_OFFSET`` for one cycle with ``strobe_data``.
        reads: byte offsets of read-only registers, driven from outside as ``read_OFFSET``.
    """

    def __init__(self, *, writes: Mapping[int, int], strobes: tuple[int, ...], reads: tuple[int, ...]) -> None:
        self.writes, self.strobes, self.reads = dict(writes), strobes, reads
        super().__init__(
            {
                "bus": In(AxiLite()),
                "strobe_data": Out(32),
                **{f"value_{offset:x}": Out(bits) for offset, bits in writes.items()},
                **{f"strobe_{offset:x}": Out(1) for offset in strobes},
                **{f"read_{offset:x}": In(32) for offset in reads},
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Write address and data may arrive in any order; one outstanding transfer per direction."""
        m = Module()
        self._write(m)
        self._read(m)
        return m

    def _write(self, m: Module) -> None:
        bus = self.bus
        go = Signal()
        m.d.comb += [
            go.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)),
            bus.awready.eq(go),
            bus.wready.eq(go),
            self.strobe_data.eq(bus.wdata),
        ]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(go):
            m.d.sync += bus.bvalid.eq(1)
        for offset in self.writes:
            with m.If(go & (bus.awaddr == offset)):
                m.d.sync += getattr(self, f"value_{offset:x}").eq(bus.wdata)
        for offset in self.strobes:
            m.d.comb += getattr(self, f"strobe_{offset:x}").eq(go & (bus.awaddr == offset))

    def _read(self, m: Module) -> None:
        bus = self.bus
        go = Signal()
        m.d.comb += [go.eq(bus.arvalid & (~bus.rvalid | bus.rready)), bus.arready.eq(go)]
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(go):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(0)]
        values: dict[int, Value] = {o: getattr(self, f"value_{o:x}") for o in self.writes}
        values |= {o: getattr(self, f"read_{o:x}") for o in self.reads}
        for offset, value in values.items():
            with m.If(go & (bus.araddr == offset)):
                m.d.sync += bus.rdata.eq(value)
