"""Small random problems, and what enumerating them gives."""

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from codesign.solver.front import Front, Values, nondominated
from codesign.solver.interval_bounds import Tree
from codesign.solver.problem import Inputs, Problem, Term, monotone, peak, total

AXES = {"a": (1, 2, 3, 5, 8, 9, 11, 12, 16), "b": (1, 2, 4), "c": tuple(range(2, 24, 2)), "d": (7,), "e": (0, 1)}


def lookup(name: str, axes: tuple[str, ...], random: np.random.Generator) -> Term:
    """A term with no structure at all: random numbers by value."""
    table = random.integers(1, 30, [max(AXES[axis]) + 1 for axis in axes])
    return Term(name, axes, lambda x: table[tuple(np.asarray(x[axis]) for axis in axes)])


def random_problem(seed: int, objectives: int) -> Problem:
    """A small problem of random tables, joined by terms with directions."""
    random = np.random.default_rng(seed)
    terms = (
        lookup("ab", ("a", "b"), random),
        lookup("bc", ("b", "c"), random),
        lookup("ce", ("c", "e"), random),
        lookup("ad", ("a", "d"), random),
        monotone("rate", ("ab", "ce"), lambda x: 100 * x["ce"] // x["ab"], falling=("ab",)),
        peak("most", ("rate", "bc", "ad")),
        total("sum", ("ab", "bc", "ad")),
        Term("mixed", ("rate", "bc", "e"), lambda x: np.where(x["e"] > 0, x["rate"], x["bc"]) + x["bc"]),
    )
    limits = {"ce": 24.0, "sum": 60.0}
    return Problem(AXES, terms, limits, ("most", "sum", "ce", "mixed")[:objectives])


def all_points(problem: Problem) -> NDArray[np.int64]:
    return np.array(list(product(*map(range, problem.shape))))


def true_front(problem: Problem) -> Values:
    found = problem.evaluate(all_points(problem))
    values = found.values[found.feasible]
    return np.unique(values[nondominated(values)], axis=0)


def positions(problem: Problem, front: Front) -> NDArray[np.int64]:
    columns = [np.searchsorted(values, front.parameters[name]) for name, values in problem.axes.items()]
    return np.stack(columns, axis=1)


def lazy_problem(seed: int, asked: Callable[[int], None] = lambda count: None) -> Problem:
    """The small problem with a term of three axes that is bounded by boxes of the third; nothing reads the last."""
    base, random = random_problem(seed, 2), np.random.default_rng(seed)
    table = random.integers(1, 40, [len(AXES[axis]) for axis in "abc"]) + 3 * np.arange(len(AXES["c"]))[::-1]
    nodes = Tree(len(AXES["c"])).extend(table, 2, np.minimum)

    def at(x: Inputs, axis: str) -> NDArray[np.int64]:
        return np.searchsorted(AXES[axis], x[axis])

    def boxed(x: Inputs) -> NDArray[np.int64]:
        asked(x["c"].size)
        return np.asarray(nodes[at(x, "a"), at(x, "b"), x["c"]])

    least = Term("least", ("a", "b"), lambda x: table.min(axis=2)[at(x, "a"), at(x, "b")])
    cost = Term(
        "cost", ("a", "b", "c"), lambda x: table[at(x, "a"), at(x, "b"), at(x, "c")], floor="least", boxed=boxed,
        single=("a", "b"),
    )  # fmt: skip
    return Problem(AXES, (*base.terms, least, cost), base.limits, ("cost", "sum"))
