"""Bench of the linear kernel; runs inside the simulator, see `codesign.sim.testbench.benches`.

Besides commands the engine needs its rings filled: `Feeder` stands in for the fetch engine.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import replace
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from codesign.hw.emit.rig import DEPTH
from codesign.hw.emit.stimulus import ROOM, Address, Trial, Word, cut, pack, place
from codesign.hw.linear import LinearKernel
from codesign.ir.network import Linear as Layer
from codesign.numerics.fixed_point import IntArray
from codesign.sim.testbench.benches import read_setting
from codesign.sim.testbench.engine import Engine, batches
from codesign.sim.testbench.referee import Referee
from codesign.sim.testbench.streams import Pace, always, bursts, sometimes, start
from codesign.target.commands import RELEASE, USE_TABLE

_TARGETS = 1 << 8
"""Number of memories that a command can address as target."""
_REUSE_CYCLES = 60
"""Cycles from the release of ring words to their reuse; the drain still reads the last word released."""


@cocotb.test()
async def one_by_one(dut: Any) -> None:
    """Runs each command on an idle engine with its weights in the ring: cycles equal the formula."""
    bench = _Bench(dut, Referee(16))
    await bench.start(always, always)
    async for trials in bench.batches():
        for trial in trials:
            bench.feeder.waiting.extend(trial.feed)
            await bench.feeder.drained()
            await bench.engine.run([trial])


@cocotb.test()
async def back_to_back(dut: Any) -> None:
    """Offers all commands at once, with weights at full rate."""
    await _stream(_Bench(dut, Referee(16, exact=False)), always, always)


@cocotb.test()
async def random_gaps(dut: Any) -> None:
    """Offers commands and weights with gaps, so that the array stalls for weights."""
    bench = _Bench(dut, Referee(16, exact=False))
    await _stream(bench, sometimes(0.05, bench.rng), bursts(20, bench.rng))


async def _stream(bench: "_Bench", command_pace: Pace, word_pace: Pace) -> None:
    await bench.start(command_pace, word_pace)
    async for trials in bench.batches():
        bench.feeder.waiting.extend(word for trial in trials for word in trial.feed)
        await bench.engine.run(trials)


class _Bench:
    """Fixture of every test of this kernel."""

    engine: Engine
    feeder: "Feeder"

    def __init__(self, dut: Any, referee: Referee) -> None:
        self.dut, self.referee = dut, referee
        self.rng = np.random.default_rng(cocotb.RANDOM_SEED)
        kernel, self.commands = read_setting()
        assert isinstance(kernel, LinearKernel), "this bench is named by one kernel alone"
        self.kernel = kernel
        self.draws = Draws(self.rng, self.kernel)

    async def start(self, command_pace: Pace, word_pace: Pace) -> None:
        """Starts clock, reset and drivers, and loads the 8-bit tables."""
        await start(self.dut)
        self.engine = Engine(self.dut, self.kernel.op, ["out"], ("source", "addend"), self.referee, command_pace)
        self.feeder = Feeder(self.dut, self.kernel, word_pace)
        await self.engine.fill("lut", 0, pack(self.draws.tables.reshape(-1, 1), 8))

    def batches(self) -> AsyncIterator[list[Trial]]:
        """Batches of loaded trials, see `codesign.sim.testbench.engine.batches`."""
        return batches(self.engine, self.rng, self.commands, self.draws.legal, self.draws.illegal)


class Feeder:
    """Writes words to the rings in order, one per cycle, while there is room.

    Args:
        dut: the rig.
        kernel: gives the ring sizes.
        pace: called in each cycle in which a word could be written.
    """

    def __init__(self, dut: Any, kernel: LinearKernel, pace: Pace) -> None:
        self.waiting: deque[tuple[str, int]] = deque()
        self._dut, self._pace = dut, pace
        self._words = {"weights": kernel.ring_words, "table": kernel.table_words}
        self._room, self._next = dict(self._words), dict.fromkeys(self._words, 0)
        self._released: deque[tuple[int, int]] = deque()
        cocotb.start_soon(self._run())

    async def drained(self) -> None:
        """Returns once all words are in the rings."""
        while self.waiting:
            await RisingEdge(self._dut.clk)
        await ClockCycles(self._dut.clk, 3)

    async def _run(self) -> None:
        cycle = 0
        while True:
            await RisingEdge(self._dut.clk)
            self._write(bool(self.waiting) and self._room[self.waiting[0][0]] > 0 and self._pace())
            await FallingEdge(self._dut.clk)
            cycle += 1
            if bool(self._dut.freed.value):
                self._released.append((cycle + _REUSE_CYCLES, int(self._dut.freed_words.value)))
            while self._released and self._released[0][0] <= cycle:
                self._room["weights"] += self._released.popleft()[1]
                self._room["table"] += 1

    def _write(self, go: bool) -> None:
        dut, ring = self._dut, self.waiting[0][0] if go else ""
        dut.arrived.value = int(ring == "weights")
        for name in self._words:
            getattr(dut, f"load_{name}_en").value = int(ring == name)
        if go:
            at = self._next[ring]
            getattr(dut, f"load_{ring}_addr").value = at
            getattr(dut, f"load_{ring}_data").value = self.waiting.popleft()[1]
            self._next[ring], self._room[ring] = (at + 1) % self._words[ring], self._room[ring] - 1


class Draws:
    """Random commands; some keep their weights in the ring for the next one."""

    def __init__(self, rng: np.random.Generator, kernel: LinearKernel) -> None:
        self.tables = rng.integers(-128, 128, (kernel.tables, 256))
        self._rng, self._kernel = rng, kernel
        self._kept: Layer | None = None

    def legal(self, slot: int) -> Trial:
        """A legal command with operands in the slot of each memory."""
        layer = self._kept or random_layer(self._rng, self._kernel)
        feed = () if self._kept else image(layer, self._kernel)
        keep = self._kept is None and self._rng.random() < 0.4
        self._kept = layer if keep else None
        return replace(self._trial(slot, layer, 0 if keep else RELEASE), feed=feed)

    def illegal(self, slot: int) -> Trial:
        """A legal command with one operand made illegal; it needs no weights."""
        k = self._kernel
        changes = [{name: 0} for name in ("rows", "kw", "ib", "ob")]
        changes += [{"kw": k.kw_max + 1}, {"ib": k.ib_max + 1}, {"ob": k.table_words + 1}, {"table": k.tables}]
        changes += [{"flags": 0, "ob": k.ring_words + 1}, dict.fromkeys(("kw", "ib", "ob"), 0xFFFF)]
        return self._trial(slot, random_layer(self._rng, k), RELEASE).illegal(changes[self._rng.integers(len(changes))])

    def _trial(self, slot: int, layer: Layer, flags: int) -> Trial:
        """A command with the weights of a layer, otherwise random."""
        rng, kernel = self._rng, self._kernel
        ob, kw = -(-layer.n // kernel.t_out), -(-layer.k // kernel.word_bytes)
        rows = int(rng.integers(1, 1 + min(3 * kernel.n_l, ROOM // kw, ROOM // ob)))
        x = rng.integers(-128, 128, (rows, layer.k))
        fields, contents = self._operand("source", int(rng.integers(2)), slot, x, kernel.word_bytes, 8)
        fields |= {"rows": rows, "kw": kw, "ib": -(-layer.k // kernel.t_in), "ob": ob, "flags": flags}
        fields |= {"target": int(rng.integers(_TARGETS)), "target_stride": ob + int(rng.integers(3))}
        fields["target_base"] = int(rng.integers(1 << 20))
        layer, addend = replace(layer, rows=rows), None
        mode = rng.choice(["plain", "table", "addend"])
        if mode == "table":
            fields |= {"table": int(rng.integers(kernel.tables)), "flags": flags | USE_TABLE}
            layer = replace(layer, low=-128, high=127, table=self.tables[fields["table"]].astype(np.int8))
        if mode == "addend":
            addend = rng.integers(-(1 << 15), 1 << 15, (rows, layer.n))
            more, words = self._operand("addend", int(rng.integers(1, 3)), slot, addend, kernel.t_out, 16)
            layer, fields, contents = replace(layer, addend="addend"), fields | more, contents | words
        fields |= {"low": layer.low, "high": layer.high}
        expected = _expected(fields, cut(LinearKernel.golden(layer, x, addend), kernel.t_out, layer.n))
        work = {"rows": rows, "k": layer.k, "n": layer.n}
        cycles = int(LinearKernel.cycles(kernel.params, work))
        return Trial(fields, cycles, contents, expected, bits=8 if mode == "table" else 16)

    def _operand(
        self, name: str, number: int, slot: int, x: IntArray, size: int, bits: int
    ) -> tuple[dict[str, int], dict[str, list[tuple[int, list[int]]]]]:
        """Operands and memory contents of source rows, with random padding to whole words."""
        noise = self._rng.integers(-128, 128, (len(x), -x.shape[1] % size))
        words = np.concatenate([x, noise], axis=1).reshape(len(x), -1, size)
        base, stride = place(self._rng, slot, *words.shape[:2])
        bank = DEPTH * (number % 2)
        rows = [(bank + base + row * stride, pack(values, bits)) for row, values in enumerate(words)]
        return {name: number, f"{name}_base": base, f"{name}_stride": stride}, {name: rows}


def _expected(fields: Mapping[str, int], words: Iterable[tuple[int, int, Word]]) -> dict[Address, Word]:
    base, stride = fields["target_base"], fields["target_stride"]
    return {(fields["target"], base + row * stride + at): word for row, at, word in words}


def random_layer(rng: np.random.Generator, kernel: LinearKernel) -> Layer:
    """Random layer that fits the rings, with requantization from saturating to nearly zero."""
    most = min(8, kernel.ib_max, kernel.ring_words, ROOM * kernel.word_bytes // kernel.t_in)
    ib = int(rng.choice([1, int(rng.integers(1, 1 + most)), most]))
    ob = int(rng.integers(1, 1 + min(6, kernel.table_words, kernel.ring_words // ib)))
    k, n = ib * kernel.t_in - int(rng.integers(kernel.t_in)), ob * kernel.t_out - int(rng.integers(kernel.t_out))
    weights = rng.integers(-127, 128, (n, k)).astype(np.int8)
    low, high = sorted(int(value) for value in rng.integers(-(1 << 15), 1 << 15, 2))
    low, high = ((-128, 127), (0, 127), (-(1 << 15), (1 << 15) - 1), (low, high))[rng.integers(4)]
    return Layer(
        "linear", "x", "y", 1, weights, rng.integers(-(1 << 20), 1 << 20, n), rng.integers(1 << 16, 1 << 17, n),
        rng.integers(16, 24 + k.bit_length(), n), low, high,
    )  # fmt: skip


def image(layer: Layer, kernel: LinearKernel) -> list[tuple[str, int]]:
    """Words of both rings in fetch order: requantization, then weights."""
    t_in, t_out = kernel.t_in, kernel.t_out
    entries = (layer.bias & 0xFFFFFFFF) | layer.multiplier << 32 | layer.shift << 49
    table = np.pad(entries, (0, -layer.n % t_out)).reshape(-1, t_out)
    padded = np.pad(layer.weights.astype(np.int64), ((0, -layer.n % t_out), (0, -layer.k % t_in)))
    tiles = padded.reshape(-1, t_out, padded.shape[1] // t_in, t_in).transpose(0, 2, 1, 3)
    rings = {"table": pack(table, 64), "weights": pack(tiles.reshape(-1, t_out * t_in), 8)}
    return [(ring, word) for ring, words in rings.items() for word in words]
