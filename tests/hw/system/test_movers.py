from dataclasses import replace

import numpy as np
import pytest

from codesign.hw.system.bus import Bus
from codesign.hw.system.movers import FetchEngine
from codesign.hw.system.sequencer import ERROR_WATCHDOG
from codesign.target.commands import Command
from tests.hw.engine_bench import refuses
from tests.hw.host import MAP, Host, check_faulty_ports, encoded, job, linear_of

LUT_NUMBER = len(MAP.numbers["load", "out"])
"""Number of the tables among the memories of the load engine."""


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


@pytest.mark.rtl
def test_an_error_answer_to_a_write_of_any_port(host: Host) -> None:
    check_faulty_ports(host, "write_fault", "store")


@pytest.mark.rtl
def test_a_load_of_several_tables_writes_them_all(host: Host, rng: np.random.Generator) -> None:
    """Tables are written byte after byte, so the second burst waits for the first; the last table is what counts."""
    tables = linear_of(host.shape).tables
    one = job(host, rng)
    while one.commands[1].fields["memory"] != LUT_NUMBER:
        one = job(host, rng)
    fetch, load, *rest = one.commands
    old, size = load.fields["dram"], 256
    table = host.sim.dram[old : old + size].tobytes()
    host.put([(1 << 18, rng.bytes(size) + rng.bytes(size) + table)])
    words = load.fields["words"]
    for before in (1, 2):
        start = tables - 1 - before
        longer = {**load.fields, "dram": (1 << 18) + (2 - before) * size, "words": (before + 1) * words}
        longer |= {"address": start * words % (tables * words)}
        used = [c._replace(fields={**c.fields, "table": tables - 1}) if c.engine == "linear" else c for c in rest]
        host.run(replace(one, commands=(fetch, load._replace(fields=longer), *used)))


def test_a_ring_word_that_is_no_multiple_of_the_bus_word_is_refused() -> None:
    refuses(
        lambda: FetchEngine(Bus(2, 16, 4), weight_bytes=16, ring_words=64, table_bytes=64, table_words=16),
        "legal: multiples of the bus word, 32 bytes",
    )
