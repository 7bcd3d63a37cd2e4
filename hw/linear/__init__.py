"""The linear kernel: int8 matrix products with inline requantization, table lookup and residual add.

Rows are processed in groups of ``n_l``. A loader copies the next group into one of two private buffers
while the array works on the other; the array walks the group tile by tile, ``t_out`` columns each, one
weight word per cycle; the drain requantizes a finished tile while the next one accumulates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from codesign.hw.primitives.area import Units, area
from codesign.hw.primitives.memory import READ_LATENCY, log2, row_memory
from codesign.hw.primitives.multiply import LANE_BITS, MAX_CHAIN, PackedDot, Requantizer
from codesign.ir import network
from codesign.numerics.fixed_point import IntArray, IntLike, accumulator_range, integers, limits
from codesign.solver.space import ParameterSpace
from codesign.target.board import Board
from codesign.target.kernel import (
    DSP_MACS,
    Case,
    Joules,
    Kernel,
    Memory,
    Number,
    Params,
    Port,
    Resources,
    Work,
    ceil_div,
    joules,
    maximum,
    minimum,
    power_of_two,
    powers_up_to,
)

ACC_BITS = 27
DRAIN_LATENCY = Requantizer.LATENCY + 5
"""Cycles from complete accumulators to the done pulse, without the rows drained."""
MAX_LANES = 32
_MAX_T_IN, _MAX_T_OUT = 64, 128
"""Largest array in `LinearKernel.space`."""
_MAX_COUNT = 0xFFFF
"""Limit of the 16-bit operands: rows, words per row and tiles."""
_LOADED = 2
"""Cycles from the end of loading a group to the start of its first tile."""


@dataclass(frozen=True)
class LinearKernel(Kernel):
    """Design parameters of the linear engine.

    Attributes:
        t_in, t_out, n_l: inputs, outputs and rows per cycle; powers of two, t_out even; n_l 1 to 32.
        kw_max: longest source row in words, a power of two; a row is at least ``t_in`` bytes.
        ring_words: depth of the weight ring in words of ``t_in * t_out`` bytes, a power of two.
        table_words: depth of the requantization ring in words of ``8 * t_out`` bytes, a power of two.
        tables: number of 8-bit tables, a power of two.
        word_bytes: a word of the bus and of the activation memories, a power of two; weight words and
            requantization words are multiples of it.
    """

    contract: ClassVar[int] = 1
    op: ClassVar[str] = "linear"
    layers: ClassVar[tuple[type[network.Layer], ...]] = (network.Linear,)
    # kw: words per source row; ib: weight words per tile; ob: tiles per row group; table: index of the 8-bit
    # table; source, target, addend: memory numbers; bases and strides in words of their port.
    fields: ClassVar[Mapping[str, int]] = {
        "rows": 16, "source": 8, "target": 8, "kw": 16, "ib": 16, "ob": 16, "flags": 8, "table": 8,
        "source_base": 24, "source_stride": 24, "target_base": 24, "target_stride": 24,
        "addend_base": 24, "addend_stride": 24, "low": 16, "high": 16, "addend": 8,
    }  # fmt: skip
    ports: ClassVar[tuple[Port, ...]] = (
        Port("source"),
        Port("addend", lanes="t_out", first=1),
        Port("out", lanes="t_out", writes=True),
    )
    geometry: ClassVar[tuple[str, ...]] = ("t_out",)
    bench: ClassVar[str] = "codesign.sim.testbench.bench_linear"
    configurations: ClassVar[tuple[tuple[int, ...], ...]] = (
        (8, 8, 1, 4, 256, 32, 2, 64), (4, 16, 2, 2, 1024, 64, 2, 64), (8, 16, 2, 2, 2048, 128, 2, 64),
        (8, 8, 4, 8, 512, 32, 2, 64), (4, 4, 1, 4, 64, 16, 2, 16), (16, 8, 2, 16, 2048, 128, 2, 64),
        (8, 32, 8, 2, 1024, 64, 2, 64), (2, 32, 3, 64, 2048, 64, 2, 64), (8, 16, 4, 4, 512, 64, 4, 64),
        (64, 8, 2, 4, 128, 64, 2, 64), (4, 8, 16, 2, 512, 64, 2, 32), (32, 8, 2, 2, 256, 64, 2, 16),
    )  # fmt: skip

    t_in: int
    t_out: int
    n_l: int
    kw_max: int
    ring_words: int
    table_words: int
    tables: int
    word_bytes: int

    def __post_init__(self) -> None:
        if not self.legal(self.params):
            raise ValueError(
                f"{self}; legal: t_in a power of two to 256, t_out one from 2, n_l 1 to {MAX_LANES}, t_in * t_out"
                " and 8 * t_out multiples of word_bytes, kw_max * word_bytes at least t_in, ring_words and"
                " table_words powers of two from 2, kw_max, tables and word_bytes powers of two"
            )

    @property
    def ib_max(self) -> int:
        """Most weight words per tile."""
        return max(1, self.kw_max * self.word_bytes // self.t_in)

    @classmethod
    def memories(cls, params: Params) -> tuple[Memory, ...]:
        """Input and output rows, rows between layers, 16-bit residual rows, and 16-bit tables to add."""
        return (
            Memory("input", 1, ("load.out", "source")),
            Memory("output", 1, ("out", "store.source")),
            Memory("hidden", 1, ("out", "source")),
            Memory("residual", 2, ("out", "addend", "store.source")),
            Memory("position", 2, ("load.out", "addend")),
        )

    @classmethod
    def reaches(cls, layer: network.Linear) -> tuple[tuple[str, str], ...]:
        """See `Kernel.reaches`."""
        found = (layer.source, "source"), (layer.target, "out")
        return found if layer.addend is None else (*found, (layer.addend, "addend"))

    @classmethod
    def supports(cls, layer: object) -> str | None:
        """None if some design can run the layer, else the reason why not."""
        if not isinstance(layer, network.Linear):
            return f"a {type(layer).__name__} is not a linear layer"
        over = [
            f"{name} {getattr(layer, name)} > {_MAX_COUNT}"
            for name in ("rows", "k", "n")
            if getattr(layer, name) > _MAX_COUNT
        ]
        if over:
            return f"{layer.name}: {', '.join(over)}"
        return _range_fault(layer)

    @classmethod
    def legal(cls, params: Params) -> Number:
        """1 where the parameters are a legal design (see the class), else 0."""
        t_in, t_out, n_l, word = (params[name] for name in ("t_in", "t_out", "n_l", "word_bytes"))
        powers: Number = 1
        for name in ("t_in", "t_out", "kw_max", "ring_words", "table_words", "tables", "word_bytes"):
            powers = powers * power_of_two(params[name])
        return (
            powers * (t_in <= 256) * (t_out >= 2) * (n_l >= 1) * (n_l <= MAX_LANES)
            * (t_in * t_out >= word) * (8 * t_out >= word) * (params["kw_max"] * word >= t_in)
            * (params["kw_max"] <= 1 << 15) * (params["ring_words"] >= 2) * (params["table_words"] >= 2)
        )  # fmt: skip

    @classmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        """See `Kernel.space`; the weight ring holds at least one tile."""
        if not isinstance(layer, network.Linear):
            raise TypeError(f"a {type(layer).__name__} is not a linear layer")
        word = board.memory.ports * board.memory.port_bits // 8
        t_ins = powers_up_to(4, min(layer.k, _MAX_T_IN))
        least = max(word // 8, word // t_ins[-1])  # so that weight and table words fill words of the bus
        t_outs = powers_up_to(2, max(least, min(layer.n, _MAX_T_OUT)))
        axes = {
            "t_in": t_ins, "t_out": t_outs, "n_l": tuple(range(1, min(layer.rows, MAX_LANES) + 1)),
            "kw_max": powers_up_to(1, ceil_div(layer.k, word))[-1:],
            "ring_words": powers_up_to(2, ceil_div(layer.k, t_ins[0]) * ceil_div(layer.n, t_outs[0])),
            "table_words": powers_up_to(2, ceil_div(layer.n, t_outs[0])), "tables": (1,), "word_bytes": (word,),
        }  # fmt: skip
        return ParameterSpace(
            axes, lambda params: cls.legal(params) * (params["ring_words"] >= ceil_div(layer.k, params["t_in"]))
        )

    @classmethod
    def peak_macs(cls, params: Params) -> Number:
        """See `Kernel.peak_macs`."""
        return params["t_in"] * params["t_out"] * params["n_l"]

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Sequence[Case]:
        """See `Kernel.cases`."""
        from codesign.hw.linear import stimulus

        return stimulus.cases(rng)

    @classmethod
    def small(cls) -> "LinearKernel":
        """See `Kernel.small`."""
        return cls(t_in=4, t_out=4, n_l=3, kw_max=16, ring_words=64, table_words=16, tables=2, word_bytes=16)

    @classmethod
    def tile(cls, params: Params) -> tuple[int, int]:
        """See `Kernel.tile`."""
        return int(params["n_l"]), int(params["t_out"])

    def rings(self) -> Mapping[str, tuple[int, int]]:
        """The weight ring and the requantization ring."""
        bits = 8 * self.t_in * self.t_out
        return {"weights": (self.ring_words, bits), "table": (self.table_words, 64 * self.t_out)}

    def component(self, depths: Mapping[str, int]) -> Any:
        """See `Kernel.component`; ``depths`` is unused, ring depths are parameters."""
        from codesign.hw.linear.rtl import LinearEngine

        return LinearEngine(self)

    def sources(self, target: str) -> dict[str, str]:
        """See `Kernel.sources`."""
        from codesign.hw.emit.rig import rig_sources
        from codesign.hw.linear import hls

        return hls.sources(self) if target == "hls" else rig_sources(self, target, ("hls",))

    @staticmethod
    def golden(layer: network.Linear, x: IntLike, addend: IntLike | None = None) -> IntArray:
        """Integer reference on the int8 source ``[at least first_row + rows, k]`` and the int16 addend ``[rows, n]``.

        Int64 throughout; matrix products use float64 where every partial sum is proven exact.
        """
        term = None if addend is None else integers("addend", addend)
        return network.linear_golden(layer, integers("x", x), term)

    @classmethod
    def cycles(cls, params: Params, work: Work) -> Number:
        """Clock cycles from accepting a command to its done pulse.

        Assumes an idle engine and all weights in the ring.

        Args:
            params: t_in, t_out, n_l, word_bytes.
            work: rows, k, n.
        """
        t_in, n_l = params["t_in"], params["n_l"]
        sums, tiles = ceil_div(work["k"], t_in), ceil_div(work["n"], params["t_out"])
        tile = maximum(sums, n_l)
        groups = ceil_div(work["rows"], n_l)
        last_rows: Number = work["rows"] - (groups - 1) * n_l
        row = ceil_div(work["k"], params["word_bytes"])
        busy: Number = tiles * tile
        start = _last_start(groups, n_l * row, last_rows * row, busy + 1)
        behind: Number = array_latency(t_in) + DRAIN_LATENCY + last_rows
        return 1 + start + busy + behind

    @classmethod
    def resources(cls, params: Params) -> Resources:
        """The engine and its two rings: DSP and block RAM exact; LUT and FF by part, see `codesign.hw.primitives.area`.

        One DSP multiplies tiles by words per tile, to check that a command is legal.
        """
        t_in, t_out, n_l = (params[name] for name in ("t_in", "t_out", "n_l"))
        halves, logic, registers = _memories(params)
        return Resources(
            dsp=sum((n_l * t_out * t_in // 2, t_out, 1)),
            bram36=ceil_div(halves, 2),
            lut=area(cls.op, "lut", cls.lut_units(params)) + logic,
            ff=area(cls.op, "ff", cls.ff_units(params)) + registers,
        )

    @classmethod
    def lut_units(cls, params: Params) -> Units:
        """Units of the LUT model, memories excluded: adder and multiplexer bits, and part counts."""
        t_out, n_l, chain, chains, dots = _array(params)
        choices: Number = ACC_BITS * t_out * ceil_div(n_l - 1, 3)
        sums: Number = ACC_BITS * t_out * n_l
        return {
            "packed_dot": {"dots": dots, "delayed bits": 24 * dots * maximum(chain - 3, 0)},
            "row_lanes": {"sum bits": sums, "tree bits": n_l * t_out * (chains - 1) * (2 * LANE_BITS + chains) // 2},
            "drain_column": {"columns": t_out},
            "requantizer": {"columns": t_out},
            "linear": {"engine": 1, "columns": t_out, "rows": n_l, "choices": choices, "address bits": _bits(params)},
        }

    @classmethod
    def ff_units(cls, params: Params) -> Units:
        """Units of the flip-flop model, memories excluded; the drain holds a whole tile of sums."""
        t_out, n_l, chain, chains, dots = _array(params)
        sums: Number = ACC_BITS * t_out * n_l
        width = minimum(LANE_BITS + chains - 1, ACC_BITS)
        return {
            "packed_dot": {"dots": dots, "delayed bits": 24 * dots * ((chain > 1) + 2 * (chain > 2))},
            "row_lanes": {"sum bits": sums, "tree bits": n_l * t_out * (chains > 1) * width},
            "drain_column": {"columns": t_out},
            "requantizer": {"columns": t_out},
            "linear": {"engine": 1, "columns": t_out, "rows": n_l, "held bits": sums, "address bits": _bits(params)},
        }

    @classmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Bytes fetched for the command's weights and requantization table, padding included."""
        tiles = ceil_div(work["n"], params["t_out"])
        return tiles * params["t_out"] * (8 + params["t_in"] * ceil_div(work["k"], params["t_in"]))

    @classmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """See `Kernel.energy`; lanes without a row and padded columns are multiplied too."""
        t_in, t_out, n_l, rows = params["t_in"], params["t_out"], params["n_l"], work["rows"]
        groups, tiles, sums = ceil_div(rows, n_l), ceil_div(work["n"], t_out), ceil_div(work["k"], t_in)
        words, results = groups * tiles * sums, rows * tiles * t_out
        row_bytes = ceil_div(work["k"], params["word_bytes"]) * params["word_bytes"]
        read = sum((words * t_in * t_out, groups * tiles * 8 * t_out, words * n_l * t_in, rows * row_bytes))
        return joules(
            board,
            macs=words * t_in * t_out * n_l + results * DSP_MACS,
            ram_bytes=sum((read, rows * row_bytes, results)),
            cycles=cls.cycles(params, work),
            logic=cls.resources(params),
        )


def _array(params: Params) -> tuple[Number, Number, Number, Number, Number]:
    """Columns, rows, DSPs per chain, chains per column, and chains of the whole array."""
    t_in, t_out, n_l = (params[name] for name in ("t_in", "t_out", "n_l"))
    chain = minimum(t_in, MAX_CHAIN)
    chains = t_in // chain
    return t_out, n_l, chain, chains, n_l * (t_out // 2) * chains


def _bits(params: Params) -> Number:
    """Address bits of the rings and of the row buffers."""
    return sum(log2(params[name]) for name in ("ring_words", "table_words", "kw_max"))


def _memories(params: Params) -> tuple[Number, Number, Number]:
    """Block RAM halves, LUTs and flip-flops of row buffers, rings and 8-bit tables."""
    t_in, t_out, word = (params[name] for name in ("t_in", "t_out", "word_bytes"))
    kinds = (
        (params["n_l"], row_memory(8 * word, 8 * t_in, 2 * params["kw_max"])),
        (1, row_memory(8 * word, 8 * t_in * t_out, params["ring_words"])),
        (1, row_memory(8 * word, 64 * t_out, params["table_words"])),
        (t_out, row_memory(8, 8, 256 * params["tables"])),
    )
    halves, logic, registers = (sum(count * each[i] for count, each in kinds) for i in range(3))
    return halves, logic, registers


def array_latency(t_in: Any) -> Any:
    """Cycles from the end of a tile to the first cycle in which its accumulators are complete."""
    return READ_LATENCY + PackedDot.latency(0) + minimum(t_in, MAX_CHAIN) + (t_in > MAX_CHAIN) + 1


def _last_start(groups: Number, load: Number, last_load: Number, period: Number) -> Number:
    """Cycles from the first load of a command to the start of its last group's tiles.

    Group ``g`` starts ``load + 2`` cycles after its load begins and ``period`` after group g - 1
    starts; its load begins ``load`` after that of g - 1 begins and ``period`` after group g - 2 starts.
    The start is thus a longest path through array (``period`` per group) and loader (``load`` per
    group), which takes the slower of the two for every group; each detour array -> loader -> array
    covers two groups in ``period + load + 2`` and so pays only if the two differ by at most one.
    The last group has ``last_load <= load``: the path ends in its load, or in the array before it.
    """
    slower = maximum(load, period)
    gain: Number = 2 - maximum(load - period, period - load)
    detour = maximum(gain, 0)
    loaded: Number = (groups - 1) * load
    detoured = sum(((groups - 1) * slower, (groups - 1) // 2 * detour, -maximum(-gain, 0)))
    by_load: Number = maximum(loaded, detoured) + last_load + _LOADED
    by_array = sum(((groups - 2) * slower, (groups - 2) // 2 * detour, load + _LOADED, period))
    several: Number = (groups > 1) * by_array
    return maximum(by_load, several)


def _range_fault(layer: network.Linear) -> str | None:
    """Reason why the accumulators do not hold every possible sum of the layer; None if they do."""
    low, high = accumulator_range(layer.weights, layer.bias, *limits(8))
    bottom, top = limits(ACC_BITS)
    if low < bottom or high > top:
        return f"{layer.name}: sums from {low} to {high}; legal: {ACC_BITS} bits, {bottom} to {top}"
    return None


KERNEL = LinearKernel
