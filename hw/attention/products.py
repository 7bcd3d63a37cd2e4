"""Products of the attention engine: scores of queries and keys, weighted sums of values."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import In, Out

from codesign.hw.attention.formulas import CHAIN
from codesign.hw.primitives.multiply import PackedDot, delay, sum_tree
from codesign.hw.verilog import SharedComponent


class ScorePair(SharedComponent):
    """Scores of two query rows: dot products of ``t_a`` columns, accumulated over the blocks.

    ``valid`` and ``first`` apply to the products at the accumulator input.
    """

    def __init__(self, t_a: int, score_bits: int) -> None:
        self.t_a = t_a
        word = In(8 * t_a)
        scores = {"s0": Out(signed(score_bits)), "s1": Out(signed(score_bits))}
        super().__init__(
            f"score_pair_{t_a}_{score_bits}",
            {"x": word, "w0": word, "w1": word, "valid": In(1), "first": In(1), **scores},
        )

    def build(self, platform: object) -> Module:
        """Packed chains of at most four, an adder tree, two accumulators."""
        m = Module()
        chain = min(self.t_a, CHAIN)
        products: tuple[list[Value], list[Value]] = ([], [])
        for part in range(self.t_a // chain):
            m.submodules[f"dot{part}"] = dot = PackedDot(chain)
            for name in ("x", "w0", "w1"):
                m.d.comb += getattr(dot, name).eq(getattr(self, name).word_select(part, 8 * chain))
            products[0].append(dot.y0)
            products[1].append(dot.y1)
        for side, score in enumerate((self.s0, self.s1)):
            total = sum_tree(m, products[side], f"tree{side}")
            with m.If(self.valid):
                m.d.sync += score.eq(Mux(self.first, 0, score) + total)
        return m


class ValueLane(SharedComponent):
    """Weighted sums of ``t_a`` value columns for one query row, and the sum of the weights.

    ``valid`` and ``first`` apply to the products at the accumulator inputs.
    """

    def __init__(self, t_a: int, total_bits: int) -> None:
        self.t_a, self.acc_bits = t_a, total_bits + 8
        super().__init__(
            f"value_lane_{t_a}_{total_bits}",
            {
                "e": In(8),
                "v": In(8 * t_a),
                "valid": In(1),
                "first": In(1),
                "acc": Out(t_a * self.acc_bits),
                "total": Out(total_bits),
            },
        )

    def build(self, platform: object) -> Module:
        """Two columns per DSP, one accumulator each."""
        m = Module()
        for pair in range((self.t_a + 1) // 2):
            m.submodules[f"dot{pair}"] = dot = PackedDot(1, x_signed=False)
            columns = self.v[16 * pair :][:16]
            m.d.comb += [dot.x.eq(self.e), dot.w0.eq(columns[:8]), dot.w1.eq(columns[8:])]
            for side, product in enumerate((dot.y0, dot.y1)):
                if 2 * pair + side < self.t_a:
                    self._accumulate(m, 2 * pair + side, product)
        weight = delay(m, self.e, PackedDot.latency(1), "weight")
        with m.If(self.valid):
            m.d.sync += self.total.eq(Mux(self.first, 0, self.total) + weight)
        return m

    def _accumulate(self, m: Module, column: int, product: Value) -> None:
        acc = Signal(signed(self.acc_bits), name=f"acc{column}", reset_less=True)
        with m.If(self.valid):
            m.d.sync += acc.eq(Mux(self.first, 0, acc) + product)
        m.d.comb += self.acc.word_select(column, self.acc_bits).eq(acc)
