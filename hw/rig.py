"""An engine with a memory behind each read port: the smallest design around a kernel that a bench can drive."""

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from codesign.errors import InputError
from codesign.hw import linear_hls, linear_rtl, vector_hls
from codesign.hw.attention import AttentionKernel
from codesign.hw.attention_rtl import AttentionEngine
from codesign.hw.linear import Linear
from codesign.hw.memory import RowMemory, WritePort, address_bits
from codesign.hw.vector import VectorKernel
from codesign.hw.vector_rtl import VectorEngine
from codesign.hw.verilog import Target, generate
from codesign.kernel import Kernel

TOP = "rig"
"""Name of a rig's top module."""

DEPTH = 2048
"""Words of a memory, or of each of its banks; a power of two."""


@dataclass(frozen=True)
class Bank:
    """The memory behind a read port.

    Attributes:
        words: a power of two.
        bits: of a word.
        select: the engine's output whose lowest bit chooses one of two such memories; None for one only.
    """

    words: int
    bits: int
    select: str | None = None

    @property
    def depth(self) -> int:
        """Words of all banks together; the second one begins at ``words``."""
        return self.words * (1 if self.select is None else 2)


class Rig(wiring.Component):
    """The engine and its memories; what is not a read port of the engine is a port of the rig.

    Args:
        engine: with ports named as in ``banks``.
        banks: the memory behind each read port; port ``load_NAME`` writes it, a word per cycle.
    """

    def __init__(self, engine: wiring.Component, banks: Mapping[str, Bank]) -> None:
        self._engine, self._banks = engine, dict(banks)
        self._through = {name: port for name, port in engine.signature.members.items() if name not in banks}
        loads = {f"load_{name}": In(WritePort(address_bits(b.depth), b.bits)) for name, b in banks.items()}
        super().__init__({**self._through, **loads})

    def elaborate(self, platform: object) -> Module:
        """One memory per read port, all other ports straight through."""
        m = Module()
        m.submodules.engine = engine = self._engine
        for name, member in self._through.items():
            mine, theirs = getattr(self, name), getattr(engine, name)
            if member.is_signature:
                wiring.connect(m, wiring.flipped(mine), theirs)
            else:
                m.d.comb += theirs.eq(mine) if member.flow == In else mine.eq(theirs)
        for name, bank in self._banks.items():
            ram = RowMemory(bits=bank.depth * bank.bits, write_bits=bank.bits, read_bits=(bank.bits,))
            m.submodules[f"memory_{name}"] = ram
            wiring.connect(m, ram.write, wiring.flipped(getattr(self, f"load_{name}")))
            port, low = getattr(engine, name), address_bits(bank.words)
            place = port.addr if bank.select is None else Cat(port.addr[:low], getattr(engine, bank.select)[0])
            m.d.comb += [ram.read0.addr.eq(place), port.data.eq(ram.read0.data)]
        return m


def make_rig(kernel: Kernel) -> Rig:
    """The rig of a kernel, with memories of `DEPTH` words; the linear engine has two for its source and addend.

    Raises:
        ValueError: there is no rig for such a kernel.
    """
    if isinstance(kernel, Linear):
        return _linear(kernel)
    if isinstance(kernel, AttentionKernel):
        engine = AttentionEngine(kernel, q_depth=DEPTH, k_depth=DEPTH, v_depth=DEPTH, o_depth=DEPTH)
        return Rig(engine, dict.fromkeys("qkv", Bank(DEPTH, 8 * kernel.t_a)))
    if isinstance(kernel, VectorKernel):
        engine = VectorEngine(kernel, r_depth=DEPTH, g_depth=DEPTH, x_depth=DEPTH, y_depth=DEPTH)
        return Rig(engine, {"r": Bank(DEPTH, 16 * kernel.t_v), "g": Bank(DEPTH, 64 * kernel.t_v)})
    raise ValueError(f"no rig for a {type(kernel).__name__}; legal: linear, attention, vector")


def rig_sources(kernel: Kernel, target: str) -> dict[str, str]:
    """Verilog of a kernel's rig, or a project for high-level synthesis; see `Kernel.sources`."""
    if target == "hls" and isinstance(kernel, Linear):
        return linear_hls.sources(kernel)
    if target == "hls" and isinstance(kernel, VectorKernel):
        return vector_hls.sources(kernel)
    if target != "rtl":
        legal = "rtl" if isinstance(kernel, AttentionKernel) else "rtl, hls"
        raise InputError(f"no {target!r} sources of {kernel.op}; legal: {legal}")
    return dict(generate(make_rig(kernel), TOP, Target(primitives=True)).files)


def _linear(kernel: Linear) -> Rig:
    banks = {
        "source": Bank(DEPTH, 8 * kernel.word_bytes, "source_select"),
        "addend": Bank(DEPTH, 16 * kernel.t_out, "addend_select"),
        "weights": Bank(kernel.ring_words, 8 * kernel.t_in * kernel.t_out),
        "table": Bank(kernel.table_words, 64 * kernel.t_out),
    }
    return Rig(linear_rtl.Linear(kernel.shape), banks)
