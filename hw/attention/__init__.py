"""The attention kernel: streaming softmax(q k^T) v, its command, golden and formulas.

A *job* is one head of one group of ``n_a`` query rows; groups are the outer loop. Three stages
work in parallel on consecutive jobs: load the queries of the next job, compute the scores of the
present one, accumulate the values of the previous one. They advance together in slots of ``db``
passes, one per block of ``t_a`` columns. A pass lasts as many cycles as the largest of: keys of
the present job, keys of the previous job, ``n_a``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from codesign.hw.attention.formulas import QueryGroups, Sizes, buffers, latency, values
from codesign.hw.primitives.area import Units, area
from codesign.ir.network import MASKS, Attention, Layer
from codesign.numerics import nonlinear
from codesign.numerics.fixed_point import IntArray, IntLike
from codesign.solver.space import ParameterSpace
from codesign.target.board import Board
from codesign.target.kernel import (
    DSP_MACS,
    Case,
    Columns,
    CommandKernel,
    Joules,
    Memory,
    Number,
    Params,
    Placement,
    Port,
    Resources,
    Work,
    ceil_div,
    head_columns,
    joules,
    padded,
    power_of_two,
    powers_up_to,
)

MAX_HEAD_DIM = 128
MAX_KEYS = 2048
"""Limit of the 27-bit accumulators: 128 * 255 * 2048 < 2**26."""

_SCORE_BYTES = 3
"""Bytes of a score in its buffer, rounded up."""


@dataclass(frozen=True)
class AttentionKernel(CommandKernel):
    """Design parameters of the attention engine.

    Attributes:
        t_a: columns of a head per cycle, a power of two, 1 to 32.
        n_a: query rows in parallel, even, 2 to 32.
        max_keys: keys the score buffer holds, a power of two, at most 2048.
        db_max: blocks of ``t_a`` columns a head may have; ``t_a * db_max`` is at most 128.
    """

    contract: ClassVar[int] = 1
    op: ClassVar[str] = "attention"
    layers: ClassVar[tuple[type[Layer], ...]] = (Attention,)
    # rows, keys: query rows and keys; db: words per head and row; query_offset: mask index of query row 0; bases:
    # first word in that memory; mask: index into `codesign.ir.network.MASKS`; window: of the sliding mask;
    # multipliers and shifts: see `codesign.numerics.nonlinear.attention`.
    fields: ClassVar[Mapping[str, int]] = {
        "rows": 16, "keys": 16, "heads": 8, "db": 8, "query_offset": 16, "q_base": 24, "k_base": 24, "v_base": 24,
        "o_base": 24, "mask": 8, "window": 16, "score_multiplier": 24, "score_shift": 8, "out_multiplier": 24,
        "out_shift": 8,
    }  # fmt: skip
    ports: ClassVar[tuple[Port, ...]] = (
        *(Port(name, lanes="t_a") for name in "qkv"),
        Port("o", lanes="t_a", writes=True),
    )
    geometry: ClassVar[tuple[str, ...]] = ("t_a",)
    padding: ClassVar[tuple[str, ...]] = ("t_a",)
    configurations: ClassVar[tuple[tuple[int, ...], ...]] = (
        (1, 2, 32, 8), (8, 2, 32, 2), (16, 8, 32, 1), (2, 2, 32, 16), (8, 4, 64, 4), (4, 4, 128, 8), (16, 4, 32, 2),
        (32, 4, 128, 1), (4, 2, 32, 4), (16, 16, 64, 2), (4, 8, 2048, 16), (8, 8, 128, 4), (8, 16, 128, 4),
    )  # fmt: skip

    t_a: int
    n_a: int
    max_keys: int
    db_max: int

    def __post_init__(self) -> None:
        if not self.legal(self.params):
            raise ValueError(
                f"{self}; legal: t_a a power of two to 32, n_a even from 2 to 32, max_keys a power of two from 2"
                f" to {MAX_KEYS}, db_max at least 1 and t_a * db_max at most {MAX_HEAD_DIM}"
            )

    @property
    def score_bits(self) -> int:
        """Signed width that holds any dot product of a head: |s| <= 2**14 * t_a * db_max."""
        return 16 + (self.t_a * self.db_max - 1).bit_length()

    @property
    def total_bits(self) -> int:
        """Unsigned width of a row's sum of exponentials, at most 255 * max_keys."""
        return 7 + self.max_keys.bit_length()

    @property
    def acc_bits(self) -> int:
        """Signed width of the weighted sums, at most 128 * 255 * max_keys in magnitude."""
        return self.total_bits + 8

    @property
    def max_out_shift(self) -> int:
        """Largest ``out_shift``; the requantizer shifts by up to ``out_shift + total_bits - 1``, at most 63."""
        return 64 - self.total_bits

    @classmethod
    def supports(cls, layer: object) -> str | None:
        """None if some design can run the layer, else the reason why not."""
        if not isinstance(layer, Attention):
            return f"a {type(layer).__name__} is not an attention layer"
        limits = {"head_dim": MAX_HEAD_DIM, "keys": MAX_KEYS, "heads": 255, "rows": 0xFFFF, "window": 0xFFFF}
        over = [
            f"{name} {getattr(layer, name)} > {most}" for name, most in limits.items() if getattr(layer, name) > most
        ]
        return f"{layer.name}: {', '.join(over)}" if over else None

    @classmethod
    def memories(cls, params: Params) -> tuple[Memory, ...]:
        """Query, key and value memories, written by the linear engine, and the context memory it reads."""
        names = zip(("query", "key", "value"), "qkv", strict=True)
        return (
            *(Memory(name, 1, ("linear.out", port)) for name, port in names),
            Memory("context", 1, ("o", "linear.source")),
        )

    @classmethod
    def reaches(cls, layer: Attention) -> tuple[tuple[str, str], ...]:
        """See `Kernel.reaches`."""
        return (layer.query, "q"), (layer.key, "k"), (layer.value, "v"), (layer.target, "o")

    @classmethod
    def columns(cls, layer: Attention, params: Params, unit: Number) -> Columns:
        """Pads each head to whole words, and a row with empty heads."""
        wide = padded(layer.head_dim, params["t_a"])
        return Columns(layer.heads, layer.head_dim, wide, head_columns(layer.heads, wide, unit))

    @classmethod
    def operands(cls, layer: Attention, params: Params, place: Placement, first: int, rows: int) -> dict[str, int]:
        """See `CommandKernel.operands`; keys and values are not tiled by rows."""
        columns = place.columns(layer.query)
        return {
            "rows": rows, "keys": layer.keys, "heads": columns.total // columns.wide,
            "db": columns.wide // params["t_a"], "query_offset": first, "q_base": place.base(layer.query, first),
            "k_base": place.base(layer.key, 0), "v_base": place.base(layer.value, 0),
            "o_base": place.base(layer.target, first), "mask": MASKS.index(layer.mask), "window": layer.window,
            "score_multiplier": layer.score_multiplier, "score_shift": layer.score_shift,
            "out_multiplier": layer.out_multiplier, "out_shift": layer.out_shift,
        }  # fmt: skip

    @classmethod
    def work(cls, layer: Attention, first: Number, rows: Number, columns: Columns | None = None) -> dict[str, Number]:
        """Work fields: rows, keys, heads (empty ones included), mask, window, query_offset, columns per head."""
        heads, wide = (
            (layer.heads, layer.head_dim) if columns is None else (columns.total // columns.wide, columns.wide)
        )
        return {
            "rows": rows, "keys": layer.keys, "heads": heads, "mask": MASKS.index(layer.mask), "window": layer.window,
            "query_offset": first, "head_dim": wide,
        }  # fmt: skip

    @classmethod
    def axes(cls, layers: Sequence[Attention]) -> dict[str, tuple[int, ...]]:
        """See `CommandKernel.axes`."""
        return {"t_a": (4, 8, 16, 32), "n_a": tuple(range(2, 33, 2))}

    @classmethod
    def follows(cls, layers: Sequence[Attention], params: Params) -> dict[str, Number]:
        """``max_keys`` and ``db_max`` for the most keys and the widest head."""
        keys, widest = max(layer.keys for layer in layers), max(layer.head_dim for layer in layers)
        return {"max_keys": powers_up_to(2, keys)[-1], "db_max": ceil_div(widest, params["t_a"])}

    @classmethod
    def choices(cls, linear: Params) -> tuple[dict[str, int], ...]:
        """See `CommandKernel.choices`."""
        return tuple({"t_a": t_a, "n_a": n_a} for t_a, n_a in product((8, 16, 32), (2, 4, 8, 16)))

    @classmethod
    def legal(cls, params: Params) -> Number:
        """1 where the parameters are a legal design (see the class), else 0."""
        t_a, n_a, keys, db = values(params, "t_a", "n_a", "max_keys", "db_max")
        result: Number = (
            power_of_two(t_a) * (t_a <= 32) * (n_a % 2 == 0) * (n_a >= 2) * (n_a <= 32)
            * power_of_two(keys) * (keys >= 2) * (keys <= MAX_KEYS) * (db >= 1) * (t_a * db <= MAX_HEAD_DIM)
        )  # fmt: skip
        return result

    @classmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        """See `Kernel.space`; ``db_max`` is exactly the blocks of a head."""
        if not isinstance(layer, Attention):
            raise TypeError(f"a {type(layer).__name__} is not an attention layer")
        t_as = powers_up_to(1, min(layer.head_dim, 32))
        axes = {
            "t_a": t_as, "n_a": tuple(range(2, 33, 2)), "max_keys": powers_up_to(2, layer.keys)[-1:],
            "db_max": tuple(sorted({ceil_div(layer.head_dim, t_a) for t_a in t_as})),
        }  # fmt: skip
        return ParameterSpace(
            axes, lambda params: cls.legal(params) * (params["db_max"] == ceil_div(layer.head_dim, params["t_a"]))
        )

    @classmethod
    def peak_macs(cls, params: Params) -> Number:
        """Scores and values are multiplied concurrently."""
        return 2 * params["t_a"] * params["n_a"]

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Sequence[Case]:
        """See `Kernel.cases`."""
        from codesign.hw.attention import stimulus

        return stimulus.cases(rng)

    @classmethod
    def small(cls) -> "AttentionKernel":
        """See `Kernel.small`."""
        return cls(t_a=4, n_a=2, max_keys=64, db_max=3)

    @classmethod
    def tile(cls, params: Params) -> tuple[int, int]:
        """See `Kernel.tile`."""
        return int(params["n_a"]), int(params["t_a"])

    def trial(self, rng: np.random.Generator, slot: int) -> Any:
        """See `CommandKernel.trial`."""
        from codesign.hw.attention import stimulus

        return stimulus.legal(rng, self, slot)

    def refused_trial(self, rng: np.random.Generator, slot: int) -> Any:
        """See `CommandKernel.refused_trial`."""
        from codesign.hw.attention import stimulus

        return stimulus.illegal(rng, self, slot)

    def component(self, depths: Mapping[str, int]) -> Any:
        """See `Kernel.component`."""
        from codesign.hw.attention.rtl import AttentionEngine

        return AttentionEngine(self, **{f"{port}_depth": words for port, words in depths.items()})

    def sources(self, target: str) -> dict[str, str]:
        """See `Kernel.sources`."""
        from codesign.hw.emit.rig import rig_sources

        return rig_sources(self, target)

    @staticmethod
    def golden(layer: Attention, q: IntLike, k: IntLike, v: IntLike, query_offset: int = 0) -> IntArray:
        """Integer reference on int8 matrices; ``query_offset`` is the mask index of row 0 of ``q``."""
        rows = query_offset + len(np.asarray(q))
        lo, hi = nonlinear.mask_interval(layer.mask, rows, layer.keys, layer.window)
        return nonlinear.attention(
            q, k, v, heads=layer.heads, score_multiplier=layer.score_multiplier, score_shift=layer.score_shift,
            out_multiplier=layer.out_multiplier, out_shift=layer.out_shift, lo=lo[query_offset:], hi=hi[query_offset:],
        )  # fmt: skip

    @classmethod
    def cycles(cls, params: Params, work: Work) -> Number:
        """Clock cycles from accepting a command to its done pulse.

        Every job takes a slot, after one slot that loads the first queries and before one that sums the
        last values. The pass length rises and falls at most once over the groups, so the slots
        between two groups of unequal keys add up to one more slot of the longest pass.

        Args:
            params: t_a, n_a.
            work: rows, keys, heads, head_dim, mask (index into MASKS), window, query_offset.
        """
        t_a, n_a = values(params, "t_a", "n_a")
        groups = QueryGroups(n_a, work)
        passes = n_a + work["heads"] * groups.total() + groups.longest()
        blocks = ceil_div(work["head_dim"], t_a)
        result: Number = latency(t_a) + blocks * passes + groups.last_rows()
        return result

    @classmethod
    def resources(cls, params: Params) -> Resources:
        """DSP and block RAM counts are exact; LUTs and FFs are modelled by part, see `codesign.hw.primitives.area`."""
        t_a, n_a = values(params, "t_a", "n_a")
        halves, logic, registers = buffers(params)
        return Resources(
            dsp=n_a * t_a // 2 + n_a * ceil_div(t_a, 2) + n_a + t_a + 1,
            bram36=ceil_div(halves + n_a // 2, 2),
            lut=area(cls.op, "lut", cls.lut_units(params)) + logic,
            ff=area(cls.op, "ff", cls.ff_units(params)) + registers,
        )

    @classmethod
    def lut_units(cls, params: Params) -> Units:
        """Units of the LUT model, memories excluded: adder and multiplexer bits, and part counts."""
        size = Sizes(params)
        delayed = 24 * size.dots * (size.chain > 3)
        return {**size.units(), "packed_dot": {"dots": size.dots + size.products, "delayed bits": delayed}}

    @classmethod
    def ff_units(cls, params: Params) -> Units:
        """Units of the flip-flop model, memories excluded."""
        size = Sizes(params)
        delayed = 24 * size.dots * ((size.chain > 1) + 2 * (size.chain > 2))
        return {
            **size.units(),
            "packed_dot": {"dots": size.dots + size.products, "delayed bits": delayed},
            "exp_table": {"pairs": size.n_a // 2},
        }

    @classmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Zero bytes: queries, keys, values and results are on chip."""
        return 0 * work["rows"]

    @classmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """See `Kernel.energy`; lanes without a row and masked keys are multiplied too."""
        t_a, n_a = values(params, "t_a", "n_a")
        rows, heads, head_dim = values(work, "rows", "heads", "head_dim")
        keys, columns = heads * QueryGroups(n_a, work).total(), ceil_div(head_dim, t_a) * t_a
        scores, results = keys * n_a, rows * heads * columns
        return joules(
            board,
            macs=2 * scores * columns + (2 * scores + results) * DSP_MACS,
            ram_bytes=2 * keys * columns + 2 * scores * _SCORE_BYTES + 3 * results,
            cycles=cls.cycles(params, work),
            logic=cls.resources(params),
        )


KERNEL = AttentionKernel
