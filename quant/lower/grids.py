"""Units of a linear layer's sums: finer for a bias, coarser where products vanish beside it.

A sum counts in units of one product, the step of the input times that of the weights. Weights and unit change
together by a factor per output channel, which leaves the products as they are.
"""

import numpy as np

from codesign.frontend.operators.call import Ints
from codesign.numerics.fixed_point import dequantize, quantize
from codesign.quant.match.views import Floats

ACCUMULATOR_BITS = 27
"""Signed width in which every sum of products, bias included, must provably fit."""

_TOP = 127
"""Largest magnitude of a weight."""

_INPUT = 128
"""Largest magnitude of an input."""

_BIAS = 2.0**24
"""Units that the bias of a coarser channel has at most, which leaves room for its products."""

_LEAST, _LEAST_CHOSEN = 2.0**-31, 2.0**-30
"""Least unit that a requantizer takes, and the least that is chosen, in steps of the result."""

_WRONG, _WANTED = 1 / 256, 1 / 1024
"""Error of a bias from which on a finer unit is sought, and that is sought, in steps of the result."""


def regridded(weights: Ints, unit: Floats, offset: Floats, step: float) -> tuple[Ints, Floats]:
    """Weights and units with which requantizer and accumulator hold every channel and its bias.

    Where products are so fine that a bias, or the result's step, is out of reach, both become coarser: small weights
    round to zero, and the channel to a constant. Where they are so coarse that the bias is lost, weights are
    multiplied by a power of two, as far as 8 bits and the accumulator hold it. All other channels stay.

    Args:
        weights: integers ``[n, k]`` of magnitude up to 127.
        unit: value of one product per channel, ``[n]``, positive.
        offset: bias per channel, ``[n]``.
        step: step of the result.
    """
    sums = _INPUT * np.abs(weights).sum(axis=1) + np.abs(offset) / unit
    limit = 2.0 ** (ACCUMULATOR_BITS - 1) - 1
    least = np.maximum(np.abs(offset) / _BIAS, step * _LEAST_CHOSEN)
    fine = (unit < step * _LEAST) | ((sums > limit) & (np.abs(offset) > _BIAS * unit))
    shrunk = quantize(weights * np.minimum(unit / least, 1.0)[:, None], 1.0, 8, narrow=True)
    largest = np.maximum(np.abs(weights).max(axis=1, initial=0), 1)
    room = np.floor(np.log2(np.minimum(_TOP / largest, limit / np.maximum(sums, 1.0))))
    wanted = np.ceil(np.log2(unit / (2 * step * _WANTED)))
    lost = np.abs(offset - dequantize(quantize(offset, unit, 53), unit)) > step * _WRONG
    growth = np.where(lost & ~fine, np.clip(wanted, 0, np.maximum(room, 0)), 0.0).astype(np.int64)
    made = np.where(fine[:, None], shrunk, weights << growth[:, None])
    return made, np.where(fine, least, unit / 2.0**growth)
