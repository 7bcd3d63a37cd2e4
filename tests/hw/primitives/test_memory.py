import numpy as np
import pytest
from amaranth.hdl import Fragment, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from numpy.typing import NDArray

from codesign.hw.primitives.memory import (
    READ_LATENCY,
    ReadPort,
    RowMemory,
    WritePort,
    address_bits,
    banks,
    bram18,
    bram36,
    row_memory,
)
from codesign.hw.verilog import generate
from codesign.sim.verilator.simulator import Library, compile_design
from tests.hw.engine_bench import refuses

#         bits write reads mask
SHAPES = [
    (1024, 8, (8,), 0), (2048, 32, (8, 32), 0), (2048, 8, (32,), 0), (4096, 16, (16, 64, 8), 0), (64, 32, (32,), 4),
    (8192, 64, (16,), 8), (16, 16, (16,), 0), (512, 8, (64,), 2), (16, 8, (16,), 0),
]  # fmt: skip


def make(shape: tuple[int, int, tuple[int, ...], int]) -> RowMemory:
    bits, write, reads, mask = shape
    return RowMemory(bits=bits, write_bits=write, read_bits=reads, mask_bits=mask)


class Bench(wiring.Component):
    """All shapes, as their own Verilog text, or converted from their description."""

    def __init__(self, *, text: bool) -> None:
        self.text, self.memories = text, [make(shape) for shape in SHAPES]
        members = {}
        for index, (bits, write, reads, mask) in enumerate(SHAPES):
            members[f"w{index}"] = In(WritePort(address_bits(bits // write), write, mask))
            members |= {
                f"r{index}_{i}": In(ReadPort(address_bits(bits // width), width)) for i, width in enumerate(reads)
            }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for index, ram in enumerate(self.memories):
            m.submodules[f"ram{index}"] = ram if self.text else Fragment.get(ram, None)
            wiring.connect(m, ram.write, wiring.flipped(getattr(self, f"w{index}")))
            for i in range(len(ram.read_bits)):
                wiring.connect(m, getattr(ram, f"read{i}"), wiring.flipped(getattr(self, f"r{index}_{i}")))
        return m


def build(text: bool) -> Library:
    sources = generate(Bench(text=text), "bench")
    assert len(sources.files) == 1 + text * len(SHAPES)
    return compile_design(dict(sources.files), "bench")


def expected(
    shape: tuple[int, int, tuple[int, ...], int], en: NDArray[np.int64], at: NDArray[np.int64], data: list[int],
    masks: NDArray[np.int64], reads: list[NDArray[np.int64]],
) -> list[list[int]]:  # fmt: skip
    """What each reader must see in every cycle, from one big integer; None before anything is known."""
    bits, write, widths, mask = shape
    content, seen = 0, [[-1] * READ_LATENCY for _ in widths]
    part = write // max(1, mask)
    for t in range(len(en)):
        for port, width in enumerate(widths):
            seen[port].append(content >> int(reads[port][t]) * width & ((1 << width) - 1))
        for lane in range(max(1, mask)):
            if en[t] and (not mask or masks[t] >> lane & 1):
                low = int(at[t]) * write + lane * part
                field = ((1 << part) - 1) << low
                content = content & ~field | (data[t] >> lane * part & ((1 << part) - 1)) << low
    assert content >> bits == 0
    return seen


@pytest.mark.rtl
@pytest.mark.parametrize("text", [True, False], ids=["text", "built"])
def test_reads_return_what_was_written_a_cycle_before(text: bool, rng: np.random.Generator) -> None:
    """Random writes and reads in every cycle; each memory is filled first, so that nothing is undefined."""
    cycles = 1500
    with build(text).start() as sim:
        sim.reset()
        for index, shape in enumerate(SHAPES):
            bits, write, widths, mask = shape
            words = bits // write
            fill = np.arange(words)
            at = np.concatenate([fill, rng.integers(0, words, cycles)])
            en = np.concatenate([np.ones(words, np.int64), rng.integers(0, 2, cycles)])
            data = [int(v) for v in rng.integers(0, 1 << min(write, 63), words + cycles)]
            masks = np.concatenate([np.full(words, (1 << mask) - 1), rng.integers(0, 1 << mask, cycles)])
            reads = [rng.integers(0, bits // width, words + cycles) for width in widths]
            drive = {f"w{index}_en": en, f"w{index}_addr": at, f"w{index}_data": np.array(data, np.uint64)}
            drive |= {f"w{index}_mask": masks} if mask else {}
            drive |= {f"r{index}_{i}_addr": address for i, address in enumerate(reads)}
            names = [f"r{index}_{i}_data" for i in range(len(widths))]
            got = sim.write_sequence(drive, names)
            sim.set(f"w{index}_en", 0)
            for name, want in zip(names, expected(shape, en, at, data, masks, reads), strict=True):
                since = words + READ_LATENCY
                assert got[name][since:].tolist() == want[since : words + cycles], (shape, name)


class TestShapes:
    @pytest.mark.parametrize("shape", [(1024, 24, (16,), 0), (1000, 8, (16,), 0), (1024, 16, (16, 48), 0)])
    def test_widths_that_do_not_divide_are_refused(self, shape: tuple[int, int, tuple[int, ...], int]) -> None:
        refuses(lambda: make(shape), "must be multiples")


class TestBlocks:
    @pytest.mark.parametrize(("width", "depth", "whole", "halves"), [
        (8, 64, 0, 0), (8, 65, 1, 1), (8, 256, 1, 1), (32, 512, 1, 1), (32, 1024, 1, 2), (72, 512, 1, 2),
        (73, 512, 2, 3), (8, 8192, 2, 4), (72, 4096, 8, 16), (64, 16384, 32, 64),
        (1, 32768, 1, 2), (18, 2048, 1, 2), (9, 4096, 1, 2), (128, 5000, 19, 38), (256, 2560, 19, 37),
    ])  # fmt: skip
    def test_counts(self, width: int, depth: int, whole: int, halves: int) -> None:
        assert (bram36(width, depth), bram18(width, depth)) == (whole, halves)

    @pytest.mark.parametrize(("write", "read", "depth", "cost"), [
        (512, 512, 1, (0, 0, 3 * 512)), (64, 512, 1, (0, 8, 3 * 512)), (512, 64, 1, (0, 3 * 64, 2 * 512 + 64 + 3)),
        (512, 512, 2, (0, 8 * 37, 2 * 512)), (128, 128, 5000, (38, 2 * 128 + 5, 128 + 3)),
        (256, 128, 8192, (116, 128 + 2, 128 + 1 + 1)), (64, 128, 3072, (24, 128 + 2 * 3, 128 + 2)),
    ])  # fmt: skip
    def test_registers_and_multiplexers(self, write: int, read: int, depth: int, cost: tuple[int, int, int]) -> None:
        """A single word is registers; banks have a multiplexer, an enable each and a register of what was chosen."""
        assert row_memory(write, read, depth) == cost

    def test_arrays(self, rng: np.random.Generator) -> None:
        width, depth = rng.integers(1, 600, 200), rng.integers(1, 40000, 200)
        for count in (bram36, bram18, banks):
            alone = np.array([count(int(w), int(d)) for w, d in zip(width, depth, strict=True)])
            assert np.array_equal(count(width, depth), alone)
