"""Designs that exercise the harness: random AXI4 masters, bare AXI wires, registers and small parts."""

from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

ADDRESS_BITS = 40
PAGE_BITS = 14  # the masters work on 16 KiB


def convert(component: wiring.Component, name: str) -> dict[str, str]:
    return {f"{name}.v": str(verilog.convert(component, name=name, strip_internal_attrs=True))}


def pins(port_bytes: int) -> dict[str, wiring.Member]:
    """The memory's channels as a master has them, without the prefix."""
    address = {"addr": Out(ADDRESS_BITS), "len": Out(8), "valid": Out(1), "ready": In(1)}
    channels = {
        "ar": address,
        "aw": address,
        "w": {"data": Out(8 * port_bytes), "strb": Out(port_bytes), "last": Out(1), "valid": Out(1), "ready": In(1)},
        "r": {"data": In(8 * port_bytes), "resp": In(2), "last": In(1), "valid": In(1), "ready": Out(1)},
        "b": {"resp": In(2), "valid": In(1), "ready": Out(1)},
    }
    return {f"{kind}{name}": member for kind, names in channels.items() for name, member in names.items()}


class RandomMasters(wiring.Component):
    """Masters that read and write random bursts, each channel at a random pace, and count what they get.

    ``*_rate`` / 256 is the chance of a channel to move on in a cycle; ``reads`` and ``writes`` count.
    """

    def __init__(self, ports: int, port_bytes: int) -> None:
        self.ports, self.port_bytes = ports, port_bytes
        axi = {f"m_axi{p}_{name}": member for p in range(ports) for name, member in pins(port_bytes).items()}
        rates = {f"{name}_rate": In(9) for name in ("read", "write", "data", "ready")}
        seen = {f"{name}{p}": Out(32) for p in range(ports) for name in ("beats", "sum", "answers")}
        super().__init__({**axi, **rates, **seen, "seed": In(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for p in range(self.ports):
            noise = self._noise(m, p)
            self._address(m, p, "ar", noise[:64], self.read_rate)
            self._write(m, p, noise[64:])
            self._take(m, p)
            m.d.sync += self._pin(p, "rready").eq(noise[100:108] < self.ready_rate)
            m.d.sync += self._pin(p, "bready").eq(noise[110:118] < self.ready_rate)
        return m

    def _pin(self, p: int, name: str) -> Signal:
        return getattr(self, f"m_axi{p}_{name}")

    def _take(self, m: Module, p: int) -> None:
        """Counts what the master sees: data beats, the sum of their low words, and answers to writes."""
        beats, total, answers = (getattr(self, f"{name}{p}") for name in ("beats", "sum", "answers"))
        with m.If(self._pin(p, "rvalid") & self._pin(p, "rready")):
            m.d.sync += [beats.eq(beats + 1), total.eq(total + self._pin(p, "rdata")[:32])]
        with m.If(self._pin(p, "bvalid") & self._pin(p, "bready")):
            m.d.sync += answers.eq(answers + 1)

    def _noise(self, m: Module, p: int) -> Signal:
        """128 fresh random bits per cycle, from two xorshift generators."""
        words = []
        for k in range(2):
            x = Signal(64, init=0x9E3779B97F4A7C15 * (2 * p + k + 1) % (1 << 64))
            a = Signal(64)
            b = Signal(64)
            m.d.comb += [a.eq(x ^ (x << 13)), b.eq(a ^ (a >> 7))]
            m.d.sync += x.eq(b ^ (b << 17) ^ self.seed)
            words.append(x)
        return Cat(*words)

    def _address(self, m: Module, p: int, kind: str, noise: Signal, rate: Signal) -> tuple[Signal, Signal]:
        """Holds a random burst inside one page until it is taken; returns the condition of a new one and its length."""
        valid, ready = self._pin(p, f"{kind}valid"), self._pin(p, f"{kind}ready")
        beats = 256 // self.port_bytes
        length, start = Signal(range(beats)), Signal(range(beats))
        page = Signal(PAGE_BITS - 9)
        fresh = Signal()
        m.d.comb += [length.eq(noise), start.eq(noise >> 8), page.eq(noise >> 16), fresh.eq(0)]
        with m.If(~valid | ready):
            m.d.comb += fresh.eq(noise[40:48] < rate)
            m.d.sync += valid.eq(fresh)
            m.d.sync += self._pin(p, f"{kind}len").eq(length)
            m.d.sync += self._pin(p, f"{kind}addr").eq((page << 9) + start * self.port_bytes)
        return fresh, length

    def _write(self, m: Module, p: int, noise: Signal) -> None:
        """Announces bursts and sends their beats from a queue of lengths, before or after the address is taken."""
        m.submodules[f"queue{p}"] = queue = fifo.SyncFIFOBuffered(width=8, depth=16)
        rate = Mux(queue.level < 12, self.write_rate, 0)
        fresh, length = self._address(m, p, "aw", noise, rate)
        m.d.comb += [queue.w_en.eq(fresh), queue.w_data.eq(length)]
        valid, beat = self._pin(p, "wvalid"), Signal(8)
        with m.If(~valid | self._pin(p, "wready")):
            send = queue.r_rdy & (noise[48:56] < self.data_rate)
            last = beat == queue.r_data
            m.d.comb += queue.r_en.eq(send & last)
            m.d.sync += valid.eq(send)
            with m.If(send):
                m.d.sync += self._pin(p, "wdata").eq(Cat(*([noise] * (self.port_bytes // 8 + 1))) ^ beat)
                m.d.sync += self._pin(p, "wstrb").eq(Cat(noise, noise) | Mux(noise[56], -1, 0))
                m.d.sync += self._pin(p, "wlast").eq(last)
                m.d.sync += beat.eq(Mux(last, 0, beat + 1))


class Wires(wiring.Component):
    """One memory port, driven and seen from outside: ``m_axi0_X`` is ``t_X``, and registers in ``clk``."""

    def __init__(self, port_bytes: int, fixed: dict[str, int] | None = None) -> None:
        members = pins(port_bytes) | dict.fromkeys(fixed or {}, Out(3))
        self.outputs = [name for name, member in pins(port_bytes).items() if member.flow is Out]
        self.fixed = fixed or {}
        outside = {f"t_{name}": In(members[name].shape) for name in self.outputs}
        super().__init__(
            {f"m_axi0_{name}": member for name, member in members.items()}
            | outside
            | {"beats": Out(16), "answers": Out(16)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in self.outputs:
            m.d.comb += getattr(self, f"m_axi0_{name}").eq(getattr(self, f"t_{name}"))
        for name, value in self.fixed.items():
            m.d.comb += getattr(self, f"m_axi0_{name}").eq(value)
        m.d.sync += self.beats.eq(self.beats + (self.m_axi0_rvalid & self.m_axi0_rready))
        m.d.sync += self.answers.eq(self.answers + (self.m_axi0_bvalid & self.m_axi0_bready))
        return m
