"""Designs that exercise the harness: random AXI4 masters, bare AXI wires, a stream buffer and a counter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import fifo

ADDRESS_BITS = 40
PAGE_BITS = 14  # the masters work on 16 KiB


@dataclass
class Design:
    """A module under construction and its ports."""

    m: Module = field(default_factory=Module)
    ports: dict[str, Signal] = field(default_factory=dict)

    def port(self, name: str, width: int = 1) -> Signal:
        """A port; an output if the module drives it."""
        return self.ports.setdefault(name, Signal(width, name=name))

    def sources(self, name: str) -> dict[str, str]:
        ports = {name: (signal, None) for name, signal in self.ports.items()}
        return {f"{name}.v": str(verilog.convert(self.m, name=name, ports=ports, strip_internal_attrs=True))}


def outputs(port_bytes: int) -> dict[str, int]:
    """What a master drives, without the prefix, with bits."""
    address = {"addr": ADDRESS_BITS, "len": 8, "valid": 1}
    data = {"wdata": 8 * port_bytes, "wstrb": port_bytes, "wlast": 1, "wvalid": 1, "rready": 1, "bready": 1}
    return {f"{kind}{name}": width for kind in ("ar", "aw") for name, width in address.items()} | data


def inputs(port_bytes: int) -> dict[str, int]:
    """What the memory drives."""
    bits = dict.fromkeys(("arready", "awready", "wready", "rvalid", "rlast", "bvalid"), 1)
    return {**bits, "rdata": 8 * port_bytes, "rresp": 2, "bresp": 2}


class RandomMaster:
    """One port that reads and writes random bursts, each channel at a random pace, and counts what it gets.

    ``*_rate`` / 256 is the chance of a channel to move on in a cycle.
    """

    def __init__(self, design: Design, p: int, port_bytes: int) -> None:
        self.m, self.port_bytes = design.m, port_bytes
        pins = {**outputs(port_bytes), **inputs(port_bytes)}
        self.pins = {name: design.port(f"m_axi{p}_{name}", width) for name, width in pins.items()}
        self.rates = {name: design.port(f"{name}_rate", 9) for name in ("read", "write", "data", "ready")}
        noise = self._noise(p, design.port("seed", 32))
        self._address("ar", noise[:64], self.rates["read"])
        self._write(p, noise[64:])
        for name, bits in (("rready", noise[100:108]), ("bready", noise[110:118])):
            self.m.d.sync += self.pins[name].eq(bits < self.rates["ready"])
        self._count(*(design.port(f"{name}{p}", 32) for name in ("beats", "sum", "answers")))

    def _noise(self, p: int, seed: Signal) -> Signal:
        """128 fresh random bits per cycle, from two xorshift generators."""
        words = []
        for k in range(2):
            x = Signal(64, init=0x9E3779B97F4A7C15 * (2 * p + k + 1) % (1 << 64))
            a, b = Signal(64), Signal(64)
            self.m.d.comb += [a.eq(x ^ (x << 13)), b.eq(a ^ (a >> 7))]
            self.m.d.sync += x.eq(b ^ (b << 17) ^ seed)
            words.append(x)
        return Cat(*words)

    def _address(self, kind: str, noise: Signal, rate: Signal) -> tuple[Signal, Signal]:
        """Holds a random burst of one page until it is taken; returns when a new one starts, and its length."""
        valid = self.pins[f"{kind}valid"]
        beats = 256 // self.port_bytes
        length, start, page, fresh = Signal(range(beats)), Signal(range(beats)), Signal(PAGE_BITS - 9), Signal()
        self.m.d.comb += [length.eq(noise), start.eq(noise >> 8), page.eq(noise >> 16)]
        with self.m.If(~valid | self.pins[f"{kind}ready"]):
            self.m.d.comb += fresh.eq(noise[40:48] < rate)
            self.m.d.sync += valid.eq(fresh)
            self.m.d.sync += self.pins[f"{kind}len"].eq(length)
            self.m.d.sync += self.pins[f"{kind}addr"].eq((page << 9) + start * self.port_bytes)
        return fresh, length

    def _write(self, p: int, noise: Signal) -> None:
        """Announces bursts and sends their beats, before or after the address is taken."""
        self.m.submodules[f"queue{p}"] = queue = fifo.SyncFIFOBuffered(width=8, depth=16)
        fresh, length = self._address("aw", noise, Mux(queue.level < 12, self.rates["write"], 0))
        self.m.d.comb += [queue.w_en.eq(fresh), queue.w_data.eq(length)]
        beat = Signal(8)
        with self.m.If(~self.pins["wvalid"] | self.pins["wready"]):
            send = queue.r_rdy & (noise[48:56] < self.rates["data"])
            last = beat == queue.r_data
            self.m.d.comb += queue.r_en.eq(send & last)
            self.m.d.sync += self.pins["wvalid"].eq(send)
            with self.m.If(send):
                self.m.d.sync += self.pins["wdata"].eq(Cat(*([noise] * (self.port_bytes // 8 + 1))) ^ beat)
                self.m.d.sync += self.pins["wstrb"].eq(Cat(noise, noise) | Mux(noise[56], -1, 0))
                self.m.d.sync += [self.pins["wlast"].eq(last), beat.eq(Mux(last, 0, beat + 1))]

    def _count(self, beats: Signal, total: Signal, answers: Signal) -> None:
        """What the master sees: data beats, the sum of their low words, and answers to writes."""
        with self.m.If(self.pins["rvalid"] & self.pins["rready"]):
            self.m.d.sync += [beats.eq(beats + 1), total.eq(total + self.pins["rdata"][:32])]
        with self.m.If(self.pins["bvalid"] & self.pins["bready"]):
            self.m.d.sync += answers.eq(answers + 1)


def random_masters(ports: int, port_bytes: int) -> dict[str, str]:
    """Module ``top`` with a `RandomMaster` on every port."""
    design = Design()
    for p in range(ports):
        RandomMaster(design, p, port_bytes)
    return design.sources("top")


def wires(port_bytes: int, fixed: Mapping[str, int] | None = None) -> dict[str, str]:
    """Module ``wires``: one memory port whose outputs ``m_axi0_X`` are the inputs ``t_X``, and two counters."""
    design = Design()
    pins = {name: design.port(f"m_axi0_{name}", width) for name, width in inputs(port_bytes).items()}
    for name, width in outputs(port_bytes).items():
        pins[name] = design.port(f"m_axi0_{name}", width)
        design.m.d.comb += pins[name].eq(design.port(f"t_{name}", width))
    for name, value in (fixed or {}).items():
        design.m.d.comb += design.port(f"m_axi0_{name}", 3).eq(value)
    for name, seen in (("beats", pins["rvalid"] & pins["rready"]), ("answers", pins["bvalid"] & pins["bready"])):
        count = design.port(name, 16)
        design.m.d.sync += count.eq(count + seen)
    return design.sources("wires")


def buffer(fault: str = "") -> dict[str, str]:
    """Module ``buffer``: one register between the streams ``i`` and ``o``, right or with a fault."""
    design = Design()
    i = {name: design.port(f"i__{name}", width) for name, width in (("payload", 16), ("valid", 1), ("ready", 1))}
    o = {name: design.port(f"o__{name}", width) for name, width in (("payload", 16), ("valid", 1), ("ready", 1))}
    full, kept, tick = Signal(name="full"), Signal(16, name="kept"), Signal(name="tick")
    design.m.d.comb += [i["ready"].eq(~full | (o["ready"] & o["valid"])), o["payload"].eq(kept), o["valid"].eq(full)]
    design.m.d.sync += tick.eq(~tick)
    with design.m.If(i["ready"]):
        design.m.d.sync += [full.eq(i["valid"]), kept.eq(i["payload"])]
    if fault == "valid falls":
        design.m.d.comb += o["valid"].eq(full & tick)
    if fault == "payload changes":
        design.m.d.comb += o["payload"].eq(kept ^ tick)
    return design.sources("buffer")


def counter() -> tuple[Module, Signal]:
    """Counts 0, 1, 3, 6, ...: adds the cycle's number in every cycle."""
    m, step, count = Module(), Signal(8), Signal(16, name="count")
    m.d.sync += [step.eq(step + 1), count.eq(count + step)]
    return m, count
