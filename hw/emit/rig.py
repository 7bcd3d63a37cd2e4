"""Test rig: an engine with a memory behind each read port, the smallest design that a bench can drive."""

from collections.abc import Mapping
from dataclasses import dataclass

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from codesign.errors import InputError
from codesign.hw.primitives.memory import RowMemory, WritePort, address_bits
from codesign.hw.verilog import VerilogTarget, generate
from codesign.target.engines import RING, geometry, memory_map
from codesign.target.kernel import Kernel, Params, Port

TOP = "rig"
"""Name of a rig's top module."""

DEPTH = 2048
"""Words of a memory or bank, a power of two."""


@dataclass(frozen=True)
class Bank:
    """The memory behind a read port.

    Attributes:
        words: a power of two.
        bits: of a word.
        select: engine output whose lowest bit selects one of two banks; None for a single bank.
    """

    words: int
    bits: int
    select: str | None = None

    @property
    def depth(self) -> int:
        """Words of all banks; the second bank begins at ``words``."""
        return self.words * (1 if self.select is None else 2)


class Rig(wiring.Component):
    """An engine and its memories; the engine's other ports become ports of the rig.

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
        """One memory per read port, other ports passed through."""
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
    """Builds the rig of a kernel with memories of `DEPTH` words; two banks for a port with a memory select."""
    component = kernel.component({port.name: DEPTH for port in kernel.ports})
    banks = {port.name: _bank(kernel, port) for port in kernel.ports if not port.writes}
    banks |= {name: Bank(words, bits) for name, (words, bits) in kernel.rings().items()}
    return Rig(component, banks)


def _bank(kernel: Kernel, port: Port) -> Bank:
    """Memory behind a read port."""
    engines: dict[str, Params] = {RING: {}, kernel.op: kernel.params}
    memories = memory_map(geometry(engines))
    names = memories.numbers[kernel.op, port.name]
    lanes = kernel.params[port.lanes] * memories.memories[names[0]].bytes if port.lanes else kernel.params["word_bytes"]
    return Bank(DEPTH, 8 * lanes, f"{port.name}_select" if len(names) > 1 else None)


def rig_sources(kernel: Kernel, target: str, others: tuple[str, ...] = ()) -> dict[str, str]:
    """Verilog of a kernel's rig; see `Kernel.sources`.

    Args:
        kernel: the kernel.
        target: must be ``rtl``.
        others: further targets of the kernel.

    Raises:
        InputError: the target is not ``rtl``.
    """
    if target != "rtl":
        raise InputError(f"no {target!r} sources of {kernel.op}; legal: {', '.join(('rtl', *others))}")
    return dict(generate(make_rig(kernel), TOP, VerilogTarget(primitives=True)).files)
