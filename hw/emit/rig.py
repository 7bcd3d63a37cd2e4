"""An engine with a memory behind each read port: the smallest design around a kernel that a bench can drive."""

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
    """The rig of a kernel, with memories of `DEPTH` words; a port that chooses among memories has two of them."""
    component = kernel.component({port.name: DEPTH for port in kernel.ports})
    banks = {port.name: _bank(kernel, port) for port in kernel.ports if not port.writes}
    banks |= {name: Bank(words, bits) for name, (words, bits) in kernel.rings().items()}
    return Rig(component, banks)


def _bank(kernel: Kernel, port: Port) -> Bank:
    """The memory behind a read port."""
    engines: dict[str, Params] = {RING: {}, kernel.op: kernel.params}
    memories = memory_map(geometry(engines))
    names = memories.numbers[kernel.op, port.name]
    lanes = kernel.params[port.lanes] * memories.memories[names[0]].bytes if port.lanes else kernel.params["word_bytes"]
    return Bank(DEPTH, 8 * lanes, f"{port.name}_select" if len(names) > 1 else None)


def rig_sources(kernel: Kernel, target: str, others: tuple[str, ...] = ()) -> dict[str, str]:
    """Verilog of a kernel's rig; see `Kernel.sources`.

    Args:
        kernel: whose.
        target: must be ``rtl``.
        others: further targets that the kernel has.

    Raises:
        InputError: another target.
    """
    if target != "rtl":
        raise InputError(f"no {target!r} sources of {kernel.op}; legal: {', '.join(('rtl', *others))}")
    return dict(generate(make_rig(kernel), TOP, VerilogTarget(primitives=True)).files)
