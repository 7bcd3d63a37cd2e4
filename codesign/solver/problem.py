"""A design problem: axes, named terms over them, limits, and objectives to minimise.

Every formula is given once, as an array expression. A search derives its bounds from the same
expressions: a term over few axes is tabulated and its extremes over a box are read off; a term over
more axes is evaluated at the extremes of its inputs in the directions that it declares.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.solver.space import check_axes

Array = NDArray[Any]
Inputs = Mapping[str, Array]
Formula = Callable[[Inputs], Any]
"""Values of a term from the values of its inputs, element by element, for shapes that broadcast."""


@dataclass(frozen=True)
class Term:
    """A named intermediate value.

    A declared direction is a promise about the formula as computed: an input that is at least as large
    everywhere never makes the result smaller (rising) or larger (falling). `check_directions` tests it.

    Attributes:
        name: name by which other terms refer to it.
        of: axes and earlier terms that the formula reads.
        formula: the expression.
        rising: inputs in which it never falls.
        falling: inputs in which it never rises.
        floor: an earlier term that is never above this one; bounds may use it.
        boxed: a lower bound of the term over boxes of axes, in whole numbers above zero. Its inputs are values of the
            axes in `single` and nodes of the others' `codesign.solver.interval_bounds.Tree`; at single points it is
            the term itself. Taken to be expensive, so computed only for boxes that nothing else cuts. Needs a floor.
        single: axes that must be single values for `boxed`.
    """

    name: str
    of: tuple[str, ...]
    formula: Formula
    rising: tuple[str, ...] = ()
    falling: tuple[str, ...] = ()
    floor: str | None = None
    boxed: Formula | None = None
    single: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        directed = [*self.rising, *self.falling]
        if self.boxed is not None and (self.floor is None or not set(self.single) <= set(self.of)):
            raise ValueError(f"term {self.name} of {self.of}, single {self.single}; legal: inputs, and a floor")
        if not self.of or len(set(directed)) < len(directed) or not set(directed) <= set(self.of):
            raise ValueError(
                f"term {self.name} of {self.of}, rising {self.rising}, falling {self.falling}; "
                "legal: at least one input, each with at most one direction"
            )


def monotone(name: str, of: tuple[str, ...], formula: Formula, *, falling: tuple[str, ...] = ()) -> Term:
    """A term that rises in every input, or falls in those named."""
    return Term(name, of, formula, tuple(i for i in of if i not in falling), falling)


def total(name: str, of: tuple[str, ...]) -> Term:
    """The sum of terms."""
    return Term(name, of, lambda x: sum(x[i] for i in of), of)


def peak(name: str, of: tuple[str, ...]) -> Term:
    """The largest of terms."""

    def formula(inputs: Inputs) -> Array:
        found = inputs[of[0]]
        for other in of[1:]:
            found = np.maximum(found, inputs[other])
        return found

    return Term(name, of, formula, of)


@dataclass(frozen=True)
class Evaluation:
    """Objectives and limits of some points, one per row.

    Attributes:
        values: objective vectors.
        excess: by how much each limit is exceeded; a point is feasible where nothing is above zero.
    """

    values: NDArray[np.float64]
    excess: NDArray[np.float64]

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """Whether each point meets every limit."""
        return np.asarray((self.excess <= 0).all(axis=1))


@dataclass(frozen=True)
class Problem:
    """A space of designs with limits and objectives.

    Attributes:
        axes: ascending values by parameter name.
        terms: every one after those it reads. Whole numbers must stay below 2^53.
        limits: largest allowed value by term.
        objectives: terms that are minimised.
    """

    axes: Mapping[str, tuple[int, ...]]
    terms: tuple[Term, ...]
    limits: Mapping[str, float]
    objectives: tuple[str, ...]
    by_name: Mapping[str, Term] = field(init=False, repr=False, compare=False)
    support: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    """The axes that an axis or a term depends on, in the problem's order."""

    def __post_init__(self) -> None:
        check_axes(self.axes)
        support: dict[str, tuple[str, ...]] = {name: (name,) for name in self.axes}
        for term in self.terms:
            known = {*term.of, *([term.floor] if term.floor else [])} <= set(support)
            if term.name in support or not known:
                raise ValueError(f"term {term.name} of {term.of}; legal: a new name, of axes and earlier terms")
            reached = {axis for i in term.of for axis in support[i]}
            support[term.name] = tuple(axis for axis in self.axes if axis in reached)
        if not self.objectives or not {*self.limits, *self.objectives} <= set(support):
            raise ValueError(f"objectives {self.objectives}, limits {[*self.limits]}; legal: at least one, all terms")
        object.__setattr__(self, "support", support)
        object.__setattr__(self, "by_name", {term.name: term for term in self.terms})
        if self.size >= 1 << 62:
            raise ValueError(f"{self.size} points; legal: below 2^62")

    @property
    def size(self) -> int:
        """Points of the space, feasible or not."""
        return prod(map(len, self.axes.values()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values per axis."""
        return tuple(map(len, self.axes.values()))

    def parameters(self, points: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """Values by axis of points given as positions on the axes, one per row."""
        columns = zip(self.axes.items(), points.T, strict=True)
        return {name: np.array(values, dtype=np.int64)[at] for (name, values), at in columns}

    def point(self, place: NDArray[np.int64]) -> dict[str, int]:
        """Values by axis of one point given as positions on the axes."""
        return {name: values[at] for (name, values), at in zip(self.axes.items(), place.tolist(), strict=True)}

    def compute(self, parameters: Inputs, names: Iterable[str]) -> dict[str, Array]:
        """Values of terms for parameter values, straight from the formulas.

        Args:
            parameters: arrays by axis, of shapes that broadcast.
            names: the terms or axes wanted.
        """
        found: dict[str, Array] = {name: np.asarray(values) for name, values in parameters.items()}
        wanted = set(names)
        needed = set(wanted)
        for term in reversed(self.terms):
            needed.update(term.of if term.name in needed else ())
        for term in self.terms:
            if term.name in needed:
                found[term.name] = np.asarray(term.formula({i: found[i] for i in term.of}))
        return {name: found[name] for name in wanted}

    def evaluate(self, points: NDArray[np.int64]) -> Evaluation:
        """Objectives and limits of points.

        Args:
            points: positions on the axes in their order, one point per row.
        """
        rows = len(points)
        found = self.compute(self.parameters(points), {*self.objectives, *self.limits})
        values = [np.broadcast_to(found[name], rows) for name in self.objectives]
        excess = [np.broadcast_to(found[name] - limit, rows) for name, limit in self.limits.items()]
        return Evaluation(_columns(values, rows), _columns(excess, rows))


def _columns(columns: list[Array], rows: int) -> NDArray[np.float64]:
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((rows, 0))


def check_directions(problem: Problem, *, seed: int = 0, pairs: int = 10_000) -> None:
    """Tests every declared direction and floor on random points.

    Each directed input of a term is set to the smaller and to the larger of its values at two points, the
    others staying as they are.

    Raises:
        CheckError: a term goes the other way, or lies below its floor; the message names it and the inputs.
    """
    random = np.random.default_rng(seed)
    here, there = (
        problem.parameters(np.stack([random.integers(0, n, pairs) for n in problem.shape], axis=1)) for _ in range(2)
    )
    names = [*problem.axes, *problem.by_name]
    a, b = ({n: np.broadcast_to(v, pairs) for n, v in problem.compute(p, names).items()} for p in (here, there))
    for term in problem.terms:
        for name in (*term.rising, *term.falling):
            _check_direction(term, name, a, b)
        if term.floor is not None:
            _check_none(a[term.floor] > a[term.name], f"term {term.name} lies below its floor {term.floor}", here)


def _check_direction(term: Term, name: str, a: Inputs, b: Inputs) -> None:
    low, high = ({**{i: a[i] for i in term.of}, name: pick(a[name], b[name])} for pick in (np.minimum, np.maximum))
    first, last = np.asarray(term.formula(low)), np.asarray(term.formula(high))
    wrong = ~(first <= last if name in term.rising else first >= last)
    word = "rising" if name in term.rising else "falling"
    _check_none(
        np.broadcast_to(wrong, a[name].shape), f"term {term.name} is not {word} in {name}", {**low, name: b[name]}
    )


def _check_none(wrong: NDArray[np.bool_], what: str, inputs: Inputs) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        raise CheckError(f"{what} at { {name: values[at].item() for name, values in inputs.items()} }")
