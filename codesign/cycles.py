"""Cycles of a whole program: event by event over bursts, tiles and tokens, equal to the hardware.

Time is counted in clock cycles from the write of the start register. A register set in
cycle ``t`` is seen from ``t + 1`` on; every rule below says when a value is *visible*. The
constants are the pipeline depths of the hardware; nothing is read from a simulation.
"""

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from codesign.board import Memory
from codesign.command import COMMAND_BYTES, ENGINES, LOADS, RELEASE
from codesign.design import Design
from codesign.errors import CheckError
from codesign.kernel import Number, ceil_div, larger
from codesign.network import Attention, Linear, Network, layer_macs
from codesign.program import Program

BURST_BYTES = 256
COMMAND_QUEUE, ENGINE_QUEUE, LINEAR_SLOTS = 16, 8, 4
"""Commands read ahead, waiting per engine, and in flight in the linear engine."""


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
class Activity:
    """One command on its engine: accepted in cycle ``start``, done in cycle ``stop``."""

    engine: str
    label: str
    start: int
    stop: int


@dataclass(frozen=True)
class Timing:
    """Cycles of one run.

    Attributes:
        total: from the start write to the interrupt, the hardware's cycle register.
        activities: every command, in list order.
    """

    total: int
    activities: tuple[Activity, ...]


def exact(program: Program, design: Design, times: EngineTimes) -> Timing:
    """Cycles of a program without external stalls, equal to the hardware's own count.

    The run begins with the accelerator idle and the memory's bandwidth bucket full.

    Raises:
        CheckError: the program deadlocks; the message names the first command that never starts.
    """
    machine = _Machine(program, design, times)
    machine.run()
    return machine.timing()


_NEVER = 1 << 60
_LOAD, _STORE, _FETCH, _LINEAR = range(4)
_WEIGHTS = 3


def bound(network: Network, engines: Mapping[str, Mapping[str, Number]], memory: Memory) -> Number:
    """A lower bound of `exact` for every program of the network, for one design or arrays of them.

    Each engine must do its work, and the memory must move every weight once: whatever is cut, padded
    or waits only adds to that.

    Args:
        network: the layers.
        engines: parameters by engine, integers or arrays.
        memory: the board's off-chip memory.
    """
    p = engines["linear"]
    linear: Number = 0
    bytes_moved, attention, vector = 0, 0, 0
    for layer in network:
        if isinstance(layer, Linear):
            tile = larger(ceil_div(layer.k, p["t_in"]), p["n_l"])
            linear = linear + ceil_div(layer.rows, p["n_l"]) * ceil_div(layer.n, p["t_out"]) * tile
            bytes_moved += layer.n * (layer.k + 8)
        elif isinstance(layer, Attention):
            attention += layer_macs(layer) // 2
        else:
            vector += layer.rows * layer.d
    bytes_moved -= memory.burst_bytes
    total = larger(linear, max(0, -(-bytes_moved * memory.bytes_denominator // memory.bytes_numerator)))
    if attention:
        total = larger(total, ceil_div(attention, engines["attention"]["t_a"] * engines["attention"]["n_a"]))
    if vector:
        total = larger(total, ceil_div(vector, engines["vector"]["t_v"]))
    return total


class _Clock:
    """Events in order of time; those of one cycle are all applied before anything is decided in it."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, int]] = []
        self._poked: dict[tuple[int, int], int] = {}

    def poke(self, t: int, kind: int, argument: int = 0) -> None:
        """Asks for a decision in cycle ``t``; the earliest of several stands."""
        key = (kind, argument)
        if self._poked.get(key, _NEVER) > t:
            self._poked[key] = t
            heapq.heappush(self._heap, (t, kind, argument, -1))

    def change(self, t: int, kind: int, argument: int, amount: int) -> None:
        """A change of state that becomes visible in cycle ``t``."""
        heapq.heappush(self._heap, (t, kind, argument, amount))

    def run(
        self, apply: Mapping[int, Callable[[int, int, int], None]], decide: Mapping[int, Callable[[int, int], None]]
    ) -> None:
        """Runs until nothing is left to do; ``decide`` is ordered as decisions see each other in a cycle."""
        rank = {kind: place for place, kind in enumerate(decide)}
        heap, poked = self._heap, self._poked
        while heap:
            t = heap[0][0]
            due: list[tuple[int, int, int]] = []
            while heap and heap[0][0] == t:
                _, kind, argument, amount = heapq.heappop(heap)
                if amount >= 0:
                    apply[kind](t, argument, amount)
                elif poked.get((kind, argument)) == t:
                    del poked[kind, argument]
                    due.append((rank[kind], kind, argument))
            if len(due) > 1:
                due.sort()
            for _, kind, argument in due:
                decide[kind](t, argument)


@dataclass(slots=True)
class _Burst:
    """A burst under way: destination, bus words, port, and the first cycle in which it is complete."""

    client: int
    words: int
    port: int
    complete: int = -1


class _Dram:
    """The memory behind the ports: token bucket, fixed latency, round robin that begins anew after an idle cycle."""

    def __init__(self, design: Design) -> None:
        memory = design.board.memory
        self.port_bytes = memory.port_bits // 8
        self.gain, self.unit = memory.bytes_numerator, memory.bytes_denominator
        self.full = BURST_BYTES * self.unit
        self.credit, self.at, self.turn, self.idle_from = self.full, 0, 0, 0
        self.queues: list[deque[tuple[int, int, _Burst]]] = [deque() for _ in range(2 * memory.ports)]
        self.waiting = 0

    def request(self, queue: int, ready: int, beats: int, burst: _Burst) -> None:
        """A burst that can be granted from cycle ``ready`` on."""
        self.queues[queue].append((ready, beats, burst))
        self.waiting += 1

    def grant(self, t: int) -> tuple[int, _Burst | None]:
        """What cycle ``t`` grants: requester and burst; or when to look again and None."""
        credit = min(self.full, self.credit + self.gain * (t - self.at))
        self.credit, self.at = credit, t
        queues, soonest = self.queues, _NEVER
        if self.idle_from < t and all(not queue or queue[0][0] > self.idle_from for queue in queues):
            self.turn = 0
        count = len(queues)
        for index in (*range(self.turn, count), *range(self.turn)):
            queue = queues[index]
            if not queue:
                continue
            ready, beats, burst = queue[0]
            if ready > t:
                soonest = min(soonest, ready)
                continue
            need = beats * self.port_bytes * self.unit - credit
            if need > 0:
                return min(soonest, t - -need // self.gain), None
            queue.popleft()
            self.waiting -= 1
            self.credit = -need
            self.turn, self.idle_from = (index + 1) % count, t + 1
            return index, burst
        return soonest, None


@dataclass(slots=True)
class _Transfer:
    """What a client of the read path still wants: bus words, place in the burst, room, first cycle."""

    left: int = 0
    offset: int = 0
    space: int = 0
    visible: int = 0


@dataclass(slots=True)
class _Group:
    """A row group on its way through the linear engine."""

    command: int
    rows: int
    ib: int
    ob: int
    load: int
    release: bool
    last: bool
    loaded: int = 0


@dataclass(slots=True)
class _Port:
    """A write port: bursts read and waiting as (first visible, beats), and what is under way."""

    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    buffers: int = 0
    busy: bool = False
    idle_read: int = -1
    answers: deque[int] = field(default_factory=deque)


_ISSUE, _GRANT, _DISPATCH, _ACCEPT, _READ, _PORT, _TOKENS, _SPACE, _FREED, _SENT, _FLOWN = range(11)


class _Machine:
    """The whole accelerator as plain numbers; every method says what its hardware twin decides in a cycle."""

    def __init__(self, program: Program, design: Design, times: EngineTimes) -> None:
        self.commands, self.times, self.p = program.commands, times, design.linear
        self.memory, self.word = design.board.memory, design.word_bytes
        self.clock, self.dram = _Clock(), _Dram(design)
        self.start, self.stop = [-1] * len(self.commands), [-1] * len(self.commands)
        self._reset_sequencer(program)
        self._reset_rings()
        ports = self.memory.ports
        self.order: deque[_Burst] = deque()
        self.returns: list[deque[int]] = [deque() for _ in range(ports)]
        self.in_flight = [0] * ports
        self.turn, self.next_issue, self.last_delivery, self.blocked = 0, 0, 0, False
        self.load_left, self.load_lut = 0, False
        self.store_left, self.store_offset, self.store_next, self.store_turn = 0, 0, 0, 0
        self.unanswered, self.last_answer = 0, 0
        self.ports = [_Port() for _ in range(ports)]

    def _reset_sequencer(self, program: Program) -> None:
        engines = len(ENGINES)
        per = COMMAND_BYTES // self.word
        self.per, self.command_words = per, 0
        self.available: list[int] = []
        self.dispatched, self.next_dispatch = 0, 0
        self.queues: list[deque[tuple[int, int]]] = [deque() for _ in range(engines)]
        self.tokens = [[0] * engines for _ in range(engines)]
        self.engine_ready = [0] * engines
        self.current = [-1] * engines
        self.clients = [_Transfer(), _Transfer(space=BURST_BYTES // self.word), _Transfer()]
        self.clients[0] = _Transfer(
            len(self.commands) * per, program.list_at % BURST_BYTES // self.word, COMMAND_QUEUE * per, 1
        )
        self.clock.poke(1, _ISSUE)

    def _reset_rings(self) -> None:
        p = self.p
        self.weight_ratio = p["t_in"] * p["t_out"] // self.word
        self.table_ratio = 8 * p["t_out"] // self.word
        self.weight_space = p["ring_words"] * self.weight_ratio
        self.table_space = p["table_words"] * self.table_ratio
        self.in_weights, self.weight_words, self.weight_offset, self.ring_part = False, 0, 0, 0
        self.arrivals: list[int] = []
        self.base, self.tile, self.first_issue = 0, 0, 0
        self.loading: deque[_Group] = deque()
        self.loaded: deque[_Group] = deque()
        self.ends: deque[int] = deque((-1, -1))
        self.load_from, self.array_free, self.flying = 0, 0, 0

    def run(self) -> None:
        """Until every command is done."""
        decide = {
            _ISSUE: self.issue, _GRANT: self.grant, _DISPATCH: self.dispatch, _ACCEPT: self.accept, _READ: self.read,
            _PORT: self.send,
        }  # fmt: skip
        apply = {
            _TOKENS: self.give, _SPACE: self.room, _FREED: self.freed, _SENT: self.sent, _FLOWN: self.flown,
        }  # fmt: skip
        self.clock.run(apply, decide)
        for index, stop in enumerate(self.stop):
            if stop < 0:
                command = self.commands[index]
                raise CheckError(
                    f"command {index} ({command.engine}, {command.label}) never ends: the program deadlocks"
                )

    def timing(self) -> Timing:
        """The run as a value."""
        activities = tuple(
            Activity(command.engine, command.label, start, stop)
            for command, start, stop in zip(self.commands, self.start, self.stop, strict=True)
        )
        return Timing(max(self.stop) + 1, activities)

    # Sequencer.

    def dispatch(self, t: int, _: int) -> None:
        """The next command goes to its engine's queue if there is room, one per cycle."""
        index = self.dispatched
        if index >= len(self.available):
            return
        visible = max(self.available[index], self.next_dispatch)
        if visible > t:
            self.clock.poke(visible, _DISPATCH)
            return
        engine = ENGINES.index(self.commands[index].engine)
        if len(self.queues[engine]) == ENGINE_QUEUE:
            return
        self.queues[engine].append((index, t + 1))
        self.dispatched, self.next_dispatch = index + 1, t + 1
        self.clock.change(t + 1, _SPACE, 0, self.per)
        self.clock.poke(t + 1, _ACCEPT, engine)
        self.clock.poke(t + 1, _DISPATCH)

    def accept(self, t: int, engine: int) -> None:
        """The engine takes the head of its queue when it is ready and the tokens are there."""
        queue = self.queues[engine]
        if not queue:
            return
        index, visible = queue[0]
        visible = max(visible, self.engine_ready[engine])
        if visible > t:
            if visible < _NEVER:
                self.clock.poke(visible, _ACCEPT, engine)
            return
        if engine == _LINEAR and self.flying == LINEAR_SLOTS:
            return
        command = self.commands[index]
        needs = [(ENGINES.index(name), count) for name, count in command.waits.items()]
        if any(self.tokens[producer][engine] < count for producer, count in needs):
            return
        for producer, count in needs:
            self.tokens[producer][engine] -= count
        queue.popleft()
        self.start[index], self.current[engine], self.engine_ready[engine] = t, index, _NEVER
        begin = (
            self.begin_load,
            self.begin_store,
            self.begin_fetch,
            self.begin_linear,
            self.begin_timed,
            self.begin_timed,
        )
        begin[engine](t, index, command.fields)
        self.clock.poke(t + 1, _DISPATCH)
        self.clock.poke(t + 1, _ACCEPT, engine)

    def finish(self, index: int, done: int, ready: int) -> None:
        """The command's done pulse comes in cycle ``done``; its engine can accept again in ``ready``."""
        self.stop[index] = done
        command = self.commands[index]
        engine = ENGINES.index(command.engine)
        for name, count in command.posts.items():
            self.clock.change(done + 1, _TOKENS, engine * len(ENGINES) + ENGINES.index(name), count)
        if engine != _LINEAR:
            self.engine_ready[engine] = ready
            self.clock.poke(ready, _ACCEPT, engine)

    def give(self, t: int, pair: int, count: int) -> None:
        """Tokens become visible."""
        producer, consumer = divmod(pair, len(ENGINES))
        self.tokens[producer][consumer] += count
        self.clock.poke(t, _ACCEPT, consumer)

    def begin_timed(self, t: int, index: int, fields: Mapping[str, int]) -> None:
        """Attention and vector: the kernel knows how long it takes."""
        kernel = self.times.attention if self.commands[index].engine == "attention" else self.times.vector
        done = t + kernel(fields)
        self.finish(index, done, done + 1)

    # Read path.

    def issue(self, t: int, _: int) -> None:
        """One burst per cycle: the first client that wants one, on the next port in turn."""
        if t < self.next_issue:
            self.clock.poke(self.next_issue, _ISSUE)
            return
        port = self.turn
        returns = self.returns[port]
        while returns and returns[0] <= t:
            returns.popleft()
            self.in_flight[port] -= 1
        self.blocked = self.in_flight[port] == self.memory.outstanding
        if self.blocked:
            if returns:
                self.clock.poke(returns[0], _ISSUE)
            return
        client, words = self._choose(t)
        if client < 0:
            return
        burst = _Burst(_WEIGHTS if client == 2 and self.in_weights else client, words, port)
        self.order.append(burst)
        self.in_flight[port] += 1
        self.dram.request(2 * port, t + 2, words * self.memory.ports, burst)
        self.turn, self.next_issue = (port + 1) % self.memory.ports, t + 1
        self.clock.poke(t + 2, _GRANT)
        if any(other.left for other in self.clients):
            self.clock.poke(t + 1, _ISSUE)
        self._issued(t, client, words)

    def _choose(self, t: int) -> tuple[int, int]:
        """The first client with a burst and room for it; -1 if none."""
        most = BURST_BYTES // self.word
        for client, transfer in enumerate(self.clients):
            if not transfer.left:
                continue
            if transfer.visible > t:
                self.clock.poke(transfer.visible, _ISSUE)
                continue
            words = min(transfer.left, most - transfer.offset)
            space = transfer.space if client < 2 else self.weight_space if self.in_weights else self.table_space
            if space >= words:
                return client, words
        return -1, 0

    def _issued(self, t: int, client: int, words: int) -> None:
        """What a client does behind its request."""
        transfer = self.clients[client]
        transfer.left -= words
        transfer.offset = (transfer.offset + words) % (BURST_BYTES // self.word)
        if client == 0:
            transfer.space -= words
        elif client == 1:
            transfer.space = 0 if self.load_lut else transfer.space
        elif self.in_weights:
            self.weight_space -= words
        else:
            self.table_space -= words
        if client == 2 and not transfer.left:
            if self.in_weights:
                self.finish(self.current[_FETCH], t + 1, t + 2)
            else:
                self.in_weights = True
                transfer.left, transfer.offset, transfer.visible = self.weight_words, self.weight_offset, t + 2
                self.clock.poke(t + 2, _ISSUE)

    def grant(self, t: int, _: int) -> None:
        """The memory grants at most one burst per cycle."""
        index, burst = self.dram.grant(t)
        if burst is None:
            if index < _NEVER:
                self.clock.poke(index, _GRANT)
            return
        if self.dram.waiting:
            self.clock.poke(t + 1, _GRANT)
        beats = burst.words * self.memory.ports
        if index % 2:
            self._granted_write(t, index // 2, beats)
            return
        port = self.ports[index // 2]
        first = max(t + self.memory.read_latency, port.idle_read + 1)
        port.idle_read = first + beats - 1
        burst.complete = port.idle_read + 1
        self._deliver(t)

    def _deliver(self, t: int) -> None:
        """Complete bursts leave in the order of their requests, one bus word per cycle."""
        while self.order and self.order[0].complete >= 0:
            burst = self.order.popleft()
            first = max(burst.complete, self.last_delivery + 1)
            self.last_delivery = first + burst.words - 1
            self.returns[burst.port].append(self.last_delivery + 1)
            if self.blocked and burst.port == self.turn:
                self.clock.poke(self.returns[burst.port][0], _ISSUE)
            if burst.client == 0:
                self._command_words(first + 1, burst.words)
            elif burst.client == 1:
                self._load_words(first + 1, burst.words)
            elif burst.client == _WEIGHTS:
                self._weight_words(first + 1, burst.words)

    def _command_words(self, first: int, words: int) -> None:
        """Command words arrive from cycle ``first`` on."""
        for arrival in range(first, first + words):
            self.command_words += 1
            if self.command_words % self.per == 0:
                self.available.append(arrival + 1)
                self.clock.poke(arrival + 1, _DISPATCH)

    def room(self, t: int, client: int, amount: int) -> None:
        """Room behind a client grows."""
        self.clients[client].space += amount
        self.clock.poke(t, _ISSUE)

    # Load.

    def begin_load(self, t: int, index: int, fields: Mapping[str, int]) -> None:
        """Requests go out from the next cycle on."""
        self._transfer(1, fields["dram"], fields["words"], t + 1)
        self.load_left, self.load_lut = fields["words"], fields["memory"] == len(LOADS) - 1

    def _transfer(self, client: int, dram: int, words: int, visible: int) -> None:
        transfer = self.clients[client]
        transfer.left, transfer.offset, transfer.visible = words, dram % BURST_BYTES // self.word, visible
        self.clock.poke(visible, _ISSUE)

    def _load_words(self, first: int, words: int) -> None:
        """Loaded words are written as they come; the 8-bit tables byte by byte, burst after burst."""
        end = first + words - 1
        if self.load_lut:
            end = first + words * self.word
            self.clock.change(end + 1, _SPACE, 1, BURST_BYTES // self.word)
        self.load_left -= words
        if not self.load_left:
            self.finish(self.current[_LOAD], end + 1, end + 1)

    # Fetch and rings.

    def begin_fetch(self, t: int, index: int, fields: Mapping[str, int]) -> None:
        """Table first, then weights."""
        self.in_weights, self.weight_words = False, fields["weight_words"]
        self._transfer(2, fields["dram"], fields["table_words"], t + 1)
        end = fields["dram"] + fields["table_words"] * self.word
        self.weight_offset = end % BURST_BYTES // self.word

    def _weight_words(self, first: int, words: int) -> None:
        """Weight words become visible to the array one cycle after they are written."""
        for arrival in range(first, first + words):
            self.ring_part += 1
            if self.ring_part == self.weight_ratio:
                self.ring_part = 0
                self.arrivals.append(arrival + 1)
        self._advance()

    def freed(self, t: int, _: int, weights: int) -> None:
        """A tile's weights and table word are free again."""
        self.weight_space += weights * self.weight_ratio
        self.table_space += self.table_ratio
        self.clock.poke(t, _ISSUE)

    # Linear.

    def begin_linear(self, t: int, index: int, fields: Mapping[str, int]) -> None:
        """Cuts the command into row groups for the loader."""
        self.flying += 1
        rows, n_l = fields["rows"], self.p["n_l"]
        for first in range(0, rows, n_l):
            count = min(n_l, rows - first)
            last = first + count == rows
            release = last and bool(fields["flags"] & RELEASE)
            self.loading.append(_Group(index, count, fields["ib"], fields["ob"], count * fields["kw"], release, last))
        self.load_from = t + 1
        self._advance()

    def _advance(self) -> None:
        """Runs loader and array as far as what is known allows; both are static once their operands are."""
        moved = True
        while moved:
            moved = self._load_group()
            moved = self._run_group() or moved

    def _load_group(self) -> bool:
        """Loads the next group as soon as the buffer of the group before the last is free."""
        if not self.loading or not self.ends:
            return False
        group = self.loading.popleft()
        first = max(self.load_from, self.ends.popleft() + 1)
        self.load_from = first + group.load
        group.loaded = self.load_from + 2
        self.loaded.append(group)
        if group.last:
            self.engine_ready[_LINEAR] = self.load_from
            self.clock.poke(self.load_from, _ACCEPT, _LINEAR)
        return True

    def _run_group(self) -> bool:
        """Runs the tiles of the group whose weights are known to arrive; returns whether it is finished."""
        if not self.loaded:
            return False
        group = self.loaded[0]
        ib, spacing = group.ib, max(group.ib, self.p["n_l"])
        arrivals, known = self.arrivals, len(self.arrivals)
        tile, first = self.tile, self.first_issue
        while tile < group.ob:
            need = self.base + (tile + 1) * ib - 1
            if need >= known:
                break
            arrival = arrivals[need]
            if tile == 0:
                first = max(self.array_free, group.loaded, arrival) + 1
            else:
                first = first + spacing if arrival < first + spacing else max(arrival, first + spacing) + 1
            if group.release:
                self.clock.change(first + spacing + self.times.array_latency + group.rows, _FREED, 0, ib)
            tile += 1
        self.tile, self.first_issue = tile, first
        if tile < group.ob:
            return False
        self._end_group(group, first, spacing)
        return True

    def _end_group(self, group: _Group, first: int, spacing: int) -> None:
        """The last tile of a group was issued from cycle ``first`` on."""
        self.loaded.popleft()
        self.tile = 0
        self.array_free = first + spacing
        self.ends.append(first + spacing - 1)
        if group.release:
            self.base += group.ob * group.ib
        if group.last:
            complete = first + spacing - 1 + self.times.array_latency
            done = complete + self.times.drain_latency + group.rows
            self.finish(group.command, done, done + 1)
            self.clock.change(done + 1, _FLOWN, 0, 1)

    def flown(self, t: int, _: int, count: int) -> None:
        """A slot for commands in flight is free again."""
        self.flying -= count
        self.clock.poke(t, _ACCEPT, _LINEAR)

    # Store.

    def begin_store(self, t: int, index: int, fields: Mapping[str, int]) -> None:
        """Reading begins in the next cycle."""
        self.store_left, self.store_offset = fields["words"], fields["dram"] % BURST_BYTES // self.word
        self.store_next, self.last_answer = t + 1, 0
        self.clock.poke(t + 1, _READ)

    def read(self, t: int, _: int) -> None:
        """Reads the next burst into the buffer of its port when one is free."""
        if not self.store_left:
            return
        if t < self.store_next:
            self.clock.poke(self.store_next, _READ)
            return
        port = self.ports[self.store_turn]
        if port.buffers == 2:
            return
        words = min(self.store_left, BURST_BYTES // self.word - self.store_offset)
        port.buffers += 1
        port.waiting.append((t + words + 2, words))
        self.clock.poke(t + words + 2, _PORT, self.store_turn)
        self.store_left -= words
        self.store_offset = (self.store_offset + words) % (BURST_BYTES // self.word)
        self.store_turn = (self.store_turn + 1) % len(self.ports)
        self.store_next = t + words
        self.unanswered += 1
        self.clock.poke(self.store_next, _READ)

    def send(self, t: int, index: int) -> None:
        """An idle port offers its oldest whole burst to the memory."""
        port = self.ports[index]
        if port.busy or not port.waiting:
            return
        visible, words = port.waiting[0]
        if visible > t:
            self.clock.poke(visible, _PORT, index)
            return
        accepted = t + 1
        while port.answers and port.answers[0] < accepted:
            port.answers.popleft()
        if len(port.answers) == self.memory.outstanding:
            accepted = port.answers[0] + 1
        port.busy = True
        self.dram.request(2 * index + 1, accepted + 1, words * len(self.ports), _Burst(-1, words, index))
        self.clock.poke(accepted + 1, _GRANT)

    def _granted_write(self, t: int, index: int, beats: int) -> None:
        """The burst's beats follow; the port is idle behind the last, the answer comes later."""
        port = self.ports[index]
        port.waiting.popleft()
        last = t + beats
        self.clock.change(last + 1, _SENT, index, 1)
        answer = last + self.memory.write_latency
        port.answers.append(answer)
        self.last_answer = max(self.last_answer, answer)
        self.unanswered -= 1
        if not self.unanswered and not self.store_left:
            self.finish(self.current[_STORE], self.last_answer + 2, self.last_answer + 2)

    def sent(self, t: int, index: int, count: int) -> None:
        """A port has sent a burst: its buffer is free and it is idle."""
        self.ports[index].buffers -= count
        self.ports[index].busy = False
        self.clock.poke(t, _READ)
        self.clock.poke(t, _PORT, index)
