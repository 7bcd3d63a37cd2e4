"""The vector kernel: layer norm and RMS norm of int16 rows, its command, golden and formulas.

Rows follow each other at a fixed distance, the larger of their words and the cycles of one digit
recurrence. A row is loaded and its sums are taken; then its variance, square root and reciprocal
follow in units of their own, each busy with another row; then it is read again and normalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from codesign import nonlinear
from codesign.board import Board
from codesign.command import FIELDS
from codesign.hw.area import Units, area
from codesign.hw.memory import READ_LATENCY, row_memory
from codesign.hw.multiply import Requantizer
from codesign.hw.stream import operands
from codesign.kernel import (
    DSP_MACS,
    Joules,
    Kernel,
    Number,
    Params,
    Resources,
    Work,
    ceil_div,
    joules,
    larger,
    powers_up_to,
)
from codesign.network import Norm
from codesign.nonlinear import MAX_NORM_WIDTH
from codesign.number import IntArray, IntLike
from codesign.space import ParameterSpace

OPERANDS = operands(**FIELDS["vector"])
"""Command of the engine.

rows, d: rows and columns; bases: first word in the memory concerned; strides: words from row to row;
shift, eps: see `codesign.nonlinear.norm`; flags: bit 0 RMS norm, bit 1 a result of 16 bits, the others zero.
"""

_DIGITS = 17
"""Result bits of the square root and of the reciprocal, one per cycle."""
_PRODUCT = 3
"""Cycles of one multiply-add."""
_COLUMN_DSPS = 4
"""DSPs that every column passes, as the resources count them."""
_COLUMN_BYTES = 2 + 2 + 2 + 8 + 1
"""On-chip bytes per column of a row: read, kept for the second pass, read again, gain and bias, 8-bit result."""


@dataclass(frozen=True)
class VectorKernel(Kernel):
    """Design parameters of the vector engine.

    Attributes:
        t_v: columns per cycle, a power of two, 1 to 64.
        max_d: longest row, 2 to 1024.
        wide: 1 if results may also have 16 bits, which go to a memory of their own.
    """

    op: ClassVar[str] = "vector"

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
        """Words of the memory that holds rows between their two uses, a power of two."""
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
    def legal(cls, params: Params) -> Number:
        """Truth of the parameters being a legal design; see the class."""
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

    def sources(self, target: str) -> dict[str, str]:
        """See `Kernel.sources`."""
        from codesign.hw.rig import rig_sources

        return rig_sources(self, target)

    @staticmethod
    def golden(layer: Norm, r: IntLike) -> IntArray:
        """The layer on int16 rows."""
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
        result: Number = rows * larger(words, _DIGITS + 1) + words + _latency(t_v)
        return result

    @classmethod
    def resources(cls, params: Params) -> Resources:
        """DSP and block RAM exact from the structure; LUT and FF by part, see `codesign.hw.area`."""
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
        """What LUTs go into, memories apart: modules of a column, units of a row, and the engine's own logic."""
        (t_v,), (_, depth) = _values(params, "t_v"), _ring(params)
        return {
            "requantizer": {"columns": t_v},
            "round_shift": {"columns": t_v, "wide columns": t_v * _wide(params)},
            "integer_root": {"engine": 1},
            "norm_reciprocal": {"engine": 1},
            "vector": {"engine": 1, "columns": t_v, "address bits": _clog2(depth)},
        }

    @classmethod
    def ff_units(cls, params: Params) -> Units:
        """What flip-flops go into, likewise."""
        return {**cls.lut_units(params), "multiply_add": {"products": 3 * params["t_v"] + 2}}

    @classmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Zero bytes: rows, gains, biases and results are on chip."""
        return 0 * work["rows"]

    @classmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """See `Kernel.energy`; padded columns are computed like the others.

        Args:
            params: all of them.
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


def _values(source: Mapping[str, Number], *names: str) -> tuple[Any, ...]:
    """Some values of a mapping; the type of arithmetic on integers or arrays is beyond the checker."""
    return tuple(source[name] for name in names)


def _wide(params: Params) -> Any:
    """The parameter, 0 where it is left out."""
    return params.get("wide", 0)


def _ring(params: Params) -> tuple[Any, Any]:
    """Width and depth of the memory that holds rows between their two uses."""
    t_v, max_d = _values(params, "t_v", "max_d")
    return 16 * t_v, _ring_words(ceil_div(max_d, t_v), t_v)


def _latency(t_v: Any) -> Any:
    """Cycles of a command that are neither rows nor the words of the last."""
    setup = _PRODUCT + 5
    normalise = READ_LATENCY + 2 * _PRODUCT + Requantizer.latency() + 4
    return setup + _row_latency(t_v) + normalise


def _row_latency(t_v: Any) -> Any:
    """Cycles from a row's last load to the start of its normalisation."""
    statistics = READ_LATENCY + _PRODUCT + _clog2(t_v)
    variance = 2 * _PRODUCT + 5
    return statistics + variance + 2 * (_DIGITS + 1)


def _ring_words(words: Any, t_v: Any) -> Any:
    """Depth of the ring, a power of two.

    From the write of a word to its read pass the cycles of a row and `_row_latency`, less one. In
    that time come at most as many words, and no more than those of six rows.
    """
    window = larger(words, _DIGITS + 1) + _row_latency(t_v)
    return 2 ** _clog2(-larger(-window, -6 * words))


def _clog2(x: Any) -> Any:
    """Bits of ``x - 1`` for 1 <= x <= 2**16."""
    return sum(((x > (1 << bit)) * 1 for bit in range(16)), 0 * x)
