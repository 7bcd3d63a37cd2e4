"""On-chip memories with a fixed read latency, and their block RAM, LUT and flip-flop counts."""

from functools import lru_cache

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.verilog import SharedComponent
from codesign.target.kernel import Number, ceil_div, maximum, minimum

READ_LATENCY = 2
"""Cycles from address to data, for every memory."""

_BRAM36_SHAPES = ((512, 72), (1024, 36), (2048, 18), (4096, 9), (8192, 4), (16384, 2), (32768, 1))
_BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
_LUTRAM_DEPTH = 64
_Shape = tuple[int, int, int, int]
_WHOLE = tuple((words, bits, 2, 514) for words, bits in _BRAM36_SHAPES)
"""Words, bits, halves and cost in Yosys' choice of block RAM, whose unit is a bit of the bank multiplexer."""
_ANY = _WHOLE + tuple((words, bits, 1, 258) for words, bits in _BRAM18_SHAPES)


class ReadPort(wiring.Signature):
    """Read port as seen by its user: address out, data in after `READ_LATENCY` cycles."""

    def __init__(self, addr_bits: int, data_bits: int) -> None:
        super().__init__({"addr": Out(addr_bits), "data": In(data_bits)})


class WritePort(wiring.Signature):
    """Write port as seen by its user; ``mask`` has one bit per equal slice of the data."""

    def __init__(self, addr_bits: int, data_bits: int, mask_bits: int = 0) -> None:
        members = {"en": Out(1), "addr": Out(addr_bits), "data": Out(data_bits)}
        if mask_bits:
            members["mask"] = Out(mask_bits)
        super().__init__(members)


def address_bits(depth: int) -> int:
    """Bits of an address below ``depth``, at least one."""
    return max(1, (depth - 1).bit_length())


class RowMemory(SharedComponent):
    """A memory with one write port and one or more read ports, whose widths may differ.

    Every reader has its own physical copy, so engines never share a port. A read returns, after
    `READ_LATENCY` cycles, data written at least one cycle before its address was given.

    Args:
        bits: capacity.
        write_bits, read_bits: widths of the write port and of each read port; of any two the larger
        is a power of two times the smaller.
        mask_bits: equal slices of the write word with separate enables, 0 for none.
    """

    def __init__(self, *, bits: int, write_bits: int, read_bits: tuple[int, ...], mask_bits: int = 0) -> None:
        self.bits, self.write_bits, self.read_bits, self.mask_bits = bits, write_bits, read_bits, mask_bits
        widths = (write_bits, *read_bits)
        if any(max(widths) % w or bits % max(widths) for w in widths):
            raise ValueError(f"memory of {bits} bits with ports {widths}: capacity and widest port must be multiples")
        reads = {f"read{i}": In(ReadPort(address_bits(bits // width), width)) for i, width in enumerate(read_bits)}
        super().__init__(
            f"row_memory_{bits}_w{write_bits}m{mask_bits}_r{'_'.join(map(str, read_bits))}",
            {"write": In(WritePort(address_bits(bits // write_bits), write_bits, mask_bits)), **reads},
        )

    def build(self, platform: object) -> Module:
        """One physical memory per reader, with common writes."""
        m = Module()
        for index, width in enumerate(self.read_bits):
            self._copy(m, index, width)
        return m

    def verilog(self) -> str:
        """Hand-written Verilog of the same memory; elaboration time does not depend on its size."""
        word = max(self.write_bits, *self.read_bits)
        slice_bits = self.write_bits // max(1, self.mask_bits)
        mask = f"input [{self.mask_bits - 1}:0] write_mask,\n  " if self.mask_bits else ""
        reads = "".join(
            f",\n  input [{address_bits(self.bits // w) - 1}:0] read{i}_addr,\n  output reg [{w - 1}:0] read{i}_data"
            for i, w in enumerate(self.read_bits)
        )
        copies = "".join(self._copy_text(i, w, slice_bits) for i, w in enumerate(self.read_bits))
        return (
            f"// Memory of {self.bits} bits, widest word {word} bits; reads take {READ_LATENCY} cycles.\n"
            f"module {self.module_name}(\n  input clk,\n  input rst,\n  input write_en,\n"
            f"  input [{address_bits(self.bits // self.write_bits) - 1}:0] write_addr,\n  {mask}"
            f"input [{self.write_bits - 1}:0] write_data{reads}\n);\n{copies}endmodule\n"
        )

    def _copy_text(self, index: int, read_bits: int, slice_bits: int) -> str:
        """One physical memory in Verilog."""
        word = max(self.write_bits, read_bits)
        depth, slices, parts = self.bits // word, word // read_bits, word // self.write_bits
        style = "block" if depth > _LUTRAM_DEPTH else "distributed"
        low, part = slices.bit_length() - 1, parts.bit_length() - 1
        at = f"write_addr[{address_bits(self.bits // self.write_bits) - 1}:{part}]" if depth > 1 else "0"
        row = f"read{index}_addr[{address_bits(self.bits // read_bits) - 1}:{low}]" if depth > 1 else "0"
        take = f"word{index}[select{index} * {read_bits} +: {read_bits}]" if slices > 1 else f"word{index}"
        select = f"  reg [{low - 1}:0] select{index};\n" if slices > 1 else ""
        follow = f"    select{index} <= read{index}_addr[{low - 1}:0];\n" if slices > 1 else ""
        names = [f"ram{index}" if parts == 1 else f"ram{index}_{number}" for number in range(parts)]
        arrays = "".join(
            f'  (* ram_style = "{style}" *) reg [{word // parts - 1}:0] {name} [0:{depth - 1}];\n' for name in names
        )
        writes = "".join(
            self._write_text(name, at, f" && write_addr[{part - 1}:0] == {number}" if parts > 1 else "", slice_bits)
            for number, name in enumerate(names)
        )
        whole = ", ".join(f"{name}[{row}]" for name in reversed(names))
        return (
            f"{arrays}  reg [{word - 1}:0] word{index};\n{select}"
            f"  always @(posedge clk) begin\n{writes}"
            f"    word{index} <= {{{whole}}};\n{follow}    read{index}_data <= {take};\n  end\n"
        )

    def _write_text(self, ram: str, at: str, mine: str, slice_bits: int) -> str:
        """Verilog write to one array: whole words, or slices under a mask."""
        slices = "".join(
            f"      if (write_mask[{i}]) {ram}[{at}][{i * slice_bits} +: {slice_bits}]"
            f" <= write_data[{i * slice_bits} +: {slice_bits}];\n"
            for i in range(self.mask_bits)
        )
        whole = f"      {ram}[{at}] <= write_data;\n"
        return f"    if (write_en{mine}) begin\n{slices or whole}    end\n"

    def _copy(self, m: Module, index: int, read_bits: int) -> None:
        word = max(self.write_bits, read_bits)
        depth = self.bits // word
        style = "block" if depth > _LUTRAM_DEPTH else "distributed"
        ram = memory.Memory(shape=unsigned(word), depth=depth, init=[], attrs={"ram_style": style})
        m.submodules[f"ram{index}"] = ram
        self._connect_write(m, ram, word)
        port = getattr(self, f"read{index}")
        read = ram.read_port(domain="sync")
        slices = word // read_bits
        if slices == 1:
            m.d.comb += read.addr.eq(port.addr)
            m.d.sync += port.data.eq(read.data)
            return
        low = slices.bit_length() - 1
        select = Signal(low, reset_less=True)
        m.d.comb += read.addr.eq(port.addr[low:])
        m.d.sync += [select.eq(port.addr[:low]), port.data.eq(read.data.word_select(select, read_bits))]

    def _connect_write(self, m: Module, ram: memory.Memory, word: int) -> None:
        slices = word // self.write_bits
        granules = max(1, self.mask_bits)
        port = ram.write_port(granularity=self.write_bits // granules)
        mask = Signal(granules)
        m.d.comb += mask.eq(self.write.mask if self.mask_bits else 1)
        if slices == 1:
            m.d.comb += [port.addr.eq(self.write.addr), port.data.eq(self.write.data)]
            with m.If(self.write.en):
                m.d.comb += port.en.eq(mask)
            return
        low = slices.bit_length() - 1
        m.d.comb += [port.addr.eq(self.write.addr[low:]), port.data.eq(self.write.data.replicate(slices))]
        with m.If(self.write.en):
            m.d.comb += port.en.word_select(self.write.addr[:low], granules).eq(mask)


def bram36(width_bits: Number, depth: Number) -> Number:
    """36-Kbit block RAMs of one simple dual-port memory built without 18-Kbit halves, see `banks`.

    Memories of at most 64 words are LUT RAM and take none. Source: AMD UG573.

    >>> bram36(72, 4096), bram36(64, 64)
    (8, 0)
    """
    return _chosen(width_bits, depth, _WHOLE)[0] // 2


def bram18(width_bits: Number, depth: Number) -> Number:
    """18-Kbit halves of block RAM of one memory; two of them make one block RAM of the device.

    >>> bram18(8, 256), bram18(32, 1024), bram18(128, 5000)
    (1, 2, 38)
    """
    return _chosen(width_bits, depth, _ANY)[0]


def banks(width_bits: Number, depth: Number) -> Number:
    """Number of block RAM banks in depth of one simple dual-port memory, joined by a multiplexer.

    A block RAM shape with enough words gives one bank. Shallower shapes may take fewer block RAMs, because
    they have parity bits and because the bytes of all banks are packed together.

    >>> banks(128, 1024), banks(128, 5000), banks(128, 64)
    (1, 5, 1)
    """
    return _chosen(width_bits, depth, _ANY)[1]


def lutram(width_bits: Number, depth: Number) -> Number:
    """LUTs of a memory of 2 to 64 words with one read port: 14 or 7 bits per 8 LUTs.

    These are RAM32M16 and RAM64M8 of AMD UG574. A deeper memory is block RAM, a single word is registers.

    >>> lutram(176, 32), lutram(128, 64), lutram(128, 128), lutram(128, 1)
    (104, 152, 0, 0)
    """
    shallow, deep = (depth > 1) * (depth <= 32), (depth > 32) * (depth <= _LUTRAM_DEPTH)
    return 8 * (shallow * ceil_div(width_bits, 14) + deep * ceil_div(width_bits, 7))


def row_memory(write_bits: Number, read_bits: Number, depth: Number) -> tuple[Number, Number, Number]:
    """Block RAM halves, LUTs and flip-flops of a `RowMemory` with one reader and no mask.

    A read word wider than the write word takes an array per write word; a narrower one is selected from the
    memory's word by the multiplexer that also selects the block RAM bank. Each array and bank has a write
    enable. Block RAM contains the first of the two output registers, LUT RAM does not; a memory of a single
    word is just one more register.

    Args:
        write_bits: width of the write port.
        read_bits: width of the read port.
        depth: words of the wider of them.
    """
    if isinstance(write_bits, int) and isinstance(read_bits, int) and isinstance(depth, int):
        return _known_row_memory(write_bits, read_bits, depth)
    return _row_memory(write_bits, read_bits, depth)


def _row_memory(write_bits: Number, read_bits: Number, depth: Number) -> tuple[Number, Number, Number]:
    arrays, slices = maximum(read_bits // write_bits, 1), maximum(write_bits // read_bits, 1)
    halves, deep = _chosen(write_bits, depth, _ANY)
    enables = arrays * deep
    logic = arrays * lutram(write_bits, depth) + read_bits * _among(slices, deep) + (enables > 1) * enables
    words = (depth <= _LUTRAM_DEPTH) + 1 * (depth == 1)
    registers = read_bits + log2(slices) + log2(deep) + words * maximum(write_bits, read_bits)
    return arrays * halves, logic, registers


_known_row_memory = lru_cache(1 << 14)(_row_memory)
"""`_row_memory` of integers, cached: the designs of a search share most of their memories."""


def log2(count: Number) -> Number:
    """Bits of ``count - 1`` for 1 <= count <= 2**16.

    >>> log2(1), log2(8), log2(9)
    (0, 3, 4)
    """
    found: Number = 0
    for bit in range(16):
        found = found + (count > (1 << bit))
    return found


def _choice(inputs: Number) -> Number:
    """LUTs per bit of a multiplexer: four inputs in the first LUT, three more in each; in pairs if there are many."""
    return maximum(ceil_div(inputs - 1, 3), inputs // 2 - 1)


def _among(slices: Number, deep: Number) -> Number:
    """LUTs per bit of the multiplexer of ``slices`` slices of ``deep`` banks; two slices of odd banks are split."""
    whole, below = _choice(slices * deep), 1 << maximum(log2(deep) - 1, 0)
    split = 2 * (_choice(below) + _choice(deep - below)) + _choice(4)
    odd = 1 * (slices == 2) * (below < deep) * (deep < 2 * below)
    total: Number = whole + odd * (split - whole)
    return total


def _chosen(width_bits: Number, depth: Number, shapes: tuple[_Shape, ...]) -> tuple[Number, Number]:
    """Halves and banks of a memory in the cheapest shape, as Yosys chooses it; (0, 1) for LUT RAM.

    Banks do not share 9-bit bytes, but do share block RAMs. Source: passes/memory/memory_libmap.cc of
    https://github.com/YosysHQ/yosys.
    """
    if isinstance(depth, int) and depth <= _LUTRAM_DEPTH:
        return 0, 1
    least: Number = 1 << 60
    halves: Number = 0
    deep: Number = 1
    for words, bits, size, price in shapes:
        byte, rows = min(bits, 9), ceil_div(depth, words)
        blocks = ceil_div(rows * ceil_div(width_bits, byte), bits // byte)
        cost = price * blocks + (rows - 1) * width_bits + (rows > 1) * rows
        wins, least = 1 * (cost < least), minimum(cost, least)
        halves, deep = halves + wins * (size * blocks - halves), deep + wins * (rows - deep)
    block = 1 * (depth > _LUTRAM_DEPTH)
    return block * halves, 1 + block * (deep - 1)
