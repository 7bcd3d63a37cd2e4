"""All designs for a network on a board as one problem: axes, limits, objectives, and the exact score.

The engines' parameters, the depths of the rings and the rows per command are searched together.
Resources are the kernels' own expressions; latency is bounded by `codesign.bound` over all designs
at once and scored by `codesign.cycles.exact` for those that may be on the front.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.board import Board
from codesign.bound import Bound
from codesign.branch import Progress
from codesign.cycles import exact
from codesign.design import Design
from codesign.errors import CheckError, NothingFits
from codesign.front import Front
from codesign.kernel import Params, Resources, ceil_div, powers_up_to
from codesign.network import Attention, Linear, Network, Norm
from codesign.partition import RESOURCES, Choice, Planner, Tools, available
from codesign.problem import Inputs, Problem, Term, monotone, total
from codesign.program import block_tiles, compile_network
from codesign.search import Refine, search

OBJECTIVES = ("latency_us", *RESOURCES)
"""What a search may minimise."""

_ENGINE_AXES = {
    "linear": ("t_in", "t_out", "n_l", "ring_words", "table_words"),
    "attention": ("t_a", "n_a"),
    "vector": ("t_v",),
}
_MEMORY_AXES = ("t_out", "t_a", "t_v")
NEAR = 1.02
"""Designs at most so much worse than the best count as equally good."""

_BEGIN_AXES = ("t_in", "t_out", "t_v", "row_group")
_TIME_AXES = ("t_in", "t_out", "n_l", "t_a", "n_a", "t_v", "row_group")
_T_IN, _T_OUT, _N_L = (4, 8, 16, 32), (8, 16, 32, 64), (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32)
_T_A, _N_A, _T_V = (4, 8, 16, 32), (2, 4, 6, 8, 10, 12, 14, 16, 24, 32), (1, 2, 4, 8, 16, 32)
_RING, _TABLE, _GROUPS = 64, 16, 8
"""Fewest words of the rings, and most row groups that a layer is cut into."""
_CELLS = 1 << 22
"""Combinations that are tabulated at once; more than the time's axes have."""
_FREE = 1 << 30


class DesignSpace:
    """The designs for a network on a board within a budget.

    Args:
        network: every layer must have a kernel.
        board: figures of the device and its memory.
        tools: the kernels and what the hardware says of a design.
        budget: limits by resource name below what the board has.
    """

    def __init__(
        self, network: Network, board: Board, tools: Tools, *, budget: Mapping[str, int] | None = None
    ) -> None:
        self.network, self.board, self.tools = network, board, tools
        self.limit = available(board, budget or {})
        self.planner = Planner(network, board, tools, self.limit)
        self.bound = Bound(network, board, (_RING, _TABLE))
        self._parts: dict[tuple[int, ...], Resources] = {}

    @cached_property
    def axes(self) -> dict[str, tuple[int, ...]]:
        """Values by parameter; those of engines that the network does not use are missing."""
        linears = [layer for layer in self.network if isinstance(layer, Linear)]
        rows = max(layer.rows for layer in self.network)
        tiles = sum(ceil_div(layer.k, _T_IN[0]) * ceil_div(layer.n, _T_OUT[0]) for layer in linears)
        columns = sum(ceil_div(layer.n, _T_OUT[0]) for layer in linears)
        found = {
            "t_in": _T_IN, "t_out": _T_OUT, "n_l": tuple(n for n in _N_L if n <= rows),
            "ring_words": powers_up_to(_RING, min(tiles, 1 << 16)),
            "table_words": powers_up_to(_TABLE, min(columns, 1 << 12)),
        }  # fmt: skip
        if any(isinstance(layer, Attention) for layer in self.network):
            found |= {"t_a": _T_A, "n_a": _N_A}
        if any(isinstance(layer, Norm) for layer in self.network):
            found |= {"t_v": _T_V}
        return {**found, "row_group": tuple(sorted({ceil_div(rows, n) for n in range(1, _GROUPS + 1)}))}

    # From a point to a design.

    def design(self, point: Mapping[str, int]) -> Design:
        """The design of a point, its memories sized for the network."""
        free: dict[str, Any] = {name: int(value) for name, value in point.items()}
        return self.planner.design(Choice(**free))

    def evaluate(self, point: Mapping[str, int]) -> dict[str, float] | None:
        """All of `OBJECTIVES` of a point, exact; None if it is not legal, does not fit or runs no program."""
        design = self.design(point)
        score = _Scorer(self).score(point) if self.planner.suits(design) else None
        if score is None:
            return None
        need = self.planner.cost(design)
        return {"latency_us": score[0], **{name: float(getattr(need, name)) for name in RESOURCES}}

    # The problem.

    def problem(self, objectives: tuple[str, ...]) -> Problem:
        """The space with its limits and with a bound in place of the latency."""
        engines = [engine for engine in _ENGINE_AXES if _ENGINE_AXES[engine][0] in self.axes]
        wrong = [self._untileable(), *(self._illegal(engine) for engine in engines)]
        terms = [self._cycles(), self._latency(), self._row_words(), *wrong]
        for name in RESOURCES:
            parts = [self._resource(engine, name) for engine in engines]
            terms += [*parts, self._rest(name), total(name, (*(part.name for part in parts), f"rest_{name}"))]
        limits = {name: float(getattr(self.limit, name)) for name in RESOURCES} | {term.name: 0.0 for term in wrong}
        return Problem(self.axes, tuple(terms), limits, objectives)

    def search(self, objectives: tuple[str, ...] = ("latency_us", "dsp"), *, progress: Progress | None = None) -> Front:
        """All designs of which none is better in every objective, with the proof.

        Args:
            objectives: two or three of `OBJECTIVES`.
            progress: told how far it is.
        """
        refine = None
        if "latency_us" in objectives:
            scorer = _Scorer(self)
            refine = Refine(("latency_us",), scorer.score, scorer.tighten)
        return search(self.problem(objectives), refine=refine, progress=progress, cells=_CELLS)

    def _of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.axes)

    def _engines(self, inputs: Inputs, depths: bool) -> dict[str, dict[str, Any]]:
        """Parameters of the engines; the rings without end unless their depths are wanted."""
        free = {"ring_words": _FREE, "table_words": _FREE} if not depths else {}
        word = {"word_bytes": self.bound.word}
        return {
            engine: {**free, **{name: inputs[name] for name in self._of(names) if name in inputs}, **word}
            for engine, names in _ENGINE_AXES.items()
            if names[0] in self.axes
        }

    def _cycles(self) -> Term:
        """A lower bound."""

        def formula(inputs: Inputs) -> NDArray[np.int64]:
            groups = np.asarray(inputs["row_group"])
            engines = self._engines(inputs, depths=False)
            formulas = self.tools.formulas(engines)
            shape = np.broadcast_shapes(*(np.shape(value) for value in inputs.values()))
            found = np.empty(shape, np.int64)
            for size in np.unique(groups):
                cycles = np.broadcast_to(self.bound(engines, formulas, int(size)), shape)
                np.copyto(found, cycles, where=np.broadcast_to(groups == size, shape))
            return found

        return Term("cycles", self._of(_TIME_AXES), formula)

    def _latency(self) -> Term:
        megahertz = self.board.clock_hz / 1e6
        return monotone("latency_us", ("cycles",), lambda inputs: inputs["cycles"] / megahertz)

    def _untileable(self) -> Term:
        """1 where the weights of the longest tile do not fit the ring."""

        def formula(inputs: Inputs) -> Any:
            deepest = max(layer.k for layer in self.network if isinstance(layer, Linear))
            return (inputs["ring_words"] < ceil_div(deepest, inputs["t_in"])) * 1

        return Term("illegal", ("t_in", "ring_words"), formula)

    def _resource(self, engine: str, name: str) -> Term:
        kernel = self.tools.kernels[engine]
        return self._engine_term(f"{engine}_{name}", engine, lambda params: getattr(kernel.resources(params), name))

    def _illegal(self, engine: str) -> Term:
        """1 where the kernel does not take its parameters."""
        kernel = self.tools.kernels[engine]
        return self._engine_term(f"illegal_{engine}", engine, lambda params: 1 - np.asarray(kernel.legal(params)) * 1)

    def _engine_term(self, name: str, engine: str, value: Callable[[Params], Any]) -> Term:
        """What an engine says of all its parameters; those that are no axes follow from the network."""
        fixed = self.planner.design(Choice()).engines[engine]

        def formula(inputs: Inputs) -> Any:
            params = {**fixed, **self._engines(inputs, depths=True)[engine]}
            if engine == "linear":
                params["kw_max"] = inputs["kw_max"]
            if engine == "attention":
                widest = max(layer.head_dim for layer in self.network if isinstance(layer, Attention))
                params["db_max"] = ceil_div(widest, params["t_a"])
            return value(params)

        longest = ("kw_max",) if engine == "linear" else ()
        return Term(name, (*self._of(_ENGINE_AXES[engine]), *longest), formula)

    def _row_words(self) -> Term:
        """Words of the longest source row, heads padded for the ports of their memories."""
        axes = self._of(("t_out", "t_a"))
        return Term(
            "kw_max", axes, lambda inputs: _each(inputs, axes, lambda point: self.design(point).linear["kw_max"])
        )

    def _rest(self, name: str) -> Term:
        """Memories and shell, per combination of the ports' widths."""
        axes = self._of(_MEMORY_AXES)
        return Term(
            f"rest_{name}",
            axes,
            lambda inputs: _each(inputs, axes, lambda point: int(getattr(self._around(point), name))),
        )

    def _around(self, widths: Mapping[str, int]) -> Resources:
        key = tuple(widths.values())
        if key not in self._parts:
            parts = self.tools.resources(self.design(widths))
            self._parts[key] = parts["memories"] + parts["shell"]
        return self._parts[key]


def _each(inputs: Inputs, axes: tuple[str, ...], value: Callable[[Mapping[str, int]], int]) -> NDArray[np.int64]:
    """A value of every combination of some axes, asked for one by one."""
    arrays = np.broadcast_arrays(*(np.asarray(inputs[axis]) for axis in axes))
    points = zip(*(array.ravel().tolist() for array in arrays), strict=True)
    found = [value(dict(zip(axes, point, strict=True))) for point in points]
    return np.array(found, np.int64).reshape(arrays[0].shape)


CHOICES = {"latency": ("latency_us", "dsp"), "area": ("dsp", "latency_us")}
"""What a build may ask for: what must be near the best, and what then decides."""


def choose(front: Front, objective: str) -> int:
    """Position of the design of a front that is best in the second of `CHOICES` among those near the best in the first.

    Raises:
        NothingFits: the front is empty.
    """
    if not len(front):
        raise NothingFits("no design of the space fits; a budget, or the board, is too small")
    first, second = (front.values[:, front.objectives.index(name)] for name in CHOICES[objective])
    near = np.flatnonzero(first <= NEAR * first.min())
    return int(near[np.argmin(second[near])])


class _Scorer:
    """Exact latencies in microseconds, and bounds that get near to them.

    Programs of the same commands begin with the same loads, whatever the engines do with them; so from
    the first such program on their end is known, and the bound of the others is near to exact.
    """

    def __init__(self, space: DesignSpace) -> None:
        self.space, self.megahertz = space, space.board.clock_hz / 1e6
        self._loads: dict[tuple[int, ...], list[int]] = {}
        self._floors: dict[tuple[tuple[int, ...], ...], int] = {}

    def score(self, point: Mapping[str, int]) -> tuple[float] | None:
        """The latency; None if no program runs on the design."""
        space, design = self.space, self.space.design(point)
        try:
            program = compile_network(space.network, design)
            timing = exact(program, design, space.tools.times(design))
        except (NothingFits, CheckError):
            return None
        loads = [activity.stop for activity in timing.activities if activity.engine == "load"]
        self._loads.setdefault(self._begin(point, design), loads)
        return (timing.total / self.megahertz,)

    def tighten(self, point: Mapping[str, int]) -> tuple[float] | None:
        """A bound of the latency; None if the design is not legal."""
        space, design = self.space, self.space.design(point)
        if not space.planner.legal(design):
            return None
        loads = self._loads.get(self._begin(point, design), [])
        engines = tuple(point[name] for name in _TIME_AXES if name in point)
        key = engines, self._cut(design), tuple(loads)
        if key not in self._floors:
            formulas = space.tools.formulas(design.engines)
            self._floors[key] = int(space.bound(design.engines, formulas, design.row_group, loads))
        return (self._floors[key] / self.megahertz,)

    def _begin(self, point: Mapping[str, int], design: Design) -> tuple[int, ...]:
        """All that the begin of a program depends on."""
        return (*(point[name] for name in _BEGIN_AXES if name in point), *self._cut(design))

    def _cut(self, design: Design) -> tuple[int, ...]:
        """Tiles per command of every linear layer."""
        p = design.linear
        columns = self.space.planner.columns(design)
        sizes = [(layer.rows, ceil_div(k, p["t_in"]), ceil_div(n, p["t_out"])) for layer, k, n in columns]
        return tuple(int(block_tiles(rows, ib, ob, p)) for rows, ib, ob in sizes)
