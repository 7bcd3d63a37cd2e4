"""The off-chip side again, but steps whose outcome is known are left out.

- A train: when the whole state recurs while bursts of the same clients go on, the bursts
  until the next thing that differs follow by arithmetic.
- An episode: what follows when loads and stores begin while everything rests is told again from
  the first time. Until it is over the state stays as it was at its begin; if anything is wanted
  before, its steps are done after all up to there.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from codesign.board import Memory
from codesign.design import Design
from codesign.offchip import COMMANDS, LOAD, NEVER, STORE, TABLE, WEIGHTS, Clock, OffChip, Told, _Burst, _Client

_TRAIN = 16
"""Fewest grants between two looks for a train; a whole number of turns and of the bucket's periods."""


_GLIDE, _LEAST = 1 << 12, 16
"""Bursts that are granted at once, at most and at least."""
_KNOWN = 4096
"""Most episodes kept of one memory; with more all are forgotten."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """The state behind a grant: its cycle, all that the future depends on as seen from there, and what runs down."""

    t: int
    shape: tuple[object, ...]
    left: tuple[int, ...]
    space: tuple[int, ...]
    arrivals: int


@dataclass(frozen=True, slots=True)
class _Episode:
    """An episode, its times counted from its begin.

    Attributes:
        told: what it tells of loads and stores.
        loads: step and first cycle of every burst for the load.
        cycles: until everything rests.
    """

    told: tuple[Told, ...]
    loads: list[tuple[int, int]]
    cycles: int

    def told_with(self, borrowed: int, words: int) -> list[Told]:
        """What it tells if one of the load's bursts is in truth the command list's; none if negative."""
        if borrowed < 0:
            return list(self.told)
        step, first = self.loads[borrowed]
        return sorted([(step, COMMANDS, first, words), *self.told])


@dataclass(slots=True)
class _Tale:
    """An episode that begins in cycle ``t``; the first ``done`` parts are told. The state stays as it was in ``t``."""

    key: tuple[int, ...]
    told: list[Told]
    t: int
    episode: _Episode
    done: int = 0


@dataclass(slots=True)
class _Tape:
    """An episode that is recorded."""

    key: tuple[int, ...]
    t: int
    told: list[Told] = field(default_factory=list)
    loads: list[tuple[int, int]] = field(default_factory=list)


@lru_cache(maxsize=16)
def _episodes(memory: Memory, word_bytes: int) -> dict[tuple[int, ...], _Episode]:
    """The episodes known of a memory; they depend on nothing else, so all programs on it share them."""
    return {}


class Shortcuts(OffChip):
    """Tells exactly what `OffChip` tells, in fewer steps."""

    def __init__(self, design: Design) -> None:
        super().__init__(design)
        self.stride = 2 * len(self.ports) * self.gain // gcd(self.gain, self.full)
        self.stride *= -(-_TRAIN // self.stride)
        self.pace = -(-self.full // self.gain)
        self.paced, self.worth = self.pace >= self.most, _LEAST * self.most
        self.mark: _Mark | None = None
        self.episodes = _episodes(self.memory, self.word)
        self.tale: _Tale | None = None
        self.tape: _Tape | None = None
        self.now, self.quiet_from, self.borrowed = 0, NEVER, -1

    def advance(self, clock: Clock, hear: Callable[[int, int, int], None]) -> None:
        """As `OffChip.advance`."""
        while True:
            if self.touched:
                self._start()
            if self.tale is not None:
                self._retell(self.tale, clock, hear)
                if self.touched:
                    continue
                return
            told = self._alone(clock[0][0]) or self._run(clock[0][0], self.stride)
            if not told:
                if self.grants < self.stride:
                    break
                told = self._ride(clock[0][0])
            elif self.tape is not None:
                self.tape.told += told
            for self.now, client, time, count in told:
                hear(client, time, count)
        self.now = clock[0][0]
        self._rest()

    def look(self) -> tuple[object, ...] | None:
        """As `OffChip.look`; None unless an episode begins now."""
        if not self.touched or self.quiet_from > self.now:
            return None
        self._start()
        begun = self.tale or self.tape
        if begun is None:
            return None
        rooms: list[object] = []
        for client in (self.clients[COMMANDS], self.clients[TABLE], self.clients[WEIGHTS]):
            coming = client.coming
            while coming and coming[0][0] <= self.now:
                client.space += coming.popleft()[1]
            later = tuple([(at - self.now, words) for at, words in coming])
            rooms.append((client.space, client.offset, max(client.visible - self.now, 0), later))
        return begun.key, max(self.borrowed, -1), self.part, *rooms

    # Episodes.

    def _start(self) -> None:
        """Something is wanted: tells a known episode, records a new one, or goes on step by step."""
        key = self._key() if self.quiet_from <= self.now else None
        self.mark, self.quiet_from = None, NEVER
        if key is not None and key in self.episodes:
            episode, self.touched = self.episodes[key], False
            self.tale = _Tale(key, episode.told_with(self.borrowed, self.most), self.now, episode)
            return
        self.tape = _Tape(key, self.now) if key is not None else None
        self._resume()

    def _key(self) -> tuple[int, ...] | None:
        """All that an episode depends on that begins now, None if it is not one: loads and stores and nothing else."""
        load = self.clients[LOAD]
        if self.clients[TABLE].left or not (load.left or self.store_left) or not self._borrow():
            return None
        mine = (load.left, load.offset, load.single) if load.left else (0, 0, 0)
        return *mine, self.store_left, self.store_offset if self.store_left else 0

    def _borrow(self) -> bool:
        """Lets the load ask in place of the command list, if it asks for the same bursts in the same cycles then.

        Returns:
            Whether the command list has nothing to ask for now.
        """
        commands, load, most = self.clients[COMMANDS], self.clients[LOAD], self.most
        if not (commands.left and commands.has_room(most)):
            return True
        place = max(commands.visible - self.now - 1, 0)
        alike = not (load.single or load.offset or load.left % most or commands.offset) and commands.left >= most
        second = min(most, commands.left - most)
        again = second and commands.space + sum([words for _, words in commands.coming]) >= most + second
        if not alike or again or place >= min(load.left // most, len(self.slots)):
            return False
        commands.left -= most
        commands.space -= most
        load.left += most
        load.space += most
        self.borrowed = place
        return True

    def _loaded(self, t: int, first: int, words: int) -> None:
        if self.tape is not None:
            self.tape.loads.append((t - self.tape.t, first - self.tape.t))
        self.borrowed -= 1
        if self.borrowed == -1:
            self.told.append((t, COMMANDS, first, words))
        else:
            OffChip._loaded(self, t, first, words)

    def _rest(self) -> None:
        """Ends an episode when nothing is under way."""
        if self.quiet_from < NEVER or self.issue_at < NEVER or self.grant_at < NEVER or self.clients[WEIGHTS].left:
            return
        quiet = max(self.delivered, self.issue_from, self.store_from)
        quiet = max(quiet, self.credit_at - (self.credit - self.full) // self.gain)
        for port in self.ports:
            quiet = max(quiet, port.idle, port.answers[-1])
        self.quiet_from = max(quiet, self.clients[COMMANDS].visible)
        if self.tape is not None:
            tape, self.tape = self.tape, None
            told = [
                (step - tape.t, what, time - tape.t, count) for step, what, time, count in tape.told if what != COMMANDS
            ]
            if len(self.episodes) >= _KNOWN:
                self.episodes.clear()
            self.episodes[tape.key] = _Episode(tuple(told), tape.loads, quiet - tape.t)

    def _retell(self, tale: _Tale, clock: Clock, hear: Callable[[int, int, int], None]) -> None:
        """Tells a known episode, step by step until something is wanted."""
        t, parts = tale.t, tale.told
        while tale.done < len(parts):
            step, client, time, count = parts[tale.done]
            if t + step > clock[0][0] or (self.touched and t + step > self.now):
                break
            tale.done += 1
            self.now = t + step
            hear(client, t + time, count)
        if not self.touched:
            self.now = clock[0][0]

    def _touch(self) -> None:
        self.touched, self.tape, tale = True, None, self.tale
        if tale is None:
            return
        self.tale = None
        if self.now >= tale.t + tale.episode.cycles:
            self._end(tale)
            return
        self._resume()
        while self._run(self.now, NEVER):
            pass
        self.touched = True

    def _end(self, tale: _Tale) -> None:
        """Brings the state behind a whole episode."""
        self.clients[LOAD].left = self.store_left = 0
        self.credit, self.credit_at, self.borrowed = self.full, tale.t + tale.episode.cycles, -1
        self.quiet_from = max(self.credit_at, self.clients[COMMANDS].visible)

    # Weights alone.

    def _alone(self, limit: int) -> list[Told]:
        """Steps while weights are all that is asked for; none if they are not, or if nobody need know."""
        client = self.clients[WEIGHTS]
        if self.store_left or not client.left or min(self.heads[1::2]) < NEVER:
            return []
        for other in self.clients[:WEIGHTS]:
            if other.left and (other.single or other.has_room(self.most)):
                return []
        long = self.paced and min(client.left, self._known_room()) >= self.worth and len(self.order) >= len(self.reads)
        told = self._glide(limit) if long else []
        if told or not all(burst.complete < 0 for burst in self.order):
            return told
        return self._flow(limit)

    def _flow(self, limit: int) -> list[Told]:
        """As `_run` for weights alone, but tells of them only where the array or the ring waits for somebody to know.

        Requests are granted in their order; where a turn that begins anew might find a later one first, it ends.
        """
        client, slots, most, told = self.clients[WEIGHTS], self.slots, self.most, list[Told]()
        queue = deque([(burst.ready, burst.words, burst.who) for burst in self.order])
        self.told, tail, known = told, self.issue_turn, len(self.arrivals)
        head = (tail - len(queue)) % len(self.reads)
        port, moved = (self.turn + 1) // 2 % len(self.reads), 0
        while not told:
            at = t = NEVER
            if moved >= 8 and self.paced and client.left >= self.worth and self._known_room() >= self.worth:
                break
            if client.left and slots:
                if client.space >= most or client.has_room(most):
                    at = max(client.visible, self.issue_from, slots[0])
                elif len(self.arrivals) > max(known, self.wanted):
                    told.append((self.credit_at, WEIGHTS, 0, 0))
                    break
            if queue:
                ready, words, who = queue[0]
                idle = ready > self.grant_from
                t = ready if idle else self.grant_from
                have, cost = min(self.credit + self.gain * (t - self.credit_at), self.full), words * self.cost
                if have < cost:
                    wait = -((have - cost) // self.gain)
                    have, t = min(have + self.gain * wait, self.full), t + wait
                    if idle and head and (at + 2 <= t or (len(queue) > 1 and queue[1][0] <= t)):
                        break
                if head != port and not idle:
                    break
            if at > limit and t > limit:
                break
            if at <= t:
                if len(slots) == self.bursts and slots[-1] < at:
                    head = tail = 0
                queue.append((at + 2, self._take(client, at), WEIGHTS))
                tail = self.after[tail]
                if not client.left:
                    told.append((at, TABLE, at + 1, 1))
                continue
            queue.popleft()
            self.credit, self.credit_at, self.grant_from, self.turn = have - cost, t, t + 1, self.rounds[2 * head][1]
            self._arrive(t, head, words, who)
            moved += 1
            head = port = self.after[head]
            if len(self.arrivals) > (self.crucial if at < NEVER else self.wanted) and len(self.arrivals) > known:
                told.append((t, WEIGHTS, 0, 0))
        self.issue_turn = tail
        self._settle(queue, head)
        return told

    def _take(self, client: _Client, at: int) -> int:
        """A request in cycle ``at``; returns its words."""
        words = min(client.left, self.most - client.offset)
        self.slots.popleft()
        client.left -= words
        client.space -= words
        client.offset = (client.offset + words) % self.most
        self.issue_from = at + 1
        return words

    def _arrive(self, t: int, port: int, words: int, who: int) -> None:
        """What follows from a grant in cycle ``t``, if all before are granted."""
        first, free = t + self.latency, self.data_free[port]
        complete = self.data_free[port] = (first if first > free else free) + words * len(self.reads)
        if who != WEIGHTS:
            return self._deliver(t, _Burst(who, words, t, complete))
        first = complete if complete > self.delivered else self.delivered
        self.delivered = end = first + words
        self.slots.append(end)
        ahead, ratio = self.part, self.ratio
        self.part = (ahead + words) % ratio
        if ahead + words >= ratio:
            self.arrivals.extend(range(first + 1 + ratio - ahead, end + 2, ratio))
        return None

    def _glide(self, limit: int) -> list[Told]:
        """Grants many bursts at once while the bandwidth alone holds them back.

        A burst of full length takes the whole bucket, so grants are a fixed number of cycles apart, port after port,
        as long as the next request of the port in turn is there in time; where one is not, this ends.
        """
        client, ports, most = self.clients[WEIGHTS], len(self.reads), self.most
        count = min((client.left - 1) // most, self._known_room() // most, _GLIDE)
        if self.stale:
            self._plan_grant()
        begin, port = self.grant_at, self.granted // 2
        if begin > limit or not self._in_turn(port) or self.clients[WEIGHTS].offset:
            return []
        grants = min(len(self.order) + count, (limit - begin) // self.pace + 1)
        times = begin + self.pace * np.arange(grants)
        place = np.add.outer(np.arange(-(-grants // ports)) * ports, self._oldest(port)).ravel()[:grants]
        complete = np.full(len(self.order) + max(count, int(place.max()) + 1), -1)
        complete[: len(self.order)] = [burst.complete for burst in self.order]
        complete[place] = times + (self.latency + most * ports)
        asked = self._asks(np.array(self.slots, np.int64), self._ends(complete), count)
        ready = np.concatenate([np.array([burst.ready for burst in self.order], np.int64), asked + 2])
        ahead = times <= asked[-1] if 0 < count == len(asked) else times >= (0 if count else NEVER)
        done = min(self._in_time(place, ready, times), int(np.count_nonzero(ahead)))  # behind the last nothing is known
        if done < _LEAST or any(free + most * ports > complete[i] for free, i in self._frees(port, place)):
            return []
        complete[place[done:]] = -1
        last = int(times[done - 1])
        asked = asked[: int(np.searchsorted(asked, last, "right"))]
        self.turn = self.rounds[2 * ((port + done - 1) % ports)][1]
        self.credit, self.credit_at, self.grant_from, self.stale = 0, last, last + 1, True
        for i in place[max(0, done - ports) : done].tolist():
            self.data_free[(self.issue_turn - len(self.order) + i) % ports] = int(complete[i])
        self._glided(ready, complete, asked)
        return [(last, WEIGHTS, 0, 0)]

    def _in_turn(self, port: int) -> bool:
        """Whether only weights in bursts of full length are under way, and the next grant is of the port in turn."""
        reads = self.reads[port]
        if port != (self.turn + 1) // 2 % len(self.reads) or not reads or reads[0].ready > self.grant_from:
            return False
        return all(burst.who == WEIGHTS and burst.words == self.most for burst in self.order)

    def _oldest(self, port: int) -> list[int]:
        """Places in the order of the next request to be granted of every port, from the given one on."""
        found, ports, flying = [], len(self.reads), len(self.order)
        for turn in range(ports):
            waiting = len(self.reads[(port + turn) % ports])
            place = (port + turn - self.issue_turn) % ports  # of the next request on this port, behind the order
            found.append(flying + place - waiting * ports)
        return found

    def _frees(self, port: int, place: NDArray[np.int64]) -> list[tuple[int, int]]:
        """When the data of every port is free, and the place of its next burst."""
        ports = len(self.reads)
        return [(self.data_free[(port + turn) % ports], int(place[turn])) for turn in range(ports)]

    def _ends(self, complete: NDArray[np.int64]) -> NDArray[np.int64]:
        """When bursts are handed over, as far as all before them are granted."""
        missing = np.flatnonzero(complete < 0)
        steps = self.most * np.arange(int(missing[0]) if len(missing) else len(complete))
        soonest = np.maximum(complete[: len(steps)], self.delivered) - steps
        return np.asarray(np.maximum.accumulate(soonest) + steps + self.most)

    def _asks(self, slots: NDArray[np.int64], ends: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Cycles of at most so many requests, each as soon as its slot is free."""
        free = np.concatenate([slots, ends])[:count]
        steps = np.arange(len(free))
        soonest = np.maximum(free, np.maximum(self._rooms(len(free)), self.issue_from))
        return np.asarray(np.maximum.accumulate(soonest - steps) + steps)

    def _known_room(self) -> int:
        """Words of room for weights that there are or are known to come."""
        client = self.clients[WEIGHTS]
        return client.space + sum([words for _, words in client.coming])

    def _rooms(self, count: int) -> NDArray[np.int64]:
        """First cycles in which there is room for so many bursts, one after the other."""
        client = self.clients[WEIGHTS]
        have = np.cumsum([client.space, *[words for _, words in client.coming]])
        since = np.maximum.accumulate([client.visible, *[at for at, _ in client.coming]])
        return np.asarray(since[np.searchsorted(have, self.most * np.arange(1, count + 1))])

    def _in_time(self, place: NDArray[np.int64], ready: NDArray[np.int64], times: NDArray[np.int64]) -> int:
        """How many grants find their requests there, and end before what somebody waits for arrives."""
        there = place < len(ready)
        late = np.flatnonzero(~there | (ready[np.minimum(place, len(ready) - 1)] > np.append(NEVER, times[:-1] + 1)))
        done = int(late[0]) if len(late) else len(place)
        if self.crucial < NEVER:
            news = ((self.crucial - len(self.arrivals) + 1) * self.ratio - self.part - 1) // self.most
            before = np.flatnonzero(place <= news)
            done = min(done, int(before[-1]) if len(before) else 0)
        return done

    def _glided(self, ready: NDArray[np.int64], complete: NDArray[np.int64], asked: NDArray[np.int64]) -> None:
        """Hands over what is complete, and brings the order behind so many requests."""
        client, ports, most, flying = self.clients[WEIGHTS], len(self.reads), self.most, len(self.order) + len(asked)
        ends = self._ends(complete[:flying])
        for port in range(ports):
            self.reads[port].clear()
            self.heads[2 * port] = NEVER
        self.issue_turn = turn = (self.issue_turn + len(asked)) % ports
        bursts = zip(ready[len(ends) : flying].tolist(), complete[len(ends) : flying].tolist(), strict=True)
        self.order = deque([_Burst(WEIGHTS, most, at, end) for at, end in bursts])
        turn = (turn - len(self.order)) % ports
        for burst in self.order:
            if burst.complete < 0:
                if not self.reads[turn]:
                    self.heads[2 * turn], self.words[2 * turn] = burst.ready, most
                self.reads[turn].append(burst)
            turn = self.after[turn]
        if len(ends):
            self.delivered = int(ends[-1])
            words = np.add.outer(ends, np.arange(2 - most, 2)).ravel()
            self.arrivals.extend(words[self.ratio - self.part - 1 :: self.ratio].tolist())
            self.part = (self.part + len(words)) % self.ratio
        self.slots.extend(ends.tolist())
        for at in asked.tolist():
            self.slots.popleft()
            self.issue_from = at + 1
        client.left -= len(asked) * most
        client.space -= len(asked) * most
        while client.space < 0:
            since, more = client.coming.popleft()
            client.space += more
            client.visible = max(client.visible, since)
        self._plan_issue()

    def _settle(self, queue: deque[tuple[int, int, int]], head: int) -> None:
        """Brings the state behind steps of `_flow`."""
        for at, port in enumerate(self.reads):
            port.clear()
            self.heads[2 * at] = NEVER
        self.order.clear()
        for ready, words, who in queue:
            burst, port = _Burst(who, words, ready), self.reads[head]
            self.order.append(burst)
            if not port:
                self.heads[2 * head], self.words[2 * head] = ready, words
            port.append(burst)
            head = self.after[head]
        self.stale = True
        self._plan_issue()

    # Trains.

    def _ride(self, limit: int) -> list[Told]:
        """Leaps over whole periods if the state recurs."""
        self.grants = 0
        if max(self.store_left, *[client.left for client in self.clients[LOAD:]]) < 2 * self.stride * self.most:
            self.mark = None
            return []
        last, self.mark = self.mark, self._look()
        if last is None or last.shape != self.mark.shape:
            return []
        period = self.mark.t - last.t
        newest = max(self.mark.t, self.issue_from - 1)
        repeats = min((limit - newest) // period, self._repeats(last, self.mark))
        if repeats <= 0:
            return []
        now, self.mark = self.mark, None
        return self._leap(last, now, repeats)

    def _repeats(self, last: _Mark, now: _Mark) -> int:
        """How often what happened between two marks happens again before anything runs out or ends."""
        repeats = NEVER
        for who, (before, left) in enumerate(zip(last.left, now.left, strict=True)):
            used = before - left
            if used:
                if who == COMMANDS or (who != STORE and last.space[who] - now.space[who] != used):
                    return 0
                rest = left if who == STORE else min(left, now.space[who])
                repeats = min(repeats, (rest - self.most) // used)
            elif left and who != STORE and self.clients[who].has_room(self.most):
                return 0
        grown = now.arrivals - last.arrivals
        if grown:
            repeats = min(repeats, (self.crucial - now.arrivals) // grown)
        return repeats if repeats < NEVER else 0

    def _look(self) -> _Mark:
        """The state as seen from the last grant; of a time before only that it is over matters."""
        t = self.credit_at

        def late(times: deque[int] | list[int]) -> tuple[int, ...]:
            return tuple([at - t if at > t else 0 for at in times])

        bursts = tuple([(b.who, b.words, b.complete < 0, *late([b.ready, b.complete])) for b in self.order])
        clients = tuple([(c.left > 0, c.offset, c.single, *late([c.visible])) for c in self.clients])
        ports = tuple(
            [
                (port.busy, late(port.buffers), late(port.answers), tuple([(at - t, n) for at, n in port.waiting]))
                for port in self.ports
            ]
        )
        shape = (
            bursts, clients, ports, late([at for at in self.heads[1::2] if at < NEVER]),
            tuple(self.words[1::2]), late(self.data_free),
            late([self.delivered, self.issue_from, self.store_from, self.last_answer]),
            late(self.slots), late([port.idle for port in self.ports]), self.credit, self.turn, self.issue_turn,
            self.store_turn, self.store_offset, self.store_left > 0, self.unanswered, self.part,
        )  # fmt: skip
        left = (*[client.left for client in self.clients], self.store_left)
        return _Mark(t, shape, left, tuple([client.space for client in self.clients]), len(self.arrivals))

    def _leap(self, last: _Mark, now: _Mark, repeats: int) -> list[Told]:
        """Moves the state ``repeats`` periods on."""
        period = now.t - last.t
        pattern = self.arrivals[last.arrivals :]
        if pattern:
            shifts = np.arange(period, (repeats + 1) * period, period)
            self.arrivals.extend(np.add.outer(shifts, np.array(pattern)).ravel().tolist())
        for client, before, left, space in zip(self.clients, last.left, now.left, now.space, strict=False):
            client.left -= repeats * (before - left)
            client.space = space - repeats * (before - left)
        self.undelivered -= repeats * (last.left[LOAD] - now.left[LOAD])
        self.store_left -= repeats * (last.left[STORE] - now.left[STORE])
        self._shift(repeats * period)
        self.stale = True
        self._plan_issue()
        return [(self.credit_at, WEIGHTS, 0, 0)] if pattern else []

    def _shift(self, cycles: int) -> None:
        """Moves all times on."""
        for burst in self.order:
            burst.ready += cycles
            if burst.complete >= 0:
                burst.complete += cycles
        self.heads = [at + cycles if at < NEVER else NEVER for at in self.heads]
        self.data_free = [at + cycles for at in self.data_free]
        self.slots = deque([at + cycles for at in self.slots])
        for port in self.ports:
            port.buffers = deque([at + cycles for at in port.buffers])
            port.answers = deque([at + cycles for at in port.answers])
            port.waiting = deque([(at + cycles, words) for at, words in port.waiting])
            port.idle += cycles
        self.credit_at += cycles
        self.grant_from += cycles
        self.issue_from += cycles
        self.delivered += cycles
        self.store_from += cycles
        self.last_answer += cycles
