"""What the command line and the Python face do: one function per verb, same name, same options."""

from codesign import board
from codesign.doctor import Doctor, examine


def boards() -> tuple[board.Board, ...]:
    """Every board that ships, sorted by name.

    >>> [board.name for board in boards() if board.part.startswith("xczu9eg")]
    ['zcu102']
    """
    return tuple(board.Board.load(name) for name in board.boards())


def doctor() -> Doctor:
    """The tools of this machine: what is there, what is missing and how to get it."""
    return examine()
