"""Affine views: the elements of one tensor in terms of those of another."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codesign.frontend.operators.call import Array, Ints

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """``tensor.flat[e] = factor.flat[e] * origin.flat[index.flat[e]] + offset.flat[e]``.

    Attributes:
        origin: name of the tensor viewed, before its own bias or gain; "" for constants.
        index: flat index into the origin, of the tensor's shape; -1 where the element is ``offset`` only.
        factor, offset: of the tensor's shape.
    """

    origin: str
    index: Ints
    factor: Floats
    offset: Floats

    @property
    def plain(self) -> bool:
        """Whether the tensor's elements are distinct unscaled elements of its origin, in any order."""
        return self.pure and self.index.size == np.unique(self.index).size

    @property
    def pure(self) -> bool:
        """Whether every element is an unscaled element of the origin."""
        return bool(np.all(self.index >= 0) and np.all(self.factor == 1) and not np.any(self.offset))


def pick(index: Ints, chosen: Ints) -> Ints:
    """``index.flat[chosen]``, and -1 where chosen is -1."""
    return np.where(chosen < 0, -1, index.reshape(-1)[chosen])


def inverse(index: Ints, size: int) -> Ints:
    """Element of a view that shows each of the ``size`` elements of its origin; -1 if none does.

    >>> inverse(np.array([[2, -1, 0]]), 4).tolist()
    [2, -1, 0, -1]
    """
    back = np.full(size, -1, np.int64)
    used = index >= 0
    back[index[used]] = np.flatnonzero(used)
    return back


def compose(view: Affine, index: Ints) -> Affine:
    """Selects elements of a view by flat index; the result has the index's shape."""
    factor, offset = (x.reshape(-1)[index] for x in (view.factor, view.offset))
    return Affine(view.origin, pick(view.index, index), factor, offset)


def shifted(view: Affine, factor: Array | np.float64, offset: Array | np.float64) -> Affine:
    """``factor * view + offset``, where both broadcast and may enlarge the shape."""
    shape = np.broadcast_shapes(view.index.shape, np.shape(factor), np.shape(offset))
    index = np.broadcast_to(view.index, shape)
    return Affine(
        view.origin,
        index,
        np.broadcast_to(view.factor * factor, shape),
        np.broadcast_to(view.offset * factor + offset, shape),
    )
