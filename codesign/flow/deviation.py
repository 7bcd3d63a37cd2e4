"""Error of a network's outputs against the model that it was made from, and faults of calibration data.

Simulation compares the hardware with the integers; this compares the integers with the floats.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.frontend.workload import Workload
from codesign.ir.network import Network, outputs, run
from codesign.quant.calibrate.observe import Sample
from codesign.quant.lower.fidelity import local_cosines
from codesign.quant.lower.lowering import lower_traced

BOUND = 0.02
"""Largest squared error of the outputs, of their squares, without a warning: that of a cosine of 0.99, which
`codesign verify` asks of each layer."""

REFUSED = 0.5
"""Squared error of the outputs, of their squares, from which on quantization by samples is refused: most of what the
outputs say is lost."""

OUTLIER = 16
"""Largest accepted ratio of an input's greatest magnitude to nearly all others, which then share 3 bits of 8."""

_RARE = 1000
"""One value in so many may be an outlier, and at least one."""


@dataclass(frozen=True)
class Deviation:
    """Error of a network's outputs.

    Attributes:
        error: squared error of the outputs, of the squares of the model's outputs.
        samples: how many samples it was measured on, and which, as in "3 random samples".
        warnings: what is wrong and what to do, one sentence each.
    """

    error: float
    samples: str
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The error in words."""
        return f"{self.error:.2g} of the outputs' squares against the model, {self.samples}"

    def to_json(self) -> dict[str, object]:
        """JSON for a report."""
        return {
            "error": self.error, "samples": self.samples, "bound": BOUND, "text": self.text,
            "warnings": list(self.warnings), "evidence": "modelled",
        }  # fmt: skip

    def judged(self, advice: str) -> "Deviation":
        """The same with a warning, which ends with the advice, if the error is above `BOUND`."""
        if self.error <= BOUND:
            return self
        warning = f"squared error of the outputs {self.error:.2g} of their squares; legal: {BOUND:g}; {advice}"
        return replace(self, warnings=(*self.warnings, warning))


def measured(workload: Workload, network: Network, each: Sequence[Sample], samples: str) -> Deviation:
    """Deviation of a network from the model that it was lowered from, quantizers included.

    Args:
        workload: the model.
        network: its integer network.
        each: the samples.
        samples: which they are, in words.

    Raises:
        InputError: the model makes NaN or infinity of a sample.
    """
    error = power = 0.0
    for sample in each:
        got = outputs(network, run(network, sample))
        for name, value in workload.evaluate(sample).items():
            error += float(np.square(got[name].reshape(value.shape) - value).sum())
            power += float(np.square(value).sum())
    return Deviation(error / power if power else error, samples)


def worst_layer(workload: Workload, sample: Sample, calibration: Mapping[str, NDArray[Any]] | None) -> str:
    """The layer whose integers are farthest from its floats, and the cosine between them, in words.

    Args:
        workload: the model.
        sample: where to look.
        calibration: the data that it was lowered with, if any.
    """
    found = local_cosines(workload, lower_traced(workload, calibration=calibration), sample)
    name = min(found, key=found.__getitem__)
    return f"layer {name} is worst, cosine {found[name]:.4f}"


def data_faults(samples: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Inputs whose calibration data show no range: zeros, constants, equal samples, or an outlier; one sentence each.

    Args:
        samples: an array per model input, samples first.
    """
    found = [(name, _fault(np.asarray(x))) for name, x in samples.items()]
    advice = "legal: 32 to 256 typical samples"
    return tuple(f"calibration data of input {name}: {fault}; {advice}" for name, fault in found if fault)


def _fault(x: NDArray[Any]) -> str:
    """Reason why samples show no range, "" if they do."""
    if not x.size or x.dtype.kind not in "fiub" or not np.isfinite(x).all():
        return ""
    if np.all(x == x.flat[0]):
        return f"every value of {len(x)} samples is {float(x.flat[0]):g}"
    if len(x) > 1 and np.all(x == x[:1]):
        return f"all {len(x)} samples are equal"
    sizes = np.abs(x.astype(np.float64)).reshape(-1)
    place = len(sizes) - 1 - max(1, len(sizes) // _RARE)
    usual, top = float(np.partition(sizes, place)[place]) if place >= 0 else 0.0, float(sizes.max())
    if usual > 0 and top > OUTLIER * usual:
        return f"an outlier of {top:.3g}, {top / usual:.3g} times all but one in {_RARE} of the others"
    return ""
