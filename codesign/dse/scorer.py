"""Exact scores of designs, cached by how they run, and tight lower bounds of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.program import Program, compile_network, program_traffic
from codesign.dse.cycle_bounds import RINGS, CycleBounds, Cycles, ascending
from codesign.dse.energy_terms import ENERGY
from codesign.dse.planner import DesignChoice, Planner
from codesign.errors import CheckError, NothingFits
from codesign.ir.network import Linear
from codesign.solver.problem import Inputs
from codesign.target.engines import RING
from codesign.target.kernel import ceil_div
from codesign.timing.cycles import Timing, exact
from codesign.timing.energy import run_energy
from codesign.timing.stalls import busy

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


class DesignScorer:
    """Exact latencies in microseconds and energies in microjoules, and tight lower bounds of them.

    Runs are cached: designs often differ only in rings longer than needed, and then run alike. And what happens
    before the first attention or norm does not depend on the speed of these engines.

    Args:
        planner: makes and judges the designs.
        bounds: lower bounds of their cycles.
        least_energy: lower bound of the energy in microjoules of designs that take at least so many cycles.
        names: objectives to score, of ``latency_us`` and `codesign.dse.energy_terms.ENERGY`.
    """

    def __init__(
        self,
        planner: Planner,
        bounds: CycleBounds,
        least_energy: Callable[[Inputs, Cycles], Any],
        names: tuple[str, ...] = ("latency_us",),
    ) -> None:
        self.planner, self.bounds, self.least_energy, self.names = planner, bounds, least_energy, names
        self._axes = [axis for axis in bounds.axes if axis not in (*RINGS, *bounds.others)]
        self._runs: dict[tuple[int, ...], list[tuple[tuple[int, ...], _Run]]] = {}
        self._begun: dict[tuple[int, ...], list[_Run]] = {}

    def score(self, point: Mapping[str, int]) -> tuple[float, ...] | None:
        """Exact objectives; None if the design is not legal or runs no program."""
        planner, design = self.planner, self.planner.design(DesignChoice.of(point))
        if not planner.legal(design):
            return None
        try:
            program = compile_network(planner.network, design, bare=True)
            timing = exact(program, design, planner.tools.formulas(design.engines), compiled=True)
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
        tools = self.planner.tools
        if run.spent is not None and tools.joules is not None:
            design, (program, work, moved) = self.planner.design(DesignChoice.of(point)), run.spent
            parts, engines = tools.resources(design), tools.joules(design)
            energy = run_energy(
                program, design, cycles=run.cycles, busy=work, parts=parts, engines=engines, traffic_bytes=moved
            )
            found[ENERGY] = 1e6 * energy.total
        return tuple(found[name] for name in self.names)

    def _first(self, timing: Timing, row_group: int) -> tuple[tuple[tuple[int, int], int, _Need], ...]:
        """Row groups that end before the first command of any other engine; format as in `_Run.begun`."""
        found = list[tuple[tuple[int, int], int, _Need]]()
        others = list(self.planner.others)
        first = list(takewhile(lambda name: name[0] not in others, timing.names))
        for number, layer in enumerate(takewhile(lambda layer: isinstance(layer, Linear), self.planner.network)):
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
        least = ascending(points, cycles)
        found = {"latency_us": least * 1e6 / points["clock_hz"]}
        if ENERGY in self.names:
            found[ENERGY] = self.least_energy(points, least)
        return np.stack([found[name] for name in self.names], axis=1)

    def _rough(self, points: Inputs) -> Any:
        """Lower bounds of the cycles of designs with ascending rows per command."""
        return self.bounds.once(points, lambda inputs: self.bounds.of_designs(inputs, {}, leaping=True))

    def _fine(self, points: Inputs) -> Any:
        """Tighter bounds, with known cycles of the first row groups."""
        return self.bounds.of_designs(points, self._known(points), leaping=False)

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
        return tuple(point[axis] for axis in (*self._axes, *self.bounds.others))

    def _key(self, point: Mapping[str, int]) -> tuple[int, ...]:
        """Key of a design's commands and durations, but for delays by full rings."""
        found: Any = self._decided(point, point["ports"] * self.planner.board.memory.port_bits // 8, point["row_group"])
        return (*(point[axis] for axis in self._axes), *map(int, found), *(point[axis] for axis in self.bounds.others))

    def _begins(self, points: Inputs) -> NDArray[np.int64]:
        """Keys of the first row groups of designs as in `_begin`, with the ring words, one design per row."""
        count, word = len(points["clock_hz"]), self.bounds.word(points["ports"])
        found = self._decided(points, word, points["row_group"])
        columns = [*(points[axis] for axis in self._axes), *found, *(points[axis] for axis in RINGS)]
        return np.stack([np.broadcast_to(each, count) for each in columns], axis=1)

    def _decided(self, point: Mapping[str, Any], word: Any, row_group: Any) -> list[Any]:
        shapes, engines = self.bounds.bound.shapes, self.bounds.engines(point)
        return shapes.cuts(engines, word, row_group) + shapes.lengths(engines, word)

    def _begin(self, key: tuple[int, ...]) -> tuple[int, ...]:
        """The part of a key that decides what happens before the first attention or norm."""
        return key[: len(key) - len(self.bounds.others)]
