"""The attention engine in Amaranth.

`Slots` walks the jobs of a command; T is the cycle in which it shows a given state. Every other
stage sees that state a fixed number of cycles later, so all of them switch jobs without gaps:

====================================  ==========================================================
T                                     query address; counters of keys and of values
T + 2                                 key address; query buffer read
T + score                             scores complete: written, row maximum updated
T + score - 1                         scores of the previous job read again
T + score + weight                    their exponentials and the value words meet in the multipliers
T + score + weight + value            sums complete; drained lane by lane after a pass
19 and 8 cycles later                 reciprocal of the row's total known; requantized word written
====================================  ==========================================================
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.attention import AttentionKernel
from codesign.hw.attention.control import OPERANDS, POINTER_BITS, AttentionSetup, Jobs, KeyWalk, RowWalk, Slots
from codesign.hw.attention.formulas import SUM_LATENCY, WEIGHT_LATENCY, WRITE_LATENCY, score_latency
from codesign.hw.attention.products import ScorePair, ValueLane
from codesign.hw.attention.softmax import SoftmaxPair, SumDrain
from codesign.hw.primitives.memory import READ_LATENCY, ReadPort, RowMemory, WritePort, address_bits
from codesign.hw.primitives.multiply import delay


class _Timing:
    """Fixed distances between the stages, in cycles."""

    def __init__(self, kernel: AttentionKernel) -> None:
        self.score: int = score_latency(kernel.t_a)
        self.sums = self.score + WEIGHT_LATENCY + SUM_LATENCY
        self.write = self.sums + WRITE_LATENCY


@dataclass(frozen=True)
class _Scores:
    """Outputs of the score stage for one key.

    Attributes:
        pairs: scores per pair of rows; complete: they are valid.
        first: first key of its job; place: word of the score buffer; allowed: mask bit per row.
    """

    pairs: list[tuple[Value, Value]]
    complete: Value
    first: Value
    place: Value
    allowed: Value


class AttentionEngine(wiring.Component):
    """Runs attention commands one at a time; see `codesign.hw.attention`.

    Args:
        kernel: design parameters.
        q_depth, k_depth, v_depth, o_depth: words of the four memories, at most 2**24.

    Members:
        command: operands, accepted while no command runs.
        done: pulse in the cycle after the last write; error: pulse instead, the command was illegal.
        busy: a command runs.
        q, k, v: read ports, words of ``t_a`` bytes; o: write port.
    """

    def __init__(self, kernel: AttentionKernel, *, q_depth: int, k_depth: int, v_depth: int, o_depth: int) -> None:
        self.kernel, self._time = kernel, _Timing(kernel)
        self.depths = {"q": q_depth, "k": k_depth, "v": v_depth, "o": o_depth}
        if not all(1 <= depth <= 1 << POINTER_BITS for depth in self.depths.values()):
            raise ValueError(f"memories of {self.depths} words; legal: 1 to 2**{POINTER_BITS} each")
        word = 8 * kernel.t_a
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)),
                "done": Out(1),
                "error": Out(1),
                "busy": Out(1),
                **{name: Out(ReadPort(address_bits(self.depths[name]), word)) for name in ("q", "k", "v")},
                "o": Out(WritePort(address_bits(o_depth), word)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Control, then the stages in data-flow order."""
        m = Module()
        setup, slots = self._control(m)
        queries = self._load(m, setup, slots)
        scores = self._scores(m, setup, slots, queries)
        weights = self._softmax(m, setup, slots, scores)
        self._values(m, setup, slots, weights)
        return m

    def _control(self, m: Module) -> tuple[AttentionSetup, Slots]:
        """Setup, job generator and slots; the first job is ready two cycles after the setup."""
        m.submodules.setup = setup = AttentionSetup(self.kernel, self.depths)
        m.submodules.jobs = jobs = Jobs(self.kernel)
        m.submodules.slots = slots = Slots(self.kernel)
        wiring.connect(m, wiring.flipped(self.command), setup.command)
        for name in ("start", "operands", "stride", "group_stride", "first_key", "first_offset"):
            m.d.comb += getattr(jobs, name).eq(getattr(setup, name))
        m.d.comb += [
            jobs.advance.eq(slots.shift),
            slots.job.eq(jobs.job),
            slots.db.eq(setup.operands.db),
            slots.begin.eq(delay(m, setup.start, 2, "begin", reset_less=False)),
            setup.finished.eq(self.done),
            self.error.eq(setup.error),
            self.busy.eq(setup.busy),
        ]
        return setup, slots

    def _load(self, m: Module, setup: AttentionSetup, slots: Slots) -> RowMemory:
        """Loads the queries of the next job into their half of the buffer, one word per cycle."""
        m.submodules.query_walk = walk = RowWalk()
        rows, width = self.kernel.n_a, self.kernel.n_a * 8 * self.kernel.t_a
        place = (self.kernel.db_max - 1).bit_length()
        m.submodules.queries = buffer = RowMemory(
            bits=width << (place + 1), write_bits=width, read_bits=(width,), mask_bits=rows
        )
        m.d.comb += [
            walk.start.eq(slots.shift),
            walk.turn.eq(slots.turn),
            walk.base.eq(setup.operands.q_base + slots.job.q),
            walk.stride.eq(setup.stride),
            self.q.addr.eq(walk.address),
            buffer.write.en.eq(delay(m, slots.load.valid & (slots.inner < rows), READ_LATENCY, "loading")),
            buffer.write.addr.eq(delay(m, Cat(slots.block[:place], slots.half), READ_LATENCY, "load_at")),
            buffer.write.mask.eq(1 << delay(m, slots.inner[: (rows - 1).bit_length()], READ_LATENCY, "load_lane")),
            buffer.write.data.eq(self.q.data.replicate(rows)),
        ]
        return buffer

    def _scores(self, m: Module, setup: AttentionSetup, slots: Slots, queries: RowMemory) -> _Scores:
        """Multiplies the keys of the present job by its queries."""
        m.submodules.key_walk = walk = KeyWalk(self.kernel)
        place, score = (self.kernel.db_max - 1).bit_length(), self._time.score
        query_at = Cat(walk.block[:place], ~slots.half)
        m.d.comb += [
            walk.start.eq(slots.shift),
            walk.job.eq(slots.load),
            walk.operands.eq(setup.operands),
            walk.stride.eq(setup.stride),
            self.k.addr.eq(delay(m, walk.address, READ_LATENCY, "key_at")),
            queries.read0.addr.eq(delay(m, query_at, READ_LATENCY, "query_at")),
        ]
        valid, first = (delay(m, x, score - 1, n) for x, n in ((walk.active, "valid"), (walk.first_block, "first")))
        word, values = 8 * self.kernel.t_a, []
        for pair in range(self.kernel.n_a // 2):
            m.submodules[f"score{pair}"] = lanes = ScorePair(self.kernel.t_a, self.kernel.score_bits)
            m.d.comb += [
                lanes.x.eq(self.k.data),
                lanes.w0.eq(queries.read0.data.word_select(2 * pair, word)),
                lanes.w1.eq(queries.read0.data.word_select(2 * pair + 1, word)),
                lanes.valid.eq(valid),
                lanes.first.eq(first),
            ]
            values.append((lanes.s0, lanes.s1))
        return _Scores(
            pairs=values,
            complete=delay(m, walk.active & walk.last_block, score, "complete"),
            first=delay(m, walk.first_key, score, "first_key"),
            place=delay(m, Cat(walk.key, ~slots.half), score, "score_at"),
            allowed=delay(m, walk.allowed, score - 1, "allowed"),
        )

    def _softmax(self, m: Module, setup: AttentionSetup, slots: Slots, scores: _Scores) -> list[Value]:
        """Buffers the scores of the present job and turns those of the previous job into exponentials."""
        width, score = self.kernel.n_a * (self.kernel.score_bits + 1), self._time.score
        m.submodules.buffer = buffer = RowMemory(
            bits=2 * self.kernel.max_keys * width, write_bits=width, read_bits=(width,)
        )
        key = slots.inner[: len(scores.place) - 1]
        m.d.comb += [
            buffer.write.en.eq(scores.complete),
            buffer.write.addr.eq(scores.place),
            buffer.read0.addr.eq(delay(m, Cat(key, slots.half), score - 1, "stored_at")),
        ]
        hold = delay(m, slots.shift, score + 1, "hold")
        weights: list[Value] = []
        for pair, (s0, s1) in enumerate(scores.pairs):
            m.submodules[f"softmax{pair}"] = lanes = SoftmaxPair(self.kernel.score_bits)
            bits = len(lanes.word)
            m.d.comb += [
                lanes.s0.eq(s0),
                lanes.s1.eq(s1),
                lanes.complete.eq(scores.complete),
                lanes.first.eq(scores.first),
                lanes.allowed.eq(scores.allowed.word_select(pair, 2)),
                lanes.hold.eq(hold),
                lanes.stored.eq(buffer.read0.data.word_select(pair, bits)),
                lanes.multiplier.eq(setup.operands.score_multiplier),
                lanes.shift.eq(setup.operands.score_shift),
                buffer.write.data.word_select(pair, bits).eq(lanes.word),
            ]
            weights += [lanes.e0, lanes.e1]
        return weights

    def _values(self, m: Module, setup: AttentionSetup, slots: Slots, weights: list[Value]) -> None:
        """Accumulates exponentials times the values of the previous job, then drains the sums."""
        m.submodules.value_walk = walk = RowWalk()
        m.submodules.drain = drain = SumDrain(self.kernel)
        meet, sums = self._time.score + WEIGHT_LATENCY - READ_LATENCY, self._time.sums
        m.d.comb += [
            walk.start.eq(slots.shift),
            walk.turn.eq(slots.turn),
            walk.base.eq(setup.operands.v_base + slots.present.k),
            walk.stride.eq(setup.stride),
            self.v.addr.eq(delay(m, walk.address, meet, "value_at")),
            drain.take.eq(delay(m, slots.turn, sums, "take")),
            drain.multiplier.eq(setup.operands.out_multiplier),
            drain.shift.eq(setup.operands.out_shift),
        ]
        valid = delay(m, slots.inner < slots.previous.keys, sums - 1, "summing")
        first = delay(m, slots.inner == 0, sums - 1, "first_value")
        for lane, weight in enumerate(weights):
            m.submodules[f"value{lane}"] = value = ValueLane(self.kernel.t_a, self.kernel.total_bits)
            m.d.comb += [
                value.e.eq(weight),
                value.v.eq(self.v.data),
                value.valid.eq(valid),
                value.first.eq(first),
                drain.lanes.word_select(lane, drain.lane_bits).eq(Cat(value.acc, value.total)),
            ]
        self._write(m, setup, slots, drain)

    def _write(self, m: Module, setup: AttentionSetup, slots: Slots, drain: SumDrain) -> None:
        """Writes the rows of a pass; the last row of the last pass ends the command."""
        m.submodules.write_walk = walk = RowWalk()
        rows, previous = self.kernel.n_a, slots.previous
        left, final = Signal(range(rows + 1)), Signal()
        with m.If(slots.turn):
            m.d.sync += [left.eq(Mux(previous.rows > rows, rows, previous.rows)), final.eq(slots.shift & slots.last)]
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.comb += [
            walk.start.eq(slots.turn),
            walk.base.eq(setup.operands.o_base + previous.q + slots.block),
            walk.stride.eq(setup.stride),
            self.o.en.eq(delay(m, left != 0, self._time.write, "writing", reset_less=False)),
            self.o.addr.eq(delay(m, walk.address, self._time.write, "write_at")),
            self.o.data.eq(drain.word),
            self.done.eq(delay(m, final & (left == 1), self._time.write + 1, "done", reset_less=False)),
        ]
