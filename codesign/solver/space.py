"""The values that design parameters may take: axes and legality, as array expressions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Number = int | NDArray[np.int64]
Params = Mapping[str, Number]


def check_axes(axes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses an axis whose values are not ascending.

    Raises:
        ValueError: the message names it.
    """
    for name, values in axes.items():
        if not values or list(values) != sorted(set(values)):
            raise ValueError(f"axis {name} is {values}; legal: at least one value, ascending, none twice")


@dataclass(frozen=True)
class ParameterSpace:
    """The product of some axes, without the illegal points.

    Attributes:
        axes: ascending values by parameter name.
        legal: whether parameters are a legal design, as a number or an array.
    """

    axes: Mapping[str, tuple[int, ...]]
    legal: Callable[[Params], Number | NDArray[np.bool_]]

    def __post_init__(self) -> None:
        check_axes(self.axes)

    @property
    def size(self) -> int:
        """Points of the product, legal or not."""
        return prod(len(values) for values in self.axes.values())

    def points(self, first: int = 0, count: int | None = None) -> dict[str, NDArray[np.int64]]:
        """The points of a range of the product, legal or not; the last axis varies fastest.

        Args:
            first: index of the first point.
            count: number of points; None for all to the end.

        Returns:
            One array per parameter.
        """
        stop = self.size if count is None else min(first + count, self.size)
        left, found = np.arange(first, stop, dtype=np.int64), dict[str, NDArray[np.int64]]()
        for name, values in reversed(list(self.axes.items())):
            found[name] = np.array(values, dtype=np.int64)[left % len(values)]
            left //= len(values)
        return {name: found[name] for name in self.axes}
