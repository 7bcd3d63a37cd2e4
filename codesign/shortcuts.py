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

from codesign.board import Memory
from codesign.design import Design
from codesign.offchip import COMMANDS, LOAD, NEVER, STORE, TABLE, WEIGHTS, Clock, OffChip, Told

_TRAIN = 16
"""Fewest grants between two looks for a train; a whole number of turns and of the bucket's periods."""


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
            told = self._run(clock[0][0], self.stride)
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
