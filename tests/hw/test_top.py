from collections.abc import Iterator

import numpy as np
import pytest

from codesign.command import ENGINES, Command
from codesign.hw import top as hw
from codesign.hw.sequencer import ERROR_BUS, ERROR_ENGINE, ERROR_ILLEGAL, ERROR_WATCHDOG
from codesign.sim.simulator import Library, MemoryPorts
from tests.hw.host import BUSY, FAILED, FINISHED, NARROW, RUNNING, WIDE, Host, Outcome, build, encoded, job, raw

SLOW = {"num": 1, "den": 1, "read_latency": 400, "write_latency": 100}


@pytest.fixture(scope="module", params=[NARROW, WIDE], ids=["one port", "four ports"])
def shape(request: pytest.FixtureRequest) -> hw.Shape:
    chosen: hw.Shape = request.param
    return chosen


@pytest.fixture(scope="module")
def library(shape: hw.Shape) -> Library:
    return build(shape)


@pytest.fixture
def host(library: Library, shape: hw.Shape) -> Iterator[Host]:
    made = Host(library, shape)
    yield made
    made.close()


@pytest.fixture
def slow_host(library: Library, shape: hw.Shape) -> Iterator[Host]:
    """A host whose memory answers so late that bursts are under way whenever something happens."""
    made = Host(library, shape, MemoryPorts(shape.bus.ports, shape.bus.port_bytes, outstanding=shape.bus.outstanding, **SLOW))
    yield made
    made.close()


@pytest.mark.rtl
class TestRuns:
    def test_many_layers_without_reset(self, host: Host, rng: np.random.Generator) -> None:
        for _ in range(25):
            host.run(job(host, rng))

    def test_the_same_list_takes_the_same_cycles(self, host: Host, rng: np.random.Generator) -> None:
        one = job(host, rng, (7, 37, 9))
        assert host.run(one).cycles == host.run(one).cycles

    def test_random_stalls_on_every_channel_change_no_bit(self, host: Host, rng: np.random.Generator) -> None:
        for probability in (0.1, 0.5, 0.9):
            host.sim.stall(int(rng.integers(1 << 32)), probability)
            for _ in range(4):
                host.run(job(host, rng))
        host.sim.stall(0, 0)

    def test_an_empty_list_ends_at_once(self, host: Host) -> None:
        host.start(b"")
        assert host.wait(100).error == 0

    def test_a_start_during_a_run_is_ignored(self, host: Host, rng: np.random.Generator) -> None:
        one = job(host, rng, (7, 37, 9))
        alone = host.run(one).cycles
        host.start(encoded(one.commands))
        host.sim.axil_write(hw.CONTROL, 1)
        assert host.wait().cycles == alone
        assert np.array_equal(one.found(host.sim.dram), one.result)


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
        for name in ENGINES:
            used = name in ("load", "store", "fetch", "linear")
            assert (busy[name] > 0) == used
            assert busy[name] + wait[name] <= cycles
        assert wait["store"] > 0


@pytest.mark.rtl
class TestTokens:
    def test_the_order_of_the_list_does_not_matter_between_engines(self, host: Host, rng: np.random.Generator) -> None:
        """Consumers first: only tokens make them wait."""
        for _ in range(8):
            one = job(host, rng)
            last_first = sorted(one.commands, key=lambda command: -ENGINES.index(command.engine))
            host.run(type(one)(tuple(last_first), one.address, one.pitch, one.result))

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

    def test_queues_fill_and_hold_back_the_list(self, host: Host, rng: np.random.Generator) -> None:
        """More commands for one engine than all queues hold, while the others' commands come behind them."""
        filler = [Command("load", {"memory": 0, "words": 1, "dram": 1 << 13}) for _ in range(60)]
        one = job(host, rng, (5, 20, 7))
        host.run(type(one)((*filler, *one.commands), one.address, one.pitch, one.result))
        host.run(type(one)((*one.commands, *filler), one.address, one.pitch, one.result))


ILLEGAL = [
    ("load", {"words": 0}), ("load", {"words": 1, "memory": 4}), ("store", {"words": 0}), ("store", {"words": 1, "memory": 2}),
    ("fetch", {"table_words": 0, "weight_words": 1}), ("fetch", {"table_words": 1, "weight_words": 0}),
    ("linear", {"rows": 0, "kw": 1, "ib": 1, "ob": 1}), ("linear", {"rows": 1, "kw": 5, "ib": 1, "ob": 1}),
    ("attention", {"rows": 1}), ("vector", {"rows": 1, "d": 2}),
]  # fmt: skip


def faults(host: Host, rng: np.random.Generator) -> list[tuple[bytes, Outcome]]:
    """Lists that must fail, each amid a correct layer, and how."""
    found = []
    for engine, fields in ILLEGAL:
        commands = job(host, rng, (9, 50, 15)).commands
        at = int(rng.integers(len(commands)))
        text = encoded(commands[:at]) + Command(engine, fields).encode() + encoded(commands[at:])
        found.append((text, Outcome(FAILED, ERROR_ILLEGAL + ENGINES.index(engine), at, 0)))
    for engine in (6, 255):
        commands = job(host, rng, (9, 50, 15)).commands
        at = int(rng.integers(len(commands)))
        found.append((encoded(commands[:at]) + raw(engine) + encoded(commands[at:]), Outcome(FAILED, ERROR_ENGINE, at, 0)))
    stuck = job(host, rng, (9, 50, 15)).commands
    fetch = [Command("fetch", stuck[0].fields)] * 3
    never = Command("linear", stuck[-2].fields, waits={"vector": 1})
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

    def test_busy_falls_when_the_last_burst_has_ended_and_nothing_is_begun(self, slow_host: Host, rng: np.random.Generator) -> None:
        commands = job(slow_host, rng, (9, 50, 15)).commands
        slow_host.start(encoded(commands[:2]) + raw(77) + encoded(commands[2:]))
        slow_host.sim.run_until_irq(1_000_000)
        assert slow_host.status() & (BUSY | FAILED) == BUSY | FAILED
        slow_host.sim.axil_write(hw.INTERRUPT, 1)
        slow_host.sim.step(30_000)
        assert slow_host.status() == FAILED
        begun = [(port.reads, port.writes) for port in slow_host.sim.traffic()]
        slow_host.sim.step(5000)
        assert begun == [(port.reads, port.writes) for port in slow_host.sim.traffic()]
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

    def test_faults_under_random_stalls(self, host: Host, rng: np.random.Generator) -> None:
        host.sim.stall(5, 0.6)
        for text, expected in faults(host, rng):
            check_fault(host, text, expected)
            host.run(job(host, rng))

    def test_no_watchdog(self, host: Host) -> None:
        host.start(encoded([Command("store", {"words": 1}, waits={"load": 1})]), watchdog=0)
        host.sim.step(20_000)
        assert host.status() & (RUNNING | FAILED) == RUNNING
