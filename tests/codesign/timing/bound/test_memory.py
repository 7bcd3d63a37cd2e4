"""What single transfers take is what the cycle model says; nothing comes faster than a memory can bring it."""

from dataclasses import replace

import numpy as np

from codesign.target.board import Board
from codesign.target.kernel import Number
from codesign.timing.bound.memory import Interface, Interfaces, Rates
from tests.accelerators import board, chain

_BOARDS = [board(1, 7, 2, 10**9), board(2, 60, 8, 15_360_000_000), board(4, 200, 16, 19_200_000_000)]


def _interfaces(boards: list[Board] = _BOARDS) -> Interfaces:
    return Interfaces(chain(np.random.default_rng(0), 5, [64, 32]), boards)


def test_many_memories_are_asked_as_each_alone() -> None:
    found, rng = _interfaces(), np.random.default_rng(1)
    number, words = rng.integers(3, size=40), rng.integers(1, 300, 40)

    def isolated_cycles(interface: Interface, sizes: tuple[int, ...]) -> int:
        return interface.isolated_cycles("load", sizes[0])

    together = np.asarray(found.each(number, [words], isolated_cycles)).tolist()
    assert together == [found.each(int(n), [int(size)], isolated_cycles) for n, size in zip(number, words, strict=True)]
    assert np.asarray(found.of(number, lambda each: each.word)).tolist() == [found.all[n].word for n in number]


def test_transfers_take_no_less_than_their_bytes() -> None:
    """The bucket is full at the begin, so the first burst costs nothing."""
    for interface in _interfaces().all:
        memory, ports = interface.memory, interface.memory.ports
        for words in (1, 16, 300):
            moved = (words * interface.word - 256) * memory.bytes_denominator / memory.bytes_numerator
            assert interface.isolated_cycles("load", words) >= max(moved, words) + memory.read_latency + ports


def test_what_may_come_at_best_is_below_what_does() -> None:
    interfaces = _interfaces()
    for number, interface in enumerate(interfaces.all):
        rates = Rates(interfaces, number)
        for words in (1, 5, 16, 64, 300):
            size = words * interface.word
            best: Number = rates.come(size)
            assert best <= rates.latency + rates.moved(size, size // 256, 0) <= interface.isolated_cycles("load", words)
            assert interface.isolated_cycles("load", words) - best < 30 + (size // 256) * (interface.pace + 1)


def test_bytes_granted_and_the_cycles_for_them() -> None:
    rates = Rates(_interfaces(), np.array([0, 1, 2]))
    for size in (256, 1000, 12345):
        cycles = np.asarray(rates.granted(size))
        assert (np.asarray(rates.credit(cycles)) >= size - 256).all()
        assert (np.asarray(rates.credit(np.maximum(cycles - 1, 0))) <= max(0, size - 256)).all()


def test_the_first_loads_share_the_memory_with_the_first_fetch() -> None:
    interface = _interfaces([_BOARDS[1]]).all[0]
    word = interface.word
    alone = interface.prologue((False,), (40, 128 // word, 512 // word, 1, 1))
    assert alone >= interface.begin + interface.isolated_cycles("load", 40) - 1
    behind = interface.prologue((False, False), (40, 20, 128 // word, 512 // word, 1, 1))
    assert behind > alone
    more = interface.prologue((False, False), (40, 20, 128 // word, 512 // word, 6, 6))
    assert more >= behind


def test_slow_memories_begin_later() -> None:
    slow = replace(_BOARDS[0], memory=replace(_BOARDS[0].memory, read_latency=90))
    first, second = _interfaces([_BOARDS[0], slow]).all
    assert second.begin - first.begin == 90 - 7
