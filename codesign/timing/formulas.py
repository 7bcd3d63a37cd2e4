"""What the engines say of their own durations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.target.kernel import Number, Work


@dataclass(frozen=True)
class Formulas:
    """What the kernels say of their own durations, for one design or arrays of them.

    Attributes:
        times: by engine the cycles from accept to done of a kernel's work; all engines of the design but those that
            move data and the one with the ring.
        array_latency: cycles from the end of a tile to complete accumulators.
        drain_latency: cycles from there to the done pulse, less the rows drained.
    """

    times: Mapping[str, Callable[[Work], Number]]
    array_latency: Number
    drain_latency: int
