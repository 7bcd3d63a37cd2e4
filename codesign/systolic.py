"""What the engines say of their own durations."""

from collections.abc import Callable
from dataclasses import dataclass

from codesign.kernel import Number, Work


@dataclass(frozen=True)
class Formulas:
    """What the kernels say of their own durations, for one design or arrays of them.

    Attributes:
        attention, vector: cycles from accept to done of a kernel's work.
        array_latency: cycles from the end of a tile to complete accumulators.
        drain_latency: cycles from there to the done pulse, less the rows drained.
    """

    attention: Callable[[Work], Number]
    vector: Callable[[Work], Number]
    array_latency: Number
    drain_latency: int
