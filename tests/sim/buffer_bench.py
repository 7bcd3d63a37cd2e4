"""A bench that a test runs inside the simulator: a stream buffer between random source and sink."""

import os
import random
from typing import Any

import cocotb
import pytest

from codesign.sim.testbench.streams import Monitor, Sink, Stream, StreamDriver, always, bursts, sometimes, start


async def _pass(dut: Any, count: int, source_pace: Any, sink_pace: Any) -> Monitor:
    await start(dut)
    into, out = Stream.of(dut, "i"), Stream.of(dut, "o")
    source, sink = StreamDriver(into, source_pace), Sink(out, sink_pace)
    Monitor(into, dut.rst)
    monitor = Monitor(out, dut.rst)
    payloads = [random.getrandbits(16) for _ in range(count)]
    source.put(payloads)
    await source.drained()
    assert await sink.count(count) == payloads == source.sent
    assert [payload for _, payload in monitor.transfers] == payloads
    return monitor


@cocotb.test()
async def full_rate(dut: Any) -> None:
    monitor = await _pass(dut, 100, always, always)
    cycles = [cycle for cycle, _ in monitor.transfers]
    assert cycles == list(range(cycles[0], cycles[0] + 100))
    assert monitor.stalled_cycles == 0


@cocotb.test()
async def random_gaps(dut: Any) -> None:
    rng = random.Random(int(os.environ["BENCH_SEED"]))
    monitor = await _pass(dut, 200, sometimes(0.6, rng), sometimes(0.5, rng))
    assert monitor.stalled_cycles > 20


@cocotb.test()
async def random_bursts(dut: Any) -> None:
    rng = random.Random(int(os.environ["BENCH_SEED"]))
    await _pass(dut, 200, bursts(9, rng), bursts(5, rng))


@cocotb.test()
async def inner_signals(dut: Any) -> None:
    assert hasattr(dut, "full") == ("BENCH_INTERNALS" in os.environ)


@cocotb.test()
async def no_such_stream(dut: Any) -> None:
    with pytest.raises(ValueError, match=r"no stream 'x'; legal: ports x_payload"):
        Stream.of(dut, "x")
