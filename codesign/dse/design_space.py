"""The designs for a network on a board as one problem: axes, limits, objectives, and the exact score.

The engines' parameters, the depths of the rings and the rows per command are searched together.
Resources are the kernels' own expressions; latency is bounded by `codesign.dse.cycle_bounds` over all designs at once
and scored by `codesign.dse.scorer` for those that may be on the front.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.dse.cycle_bounds import RINGS, CycleBounds, flat, per_combination
from codesign.dse.energy_terms import ENERGY, EnergyTerms
from codesign.dse.planner import OWN, RESOURCES, DesignChoice, HardwareQueries, Planner, available
from codesign.dse.scorer import DesignScorer
from codesign.errors import InputError, NothingFits
from codesign.ir.network import Linear, Network
from codesign.solver.branch import Progress
from codesign.solver.exact import search
from codesign.solver.front import Front
from codesign.solver.problem import Inputs, Problem, Term, monotone, peak, total
from codesign.solver.scoring import ExactScorer
from codesign.target.board import Board, clocks, port_counts
from codesign.target.design import Design
from codesign.target.engines import RING, command_kernel
from codesign.target.kernel import Params, Resources, ceil_div, powers_up_to
from codesign.timing.jit import compiled_run

OBJECTIVES = ("latency_us", ENERGY, *RESOURCES)
"""Objectives that a search may minimise; energy is modelled and needs a board with coefficients."""

_ARRAY_AXES = ("t_in", "t_out", "n_l", "row_group", "ports", "clock_hz")
_PARTS = ("free_cycles", "held_cycles")
"""Bounds of the cycles: for any rings, and for any engines other than the linear one."""
_T_IN, _T_OUT, _MOST_N_L = (4, 8, 16, 32), (8, 16, 32, 64), 32
_RING, _TABLE, _GROUPS = 64, 16, 8
"""Fewest words of the rings, and most row groups that a layer is cut into."""
_CELLS = 1 << 22
"""Most combinations that a term is tabulated for; more than the cycles' axes have."""


class DesignSpace:
    """The designs for a network on a board within a budget.

    Args:
        network: every layer must have a kernel.
        board: figures of the device and its memory.
        tools: the kernels and the hardware's figures of a design.
        budget: limits by resource name below what the board has.
    """

    def __init__(
        self, network: Network, board: Board, tools: HardwareQueries, *, budget: Mapping[str, int] | None = None
    ) -> None:
        self.network, self.board, self.tools = network, board, tools
        self.limit = available(board, budget or {})
        self.planner = Planner(network, board, tools, self.limit)
        self._parts: dict[tuple[int, ...], Resources] = {}
        self._asked: dict[str, tuple[dict[str, Any], Resources]] = {}

    @cached_property
    def bounds(self) -> CycleBounds:
        """Lower bounds of the cycles of the designs."""
        return CycleBounds(self.network, self.board, self.tools, self.axes, self.planner.axes)

    @cached_property
    def axes(self) -> dict[str, tuple[int, ...]]:
        """Values by parameter, without those of engines that the network does not use."""
        linears = [layer for layer in self.network if isinstance(layer, Linear)]
        rows = max(layer.rows for layer in self.network)
        groups = tuple(sorted({ceil_div(rows, n) for n in range(1, _GROUPS + 1)}))
        tiles = sum(ceil_div(layer.k, _T_IN[0]) * ceil_div(layer.n, _T_OUT[0]) for layer in linears)
        columns = sum(ceil_div(layer.n, _T_OUT[0]) for layer in linears)
        found = {
            "t_in": _T_IN, "t_out": _T_OUT, "n_l": self._passes(linears, groups),
            "ring_words": powers_up_to(_RING, min(tiles, 1 << 16)),
            "table_words": powers_up_to(_TABLE, min(columns, 1 << 12)),
        }  # fmt: skip
        for axes in self.planner.axes.values():
            found |= axes
        return {**found, "row_group": groups, "ports": port_counts(self.board), "clock_hz": clocks(self.board)}

    @staticmethod
    def _passes(layers: list[Linear], groups: tuple[int, ...]) -> tuple[int, ...]:
        """Values of ``n_l``: the fewest rows per pass for each number of passes of a command; more would only idle."""
        ends = {layer.rows % size for layer in layers for size in groups}
        whole = {min(layer.rows, size) for layer in layers for size in groups}
        found = {ceil_div(rows, passes) for rows in {*ends, *whole} for passes in range(1, rows + 1)}
        return tuple(sorted(n for n in found if n <= _MOST_N_L))

    # From a point to a design.

    def design(self, point: Mapping[str, int]) -> Design:
        """The design of a point, its memories sized for the network."""
        return self.planner.design(DesignChoice.of(point))

    def named(self, point: Mapping[str, int]) -> Design:
        """The design with these parameters; the others are the defaults of `codesign.dse.planner.DesignChoice`.

        Raises:
            InputError: an unknown parameter, or a value that no design has.
            NothingFits: the design is not legal, or exceeds the limit.
        """
        names = (*OWN, *self.bounds.others)
        wrong = [name for name in point if name not in names]
        if wrong:
            raise InputError(f"design: no parameter {wrong[0]}; legal: {', '.join(names)}")
        if min(point.values(), default=1) < 1:
            raise InputError(f"design {dict(point)}; legal: whole numbers from 1")
        try:
            choice = DesignChoice.of(point)
            design = self.planner.design(choice)
        except ValueError as error:
            raise InputError(f"design: {error}") from error
        if not self.planner.suits(design):
            raise NothingFits(self.planner.verdict(choice))
        return design

    def evaluate(self, point: Mapping[str, int]) -> dict[str, float] | None:
        """All of `OBJECTIVES` of a point, exact; None if it is not legal, does not fit or runs no program."""
        design = self.design(point)
        names = ("latency_us", ENERGY) if self._has_energy else ("latency_us",)
        score = (
            DesignScorer(self.planner, self.bounds, self.least_energy, names).score(point)
            if self.planner.suits(design)
            else None
        )
        if score is None:
            return None
        need = self.planner.cost(design)
        return {**dict(zip(names, score, strict=True)), **{name: float(getattr(need, name)) for name in RESOURCES}}

    def least(self) -> dict[str, int]:
        """Least of each resource that a legal design needs, each alone and whatever the limits; empty if none is legal.

        A front of a resource alone is proven like any other.
        """
        problem = self.problem(("dsp",))
        legal = {name: most for name, most in problem.limits.items() if name not in RESOURCES}
        fronts = {name: search(replace(problem, limits=legal, objectives=(name,))) for name in RESOURCES}
        return {name: int(front.values[0, 0]) for name, front in fronts.items() if len(front)}

    def refusal(self) -> NothingFits:
        """The error that says why no design fits, with the proven least of each resource that binds."""
        name, least = self.network.name, self.least()
        if not least:
            return NothingFits(f"{name}: no design is legal")
        limit = {resource: int(getattr(self.limit, resource)) for resource in RESOURCES}
        binding = [resource for resource in RESOURCES if least[resource] > limit[resource]]
        if binding:
            reasons = (
                f"{each} binds: every design needs at least {least[each]}, there are {limit[each]}" for each in binding
            )
            return NothingFits(f"{name}: no design fits; {'; '.join(reasons)}")
        alone = ", ".join(f"{each} {least[each]} of {limit[each]}" for each in RESOURCES if least[each])
        return NothingFits(f"{name}: no design fits all limits together; the least of each alone: {alone}")

    def scorer(self, names: tuple[str, ...] = ("latency_us",)) -> DesignScorer:
        """An empty cache of exact scores of designs, by latency, energy or both."""
        return DesignScorer(self.planner, self.bounds, self.least_energy, names)

    @property
    def _has_energy(self) -> bool:
        """Whether energy can be computed."""
        return self.board.energy is not None and self.tools.joules is not None

    # The problem.

    def problem(self, objectives: tuple[str, ...]) -> Problem:
        """The problem of this space, with lower bounds in place of latency and energy."""
        engines = list(self.bounds.engine_axes)
        wrong = [self._untileable(), *(self._illegal(engine) for engine in engines)]
        cycles = [self._least_cycles(), self._free_cycles(), self._held_cycles(), peak("cycles", _PARTS)]
        terms = [*cycles, self._latency(), self._row_words(), *wrong]
        for name in RESOURCES:
            parts = [self._resource(engine, name) for engine in engines]
            terms += [*parts, self._rest(name), total(name, (*(part.name for part in parts), f"rest_{name}"))]
        terms += self._energy if ENERGY in objectives else []
        limits = {name: float(getattr(self.limit, name)) for name in RESOURCES} | {term.name: 0.0 for term in wrong}
        return Problem(self.axes, tuple(terms), limits, objectives)

    def search(self, objectives: tuple[str, ...] = ("latency_us", "dsp"), *, progress: Progress | None = None) -> Front:
        """The front of all non-dominated designs, with the proof.

        Args:
            objectives: two or three of `OBJECTIVES`.
            progress: called with the points settled; its method ``timed``, if any, with the number of designs timed.
        """
        refine, timed = None, tuple(name for name in objectives if name in ("latency_us", ENERGY))
        if timed:
            compiled_run()  # the bounds run the cycle model too
            scorer = self.scorer(timed)
            told = getattr(progress, "timed", None)
            refine = ExactScorer(
                timed, scorer.score, told=told, cheap_bound=scorer.cheap_bound, tight_bound=scorer.tight_bound,
                cached_score=scorer.cached_score, spare=RINGS,
            )  # fmt: skip
        return search(self.problem(objectives), refine=refine, progress=progress, cells=_CELLS)

    def _least_cycles(self) -> Term:
        """Lower bound for any other engines, and any rings."""
        return Term("least_cycles", _ARRAY_AXES, flat(_ARRAY_AXES, self.bounds.of_any_engines))

    def _held_cycles(self) -> Term:
        """Lower bound for given rings and any other engines."""
        axes = (*_ARRAY_AXES, *RINGS)
        formula = flat(axes, lambda inputs: self.bounds.once(inputs, self.bounds.of_any_engines))
        return Term("held_cycles", axes, formula, floor="least_cycles", boxed=formula, single=axes)

    def _free_cycles(self) -> Term:
        """Lower bound for given engines and any rings."""
        axes = ("t_in", "t_out", "n_l", *self.bounds.others, "row_group", "ports", "clock_hz")
        formula = flat(axes, self.bounds.of_any_rings)
        return Term("free_cycles", axes, formula, floor="least_cycles", boxed=self.bounds.of_boxes, single=_ARRAY_AXES)

    def _latency(self) -> Term:
        return monotone(
            "latency_us", ("cycles", "clock_hz"), lambda x: x["cycles"] * 1e6 / x["clock_hz"], falling=("clock_hz",)
        )

    @cached_property
    def _energy(self) -> list[Term]:
        """Terms of the energy's lower bound; their tables are shared by all problems.

        Raises:
            InputError: the board has no coefficients.
        """
        if not self._has_energy:
            raise InputError(f"{ENERGY} on board {self.board.name}: no table [energy]; legal: a board file with one")
        fixed = self.planner.design(DesignChoice()).engines
        return EnergyTerms(self.network, self.board, self.tools.kernels, fixed, self.axes).terms()

    @cached_property
    def _energies(self) -> Problem:
        return self.problem((ENERGY,))

    def least_energy(self, points: Inputs, cycles: NDArray[np.int64]) -> Any:
        """A lower bound of the energy in microjoules of designs that take at least ``cycles`` cycles."""
        term = self._energies.by_name[ENERGY]
        known = self._energies.compute(points, [name for name in term.of if name != "cycles"])
        return term.formula({**known, "cycles": cycles})

    def _untileable(self) -> Term:
        """Term: 1 where the longest tile's weights do not fit the ring."""

        def formula(inputs: Inputs) -> Any:
            most_inputs = max(layer.k for layer in self.network if isinstance(layer, Linear))
            return (inputs["ring_words"] < ceil_div(most_inputs, inputs["t_in"])) * 1

        return Term("illegal", ("t_in", "ring_words"), formula)

    def _resource(self, engine: str, name: str) -> Term:
        return self._engine_term(f"{engine}_{name}", engine, lambda params: getattr(self._needs(engine, params), name))

    def _needs(self, engine: str, params: Params) -> Resources:
        """All resources of an engine; the last result is cached, as one term per resource asks for it."""
        asked, found = self._asked.get(engine, ({}, Resources()))
        if [*asked] != [*params] or not all(np.array_equal(asked[name], value) for name, value in params.items()):
            found = self.tools.kernels[engine].resources(params)
            self._asked[engine] = {name: np.copy(value) for name, value in params.items()}, found
        return found

    def _illegal(self, engine: str) -> Term:
        """Term: 1 where the kernel rejects its parameters."""
        kernel = self.tools.kernels[engine]
        return self._engine_term(f"illegal_{engine}", engine, lambda params: 1 - np.asarray(kernel.legal(params)) * 1)

    def _engine_term(self, name: str, engine: str, value: Callable[[Params], Any]) -> Term:
        """A term of all parameters of an engine; those that are no axes follow from the network."""
        fixed = self.planner.design(DesignChoice()).engines[engine]

        def formula(inputs: Inputs) -> Any:
            params: dict[str, Any] = {**fixed, **{axis: inputs[axis] for axis in self.bounds.engine_axes[engine]}}
            if engine == RING:
                params |= {"kw_max": inputs["kw_max"], "word_bytes": self.bounds.word(inputs["ports"])}
            else:
                params |= command_kernel(engine).follows(self.planner.others[engine], params)
            return value(params)

        more = ("ports", "kw_max") if engine == RING else ()
        return Term(name, (*self.bounds.engine_axes[engine], *more), formula)

    def _row_words(self) -> Term:
        """Term: words of the longest source row, heads padded for the ports of their memories."""
        axes = ("t_out", *self.bounds.padding, "ports")
        return Term(
            "kw_max",
            axes,
            lambda inputs: per_combination(inputs, axes, lambda point: self.design(point).linear["kw_max"]),
        )

    def _rest(self, name: str) -> Term:
        """Term of memories and shell, per combination of the port widths."""
        others = self.bounds.others
        lanes = [axis for engine in self.planner.axes for axis in command_kernel(engine).geometry if axis in others]
        axes = ("t_out", *lanes, "ports")
        return Term(
            f"rest_{name}",
            axes,
            lambda inputs: per_combination(inputs, axes, lambda point: int(getattr(self._around(point), name))),
        )

    def _around(self, widths: Mapping[str, int]) -> Resources:
        key = tuple(widths.values())
        if key not in self._parts:
            parts = self.tools.resources(self.design(widths))
            self._parts[key] = parts["memories"] + parts["shell"]
        return self._parts[key]


def parse_design(text: str | None) -> dict[str, int] | None:
    """Parameters by name, from ``t_in=16,t_out=32,...``; None for None.

    Raises:
        InputError: another form, or a parameter twice.

    >>> parse_design("t_in=16,n_l=3")
    {'t_in': 16, 'n_l': 3}
    """
    found: dict[str, int] = {}
    for item in text.split(",") if text is not None else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or name in found or not (value.isascii() and value.isdecimal()):
            raise InputError(f"--design {item!r}; legal: PARAMETER=N with commas between, each once")
        found[name] = int(value[:18])
    return None if text is None else found


CHOICES = {"latency": ("latency_us", "dsp"), "area": ("dsp", "latency_us"), "energy": (ENERGY, "latency_us")}
"""Goals of a build: the objective to be best in, and the one that decides among equals."""


def choose(front: Front, objective: str, within: float = 0.0) -> int:
    """Position of the design of a front that is best for one of `CHOICES`.

    Args:
        front: designs, at least one.
        objective: the goal.
        within: share by which a design may miss the best and still count as equal to it, 0.02 for 2 %.
    """
    first, second = (front.values[:, front.objectives.index(name)] for name in CHOICES[objective])
    near = np.flatnonzero(first <= (1 + within) * first.min())
    return int(near[np.argmin(second[near])])
