from fractions import Fraction

import pytest

from codesign.target.board import Board
from codesign.target.board_figures import Figure


def test_bytes_per_cycle_follow_the_clock() -> None:
    board = Board.load("zcu102").with_overrides(["clock_hz=200e6"])
    ratio = Fraction(board.memory.bytes_numerator, board.memory.bytes_denominator)
    assert ratio == Fraction(15_360_000_000, 200_000_000)
    assert (board.memory.bytes_numerator, board.memory.bytes_denominator) == (384, 5)


@pytest.mark.parametrize("value", [3, 64, True, 8.0, "8"])
def test_a_figure_refuses_what_is_not_legal(value: object) -> None:
    figure = Figure("bits", "width", 4, 32, power_of_two=True)
    figure.check("width", 8)
    with pytest.raises(ValueError, match=r"width is .*; legal: a power of two from 4 to 32"):
        figure.check("width", value)
