import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from codesign.hw.system import top as hw
from codesign.hw.system.axi import Registers
from codesign.target.engines import MOST_ENGINES
from tests.hw.host import ENGINES, FAILED, FINISHED, RUNNING, Host, encoded, job


@pytest.mark.rtl
class TestRegisters:
    def test_identity(self, host: Host) -> None:
        words = [host.sim.axil_read(hw.ID + 4 * i) for i in range(8)]
        assert b"".join(word.to_bytes(4, "little") for word in words) == host.shape.identity

    def test_written_values_read_back_in_their_width(self, host: Host) -> None:
        for register, bits in ((hw.LIST_LOW, 32), (hw.LIST_HIGH, 8), (hw.LIST_COUNT, 24), (hw.WATCHDOG, 32)):
            host.sim.axil_write(register, 0xFEDCBA98)
            assert host.sim.axil_read(register) == 0xFEDCBA98 % (1 << bits)

    def test_unused_offsets_read_zero_and_take_writes(self, host: Host) -> None:
        host.sim.axil_write(0xFF0, 1)
        assert [host.sim.axil_read(offset) for offset in (0xFF0, hw.CONTROL, hw.INTERRUPT)] == [0, 0, 0]

    def test_status_through_a_run(self, host: Host, rng: np.random.Generator) -> None:
        one = job(host, rng, (7, 37, 9))
        assert host.status() == 0
        host.start(encoded(one.commands))
        assert host.status() & (RUNNING | FINISHED | FAILED) == RUNNING
        host.sim.run_until_irq(10_000)
        assert host.status() == FINISHED
        host.sim.axil_write(hw.INTERRUPT, 1)
        assert (host.status(), host.sim.get("irq")) == (0, 0)

    def test_cycle_and_engine_counters(self, host: Host, rng: np.random.Generator) -> None:
        one = job(host, rng, (7, 37, 9))
        host.start(encoded(one.commands), watchdog=0)
        waited = host.sim.run_until_irq(10_000)
        cycles = host.sim.axil_read(hw.CYCLES_LOW)
        busy = {name: host.sim.axil_read(hw.BUSY + 4 * e) for e, name in enumerate(ENGINES)}
        wait = {name: host.sim.axil_read(hw.WAIT + 4 * e) for e, name in enumerate(ENGINES)}
        assert waited - 4 <= cycles <= waited + 4
        assert host.sim.axil_read(hw.CYCLES_HIGH) == 0
        assert list(busy) == ["load", "store", "fetch", "linear"]
        for name in ENGINES:
            assert busy[name] > 0
            assert busy[name] + wait[name] <= cycles
        for e in range(len(ENGINES), MOST_ENGINES):  # places of engines that are not there
            assert (host.sim.axil_read(hw.BUSY + 4 * e), host.sim.axil_read(hw.WAIT + 4 * e)) == (0, 0)
        assert wait["store"] > 0


async def write(
    ctx: SimulatorContext, dut: Registers, offset: int, value: int, address_first: bool, rng: np.random.Generator
) -> None:
    """One write; the second of address and data comes up to three cycles later, and so does bready."""
    bus = dut.bus
    order = [(bus.awvalid, bus.awaddr, offset), (bus.wvalid, bus.wdata, value)]
    for valid, payload, word in order if address_first else order[::-1]:
        ctx.set(payload, word)
        ctx.set(valid, 1)
        if valid is not (bus.wvalid if address_first else bus.awvalid):
            assert not ctx.get(bus.awready | bus.wready)
            await ctx.tick().repeat(int(rng.integers(1, 4)))
    assert ctx.get(bus.awready & bus.wready)
    await ctx.tick()
    ctx.set(bus.awvalid, 0)
    ctx.set(bus.wvalid, 0)
    await ctx.tick().repeat(int(rng.integers(1, 4)))
    assert (ctx.get(bus.bvalid), ctx.get(bus.bresp)) == (1, 0)
    ctx.set(bus.bready, 1)
    await ctx.tick()
    ctx.set(bus.bready, 0)
    assert not ctx.get(bus.bvalid)


async def read(ctx: SimulatorContext, dut: Registers, offset: int, rng: np.random.Generator) -> int:
    """One read; rready comes late, and rdata must hold until then."""
    bus = dut.bus
    ctx.set(bus.araddr, offset)
    ctx.set(bus.arvalid, 1)
    assert ctx.get(bus.arready)
    await ctx.tick()
    ctx.set(bus.arvalid, 0)
    first = ctx.get(bus.rdata)
    await ctx.tick().repeat(int(rng.integers(1, 4)))
    assert (ctx.get(bus.rvalid), ctx.get(bus.rresp), ctx.get(bus.rdata)) == (1, 0, first)
    ctx.set(bus.rready, 1)
    await ctx.tick()
    ctx.set(bus.rready, 0)
    assert not ctx.get(bus.rvalid)
    return int(first)


class TestProtocol:
    """Random pauses on every channel; the simulator is Amaranth's own."""

    @pytest.mark.parametrize("address_first", [True, False])
    def test_writes_take_address_and_data_in_any_order(self, address_first: bool, rng: np.random.Generator) -> None:
        dut = Registers(writes={0: 32, 8: 8}, strobes=(4,), reads=(12,))
        seen: list[tuple[int, int, int]] = []

        async def host(ctx: SimulatorContext) -> None:
            for offset, value in ((0, 0xDEADBEEF), (4, 77), (8, 0x1FF), (12, 5)):
                await write(ctx, dut, offset, value, address_first, rng)
                seen.append((ctx.get(dut.value_0), ctx.get(dut.value_8), offset))

        pulses: list[int] = []

        async def watch(ctx: SimulatorContext) -> None:
            while True:
                *_, pulse, data = await ctx.tick().sample(dut.strobe_4, dut.strobe_data)
                pulses.extend([int(data)] if pulse else [])

        simulator = Simulator(dut)
        simulator.add_clock(1e-8)
        simulator.add_testbench(host)
        simulator.add_testbench(watch, background=True)
        simulator.run()
        assert seen == [(0xDEADBEEF, 0, 0), (0xDEADBEEF, 0, 4), (0xDEADBEEF, 0xFF, 8), (0xDEADBEEF, 0xFF, 12)]
        assert pulses == [77]

    def test_reads_hold_until_they_are_taken(self, rng: np.random.Generator) -> None:
        dut = Registers(writes={0: 32}, strobes=(), reads=(4,))
        got: list[int] = []

        async def host(ctx: SimulatorContext) -> None:
            ctx.set(dut.read_4, 1234)
            await write(ctx, dut, 0, 99, True, rng)
            for offset in (0, 4, 8):
                got.append(await read(ctx, dut, offset, rng))

        simulator = Simulator(dut)
        simulator.add_clock(1e-8)
        simulator.add_testbench(host)
        simulator.run()
        assert got == [99, 1234, 0]
