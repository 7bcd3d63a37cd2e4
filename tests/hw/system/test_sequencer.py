from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator, SimulatorContext

from codesign.hw.system import top as hw
from codesign.hw.system.bus import Bus
from codesign.hw.system.sequencer import ERROR_BUS, ERROR_ENGINE, ERROR_ILLEGAL, ERROR_WATCHDOG, Restart, Sequencer
from codesign.target.commands import Command
from codesign.target.engines import MOST_ENGINES
from tests.hw.engine_bench import refuses
from tests.hw.host import BUSY, ENGINES, FAILED, FINISHED, MAP, RUNNING, Host, Outcome, encoded, job, raw


@pytest.mark.rtl
class TestTokens:
    def test_the_order_of_the_list_does_not_matter_between_engines(self, host: Host, rng: np.random.Generator) -> None:
        """Consumers first, no more than their queues hold: only tokens make them wait."""
        for rows in range(1, 8):
            one = job(host, rng, (rows, 37, 15))
            last_first = sorted(one.commands, key=lambda command: -ENGINES.index(command.engine))
            host.run(replace(one, commands=tuple(last_first)))

    def test_a_command_waits_for_several_tokens(self, host: Host) -> None:
        """Fifteen loads give the store a token each; with one less it never starts."""
        loads = [Command("load", {"memory": 0, "words": 1, "dram": 1 << 15}, posts={"store": 1}) for _ in range(15)]
        store = Command("store", {"memory": 0, "words": 1, "dram": 1 << 16}, waits={"load": 15})
        host.start(encoded([store, *loads]), watchdog=1000)
        outcome = host.wait()
        assert (outcome.error, outcome.status & FINISHED) == (0, FINISHED)
        assert host.sim.traffic()[0].write_bytes > 0
        host.start(encoded([store, *loads[:14]]), watchdog=1000)
        assert host.wait().error == ERROR_WATCHDOG

    def test_tokens_that_a_run_leaves_over_do_not_reach_the_next(self, host: Host) -> None:
        load = Command("load", {"memory": 0, "words": 1, "dram": 1 << 15}, posts={"store": 1})
        store = Command("store", {"memory": 0, "words": 1, "dram": 1 << 16}, waits={"load": 1})
        host.start(encoded([load, load, store]), watchdog=1000)
        assert host.wait().error == 0
        host.start(encoded([store]), watchdog=1000)
        assert host.wait().error == ERROR_WATCHDOG

    def test_tokens_of_engines_that_are_not_there_do_not_matter(self, host: Host, rng: np.random.Generator) -> None:
        one = job(host, rng, (7, 37, 9))
        more = (*ENGINES, *(f"attention_{i}" for i in range(2, MOST_ENGINES - len(ENGINES) + 2)))
        assert len(more) == MOST_ENGINES
        none = dict.fromkeys(more[len(ENGINES) :], 15)
        host.start(
            encoded([c._replace(waits={**c.waits, **none}, posts={**c.posts, **none}) for c in one.commands], more)
        )
        outcome = host.wait()
        assert (outcome.error, outcome.status & FINISHED) == (0, FINISHED)
        assert np.array_equal(one.found(host.sim.dram), one.result)

    def test_queues_fill_and_hold_back_the_list(self, host: Host, rng: np.random.Generator) -> None:
        """More commands for one engine than all queues hold, while the others' commands come behind them."""
        filler = [Command("load", {"memory": 0, "words": 1, "dram": 1 << 13}) for _ in range(60)]
        one = job(host, rng, (5, 20, 7))
        host.run(replace(one, commands=(*filler, *one.commands)))
        host.run(replace(one, commands=(*one.commands, *filler)))


ILLEGAL = [
    ("load", {"words": 0}), ("load", {"words": 1, "memory": len(MAP.numbers["load", "out"]) + 1}),
    ("store", {"words": 0}), ("store", {"words": 1, "memory": len(MAP.numbers["store", "source"])}),
    ("fetch", {"table_words": 0, "weight_words": 1}), ("fetch", {"table_words": 1, "weight_words": 0}),
    ("linear", {"rows": 0, "kw": 1, "ib": 1, "ob": 1}), ("linear", {"rows": 1, "kw": 5, "ib": 1, "ob": 1}),
]  # fmt: skip
LEFT_OUT = [Command("attention", {"rows": 1}), Command("vector", {"rows": 1, "d": 2})]
"""Commands of engines that these accelerators lack, and whose numbers nobody has therefore."""


def faults(host: Host, rng: np.random.Generator) -> list[tuple[bytes, Outcome]]:
    """Lists that must fail, each amid a correct layer, and how."""
    found = []
    for engine, fields in ILLEGAL:
        commands = job(host, rng, (9, 50, 15)).commands
        at = int(rng.integers(len(commands)))
        text = encoded(commands[:at]) + encoded([Command(engine, fields)]) + encoded(commands[at:])
        found.append((text, Outcome(FAILED, ERROR_ILLEGAL + ENGINES.index(engine), at, 0)))
    left_out = (encoded([command], (*ENGINES, "attention", "vector")) for command in LEFT_OUT)
    for unknown in (*left_out, raw(6), raw(255)):
        commands = job(host, rng, (9, 50, 15)).commands
        at = int(rng.integers(len(commands)))
        text = encoded(commands[:at]) + unknown + encoded(commands[at:])
        found.append((text, Outcome(FAILED, ERROR_ENGINE, at, 0)))
    stuck = job(host, rng, (9, 50, 15)).commands
    fetch = [Command("fetch", stuck[0].fields)] * 3
    never = Command("linear", stuck[-2].fields, waits={"fetch": 1})
    found.append((encoded([*fetch, never, *stuck[1:]]), Outcome(FAILED, ERROR_WATCHDOG, 0, 0)))
    return found


def check_fault(host: Host, text: bytes, expected: Outcome) -> None:
    host.start(text, watchdog=3000)
    outcome = host.wait()
    assert (outcome.error, outcome.index) == (expected.error, expected.index)
    assert outcome.status & (RUNNING | FINISHED | FAILED) == FAILED


@pytest.mark.rtl
class TestErrors:
    def test_every_fault_is_named_and_the_next_run_is_right(self, host: Host, rng: np.random.Generator) -> None:
        for text, expected in faults(host, rng):
            check_fault(host, text, expected)
            host.run(job(host, rng))

    def test_a_start_while_bursts_are_under_way_waits_for_them(self, slow_host: Host, rng: np.random.Generator) -> None:
        for text, expected in faults(slow_host, rng):
            slow_host.start(text, watchdog=20_000)
            slow_host.sim.run_until_irq(1_000_000)
            assert slow_host.sim.axil_read(hw.ERROR) & 255 == expected.error
            assert slow_host.status() & FAILED
            slow_host.run(job(slow_host, rng))

    def test_no_burst_is_begun_behind_an_error_and_busy_falls_with_the_last(
        self, slow_host: Host, rng: np.random.Generator
    ) -> None:
        """A long load and a long store are under way; what their ports hold may still go out."""
        transfers = [Command(name, {"words": 3000, "dram": 1 << 17}) for name in ("load", "store")]
        slow_host.start(encoded(transfers) + raw(77))
        slow_host.sim.run_until_irq(1_000_000)
        ports, before = slow_host.shape.bus.ports, slow_host.sim.traffic()
        assert slow_host.status() & (RUNNING | BUSY | FAILED) == BUSY | FAILED
        slow_host.sim.axil_write(hw.INTERRUPT, 1)
        slow_host.sim.step(30_000)
        assert slow_host.status() == FAILED
        after = slow_host.sim.traffic()
        assert 0 < sum(port.reads for port in after) <= sum(port.reads for port in before) + ports
        assert 0 < sum(port.writes for port in after) <= sum(port.writes for port in before) + 2 * ports
        slow_host.run(job(slow_host, rng))

    @pytest.mark.parametrize("fault", ["read_fault", "write_fault"])
    def test_an_error_answer_of_the_bus(self, host: Host, fault: str, rng: np.random.Generator) -> None:
        host.run(job(host, rng))
        host.sim.set(fault, 1)
        host.start(encoded(job(host, rng).commands))
        outcome = host.wait()
        assert (outcome.error, outcome.status & (RUNNING | FAILED)) == (ERROR_BUS, FAILED)
        host.sim.set(fault, 0)
        host.run(job(host, rng))

    def test_a_command_that_is_accepted_counts_as_progress(self, host: Host) -> None:
        """Reading the list takes the memory's latency of 60 cycles, which are not the load's."""
        load = encoded([Command("load", {"words": 1024, "dram": 1 << 17})])
        host.start(load, watchdog=0)
        whole = host.wait().cycles
        for watchdog, error in ((whole - 40, 0), (whole // 2, ERROR_WATCHDOG)):
            host.start(load, watchdog=watchdog)
            assert host.wait().error == error

    def test_a_command_that_is_done_counts_as_progress(self, host: Host) -> None:
        """Two transfers begin together; the shorter ends at two thirds of the time, and nothing begins behind it."""
        pair = (Command("load", {"words": 1024, "dram": 1 << 17}), Command("store", {"words": 2048, "dram": 1 << 18}))
        transfers = encoded(pair)
        host.start(transfers, watchdog=0)
        whole = host.wait().cycles
        for watchdog, error in ((whole // 2, ERROR_WATCHDOG), (whole * 3 // 4, 0)):
            host.start(transfers, watchdog=watchdog)
            assert host.wait().error == error

    def test_faults_under_random_stalls(self, host: Host, rng: np.random.Generator) -> None:
        host.sim.stall(5, 0.6)
        for text, expected in faults(host, rng):
            check_fault(host, text, expected)
            host.run(job(host, rng))

    def test_no_watchdog(self, host: Host) -> None:
        host.start(encoded([Command("store", {"words": 1}, waits={"load": 1})]), watchdog=0)
        host.sim.step(20_000)
        assert host.status() & (RUNNING | FAILED) == RUNNING


class TestRestart:
    """Cycle by cycle: wanted, failed, settled in; start, clear, pending out."""

    @pytest.mark.parametrize(("inputs", "outputs"), [
        ([(1, 0, 1), (0, 0, 1)], [(1, 0, 0), (0, 0, 0)]),
        ([(1, 0, 0), (0, 0, 0)], [(1, 0, 0), (0, 0, 0)]),
        ([(1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 1)], [(0, 0, 0), (0, 1, 1), (1, 0, 1), (0, 0, 0)]),
        ([(1, 1, 0), (0, 1, 0), (1, 1, 0), (0, 1, 1), (0, 0, 1), (0, 0, 1)],
         [(0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 1, 1), (1, 0, 1), (0, 0, 0)]),
        ([(0, 1, 1), (0, 1, 1)], [(0, 0, 0), (0, 0, 0)]),
    ])  # fmt: skip
    def test_steps(self, inputs: list[tuple[int, int, int]], outputs: list[tuple[int, int, int]]) -> None:
        dut = Restart()
        seen: list[tuple[int, int, int]] = []

        async def bench(ctx: SimulatorContext) -> None:
            for values in inputs:
                for signal, value in zip((dut.wanted, dut.failed, dut.settled), values, strict=True):
                    ctx.set(signal, value)
                seen.append(tuple(ctx.get(signal) for signal in (dut.start, dut.clear, dut.pending)))
                await ctx.tick()

        simulator = Simulator(dut)
        simulator.add_clock(1e-8)
        simulator.add_testbench(bench)
        simulator.run()
        assert seen == outputs


def test_a_bus_word_longer_than_a_command_is_refused() -> None:
    refuses(lambda: Sequencer(Bus(4, 32, 4), 6), "legal: a divisor of 64")


@pytest.mark.parametrize("engines", [0, MOST_ENGINES + 1])
def test_a_number_of_engines_that_a_command_has_no_room_for_is_refused(engines: int) -> None:
    refuses(lambda: Sequencer(Bus(4, 8, 4), engines), f"{engines} engines; legal: 1 to 16")
