"""Idle intervals of the engines in a run, each with its cause.

Everything follows from the command list and the commands' start and stop cycles by the sequencer's rules (see
`codesign.timing.event_kernel`): tokens are taken in order; commands are dispatched in list order, one per cycle,
while the engine's queue has room.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from codesign.target.commands import RELEASE, Command
from codesign.target.engines import RING
from codesign.timing.cycles import Activity
from codesign.timing.event_kernel import ENGINE_QUEUE

HANDOVER = 1
"""Cycles between back-to-back commands of an engine, not idle."""

READING, DONE, WEIGHTS = "command list", "end of run", "weights"
"""Causes other than engines: the next command is still being read, none is left, or weights are late (`starved`)."""


class Wait(NamedTuple):
    """An idle interval of an engine.

    Attributes:
        engine: the idle engine.
        start, stop: first idle cycle, and first after it.
        cause: the engine that it waits for, `READING`, `DONE` or `WEIGHTS`.
        reason: one sentence.
    """

    engine: str
    start: int
    stop: int
    cause: str
    reason: str


def busy(activities: Sequence[Activity]) -> dict[str, int]:
    """Cycles in which each engine has a command in flight; overlapping commands count once.

    >>> busy([Activity("linear", "a", 0, 10), Activity("linear", "b", 5, 12)])
    {'linear': 12}
    """
    found: dict[str, int] = {}
    ends: dict[str, int] = {}
    for activity in activities:
        begin = max(activity.start, ends.get(activity.engine, 0))
        ends[activity.engine] = max(activity.stop, begin)
        found[activity.engine] = found.get(activity.engine, 0) + ends[activity.engine] - begin
    return found


def idle(commands: Sequence[Command], activities: Sequence[Activity], total: int) -> tuple[Wait, ...]:
    """Every idle interval of the program's engines, grouped by engine, in cycle order.

    Args:
        commands: the program's list.
        activities: start and stop of these commands, in list order.
        total: cycles of the run.
    """
    givers, seen = _givers(commands), _visible(commands, activities)
    by_engine: dict[str, list[int]] = {}
    for index, command in enumerate(commands):
        by_engine.setdefault(command.engine, []).append(index)
    found: list[Wait] = []
    for engine, mine in by_engine.items():
        free = 0
        for index in mine:
            start, stop = activities[index].start, activities[index].stop
            if start - free > HANDOVER:
                found.append(Wait(engine, free, start, *_cause(index, activities, givers[index], seen[index])))
            free = max(free, stop)
        if total - free > HANDOVER:
            found.append(Wait(engine, free, total, DONE, "no command is left for it"))
    return tuple(found)


def shares(waits: Sequence[Wait]) -> dict[str, dict[str, int]]:
    """Idle cycles by engine and cause."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for wait in waits:
        found[wait.engine][wait.cause] += wait.stop - wait.start
    return {engine: dict(counts.most_common()) for engine, counts in found.items()}


def starved(commands: Sequence[Command], activities: Sequence[Activity]) -> tuple[Wait, ...]:
    """Intervals in which the linear engine has a command and a free array, but not yet all its weights.

    The array starts with the first weights, so it may work in such an interval, at the memory's rate.
    """
    fetches = iter([index for index, command in enumerate(commands) if command.engine == "fetch"])
    found: list[Wait] = []
    before, fetch = 0, None
    for index, command in enumerate(commands):
        if command.engine != RING:
            continue
        if fetch is None and (fetch := next(fetches, None)) is None:
            break
        here, there = activities[index], activities[fetch]
        begin, end = max(here.start, before), min(here.stop, there.stop)
        if end > begin:
            reason = f"until fetch command {fetch} ({there.label}) had brought the last weights in cycle {there.stop}"
            found.append(Wait(RING, begin, end, WEIGHTS, reason))
        before = max(before, here.stop)
        fetch = None if command.fields["flags"] & RELEASE else fetch
    return tuple(found)


def _givers(commands: Sequence[Command]) -> list[list[int]]:
    """For each command, the commands whose tokens it takes, the last of each engine."""
    given: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, command in enumerate(commands):
        for engine, count in command.posts.items():
            given[command.engine, engine] += [index] * count
    taken: Counter[tuple[str, str]] = Counter()
    found: list[list[int]] = []
    for command in commands:
        found.append([])
        for engine, count in command.waits.items():
            if count:
                taken[engine, command.engine] += count
                found[-1].append(given[engine, command.engine][taken[engine, command.engine] - 1])
    return found


def _visible(commands: Sequence[Command], activities: Sequence[Activity]) -> list[tuple[int, int | None]]:
    """For each command, its earliest cycle in its queue, and the last command that a full queue had to wait for.

    The time to read the list is left out, so a command may arrive later but never earlier.
    """
    queues: dict[str, list[int]] = defaultdict(list)
    found: list[tuple[int, int | None]] = []
    at, blocker = 0, None
    for index, command in enumerate(commands):
        queue = queues[command.engine]
        at += 1
        if len(queue) >= ENGINE_QUEUE and activities[queue[-ENGINE_QUEUE]].start + 2 >= at:
            blocker = queue[-ENGINE_QUEUE]
            at = activities[blocker].start + 2
        queue.append(index)
        found.append((at, blocker))
    return found


def _cause(
    index: int, activities: Sequence[Activity], givers: Sequence[int], visible: tuple[int, int | None]
) -> tuple[str, str]:
    """Cause and reason of the idle interval that a command ends: its newest token, a full queue, or the list read."""
    start, (at, blocker) = activities[index].start, visible
    last = max(givers, key=lambda giver: activities[giver].stop, default=None)
    label = activities[index].label
    if last is not None and activities[last].stop + 1 >= start:
        giver = activities[last]
        return giver.engine, f"{label} needs {giver.engine} command {last} ({giver.label}), done in cycle {giver.stop}"
    if blocker is not None and at >= start:
        full = activities[blocker]
        return full.engine, (
            f"{label} stands in the list behind commands for {full.engine}, whose queue was full"
            f" until it took command {blocker} ({full.label}) in cycle {full.start}"
        )
    return READING, f"{label} is command {index} of the list, which was still being read"
