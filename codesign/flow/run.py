"""Running samples on a bundle, in the golden model or in the simulated Verilog."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.ir.network import Network, outputs
from codesign.ir.network import run as golden
from codesign.report.report import Report

if TYPE_CHECKING:
    from codesign.flow.open import Contents
    from codesign.sim.check import Sample

TARGETS = ("golden", "sim")
"""Execution targets: the golden model in numpy, or the simulated Verilog."""

EVIDENCE: Mapping[str, str] = {"golden": "modelled", "sim": "simulated"}
"""Evidence label of each target's figures."""

_EVERY = 20
"""Samples between progress lines."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RunResult:
    """The result of running samples.

    Attributes:
        target: one of `TARGETS`.
        outputs: floats by output name, samples on axis 0.
        cycles: simulated cycles per sample; empty for the golden model.
        labels: label per sample; None if unknown.
        report: the bundle's report.
    """

    target: str
    outputs: Mapping[str, NDArray[np.float64]]
    cycles: tuple[int, ...]
    labels: NDArray[np.int64] | None
    report: Report

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(next(iter(self.outputs.values())))

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class with the largest value of the first output, per sample."""
        classes: NDArray[np.int64] = next(iter(self.outputs.values())).reshape(self.samples, -1).argmax(axis=1)
        return classes

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions; None without labels."""
        return None if self.labels is None else float((self.predictions == self.labels).mean())

    @property
    def evidence(self) -> str:
        """Evidence label of the outputs."""
        return EVIDENCE[self.target]


def ran(
    network: Network, report: Report, samples: "Sequence[Sample]", target: str, contents: "Callable[[], Contents]"
) -> RunResult:
    """Runs samples.

    Args:
        network: the integer network.
        report: the bundle's report.
        samples: one mapping from input name to array per sample.
        target: one of `TARGETS`.
        contents: returns the bundle's contents for simulation; not called for the golden model.

    Raises:
        InputError: unknown target.
    """
    if target not in TARGETS:
        raise InputError(f"--target {target!r}; legal: {', '.join(TARGETS)}")
    results, cycles = (
        _simulated(contents(), samples) if target == "sim" else ([golden(network, sample) for sample in samples], [])
    )
    each = [outputs(network, values) for values in results]
    stacked = {item.name: np.stack([values[item.name] for values in each]) for item in network.outputs}
    return RunResult(target, stacked, tuple(cycles), None, report)


def _simulated(
    inside: "Contents", samples: "Sequence[Sample]"
) -> tuple[list[Mapping[str, NDArray[np.int64]]], list[int]]:
    from codesign.compiler.host import image_of, matrices
    from codesign.sim.check import SimulatedAccelerator

    library = inside.library()
    results: list[Mapping[str, NDArray[np.int64]]] = []
    cycles = []
    with SimulatedAccelerator(library, image_of(inside.program), inside.subject.identity) as accelerator:
        for number, sample in enumerate(samples, start=1):
            inference = accelerator.infer(matrices(inside.network, sample))
            results.append(inference.outputs)
            cycles.append(inference.cycles)
            if number % _EVERY == 0:
                _LOG.info("simulated %d of %d samples", number, len(samples))
    return results, cycles
