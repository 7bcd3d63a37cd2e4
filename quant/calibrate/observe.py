"""What samples show of a model's tensors."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from codesign.frontend.operators.call import Array
from codesign.frontend.workload import Workload
from codesign.numerics.fixed_point import dequantize, quantize
from codesign.quant.match.views import Floats

Sample: TypeAlias = Mapping[str, Array]

_LOG = logging.getLogger(__name__)
_EVERY_S = 5.0
"""Between two lines of progress."""


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What samples show of a tensor.

    Attributes:
        low, high: per element, in the tensor's shape.
    """

    low: Floats
    high: Floats


def watched(name: str, each: Sequence[Sample]) -> Iterator[Sample]:
    """The samples; where they take long, a line of progress every few seconds."""
    last = time.monotonic()
    for number, sample in enumerate(each):
        if time.monotonic() - last > _EVERY_S:
            last = time.monotonic()
            _LOG.info("%s: saw %d of %d samples", name, number, len(each))
        yield sample


def observe(workload: Workload, each: Sequence[Sample], names: Iterable[str]) -> dict[str, TensorStatistics]:
    """What the samples show of some tensors."""
    wanted = set(names)
    lows: dict[str, Floats] = {}
    highs: dict[str, Floats] = {}
    for sample in watched(workload.name, each):
        for name, value in workload.tensors(sample):
            if name in wanted:
                lows[name] = np.minimum(lows.get(name, value), value)
                highs[name] = np.maximum(highs.get(name, value), value)
    return {name: TensorStatistics(lows[name], highs[name]) for name in lows}


def rounded(x: Floats, scale: float) -> Floats:
    """What a signed 8-bit quantizer makes of values."""
    return np.asarray(dequantize(quantize(x, scale), scale))


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over samples of a tensor, of what its quantizer makes of it, and of its square."""

    mean: Floats
    rounded: Floats
    square: Floats


def moments(workload: Workload, each: Sequence[Sample], scales: Mapping[str, float]) -> dict[str, Moments]:
    """Moments of every tensor that has a scale, per element."""
    found: dict[str, Moments] = {}
    for sample in watched(workload.name, each):
        for name, value in workload.tensors(sample):
            if name in scales:
                parts = value, rounded(value, scales[name]), np.square(value)
                old = found.get(name)
                sums = parts if old is None else (old.mean + parts[0], old.rounded + parts[1], old.square + parts[2])
                found[name] = Moments(*sums)
    count = len(each)
    return {name: Moments(m.mean / count, m.rounded / count, m.square / count) for name, m in found.items()}
