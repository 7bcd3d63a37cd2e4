"""The accelerator as plain numbers: the sequencer here, `codesign.systolic` and `codesign.offchip` beside it.

An engine's next accept is planned as soon as all that it waits for is known. When everything is as it
was some commands before, with equal commands to come, the repeats are left out.

Time is counted in clock cycles from the write of the start register. A register set in
cycle ``t`` is seen from ``t + 1`` on; every rule below says when a value is *visible*. The
constants are the pipeline depths of the hardware; nothing is read from a simulation.
"""

import heapq
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from codesign.command import COMMAND_BYTES, ENGINES, LOADS, RELEASE
from codesign.design import Design
from codesign.offchip import BURST_BYTES, COMMANDS, LOAD, NEVER, TABLE, WEIGHTS, OffChip
from codesign.program import Program
from codesign.shortcuts import Shortcuts
from codesign.systolic import Array, EngineTimes

COMMAND_QUEUE, ENGINE_QUEUE, LINEAR_SLOTS = 16, 8, 4
"""Commands read ahead, waiting per engine, and in flight in the linear engine."""
_LINEAR, _LUT, _END = ENGINES.index("linear"), len(LOADS) - 1, NEVER - 1


@dataclass(slots=True)
class _Engine:
    """An engine as the sequencer sees it.

    Attributes:
        queue: commands waiting, as (index, first cycle).
        ready: first cycle in which it can accept, NEVER if not yet known.
        planned: cycle of the next accept, as far as known.
        current: the command that it works on.
        tokens: first cycles of the tokens from each engine, in order.
    """

    number: int
    queue: deque[tuple[int, int]] = field(default_factory=deque)
    ready: int = 0
    planned: int = NEVER
    current: int = -1
    tokens: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def used(self) -> bool:
        """Whether there ever was anything for it."""
        return bool(self.current >= 0 or self.queue or self.tokens)

    def look(self, t: int, origin: int) -> tuple[object, ...]:
        """All that the future depends on, with times counted from ``t`` and commands from ``origin``."""
        busy = self.ready == NEVER
        return (
            self.number,
            self.current - origin if busy else 0,
            self.ready - t if t < self.ready < NEVER else 0,
            busy,
            self.planned - t if self.planned < NEVER else -1,
            tuple([index - origin for index, _ in self.queue]),
            tuple([at - t for _, at in self.queue if at > t]),
            *[(name, *[at - t if at > t else 0 for at in times]) for name, times in self.tokens.items() if times],
        )


class Machine:
    """One run of a program; every method says what its hardware twin decides.

    Args:
        program: the command list and where it lies.
        design: what it runs on.
        times: what the kernels say of their own durations.
        shortcuts: whether to leave out what is known to happen again; never changes a cycle.

    Attributes:
        start, stop: cycles in which every command is accepted and done, -1 if never.
        skipped: cycles left out because commands did what they did before.
    """

    def __init__(self, program: Program, design: Design, times: EngineTimes, *, shortcuts: bool = True) -> None:
        self.commands, self.times = program.commands, times
        self.start, self.stop = [-1] * len(self.commands), [-1] * len(self.commands)
        self.heap: list[tuple[int, int]] = [(_END, -1)]
        self.engines = {name: _Engine(number) for number, name in enumerate(ENGINES)}
        self.slots = [0] * LINEAR_SLOTS
        self.available: deque[int] = deque()
        self.dispatched, self.next_dispatch, self.words = 0, 0, 0
        self.per = COMMAND_BYTES // design.word_bytes
        self.seen: dict[tuple[object, ...], tuple[int, int, int]] = {}
        self.skipped = 0
        self.offchip = Shortcuts(design) if shortcuts else OffChip(design)
        self.array = Array(design, times, self.offchip)
        self.offchip.begin_list(
            len(self.commands) * self.per, program.list_at % BURST_BYTES // design.word_bytes, COMMAND_QUEUE * self.per
        )

    def run(self) -> None:
        """Until nothing is left to do."""
        heap, engines = self.heap, tuple(self.engines.values())
        while True:
            self.offchip.advance(heap, self._hear)
            t = heap[0][0]
            if t == _END:
                return
            while heap[0][0] == t:
                engine = engines[heapq.heappop(heap)[1]]
                if engine.planned == t:
                    self._accept(t, engine)
            self._recur(t)

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
        available, commands = self.available, self.commands
        while available:
            index = self.dispatched
            engine = self.engines[commands[index].engine]
            waiting = len(engine.queue)
            if waiting == ENGINE_QUEUE:
                return
            t = available.popleft()
            if t < self.next_dispatch:
                t = self.next_dispatch
            engine.queue.append((index, t + 1))
            self.dispatched, self.next_dispatch = index + 1, t + 1
            self.offchip.room(COMMANDS, t + 1, self.per)
            if not waiting:
                self._plan(engine)

    def _plan(self, engine: _Engine) -> None:
        """Finds when the engine accepts the head of its queue: when it is ready and the tokens are there."""
        ready = engine.ready
        if ready == NEVER or not engine.queue:
            return
        index, t = engine.queue[0]
        if ready > t:
            t = ready
        for name, count in self.commands[index].waits.items():
            tokens = engine.tokens[name]
            if len(tokens) < count:
                return
            visible = tokens[count - 1] if count else 0
            if visible > t:
                t = visible
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
        self.start[index] = t + self.skipped
        engine.current, engine.ready, engine.planned = index, NEVER, NEVER
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
            lut = fields["memory"] == _LUT
            self.offchip.begin_load(t, fields["dram"], fields["words"], lut=lut)
        elif engine == "store":
            self.offchip.begin_store(t, fields["dram"], fields["words"])
        elif engine == "fetch":
            self.offchip.begin_fetch(t, fields["dram"], fields["table_words"], fields["weight_words"])
        else:
            done = t + self._duration(engine, fields)
            self._finish(index, done, done + 1)

    def _duration(self, engine: str, fields: Mapping[str, int]) -> int:
        return (self.times.attention if engine == "attention" else self.times.vector)(fields)

    def _run_array(self) -> None:
        """Lets the array run on what is known."""
        linear = self.engines["linear"]
        ready = self.array.run()
        if ready == NEVER and not self.array.finished:
            return
        if ready < NEVER:
            linear.ready = ready
        for index, done in self.array.finished:
            self.slots.append(done + 1)
            self._finish(index, done, linear.ready)
        self.array.finished.clear()
        self._plan(linear)

    def _finish(self, index: int, done: int, ready: int) -> None:
        """The command's done pulse comes in cycle ``done``; its engine can accept again in ``ready``."""
        self.stop[index] = done + self.skipped
        command = self.commands[index]
        mine = self.engines[command.engine]
        if mine.ready != ready:
            mine.ready = ready
            self._plan(mine)
        for name, count in command.posts.items():
            engine = self.engines[name]
            tokens = engine.tokens[command.engine]
            tokens += [done + 1] * count
            if engine.queue and engine.ready < NEVER:
                self._plan(engine)

    # Recurrence.

    def _recur(self, t: int) -> None:
        """Leaves out whole periods if all is as it was before, and the commands to come are too."""
        spare = self.offchip.clients[COMMANDS].left - 2 * self.offchip.most
        offchip = self.offchip.look() if spare > 0 else None
        array = self.array.look(t, self.dispatched) if offchip is not None else None
        if array is None:
            return
        at_work = [e for e in self.engines.values() if e.queue or e.tokens or e.current >= 0]
        engines = [engine.look(t, self.dispatched) for engine in at_work]
        times = [at - t if at > t else 0 for at in (self.next_dispatch, *self.slots, *self.available)]
        state = (offchip, array, *engines, len(self.slots), *times, self.words % self.per)
        now = t, self.dispatched, self.offchip.clients[COMMANDS].left
        last = self.seen.get(state)
        self.seen[state] = now
        if last is None or now[2] == last[2]:
            return
        period, commands, words = now[0] - last[0], now[1] - last[1], last[2] - now[2]
        most = spare // words
        repeats = min(self._alike(commands) // commands, most) if most else 0
        if repeats:
            self._skip(repeats, commands, period)
            self.offchip.clients[COMMANDS].left -= repeats * words
            self.seen.clear()
            self._dispatch()

    def _alike(self, period: int) -> int:
        """How many commands from the next to dispatch on are as those one period before, like all that are not done."""
        commands, first = self.commands, self.stop.index(-1)
        if first < period:
            return 0
        index = first
        for now, before in zip(commands[first:], commands[first - period :], strict=False):
            if now.engine != before.engine or now.waits != before.waits or now.posts != before.posts:
                break
            if not self._same_work(now.engine, now.fields, before.fields):
                break
            index += 1
        return max(index - self.dispatched, 0)

    def _same_work(self, engine: str, one: Mapping[str, int], other: Mapping[str, int]) -> bool:
        """Whether two commands of an engine take the same time."""
        if engine == "linear":
            alike = one["flags"] & RELEASE == other["flags"] & RELEASE
            return alike and all(one[name] == other[name] for name in ("rows", "kw", "ib", "ob"))
        if engine in ("attention", "vector"):
            return self._duration(engine, one) == self._duration(engine, other)
        if (one["dram"] - other["dram"]) % BURST_BYTES:
            return False
        if engine == "fetch":
            return one["table_words"] == other["table_words"] and one["weight_words"] == other["weight_words"]
        lut = engine == "load" and (one["memory"] == _LUT) != (other["memory"] == _LUT)
        return one["words"] == other["words"] and not lut

    def _skip(self, repeats: int, commands: int, period: int) -> None:
        """What happens until then happened one period before; the clock goes on as if nothing were left out."""
        first, more = self.stop.index(-1), repeats * commands
        for times in (self.start, self.stop):
            open_now = [index for index in range(first, self.dispatched) if times[index] < 0]
            for index in range(first, self.dispatched + more):
                if times[index] < 0:
                    times[index] = times[index - commands] + period
            for index in open_now:
                times[index + more] = -1
        self.skipped += repeats * period
        self.dispatched += more
        for engine in self.engines.values():
            engine.queue = deque([(index + more, at) for index, at in engine.queue])
            engine.current += more
        self.array.renumber(more)
