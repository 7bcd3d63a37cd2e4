"""Strategies of a search, one file each, found by name.

A file of this folder is a strategy if its name has no leading underscore; the file ``hill_climb.py`` has a `Strategy`
named ``hill-climb`` as its ``STRATEGY``. Other packages offer theirs through an entry point::

    [project.entry-points."codesign.strategies"]
    hill-climb = "mypackage.hill_climb:STRATEGY"

Nothing else names it: command line, benches and reports list the strategies available.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Protocol, runtime_checkable

from codesign.catalog import Catalog, offered, one_line, shipped
from codesign.errors import CodesignError, InputError, NothingFits
from codesign.solver.branch import Progress
from codesign.solver.exact import search as _search
from codesign.solver.front import Front
from codesign.solver.problem import Problem

GROUP = "codesign.strategies"
"""Entry points through which other packages offer strategies."""
DEFAULT = "exact"
"""Name of the default strategy."""
EVALUATIONS = 1000
"""Designs that a strategy without a proof evaluates by default; each is timed exactly."""

Score = Callable[[Mapping[str, int]], Mapping[str, float] | None]
"""Exact objectives of a design by name; None if it cannot be built."""


class Space(Protocol):
    """Designs to search, such as a `codesign.dse.design_space.DesignSpace`."""

    @property
    def evaluate(self) -> Score | None:
        """Function for the exact objectives; None if the terms are exact, not bounds, and every design can be built."""

    def problem(self, objectives: tuple[str, ...]) -> Problem:
        """Axes, limits and terms; a term of an expensive objective is a lower bound of it."""

    def search(self, objectives: tuple[str, ...], *, progress: Progress | None = None) -> Front:
        """The whole front with its proof."""


@runtime_checkable
class Strategy(Protocol):
    """One way to search a space."""

    @property
    def name(self) -> str:
        """Name for users: that of its file, with ``-`` for ``_``, or of its entry point."""

    def missing(self) -> str | None:
        """Missing packages and how to install them, in one line; None if it can run."""

    def search(
        self,
        space: Space,
        objectives: tuple[str, ...],
        *,
        evaluations: int,
        seed: int,
        progress: Progress | None,
    ) -> Front:
        """The best designs found; ``proof.exact`` of the front tells whether they are proven best.

        Args:
            space: the designs.
            objectives: names, all minimised.
            evaluations: most designs evaluated; a strategy that proves its front may ignore it.
            seed: of random numbers; the same arguments give the same front.
            progress: called with the designs settled, the designs in all, and the front's size.

        Raises:
            ToolError: a library is missing or fails.
        """


@dataclass(frozen=True)
class ProblemSpace:
    """A `Space` made of a problem.

    Attributes:
        whole: the problem.
        evaluate: as `Space.evaluate`.
    """

    whole: Problem
    evaluate: Score | None = None

    def problem(self, objectives: tuple[str, ...]) -> Problem:
        """The problem with these objectives."""
        return replace(self.whole, objectives=objectives)

    def search(self, objectives: tuple[str, ...], *, progress: Progress | None = None) -> Front:
        """The whole front of the terms, with its proof."""
        return _search(self.problem(objectives), progress=progress)


def catalog() -> Catalog[Strategy]:
    """Every strategy; each is imported on first use."""
    ours = shipped("strategy", __name__, __path__, _of_file)
    return Catalog("strategy", (*ours, *offered("strategy", GROUP, _checked)))


def names() -> tuple[str, ...]:
    """Names of all strategies, sorted.

    >>> DEFAULT in names()
    True
    """
    return catalog().names


def find(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        InputError: there is none, or two packages offer it.
        ToolError: it fails to import.
    """
    return catalog().load(name)


def searched(
    space: Space,
    strategy: str,
    objectives: tuple[str, ...],
    *,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Front:
    """The best designs of a space that a strategy finds; see `Strategy.search`.

    Raises:
        InputError: an unknown strategy, or one that raises anything but a `CodesignError`.
        NothingFits: no design that fits was found, without proof that there is none.
        ToolError: the strategy, or a library that it needs, is missing or fails.
    """
    chosen = find(strategy)
    try:
        found = chosen.search(space, objectives, evaluations=evaluations, seed=seed, progress=progress)
    except CodesignError:
        raise
    except Exception as error:
        raise InputError(f"strategy {strategy!r} failed: {one_line(error)}") from error
    if not len(found) and not found.proof.exact:
        more = f"in {evaluations} evaluations, which proves nothing; legal: a larger budget, or strategy {DEFAULT}"
        raise NothingFits(f"{strategy} met no design that fits {more}")
    return found


def _of_file(name: str, module: ModuleType) -> Strategy:
    return _checked(name, module.STRATEGY)


def _checked(name: str, found: object) -> Strategy:
    if isinstance(found, type) or not isinstance(found, Strategy) or found.name != name:
        raise TypeError(f"{found!r} is no strategy named {name}; legal: see codesign.dse.strategies.Strategy")
    return found
