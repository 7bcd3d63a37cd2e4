"""Duration formulas of the engines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.target.kernel import Number, Work


@dataclass(frozen=True)
class Formulas:
    """Duration formulas of the kernels, for one design or arrays of designs.

    Attributes:
        times: by engine, the cycles from accept to done of a command's work; for all engines of the design but the
            data movers and the linear engine.
        array_latency: cycles from the end of a tile to complete accumulators.
        drain_latency: further cycles to the done pulse, without one per row drained.
    """

    times: Mapping[str, Callable[[Work], Number]]
    array_latency: Number
    drain_latency: int
