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

Number = int | NDArray[np.int64]
Work = Mapping[str, Number]
Params = Mapping[str, Number]


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
    return -larger(-a, -b)


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
    def cycles(cls, params: Params, work: Work) -> Number:
        """Clock cycles from accepting a command to its done pulse, without external stalls."""

    @classmethod
    @abstractmethod
    def resources(cls, params: Params) -> Resources:
        """Device resources; DSP and memories exact, LUT and FF estimated."""

    @classmethod
    @abstractmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Off-chip bytes that the command itself moves."""
