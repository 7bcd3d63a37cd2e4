"""Common types of the reference operators: arrays, operator calls, and the limit on sizes.

Values are float64, int64 or bool arrays regardless of the file's widths, so that sums of
integers times powers of two stay exact. Every result's size is checked before allocation.
Wrong arguments raise ``ValueError`` or ``TypeError``; the model reader adds the node's name.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[np.int64]
Attribute: TypeAlias = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array
Shape: TypeAlias = tuple[int, ...]

MAX_ELEMENTS = 1 << 27
"""Largest number of elements of one tensor."""


@dataclass(frozen=True)
class Call:
    """One application of an operator: attributes, inputs (None if omitted) and number of outputs."""

    attributes: Mapping[str, Attribute]
    inputs: Sequence[Array | None]
    outputs: int = 1

    def array(self, position: int) -> Array:
        """The input at this position; ValueError if it is missing."""
        value = self.optional(position)
        if value is None:
            raise ValueError(f"input {position} is missing")
        return value

    def optional(self, position: int) -> Array | None:
        """The input at this position, or None."""
        return self.inputs[position] if position < len(self.inputs) else None

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise TypeError(f"attribute {name} is {value!r}; legal: an integer")
        return value

    def real(self, name: str, default: float) -> float:
        """A float attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise TypeError(f"attribute {name} is {value!r}; legal: a finite number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, str):
            raise TypeError(f"attribute {name} is {value!r}; legal: a string")
        return value

    def integers(self, name: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An attribute that is a list of integers."""
        value = self.attributes.get(name, default)
        if not isinstance(value, tuple) or not all(isinstance(v, int) for v in value):
            raise TypeError(f"attribute {name} is {value!r}; legal: a list of integers")
        return tuple(v for v in value if isinstance(v, int))

    def axes(self, position: int) -> tuple[int, ...] | None:
        """Axes from an input (newer files) or from the attribute (older ones); None if neither is there."""
        given = self.optional(position)
        if given is not None:
            return tuple(whole_numbers(given))
        return self.integers("axes") if "axes" in self.attributes else None


Operator: TypeAlias = Callable[[Call], tuple[Array, ...]]


def whole_numbers(x: Array) -> list[int]:
    """The values of an integer array as a flat list."""
    if x.dtype.kind not in "iub":
        raise TypeError(f"an integer array is needed, got {x.dtype}")
    return [int(v) for v in x.ravel()]


def check_size(shape: Sequence[int]) -> Shape:
    """Return the shape; ValueError if it is negative or has more than `MAX_ELEMENTS` elements."""
    if any(n < 0 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"shape {'x'.join(map(str, shape))}; legal: at most {MAX_ELEMENTS} elements")
    return tuple(int(n) for n in shape)


def unary(function: Callable[[Array], Any]) -> Operator:
    """An operator from a function of one array."""
    return lambda c: (np.asarray(function(c.array(0))),)


def binary(function: Callable[[Array, Array], Any]) -> Operator:
    """An operator from a function of two arrays, which broadcast."""

    def apply(c: Call) -> tuple[Array, ...]:
        a, b = c.array(0), c.array(1)
        check_size(np.broadcast_shapes(a.shape, b.shape))
        return (np.asarray(function(a, b)),)

    return apply


def fold(function: Callable[[Array, Array], Any]) -> Operator:
    """An operator that combines all its inputs from the left; they broadcast."""

    def apply(c: Call) -> tuple[Array, ...]:
        values = [c.array(i) for i in range(len(c.inputs))]
        check_size(np.broadcast_shapes(*(v.shape for v in values)))
        return (functools.reduce(function, values),)

    return apply
