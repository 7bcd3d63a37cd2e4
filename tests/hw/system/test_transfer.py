from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.hw.system.sequencer import ERROR_WATCHDOG
from codesign.hw.system.transfer import BURST_BYTES, Bus, FetchEngine
from codesign.sim.verilator.simulator import CHANNELS
from codesign.target.commands import Command
from tests.hw.engine_bench import refuses
from tests.hw.host import Host, encoded, job, linear_of

AR, READ, AW, WRITE, ANSWER = (CHANNELS.index(name) for name in ("AR", "R", "AW", "W", "B"))


def check_turns(begun: NDArray[np.void], events: NDArray[np.void], ports: int, latency: int) -> None:
    """Every burst goes to the next port, or to the first one when nothing is under way."""
    turn = 0
    for burst in begun:
        if burst["port"] != turn:
            assert burst["port"] == 0
            near = events[(events["cycle"] >= burst["cycle"]) & (events["cycle"] < burst["cycle"] + latency)]
            before = events[events["cycle"] < burst["cycle"]]["channel"]
            if burst["channel"] == AR:
                assert not (near["channel"] == READ).any()
            else:
                assert (before == AW).sum() == (before == ANSWER).sum()
        turn = (int(burst["port"]) + 1) % ports


@pytest.mark.rtl
class TestBursts:
    def test_they_go_round_the_ports_and_never_leave_their_256_bytes(
        self, host: Host, rng: np.random.Generator
    ) -> None:
        assert host.sim.memory is not None
        for _ in range(6):
            one = job(host, rng)
            host.sim.record_memory()
            host.run(one)
            events = host.sim.memory_events()
            for address, beat in ((AR, READ), (AW, WRITE)):
                begun = events[events["channel"] == address]
                check_turns(begun, events, host.shape.bus.ports, host.sim.memory.read_latency)
                moved = np.sort(events[events["channel"] == beat]["address"])
                starts = np.sort(begun["address"])
                owner = starts[np.searchsorted(starts, moved, side="right") - 1]
                assert np.array_equal(owner // BURST_BYTES, moved // BURST_BYTES)

    def test_every_byte_is_moved_once(self, host: Host, rng: np.random.Generator) -> None:
        for _ in range(6):
            one = job(host, rng)
            word = host.shape.bus.word_bytes
            before = host.sim.traffic()
            host.run(one)
            after = host.sim.traffic()
            read, written = 64 * len(one.commands), 0
            for command in one.commands:
                f = command.fields
                read += word * {
                    "load": f.get("words", 0),
                    "fetch": f.get("table_words", 0) + f.get("weight_words", 0),
                }.get(command.engine, 0)
                written += word * f["words"] if command.engine == "store" else 0
            assert sum(a.read_bytes - b.read_bytes for a, b in zip(after, before, strict=True)) == read
            assert sum(a.write_bytes - b.write_bytes for a, b in zip(after, before, strict=True)) == written


@pytest.mark.rtl
class TestPrefetch:
    def test_it_runs_ahead_as_far_as_the_rings_hold_and_no_further(self, host: Host, rng: np.random.Generator) -> None:
        """Fetches for many layers, none of which starts: the rings fill and the reads end."""
        lin, word = linear_of(host.shape), host.shape.bus.word_bytes
        fetch = job(host, rng, (1, 50, 15)).commands[0]
        count = 3 * lin.ring_words * lin.t_in * lin.t_out // (word * fetch.fields["weight_words"])
        stuck = Command("linear", {"rows": 1, "kw": 1, "ib": 1, "ob": 1}, waits={"fetch": 1})
        host.start(encoded([stuck, *[fetch] * count]), watchdog=2000)
        assert host.wait().error == ERROR_WATCHDOG
        read = sum(port.read_bytes for port in host.sim.traffic())
        ring, table = lin.ring_words * lin.t_in * lin.t_out, lin.table_words * 8 * lin.t_out
        block = word * (fetch.fields["weight_words"] + fetch.fields["table_words"])
        assert min(ring, table) - block < read <= ring + table + 64 * (count + 1)
        host.run(job(host, rng))

    def test_weights_of_several_layers_lie_in_the_rings_at_once(self, host: Host, rng: np.random.Generator) -> None:
        """All fetches first, then the layer again and again, each time behind the store before."""
        one = job(host, rng, (1, 20, 8))
        fetch, *body = one.commands
        again = [body[0]._replace(waits={"store": 1}), *body[1:-1], body[-1]._replace(posts={"load": 1})]
        first = [*body[:-1], again[-1]]
        assert body[0].engine == "load"
        host.run(replace(one, commands=(*[fetch] * 6, *first, *again * 5)))


def test_a_ring_word_that_is_no_multiple_of_the_bus_word_is_refused() -> None:
    refuses(
        lambda: FetchEngine(Bus(2, 16, 4), weight_bytes=16, ring_words=64, table_bytes=64, table_words=16),
        "legal: multiples of the bus word, 32 bytes",
    )
