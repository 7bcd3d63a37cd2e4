"""The linear engine between memories that a test fills, with rings that are fed like by the DMA."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from codesign.hw.linear import LinearKernel
from codesign.hw.linear.interfaces import OPERANDS
from codesign.hw.linear.rtl import LinearEngine
from codesign.hw.primitives.fifo import Fifo
from codesign.hw.primitives.memory import READ_LATENCY, RowMemory, WritePort, address_bits
from codesign.hw.primitives.multiply import delay
from codesign.hw.verilog import generate
from codesign.numerics.fixed_point import requantize, saturate_bits
from codesign.sim.verilator.simulator import Library, Simulator, compile_design
from codesign.target.commands import RELEASE, USE_TABLE

Ints = NDArray[np.int64]
Words = NDArray[np.uint8]

SOURCE_WORDS = 2048
ADDEND_WORDS = 2048
IMAGE_WORDS = 1024
COMMANDS = 8
DRAM_LATENCY = 60
"""Cycles before what was freed is written again; the drain still reads the freed requantization word."""
_CHUNK = 512
_RECORD = ("accepted", "done", "error", "busy", "out_en", "out_addr", "out_select", "out_data")


class LinearBench(wiring.Component):
    """Engine, two source memories, one addend memory, both rings, and a feeder of the rings.

    The feeder takes bus words from a queue to the rings in order, one word per cycle in which
    ``gate`` is high and the ring has room; the bit above a word's data says that it is for the
    requantization ring. Commands wait in a queue.
    """

    def __init__(self, kernel: LinearKernel) -> None:
        self.kernel = k = kernel
        bits = 8 * k.word_bytes
        super().__init__(
            {
                "source0": In(WritePort(address_bits(SOURCE_WORDS), bits)),
                "source1": In(WritePort(address_bits(SOURCE_WORDS), bits)),
                "addend": In(WritePort(address_bits(ADDEND_WORDS), 16 * k.t_out)),
                "lut": In(WritePort(address_bits(256 * k.tables), 8)),
                "word_en": In(1),
                "word": In(bits + 1),
                "words": Out(16),
                "gate": In(1),
                "push": In(1),
                "operands": In(OPERANDS.size),
                "accepted": Out(1),
                "done": Out(1),
                "error": Out(1),
                "busy": Out(1),
                "out_en": Out(1),
                "out_addr": Out(24),
                "out_select": Out(8),
                "out_data": Out(16 * k.t_out),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = LinearEngine(self.kernel)
        m.submodules.commands = commands = Fifo(OPERANDS.size, COMMANDS)
        m.d.comb += [
            commands.w.valid.eq(self.push),
            commands.w.payload.eq(self.operands),
            engine.command.valid.eq(commands.r.valid),
            engine.command.payload.eq(commands.r.payload),
            commands.r.ready.eq(engine.command.ready),
            self.accepted.eq(commands.r.valid & engine.command.ready),
            *(getattr(self, name).eq(getattr(engine, name)) for name in ("done", "error", "busy")),
            *(getattr(self, f"out_{name}").eq(getattr(engine.out, name)) for name in ("en", "addr", "data")),
            self.out_select.eq(engine.out_select),
        ]
        wiring.connect(m, wiring.flipped(self.lut), engine.lut)
        self._operands(m, engine)
        self._feed(m, engine)
        return m

    def _operands(self, m: Module, engine: LinearEngine) -> None:
        for name, port, select, memories in (
            ("source", engine.source, engine.source_select, (self.source0, self.source1)),
            ("addend", engine.addend, engine.addend_select, (None, self.addend)),
        ):
            late = delay(m, select, READ_LATENCY, f"{name}_select")
            for number, write in enumerate(memories):
                if write is None:
                    continue
                width, depth = len(write.data), SOURCE_WORDS if name == "source" else ADDEND_WORDS
                m.submodules[f"{name}{number}"] = ram = RowMemory(
                    bits=width * depth, write_bits=width, read_bits=(width,)
                )
                wiring.connect(m, ram.write, wiring.flipped(write))
                m.d.comb += ram.read0.addr.eq(port.addr)
                with m.If(late == number):
                    m.d.comb += port.data.eq(ram.read0.data)

    def _feed(self, m: Module, engine: LinearEngine) -> None:
        k = self.kernel
        bits = 8 * k.word_bytes
        m.submodules.image = image = Fifo(bits + 1, IMAGE_WORDS)
        m.d.comb += [image.w.valid.eq(self.word_en), image.w.payload.eq(self.word), self.words.eq(image.level)]
        word_ratio, table_ratio = k.t_in * k.t_out // k.word_bytes, 8 * k.t_out // k.word_bytes
        is_table, go = image.r.payload[-1], Signal()
        room = {}
        for name, port, ratio, words, back, mine in (
            ("weights", engine.weights, word_ratio, k.ring_words, engine.freed_words, ~is_table),
            ("table", engine.table, table_ratio, k.table_words, 1, is_table),
        ):
            width = len(port.data)
            m.submodules[name] = ring = RowMemory(bits=width * words, write_bits=bits, read_bits=(width,))
            free, at = Signal(24, init=words * ratio, name=f"{name}_free"), Signal(24, name=f"{name}_at")
            m.d.comb += [
                ring.write.en.eq(go & mine), ring.write.addr.eq(at), ring.write.data.eq(image.r.payload),
                ring.read0.addr.eq(port.addr), port.data.eq(ring.read0.data),
            ]  # fmt: skip
            returned = delay(m, Mux(engine.freed, back * ratio, 0), DRAM_LATENCY, f"{name}_back", reset_less=False)
            m.d.sync += free.eq(free - (go & mine) + returned)
            with m.If(go & mine):
                m.d.sync += at.eq(Mux(at == words * ratio - 1, 0, at + 1))
            room[name] = free != 0
            if name == "weights":
                m.d.comb += engine.arrived.eq(go & mine & ((at & (ratio - 1)) == ratio - 1))
        m.d.comb += go.eq(self.gate & image.r.valid & Mux(is_table, room["table"], room["weights"]))
        m.d.comb += image.r.ready.eq(go)


def build(kernel: LinearKernel) -> Library:
    """Compiles the bench, or finds it compiled."""
    sources = generate(LinearBench(kernel), "bench")
    return compile_design(dict(sources.files), sources.top)


@dataclass(frozen=True, eq=False)
class Block:
    """Weights ``[n, k]`` and requantization of one matrix."""

    weights: Ints
    bias: Ints
    multiplier: Ints
    shift: Ints

    def image(self, k: LinearKernel) -> list[int]:
        """Bus words in the order of the DMA: requantization tagged, then weights."""
        n, width = self.weights.shape
        tiles, sums = -(-n // k.t_out), -(-width // k.t_in)
        table = np.zeros(tiles * k.t_out, np.uint64)
        bias = (self.bias & 0xFFFFFFFF).astype(np.uint64)
        table[:n] = (
            bias | self.multiplier.astype(np.uint64) << np.uint64(32) | self.shift.astype(np.uint64) << np.uint64(49)
        )
        padded = np.zeros((tiles * k.t_out, sums * k.t_in), np.int8)
        padded[:n, :width] = self.weights
        order = padded.reshape(tiles, k.t_out, sums, k.t_in).transpose(0, 2, 1, 3)
        tag = 1 << 8 * k.word_bytes
        return [word | tag for word in words_of(table.tobytes(), k.word_bytes)] + words_of(
            order.tobytes(), k.word_bytes
        )


def words_of(raw: bytes, size: int) -> list[int]:
    """Little-endian words."""
    return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]


def random_block(rng: np.random.Generator, n: int, k: int) -> Block:
    """Full-range weights, and requantizations from saturating to nearly zero."""
    weights = rng.choice([-127, 127, 0], (n, k)) if rng.random() < 0.2 else rng.integers(-127, 128, (n, k))
    shift = rng.integers(16, 24 + max(1, k).bit_length(), n)
    shift[rng.random(n) < 0.1] = rng.choice([0, 63])
    bias = rng.integers(-(1 << 20), 1 << 20, n) * (rng.random(n) < 0.7)
    return Block(weights, bias, rng.integers(1 << 16, 1 << 17, n), shift)


@dataclass(frozen=True, eq=False)
class Job:
    """One command with its data.

    Attributes:
        fields: operands.
        x: int8 ``[rows, k]``.
        block: weights and requantization.
        table: 8-bit table, if used.
        addend: int16 ``[rows, n]``, if used.
    """

    fields: Mapping[str, int]
    x: Ints
    block: Block
    table: Ints | None
    addend: Ints | None

    def work(self) -> dict[str, int]:
        """What the cycle formula depends on."""
        return {"rows": len(self.x), "k": self.x.shape[1], "n": len(self.block.weights)}

    def expected(self) -> Ints:
        """The result ``[rows, n]``, straight from the definition."""
        acc = self.x @ self.block.weights.T + self.block.bias
        y = requantize(acc, self.block.multiplier, self.block.shift, self.fields["low"], self.fields["high"])
        if self.table is not None:
            return np.asarray(self.table[y & 255])
        return y if self.addend is None else saturate_bits(y + self.addend, 16)

    def check(self, writes: Sequence[tuple[int, int, Ints]], kernel: LinearKernel) -> None:
        """All writes of the command, in the order that the drain has; padding columns may hold anything."""
        expected, n_l, t_out = self.expected(), kernel.n_l, kernel.t_out
        n, f = expected.shape[1], self.fields
        at = 0
        for first in range(0, len(expected), n_l):
            for tile in range(f["ob"]):
                for row in range(first, min(first + n_l, len(expected))):
                    memory_number, address, columns = writes[at]
                    want = expected[row, tile * t_out : (tile + 1) * t_out]
                    got = columns[: len(want)]
                    if self.table is not None:
                        got = got.astype(np.int8).astype(np.int64)
                    place = f"row {row} of {len(expected)}, tile {tile}, columns of {n}: {self.fields}"
                    assert memory_number == f["target"], place
                    assert address == f["target_base"] + row * f["target_stride"] + tile, place
                    assert np.array_equal(got, want), f"{place}: expected {want}, got {got}"
                    at += 1
        assert at == len(writes)


class Operands(Protocol):
    """Where a job's operands go: memories of a bench."""

    kernel: LinearKernel
    tables: Ints

    def put_source(self, number: int, words: Sequence[int]) -> int:
        """Writes words to a source memory; returns where."""

    def put_addend(self, words: Sequence[int]) -> int:
        """Writes words to the addend memory; returns where."""

    def feed(self, words: Sequence[int]) -> None:
        """Appends bus words, tagged if they are of the table, to what the rings are fed with."""


def place_rows(
    rng: np.random.Generator, x: Ints, word_bytes: int, dtype: type[np.signedinteger[Any]]
) -> tuple[list[int], int]:
    """Rows at some stride with noise in what pads them; returns words and stride."""
    per = word_bytes // np.dtype(dtype).itemsize
    stride = -(-x.shape[1] // per) + int(rng.integers(3))
    limits = np.iinfo(dtype)
    raw = rng.integers(limits.min, limits.max, (len(x), stride * per), endpoint=True).astype(dtype)
    raw[:, : x.shape[1]] = x
    return words_of(raw.tobytes(), word_bytes), stride


def random_job(
    rng: np.random.Generator, driver: Operands, shape: tuple[int, int, int], *, reuse: Block | None = None,
    keep: bool = False, alike: bool = False,
) -> Job:  # fmt: skip
    """A command of the shape (rows, k, n) with everything else drawn, its operands already in the memories.

    ``alike`` makes all rows equal, one word row with stride 0, so that they may be many.
    """
    k = driver.kernel
    rows, width, n = shape
    block = reuse or random_block(rng, n, width)
    mode = rng.choice(["plain", "table", "addend"])
    low, high = (-128, 127) if mode == "table" else _limits(rng)
    kw, ob = -(-width // k.word_bytes), -(-n // k.t_out)
    fields = {
        "rows": rows, "kw": kw, "ib": -(-width // k.t_in), "ob": ob, "low": low, "high": high,
        "flags": RELEASE * (not keep) | USE_TABLE * (mode == "table"), "table": int(rng.integers(k.tables)),
        "source": int(rng.integers(2)), "target": int(rng.integers(6)), "addend": int(mode == "addend"),
        "target_base": int(rng.integers(1 << 20)), "target_stride": ob + int(rng.integers(3)),
    }  # fmt: skip
    distinct = 1 if alike else rows
    x = rng.integers(-128, 128, (distinct, width)) if rng.random() < 0.8 else rng.choice([-128, 127], (distinct, width))
    words, fields["source_stride"] = place_rows(rng, x, k.word_bytes, np.int8)
    fields["source_base"] = driver.put_source(fields["source"], words)
    addend = None
    if mode == "addend":
        addend = rng.integers(-(1 << 15), 1 << 15, (distinct, n))
        words, fields["addend_stride"] = place_rows(rng, addend, 2 * k.t_out, np.int16)
        fields["addend_base"] = driver.put_addend(words)
    if alike:
        fields |= dict.fromkeys(("source_stride", "addend_stride"), 0)
        x = np.repeat(x, rows, axis=0)
        addend = None if addend is None else np.repeat(addend, rows, axis=0)
    table = driver.tables[fields["table"]] if mode == "table" else None
    if reuse is None:
        driver.feed(block.image(k))
    return Job(fields, x, block, table, addend)


def _limits(rng: np.random.Generator) -> tuple[int, int]:
    low, high = sorted(int(v) for v in rng.integers(-(1 << 15), 1 << 15, 2))
    return [(-128, 127), (0, 127), (-(1 << 15), (1 << 15) - 1), (low, high)][rng.integers(4)]


@dataclass(frozen=True)
class Trace:
    """What the engine did, cycle by cycle."""

    seen: Mapping[str, NDArray[np.unsignedinteger]]

    def cycles(self, name: str) -> Ints:
        """The cycles in which a pulse was high."""
        return np.flatnonzero(self.seen[name]).astype(np.int64)

    def writes(self) -> list[tuple[int, int, Ints]]:
        """(memory number, address, 16-bit columns) of every write, in order."""
        at = self.cycles("out_en")
        data = np.ascontiguousarray(self.seen["out_data"][at])
        columns = data.view(np.int16).reshape(len(at), -1).astype(np.int64)
        select, addr = self.seen["out_select"][at], self.seen["out_addr"][at]
        return [(int(s), int(a), c) for s, a, c in zip(select, addr, columns, strict=True)]


class Driver:
    """One running bench; operands go round the memories, so that commands in flight keep theirs."""

    def __init__(self, library: Library, kernel: LinearKernel) -> None:
        self.kernel = kernel
        self.sim: Simulator = library.start()
        self.sim.reset()
        self._addend = 0
        self._source = [0, 0]
        self.tables = np.random.default_rng(1).integers(-128, 128, (kernel.tables, 256))
        self.load("lut", 0, [int(v) & 255 for v in self.tables.ravel()])

    def put_source(self, number: int, words: Sequence[int]) -> int:
        """Writes words behind those before, or at the start again; returns where."""
        base = _wrapped(self._source[number], len(words), SOURCE_WORDS)
        self._source[number] = base + len(words)
        self.load(f"source{number}", base, words)
        return base

    def put_addend(self, words: Sequence[int]) -> int:
        """Likewise for the addend memory."""
        base = _wrapped(self._addend, len(words), ADDEND_WORDS)
        self._addend = base + len(words)
        self.load("addend", base, words)
        return base

    def close(self) -> None:
        self.sim.close()

    def load(self, port: str, base: int, words: Sequence[int]) -> None:
        """Writes words to a memory of the bench."""
        for at, word in enumerate(words):
            self.sim.set(f"{port}_addr", base + at)
            self.sim.set(f"{port}_data", word)
            self.sim.set(f"{port}_en", 1)
            self.sim.step()
        self.sim.set(f"{port}_en", 0)

    def feed(self, words: Sequence[int]) -> None:
        """Appends bus words to what the feeder copies."""
        assert self.sim.get("words") + len(words) <= IMAGE_WORDS
        self.sim.set("word_en", 1)
        for word in words:
            self.sim.set("word", word)
            self.sim.step()
        self.sim.set("word_en", 0)

    def fill(self) -> None:
        """Lets the feeder run until all is in the rings."""
        self.sim.set("gate", 1)
        self.sim.run_until("words", 0, limit=4 * IMAGE_WORDS)
        self.sim.set("gate", 0)
        self.sim.step(2)

    def push(self, fields: Mapping[str, int]) -> None:
        """Queues a command."""
        self.sim.set("operands", encode(fields))
        self.sim.set("push", 1)
        self.sim.step()
        self.sim.set("push", 0)

    def run(self, ends: int, limit: int, gate: NDArray[np.uint8] | None = None) -> Trace:
        """Runs until so many commands ended, done or refused; the feeder is open by ``gate`` and behind its end."""
        chunks: list[dict[str, NDArray[np.unsignedinteger]]] = []
        ran = ended = 0
        while ended < ends:
            assert ran < limit, f"{ended} of {ends} commands ended in {ran} cycles"
            open_now = np.ones(_CHUNK, np.uint8)
            if gate is not None:
                part = gate[ran : ran + _CHUNK]
                open_now[: len(part)] = part
            chunks.append(self.sim.write_sequence({"gate": open_now}, _RECORD))
            ended += int(chunks[-1]["done"].sum() + chunks[-1]["error"].sum())
            ran += _CHUNK
        return Trace({name: np.concatenate([chunk[name] for chunk in chunks]) for name in _RECORD})


def _wrapped(at: int, size: int, depth: int) -> int:
    assert size <= depth // 2
    return at if at + size <= depth else 0


def encode(fields: Mapping[str, int]) -> int:
    """Operands as one integer; negative values as two's complement."""
    word = 0
    for name, field in OPERANDS:
        word |= (fields.get(name, 0) % (1 << field.width)) << field.offset
    return word
