"""FIFO and layout of command operands, common to all engines."""

from amaranth.hdl import Module, Shape, ShapeLike, Signal, unsigned
from amaranth.lib import data, memory, stream
from amaranth.lib.wiring import In, Out

from codesign.hw.verilog import SharedComponent
from codesign.target.engines import OPERAND_BITS


def operands(**fields: int) -> data.StructLayout:
    """Layout of an engine's command operands: unsigned fields of the given bits, in order."""
    layout = data.StructLayout({name: unsigned(bits) for name, bits in fields.items()})
    if layout.size > OPERAND_BITS:
        raise ValueError(f"operands take {layout.size} bits; legal: at most {OPERAND_BITS}")
    return layout


class Fifo(SharedComponent):
    """First-in first-out queue in LUT RAM; a written entry is readable in the next cycle.

    Args:
        shape: payload.
        depth: entries, a power of two.
    """

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"queue of {depth} entries; legal: a power of two, at least 2")
        self.shape, self.depth = shape, depth
        super().__init__(
            f"fifo_{Shape.cast(shape).width}x{depth}",
            {"w": In(stream.Signature(shape)), "r": Out(stream.Signature(shape)), "level": Out(range(depth + 1))},
        )

    def build(self, platform: object) -> Module:
        """Read and write pointers around a memory with an asynchronous read."""
        m = Module()
        m.submodules.ram = ram = memory.Memory(
            shape=self.shape, depth=self.depth, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = ram.write_port(), ram.read_port(domain="comb")
        write_at, read_at = Signal(range(self.depth)), Signal(range(self.depth))
        pushed, popped = Signal(), Signal()
        m.d.comb += [
            self.w.ready.eq(self.level != self.depth),
            self.r.valid.eq(self.level != 0),
            pushed.eq(self.w.valid & self.w.ready),
            popped.eq(self.r.valid & self.r.ready),
            write.addr.eq(write_at),
            write.data.eq(self.w.payload),
            write.en.eq(pushed),
            read.addr.eq(read_at),
            self.r.payload.eq(read.data),
        ]
        m.d.sync += [
            write_at.eq(write_at + pushed),
            read_at.eq(read_at + popped),
            self.level.eq(self.level + pushed - popped),
        ]
        return m
