"""The cocotb bench of the linear engine: the bare engine between memories written in Python.

Commands come with random gaps, weight words arrive one by one at random times, and whatever has
not arrived reads as noise. Run it alone, with waves, from the repository's folder::

    from pathlib import Path
    from codesign.hw.linear.rtl import LinearEngine
    from codesign.hw.verilog import generate
    from codesign.sim.testbench.runner import run_bench
    from tests.hw.linear_protocol import KERNEL

    sources = generate(LinearEngine(KERNEL), "linear")
    run_bench(sources.files, "linear", "tests.hw.linear_protocol", directory=Path("build/bench"), waves=True)
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, RisingEdge

from codesign.hw.linear import LinearKernel
from codesign.hw.primitives.memory import READ_LATENCY
from codesign.sim.testbench.streams import Monitor, Pace, Stream, StreamDriver, always, bursts, sometimes, start
from tests.hw.linear_bench import Ints, encode, random_job

KERNEL = LinearKernel(t_in=4, t_out=4, n_l=3, kw_max=4, ring_words=32, table_words=8, tables=2, word_bytes=16)


class Memories:
    """Everything around the engine, as plain lists and dictionaries."""

    def __init__(self, dut: Any, rng: np.random.Generator) -> None:
        self.dut, self.rng, self.kernel = dut, rng, KERNEL
        self.tables: Ints = rng.integers(-128, 128, (KERNEL.tables, 256))
        self.sources: list[dict[int, int]] = [{}, {}]
        self.addends: dict[int, int] = {}
        self.weights: deque[int] = deque()
        self.table: deque[int] = deque()
        self.rings: dict[str, dict[int, int]] = {"weights": {}, "table": {}}
        self.writes: list[tuple[int, int, Ints]] = []
        self.done = self.errors = 0
        self.free = {"weights": KERNEL.ring_words, "table": KERNEL.table_words}

    def put_source(self, number: int, words: Sequence[int]) -> int:
        """Writes words behind those before; returns where."""
        return _append(self.sources[number], words)

    def put_addend(self, words: Sequence[int]) -> int:
        """Likewise for the addend memory."""
        return _append(self.addends, words)

    def feed(self, words: Sequence[int]) -> None:
        """Joins bus words to ring words and queues them."""
        k = self.kernel
        tag = 1 << 8 * k.word_bytes
        for mine, ratio, ring in (
            ([word - tag for word in words if word >= tag], 8 * k.t_out // k.word_bytes, self.table),
            ([word for word in words if word < tag], k.t_in * k.t_out // k.word_bytes, self.weights),
        ):
            for at in range(0, len(mine), ratio):
                ring.append(sum(word << 8 * k.word_bytes * i for i, word in enumerate(mine[at : at + ratio])))

    async def serve(self, name: str, look: Callable[[], int | None]) -> None:
        """Answers a read port; noise where nothing is."""
        data = getattr(self.dut, f"{name}_data")
        late: deque[int] = deque([0] * (READ_LATENCY - 1))
        while True:
            await FallingEdge(self.dut.clk)
            found = look()
            late.append(random.getrandbits(len(data)) if found is None else found)
            await RisingEdge(self.dut.clk)
            data.value = late.popleft()

    def begin(self) -> None:
        """Serves all read ports and watches the outputs."""
        dut = self.dut
        found: dict[str, Callable[[], int | None]] = {
            "source": lambda: self.sources[int(dut.source_select.value) & 1].get(int(dut.source_addr.value)),
            "addend": lambda: self.addends.get(int(dut.addend_addr.value)),
            "weights": lambda: self.rings["weights"].get(int(dut.weights_addr.value)),
            "table": lambda: self.rings["table"].get(int(dut.table_addr.value)),
        }
        for name, look in found.items():
            cocotb.start_soon(self.serve(name, look))
        cocotb.start_soon(self.watch())

    async def watch(self) -> None:
        """Collects writes, ends and freed words; a done pulse never comes before its last write."""
        dut = self.dut
        while True:
            await FallingEdge(dut.clk)
            if dut.out_en.value:
                raw = int(dut.out_data.value).to_bytes(2 * KERNEL.t_out, "little")
                columns = np.frombuffer(raw, np.int16).astype(np.int64)
                self.writes.append((int(dut.out_select.value), int(dut.out_addr.value), columns))
            self.done += int(dut.done.value)
            self.errors += int(dut.error.value)
            if dut.freed.value:
                self.free["weights"] += int(dut.freed_words.value)
                self.free["table"] += 1

    async def load_tables(self) -> None:
        """Writes the 8-bit tables, a byte per cycle."""
        for at, value in enumerate(self.tables.ravel()):
            self.dut.lut_en.value, self.dut.lut_addr.value = 1, at
            self.dut.lut_data.value = int(value) & 255
            await RisingEdge(self.dut.clk)
        self.dut.lut_en.value = 0

    async def deliver(self, pace: Pace) -> None:
        """Fills the rings, requantization first, as their room and the pace allow."""
        at = {"weights": 0, "table": 0}
        depth = {"weights": KERNEL.ring_words, "table": KERNEL.table_words}
        while True:
            await RisingEdge(self.dut.clk)
            self.dut.arrived.value = 0
            name = "table" if self.table and self.free["table"] else "weights"
            queue = getattr(self, name)
            if not queue or not self.free[name] or not pace():
                continue
            self.rings[name][at[name] % depth[name]] = queue.popleft()
            self.free[name] -= 1
            at[name] += 1
            self.dut.arrived.value = int(name == "weights")


def _append(memory: dict[int, int], words: Sequence[int]) -> int:
    base = len(memory)
    memory.update({base + at: word for at, word in enumerate(words)})
    return base


async def _run(dut: Any, count: int, commands: Pace, weights: Pace) -> tuple[Memories, StreamDriver, Monitor]:
    """Random commands back to back; returns when all are done and every bit is right."""
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    around = Memories(dut, rng)
    dut.arrived.value = dut.lut_en.value = 0
    stream = Stream.of(dut, "command")
    source, monitor = StreamDriver(stream, commands), Monitor(stream, dut.rst)
    await start(dut)
    around.begin()
    await around.load_tables()
    shapes = [(int(rows), int(k), int(n)) for rows, k, n in rng.integers(1, [10, 33, 17], (count, 3))]
    jobs = [random_job(rng, around, shape) for shape in shapes]
    cocotb.start_soon(around.deliver(weights))
    source.put([encode(job.fields) for job in jobs])
    for _ in range(20_000):
        await RisingEdge(dut.clk)
        if around.done == count:
            break
    await FallingEdge(dut.clk)
    assert (around.done, around.errors, dut.busy.value) == (count, 0, 0)
    writes = around.writes
    for job in jobs:
        size = len(job.x) * job.fields["ob"]
        job.check(writes[:size], KERNEL)
        writes = writes[size:]
    assert not writes
    return around, source, monitor


@cocotb.test()
async def full_rate(dut: Any) -> None:
    await _run(dut, 4, always, always)


@cocotb.test()
async def late_weights(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    _, _, monitor = await _run(dut, 5, always, sometimes(0.2, rng))
    assert monitor.stalled_cycles > 0


@cocotb.test()
async def gaps_everywhere(dut: Any) -> None:
    rng = random.Random(cocotb.RANDOM_SEED)
    await _run(dut, 5, sometimes(0.02, rng), bursts(12, rng))


@cocotb.test()
async def illegal_commands_between(dut: Any) -> None:
    around, source, _ = await _run(dut, 2, always, always)
    source.put([0, encode({"rows": 1, "kw": KERNEL.kw_max + 1, "ib": 1, "ob": 1})])
    for _ in range(20):
        await RisingEdge(dut.clk)
    assert (around.errors, around.done, dut.busy.value) == (2, 2, 0)
