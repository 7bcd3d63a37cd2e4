"""Bench of kernels without a weight ring; runs inside the simulator, see `benches`."""

from typing import Any

import cocotb
import numpy as np

from codesign.sim.testbench.benches import read_setting
from codesign.sim.testbench.engine import Engine, exercise
from codesign.sim.testbench.referee import Referee
from codesign.sim.testbench.streams import Pace, always, sometimes, start
from codesign.target.kernel import CommandKernel


@cocotb.test()
async def back_to_back(dut: Any) -> None:
    """Offers every command before the previous one has ended."""
    await _run(dut, always, np.random.default_rng(cocotb.RANDOM_SEED))


@cocotb.test()
async def random_gaps(dut: Any) -> None:
    """Offers commands after random gaps, longer or shorter than a command."""
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    await _run(dut, sometimes(0.03, rng), rng)


async def _run(dut: Any, pace: Pace, rng: np.random.Generator) -> None:
    kernel, commands = read_setting()
    assert isinstance(kernel, CommandKernel), "the engine with the ring has a bench of its own"
    await start(dut)
    outputs = [port.name for port in kernel.ports if port.writes and hasattr(dut, f"{port.name}_en")]
    memories = [port.name for port in kernel.ports if not port.writes]
    engine = Engine(dut, kernel.op, outputs, memories, Referee(None), pace)
    await exercise(
        engine, rng, commands, lambda slot: kernel.trial(rng, slot), lambda slot: kernel.refused_trial(rng, slot)
    )
