"""Arguments of a sweep: models, boards, clocks, budgets and restricted axes, checked before any work."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from codesign.dse.planner import RESOURCES, parameters, parse_budget
from codesign.errors import InputError
from codesign.flow.build import check_board
from codesign.ir.network import Network
from codesign.sweeps.grid import CLOCK, ThinnedSpace
from codesign.target.board import Board
from codesign.target.board_catalog import load_board

LIMIT = 1 << 18
"""Default maximum points per combination."""
SHARD_ROWS = 1 << 16
"""Maximum rows per shard."""
WHOLE = "all"
"""The budget that means the whole board."""

MEGA = 1e6
_MOST = 10**9
_NUMBERS = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")


def swept_parameters() -> tuple[str, ...]:
    """Parameters of all installed engines, in column order."""
    return tuple(name for name in parameters() if name != CLOCK)


@dataclass(frozen=True)
class SweepRequest:
    """Arguments of a sweep.

    Attributes:
        models: names, paths or ``gemm:MxKxN``.
        boards: names or paths.
        clocks_mhz: clocks; empty for the boards' own.
        budgets: ``dsp=N,...`` each, or `WHOLE`.
        limit: maximum points per combination.
        exact: whether the front of every combination is scored exactly.
        shard_rows: maximum rows per shard.
        axes: restrictions of a parameter to some values, as ``n_l=1,2,4``.
        folders: folders searched for user boards.
    """

    models: tuple[str, ...]
    boards: tuple[str, ...]
    clocks_mhz: tuple[float, ...] = ()
    budgets: tuple[str, ...] = (WHOLE,)
    limit: int = LIMIT
    exact: bool = False
    shard_rows: int = SHARD_ROWS
    axes: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        budgets = tuple(_canonical(text) for text in self.budgets) or (WHOLE,)
        object.__setattr__(self, "budgets", budgets)
        object.__setattr__(self, "axes", tuple(f"{n}={','.join(map(str, v))}" for n, v in self.keep.items()))
        _check_different("MODEL", self.models)
        _check_different("--board", self.boards)
        _check_different("--clock-mhz", [_clock(clock) for clock in self.clocks_mhz])
        _check_different("--budget", budgets)
        if not self.models or not self.boards or not all((*self.models, *self.boards)):
            raise InputError(f"models {self.models}, boards {self.boards}; legal: at least one of each, none empty")
        for flag, value in (("--limit", self.limit), ("rows of a shard", self.shard_rows)):
            if not 1 <= value <= _MOST:
                raise InputError(f"{flag} {value}; legal: 1 to {_MOST}")

    @cached_property
    def keep(self) -> dict[str, tuple[int, ...]]:
        """Allowed values by restricted parameter, ascending."""
        found: dict[str, tuple[int, ...]] = {}
        for text in self.axes:
            name, _, values = text.replace(" ", "").partition("=")
            legal = swept_parameters()
            if name not in legal or name in found or not _NUMBERS.fullmatch(values):
                raise InputError(f"--axis {text!r}; legal: PARAMETER=N,..., each once, of {', '.join(legal)}")
            found[name] = tuple(sorted({int(value) for value in values.split(",")}))
        return found

    def space(self, network: Network, board: Board, budget: Mapping[str, int] | None = None) -> ThinnedSpace:
        """The thinned design space of a model on a board."""
        return ThinnedSpace(network, board, self.limit, keep=self.keep, budget=budget)

    @cached_property
    def subjects(self) -> list[tuple[str, str, Board]]:
        """Each model on each board at each clock: the model and the board as given, and the board at the clock.

        Raises:
            InputError: a board or a clock that cannot be used.
        """
        return [(model, name, board) for model in self.models for name in self.boards for board in self._on(name)]

    def _on(self, board: str) -> list[Board]:
        """The board at each of the clocks."""
        found = load_board(board, self.folders)
        check_board(found, board)
        return [found.with_overrides([_clock(clock)]) for clock in self.clocks_mhz] or [found]


def _check_different(flag: str, values: Sequence[object]) -> None:
    twice = [value for at, value in enumerate(values) if value in values[:at]]
    if twice:
        raise InputError(f"{flag} {twice[0]} is given twice; legal: each once")


def _clock(clock_mhz: float) -> str:
    if not 0 < clock_mhz < MEGA:
        raise InputError(f"--clock-mhz {clock_mhz:g}; legal: above 0 and below 1000000")
    return f"clock_hz={round(clock_mhz * MEGA)}"


def _canonical(budget: str) -> str:
    """A budget in canonical form."""
    limits = {} if budget.strip() == WHOLE else parse_budget(budget)
    return ",".join(f"{name}={limits[name]}" for name in RESOURCES if name in limits) or WHOLE


def names(given: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Names from a sequence, or from one text with commas between.

    >>> names("zcu102, kv260")
    ('zcu102', 'kv260')
    """
    return tuple(item.strip() for item in str(given).split(",")) if isinstance(given, str | Path) else tuple(given)


def texts(given: str | Sequence[str]) -> tuple[str, ...]:
    """The given sequence, or a single text as one."""
    return (given,) if isinstance(given, str) else tuple(given)


def clocks(given: str | float | Sequence[float] | None) -> tuple[float, ...]:
    """Clocks in MHz from a number, from a sequence, or from a text with commas between.

    Raises:
        InputError: not a number.

    >>> clocks("200,312.5")
    (200.0, 312.5)
    """
    if given is None:
        return ()
    try:
        if isinstance(given, str):
            return tuple(float(item) for item in given.split(","))
        return (float(given),) if isinstance(given, int | float) else tuple(map(float, given))
    except (TypeError, ValueError) as error:
        raise InputError(f"--clock-mhz {given!r}; legal: numbers of MHz with commas between") from error
