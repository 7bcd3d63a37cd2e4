"""The weights that the bound counts are those that a program fetches, and room in the rings holds them back."""

from collections.abc import Sequence

import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.hw.system.accelerator import formulas
from codesign.ir.network import Network
from codesign.target.design import Design
from codesign.target.kernel import Number, Params
from codesign.timing.bound.memory import Interfaces, Rates
from codesign.timing.bound.schedule import Bound, _Schedule
from codesign.timing.bound.weight_ring import Cut, Rings
from tests.accelerators import board, chain, fitting

_LINEAR = {"t_in": 8, "t_out": 16, "n_l": 4, "kw_max": 64, "tables": 8}


def _design(network: Network, ring: int, table: int) -> Design:
    linear = {**_LINEAR, "ring_words": ring, "table_words": table}
    return fitting(Design(board(), {"linear": linear}, {}, 5), [network])


def _schedule(network: Network, design: Design) -> _Schedule:
    bound = Bound(network, design.board)
    found = _Schedule(bound, design.engines, formulas(design.engines), design.row_group, 0, {}, None, False)
    found.total()
    return found


def _full_bursts(dram: int, size: int) -> int:
    """Bursts of 256 bytes, from one boundary to the next, that lie in some bytes."""
    return max(0, (dram + size) // 256 - -(-dram // 256))


@pytest.mark.parametrize("rings", [(64, 16), (128, 4), (2048, 256)])
def test_weights_are_those_of_the_program(rings: tuple[int, int]) -> None:
    network = chain(np.random.default_rng(0), 12, [200, 100, 260, 40])
    design = _design(network, *rings)
    word, found = design.word_bytes, _schedule(network, design).rings
    fetches = [c.fields for c in compile_network(network, design, bare=True).commands if c.engine == "fetch"]
    assert found.fetched() == word * sum(f["table_words"] + f["weight_words"] for f in fetches)
    bursts = 0
    for fetch in fetches:
        table = fetch["table_words"] * word
        bursts += _full_bursts(fetch["dram"], table) + _full_bursts(fetch["dram"] + table, fetch["weight_words"] * word)
    assert found.bursts == bursts


def _rings(ring: int, table: int) -> tuple[Rings, Params]:
    network = chain(np.random.default_rng(0), 5, [64, 32])
    linear = {**_LINEAR, "ring_words": ring, "table_words": table}
    return Rings(Rates(Interfaces(network, [board()]), 0), linear), linear


def _layers(ring: int, table: int, cuts: Sequence[Cut]) -> list[tuple[Number, Number]]:
    """When the weights of some layers are there and the array has gone over them once, one behind the other."""
    rings, _ = _rings(ring, table)
    found, free = [], 0
    for cut in cuts:
        before = rings.take(cut)
        there, once = rings.turned(cut, before, 0, free)
        found.append((there, once))
        free = int(max(once, there)) + (int(cut.passes) - 1) * int(cut.last) * int(cut.spacing)
        rings.give_back(cut, free)
    return found


def _cut(ib: int, tiles: int, most: int, passes: int) -> Cut:
    blocks = -(-tiles // most)
    return Cut(ib, max(ib, 4), tiles, min(most, tiles), blocks, tiles - (blocks - 1) * min(most, tiles), passes, 20)


@pytest.mark.parametrize("passes", [1, 3])
def test_weights_come_later_the_shorter_a_ring_is(passes: int) -> None:
    cuts = [_cut(8, 16, 8, passes), _cut(6, 20, 8, passes), _cut(8, 16, 8, passes)]
    deep, weights, tables = (_layers(*rings, cuts) for rings in ((4096, 256), (64, 256), (4096, 8)))
    for short in (weights, tables):
        pairs = [pair for late, soon in zip(short, deep, strict=True) for pair in zip(late, soon, strict=True)]
        assert all(late >= soon for late, soon in pairs)
        assert any(late > soon for late, soon in pairs)


def test_a_deep_ring_holds_nothing_back() -> None:
    """All that is left is that words come one behind the other."""
    cuts = [_cut(8, 16, 16, 2)] * 3
    assert _layers(4096, 256, cuts) == _layers(1 << 20, 1 << 20, cuts)


@pytest.mark.parametrize("last", [1, 3, 8])
def test_the_second_of_two_blocks_waits_for_the_tables_of_the_first_alone(last: int) -> None:
    """Of three blocks, the third waits for the second too, whose weights were asked for late."""
    rings, _ = _rings(4096, 8)
    two, three = (_cut(8, 8 * blocks + last, 8, 1) for blocks in (1, 2))
    behind = (last - 1) * 8
    assert rings._once(two, 100) == 108 + rings._turn(two, last) + behind
    later = rings._turn(three, 8) + rings._turn(three, last, asked=True)
    assert rings._once(three, 100) == 108 + later + behind


def test_putting_off_moves_all() -> None:
    rings, _ = _rings(64, 16)
    cut = _cut(8, 16, 8, 2)
    rings.turned(cut, rings.take(cut), 0, 0)
    rings.give_back(cut, 500)
    before, counts = rings.freed[-3:], (rings.tiles, rings.words, rings.bursts, rings.came)
    rings.put_off(1000, 5, 40, 6)
    assert [(tile - 5, word - 40, at - 1000) for tile, word, at in rings.freed] == before
    assert (rings.tiles - 5, rings.words - 40, rings.bursts - 6, rings.came - 1000) == counts


def test_loads_that_go_before_weights_make_them_later() -> None:
    rings, _ = _rings(4096, 256)
    rings.take(_cut(8, 64, 64, 1))
    plain = rings.arrival([])
    assert rings.arrival([(200, 0)]) > plain
    assert rings.arrival([(200, rings.fetched())]) == plain
