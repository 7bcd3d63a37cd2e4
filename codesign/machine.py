"""One run of a program on a design: lays out what `codesign.rules` works on, and reads what came of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np

from codesign import rules
from codesign.command import COMMAND_BYTES, ENGINES, LOADS, RELEASE, Command
from codesign.design import Design
from codesign.kernel import ceil_div
from codesign.program import Program
from codesign.systolic import EngineTimes
from codesign.twin import compiled_run, ready_run

BURST_BYTES = 256
_MOST_TOKENS = 255
_NUMBERS = {name: number for number, name in enumerate(ENGINES)}
_LUT = len(LOADS) - 1
_TIMED = (_NUMBERS["attention"], _NUMBERS["vector"])
_linear = itemgetter("rows", "kw", "ib", "ob", "flags")


class Machine:
    """One run of a program.

    Args:
        program: the command list and where it lies.
        design: what it runs on.
        times: what the kernels say of their own durations.
        compiled: whether to run as machine code: where that can be had, never, or (None) if somebody asked for it
            before. Never changes a cycle.

    Attributes:
        start, stop: cycles in which every command is accepted and done, -1 if never.
        rings: words of the weight ring and of the table ring that the run needs: with so many or more, and all else
            alike, every cycle is the same. None for a ring without room for something when it would have been asked
            for: then cycles are sure to be the same only with as many words of it.
        early: the same for all up to the end of a linear command, by its index, for those that end before the first
            attention or norm begins; they do not depend on how long any of these takes.

    Raises:
        ValueError: more than 255 tokens at once, or more ports than there may be.
    """

    def __init__(self, program: Program, design: Design, times: EngineTimes, *, compiled: bool | None = None) -> None:
        self._run = ready_run() if compiled is None else compiled_run() if compiled else None
        self._layout = _Layout(program, design, times)
        self.start = [-1] * len(program.commands)
        self.stop = list(self.start)
        self.rings: tuple[int | None, int | None] = None, None
        self.early: dict[int, tuple[int | None, int | None]] = {}

    def run(self) -> None:
        """Until nothing is left to do."""
        begin, zeros = self._layout.memory, self._layout.zeros
        if self._run is None:
            memory = begin + [0] * zeros
            rules.run(memory)
        else:
            array = np.zeros(len(begin) + zeros, np.int64)
            array[: len(begin)] = begin
            self._run(array)
            memory = array[: len(begin)].tolist()
        count = len(self.start)
        self.start = memory[memory[rules.START_AT] :][:count]
        self.stop = memory[memory[rules.STOP_AT] :][:count]
        clients = (rules.WEIGHTS, memory[rules.RATIO]), (rules.TABLES, memory[rules.TABLE_RATIO])
        weights, tables = (_need(memory, client, ratio) for client, ratio in clients)
        self.rings = weights, tables
        self._set_early(memory)

    def _set_early(self, m: Sequence[int]) -> None:
        engines = m[m[rules.COMMAND_AT] :: rules.COMMAND_SIZE]
        pairs = list(zip(engines, self.start, self.stop, strict=False))
        split = min((start for engine, start, _ in pairs if engine in _TIMED and start >= 0), default=rules.NEVER)
        for index, (engine, _, stop) in enumerate(pairs):
            if engine == _NUMBERS["linear"] and 0 <= stop <= split:
                at = m[rules.NEED_AT] + 2 * index
                weights, tables = m[at : at + 2]
                self.early[index] = (
                    ceil_div(weights, m[rules.RATIO]) if weights >= 0 else None,
                    ceil_div(tables, m[rules.TABLE_RATIO]) if tables >= 0 else None,
                )


def _need(m: Sequence[int], client: int, ratio: int) -> int | None:
    """Ring words that hold the most bus words that lay there at once, None if that was not all that was wanted."""
    if m[client + rules.LEFT] or m[client + rules.HELD]:
        return None
    return ceil_div(m[client + rules.PEAK], ratio) if ratio else 0


class _Layout:
    """The list of integers for a run.

    Attributes:
        memory: its begin, up to the last that is not zero.
        zeros: how many follow.
    """

    def __init__(self, program: Program, design: Design, times: EngineTimes) -> None:
        self.memory = m = [0] * rules.FIXED
        self.zeros, self.word = 0, design.word_bytes
        self.most, self.per = BURST_BYTES // self.word, COMMAND_BYTES // self.word
        count = len(program.commands)
        rows = self._rows(program.commands, times)
        m[rules.COMMAND_AT] = len(m)
        m += rows
        m[rules.START_AT], m[rules.STOP_AT] = len(m), len(m) + count
        m[rules.NEED_AT] = m[rules.STOP_AT] + count
        m += [-1] * (4 * count)
        self._set_memory(design)
        self._set_linear(design, times)
        m[rules.PER], m[rules.NEXT], m[rules.READ_AT] = self.per, rules.END, self._table(count)
        for engine in range(rules.ENGINE, rules.TOKENS, rules.ENGINE_SIZE):
            m[engine + rules.PLANNED] = rules.NEVER
        self._set_tokens(rows)
        self._set_clients(rows, count)
        reader = rules.READS
        m[reader + rules.LEFT], m[reader + rules.SPACE] = count * self.per, rules.COMMAND_QUEUE * self.per
        m[reader + rules.OFFSET], m[reader + rules.VISIBLE] = program.list_at % BURST_BYTES // self.word, 1

    def _table(self, size: int) -> int:
        """Place of a table of zeros."""
        self.zeros += size
        return len(self.memory) + self.zeros - size

    def _rows(self, commands: Sequence[Command], times: EngineTimes) -> list[int]:
        """The commands' records, one behind the other."""
        rows: list[int] = []
        for engine, fields, _, _, _, waits, posts in commands:
            rows += (_NUMBERS[engine], _tokens(waits) if waits else 0, _tokens(posts) if posts else 0)
            if engine == "linear":
                rows += _linear(fields)
            elif engine == "attention":
                rows += (times.attention(fields), 0, 0, 0, 0)
            elif engine == "vector":
                rows += (times.vector(fields), 0, 0, 0, 0)
            elif engine == "fetch":
                at, table = fields["dram"], fields["table_words"]
                rows += (self._place(at), table, self._place(at + table * self.word), fields["weight_words"], 0)
            else:
                lut = engine == "load" and fields["memory"] == _LUT
                rows += (self._place(fields["dram"]), fields["words"], int(lut), 0, 0)
        return rows

    def _place(self, dram: int) -> int:
        """Place of a byte's bus word in its burst."""
        return dram % BURST_BYTES // self.word

    def _set_memory(self, design: Design) -> None:
        m, memory = self.memory, design.board.memory
        if memory.ports > rules.MOST_PORTS:
            raise ValueError(f"{memory.ports} ports; legal: 1 to {rules.MOST_PORTS}")
        full, gain = BURST_BYTES * memory.bytes_denominator, memory.bytes_numerator
        m[rules.PORTS], m[rules.OUTSTANDING], m[rules.MOST] = memory.ports, memory.outstanding, self.most
        m[rules.READ_LATENCY], m[rules.WRITE_LATENCY] = memory.read_latency, memory.write_latency
        m[rules.GAIN], m[rules.COST], m[rules.FULL] = gain, memory.bytes_denominator * self.word, full
        m[rules.CREDIT], m[rules.REFILL], m[rules.WORD] = full, ceil_div(full, gain), self.word
        m[rules.GRANT_AT] = m[rules.ISSUE_AT] = m[rules.RIVAL] = rules.NEVER
        m[rules.TOUCHED] = m[rules.STALE] = 1
        for head in range(rules.HEADS, rules.HEAD_WORDS):
            m[head] = rules.NEVER
        bursts, answers = memory.ports * memory.outstanding, _power(memory.outstanding)
        m[rules.BURSTS], m[rules.BURST_MASK] = bursts, _power(bursts) - 1
        m[rules.BURST_AT] = self._table(_power(bursts) * rules.BURST_SIZE)
        m[rules.TOLD_AT] = self._table(3 * (bursts + 2))
        m[rules.ANSWER_AT], m[rules.ANSWER_MASK] = self._table(memory.ports * answers), answers - 1

    def _set_linear(self, design: Design, times: EngineTimes) -> None:
        m, p = self.memory, design.linear
        m[rules.N_L], m[rules.LATENCY], m[rules.DRAIN] = p["n_l"], times.array_latency, times.drain_latency
        m[rules.RATIO] = ratio = p["t_in"] * p["t_out"] // self.word
        m[rules.TABLE_RATIO] = 8 * p["t_out"] // self.word
        m[rules.WEIGHTS + rules.SPACE] = p["ring_words"] * ratio
        m[rules.TABLES + rules.SPACE] = p["table_words"] * m[rules.TABLE_RATIO]
        m[rules.GROUP_END] = m[rules.GROUP_END + 1] = -1
        m[rules.WANTED] = rules.NEVER

    def _set_tokens(self, rows: Sequence[int]) -> None:
        """Gives every taker and giver a table that holds all tokens that there ever are between them."""
        m, given = self.memory, [0] * len(ENGINES) ** 2
        size = rules.COMMAND_SIZE
        for (giver, posts), times in Counter(zip(rows[::size], rows[rules.POSTS :: size], strict=True)).items():
            for taker in range(len(ENGINES)):
                given[taker * len(ENGINES) + giver] += (posts >> 8 * taker & _MOST_TOKENS) * times
        for pair, count in enumerate(given):
            place = rules.TOKENS + 2 * pair
            m[place] = m[place + 1] = self._table(count)

    def _set_clients(self, rows: Sequence[int], commands: int) -> None:
        """Room to come is at most that of every command, of every burst of a load, of every tile; then all arrivals."""
        m, size, first = self.memory, rules.COMMAND_SIZE, rules.OPERAND
        tiles = weights = longest = 0
        for at in range(0, len(rows), size):
            engine = rows[at]
            if engine == _NUMBERS["linear"]:
                tiles += rows[at + first + 3] * (rows[at + first + 4] & RELEASE)
            elif engine == _NUMBERS["fetch"]:
                weights += rows[at + first + 3]
            elif engine == _NUMBERS["load"] and rows[at + first + 2]:
                longest = max(longest, rows[at + first + 1])
        counts = (commands, longest // self.most + 2, tiles, tiles)
        for client, count in zip(range(rules.CLIENT, rules.CLIENTS_END, rules.CLIENT_SIZE), counts, strict=True):
            place = self._table(2 * count)
            m[client + rules.COMING] = m[client + rules.COMING_END] = m[client + rules.COMING_AT] = place
            m[client + rules.SEEN] = place
        m[rules.BASE] = m[rules.KNOWN] = self._table(weights // max(m[rules.RATIO], 1) + 1)


def _tokens(counts: Mapping[str, int]) -> int:
    """Counts per engine, eight bits each."""
    value = 0
    for engine, count in counts.items():
        if not 0 <= count <= _MOST_TOKENS:
            raise ValueError(f"{count} tokens; legal: 0 to {_MOST_TOKENS}")
        value |= count << 8 * _NUMBERS[engine]
    return value


def _power(least: int) -> int:
    """The least power of two that is not less."""
    return 1 << (least - 1).bit_length()
