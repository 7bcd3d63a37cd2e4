from dataclasses import replace

import numpy as np
import pytest

from codesign.hw import top as hw
from tests.hw.host import Host, encoded, job


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

    def test_a_list_may_leave_weights_for_the_next(self, host: Host, rng: np.random.Generator) -> None:
        """The first run ends while its last bursts are under way."""
        for _ in range(5):
            one = job(host, rng)
            host.start(encoded(one.commands[:1]))
            assert host.wait().error == 0
            host.run(replace(one, commands=one.commands[1:]))
