"""Branch and bound: splits a problem's space into ever smaller boxes and cuts the infeasible and dominated ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from codesign.solver.front import Archive, DominatedRegion, Mask, Points, Proof, Values, layers
from codesign.solver.interval_bounds import Bounder, Bounds
from codesign.solver.problem import Array, Problem

Progress = Callable[[int, int, int], None]
"""Called with the points settled so far, the points of the space, and the points of the front."""
Sink = Callable[[Values, Points], None]
"""Receives feasible points: all that the archive does not dominate, and a few others."""

_SAMPLE = 256


class _RefineStep(NamedTuple):
    """A step of one axis from a tree level to the next, after which the axes in `single` are single values."""

    axis: str
    level: int
    single: frozenset[str]


class _Batch(NamedTuple):
    """Boxes at the same levels: nodes by axis and box, and the points in each box."""

    nodes: NDArray[np.int64]
    weight: NDArray[np.int64]

    def part(self, chosen: slice | NDArray[np.int64]) -> "_Batch":
        return _Batch(self.nodes[:, chosen], self.weight[chosen])


@dataclass
class Tally:
    """Counts of points by outcome; see `codesign.solver.front.Proof`."""

    infeasible: dict[str, int] = field(default_factory=dict)
    dominated: int = 0
    evaluated: int = 0
    boxes: int = 0

    @property
    def settled(self) -> int:
        """Points cut or evaluated so far."""
        return sum(self.infeasible.values()) + self.dominated + self.evaluated

    def cut(self, name: str, points: int) -> None:
        """Counts points cut by a limit."""
        if points:
            self.infeasible[name] = self.infeasible.get(name, 0) + points

    def proof(self, problem: Problem, tried: int) -> Proof:
        """The counts as a proof."""
        return Proof(problem.size, self.infeasible, self.dominated, self.evaluated, self.boxes, tried)


class Branching:
    """One pass over all points of a problem.

    Args:
        bounder: bounds of the problem's terms.
        archive: a box is cut if this dominates its bounds; it may grow meanwhile.
        block: boxes bounded at once.
    """

    def __init__(self, bounder: Bounder, archive: Archive, block: int) -> None:
        self.problem, self.bounder, self.archive, self.block = bounder.problem, bounder, archive, block
        self.trees, self.names = bounder.trees, tuple(bounder.trees)
        self.tally = Tally()
        expensive = [memo.term for memo in bounder.lazy.values()]
        single = frozenset(axis for term in expensive for axis in term.single)
        self._late = {axis: single for term in expensive for axis in {*term.of} - {*term.single}}
        self._kind = np.min_scalar_type(-max(len(tree.size) for tree in self.trees.values()))

    def run(self, sink: Sink, progress: Progress | None = None) -> Tally:
        """Cuts every point or hands it to the sink."""
        steps = self._plan(self.archive.cover)
        pending: list[list[_Batch]] = [[] for _ in steps]
        pending[0].append(self._root())
        while any(pending):
            depth = self._next(pending, steps)
            batch = _take(pending[depth], self._most(steps[depth]))
            if depth + 1 < len(steps):
                batch, _ = self._split(batch, steps[depth], self.archive.cover, self.tally)
                pending[depth + 1] += [batch] if len(batch.weight) else []
            else:
                self.tally.evaluated += int(batch.weight.sum())
                batch, values = self._split(batch, steps[depth], self.archive.cover, Tally())
                sink(values, self._positions(batch))
            if progress is not None:
                progress(self.tally.settled, self.problem.size, len(self.archive))
        return self.tally

    def dive(self, guide: DominatedRegion, most: int) -> tuple[Values, Points]:
        """Some good feasible points with bounds of their objectives, found without any proof.

        Args:
            guide: region that a sample of points dominates; decides the order of the axes.
            most: boxes kept after every step, those with non-dominated bounds first.
        """
        batch, values = self._root(), np.zeros((1, len(self.problem.objectives)))
        for step in self._plan(guide):
            batch, values = self._split(batch, step, self.archive.cover, Tally())
            best = layers(values, most)
            batch, values = batch.part(best), values[best]
        return values, self._positions(batch)

    def _root(self) -> _Batch:
        return _Batch(np.zeros((len(self.names), 1), dtype=self._kind), np.array([self.problem.size]))

    def _positions(self, batch: _Batch) -> Points:
        firsts = np.array([tree.first[-1] for tree in self.trees.values()])
        return np.asarray(batch.nodes.T.astype(np.int64) - firsts)

    # Order of boxes and of axes.

    def _most(self, step: _RefineStep) -> int:
        """Boxes of a step whose children fill one block."""
        fan: int = self.trees[step.axis].kids[step.level][0].shape[1]
        return max(1, self.block // fan)

    def _next(self, pending: list[list[_Batch]], steps: list[_RefineStep]) -> int:
        """The deepest step with a full block of boxes, or else the first with any."""
        filled = [depth for depth, batches in enumerate(pending) if batches]
        full = [d for d in filled if sum(len(b.weight) for b in pending[d]) >= self._most(steps[d])]
        return full[-1] if full else filled[0]

    def _plan(self, cover: DominatedRegion) -> list[_RefineStep]:
        """An order of all steps, each of the least `_trial` cost: log growth after cuts per log growth before.

        Axes that must be single values for an expensive term come before those that it takes as nodes.
        """
        level = {name: 0 for name, tree in self.trees.items() if tree.depth}
        batch, steps = self._root(), list[_RefineStep]()
        while level:
            early = [name for name in level if name not in self._late or not self._late[name] & set(level)]
            options = [_RefineStep(name, level[name], self._single(level, name)) for name in early]
            trials = [self._trial(batch, option, cover) for option in options]
            best = min(range(len(options)), key=lambda i: trials[i][0])
            steps.append(options[best])
            batch, chosen = trials[best][1], options[best].axis
            level[chosen] += 1
            level = {name: at for name, at in level.items() if at < self.trees[name].depth}
        return steps

    def _single(self, level: dict[str, int], stepped: str) -> frozenset[str]:
        """The axes at their last level after axis ``stepped`` has made its step."""
        after = {**level, stepped: level[stepped] + 1}
        return frozenset(name for name, tree in self.trees.items() if after.get(name, tree.depth) == tree.depth)

    def _trial(self, batch: _Batch, step: _RefineStep, cover: DominatedRegion) -> tuple[float, _Batch]:
        """The cost of a step, the less the better, and a sample of the boxes that it leaves."""
        if not len(batch.weight):
            return 0.0, batch
        scratch = Tally()
        left, _ = self._split(batch, step, cover, scratch, asking=False)
        count = len(left.weight)
        cost = log(max(count, 1e-3) / len(batch.weight)) / log(scratch.boxes / len(batch.weight))
        return cost, left.part(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))

    # One step of some boxes.

    def _split(
        self, batch: _Batch, step: _RefineStep, cover: DominatedRegion, tally: Tally, asking: bool = True
    ) -> tuple[_Batch, Values]:
        """The children of boxes along one axis that are not cut, and lower bounds of their objectives."""
        tree, axis = self.trees[step.axis], self.names.index(step.axis)
        nodes = batch.nodes.astype(np.int64)
        kids, sizes = (table[nodes[axis] - tree.first[step.level]] for table in tree.kids[step.level])
        weight = (batch.weight // tree.size[nodes[axis]])[:, None] * sizes
        boxes = dict(zip(self.names, nodes[:, :, None], strict=True)) | {step.axis: kids}
        bounds = self.bounder.over(boxes, step.single)
        tally.boxes += kids.size
        at = np.flatnonzero(self._allowed(bounds, weight, tally))
        values = self._values(bounds, at, kids.shape)
        free = ~cover.reaches(values, fast=True)
        if asking and free.any() and self._new(step):
            flat = {name: row[at[free] // kids.shape[1]] for name, row in zip(self.names, nodes, strict=True)}
            flat[step.axis] = kids.ravel()[at[free]]
            if self.bounder.ask(flat, step.single, step.axis):
                known = self.bounder.over(flat, step.single)
                values[free] = self._values(known, np.arange(len(flat[step.axis])), flat[step.axis].shape)
                free = ~cover.reaches(values, fast=True)
        weight = weight.ravel()[at]
        tally.dominated += int(weight[~free].sum())
        at = at[free]
        children = batch.nodes[:, at // kids.shape[1]]
        children[axis] = kids.ravel()[at]
        return _Batch(children, weight[free]), values[free]

    def _new(self, step: _RefineStep) -> bool:
        """Whether a step completes an axis so that an expensive term's bound may exceed its floor."""
        terms = [memo.term for memo in self.bounder.lazy.values() if step.axis in step.single]
        return any(step.axis in self._late or step.single.issuperset(term.of) for term in terms if step.axis in term.of)

    def _allowed(self, bounds: Bounds, weight: NDArray[np.int64], tally: Tally) -> Mask:
        """Whether each box may hold a feasible point; counts the others."""
        keep = weight > 0
        for name, limit in self.problem.limits.items():
            low = bounds.low(name)
            if low is not None:
                tally.cut(name, int(weight[keep & ~(low <= limit)].sum()))
                keep &= low <= limit
        return keep

    def _values(self, bounds: Bounds, at: NDArray[np.int64], shape: tuple[int, ...]) -> Values:
        """Lower bounds of the objectives of the boxes at positions ``at`` of a block; -inf for no bound."""
        values = np.full((len(at), len(self.problem.objectives)), -np.inf)
        for j, name in enumerate(self.problem.objectives):
            low = bounds.low(name) if len(at) else None
            if low is not None:
                values[:, j] = _picked(low, at, shape)
        values[np.isnan(values)] = -np.inf
        return values


def _picked(low: Array, at: NDArray[np.int64], shape: tuple[int, ...]) -> Array:
    """Entries, by flat position, of an array broadcast to a block."""
    if len(shape) == 2 and low.shape == (shape[0], 1):
        return np.asarray(low.ravel().take(at // shape[1]))
    return np.asarray(np.broadcast_to(low, shape).ravel().take(at))


def _take(batches: list[_Batch], most: int) -> _Batch:
    """Removes and returns up to ``most`` boxes."""
    joined = batches[0]
    if len(batches) > 1:
        nodes, weights = zip(*batches, strict=True)
        joined = _Batch(np.concatenate(nodes, axis=1), np.concatenate(weights))
    rest = joined.part(slice(most, None))
    batches[:] = [rest] if len(rest.weight) else []
    return joined.part(slice(most))
