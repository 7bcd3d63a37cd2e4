import re
from collections.abc import Callable
from functools import cache

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator, SimulatorContext

from codesign.errors import ToolError
from codesign.hw import verilog
from codesign.hw.primitives.multiply import PackedDot
from codesign.hw.verilog import Resettable, SharedComponent, Sources, VerilogTarget, generate
from codesign.sim.verilator.simulator import compile_design


class Counter(SharedComponent):
    """A shared module with a state: counts to 255 and stays."""

    def __init__(self) -> None:
        super().__init__("counter", {"count": Out(8)})

    def build(self, platform: object) -> Module:
        """One register."""
        m = Module()
        with m.If(self.count != 255):
            m.d.sync += self.count.eq(self.count + 1)
        return m


class Pair(wiring.Component):
    """A register and a shared module below it."""

    def __init__(self) -> None:
        super().__init__({"own": Out(8), "shared": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.counter = counter = Counter()
        m.d.sync += self.own.eq(self.own + 1)
        m.d.comb += self.shared.eq(counter.count)
        return m


class Whole(wiring.Component):
    """Two pairs; ``clear`` resets the first."""

    def __init__(self) -> None:
        super().__init__({"clear": In(1), "cleared": Out(16), "kept": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second, clear = Pair(), Pair(), Signal()
        m.submodules.first = Resettable("first_pair", first, clear)
        m.submodules.second = second
        m.d.comb += [clear.eq(self.clear), self.cleared[:8].eq(first.own), self.cleared[8:].eq(first.shared)]
        m.d.comb += [self.kept[:8].eq(second.own), self.kept[8:].eq(second.shared)]
        return m


class Two(wiring.Component):
    """Two equal dot products and a third one."""

    def __init__(self) -> None:
        super().__init__({"x": In(32), "y": Out(18)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        outputs = []
        for index, length in enumerate((4, 4, 2)):
            m.submodules[f"dot{index}"] = dot = PackedDot(length)
            m.d.comb += [dot.x.eq(self.x), dot.w0.eq(self.x)]
            outputs.append(dot.y0)
        m.d.comb += self.y.eq(sum(outputs))
        return m


@cache
def two(primitives: bool) -> Sources:
    return generate(Two(), "two", VerilogTarget(primitives=primitives))


class TestGenerate:
    def test_each_shared_module_is_written_once_and_used_by_name(self) -> None:
        sources = two(primitives=False)
        assert sorted(sources.files) == ["packed_dot_2_s.v", "packed_dot_4_s.v", "two.v"]
        assert sources.ports == {"clk": (1, "i"), "rst": (1, "i"), "x": (32, "i"), "y": (18, "o")}
        assert len(re.findall(r"^ *packed_dot_4_s ", sources.files["two.v"], re.MULTILINE)) == 2

    @pytest.mark.parametrize(("primitives", "count"), [(False, 0), (True, 4)])
    def test_the_target_chooses_primitives(self, primitives: bool, count: int) -> None:
        sources = two(primitives=primitives)
        assert sources.files["packed_dot_4_s.v"].count("DSP48E2 #(") == count

    def test_equal_components_give_equal_text(self) -> None:
        assert generate(Two(), "two") == two(primitives=False)


@pytest.mark.rtl
def test_a_resettable_part_is_reset_with_the_shared_modules_in_it() -> None:
    sources = generate(Whole(), "whole")
    assert sorted(sources.files) == ["counter.v", "first_pair.v", "whole.v"]
    with compile_design(dict(sources.files), "whole").start() as sim:
        sim.reset()
        sim.step(5)
        assert (sim.get("cleared"), sim.get("kept")) == (0x0505, 0x0505)
        sim.set("clear", 1)
        sim.step()
        sim.set("clear", 0)
        assert (sim.get("cleared"), sim.get("kept")) == (0, 0x0606)
        sim.step(2)
        assert (sim.get("cleared"), sim.get("kept")) == (0x0202, 0x0808)


def test_a_resettable_part_is_reset_in_amaranths_simulator_too() -> None:
    dut = Whole()

    async def bench(ctx: SimulatorContext) -> None:
        await ctx.tick().repeat(5)
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        await ctx.tick().repeat(2)
        assert (ctx.get(dut.cleared), ctx.get(dut.kept)) == (0x0202, 0x0808)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()


def failing(times: int, words: str) -> tuple[Callable[[], str], list[int]]:
    """A tool that fails so many times, and the runs so far."""
    runs: list[int] = []

    def attempt() -> str:
        runs.append(len(runs))
        if len(runs) <= times:
            raise ToolError("Yosys failed", log=f"OSError: {words}\n")
        return "text"

    return attempt, runs


@pytest.mark.parametrize(("times", "tries"), [(0, 1), (1, 2), (2, 3)])
def test_a_tool_is_run_again_while_the_kernel_cannot_seal_its_memory(times: int, tries: int) -> None:
    attempt, runs = failing(times, "cannot add seals to the memfd")
    assert verilog.retried(attempt) == "text"
    assert len(runs) == tries


@pytest.mark.parametrize(("words", "tries"), [("cannot add seals to the memfd", 3), ("syntax error", 1)])
def test_a_tool_that_goes_on_failing_is_one_error(words: str, tries: int) -> None:
    attempt, runs = failing(9, words)
    with pytest.raises(ToolError, match=r"^Yosys failed$"):
        verilog.retried(attempt)
    assert len(runs) == tries
