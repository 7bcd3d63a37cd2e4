"""What the engines say of their own durations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.kernel import Number, Work


@dataclass(frozen=True)
class EngineTimes:
    """What the kernels say of their own durations.

    Attributes:
        attention, vector: cycles from accept to done of a command's operands.
        array_latency: cycles from the end of a tile to complete accumulators.
        drain_latency: cycles from there to the done pulse, less the rows drained.
    """

    attention: Callable[[Mapping[str, int]], int]
    vector: Callable[[Mapping[str, int]], int]
    array_latency: int
    drain_latency: int


@dataclass(frozen=True)
class Formulas:
    """The same for one design or arrays of them; the two callables take a kernel's work.

    Attributes:
        attention, vector: cycles from accept to done.
        array_latency, drain_latency: see `EngineTimes`.
    """

    attention: Callable[[Work], Number]
    vector: Callable[[Work], Number]
    array_latency: Number
    drain_latency: int
