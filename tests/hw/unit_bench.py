"""Single units in Amaranth's own simulator."""

from amaranth.lib import wiring
from amaranth.sim import Simulator, SimulatorContext


def simulate(unit: wiring.Component, drive: object) -> None:
    """Runs a testbench to its end, with a clock."""
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()


def clocked(unit: wiring.Component, latency: int, inputs: list[dict[str, int]], result: str) -> list[int]:
    """One set of inputs per cycle; returns what comes out ``latency`` cycles later."""
    seen: list[int] = []

    async def drive(ctx: SimulatorContext) -> None:
        for values in [*inputs, *[{}] * latency]:
            for name, value in values.items():
                ctx.set(getattr(unit, name), value)
            seen.append(ctx.get(getattr(unit, result)))
            await ctx.tick()

    simulate(unit, drive)
    return seen[latency:]
