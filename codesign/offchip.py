"""The off-chip side of the accelerator: who asks for bursts, what the memory grants, when data is there.

Reads of four clients and the writes of the store engine share the memory. Behind every grant
all that follows from it is known at once, so time passes in only two kinds of steps: a read
is requested, or a burst is granted. Times count as in `codesign.machine`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from codesign.design import Design

BURST_BYTES = 256
COMMANDS, LOAD, TABLE, WEIGHTS, STORE = range(5)
"""Clients of the memory; those that read in the order of their priority."""
NEVER = 1 << 60

Clock = list[tuple[int, int]]
"""What else happens, as a heap of cycle and engine; never empty."""
Told = tuple[int, int, int, int]
"""What is told when: step, client, cycle, count. COMMANDS: so many words arrive from that cycle on; LOAD and
STORE: the transfer is done; TABLE: the last word of a fetch is requested; WEIGHTS: the list of arrivals grew."""


@dataclass(slots=True)
class _Client:
    """A reader.

    Attributes:
        left, offset: bus words that it still wants, and the place of the next in its burst.
        space, coming: words that it has room for; room to come as (first cycle, words).
        visible: first cycle to ask in.
        single: whether a burst takes all the room.
    """

    who: int
    left: int = 0
    offset: int = 0
    space: int = 0
    visible: int = 0
    single: bool = False
    coming: deque[tuple[int, int]] = field(default_factory=deque)

    def has_room(self, most: int) -> bool:
        """Whether room for the next burst is known to be there, from cycle ``visible`` on."""
        words = min(self.left, most - self.offset)
        while self.space < words:
            if not self.coming:
                return False
            at, more = self.coming.popleft()
            self.space += more
            self.visible = max(self.visible, at)
        return True


@dataclass(slots=True)
class _Burst:
    """A read under way: client, bus words, first cycle to grant it in, first cycle in which it is complete."""

    who: int
    words: int
    ready: int
    complete: int = -1


@dataclass(slots=True)
class _WritePort:
    """A write port.

    Attributes:
        buffers: from when on its free buffers are so; it has two.
        answers: when the last answers came, as many as there may be unanswered bursts.
        waiting: bursts read, as (first cycle to offer it, words).
        idle: first cycle behind the last beat.
        busy: whether a burst is offered and not yet granted.
    """

    buffers: deque[int]
    answers: deque[int]
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    idle: int = 0
    busy: bool = False


class OffChip:
    """Memory, read path and store engine of one design; begins idle with a full bandwidth bucket."""

    def __init__(self, design: Design) -> None:
        self.memory = memory = design.board.memory
        self.word, self.most = design.word_bytes, BURST_BYTES // design.word_bytes
        self.ratio = design.linear["t_in"] * design.linear["t_out"] // self.word
        self.arrivals: list[int] = []
        self.told: list[Told] = []
        self.clients = tuple(_Client(who) for who in range(4))
        self._reset_memory()
        ports, outstanding = memory.ports, memory.outstanding
        self.order: deque[_Burst] = deque()
        self.bursts = ports * outstanding
        self.slots = deque([0] * self.bursts)
        self.issue_turn, self.issue_from, self.issuer, self.rival = 0, 0, self.clients[0], 0
        self.after = [*range(1, ports), 0]
        self.delivered, self.undelivered, self.part, self.weights = 0, 0, 0, (0, 0)
        self.crucial = self.wanted = NEVER
        self.ports = [_WritePort(deque([0, 0]), deque([0] * outstanding)) for _ in range(ports)]
        self.store_left, self.store_offset, self.store_from, self.store_turn = 0, 0, 0, 0
        self.unanswered, self.last_answer = 0, 0
        self.issue_at, self.grant_at, self.stale, self.touched = NEVER, NEVER, True, True

    def _reset_memory(self) -> None:
        memory, count = self.memory, 2 * self.memory.ports
        self.latency, self.gain = memory.read_latency, memory.bytes_numerator
        self.cost = memory.bytes_denominator * self.word
        self.full = BURST_BYTES * memory.bytes_denominator
        self.credit, self.credit_at, self.turn, self.grant_from, self.granted = self.full, 0, 0, 0, 0
        self.grants, self.change = 0, 0
        self.rounds = [(*range(turn, count), *range(turn)) for turn in range(count)]
        self.heads, self.words = [NEVER] * count, [0] * count
        self.reads: list[deque[_Burst]] = [deque() for _ in range(memory.ports)]
        self.data_free = [0] * memory.ports

    # What the rest of the accelerator wants.

    def begin_list(self, words: int, offset: int, space: int) -> None:
        """The command list, from cycle 1 on."""
        self._begin(COMMANDS, words, offset, 1).space = space

    def begin_load(self, t: int, dram: int, words: int, *, lut: bool) -> None:
        """Load accepted in cycle ``t``; the 8-bit tables are written byte by byte, burst after burst."""
        client = self._begin(LOAD, words, self._place(dram), t + 1)
        client.space, client.single = self.most if lut else words, lut
        client.coming.clear()
        self.undelivered = words

    def begin_fetch(self, t: int, dram: int, table: int, weights: int) -> None:
        """Fetch accepted in cycle ``t``: table first, then weights."""
        self._begin(TABLE, table, self._place(dram), t + 1)
        self.weights = weights, self._place(dram + table * self.word)

    def begin_store(self, t: int, dram: int, words: int) -> None:
        """Store accepted in cycle ``t``."""
        self._touch()
        self.store_left, self.store_offset, self.store_from, self.last_answer = words, self._place(dram), t + 1, 0
        self.store_turn = 0

    def room(self, who: int, t: int, words: int) -> None:
        """A client has more room from cycle ``t`` on."""
        client = self.clients[who]
        if client.left and (who == COMMANDS or client.space < self.most):
            self._touch()
        if client.left or who != COMMANDS:
            client.coming.append((t, words))

    def _place(self, dram: int) -> int:
        return dram % BURST_BYTES // self.word

    def _begin(self, who: int, words: int, offset: int, visible: int) -> _Client:
        self._touch()
        client = self.clients[who]
        client.left, client.offset, client.visible = words, offset, visible
        return client

    def _touch(self) -> None:
        """Called before anything is wanted."""
        self.touched = True

    def look(self) -> tuple[object, ...] | None:
        """All that the future depends on but the words left of the command list; None if that is not known in short."""
        return None

    # Time.

    def advance(self, clock: Clock, hear: Callable[[int, int, int], None]) -> None:
        """Lets time pass to the end of the clock's next cycle, and tells what is to tell; so the clock may change."""
        while True:
            if self.touched:
                self._resume()
            told = self._run(clock[0][0], NEVER)
            if not told:
                return
            for _, client, time, count in told:
                hear(client, time, count)

    def _resume(self) -> None:
        """Takes in what was wanted since the last step."""
        self.touched, self.stale = False, True
        self._read()
        self._plan_issue()

    def _run(self, limit: int, grants: int) -> list[Told]:
        """Does steps until something is to tell, cycle ``limit`` is over or there have been so many grants."""
        told: list[Told] = []
        self.told = told
        while not told:
            if self.stale:
                self._plan_grant()
            t = self.grant_at
            if self.issue_at <= t:
                if self.issue_at > limit:
                    break
                self._issue(limit)
                continue
            if t > limit or self.grants >= grants:
                break
            index = self.granted
            self.credit, self.credit_at, self.grant_from, self.stale = self.change, t, t + 1, True
            self.turn = self.rounds[index][1]
            self.grants += 1
            if index & 1:
                self._grant_write(t, index)
            else:
                self._grant_read(t, index)
        return told

    # Read requests.

    def _plan_issue(self) -> None:
        """Finds who asks next, and when: the first client in the first cycle that any can."""
        self.issue_at = self.rival = NEVER
        if not self.slots:
            return
        first = self.slots[0] if self.slots[0] > self.issue_from else self.issue_from
        for client in self.clients:
            if client.left and (client.space >= self.most or client.has_room(self.most)):
                at = client.visible if client.visible > first else first
                if at < self.issue_at:
                    self.rival, self.issue_at, self.issuer = self.issue_at, at, client
                    if at == first:
                        break

    def _issue(self, limit: int) -> None:
        """Requests one burst per cycle, on the ports in turn, while the client is the first to ask.

        Behind a cycle in which nothing is under way the first port is next.
        """
        client, slots, at, most, turn = self.issuer, self.slots, self.issue_at, self.most, self.issue_turn
        if len(slots) == self.bursts and slots[-1] < at:
            turn = 0
        last = min(limit, self.grant_at, self.rival - 1)
        while True:
            words = client.left if client.left + client.offset < most else most - client.offset
            if client.space < words:
                break
            slots.popleft()
            burst, queue = _Burst(client.who, words, at + 2), self.reads[turn]
            self.order.append(burst)
            if not queue:
                self.heads[2 * turn], self.words[2 * turn] = at + 2, words
                if at + 2 <= self.grant_at:
                    self.stale, last = True, at
            queue.append(burst)
            turn = self.after[turn]
            client.left -= words
            client.offset = (client.offset + words) % most
            client.space = 0 if client.single else client.space - words
            free = at = at + 1
            if not (client.left and slots):
                break
            at = slots[0] if slots[0] > at else at
            if at > last:
                break
        self.issue_turn, self.issue_from = turn, free
        if not client.left:
            self._asked(free - 1, client)
        self._plan_issue()

    def _asked(self, t: int, client: _Client) -> None:
        """A client has asked for its last word in cycle ``t``."""
        if client.who == TABLE:
            weights = self.clients[WEIGHTS]
            weights.left, weights.offset = self.weights
            weights.visible = t + 2
        elif client.who == WEIGHTS:
            self.told.append((t, TABLE, t + 1, 1))

    # Grants.

    def _plan_grant(self) -> None:
        """Finds what is granted next, and when, if nothing else is requested until then.

        Of the requests that are ready the first in turn is served as soon as the bucket holds enough;
        one before it in turn may become ready until then. Behind an idle cycle the turn begins anew.
        """
        self.stale, heads = False, self.heads
        t = min(heads)
        if t == NEVER:
            self.grant_at = NEVER
            return
        if t > self.grant_from:
            self.turn = 0
        else:
            t = self.grant_from
        have, full = self.credit + self.gain * (t - self.credit_at), self.full
        if have > full:
            have = full
        while True:
            sooner = NEVER
            for index in self.rounds[self.turn]:
                ready = heads[index]
                if ready <= t:
                    break
                if ready < sooner:
                    sooner = ready
            cost = self.words[index] * self.cost
            if have < cost:
                wait = -((have - cost) // self.gain)
                if sooner <= t + wait:
                    have, t = min(have + self.gain * (sooner - t), full), sooner
                    continue
                t += wait
                have += self.gain * wait
                if have > full:
                    have = full
            self.grant_at, self.granted, self.change = t, index, have - cost
            return

    def _grant_read(self, t: int, index: int) -> None:
        """Data comes a latency later, one beat per cycle; complete bursts leave in the order of their requests."""
        port = index // 2
        queue = self.reads[port]
        burst = queue.popleft()
        if queue:
            self.heads[index], self.words[index] = queue[0].ready, queue[0].words
        else:
            self.heads[index] = NEVER
        first, free = t + self.latency, self.data_free[port]
        burst.complete = self.data_free[port] = (first if first > free else free) + burst.words * len(self.reads)
        order = self.order
        if order[0] is burst:
            blocked = not self.slots
            while order and order[0].complete >= 0:
                self._deliver(t, order.popleft())
            if blocked:
                self._plan_issue()

    def _deliver(self, t: int, burst: _Burst) -> None:
        """A whole burst goes to its client, one bus word per cycle."""
        first = burst.complete if burst.complete > self.delivered else self.delivered
        words, who = burst.words, burst.who
        self.delivered = end = first + words
        self.slots.append(end)
        if who == WEIGHTS:
            self.part += words
            if self.part >= self.ratio:
                ahead = self.part - words
                self.part %= self.ratio
                self.arrivals.extend(range(first + 1 + self.ratio - ahead, end + 2, self.ratio))
                self.told.append((t, WEIGHTS, 0, 0))
        elif who == LOAD:
            self._loaded(t, first + 1, words)
        elif who == COMMANDS:
            self.told.append((t, COMMANDS, first + 1, words))

    def _loaded(self, t: int, first: int, words: int) -> None:
        """Words of a load arrive from cycle ``first`` on."""
        end, client = first + words, self.clients[LOAD]
        if client.single:
            end = first + words * self.word + 1
            client.coming.append((end, self.most))
            self._plan_issue()
        self.undelivered -= words
        if not self.undelivered:
            self.told.append((t, LOAD, end, 1))

    # Store.

    def _read(self) -> None:
        """Reads bursts into the buffers of the ports in turn, as far as buffers are known to become free."""
        while self.store_left:
            turn = self.store_turn
            port = self.ports[turn]
            if not port.buffers:
                return
            at = max(port.buffers.popleft(), self.store_from)
            words = min(self.store_left, self.most - self.store_offset)
            self.store_from = at + words
            self.store_left -= words
            self.store_offset = (self.store_offset + words) % self.most
            self.store_turn = self.after[turn]
            self.unanswered += 1
            port.waiting.append((at + words + 2, words))
            if not port.busy:
                self._offer(turn, port)

    def _offer(self, index: int, port: _WritePort) -> None:
        """An idle port offers its oldest whole burst to the memory."""
        at, words = port.waiting.popleft()
        port.busy = True
        self.heads[2 * index + 1] = max(at, port.idle, port.answers.popleft()) + 2
        self.words[2 * index + 1] = words

    def _grant_write(self, t: int, index: int) -> None:
        """The burst's beats follow; the port is idle behind the last, the answer comes later."""
        port = self.ports[index // 2]
        end = t + self.words[index] * len(self.ports)
        answer = end + self.memory.write_latency
        port.busy, port.idle = False, end + 1
        port.buffers.append(end + 1)
        port.answers.append(answer)
        self.heads[index] = NEVER
        if port.waiting:
            self._offer(index // 2, port)
        if self.store_left:
            self._read()
        self.last_answer = answer if answer > self.last_answer else self.last_answer
        self.unanswered -= 1
        if not self.unanswered:
            self.told.append((t, STORE, self.last_answer + 2, 1))
