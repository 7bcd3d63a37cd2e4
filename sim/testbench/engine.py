"""Driver of an engine's rig in a cocotb bench: loads memories, sends commands, observes all ports."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from codesign.hw.emit.stimulus import BATCH, Address, Trial
from codesign.sim.testbench.referee import CycleTrace, Referee
from codesign.sim.testbench.streams import Monitor, Pace, Stream, StreamDriver
from codesign.target.commands import operand_bits

_QUIET = 200
"""Idle cycles checked after the last command; longer than any engine's pipeline."""

Draw = Callable[[int], Trial]


class Engine:
    """An engine under test, checked by a `Referee`.

    Args:
        dut: the rig.
        kernel: name of the kernel.
        outputs: names of the write ports. A port without a signal that selects a memory reports its index
        in this list as the memory, -1 if two are active at once.
        memories: memories that trials fill.
        referee: checks every cycle.
        pace: called in each cycle in which a new command could be offered.
    """

    def __init__(
        self, dut: Any, kernel: str, outputs: Sequence[str], memories: Iterable[str], referee: Referee, pace: Pace
    ) -> None:
        self.dut, self.referee = dut, referee
        self._kernel, self._outputs = kernel, tuple(outputs)
        for name in memories:
            getattr(dut, f"load_{name}_en").value = 0
        stream = Stream.of(dut, "command")
        self.commands = StreamDriver(stream, pace)
        Monitor(stream, dut.rst)
        cocotb.start_soon(self._watch(stream))

    async def fill(self, port: str, first: int, words: Sequence[int]) -> None:
        """Writes words through a port, one per cycle."""
        en, addr, data = (getattr(self.dut, f"{port}_{pin}") for pin in ("en", "addr", "data"))
        for at, word in enumerate(words):
            en.value, addr.value, data.value = 1, first + at, word
            await RisingEdge(self.dut.clk)
        en.value = 0

    async def load(self, trials: Iterable[Trial]) -> None:
        """Loads the operands of trials, all memories in parallel."""
        contents: dict[str, list[tuple[int, Sequence[int]]]] = {}
        for trial in trials:
            for name, blocks in trial.contents.items():
                contents.setdefault(name, []).extend(blocks)
        for task in [cocotb.start_soon(self._fill_all(name, blocks)) for name, blocks in contents.items()]:
            await task

    async def run(self, trials: Sequence[Trial]) -> None:
        """Sends the commands of loaded trials; returns when the last one has ended."""
        self.referee.expect(trials)
        self.commands.put(encode(self._kernel, trial) for trial in trials)
        limit = self.referee.cycle + sum(1000 + 8 * trial.cycles for trial in trials)
        while not self.referee.finished:
            await RisingEdge(self.dut.clk)
            self.referee.overdue(limit)

    async def rest(self) -> None:
        """Waits `_QUIET` cycles, in which the engine must stay idle."""
        await ClockCycles(self.dut.clk, _QUIET)
        self.dut._log.info(f"{len(self.referee.trials)} commands, cycles by command: {self.referee.cycles}")

    async def _fill_all(self, name: str, blocks: Iterable[tuple[int, Sequence[int]]]) -> None:
        for first, words in blocks:
            await self.fill(f"load_{name}", first, words)

    async def _watch(self, stream: Stream) -> None:
        dut, enables = self.dut, [getattr(self.dut, f"{name}_en") for name in self._outputs]
        while True:
            await FallingEdge(dut.clk)
            if bool(dut.rst.value):
                continue
            done, error, busy = (bool(pin.value) for pin in (dut.done, dut.error, dut.busy))
            used = [number for number, en in enumerate(enables) if bool(en.value)]
            write = self._written(used) if used else None
            self.referee.look(CycleTrace(stream.moves(), done, error, busy, write))

    def _written(self, used: Sequence[int]) -> tuple[Address, int]:
        dut, name = self.dut, self._outputs[used[0]]
        select = used[0] if len(used) == 1 else -1
        if hasattr(dut, f"{name}_select"):
            select = int(getattr(dut, f"{name}_select").value)
        return (select, int(getattr(dut, f"{name}_addr").value)), int(getattr(dut, f"{name}_data").value)


def encode(kernel: str, trial: Trial) -> int:
    """Operands of a trial's command, as passed to the engine."""
    return operand_bits(kernel, trial.fields)


async def batches(
    engine: Engine, rng: np.random.Generator, commands: int, legal: Draw, illegal: Draw
) -> AsyncIterator[list[Trial]]:
    """Batches of trials with loaded operands, a quarter of them illegal; then a rest.

    Args:
        engine: loads the batches.
        rng: chooses the illegal commands.
        commands: total number.
        legal: draws a trial with operands in the given slot, from word ``slot * ROOM`` on.
        illegal: likewise, for a trial that the engine must refuse.
    """
    for first in range(0, commands, BATCH):
        count = min(BATCH, commands - first)
        wrong = rng.permutation(np.arange(count) % 4 == 1)
        trials = [(illegal if bad else legal)(slot) for slot, bad in enumerate(wrong)]
        await engine.load(trials)
        yield trials
    await engine.rest()


async def exercise(engine: Engine, rng: np.random.Generator, commands: int, legal: Draw, illegal: Draw) -> None:
    """Runs `batches`; the engine's pace decides when its commands are offered."""
    async for trials in batches(engine, rng, commands, legal, illegal):
        await engine.run(trials)
