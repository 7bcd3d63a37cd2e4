"""The contract of a hardware kernel: one object with parameters, golden, formulas and hardware.

A kernel is a frozen dataclass of design parameters. The formulas are class methods that
take the parameters as a mapping of names to integers or to integer arrays, so that the
same expression serves one design and a million of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from codesign.board import Board
from codesign.space import Number as Number
from codesign.space import ParameterSpace
from codesign.space import Params as Params

Work = Mapping[str, Number]
Joules = float | NDArray[np.floating]

DSP_MACS = 2
"""8-bit multiply-accumulates that cost as much as one operation of a whole DSP."""
_FEMTO = 1e-15


@dataclass(frozen=True)
class Resources:
    """Device resources; every field is an integer or an array of integers."""

    dsp: Number = 0
    bram36: Number = 0
    uram: Number = 0
    lut: Number = 0
    ff: Number = 0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def times(self, count: Number) -> "Resources":
        """All fields multiplied by ``count`` instances."""
        return Resources(**{name: value * count for name, value in vars(self).items()})


@overload
def ceil_div(a: int, b: int) -> int: ...
@overload
def ceil_div(a: Number, b: Number) -> Number: ...
def ceil_div(a: Number, b: Number) -> Number:
    """Integer ceiling of ``a / b`` for scalars and arrays.

    >>> ceil_div(7, 4)
    2
    """
    return -(-a // b)


def larger(a: Number, b: Number) -> Number:
    """Element-wise maximum that keeps Python integers unbounded.

    >>> larger(3, 5)
    5
    """
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return np.maximum(a, b)


def smaller(a: Number, b: Number) -> Number:
    """Element-wise minimum that keeps Python integers unbounded.

    >>> smaller(3, 5)
    3
    """
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return np.minimum(a, b)


def joules(board: Board, *, macs: Number, ram_bytes: Number, cycles: Number, logic: Resources) -> Joules:
    """Modelled energy of some work by the board's coefficients: multiplications, on-chip memory and logic.

    Args:
        board: the coefficients.
        macs: 8-bit multiply-accumulates; an operation of a whole DSP counts `DSP_MACS`.
        ram_bytes: bytes read from and written to on-chip memories.
        cycles: in which the logic works.
        logic: its look-up tables and flip-flops.

    Raises:
        InputError: the board has no coefficients.
    """
    e = board.coefficients
    per_cycle: Joules = (logic.lut * e.lut_cycle_fj + logic.ff * e.ff_cycle_fj) * _FEMTO
    total: Joules = macs * (e.mac_fj * _FEMTO) + ram_bytes * (e.ram_byte_fj * _FEMTO) + cycles * per_cycle
    return total


def powers_up_to(first: int, last: int) -> tuple[int, ...]:
    """Powers of two from ``first``, a power of two, up to the first that is at least ``last``.

    >>> powers_up_to(2, 9)
    (2, 4, 8, 16)
    """
    return tuple(first << i for i in range(max(0, -(-last // first) - 1).bit_length() + 1))


def power_of_two(x: Number) -> Number:
    """Truth of ``x`` being a power of two.

    >>> int(power_of_two(8)), int(power_of_two(6))
    (1, 0)
    """
    return (x > 0) * ((x & (x - 1)) == 0)


class Kernel(ABC):
    """Base of all kernels; subclasses are frozen dataclasses of integer parameters."""

    op: ClassVar[str]

    @property
    def params(self) -> dict[str, int]:
        """The design parameters by name."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    @abstractmethod
    def supports(cls, layer: object) -> str | None:
        """None if the kernel can run the layer in some design, else the reason why not."""

    @classmethod
    @abstractmethod
    def legal(cls, params: Params) -> Number:
        """Truth (0/1 array or int) of the parameters being a legal design."""

    @classmethod
    @abstractmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        """The designs on a board that can run the layer and of which no part is larger than the layer can use."""

    @classmethod
    @abstractmethod
    def cycles(cls, params: Params, work: Work) -> Number:
        """Clock cycles from accepting a command to its done pulse, without external stalls."""

    @classmethod
    @abstractmethod
    def resources(cls, params: Params) -> Resources:
        """Device resources; DSP and memories exact, LUT and FF estimated."""

    @abstractmethod
    def sources(self, target: str) -> dict[str, str]:
        """The kernel alone, as file name to text.

        Args:
            target: ``rtl``, Verilog with a memory behind each read port, its top module is ``rig``; or ``hls``, C++
                and a script for high-level synthesis.

        Raises:
            InputError: the kernel has no sources for such a target; the message names those it has.
        """

    @classmethod
    @abstractmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Off-chip bytes that the command itself moves."""

    @classmethod
    @abstractmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """Modelled joules of the command: multipliers, on-chip memories, and its logic while it works.

        Neither off-chip bytes nor what is drawn all the time; see `codesign.energy`.

        Raises:
            InputError: the board has no coefficients.
        """
