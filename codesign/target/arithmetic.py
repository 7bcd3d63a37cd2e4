"""Arithmetic of formulas: the same function of one design's integers or of arrays of many."""

from typing import overload

import numpy as np

from codesign.solver.space import Number


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


@overload
def padded(size: int, unit: int) -> int: ...


@overload
def padded(size: Number, unit: Number) -> Number: ...


def padded(size: Number, unit: Number) -> Number:
    """Size rounded up to a multiple of a unit, for scalars and arrays.

    >>> padded(10, 4)
    12
    """
    return ceil_div(size, unit) * unit


def head_columns(heads: int, wide: Number, unit: Number) -> Number:
    """Columns of a row of heads of ``wide`` columns each, padded with empty heads to a multiple of a unit.

    >>> int(head_columns(3, 24, 16))
    96
    """
    step: Number = unit // np.gcd(unit, wide)
    return padded(heads, step) * wide


def maximum(a: Number, b: Number) -> Number:
    """Element-wise maximum that keeps Python integers unbounded.

    >>> maximum(3, 5)
    5
    """
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return np.maximum(a, b)


def minimum(a: Number, b: Number) -> Number:
    """Element-wise minimum that keeps Python integers unbounded.

    >>> minimum(3, 5)
    3
    """
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return np.minimum(a, b)


def powers_up_to(first: int, last: int) -> tuple[int, ...]:
    """Powers of two from ``first``, a power of two, up to the first that is at least ``last``.

    >>> powers_up_to(2, 9)
    (2, 4, 8, 16)
    """
    return tuple(first << i for i in range(max(0, -(-last // first) - 1).bit_length() + 1))


def power_of_two(x: Number) -> Number:
    """1 where ``x`` is a power of two, else 0.

    >>> int(power_of_two(8)), int(power_of_two(6))
    (1, 0)
    """
    return (x > 0) * ((x & (x - 1)) == 0)
