"""The vector kernel: layer norm and RMS norm of int16 rows, its command, golden and formulas.

Rows start at a fixed interval, the larger of the words of a row and the cycles of one digit recurrence.
A row is loaded and summed; its variance, square root and reciprocal follow in separate units, each busy
with another row; then it is read again and normalised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from codesign.hw.primitives.area import Units, area
from codesign.hw.primitives.memory import READ_LATENCY, log2, row_memory
from codesign.hw.primitives.multiply import MultiplyAdd, Requantizer
from codesign.ir.network import Layer, Norm
from codesign.numerics import nonlinear
from codesign.numerics.fixed_point import IntArray, IntLike
from codesign.numerics.nonlinear import MAX_NORM_WIDTH
from codesign.solver.space import ParameterSpace
from codesign.target.board import Board
from codesign.target.kernel import (
    DSP_MACS,
    Case,
    Columns,
    CommandKernel,
    Constant,
    Joules,
    Memory,
    Number,
    Params,
    Placement,
    Port,
    Resources,
    Work,
    ceil_div,
    joules,
    maximum,
    powers_up_to,
)

RMS, WIDE_RESULT = 1, 2
"""Command flags. RMS: root-mean-square norm instead of layer norm; WIDE_RESULT: 16-bit results to the memory ``skip``
instead of 8-bit results to ``normed``."""
AFFINE_BYTES = 8
"""Bytes of a (gain, bias) pair in the memory ``affine``."""

DIGITS = 17
"""Result bits of the square root and of the reciprocal, one per cycle."""
_COLUMN_DSPS = 4
"""DSPs per column in the energy model."""
_COLUMN_BYTES = 2 + 2 + 2 + 8 + 1
"""On-chip bytes per element: read, buffered, read again, gain and bias, 8-bit result."""


@dataclass(frozen=True)
class VectorKernel(CommandKernel):
    """Design parameters of the vector engine.

    Attributes:
        t_v: columns per cycle, a power of two, 1 to 64.
        max_d: longest row, 2 to 1024.
        wide: 1 if results may also have 16 bits, which go to a memory of their own.
    """

    contract: ClassVar[int] = 1
    op: ClassVar[str] = "vector"
    layers: ClassVar[tuple[type[Layer], ...]] = (Norm,)
    # rows, d: rows and columns; bases: first word in that memory; strides: words from row to row; shift, eps: see
    # `codesign.numerics.nonlinear.norm`; flags: those of this module, other bits zero.
    fields: ClassVar[Mapping[str, int]] = {
        "rows": 16, "d": 16, "r_base": 24, "r_stride": 16, "g_base": 24, "x_base": 24, "x_stride": 16, "shift": 8,
        "flags": 8, "eps": 48,
    }  # fmt: skip
    ports: ClassVar[tuple[Port, ...]] = (
        Port("r", lanes="t_v", memories=("residual",)),
        Port("g", lanes="t_v"),
        Port("x", lanes="t_v", writes=True),
        Port("y", lanes="t_v", writes=True),
    )
    geometry: ClassVar[tuple[str, ...]] = ("t_v", "wide")
    configurations: ClassVar[tuple[tuple[int, ...], ...]] = (
        (1, 16, 0), (2, 64, 0), (2, 1024, 0), (4, 64, 0), (4, 384, 0), (8, 64, 0), (8, 384, 0), (16, 128, 0),
        (16, 384, 0), (32, 384, 0), (32, 1024, 0), (4, 1024, 0), (64, 512, 0), (16, 1024, 0),
        (4, 384, 1), (8, 384, 1), (32, 384, 1), (16, 768, 1), (1, 64, 1), (2, 128, 1), (64, 1024, 1),
    )  # fmt: skip

    t_v: int
    max_d: int
    wide: int = 0

    def __post_init__(self) -> None:
        if not self.legal(self.params):
            raise ValueError(f"{self}; legal: t_v a power of two to 64, max_d from 2 to {MAX_NORM_WIDTH}, wide 0 or 1")

    @property
    def max_words(self) -> int:
        """Words of the longest row."""
        return -(-self.max_d // self.t_v)

    @property
    def ring_words(self) -> int:
        """Words of the ring that buffers rows between their two passes, a power of two."""
        return int(_ring_words(self.max_words, self.t_v))

    @classmethod
    def supports(cls, layer: object) -> str | None:
        """None if some design can run the layer, else the reason why not."""
        if not isinstance(layer, Norm):
            return f"a {type(layer).__name__} is not a norm"
        if not 2 <= layer.d <= MAX_NORM_WIDTH:
            return f"{layer.name}: {layer.d} columns; legal: 2 to {MAX_NORM_WIDTH}"
        return f"{layer.name}: {layer.rows} rows; legal: at most 65535" if layer.rows > 0xFFFF else None

    @classmethod
    def memories(cls, params: Params) -> tuple[Memory, ...]:
        """Rows for the linear engine; gains and biases; in a wide design 16-bit rows to add."""
        wide = (Memory("skip", 2, ("y", "linear.addend", "store.source")),) if params["wide"] else ()
        normed = Memory("normed", 1, ("x", "linear.source"))
        return normed, Memory("affine", AFFINE_BYTES, ("load.out", "g")), *wide

    @classmethod
    def reaches(cls, layer: Norm) -> tuple[tuple[str, str], ...]:
        """See `Kernel.reaches`."""
        return (layer.source, "r"), (layer.target, "y" if layer.bits == 16 else "x")

    @classmethod
    def constants(cls, layer: Norm) -> tuple[Constant, ...]:
        """Gains and biases."""
        return (Constant("affine", AFFINE_BYTES * layer.d, partial(_affine_bytes, layer)),)

    @classmethod
    def operands(cls, layer: Norm, params: Params, place: Placement, first: int, rows: int) -> dict[str, int]:
        """See `CommandKernel.operands`."""
        return {
            "rows": rows, "d": layer.d, "r_base": place.base(layer.source, layer.first_row + first),
            "r_stride": place.stride(layer.source), "g_base": place.constant(0),
            "x_base": place.base(layer.target, first), "x_stride": place.stride(layer.target), "shift": layer.shift,
            "flags": RMS * layer.rms + WIDE_RESULT * (layer.bits == 16), "eps": layer.eps,
        }  # fmt: skip

    @classmethod
    def work(cls, layer: Norm, first: Number, rows: Number, columns: Columns | None = None) -> dict[str, Number]:
        """Work fields: rows, columns, and whether results have 16 bits."""
        return {"rows": rows, "d": layer.d, "wide": int(layer.bits == 16)}

    @classmethod
    def axes(cls, layers: Sequence[Norm]) -> dict[str, tuple[int, ...]]:
        """See `CommandKernel.axes`."""
        return {"t_v": (1, 2, 4, 8, 16, 32)}

    @classmethod
    def follows(cls, layers: Sequence[Norm], params: Params) -> dict[str, Number]:
        """``max_d`` for the longest row; ``wide`` if a norm has 16-bit results."""
        wide = {"wide": 1} if any(layer.bits == 16 for layer in layers) else {}
        return {"max_d": max(layer.d for layer in layers), **wide}

    @classmethod
    def choices(cls, linear: Params) -> tuple[dict[str, int], ...]:
        """No wider than the linear array; see `CommandKernel.choices`."""
        return tuple({"t_v": lanes} for lanes in (4, 8, 16, 32) if lanes <= max(4, int(linear["t_out"])))

    @classmethod
    def legal(cls, params: Params) -> Number:
        """1 where the parameters are a legal design (see the class), else 0."""
        (t_v, max_d), wide = _values(params, "t_v", "max_d"), _wide(params)
        lanes = (t_v >= 1) * (t_v <= 64) * ((t_v & (t_v - 1)) == 0)
        result: Number = lanes * (max_d >= 2) * (max_d <= MAX_NORM_WIDTH) * (wide >= 0) * (wide <= 1)
        return result

    @classmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        """See `Kernel.space`."""
        if not isinstance(layer, Norm):
            raise TypeError(f"a {type(layer).__name__} is not a norm")
        wide = (int(layer.bits == 16),)
        return ParameterSpace({"t_v": powers_up_to(1, min(layer.d, 64)), "max_d": (layer.d,), "wide": wide}, cls.legal)

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Sequence[Case]:
        """See `Kernel.cases`."""
        from codesign.hw.vector import stimulus

        return stimulus.cases(rng)

    @classmethod
    def small(cls) -> "VectorKernel":
        """See `Kernel.small`."""
        return cls(t_v=2, max_d=64)

    @classmethod
    def tile(cls, params: Params) -> tuple[int, int]:
        """See `Kernel.tile`."""
        return 1, int(params["t_v"])

    def trial(self, rng: np.random.Generator, slot: int) -> Any:
        """See `CommandKernel.trial`."""
        from codesign.hw.vector import stimulus

        return stimulus.legal(rng, self, slot)

    def refused_trial(self, rng: np.random.Generator, slot: int) -> Any:
        """See `CommandKernel.refused_trial`."""
        from codesign.hw.vector import stimulus

        return stimulus.illegal(rng, self, slot)

    def component(self, depths: Mapping[str, int]) -> Any:
        """See `Kernel.component`."""
        from codesign.hw.vector.rtl import VectorEngine

        return VectorEngine(self, **{f"{port}_depth": depths.get(port, 0) for port in "rgxy"})

    def sources(self, target: str) -> dict[str, str]:
        """See `Kernel.sources`."""
        from codesign.hw.emit.rig import rig_sources
        from codesign.hw.vector import hls

        return hls.sources(self) if target == "hls" else rig_sources(self, target, ("hls",))

    @staticmethod
    def golden(layer: Norm, r: IntLike) -> IntArray:
        """Integer reference on int16 rows."""
        return nonlinear.norm(r, layer.gain, layer.bias, layer.shift, layer.eps, layer.rms, layer.bits)

    @classmethod
    def cycles(cls, params: Params, work: Work) -> Number:
        """Clock cycles from accepting a command to its done pulse.

        Args:
            params: t_v.
            work: rows, d.
        """
        (t_v,), (rows, d) = _values(params, "t_v"), _values(work, "rows", "d")
        words = ceil_div(d, t_v)
        result: Number = rows * maximum(words, DIGITS + 1) + words + _latency(t_v)
        return result

    @classmethod
    def resources(cls, params: Params) -> Resources:
        """DSP and block RAM counts are exact; LUTs and FFs are modelled by part, see `codesign.hw.primitives.area`."""
        (t_v,), (width, depth) = _values(params, "t_v"), _ring(params)
        halves, logic, registers = row_memory(width, width, depth)
        return Resources(
            dsp=4 * t_v + 2,
            bram36=ceil_div(halves, 2),
            lut=area(cls.op, "lut", cls.lut_units(params)) + logic,
            ff=area(cls.op, "ff", cls.ff_units(params)) + registers,
        )

    @classmethod
    def lut_units(cls, params: Params) -> Units:
        """Units of the LUT model, memories excluded: columns, row units and the engine's own logic."""
        (t_v,), (_, depth) = _values(params, "t_v"), _ring(params)
        return {
            "requantizer": {"columns": t_v},
            "round_shift": {"columns": t_v, "wide columns": t_v * _wide(params)},
            "integer_root": {"engine": 1},
            "norm_reciprocal": {"engine": 1},
            "vector": {"engine": 1, "columns": t_v, "address bits": log2(depth)},
        }

    @classmethod
    def ff_units(cls, params: Params) -> Units:
        """Units of the flip-flop model, memories excluded."""
        return {**cls.lut_units(params), "multiply_add": {"products": 3 * params["t_v"] + 2}}

    @classmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Zero bytes: rows, gains, biases and results are on chip."""
        return 0 * work["rows"]

    @classmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """See `Kernel.energy`; padded columns are computed too.

        Args:
            params: all parameters.
            work: rows, d, and wide if results have 16 bits.
            board: the coefficients.
        """
        (t_v,), (rows, d) = _values(params, "t_v"), _values(work, "rows", "d")
        elements = rows * ceil_div(d, t_v) * t_v
        return joules(
            board,
            macs=elements * (_COLUMN_DSPS * DSP_MACS),
            ram_bytes=elements * (_COLUMN_BYTES + work.get("wide", 0)),
            cycles=cls.cycles(params, work),
            logic=cls.resources(params),
        )


def _affine_bytes(layer: Norm, size: int) -> bytes:
    """Gains and biases in their on-chip layout."""
    pairs = (layer.bias.astype(np.int64) & 0xFFFFFFFF) | (layer.gain.astype(np.int64) & 0xFFFF) << 32
    return pairs.astype("<u8").tobytes().ljust(size, b"\0")


def _values(source: Mapping[str, Number], *names: str) -> tuple[Any, ...]:
    """Looks up several names; untyped, since arithmetic on integers or arrays is beyond the type checker."""
    return tuple(source[name] for name in names)


def _wide(params: Params) -> Any:
    """The parameter ``wide``, 0 if omitted."""
    return params.get("wide", 0)


def _ring(params: Params) -> tuple[Any, Any]:
    """Width and depth of the ring that buffers rows between their two passes."""
    t_v, max_d = _values(params, "t_v", "max_d")
    return 16 * t_v, _ring_words(ceil_div(max_d, t_v), t_v)


def _latency(t_v: Any) -> Any:
    """Fixed cycles of a command, without its rows and the words of the last row."""
    setup = MultiplyAdd.LATENCY + 5
    normalise = READ_LATENCY + 2 * MultiplyAdd.LATENCY + Requantizer.LATENCY + 4
    return setup + _row_latency(t_v) + normalise


def _row_latency(t_v: Any) -> Any:
    """Cycles from a row's last load to the start of its normalisation."""
    statistics = READ_LATENCY + MultiplyAdd.LATENCY + log2(t_v)
    variance = 2 * MultiplyAdd.LATENCY + 5
    return statistics + variance + 2 * (DIGITS + 1)


def _ring_words(words: Any, t_v: Any) -> Any:
    """Depth of the row ring, a power of two.

    A word is read ``interval + _row_latency - 1`` cycles after its write, where the interval is that between rows.
    Meanwhile at most one word per cycle arrives, and no more than those of six rows.
    """
    window = maximum(words, DIGITS + 1) + _row_latency(t_v)
    return 2 ** log2(-maximum(-window, -6 * words))


KERNEL = VectorKernel
