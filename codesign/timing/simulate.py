"""One run of a program on a design: builds the state of `event_kernel`, runs it and reads the result."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import takewhile
from operator import itemgetter
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.program import Program
from codesign.ir.network import Ints
from codesign.target.commands import MAX_TOKENS, RELEASE, Command
from codesign.target.design import Design
from codesign.target.engines import COMMAND_BYTES, LUT, MOST_ENGINES, MOVERS, RING, TOKEN_BITS, command_kernel
from codesign.target.kernel import ceil_div
from codesign.timing import event_kernel as ev
from codesign.timing.formulas import Formulas
from codesign.timing.jit import compiled_run, ready_run

BURST_BYTES = 256
_HALF = (1 << TOKEN_BITS * ev.PACKED) - 1
Counts = Mapping[str, Mapping[str, Ints]]
"""Data-dependent work of one inference, by layer and name, one value per row."""
_linear = itemgetter("rows", "kw", "ib", "ob", "flags")


class Machine:
    """One run of a program.

    Args:
        program: the program.
        design: the design that runs it.
        formulas: duration formulas of the kernels.
        counts: data-dependent work, by layer; None for the kernels' assumption.
        compiled: True to run as machine code where available, False for Python, None for machine code if it was
            requested before. Never changes a cycle.

    Attributes:
        start, stop: cycles in which every command is accepted and done, -1 if never.
        rings: words of the weight ring and of the table ring that the run needs: with at least as many, all else
            equal, every cycle is the same. None for a ring whose lack of room delayed a request: then only the same
            number of words is sure to give the same cycles.
        early: `rings` for the run up to the end of a linear command, by command index; only of those that end before
            the first command of another compute engine starts, so they do not depend on these engines' durations.

    Raises:
        ValueError: more than 15 tokens at once, or more ports than there may be.
    """

    def __init__(
        self,
        program: Program,
        design: Design,
        formulas: Formulas,
        *,
        counts: Counts | None = None,
        compiled: bool | None = None,
    ) -> None:
        self._run = ready_run() if compiled is None else compiled_run() if compiled else None
        self._records = _kept(program, design.word_bytes)
        self._layout = _Layout(self._records, design, formulas, program.list_at)
        for index, command in enumerate(program.commands) if counts else ():
            if (mine := (counts or {}).get(command.label)) and command.work:
                self._layout.set_time(index, _counted(command, formulas, mine))
        self.start = [-1] * len(program.commands)
        self.stop = list(self.start)
        self.rings: tuple[int | None, int | None] = None, None
        self.early: dict[int, tuple[int | None, int | None]] = {}

    def run(self) -> None:
        """Runs until no event is left."""
        m, count = self._ended(), len(self.start)
        start, stop = int(m[ev.START_AT]), int(m[ev.STOP_AT])
        self.start, self.stop = m[start : start + count].tolist(), m[stop : stop + count].tolist()
        ratio, table_ratio = int(m[ev.RATIO]), int(m[ev.TABLE_RATIO])
        self.rings = _need(m, ev.WEIGHTS, ratio), _need(m, ev.TABLES, table_ratio)
        for index in self._first():
            weights, tables = m[m[ev.NEED_AT] + 2 * index :][:2].tolist()
            self.early[index] = (
                ceil_div(weights, ratio) if weights >= 0 else None,
                ceil_div(tables, table_ratio) if tables >= 0 else None,
            )

    def _ended(self) -> NDArray[np.int64]:
        """Final state of the event kernel; of an uncompiled run only the part that `_Layout.memory` covers."""
        begin, zeros = self._layout.memory, self._layout.zeros
        if self._run is None:
            memory = begin.tolist() + [0] * zeros
            ev.run(memory)
            return np.array(memory[: len(begin)], np.int64)
        array = np.zeros(len(begin) + zeros, np.int64)
        array[: len(begin)] = begin
        self._run(array)
        return array

    def _first(self) -> list[int]:
        """Linear commands that end before any other compute engine starts; an engine runs its commands in order."""
        begins = [self.start[index] for index in self._records.timed if self.start[index] >= 0]
        split = min(begins, default=ev.NEVER)
        return list(takewhile(lambda index: 0 <= self.stop[index] <= split, self._records.linear))


def _need(m: NDArray[np.int64], client: int, ratio: int) -> int | None:
    """Ring words for the peak fill level; None if words were left unrequested or a request waited for room."""
    if m[client + ev.LEFT] or m[client + ev.HELD]:
        return None
    return ceil_div(int(m[client + ev.PEAK]), ratio) if ratio else 0


class _Records:
    """State of the event kernel that depends on the command list alone.

    Args:
        program: the program.
        word: bytes of a bus word.

    Attributes:
        rows: the commands' records, concatenated, without durations from kernels.
        open: works with a duration from a kernel: engine, work, and positions of the duration in `rows`.
        linear: indices of the linear commands.
        timed: index of the first command of each work in `open`.
        given: tokens given in the whole run, by taker and giver.
        room: most times that a reader gets room: commands, bursts of the longest load of tables, and tiles.
        weights: bus words of all weights.

    Raises:
        ValueError: more than 15 tokens at once.
    """

    def __init__(self, program: Program, word: int) -> None:
        commands, numbers = program.commands, {name: number for number, name in enumerate(program.engines)}
        self.rows = np.array([_record(command, numbers, word) for command in commands], np.int64).reshape(-1)
        jobs = [job for job in program.jobs if job.engine != RING]
        size, first = ev.COMMAND_SIZE, ev.OPERAND
        self.open = [(job.engine, job.work, np.array(job.commands) * size + first) for job in jobs]
        self.linear = [index for index, command in enumerate(commands) if command.engine == RING]
        self.timed = [job.commands[0] for job in jobs]
        self.given = _given(commands, numbers)
        loads = [c.fields["words"] for c in commands if c.engine == "load" and _bytewise(c)]
        ends = [commands[i].fields["ob"] for i in self.linear if commands[i].fields["flags"] & RELEASE]
        self.room = len(commands), max(loads, default=0) * word // BURST_BYTES + 2, sum(ends)
        self.weights = sum(c.fields["weight_words"] for c in commands if c.engine == "fetch")


def _kept(program: Program, word: int) -> _Records:
    """Records of a program, cached for the program's lifetime."""
    mine = _programs().setdefault(program, {})
    if word not in mine:
        mine[word] = _Records(program, word)
    return mine[word]


@cache
def _programs() -> WeakKeyDictionary[Program, dict[int, _Records]]:
    """Records by program and bytes of a bus word."""
    return WeakKeyDictionary()


def _record(command: Command, numbers: Mapping[str, int], word: int) -> tuple[int, ...]:
    """A command's record for `codesign.timing.event_kernel`."""
    engine, fields = command.engine, command.fields
    head = numbers[engine], *_tokens(command.waits, numbers), *_tokens(command.posts, numbers)
    if engine == RING:
        return *head, *_linear(fields)
    if engine not in MOVERS:
        return *head, 0, 0, 0, 0, 0
    at = fields["dram"]
    place = at % BURST_BYTES // word
    if engine == "fetch":
        table = fields["table_words"]
        return *head, place, table, (at + table * word) % BURST_BYTES // word, fields["weight_words"], 0
    return *head, place, fields["words"], int(engine == "load" and _bytewise(command)), 0, 0


def _bytewise(load: Command) -> bool:
    """Whether a load writes the 8-bit tables, byte by byte."""
    return any(span.memory == LUT for span in load.writes)


def _given(commands: Sequence[Command], numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """Tokens given in the whole run, indexed by ``taker * MOST_ENGINES + giver``."""
    found = np.zeros(MOST_ENGINES**2, np.int64)
    for command in commands:
        for taker, count in command.posts.items():
            found[numbers[taker] * MOST_ENGINES + numbers[command.engine]] += count
    return found


def _tokens(counts: Mapping[str, int], numbers: Mapping[str, int]) -> tuple[int, int]:
    """Counts by engine, packed into two integers."""
    value = 0
    for engine, count in counts.items():
        if not 0 <= count <= MAX_TOKENS:
            raise ValueError(f"{count} tokens; legal: 0 to {MAX_TOKENS}")
        value |= count << TOKEN_BITS * numbers[engine]
    return value & _HALF, value >> TOKEN_BITS * ev.PACKED


def _counted(command: Command, formulas: Formulas, counts: Mapping[str, Ints]) -> int:
    """Cycles of a command whose data-dependent work is known."""
    known = command_kernel(command.engine).counted(counts, command.first, command.rows)
    return int(formulas.times[command.engine]({**command.work, **known}))


class _Layout:
    """Initial state of the event kernel for a run.

    Attributes:
        memory: its start: scalars and the commands' tables.
        zeros: zeros after it.
    """

    def __init__(self, records: _Records, design: Design, formulas: Formulas, list_at: int) -> None:
        self.zeros, self.word, count = 0, design.word_bytes, records.room[0]
        starts = ev.FIXED + len(records.rows)
        self.memory = m = np.full(starts + 4 * count, -1, np.int64)
        m[: ev.FIXED], m[ev.FIXED : starts] = 0, records.rows
        m[ev.COMMAND_AT], m[ev.START_AT] = ev.FIXED, starts
        m[ev.STOP_AT], m[ev.NEED_AT] = starts + count, starts + 2 * count
        for engine, work, places in records.open:
            m[ev.FIXED + places] = int(formulas.times[engine](work))
        self._set_memory(design)
        self._set_linear(design, formulas)
        self._set_commands(count, list_at)
        self._set_room(records)

    def set_time(self, index: int, cycles: int) -> None:
        """Sets the duration of a command that is neither a move nor linear."""
        self.memory[ev.FIXED + index * ev.COMMAND_SIZE + ev.OPERAND] = cycles

    def _table(self, size: int) -> int:
        """Position of a new table of zeros."""
        self.zeros += size
        return len(self.memory) + self.zeros - size

    def _set_memory(self, design: Design) -> None:
        m, memory = self.memory, design.board.memory
        if memory.ports > ev.MOST_PORTS:
            raise ValueError(f"{memory.ports} ports; legal: 1 to {ev.MOST_PORTS}")
        full, gain = BURST_BYTES * memory.bytes_denominator, memory.bytes_numerator
        m[ev.PORTS], m[ev.OUTSTANDING], m[ev.MOST] = memory.ports, memory.outstanding, BURST_BYTES // self.word
        m[ev.READ_LATENCY], m[ev.WRITE_LATENCY] = memory.read_latency, memory.write_latency
        m[ev.GAIN], m[ev.COST], m[ev.FULL] = gain, memory.bytes_denominator * self.word, full
        m[ev.CREDIT], m[ev.REFILL], m[ev.WORD] = full, ceil_div(full, gain), self.word
        m[ev.GRANT_AT] = m[ev.ISSUE_AT] = m[ev.RIVAL] = ev.NEVER
        m[ev.TOUCHED] = m[ev.STALE] = 1
        m[ev.HEADS : ev.HEAD_WORDS] = ev.NEVER
        bursts, answers = memory.ports * memory.outstanding, _power(memory.outstanding)
        m[ev.BURSTS], m[ev.BURST_MASK] = bursts, _power(bursts) - 1
        m[ev.BURST_AT] = self._table(_power(bursts) * ev.BURST_SIZE)
        m[ev.TOLD_AT] = self._table(3 * (bursts + 2))
        m[ev.ANSWER_AT], m[ev.ANSWER_MASK] = self._table(memory.ports * answers), answers - 1

    def _set_linear(self, design: Design, formulas: Formulas) -> None:
        m, p = self.memory, design.linear
        ratio, table_ratio = p["t_in"] * p["t_out"] // self.word, 8 * p["t_out"] // self.word
        m[ev.N_L], m[ev.LATENCY], m[ev.DRAIN] = p["n_l"], int(formulas.array_latency), formulas.drain_latency
        m[ev.RATIO], m[ev.TABLE_RATIO] = ratio, table_ratio
        m[ev.WEIGHTS + ev.SPACE] = p["ring_words"] * ratio
        m[ev.TABLES + ev.SPACE] = p["table_words"] * table_ratio
        m[ev.GROUP_END] = m[ev.GROUP_END + 1] = -1
        m[ev.WANTED] = ev.NEVER

    def _set_commands(self, count: int, list_at: int) -> None:
        m, per, reader = self.memory, COMMAND_BYTES // self.word, ev.READS
        m[ev.PER], m[ev.NEXT], m[ev.READ_AT] = per, ev.END, self._table(count)
        m[ev.ENGINE + ev.PLANNED : ev.TOKENS : ev.ENGINE_SIZE] = ev.NEVER
        m[reader + ev.LEFT], m[reader + ev.SPACE] = count * per, ev.COMMAND_QUEUE * per
        m[reader + ev.OFFSET], m[reader + ev.VISIBLE] = list_at % BURST_BYTES // self.word, 1

    def _set_room(self, records: _Records) -> None:
        """Reserves tables for tokens by taker and giver, for room of the readers, and for arrivals of weights."""
        m, (commands, bursts, tiles) = self.memory, records.room
        ends = self._table(int(records.given.sum())) + np.cumsum(records.given)
        m[ev.TOKENS : ev.TOKENS + 2 * len(ends)] = np.repeat(ends - records.given, 2)
        counts = commands, bursts, tiles, tiles
        for client, count in zip(range(ev.CLIENT, ev.CLIENTS_END, ev.CLIENT_SIZE), counts, strict=True):
            place = self._table(2 * count)
            m[client + ev.COMING] = m[client + ev.COMING_END] = m[client + ev.COMING_AT] = place
            m[client + ev.SEEN] = place
        m[ev.BASE] = m[ev.KNOWN] = self._table(records.weights // max(int(m[ev.RATIO]), 1) + 1)


def _power(least: int) -> int:
    """The smallest power of two that is at least ``least``."""
    return 1 << (least - 1).bit_length()
