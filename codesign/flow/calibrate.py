"""Post-training quantization of a float model with samples, and the reason for the chosen settings."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.flow.deviation import REFUSED, Deviation, data_faults
from codesign.frontend.workload import QUANTIZERS, Workload, parse_onnx
from codesign.quant.calibrate.ptq import SettingsChoice, calibrate, choose
from codesign.quant.calibrate.ranges import PERCENTILE

_CLIPS: Mapping[str, str] = {
    "max": "the largest magnitude",
    "percentile": f"the range that holds {PERCENTILE:g} % of the values",
}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Calibration:
    """A float model with quantizers added by calibration.

    Attributes:
        data: ONNX file with the quantizers.
        workload: the same, parsed.
        choice: chosen quantization settings.
        samples: number of calibration samples.
        faults: what is wrong with them, see `codesign.flow.deviation.data_faults`.
    """

    data: bytes
    workload: Workload
    choice: SettingsChoice
    samples: int
    faults: tuple[str, ...] = ()

    @property
    def deviation(self) -> Deviation:
        """Error of the outputs on the samples that were held back."""
        held = f"{self.choice.held} samples held back"
        advice = "calibrate with 32 to 256 samples like those that it will see, or train it with quantizers"
        return Deviation(self.choice.error, held, self.faults).judged(advice)

    @property
    def text(self) -> str:
        """The chosen settings and the reason for them, in one sentence."""
        return (
            f"quantized with {self.samples} samples: {described(self.choice)}; squared error of the outputs on"
            f" {self.choice.held} samples held back {self.choice.error:.2g} of their squares,"
            f" {self.choice.plain_error:.2g} with the simplest way"
        )

    def to_json(self) -> dict[str, object]:
        """JSON for a report."""
        return {
            "text": self.text, "settings": dict(vars(self.choice.settings)), "samples": self.samples,
            "held": self.choice.held, "error": self.choice.error, "plain_error": self.choice.plain_error,
            "evidence": "modelled",
        }  # fmt: skip


def described(choice: SettingsChoice) -> str:
    """The settings in words."""
    chosen = choice.settings
    parts = [f"scales from {_CLIPS[chosen.clip]}"]
    if chosen.migrate is not None:
        parts.append(f"{100 * chosen.migrate:g} % of the range of activations moved into weights")
    if chosen.centre:
        parts.append("ranges shifted to their middle")
    if chosen.correct:
        parts.append("biases corrected for the mean error")
    return ", ".join(parts)


def is_float(workload: Workload) -> bool:
    """Whether a model has no quantizer."""
    return not any(node.op in QUANTIZERS for node in workload.nodes)


def _cause(samples: Mapping[str, NDArray[Any]]) -> str:
    """What to do about a large error."""
    return "; ".join(data_faults(samples)) or "8 bits do not hold a function as steep, or values as uneven, as these"


def calibrated(data: bytes, name: str, samples: Mapping[str, NDArray[Any]], folder: Path | None = None) -> Calibration:
    """Quantizes a float model with the settings that score best on a held-out part of the samples.

    Args:
        data: its ONNX file.
        name: name of the model.
        samples: 32 to 256 typical samples, an array per model input, samples on axis 0.
        folder: folder of external data; None allows none.

    Raises:
        InputError: a model or samples that cannot be used, or an error of the outputs of
            `codesign.flow.deviation.REFUSED` or more.
    """

    def tried(number: int, of: int) -> None:
        _LOG.info("%s: tried %d of %d ways to quantize it", name, number, of)

    choice = choose(data, samples, name=name, folder=folder, progress=tried)
    _LOG.info("%s: %s", name, described(choice))
    made = calibrate(data, samples, settings=choice.settings, name=name, folder=folder)
    if choice.error >= REFUSED:
        off = f"{name}: quantized outputs miss the float model's by {choice.error:.2g} of their squares"
        raise InputError(f"{off}, on {choice.held} samples held back; legal: below {REFUSED:g}; {_cause(samples)}")
    return Calibration(made, parse_onnx(made, name), choice, len(next(iter(samples.values()))), data_faults(samples))
