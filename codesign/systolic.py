"""The linear engine: loader and systolic array as plain numbers.

Times count as in `codesign.machine`.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.command import RELEASE
from codesign.design import Design
from codesign.kernel import Number, Work
from codesign.offchip import NEVER, TABLE, WEIGHTS, OffChip


@dataclass(frozen=True)
class EngineTimes:
    """What the kernels say of their own durations.

    Attributes:
        attention, vector: cycles from accept to done of a command's operands.
        array_latency: cycles from the end of a tile to complete accumulators.
        drain_latency: cycles from there to the done pulse, less the rows drained.
    """

    attention: Callable[[Mapping[str, int]], int]
    vector: Callable[[Mapping[str, int]], int]
    array_latency: int
    drain_latency: int


@dataclass(frozen=True)
class Formulas:
    """The same for one design or arrays of them; the two callables take a kernel's work.

    Attributes:
        attention, vector: cycles from accept to done.
        array_latency, drain_latency: see `EngineTimes`.
    """

    attention: Callable[[Work], Number]
    vector: Callable[[Work], Number]
    array_latency: Number
    drain_latency: int


@dataclass(slots=True)
class _Group:
    """A row group on its way through the linear engine: its command, rows, tiles of ``ib`` weights, cycles to load."""

    command: int
    rows: int
    ib: int
    ob: int
    load: int
    release: bool
    last: bool
    loaded: int = 0


class Array:
    """Loader and systolic array; both are static once their operands are known to arrive."""

    def __init__(self, design: Design, times: EngineTimes, offchip: OffChip) -> None:
        p = design.linear
        self.n_l, self.latency, self.drain = p["n_l"], times.array_latency, times.drain_latency
        self.weight_ratio = p["t_in"] * p["t_out"] // design.word_bytes
        self.table_ratio = 8 * p["t_out"] // design.word_bytes
        self.offchip, self.arrivals = offchip, offchip.arrivals
        offchip.room(WEIGHTS, 0, p["ring_words"] * self.weight_ratio)
        offchip.room(TABLE, 0, p["table_words"] * self.table_ratio)
        self.base, self.tile, self.first = 0, 0, 0
        self.loading: deque[_Group] = deque()
        self.loaded: deque[_Group] = deque()
        self.ends = deque((-1, -1))
        self.load_from, self.free = 0, 0
        self.finished: list[tuple[int, int]] = []

    def begin(self, t: int, index: int, fields: Mapping[str, int]) -> None:
        """Cuts the command accepted in cycle ``t`` into row groups for the loader."""
        rows, n_l, ib, ob, kw = fields["rows"], self.n_l, fields["ib"], fields["ob"], fields["kw"]
        release = bool(fields["flags"] & RELEASE)
        for first in range(0, rows, n_l):
            count = min(n_l, rows - first)
            last = first + count == rows
            self.loading.append(_Group(index, count, ib, ob, count * kw, last and release, last))
        self.load_from = t + 1

    def look(self, t: int, origin: int) -> tuple[object, ...] | None:
        """All that the future depends on, with times counted from ``t`` and commands from ``origin``.

        None while weights are about to arrive.
        """
        if self.arrivals and self.arrivals[-1] > t:
            return None
        groups = [
            (g.command - origin, g.rows, g.ib, g.ob, g.load, g.release, g.last, max(g.loaded - t, 0))
            for g in (*self.loaded, *self.loading)
        ]
        late = [at - t if at > t else 0 for at in (self.free, self.load_from, *self.ends)]
        first = self.first - t if self.tile else 0
        return (len(self.loaded), self.tile, first, len(self.arrivals) - self.base, *groups, *late)

    def renumber(self, commands: int) -> None:
        """Adds to the indices of all commands under way."""
        for group in (*self.loaded, *self.loading):
            group.command += commands

    def run(self) -> int:
        """Runs as far as arrivals are known; returns when the loader can take another command, NEVER if unknown.

        Commands that end are put in ``finished`` with the cycle of their done pulse.
        """
        ready, moved = NEVER, True
        while moved:
            moved = False
            if self.loading and self.ends:
                moved = True
                if self._load_group().last:
                    ready = self.load_from
            if self.loaded and self._run_group(self.loaded[0]):
                moved = bool(self.loading or self.loaded)
        group = self.loaded[0] if self.loaded else None
        self.offchip.crucial = self.base + group.ob * group.ib - 1 if group else NEVER
        self.offchip.wanted = self.base + (self.tile + 1) * group.ib - 1 if group else NEVER
        return ready

    def _load_group(self) -> _Group:
        """Loads the next group as soon as the buffer of the group before the last is free."""
        group = self.loading.popleft()
        self.load_from = max(self.load_from, self.ends.popleft() + 1) + group.load
        group.loaded = self.load_from + 2
        self.loaded.append(group)
        return group

    def _run_group(self, group: _Group) -> bool:
        """Runs the tiles of the group whose weights are known to arrive; returns whether it is finished."""
        ib, tile, first = group.ib, self.tile, self.first
        spacing = max(ib, self.n_l)
        arrivals, known = self.arrivals, len(self.arrivals)
        end = self.base + group.ob * ib - 1
        present = arrivals[end] if end < known else NEVER
        while tile < group.ob:
            need = self.base + (tile + 1) * ib - 1
            if need >= known:
                break
            if tile == 0:
                first = max(self.free, group.loaded, arrivals[need]) + 1
            elif present < first + spacing and not group.release:
                first += (group.ob - tile) * spacing
                tile = group.ob
                break
            else:
                arrival = arrivals[need]
                first = first + spacing if arrival < first + spacing else arrival + 1
            if group.release:
                done = first + spacing + self.latency + group.rows
                self.offchip.room(WEIGHTS, done, ib * self.weight_ratio)
                self.offchip.room(TABLE, done, self.table_ratio)
            tile += 1
        self.tile, self.first = tile, first
        if tile < group.ob:
            return False
        self._end_group(group, first, spacing)
        return True

    def _end_group(self, group: _Group, first: int, spacing: int) -> None:
        """The last tile of a group is issued from cycle ``first`` on."""
        self.loaded.popleft()
        self.tile = 0
        self.free = first + spacing
        self.ends.append(first + spacing - 1)
        if group.release:
            self.base += group.ob * group.ib
        if group.last:
            self.finished.append((group.command, first + spacing - 1 + self.latency + self.drain + group.rows))
