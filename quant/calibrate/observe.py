"""Statistics of a model's tensors over samples."""

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
"""Seconds between two progress messages."""


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Range of a tensor over samples.

    Attributes:
        low, high: per element, of the tensor's shape.
    """

    low: Floats
    high: Floats


def watched(name: str, each: Sequence[Sample]) -> Iterator[Sample]:
    """Yields the samples; logs progress every few seconds."""
    last = time.monotonic()
    for number, sample in enumerate(each):
        if time.monotonic() - last > _EVERY_S:
            last = time.monotonic()
            _LOG.info("%s: saw %d of %d samples", name, number, len(each))
        yield sample


def observe(workload: Workload, each: Sequence[Sample], names: Iterable[str]) -> dict[str, TensorStatistics]:
    """Ranges of the named tensors over samples."""
    wanted = set(names)
    lows: dict[str, Floats] = {}
    highs: dict[str, Floats] = {}
    for sample in watched(workload.name, each):
        for name, value in workload.tensors(sample):
            if name in wanted:
                lows[name] = np.minimum(lows.get(name, value), value)
                highs[name] = np.maximum(highs.get(name, value), value)
    return {name: TensorStatistics(lows[name], highs[name]) for name in lows}


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over samples, per element: of the values, of the quantized values, and of the squares."""

    mean: Floats
    rounded: Floats
    square: Floats


def moments(workload: Workload, each: Sequence[Sample], scales: Mapping[str, float]) -> dict[str, Moments]:
    """Computes the moments of every tensor that has a scale."""
    found: dict[str, Moments] = {}
    for sample in watched(workload.name, each):
        for name, value in workload.tensors(sample):
            if name in scales:
                rounded = dequantize(quantize(value, scales[name]), scales[name])
                parts = value, rounded, np.square(value)
                old = found.get(name)
                sums = parts if old is None else (old.mean + parts[0], old.rounded + parts[1], old.square + parts[2])
                found[name] = Moments(*sums)
    count = len(each)
    return {name: Moments(m.mean / count, m.rounded / count, m.square / count) for name, m in found.items()}
