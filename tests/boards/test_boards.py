"""Every board that ships: each figure has a public source or a stated assumption."""

import pytest

from codesign.board import Board, boards


@pytest.mark.parametrize("name", boards())
def test_a_board_is_called_as_its_file(name: str) -> None:
    assert Board.load(name).name == name


@pytest.mark.parametrize("name", boards())
def test_every_figure_is_sourced_or_assumed(name: str) -> None:
    board = Board.load(name)
    for key in board.figures():
        known = key in board.sources or key.partition(".")[0] in board.sources
        assert known or key in board.assumptions, key
    assert "part" in board.sources


@pytest.mark.parametrize("name", boards())
def test_the_clock_is_marked_as_assumed(name: str) -> None:
    assert "clock_hz" in Board.load(name).assumptions


@pytest.mark.parametrize("name", boards())
def test_the_ports_carry_the_bandwidth(name: str) -> None:
    memory = Board.load(name).memory
    per_cycle = memory.ports * memory.port_bits // 8
    assert memory.bytes_numerator <= per_cycle * memory.bytes_denominator


def test_zcu102() -> None:
    board = Board.load("zcu102")
    assert board.part == "xczu9eg-ffvb1156-2-e"
    assert (board.memory.bytes_numerator, board.memory.bytes_denominator) == (256, 5)
    assert board.figures() == {
        "clock_hz": 300_000_000,
        "resources.dsp": 2520,
        "resources.bram36": 912,
        "resources.uram": 0,
        "resources.lut": 274_080,
        "resources.ff": 548_160,
        "memory.ports": 4,
        "memory.port_bits": 128,
        "memory.bytes_per_second": 19_200_000_000 * 8 // 10,
        "memory.burst_bytes": 256,
        "memory.read_latency": 60,
        "memory.write_latency": 20,
        "memory.outstanding": 8,
    }
