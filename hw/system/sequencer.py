"""The sequencer: reads commands from DRAM, queues them per engine, and orders them by tokens.

The command format is defined in `codesign.target.commands`; tokens of engines that the design lacks are ignored.
Tokens are counting semaphores per (producer, consumer) pair.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.fifo import Fifo
from codesign.hw.system.bus import ADDR_BITS, COMMANDS, BurstMaker, BurstRequest, Bus
from codesign.target.engines import (
    COMMAND_BYTES,
    HEADER_BITS,
    MOST_ENGINES,
    OPERAND_BITS,
    POSTS_AT,
    TOKEN_BITS,
    WAITS_AT,
)

COMMAND_QUEUE = 16
"""Commands prefetched ahead of dispatch."""
ENGINE_QUEUE = 8
"""Commands waiting per engine."""
FLIGHT_QUEUE = 8
"""Most commands of one engine that are accepted but not done."""
COUNTER_BITS = 8
"""Width of a counting semaphore."""
INDEX_BITS = 16
"""Width of a command index, as reported with errors."""

ERROR_ENGINE, ERROR_WATCHDOG, ERROR_BUS, ERROR_ILLEGAL = 1, 2, 3, 16
"""Error codes: unknown engine, watchdog timeout, AXI error response; 16 + engine for an illegal command."""


def flight_bits(engines: int) -> int:
    """Bits stored per command in flight: the tokens it posts, and its index."""
    return TOKEN_BITS * engines + INDEX_BITS


class Sequencer(wiring.Component):
    """Runs one command list per start.

    Args:
        bus: shape of the off-chip interface; a bus word is at most a command.
        engines: number of engines.

    Ports:
        start, base, count: begin a list of ``count`` commands at byte address ``base``.
        watchdog: cycles without progress that abort the run, 0 for never.
        running, finished, error, error_index, cycles: state; ``cycles`` counts from start to finish.
        request, valid, data: the read path.
        bus_failed: an AXI response was an error.
        command0..: to the engines, raw operands; done0.., error0..: from them.
    """

    def __init__(self, bus: Bus, engines: int) -> None:
        if COMMAND_BYTES % bus.word_bytes:
            raise ValueError(f"bus word of {bus.word_bytes} bytes; legal: a divisor of {COMMAND_BYTES}")
        if not 1 <= engines <= MOST_ENGINES:
            raise ValueError(f"{engines} engines; legal: 1 to {MOST_ENGINES}")
        self.bus, self.engines = bus, engines
        members: dict[str, wiring.Member] = {
            "start": In(1), "base": In(ADDR_BITS), "count": In(24), "watchdog": In(32),
            "running": Out(1), "finished": Out(1), "error": Out(8), "error_index": Out(16), "cycles": Out(48),
            "request": Out(stream.Signature(BurstRequest())), "valid": In(1), "data": In(8 * bus.word_bytes),
            "bus_failed": In(1), "waiting": Out(engines),
        }  # fmt: skip
        for e in range(engines):
            members |= {f"command{e}": Out(stream.Signature(OPERAND_BITS)), f"done{e}": In(1), f"error{e}": In(1)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        """Fetch, dispatch, issue, and the state of the run."""
        m = Module()
        m.submodules.commands = commands = Fifo(512, COMMAND_QUEUE)
        self._fetch(m, commands)
        queues = [Fifo(8 * COMMAND_BYTES + INDEX_BITS, ENGINE_QUEUE) for _ in range(self.engines)]
        flights = [Fifo(flight_bits(self.engines), FLIGHT_QUEUE) for _ in range(self.engines)]
        for e, (queue, flight) in enumerate(zip(queues, flights, strict=True)):
            m.submodules[f"queue{e}"], m.submodules[f"flight{e}"] = queue, flight
        dispatched, unknown = self._dispatch(m, commands, queues)
        progress, illegal = self._issue(m, queues, flights)
        empty = ~Cat(*(q.r.valid for q in queues), *(f.r.valid for f in flights)).any()
        self._state(m, dispatched, empty, progress, unknown, illegal)
        return m

    def _fetch(self, m: Module, commands: Fifo) -> None:
        """Fetches the command list while the queue has room."""
        bus = self.bus
        per = COMMAND_BYTES // bus.word_bytes
        m.submodules.bursts = bursts = BurstMaker(bus)
        space = Signal(24, init=COMMAND_QUEUE * per)
        asked = Mux(self.request.valid & self.request.ready, self.request.payload.words, 0)
        taken = Mux(commands.r.valid & commands.r.ready, per, 0)
        m.d.sync += space.eq(space + taken - asked)
        m.d.comb += [
            bursts.start.eq(self.start & ~self.running),
            bursts.addr.eq(self.base),
            bursts.words.eq(self.count * per),
            bursts.space.eq(space),
        ]
        wiring.connect(m, bursts.request, wiring.flipped(self.request))
        m.d.comb += self.request.payload.to.eq(COMMANDS)
        if per == 1:
            m.d.comb += [commands.w.valid.eq(self.valid), commands.w.payload.eq(self.data)]
            return
        held, part = Signal(512 - len(self.data), reset_less=True), Signal(range(per))
        with m.If(self.valid):
            m.d.sync += [held.eq(Cat(held, self.data)[len(self.data) :]), part.eq(part + 1)]
        m.d.comb += [commands.w.valid.eq(self.valid & (part == per - 1)), commands.w.payload.eq(Cat(held, self.data))]

    def _dispatch(self, m: Module, commands: Fifo, queues: list[Fifo]) -> tuple[Value, Value]:
        """Moves one command per cycle to its engine's queue; returns the count, and a flag for an unknown engine."""
        done = Signal(24)
        engine = commands.r.payload[:8]
        unknown = commands.r.valid & (engine >= self.engines)
        ready: Value = Signal()
        for e, queue in enumerate(queues):
            mine = commands.r.valid & (engine == e)
            m.d.comb += [
                queue.w.valid.eq(mine & (self.error == 0)),
                queue.w.payload.eq(Cat(commands.r.payload, done[:16])),
            ]
            ready = ready | (mine & queue.w.ready)
        m.d.comb += commands.r.ready.eq(ready | (self.error != 0))
        with m.If(ready & (self.error == 0)):
            m.d.sync += done.eq(done + 1)
        with m.If(self.start & ~self.running):
            m.d.sync += done.eq(0)
        return done, unknown

    def _issue(self, m: Module, queues: list[Fifo], flights: list[Fifo]) -> tuple[Value, list[Value]]:
        """Offers the head of each queue once its tokens are available; posts tokens when a command is done.

        An engine may reject a command on acceptance or, with no other in flight, some cycles later.
        """
        tokens = [
            [Signal(COUNTER_BITS, name=f"tokens_{p}_{c}") for c in range(self.engines)] for p in range(self.engines)
        ]
        progress: Value = Signal()
        accepted_all, posts_all, illegal = [], [], []
        for e, (queue, flight) in enumerate(zip(queues, flights, strict=True)):
            port = getattr(self, f"command{e}")
            word = queue.r.payload
            needs = [word[WAITS_AT + TOKEN_BITS * p :][:TOKEN_BITS] for p in range(self.engines)]
            enough = Cat(*(tokens[p][e] >= needs[p] for p in range(self.engines))).all()
            valid, accepted = Signal(name=f"valid{e}"), Signal(name=f"accepted{e}")
            done, failed = getattr(self, f"done{e}"), getattr(self, f"error{e}")
            m.d.comb += [
                valid.eq(queue.r.valid & enough & flight.w.ready & (self.error == 0)),
                port.valid.eq(valid),
                port.payload.eq(word[HEADER_BITS:512]),
                accepted.eq(valid & port.ready),
                queue.r.ready.eq(accepted | (self.error != 0)),
                flight.w.valid.eq(accepted & ~failed),
                flight.w.payload.eq(Cat(word[POSTS_AT:][: TOKEN_BITS * self.engines], word[512:])),
                flight.r.ready.eq(done | (self.error != 0)),
                self.waiting[e].eq(queue.r.valid & ~accepted),
            ]
            accepted_all.append([Mux(accepted, need, 0) for need in needs])
            gives = [flight.r.payload[TOKEN_BITS * c :][:TOKEN_BITS] for c in range(self.engines)]
            posts_all.append([Mux(done, give, 0) for give in gives])
            illegal.append((failed, Mux(accepted, word[512:], flight.r.payload[-INDEX_BITS:])))
            progress = progress | accepted | done
        for p in range(self.engines):
            for c in range(self.engines):
                m.d.sync += tokens[p][c].eq(tokens[p][c] + posts_all[p][c] - accepted_all[c][p])
                with m.If(self.start & ~self.running):
                    m.d.sync += tokens[p][c].eq(0)
        return progress, illegal

    def _state(
        self,
        m: Module,
        dispatched: Value,
        empty: Value,
        progress: Value,
        unknown: Value,
        illegal: list[tuple[Value, Value]],
    ) -> None:
        """State, errors, cycle counter and watchdog of a run."""
        quiet = Signal(32)
        m.d.sync += quiet.eq(Mux(progress | ~self.running, 0, quiet + 1))
        with m.If(self.running):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        ending = self.running & (dispatched == self.count) & empty
        with m.If(ending | (self.error != 0)):
            m.d.sync += self.running.eq(0)
        m.d.comb += self.finished.eq(ending)
        with m.If(self.running & (self.error == 0)):
            with m.If((self.watchdog != 0) & (quiet == self.watchdog)):
                m.d.sync += self.error.eq(ERROR_WATCHDOG)
            with m.If(self.bus_failed):
                m.d.sync += self.error.eq(ERROR_BUS)
            with m.If(unknown):
                m.d.sync += [self.error.eq(ERROR_ENGINE), self.error_index.eq(dispatched)]
            for e, (pulse, index) in enumerate(illegal):
                with m.If(pulse):
                    m.d.sync += [self.error.eq(ERROR_ILLEGAL + e), self.error_index.eq(index)]
        with m.If(self.start & ~self.running):
            m.d.sync += [self.running.eq(1), self.error.eq(0), self.error_index.eq(0), self.cycles.eq(0), quiet.eq(0)]


class Restart(wiring.Component):
    """Passes the host's start to the sequencer, after an error with a reset first.

    Ports:
        wanted: pulse, start by the host. failed: the run has failed, and no more bursts are issued.
        settled: no burst is in flight.
        start: pulse to the sequencer, in the same cycle unless the run has failed.
        clear: one-cycle reset of every part; start follows in the next cycle.
        pending: start requested after an error but not yet done.
    """

    def __init__(self) -> None:
        inputs = {name: In(1) for name in ("wanted", "failed", "settled")}
        super().__init__({**inputs, **{name: Out(1) for name in ("start", "clear", "pending")}})

    def elaborate(self, platform: object) -> Module:
        """State bits: waiting, cleared."""
        m = Module()
        waiting, cleared = Signal(), Signal()
        m.d.comb += [
            self.clear.eq(waiting & self.settled),
            self.pending.eq(waiting | cleared),
            self.start.eq((self.wanted & ~self.failed & ~waiting) | cleared),
        ]
        m.d.sync += [waiting.eq((waiting | (self.wanted & self.failed)) & ~self.clear), cleared.eq(self.clear)]
        return m
