from dataclasses import replace

import numpy as np
import pytest

from codesign.compiler import host as memory
from codesign.compiler.program import compile_network
from codesign.hw.system import top as hw
from codesign.hw.vector import VectorKernel
from codesign.ir.network import run
from codesign.target.commands import Command
from codesign.target.design import Design
from tests.accelerators import SMALL_VIT, board, compiled, fitting, start
from tests.hw.host import BUSY as BUSY_BIT
from tests.hw.host import ENGINES, NARROW, Host, encoded, job, raw
from tests.quant.vits import random_network, recipe, samples


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

    def test_a_start_after_an_error_waits_for_the_store_alone(self, slow_host: Host, rng: np.random.Generator) -> None:
        """Nothing is read any more, and the last burst of a store has not been answered."""
        store = Command("store", {"words": 3000, "dram": 1 << 17})
        for length in range(1, 8):
            slow_host.start(encoded([*[store] * length]) + raw(77))
            slow_host.sim.run_until_irq(1_000_000)
            assert slow_host.status() & BUSY_BIT
            slow_host.run(job(slow_host, rng))

    def test_a_list_may_leave_weights_for_the_next(self, host: Host, rng: np.random.Generator) -> None:
        """The first run ends while its last bursts are under way."""
        for _ in range(5):
            one = job(host, rng)
            host.start(encoded(one.commands[:1]))
            assert host.wait().error == 0
            host.run(replace(one, commands=one.commands[1:]))


@pytest.mark.rtl
class TestCounters:
    def test_counters_stand_still_behind_a_run(self, slow_host: Host) -> None:
        """An unknown command ends the run while load and store are busy, and they stay so."""
        transfers = [Command(name, {"words": 3000, "dram": 1 << 17}) for name in ("load", "store")]
        slow_host.start(encoded(transfers) + raw(77))
        slow_host.sim.run_until_irq(1_000_000)
        cycles, counters = slow_host.sim.axil_read(hw.CYCLES_LOW), range(hw.BUSY, hw.WAIT + 4 * len(ENGINES), 4)
        found = [slow_host.sim.axil_read(offset) for offset in counters]
        assert 0 < found[0] <= cycles
        assert max(found) <= cycles
        slow_host.sim.step(500)
        assert [slow_host.sim.axil_read(offset) for offset in counters] == found

    def test_an_engine_at_work_does_not_wait(self, host: Host) -> None:
        """Loads back to back: the next one stands in the queue all the time."""
        loads = [Command("load", {"words": 64, "dram": 1 << 17})] * 4
        host.start(encoded(loads))
        outcome = host.wait()
        busy, wait = host.sim.axil_read(hw.BUSY), host.sim.axil_read(hw.WAIT)
        assert outcome.error == 0
        assert busy > outcome.cycles // 2
        assert wait <= len(loads)


def test_a_memory_that_no_engine_has_is_refused() -> None:
    for name in ("skip", "query"):
        with pytest.raises(
            ValueError, match=f"memories \\['{name}'\\]; legal with linear: input, output, hidden, residual"
        ):
            hw.Shape(NARROW.bus, NARROW.engines, {**NARROW.memories, name: 4096})
    vector = {**NARROW.engines, "vector": VectorKernel(t_v=2, max_d=64)}
    with pytest.raises(ValueError, match="memories \\['skip'\\]; legal with linear, vector: "):
        hw.Shape(NARROW.bus, vector, {**NARROW.memories, "skip": 4096})


def test_a_memory_that_an_engine_needs_must_be_there() -> None:
    """Those of the linear engine may be left out, those that another engine brings along may not."""
    hw.Shape(NARROW.bus, NARROW.engines, {"input": 4096})
    for wide, names in ((0, ["affine", "normed"]), (1, ["affine", "normed", "skip"])):
        engines = {**NARROW.engines, "vector": VectorKernel(t_v=2, max_d=64, wide=wide)}
        memories = {**NARROW.memories, **dict.fromkeys(names, 4096)}
        hw.Shape(NARROW.bus, engines, memories)
        for name in names:
            fewer = {other: size for other, size in memories.items() if other != name}
            with pytest.raises(ValueError, match=f"no memory {name}; legal with linear, vector: all of "):
                hw.Shape(NARROW.bus, engines, fewer)


@pytest.mark.rtl
@pytest.mark.parametrize(("engine", "wrong"), [("attention", {"keys": 0}), ("vector", {"d": 1})])
def test_a_command_refused_late_is_named_and_the_next_run_is_correct(engine: str, wrong: dict[str, int]) -> None:
    """Attention and vector check their operands for some cycles before they refuse them."""
    network = random_network(1)[0]
    design = fitting(Design(board(), SMALL_VIT, {}, 5), [network])
    program = compile_network(network, design)
    index = next(i for i, command in enumerate(program.commands) if command.engine == engine)
    bad = program.commands[index]._replace(fields={**program.commands[index].fields, **wrong})
    broken = replace(program, commands=(*program.commands[:index], bad, *program.commands[index + 1 :]))
    golden = run(network, {"image": samples(recipe(1), 1)[0]})
    with compiled(design).start(dram_bytes=program.dram_bytes) as simulator:
        simulator.reset(2)
        refused = 16 + program.engines.index(engine) | index << 16
        for attempt, error in ((broken, refused), (program, 0), (broken, refused), (program, 0)):
            memory.load(simulator.dram, memory.image_of(attempt))
            for name, place in attempt.inputs.items():
                memory.write_matrix(simulator.dram, place, golden[name])
            start(simulator, attempt)
            simulator.run_until_irq(100_000)
            assert simulator.axil_read(hw.ERROR) == error
        assert all(np.array_equal(memory.read_matrix(simulator.dram, p), golden[n]) for n, p in program.outputs.items())
