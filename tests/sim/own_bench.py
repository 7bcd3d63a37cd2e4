"""A bench of a user: one command of one's own on the rig of the vector kernel."""

from typing import Any

import cocotb
import numpy as np

from codesign.hw.vector import VectorKernel
from codesign.sim.testbench.benches import read_setting
from codesign.sim.testbench.engine import Engine
from codesign.sim.testbench.referee import Referee
from codesign.sim.testbench.streams import always, start


@cocotb.test()
async def one_command(dut: Any) -> None:
    kernel, commands = read_setting()
    assert isinstance(kernel, VectorKernel)
    assert (kernel.t_v, commands) == (2, 3)
    await start(dut)
    engine = Engine(dut, "vector", ["x"], "rg", Referee(8), always)
    trial = kernel.trial(np.random.default_rng(0), 0)
    await engine.load([trial])
    await engine.run([trial])
    await engine.rest()
    assert engine.referee.cycles == {0: trial.cycles}
