import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.hw.system.bus import BURST_BYTES
from codesign.sim.verilator.simulator import CHANNELS
from tests.hw.host import Host, job

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
