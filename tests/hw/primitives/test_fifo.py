import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from codesign.hw.primitives.fifo import Fifo, operands
from codesign.target.engines import OPERAND_BITS
from tests.hw.engine_bench import refuses
from tests.marks import few_fast


class TestOperands:
    def test_fields_follow_each_other_from_bit_zero(self) -> None:
        layout = operands(rows=16, flags=8, base=24)
        assert [(name, field.offset, field.width) for name, field in layout] == [
            ("rows", 0, 16), ("flags", 16, 8), ("base", 24, 24),
        ]  # fmt: skip

    def test_too_many_bits_are_refused(self) -> None:
        operands(a=OPERAND_BITS)
        with pytest.raises(ValueError, match="legal: at most 352"):
            operands(a=OPERAND_BITS, b=8)


class TestFifo:
    @pytest.mark.parametrize("depth", few_fast([2, 8], 1))
    @pytest.mark.parametrize("rates", [(0.9, 0.2), (0.2, 0.9), (0.5, 0.5), (1, 1)])
    def test_keeps_order_under_random_pauses(
        self, depth: int, rates: tuple[float, float], rng: np.random.Generator
    ) -> None:
        dut = Fifo(8, depth)
        sent: list[int | None] = []
        got: list[int | None] = []
        levels: list[int] = []

        async def bench(ctx: SimulatorContext) -> None:
            held = None
            for _ in range(300):
                held = held if held is not None else (int(rng.integers(256)) if rng.random() < rates[0] else None)
                ctx.set(dut.w.valid, held is not None)
                ctx.set(dut.w.payload, held or 0)
                ctx.set(dut.r.ready, rng.random() < rates[1])
                levels.append(ctx.get(dut.level))
                assert levels[-1] == len(sent) - len(got)
                if ctx.get(dut.r.valid & dut.r.ready):
                    got.append(ctx.get(dut.r.payload))
                if ctx.get(dut.w.valid & dut.w.ready):
                    sent.append(held)
                    held = None
                await ctx.tick()

        simulator = Simulator(dut)
        simulator.add_clock(1e-8)
        simulator.add_testbench(bench)
        simulator.run()
        assert got == sent[: len(got)]
        assert len(got) > 30
        assert max(levels) == (1 if rates == (1, 1) else depth if rates[0] > rates[1] else max(levels))

    @pytest.mark.parametrize("depth", [0, 1, 3, 12])
    def test_depth_must_be_a_power_of_two(self, depth: int) -> None:
        refuses(lambda: Fifo(8, depth), "legal: a power of two, at least 2")
