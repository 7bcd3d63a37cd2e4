"""The accelerator as plain numbers: sequencer and linear array; the off-chip side is `codesign.offchip`.

Time is counted in clock cycles from the write of the start register. A register set in
cycle ``t`` is seen from ``t + 1`` on; every rule below says when a value is *visible*. The
constants are the pipeline depths of the hardware; nothing is read from a simulation.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from codesign.command import COMMAND_BYTES, ENGINES, LOADS, RELEASE, Command
from codesign.design import Design
from codesign.offchip import BURST_BYTES, COMMANDS, LOAD, NEVER, TABLE, WEIGHTS, OffChip
from codesign.program import Program
from codesign.shortcuts import Shortcuts

COMMAND_QUEUE, ENGINE_QUEUE, LINEAR_SLOTS = 16, 8, 4
"""Commands read ahead, waiting per engine, and in flight in the linear engine."""
_END = NEVER - 1


@dataclass(frozen=True)
class EngineTimes:
    """What the kernels say of their own durations.

    Attributes:
        attention, vector: cycles from accept to done of a command's operands.
        array_latency: cycles from a tile's last issue to complete accumulators.
        drain_latency: cycles from there to the done pulse, less the rows drained.
    """

    attention: Callable[[Mapping[str, int]], int]
    vector: Callable[[Mapping[str, int]], int]
    array_latency: int
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


class _Array:
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
                moved = True
        self.offchip.crucial = self.base + self.loaded[0].ob * self.loaded[0].ib - 1 if self.loaded else NEVER
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
                done = first + ib + self.latency + 1
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
            self.finished.append((group.command, first + group.ib - 1 + self.latency + self.drain + group.rows))


@dataclass(slots=True)
class _Engine:
    """An engine as the sequencer sees it.

    Attributes:
        queue: commands waiting, as (index, first cycle).
        ready: first cycle in which it can accept, NEVER if not yet known.
        planned: cycle of the next accept, as far as known.
        current: the command that it works on.
        tokens: first cycles of the tokens from each engine, in order.
        slots: from when on another command may be in flight, in order.
    """

    number: int
    queue: deque[tuple[int, int]] = field(default_factory=deque)
    ready: int = 0
    planned: int = NEVER
    current: int = -1
    tokens: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in ENGINES})


class Machine:
    """One run of a program; every method says what its hardware twin decides.

    Attributes:
        start, stop: cycles in which every command is accepted and done, -1 if never.
    """

    def __init__(self, program: Program, design: Design, times: EngineTimes) -> None:
        self.commands: Sequence[Command] = program.commands
        self.times = times
        self.start, self.stop = [-1] * len(self.commands), [-1] * len(self.commands)
        self.heap: list[tuple[int, int]] = [(_END, -1)]
        self.engines = {name: _Engine(number) for number, name in enumerate(ENGINES)}
        self.names = dict(enumerate(ENGINES))
        self.slots = [0] * LINEAR_SLOTS
        self.available: deque[int] = deque()
        self.dispatched, self.next_dispatch, self.words = 0, 0, 0
        self.per = COMMAND_BYTES // design.word_bytes
        self.offchip = Shortcuts(design)
        self.array = _Array(design, times, self.offchip)
        self.offchip.begin_list(
            len(self.commands) * self.per, program.list_at % BURST_BYTES // design.word_bytes, COMMAND_QUEUE * self.per
        )

    def run(self) -> None:
        """Until nothing is left to do."""
        heap, advance, engines = self.heap, self.offchip.advance, tuple(self.engines.values())
        while True:
            told = advance(heap[0][0])
            if told:
                for _, what, time, count in told:
                    self._hear(what, time, count)
                continue
            t = heap[0][0]
            if t == _END:
                return
            while heap[0][0] == t:
                engine = engines[heapq.heappop(heap)[1]]
                if engine.planned == t:
                    self._accept(t, engine)

    def _hear(self, what: int, time: int, count: int) -> None:
        """Something off chip is known."""
        if what == WEIGHTS:
            self._run_array()
        elif what == COMMANDS:
            self._command_words(time, count)
        elif what == TABLE:
            self._finish(self.engines["fetch"].current, time, time + 1)
        else:
            self._finish(self.engines["load" if what == LOAD else "store"].current, time, time)

    # Sequencer.

    def _command_words(self, first: int, words: int) -> None:
        """Command words arrive from cycle ``first`` on."""
        for arrival in range(first, first + words):
            self.words += 1
            if self.words % self.per == 0:
                self.available.append(arrival + 1)
        self._dispatch()

    def _dispatch(self) -> None:
        """Commands go to their engines' queues in order while there is room, one per cycle."""
        available, room = self.available, self.offchip.room
        while available:
            engine = self.engines[self.commands[self.dispatched].engine]
            if len(engine.queue) == ENGINE_QUEUE:
                return
            t = max(available.popleft(), self.next_dispatch)
            engine.queue.append((self.dispatched, t + 1))
            self.dispatched += 1
            self.next_dispatch = t + 1
            room(COMMANDS, t + 1, self.per)
            if len(engine.queue) == 1:
                self._plan(engine)

    def _plan(self, engine: _Engine) -> None:
        """Finds when the engine accepts the head of its queue: when it is ready and the tokens are there."""
        if not engine.queue:
            return
        index, t = engine.queue[0]
        if engine.ready > t:
            t = engine.ready
        for name, count in self.commands[index].waits.items():
            tokens = engine.tokens[name]
            if len(tokens) < count:
                return
            if count and tokens[count - 1] > t:
                t = tokens[count - 1]
        if engine.number == _LINEAR:
            if not self.slots:
                return
            t = max(t, self.slots[0])
        if t < engine.planned:
            engine.planned = t
            heapq.heappush(self.heap, (t, engine.number))

    def _accept(self, t: int, engine: _Engine) -> None:
        """The engine begins the head of its queue."""
        full = len(engine.queue) == ENGINE_QUEUE
        index = engine.queue.popleft()[0]
        command = self.commands[index]
        for name, count in command.waits.items():
            del engine.tokens[name][:count]
        self.start[index], engine.current, engine.ready, engine.planned = t, index, NEVER, NEVER
        self._begin(t, index, command.engine, command.fields)
        if full and self.available:
            self.next_dispatch = max(self.next_dispatch, t + 1)
            self._dispatch()

    def _begin(self, t: int, index: int, engine: str, fields: Mapping[str, int]) -> None:
        if engine == "linear":
            self.slots.pop(0)
            self.array.begin(t, index, fields)
            self._run_array()
        elif engine == "load":
            lut = fields["memory"] == len(LOADS) - 1
            self.offchip.begin_load(t, fields["dram"], fields["words"], lut=lut)
        elif engine == "store":
            self.offchip.begin_store(t, fields["dram"], fields["words"])
        elif engine == "fetch":
            self.offchip.begin_fetch(t, fields["dram"], fields["table_words"], fields["weight_words"])
        else:
            done = t + (self.times.attention if engine == "attention" else self.times.vector)(fields)
            self._finish(index, done, done + 1)

    def _run_array(self) -> None:
        """Lets the array run on what is known."""
        linear = self.engines["linear"]
        ready = self.array.run()
        if ready < NEVER:
            linear.ready = ready
            self._plan(linear)
        for index, done in self.array.finished:
            insort(self.slots, done + 1)
            self._plan(linear)
            self._finish(index, done, linear.ready)
        self.array.finished.clear()

    def _finish(self, index: int, done: int, ready: int) -> None:
        """The command's done pulse comes in cycle ``done``; its engine can accept again in ``ready``."""
        self.stop[index] = done
        command = self.commands[index]
        mine = self.engines[command.engine]
        mine.ready = ready
        self._plan(mine)
        for name, count in command.posts.items():
            engine = self.engines[name]
            tokens = engine.tokens[command.engine]
            for _ in range(count):
                insort(tokens, done + 1)
            self._plan(engine)


_LINEAR = ENGINES.index("linear")
