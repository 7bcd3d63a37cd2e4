"""The designs for a network on a board as one problem: axes, limits, objectives, and the exact score.

The engines' parameters, the depths of the rings and the rows per command are searched together.
Resources are the kernels' own expressions; latency is bounded by `codesign.timing.bound.schedule` over all designs
at once and scored by `codesign.timing.cycles.exact` for those that may be on the front.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product, takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.program import Program, compile_network, program_traffic
from codesign.dse.energy_terms import ENERGY, EnergyTerms
from codesign.dse.engine_minima import EngineTables
from codesign.dse.planner import OWN, RESOURCES, DesignChoice, HardwareQueries, Planner, available
from codesign.errors import CheckError, InputError, NothingFits
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
from codesign.timing.bound.schedule import Bound
from codesign.timing.cycles import Timing, exact
from codesign.timing.energy import run_energy
from codesign.timing.jit import compiled_run
from codesign.timing.stalls import busy

OBJECTIVES = ("latency_us", ENERGY, *RESOURCES)
"""Objectives that a search may minimise; energy is modelled and needs a board with coefficients."""

NEAR = 1.02
"""Ratio to the best up to which designs count as equally good."""

_ARRAY_AXES = ("t_in", "t_out", "n_l", "row_group", "ports", "clock_hz")
_RINGS = ("ring_words", "table_words")
_LINEAR_AXES = ("t_in", "t_out", "n_l", *_RINGS)
_PARTS = ("free_cycles", "held_cycles")
"""Bounds of the cycles: for any rings, and for any engines other than the linear one."""
_T_IN, _T_OUT, _MOST_N_L = (4, 8, 16, 32), (8, 16, 32, 64), 32
_RING, _TABLE, _GROUPS = 64, 16, 8
"""Fewest words of the rings, and most row groups that a layer is cut into."""
_CELLS = 1 << 22
"""Most combinations that a term is tabulated for; more than the cycles' axes have."""
_FREE = 1 << 30


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
        self._variants = [(ports, clock) for ports in port_counts(board) for clock in clocks(board)]
        boards = [board.at(ports=ports, clock_hz=clock) for ports, clock in self._variants]
        self.bound = Bound(network, board, (_RING, _TABLE), boards)
        self._parts: dict[tuple[int, ...], Resources] = {}
        others = self.planner.axes
        self._engine_axes = {RING: _LINEAR_AXES, **{engine: tuple(axes) for engine, axes in others.items()}}
        self._boxed_axes = tuple(axis for axes in others.values() for axis in axes)
        self._padding = tuple(axis for engine in others for axis in command_kernel(engine).padding)
        lanes = [axis for engine in others for axis in command_kernel(engine).geometry if axis in self._boxed_axes]
        self._memory_axes = ("t_out", *lanes, "ports")
        self._time_axes = ("t_in", "t_out", "n_l", *self._boxed_axes, "row_group", "ports", "clock_hz")
        self._asked: dict[str, tuple[dict[str, Any], Resources]] = {}

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
        names = (*OWN, *self._boxed_axes)
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
        names = ("latency_us", ENERGY) if self._energetic else ("latency_us",)
        score = _Scorer(self, names).score(point) if self.planner.suits(design) else None
        if score is None:
            return None
        need = self.planner.cost(design)
        return {**dict(zip(names, score, strict=True)), **{name: float(getattr(need, name)) for name in RESOURCES}}

    @property
    def _energetic(self) -> bool:
        """Whether energy can be computed."""
        return self.board.energy is not None and self.tools.joules is not None

    # The problem.

    def problem(self, objectives: tuple[str, ...]) -> Problem:
        """The problem of this space, with lower bounds in place of latency and energy."""
        engines = list(self._engine_axes)
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
            scorer = _Scorer(self, timed)
            told = getattr(progress, "timed", None)
            refine = ExactScorer(
                timed, scorer.score, told=told, cheap_bound=scorer.cheap_bound, tight_bound=scorer.tight_bound,
                cached_score=scorer.cached_score, spare=_RINGS,
            )  # fmt: skip
        return search(self.problem(objectives), refine=refine, progress=progress, cells=_CELLS)

    def _of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.axes)

    def _word(self, ports: Any) -> Any:
        """Bytes of a bus word."""
        return np.asarray(ports) * (self.board.memory.port_bits // 8)

    def _variant(self, ports: Any, clock_hz: Any) -> Any:
        """Index of the memory variant with these ports at this clock."""
        at = np.searchsorted(np.array(port_counts(self.board)), ports)
        return at * len(clocks(self.board)) + np.searchsorted(np.array(clocks(self.board)), clock_hz)

    @cached_property
    def _engine_times(self) -> EngineTables:
        return EngineTables(self.network, self.planner.axes, self.tools.formulas)

    def _boxed_cycles(self, inputs: Inputs) -> NDArray[np.int64]:
        """Lower bound over boxes of attention and vector engines, for values of the other parameters.

        It holds for all rings if no ring words are given.
        """
        return _ascending(inputs, self._cycles_of)

    def _bounds(self, inputs: Inputs, begun: Mapping[tuple[int, int], NDArray[np.int64]], leaping: bool) -> Any:
        """A lower bound for fully specified designs, rings and known done cycles of first row groups included."""
        used: dict[str, Any] = self._engines(inputs)
        variant, formulas = self._variant(inputs["ports"], inputs["clock_hz"]), self.tools.formulas(used)
        return self.bound(used, formulas, inputs["row_group"], variant, begun=begun, leaping=leaping)

    def _engines(self, inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The given axis values, by engine."""
        found = {
            name: {axis: inputs[axis] for axis in axes if axis in inputs} for name, axes in self._engine_axes.items()
        }
        return {name: params for name, params in found.items() if params}

    def _cycles_of(self, inputs: Inputs) -> Any:
        arrays = {axis: inputs[axis] for axis in _LINEAR_AXES if axis in inputs}
        linear: dict[str, Any] = {"ring_words": _FREE, "table_words": _FREE, **arrays}
        word = self._word(inputs["ports"])
        nodes = {axis: inputs[axis] for axis in self._boxed_axes}
        boxed = self._engine_times.at(nodes, inputs["t_out"], word, inputs["row_group"])
        variant = self._variant(inputs["ports"], inputs["clock_hz"])
        formulas = self.tools.formulas({RING: linear})
        return self.bound({RING: linear}, formulas, inputs["row_group"], variant, boxed=boxed, leaping=True)

    def _least_cycles(self) -> Term:
        """Lower bound for any attention and vector engines, and any rings."""
        return Term("least_cycles", _ARRAY_AXES, _flat(_ARRAY_AXES, self._any_cycles))

    def _any_cycles(self, inputs: Inputs) -> NDArray[np.int64]:
        """Lower bound for any attention and vector engines."""
        roots = {axis: np.zeros_like(inputs["t_in"]) for axis in self._boxed_axes}
        return self._boxed_cycles({**inputs, **roots})

    def _once(self, inputs: Inputs, cycles: Callable[[Inputs], Any]) -> NDArray[np.int64]:
        """Evaluates a bound once for all designs that differ in spare table words alone; rows per command ascend."""
        most, arrays = self.axes["table_words"][-1], {axis: np.asarray(values) for axis, values in inputs.items()}
        tables, code = arrays["table_words"], np.zeros(len(arrays["t_in"]), np.int64)
        columns = {**arrays, "table_words": np.where(tables >= self._window(arrays), most, tables)}
        for axis in ("row_group", *(axis for axis in columns if axis != "row_group")):
            code = code * len(self.axes[axis]) + np.searchsorted(self.axes[axis], columns[axis])
        _, first, back = np.unique(code, return_index=True, return_inverse=True)
        found: NDArray[np.int64] = cycles({axis: values[first] for axis, values in columns.items()})[back]
        return found

    def _window(self, inputs: Inputs) -> Any:
        """Words of the table ring from which on it delays nothing; for any attention engine if none is given."""
        axes = tuple(axis for axis in ("t_out", *self._padding, "ports") if axis in inputs)
        open_axes = [axis for axis in self._padding if axis not in inputs]

        def window(point: Mapping[str, int]) -> int:
            word = self._word(point["ports"])
            choices = product(*(self.axes[axis] for axis in open_axes))
            points = ({"t_in": 1, **point, **dict(zip(open_axes, values, strict=True))} for values in choices)
            return max(int(self.bound.window(self._engines(each), word)) for each in points)

        return _each(inputs, axes, window)

    def _held_cycles(self) -> Term:
        """Lower bound for given rings and any attention and vector engines."""
        axes = (*_ARRAY_AXES, *_RINGS)
        formula = _flat(axes, lambda inputs: self._once(inputs, self._any_cycles))
        return Term("held_cycles", axes, formula, floor="least_cycles", boxed=formula, single=axes)

    def _free_cycles(self) -> Term:
        """Lower bound for given engines and any rings."""
        axes = self._of(self._time_axes)

        def leaves(inputs: Inputs) -> NDArray[np.int64]:
            found = {axis: self._engine_times.leaf(axis, inputs[axis]) for axis in self._boxed_axes}
            return self._boxed_cycles({**inputs, **found})

        single = tuple(axis for axis in axes if axis not in self._boxed_axes)
        formula = _flat(axes, leaves)
        return Term("free_cycles", axes, formula, floor="least_cycles", boxed=self._boxed_cycles, single=single)

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
        if not self._energetic:
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
            deepest = max(layer.k for layer in self.network if isinstance(layer, Linear))
            return (inputs["ring_words"] < ceil_div(deepest, inputs["t_in"])) * 1

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
            params: dict[str, Any] = {**fixed, **{axis: inputs[axis] for axis in self._engine_axes[engine]}}
            if engine == RING:
                params |= {"kw_max": inputs["kw_max"], "word_bytes": self._word(inputs["ports"])}
            else:
                params |= command_kernel(engine).follows(self.planner.others[engine], params)
            return value(params)

        more = ("ports", "kw_max") if engine == RING else ()
        return Term(name, (*self._engine_axes[engine], *more), formula)

    def _row_words(self) -> Term:
        """Term: words of the longest source row, heads padded for the ports of their memories."""
        axes = ("t_out", *self._padding, "ports")
        return Term(
            "kw_max", axes, lambda inputs: _each(inputs, axes, lambda point: self.design(point).linear["kw_max"])
        )

    def _rest(self, name: str) -> Term:
        """Term of memories and shell, per combination of the port widths."""
        axes = self._memory_axes
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


def _flat(axes: tuple[str, ...], formula: Callable[[Inputs], NDArray[np.int64]]) -> Callable[[Inputs], Any]:
    """Adapts a formula of flat arrays to arrays of any shapes."""

    def found(inputs: Inputs) -> Any:
        arrays = np.broadcast_arrays(*(np.asarray(inputs[axis]) for axis in axes))
        return formula({axis: array.ravel() for axis, array in zip(axes, arrays, strict=True)}).reshape(arrays[0].shape)

    return found


def _ascending(inputs: Inputs, cycles: Callable[[Inputs], Any]) -> NDArray[np.int64]:
    """Evaluates designs sorted by rows per command; returns the values in the caller's order."""
    arrays = {axis: np.asarray(inputs[axis]) for axis in inputs}
    order = np.argsort(arrays["row_group"], kind="stable")
    found = np.zeros(len(order), np.int64)
    found[order] = cycles({axis: values[order] for axis, values in arrays.items()})
    return found


def _each(inputs: Inputs, axes: tuple[str, ...], value: Callable[[Mapping[str, int]], int]) -> NDArray[np.int64]:
    """Evaluates a function once per distinct combination of some axes, as a broadcast array."""
    arrays = np.broadcast_arrays(*(np.asarray(inputs[axis]) for axis in axes))
    columns = [np.unique(array, return_inverse=True) for array in arrays]
    shape = tuple(len(values) for values, _ in columns)
    codes, at = np.unique(np.ravel_multi_index([index.ravel() for _, index in columns], shape), return_inverse=True)
    places = np.stack(np.unravel_index(codes, shape), axis=1).tolist()
    names = [values.tolist() for values, _ in columns]
    points = [{axis: each[i] for axis, each, i in zip(axes, names, place, strict=True)} for place in places]
    return np.array([value(point) for point in points], np.int64)[at].reshape(arrays[0].shape)


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
"""Goals of a build: the objective to be near the best in, and the one that then decides."""


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


_Need = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class _Run:
    """Cached result of a run.

    Attributes:
        rings: words of the weight ring and of the table ring of the design.
        need: ring words that the run needs; None where only the design's own number is sure to do.
        cycles: cycles of the run.
        spent: all else of the run that decides its energy; None if energy is not an objective.
        begun: row groups that end before the first attention or norm starts: indices of linear layer and of group,
            done cycle, and ring words needed until then.
    """

    rings: tuple[int, int]
    need: _Need
    cycles: int
    spent: "_Spent | None"
    begun: tuple[tuple[tuple[int, int], int, _Need], ...]

    def runs(self, rings: tuple[int, int], need: _Need) -> bool:
        """Whether a design with these rings runs like this one, given the needed ring words."""
        pairs = zip(rings, self.rings, need, strict=True)
        return all(ring == mine or (least is not None and ring >= least) for ring, mine, least in pairs)


class _Spent(NamedTuple):
    """The program of a run, its busy cycles by engine, and the off-chip bytes that it moves."""

    program: Program
    busy: Mapping[str, int]
    moved: int


class _Scorer:
    """Exact latencies in microseconds and energies in microjoules, and tight lower bounds of them.

    Runs are cached: designs often differ only in rings longer than needed, and then run alike. And what happens
    before the first attention or norm does not depend on the speed of these engines.
    """

    def __init__(self, space: DesignSpace, names: tuple[str, ...] = ("latency_us",)) -> None:
        self.space, self.names = space, names
        self._axes = [axis for axis in space.axes if axis not in (*_RINGS, *space._boxed_axes)]
        self._boxed = space._boxed_axes
        self._runs: dict[tuple[int, ...], list[tuple[tuple[int, ...], _Run]]] = {}
        self._begun: dict[tuple[int, ...], list[_Run]] = {}

    def score(self, point: Mapping[str, int]) -> tuple[float, ...] | None:
        """Exact objectives; None if the design is not legal or runs no program."""
        space, design = self.space, self.space.design(point)
        if not space.planner.legal(design):
            return None
        try:
            program = compile_network(space.network, design, bare=True)
            timing = exact(program, design, space.tools.formulas(design.engines), compiled=True)
        except (NothingFits, CheckError):
            return None
        spent = None
        if ENERGY in self.names:
            spent = _Spent(program, busy(timing.activities), sum(program_traffic(program, design.word_bytes)))
        rings = design.linear["ring_words"], design.linear["table_words"]
        run = _Run(rings, timing.rings, timing.total, spent, self._first(timing, design.row_group))
        key = self._key(point)
        self._runs.setdefault(self._engines(point), []).append((key, run))
        self._begun.setdefault(self._begin(key), []).append(run)
        return self._objectives(point, run)

    def cached_score(self, point: Mapping[str, int]) -> tuple[float, ...] | None:
        """Exact objectives if the design is known to run as one already scored, else None."""
        rings, known = (point["ring_words"], point["table_words"]), self._runs.get(self._engines(point), [])
        runs = [(key, run) for key, run in known if run.runs(rings, run.need)]
        mine = self._key(point) if runs else ()
        run = next((run for key, run in runs if key == mine), None)
        return None if run is None else self._objectives(point, run)

    def _objectives(self, point: Mapping[str, int], run: _Run) -> tuple[float, ...]:
        """Objectives of a design with this run; energy counts the design's own resources."""
        found = {"latency_us": run.cycles * 1e6 / point["clock_hz"]}
        tools = self.space.tools
        if run.spent is not None and tools.joules is not None:
            design, (program, work, moved) = self.space.design(point), run.spent
            parts, engines = tools.resources(design), tools.joules(design)
            energy = run_energy(
                program, design, cycles=run.cycles, busy=work, parts=parts, engines=engines, traffic_bytes=moved
            )
            found[ENERGY] = 1e6 * energy.total
        return tuple(found[name] for name in self.names)

    def _first(self, timing: Timing, row_group: int) -> tuple[tuple[tuple[int, int], int, _Need], ...]:
        """Row groups that end before the first attention or norm starts: see `_Run.begun`."""
        found = list[tuple[tuple[int, int], int, _Need]]()
        others = list(self.space.planner.others)
        first = list(takewhile(lambda name: name[0] not in others, timing.names))
        for number, layer in enumerate(takewhile(lambda layer: isinstance(layer, Linear), self.space.network)):
            commands = [index for index, name in enumerate(first) if name == (RING, layer.name)]
            for group, index in enumerate(commands[-ceil_div(layer.rows, row_group) :]):
                if index in timing.early:
                    found.append(((number, group), timing.stop[index], timing.early[index]))
        return tuple(found)

    def cheap_bound(self, points: Inputs) -> NDArray[np.float64]:
        """Lower bounds of the objectives of many designs, with delays by full rings."""
        return self._least(points, self._rough)

    def tight_bound(self, points: Inputs) -> NDArray[np.float64]:
        """Tighter, costlier bounds than `cheap_bound`."""
        return self._least(points, self._fine)

    def _least(self, points: Inputs, cycles: Callable[[Inputs], Any]) -> NDArray[np.float64]:
        least = _ascending(points, cycles)
        found = {"latency_us": least * 1e6 / points["clock_hz"]}
        if ENERGY in self.names:
            found[ENERGY] = self.space.least_energy(points, least)
        return np.stack([found[name] for name in self.names], axis=1)

    def _rough(self, points: Inputs) -> Any:
        """Lower bounds of the cycles of designs with ascending rows per command."""
        return self.space._once(points, lambda inputs: self.space._bounds(inputs, {}, leaping=True))

    def _fine(self, points: Inputs) -> Any:
        """Tighter bounds, with known cycles of the first row groups."""
        return self.space._bounds(points, self._known(points), leaping=False)

    def _known(self, points: Inputs) -> dict[tuple[int, int], NDArray[np.int64]]:
        """Done cycles of the first row groups: ``begun`` of `codesign.timing.bound.schedule.Bound`."""
        found: dict[tuple[int, int], NDArray[np.int64]] = {}
        rows, back = np.unique(self._begins(points), axis=0, return_inverse=True)
        for row, (*begin, ring, table) in enumerate(rows.tolist()):
            for place, cycle in self._known_prefix((*begin,), (ring, table)).items():
                found.setdefault(place, np.zeros(len(rows), np.int64))[row] = cycle
        return {place: cycles[back] for place, cycles in found.items()}

    def _known_prefix(self, begin: tuple[int, ...], rings: tuple[int, int]) -> dict[tuple[int, int], int]:
        """The known done cycles of one design."""
        runs = self._begun.get(begin, [])
        return {place: cycle for run in runs for place, cycle, need in run.begun if run.runs(rings, need)}

    def _engines(self, point: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(point[axis] for axis in (*self._axes, *self._boxed))

    def _key(self, point: Mapping[str, int]) -> tuple[int, ...]:
        """Key of a design's commands and durations, but for delays by full rings."""
        found: Any = self._decided(point, point["ports"] * self.space.board.memory.port_bits // 8, point["row_group"])
        return (*(point[axis] for axis in self._axes), *map(int, found), *(point[axis] for axis in self._boxed))

    def _begins(self, points: Inputs) -> NDArray[np.int64]:
        """Keys of the first row groups of designs as in `_begin`, with the ring words, one design per row."""
        count, word = len(points["clock_hz"]), self.space._word(points["ports"])
        found = self._decided(points, word, points["row_group"])
        columns = [*(points[axis] for axis in self._axes), *found, *(points[axis] for axis in _RINGS)]
        return np.stack([np.broadcast_to(each, count) for each in columns], axis=1)

    def _decided(self, point: Mapping[str, Any], word: Any, row_group: Any) -> list[Any]:
        bound, engines = self.space.bound, self.space._engines(point)
        return bound.cuts(engines, word, row_group) + bound.lengths(engines, word)

    def _begin(self, key: tuple[int, ...]) -> tuple[int, ...]:
        """The part of a key that decides what happens before the first attention or norm."""
        return key[: len(key) - len(self._boxed)]
