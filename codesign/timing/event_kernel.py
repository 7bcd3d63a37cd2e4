"""Event-driven model of the sequencer, the linear engine and the off-chip side, on one list of integers.

Time is counted in clock cycles from the write of the start register. A register set in cycle ``t`` is seen from
``t + 1`` on; every rule below says when a value is *visible*. The constants are the pipeline depths of the hardware;
nothing is read from a simulation. An engine's next accept is planned as soon as all that it waits for is known.
A memory grant determines all its consequences at once, so time advances in only three kinds of steps: a command is
accepted, a read is requested, or a burst is granted.

All state lies in the list ``m``: scalars, then records, then tables whose start is a scalar. Queues are indexed by
counters, nothing is moved: the ``k``-th entry lies at ``k`` modulo the table's length. So these functions run
unchanged on a list, and as machine code on an array (`codesign.timing.jit`): no other types, no exceptions.
`codesign.timing.simulate` builds the list.
"""

from codesign.target.commands import RELEASE
from codesign.target.engines import MOST_ENGINES, TOKEN_BITS

NEVER = 1 << 60
END = NEVER - 1
COMMAND_QUEUE, ENGINE_QUEUE, LINEAR_SLOTS = 16, 8, 4
"""Most commands read ahead, waiting per engine, and in flight in the linear engine."""
MOST_PORTS = 64

(
    # The sequencer.
    COMMAND_AT, START_AT, STOP_AT, READ_AT, PER, NEXT, LIST_WORDS, ARRIVED, DISPATCHED, NEXT_DISPATCH,
    ACCEPTED, ENDED, FINISHED, NEED_AT,
    # The linear engine.
    N_L, LATENCY, DRAIN, RATIO, TABLE_RATIO, BASE, KNOWN, WANTED, LOADING, LOADING_INDEX, ROWS_LEFT, LOAD_FROM,
    GROUPS_LOADED, GROUPS_DONE, TILE, FIRST, FREE,
    # Requests for bursts.
    TOUCHED, MOST, WORD, BURST_AT, BURST_MASK, BURSTS, ISSUED, DELIVERED, DELIVERED_AT, ISSUE_AT, ISSUE_FROM,
    ISSUE_FIRST, ISSUE_TURN, ISSUER, RIVAL, UNDELIVERED, PART, THEN_WORDS, THEN_OFFSET, TOLD, TOLD_AT,
    # The memory.
    PORTS, READ_LATENCY, WRITE_LATENCY, GAIN, COST, FULL, REFILL, CREDIT, CREDIT_AT, TURN, STALE, GRANT_AT, GRANT_FROM,
    GRANTED, CHANGE,
    # The store engine.
    STORE_LEFT, STORE_OFFSET, STORE_FROM, STORE_TURN, UNANSWERED, LAST_ANSWER, ANSWER_AT, ANSWER_MASK, OUTSTANDING,
) = range(76)  # fmt: skip
"""Positions of scalars. Names ending in AT hold the start of a table or, like FROM, a cycle."""

# Records: sizes, positions and fields.

COMMAND_SIZE = 10
WAITS, POSTS, OPERAND, PACKED = 1, 3, 5, 8
"""A command: its engine's number; tokens that it takes and gives, two integers each, `TOKEN_BITS` bits per engine and
`PACKED` engines per integer; five operands."""
TOKEN_MASK = (1 << TOKEN_BITS) - 1

ENGINE_SIZE, ENGINE = 16, 96
READY, PLANNED, CURRENT, HEAD, TAIL, QUEUE = 0, 1, 2, 3, 4, 8
"""An engine: cycle from which it can accept, NEVER if not yet known; planned cycle of its next accept; its current
command; how many commands have left and entered its queue; the queue."""
LOAD, STORE, FETCH, LINEAR = range(ENGINE, ENGINE + 4 * ENGINE_SIZE, ENGINE_SIZE)
"""The engines of every design; the others follow by number."""

TOKENS = ENGINE + ENGINE_SIZE * MOST_ENGINES
"""Per taker and giver, positions of the next token to take and after the last; a token is its first visible cycle."""

CLIENT_SIZE, CLIENT = 16, TOKENS + 2 * MOST_ENGINES**2
LEFT, OFFSET, SPACE, VISIBLE, SINGLE, COMING, COMING_END, COMING_AT = range(8)
SINCE, ASKED, GIVEN, SEEN, PEAK, HELD = range(8, 14)
"""A reader: bus words still to request, the next one's offset in its burst, words of room, first cycle to request in,
and whether a burst takes all the room. Future room as pairs of first cycle and words: positions of the next pair,
after the last and of the first. Then its use of room: first cycle to request in if there were room, total words
requested and freed, the next pair to count, the most words held or in flight at once, and whether a request ever
waited for room."""
READS, LOADS, TABLES, WEIGHTS = range(CLIENT, CLIENT + 4 * CLIENT_SIZE, CLIENT_SIZE)
"""The readers, highest priority first: command list, load engine, and the fetch engine's tables and weights."""
CLIENTS_END = CLIENT + 4 * CLIENT_SIZE

GROUP_SIZE, GROUP = 8, CLIENTS_END
INDEX, ROWS, IB, OB, RELEASED, LAST, LOADED = range(7)
"""A row group in the linear engine: its command, rows, words of a tile, tiles, whether its weights are released after
it, whether it is its command's last, and the cycle in which it is loaded. There are two."""
GROUP_END = GROUP + 2 * GROUP_SIZE
"""Cycles in which the last two groups ended."""
SLOT = GROUP_END + 2
"""First cycles of free command slots of the linear engine."""
OVER = SLOT + LINEAR_SLOTS
"""Commands that the linear engine finished, as index and cycle of the done pulse."""

HEADS = OVER + 2 * LINEAR_SLOTS
"""Per port, first cycles to grant its next read and its next write in; NEVER without one."""
HEAD_WORDS = HEADS + 2 * MOST_PORTS
"""Bus words of the bursts in `HEADS`."""
NEXT_READ = HEAD_WORDS + 2 * MOST_PORTS
"""Per port, the next read burst to grant."""
DATA_FREE = NEXT_READ + MOST_PORTS
"""Per port, first cycle in which its data are free."""
WRITER_SIZE, WRITER = 16, DATA_FREE + MOST_PORTS
WRITES_READ, OFFERED, WRITTEN, IDLE, BUFFER, WAITING, WAITING_WORDS = 0, 1, 2, 3, 4, 6, 8
"""A write port: bursts read into its buffers, offered and granted; first cycle after the last beat; first cycles in
which its two buffers are free, in which the bursts in them can be offered; words of these bursts."""
FIXED = WRITER + WRITER_SIZE * MOST_PORTS
"""Start of the tables."""

BURST_SIZE = 8
FOR, WORDS, READY_AT, COMPLETE, OVER_AT = range(5)
"""A read in flight: client, bus words, first cycle to grant it in, first cycle in which it is complete (-1 before its
grant), and the cycle in which it is delivered and its slot is free again."""

Memory = list[int]
"""State of the model."""


def run(m: Memory) -> None:
    """Runs to the end: advances to the cycle of the next accept, then accepts every command due in it, in order."""
    while True:
        _advance(m)
        t = m[NEXT]
        if t == END:
            return
        while m[NEXT] == t:
            engine = ENGINE
            while m[engine + PLANNED] != t:
                engine += ENGINE_SIZE
            _accept(m, t, engine)


def _advance(m: Memory) -> None:
    """Advances to the end of the next accept's cycle and handles posted events, which may bring that cycle forward."""
    while True:
        if m[TOUCHED]:
            m[TOUCHED], m[STALE] = 0, 1
            _read(m)
            _plan_issue(m)
        _steps(m, m[NEXT])
        told = m[TOLD]
        if told == 0:
            return
        m[TOLD] = 0
        for at in range(m[TOLD_AT], m[TOLD_AT] + 3 * told, 3):
            _handle_event(m, m[at], m[at + 1], m[at + 2])


def _post_event(m: Memory, what: int, time: int, count: int) -> None:
    """Posts an event of a client or of the store engine.

    READS: ``count`` words arrive from cycle ``time`` on. LOADS, STORE: the transfer is done. TABLES: the last word of
    a fetch is requested. WEIGHTS: more of them arrive.
    """
    at = m[TOLD_AT] + 3 * m[TOLD]
    m[at], m[at + 1], m[at + 2] = what, time, count
    m[TOLD] += 1


def _handle_event(m: Memory, what: int, time: int, count: int) -> None:
    if what == WEIGHTS:
        _run_array(m)
    elif what == READS:
        _command_words(m, time, count)
    elif what == TABLES:
        _finish(m, m[FETCH + CURRENT], time, time + 1)
    elif what == LOADS:
        _finish(m, m[LOAD + CURRENT], time, time)
    else:
        _finish(m, m[STORE + CURRENT], time, time)


# Sequencer.


def _command_words(m: Memory, first: int, words: int) -> None:
    """Handles command words arriving from cycle ``first`` on."""
    have, per = m[LIST_WORDS], m[PER]
    m[LIST_WORDS] = have + words
    for index in range(have // per, (have + words) // per):
        m[m[READ_AT] + index] = first + (index + 1) * per - have
    m[ARRIVED] = (have + words) // per
    _dispatch(m)


def _dispatch(m: Memory) -> None:
    """Dispatches commands to their engines' queues in order, one per cycle, while there is room."""
    while m[DISPATCHED] < m[ARRIVED]:
        index = m[DISPATCHED]
        engine = ENGINE + ENGINE_SIZE * m[m[COMMAND_AT] + COMMAND_SIZE * index]
        tail = m[engine + TAIL]
        waiting = tail - m[engine + HEAD]
        if waiting == ENGINE_QUEUE:
            return
        t = max(m[m[READ_AT] + index], m[NEXT_DISPATCH]) + 1
        m[m[READ_AT] + index] = m[NEXT_DISPATCH] = t
        m[engine + QUEUE + tail % ENGINE_QUEUE] = index
        m[engine + TAIL] = tail + 1
        m[DISPATCHED] = index + 1
        _room(m, READS, t, m[PER])
        if waiting == 0:
            _plan(m, engine)


def _plan(m: Memory, engine: int) -> None:
    """Plans the engine's next accept, once it is known to be ready and all tokens to be there."""
    t, head = m[engine + READY], m[engine + HEAD]
    if t == NEVER or head == m[engine + TAIL]:
        return
    index = m[engine + QUEUE + head % ENGINE_QUEUE]
    command = m[COMMAND_AT] + COMMAND_SIZE * index
    t = max(t, m[m[READ_AT] + index])
    row = TOKENS + 2 * MOST_ENGINES * m[command]
    for place in range(command + WAITS, command + POSTS):
        waits, tokens = m[place], row
        while waits:
            count = waits & TOKEN_MASK
            if count:
                last = m[tokens] + count
                if last > m[tokens + 1]:
                    return
                t = max(t, m[last - 1])
            waits >>= TOKEN_BITS
            tokens += 2
        row += 2 * PACKED
    if engine == LINEAR:
        if m[ACCEPTED] - m[ENDED] == LINEAR_SLOTS:
            return
        t = max(t, m[SLOT + m[ACCEPTED] % LINEAR_SLOTS])
    if t < m[engine + PLANNED]:
        m[engine + PLANNED] = t
        if t < m[NEXT]:
            m[NEXT] = t


def _accept(m: Memory, t: int, engine: int) -> None:
    """Accepts the head of the engine's queue in cycle ``t``."""
    head = m[engine + HEAD]
    full = m[engine + TAIL] - head == ENGINE_QUEUE
    index = m[engine + QUEUE + head % ENGINE_QUEUE]
    command = m[COMMAND_AT] + COMMAND_SIZE * index
    row = TOKENS + 2 * MOST_ENGINES * m[command]
    for place in range(command + WAITS, command + POSTS):
        waits, tokens = m[place], row
        while waits:
            m[tokens] += waits & TOKEN_MASK
            waits >>= TOKEN_BITS
            tokens += 2
        row += 2 * PACKED
    m[m[START_AT] + index] = t
    m[engine + HEAD], m[engine + CURRENT] = head + 1, index
    m[engine + READY] = m[engine + PLANNED] = NEVER
    m[NEXT] = END
    for other in range(ENGINE, TOKENS, ENGINE_SIZE):
        if m[other + PLANNED] < m[NEXT]:
            m[NEXT] = m[other + PLANNED]
    _begin(m, t, engine, index)
    if full and m[DISPATCHED] < m[ARRIVED]:
        m[NEXT_DISPATCH] = max(m[NEXT_DISPATCH], t + 1)
        _dispatch(m)


def _begin(m: Memory, t: int, engine: int, index: int) -> None:
    operand = m[COMMAND_AT] + COMMAND_SIZE * index + OPERAND
    if engine == LINEAR:
        m[ACCEPTED] += 1
        m[LOADING], m[LOADING_INDEX], m[ROWS_LEFT], m[LOAD_FROM] = operand, index, m[operand], t + 1
        _run_array(m)
    elif engine == LOAD:
        _begin_load(m, t, m[operand], m[operand + 1], m[operand + 2])
    elif engine == STORE:
        m[TOUCHED], m[STORE_TURN], m[LAST_ANSWER] = 1, 0, 0
        m[STORE_OFFSET], m[STORE_LEFT], m[STORE_FROM] = m[operand], m[operand + 1], t + 1
    elif engine == FETCH:
        _want(m, TABLES, m[operand], m[operand + 1], t + 1)
        m[THEN_OFFSET], m[THEN_WORDS] = m[operand + 2], m[operand + 3]
    else:
        done = t + m[operand]
        _finish(m, index, done, done + 1)


def _finish(m: Memory, index: int, done: int, ready: int) -> None:
    """Ends a command: its done pulse comes in cycle ``done``; its engine can accept again in ``ready``."""
    m[m[STOP_AT] + index] = done
    command = m[COMMAND_AT] + COMMAND_SIZE * index
    giver, first = m[command], ENGINE
    mine, column = ENGINE + ENGINE_SIZE * giver, TOKENS + 2 * giver + 1
    if m[mine + READY] != ready:
        m[mine + READY] = ready
        _plan(m, mine)
    for place in range(command + POSTS, command + OPERAND):
        posts, engine, tokens = m[place], first, column
        while posts:
            for _ in range(posts & TOKEN_MASK):
                m[m[tokens]] = done + 1
                m[tokens] += 1
            if posts & TOKEN_MASK:
                _plan(m, engine)
            posts >>= TOKEN_BITS
            engine += ENGINE_SIZE
            tokens += 2 * MOST_ENGINES
        first += PACKED * ENGINE_SIZE
        column += 2 * PACKED * MOST_ENGINES


# Linear engine.


def _run_array(m: Memory) -> None:
    """Runs row loader and array as far as arrivals are known; these determine their timing."""
    ready, moved = NEVER, True
    while moved:
        moved = False
        if m[ROWS_LEFT] and m[GROUPS_LOADED] - m[GROUPS_DONE] < 2:
            moved = True
            _load_group(m)
            if m[ROWS_LEFT] == 0:
                ready = m[LOAD_FROM]
        if m[GROUPS_DONE] < m[GROUPS_LOADED] and _run_group(m):
            moved = m[ROWS_LEFT] > 0 or m[GROUPS_DONE] < m[GROUPS_LOADED]
    m[WANTED] = NEVER
    if m[GROUPS_DONE] < m[GROUPS_LOADED]:
        m[WANTED] = m[BASE] + (m[TILE] + 1) * m[GROUP + GROUP_SIZE * (m[GROUPS_DONE] % 2) + IB] - 1
    if ready < NEVER:
        m[LINEAR + READY] = ready
    finished = m[FINISHED]
    m[FINISHED] = 0
    for over in range(OVER, OVER + 2 * finished, 2):
        need = m[NEED_AT] + 2 * m[over]
        m[need], m[need + 1] = _needed(m, WEIGHTS), _needed(m, TABLES)
        m[SLOT + m[ENDED] % LINEAR_SLOTS] = m[over + 1] + 1
        m[ENDED] += 1
        _finish(m, m[over], m[over + 1], m[LINEAR + READY])
    if finished or ready < NEVER:
        _plan(m, LINEAR)


def _load_group(m: Memory) -> None:
    """Loads the next row group as soon as the buffer of the last group but one is free."""
    operand, number, left = m[LOADING], m[GROUPS_LOADED], m[ROWS_LEFT]
    rows = min(m[N_L], left)
    m[LOAD_FROM] = max(m[LOAD_FROM], m[GROUP_END + number % 2] + 1) + rows * m[operand + 1]
    group = GROUP + GROUP_SIZE * (number % 2)
    m[group + INDEX], m[group + ROWS], m[group + LOADED] = m[LOADING_INDEX], rows, m[LOAD_FROM] + 2
    m[group + IB], m[group + OB] = m[operand + 2], m[operand + 3]
    m[group + LAST] = 1 if rows == left else 0
    m[group + RELEASED] = m[operand + 4] & RELEASE if rows == left else 0
    m[GROUPS_LOADED], m[ROWS_LEFT] = number + 1, left - rows


def _run_group(m: Memory) -> bool:
    """Runs those tiles of the oldest group whose weights are known to arrive; returns whether the group is finished."""
    group = GROUP + GROUP_SIZE * (m[GROUPS_DONE] % 2)
    ib, ob, release, tile, first, known = m[group + IB], m[group + OB], m[group + RELEASED], m[TILE], m[FIRST], m[KNOWN]
    spacing, need, end = max(ib, m[N_L]), m[BASE] + (tile + 1) * ib - 1, m[BASE] + ob * ib - 1
    present = m[end] if end < known else NEVER
    while tile < ob and need < known:
        if tile == 0:
            first = max(m[FREE], m[group + LOADED], m[need]) + 1
        elif present < first + spacing and release == 0:
            first += (ob - tile) * spacing
            tile = ob
            break
        else:
            first = max(first + spacing, m[need] + 1)
        if release:
            done = first + spacing + m[LATENCY] + m[group + ROWS]
            _room(m, WEIGHTS, done, ib * m[RATIO])
            _room(m, TABLES, done, m[TABLE_RATIO])
        tile += 1
        need += ib
    m[TILE], m[FIRST] = tile, first
    if tile < ob:
        return False
    _end_group(m, group, first + spacing)
    return True


def _end_group(m: Memory, group: int, end: int) -> None:
    """Ends a group; its last tile occupies the array until before cycle ``end``."""
    m[TILE], m[FREE] = 0, end
    m[GROUP_END + m[GROUPS_DONE] % 2] = end - 1
    m[GROUPS_DONE] += 1
    if m[group + RELEASED]:
        m[BASE] += m[group + OB] * m[group + IB]
    if m[group + LAST]:
        over = OVER + 2 * m[FINISHED]
        m[over], m[over + 1] = m[group + INDEX], end - 1 + m[LATENCY] + m[DRAIN] + m[group + ROWS]
        m[FINISHED] += 1


# Read demand.


def _want(m: Memory, client: int, offset: int, words: int, visible: int) -> None:
    m[TOUCHED] = 1
    m[client + LEFT], m[client + OFFSET] = words, offset
    m[client + VISIBLE] = m[client + SINCE] = visible


def _begin_load(m: Memory, t: int, offset: int, words: int, single: int) -> None:
    """Starts a load; ``single`` for the 8-bit tables, written byte by byte, burst by burst."""
    _want(m, LOADS, offset, words, t + 1)
    m[LOADS + SINGLE], m[LOADS + SPACE] = single, m[MOST] if single else words
    m[LOADS + COMING] = m[LOADS + COMING_END] = m[LOADS + COMING_AT]
    m[UNDELIVERED] = words


def _room(m: Memory, client: int, t: int, words: int) -> None:
    """Gives a client ``words`` more room from cycle ``t`` on."""
    left = m[client + LEFT]
    if left and (client == READS or m[client + SPACE] < m[MOST]):
        m[TOUCHED] = 1
    if left or client != READS:
        at = m[client + COMING_END]
        m[at], m[at + 1] = t, words
        m[client + COMING_END] = at + 2


def _has_room(m: Memory, client: int) -> bool:
    """Whether the client is known to have room for its next burst, from cycle VISIBLE on."""
    words = min(m[client + LEFT], m[MOST] - m[client + OFFSET])
    while m[client + SPACE] < words:
        at = m[client + COMING]
        if at == m[client + COMING_END]:
            return False
        m[client + COMING] = at + 2
        m[client + SPACE] += m[at + 1]
        m[client + VISIBLE] = max(m[client + VISIBLE], m[at])
    return True


def _count(m: Memory, client: int, t: int, words: int) -> None:
    """Updates the peak of words that a ring holds or awaits, for a request in cycle ``t``."""
    at, end = m[client + SEEN], m[client + COMING_END]
    while at < end and m[at] <= t:
        m[client + GIVEN] += m[at + 1]
        at += 2
    m[client + SEEN] = at
    m[client + ASKED] += words
    m[client + PEAK] = max(m[client + PEAK], m[client + ASKED] - m[client + GIVEN])


def _needed(m: Memory, client: int) -> int:
    """Bus words of a ring needed so far, -1 if a request had to wait for room or may be about to."""
    words = min(m[client + LEFT], m[MOST] - m[client + OFFSET])
    late = words and (m[client + SPACE] < words or m[client + VISIBLE] > m[client + SINCE])
    return -1 if late or m[client + HELD] else m[client + PEAK]


# Steps.


def _steps(m: Memory, limit: int) -> None:
    """Takes steps until an event is posted or cycle ``limit`` is over."""
    while m[TOLD] == 0:
        if m[STALE]:
            _plan_grant(m)
        t = m[GRANT_AT]
        if m[ISSUE_AT] <= t:
            if m[ISSUE_AT] > limit:
                return
            _issue(m, limit)
            continue
        if t > limit:
            return
        index = m[GRANTED]
        m[CREDIT], m[CREDIT_AT], m[GRANT_FROM], m[STALE] = m[CHANGE], t, t + 1, 1
        m[TURN] = index + 1 if index + 1 < 2 * m[PORTS] else 0
        if index & 1:
            _grant_write(m, t, index)
        else:
            _grant_read(m, t, index)


def _first_slot(m: Memory) -> int:
    """First cycle in which the next read has a slot; known while fewer than BURSTS are in flight."""
    return m[m[BURST_AT] + BURST_SIZE * ((m[ISSUED] - m[BURSTS]) & m[BURST_MASK]) + OVER_AT]


def _plan_issue(m: Memory) -> None:
    """Plans the next request: the first client, in order, in the first cycle that any can."""
    m[ISSUE_AT] = m[RIVAL] = NEVER
    if m[ISSUED] - m[DELIVERED] == m[BURSTS]:
        return
    first = m[ISSUE_FIRST] = max(_first_slot(m), m[ISSUE_FROM])
    for client in range(CLIENT, CLIENTS_END, CLIENT_SIZE):
        if m[client + LEFT] and (m[client + SPACE] >= m[MOST] or _has_room(m, client)):
            at = max(m[client + VISIBLE], first)
            if at < m[ISSUE_AT]:
                m[RIVAL], m[ISSUE_AT], m[ISSUER] = m[ISSUE_AT], at, client
                if at == first:
                    return


def _hold(m: Memory, t: int) -> None:
    """Marks the rings that, given room, would have requested before the next request in cycle ``t``."""
    for client in (TABLES, WEIGHTS):
        if m[client + LEFT] and max(m[ISSUE_FIRST], m[client + SINCE]) < t:
            m[client + HELD] = 1


def _issue(m: Memory, limit: int) -> None:
    """Requests one burst per cycle, on the ports in turn, while the client's requests come first.

    After a cycle with nothing in flight the first port is next.
    """
    client, at, most, turn = m[ISSUER], m[ISSUE_AT], m[MOST], m[ISSUE_TURN]
    if m[ISSUED] == m[DELIVERED] and m[DELIVERED_AT] < at:
        turn = 0
    if at > m[ISSUE_FIRST]:
        _hold(m, at)
    last, free = min(limit, m[GRANT_AT], m[RIVAL] - 1), at
    while True:
        words = min(m[client + LEFT], most - m[client + OFFSET])
        if m[client + SPACE] < words:
            break
        if client >= TABLES:
            _count(m, client, at, words)
        if _request(m, client, turn, at + 2, words):
            last = at
        turn = turn + 1 if turn + 1 < m[PORTS] else 0
        m[client + LEFT] -= words
        offset = m[client + OFFSET] + words
        m[client + OFFSET] = offset if offset < most else 0
        m[client + SPACE] = 0 if m[client + SINGLE] else m[client + SPACE] - words
        free = at + 1
        if m[client + LEFT] == 0 or m[ISSUED] - m[DELIVERED] == m[BURSTS]:
            break
        at = max(_first_slot(m), free)
        if at > last:
            break
    m[ISSUE_TURN], m[ISSUE_FROM] = turn, free
    if m[client + LEFT] == 0:
        _asked(m, free - 1, client)
    _plan_issue(m)


def _request(m: Memory, client: int, port: int, ready: int, words: int) -> bool:
    """Enters a read at a port; returns whether the next grant must be planned anew."""
    number, head = m[ISSUED], HEADS + 2 * port
    burst = m[BURST_AT] + BURST_SIZE * (number & m[BURST_MASK])
    m[burst + FOR], m[burst + WORDS], m[burst + READY_AT], m[burst + COMPLETE] = client, words, ready, -1
    m[ISSUED] = number + 1
    if m[head] < NEVER:
        return False
    m[head], m[HEAD_WORDS + 2 * port], m[NEXT_READ + port] = ready, words, number
    if ready > m[GRANT_AT]:
        return False
    m[STALE] = 1
    return True


def _asked(m: Memory, t: int, client: int) -> None:
    """Handles a client's request for its last word in cycle ``t``."""
    if client == TABLES:
        m[WEIGHTS + LEFT], m[WEIGHTS + OFFSET] = m[THEN_WORDS], m[THEN_OFFSET]
        m[WEIGHTS + VISIBLE] = m[WEIGHTS + SINCE] = t + 2
    elif client == WEIGHTS:
        _post_event(m, TABLES, t + 1, 1)


# Grants.


def _plan_grant(m: Memory) -> None:
    """Plans the next grant, valid if nothing else is requested before it.

    Round robin: the first ready request in turn is served as soon as the bandwidth bucket holds enough, unless one
    ahead of it in turn becomes ready before. After an idle cycle the turn starts anew.
    """
    m[STALE], end, t, gain, full = 0, HEADS + 2 * m[PORTS], NEVER, m[GAIN], m[FULL]
    for head in range(HEADS, end):
        if m[head] < t:
            t = m[head]
    if t == NEVER:
        m[GRANT_AT] = NEVER
        return
    if t > m[GRANT_FROM]:
        m[TURN] = 0
    else:
        t = m[GRANT_FROM]
    passed = t - m[CREDIT_AT]
    have = full if passed >= m[REFILL] else min(m[CREDIT] + gain * passed, full)
    while True:
        head, sooner = HEADS + m[TURN], NEVER
        while m[head] > t:
            sooner = min(sooner, m[head])
            head = head + 1 if head + 1 < end else HEADS
        cost, wait = m[head - HEADS + HEAD_WORDS] * m[COST], 0
        if have < cost:
            wait = -((have - cost) // gain)
            if sooner <= t + wait:
                have, t = min(have + gain * (sooner - t), full), sooner
                continue
            have = min(have + gain * wait, full)
        m[GRANT_AT], m[GRANTED], m[CHANGE] = t + wait, head - HEADS, have - cost
        return


def _grant_read(m: Memory, t: int, index: int) -> None:
    """Grants a read: data follow after the latency, one beat per cycle; bursts are delivered in request order."""
    port, ports = index // 2, m[PORTS]
    number = m[NEXT_READ + port]
    burst = m[BURST_AT] + BURST_SIZE * (number & m[BURST_MASK])
    m[HEADS + index] = NEVER
    if number + ports < m[ISSUED]:
        following = m[BURST_AT] + BURST_SIZE * ((number + ports) & m[BURST_MASK])
        m[NEXT_READ + port], m[HEADS + index] = number + ports, m[following + READY_AT]
        m[HEAD_WORDS + index] = m[following + WORDS]
    complete = max(t + m[READ_LATENCY], m[DATA_FREE + port]) + m[burst + WORDS] * ports
    m[burst + COMPLETE] = m[DATA_FREE + port] = complete
    if number != m[DELIVERED]:
        return
    blocked = m[ISSUED] - m[DELIVERED] == m[BURSTS]
    while m[DELIVERED] < m[ISSUED] and m[burst + COMPLETE] >= 0:
        _deliver(m, burst)
        burst = m[BURST_AT] + BURST_SIZE * (m[DELIVERED] & m[BURST_MASK])
    if blocked:
        _plan_issue(m)


def _deliver(m: Memory, burst: int) -> None:
    """Delivers a whole burst to its client, one bus word per cycle."""
    first, words, client = max(m[burst + COMPLETE], m[DELIVERED_AT]), m[burst + WORDS], m[burst + FOR]
    m[DELIVERED_AT] = m[burst + OVER_AT] = first + words
    m[DELIVERED] += 1
    if client == WEIGHTS:
        _weights(m, first, words)
    elif client == LOADS:
        _loaded(m, first + 1, words)
    elif client == READS:
        _post_event(m, READS, first + 1, words)


def _weights(m: Memory, first: int, words: int) -> None:
    """Handles weight words arriving from cycle ``first`` on; posts an event if the array waits for one of them."""
    ratio, known, last = m[RATIO], m[KNOWN], first + words + 1
    at = first + 1 + ratio - m[PART]
    while at <= last:
        m[known] = at
        known += 1
        at += ratio
    m[PART] = ratio - (at - last)
    if known > m[WANTED] and known > m[KNOWN]:
        _post_event(m, WEIGHTS, 0, 0)
    m[KNOWN] = known


def _loaded(m: Memory, first: int, words: int) -> None:
    """Handles words of a load arriving from cycle ``first`` on."""
    end = first + words
    if m[LOADS + SINGLE]:
        end = first + words * m[WORD] + 1
        at = m[LOADS + COMING_END]
        m[at], m[at + 1] = end, m[MOST]
        m[LOADS + COMING_END] = at + 2
        _plan_issue(m)
    m[UNDELIVERED] -= words
    if m[UNDELIVERED] == 0:
        _post_event(m, LOADS, end, 1)


# Store.


def _read(m: Memory) -> None:
    """Reads store bursts into the buffers of the ports in turn, as far as buffers are known to become free."""
    while m[STORE_LEFT]:
        port = m[STORE_TURN]
        writer = WRITER + WRITER_SIZE * port
        number = m[writer + WRITES_READ]
        if number - m[writer + WRITTEN] == 2:
            return
        words = min(m[STORE_LEFT], m[MOST] - m[STORE_OFFSET])
        m[STORE_FROM] = max(m[writer + BUFFER + number % 2], m[STORE_FROM]) + words
        m[STORE_LEFT] -= words
        offset = m[STORE_OFFSET] + words
        m[STORE_OFFSET] = offset if offset < m[MOST] else 0
        m[STORE_TURN] = port + 1 if port + 1 < m[PORTS] else 0
        m[UNANSWERED] += 1
        m[writer + WAITING + number % 2], m[writer + WAITING_WORDS + number % 2] = m[STORE_FROM] + 2, words
        m[writer + WRITES_READ] = number + 1
        if m[writer + OFFERED] == m[writer + WRITTEN]:
            _offer(m, port, writer)


def _answer(m: Memory, port: int, number: int) -> int:
    """Position of the answer to a port's write burst."""
    return m[ANSWER_AT] + port * (m[ANSWER_MASK] + 1) + (number & m[ANSWER_MASK])


def _offer(m: Memory, port: int, writer: int) -> None:
    """Offers an idle port's oldest whole burst to the memory, once few enough are unanswered."""
    number = m[writer + OFFERED]
    answered = m[_answer(m, port, number - m[OUTSTANDING])]
    m[HEADS + 2 * port + 1] = max(m[writer + WAITING + number % 2], m[writer + IDLE], answered) + 2
    m[HEAD_WORDS + 2 * port + 1] = m[writer + WAITING_WORDS + number % 2]
    m[writer + OFFERED] = number + 1


def _grant_write(m: Memory, t: int, index: int) -> None:
    """Grants a write: its beats follow, the port is idle after the last, the answer comes later."""
    port = index // 2
    writer = WRITER + WRITER_SIZE * port
    number, end = m[writer + WRITTEN], t + m[HEAD_WORDS + index] * m[PORTS]
    answer = end + m[WRITE_LATENCY]
    m[writer + IDLE] = m[writer + BUFFER + number % 2] = end + 1
    m[_answer(m, port, number)] = answer
    m[writer + WRITTEN] = number + 1
    m[HEADS + index] = NEVER
    if m[writer + OFFERED] < m[writer + WRITES_READ]:
        _offer(m, port, writer)
    _read(m)
    m[LAST_ANSWER] = max(m[LAST_ANSWER], answer)
    m[UNANSWERED] -= 1
    if m[UNANSWERED] == 0:
        _post_event(m, STORE, m[LAST_ANSWER] + 2, 1)


OFTEN = (
    _first_slot, _plan_issue, _has_room, _hold, _issue, _request, _count, _plan_grant, _grant_read, _deliver, _weights,
    _post_event,
)  # fmt: skip
"""Functions run for every burst; inlined, the machine code is a quarter faster."""
