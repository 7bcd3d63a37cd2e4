"""The user's view of a bundle: report, network and contents, with verify, run and fidelity."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codesign.bundle import files as _bundle
from codesign.bundle.serialize import read_network
from codesign.flow.run import RunResult, ran
from codesign.flow.samples import samples_of
from codesign.flow.verify import VerifyRequest, VerifyResult, checked
from codesign.ir.network import Network
from codesign.render.svg import Picture, lengths
from codesign.report.report import Report

if TYPE_CHECKING:
    from codesign.flow.open import Contents


@dataclass(frozen=True)
class Fidelity:
    """Agreement of a network's integers with the float model's values.

    Attributes:
        cosines: smallest cosine similarity over the samples, by layer in execution order.
        samples: number of samples.
    """

    cosines: Mapping[str, float]
    samples: int

    @property
    def worst(self) -> str:
        """The layer with the smallest cosine."""
        return min(self.cosines, key=self.cosines.__getitem__)

    def plot(self) -> Picture:
        """Bar plot of 1 - cosine by layer."""
        return lengths([(name, 1 - cosine) for name, cosine in self.cosines.items()], "1 - cosine")

    def _repr_svg_(self) -> str:
        return self.plot().svg


@dataclass(frozen=True)
class Bundle:
    """A built accelerator: the folder written by `build`, checked against its hashes.

    Attributes:
        stored: its files.
    """

    stored: _bundle.StoredBundle

    @property
    def path(self) -> Path:
        """The folder."""
        return self.stored.path

    @cached_property
    def report(self) -> Report:
        """Figures of the design with their evidence."""
        return Report.from_json(self.stored.json("report.json"))

    @cached_property
    def network(self) -> Network:
        """The integer network."""
        return read_network(self.stored.data("network.npz"))

    @cached_property
    def contents(self) -> "Contents":
        """Network, design, program and Verilog, checked against each other."""
        from codesign.flow.open import contents

        return contents(self.stored)

    def verify(
        self, *, kernel: str | None = None, waves: bool = False, seed: int = 0, images: int = 3, synth: str = "none"
    ) -> VerifyResult:
        """Compares golden model, cycle model and simulated Verilog; see `codesign.api.verify`."""
        request = VerifyRequest(str(self.path), kernel, waves, seed, images, synth)
        return checked(self.stored, self.contents, request)

    def run(self, x: NDArray[Any] | Mapping[str, NDArray[Any]], *, target: str = "golden") -> RunResult:
        """Runs samples: an array for a model with one input, else an array per input name; samples on axis 0."""
        return ran(self.network, self.report, self._samples(x), target, lambda: self.contents)

    def fidelity(self, x: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Fidelity:
        """Agreement of each layer's integers with the float model's values; ``x`` as in `run`.

        Raises:
            InputError: samples that do not fit, or no model file with quantizers in the bundle.
        """
        from codesign.flow.open import fidelity

        samples = self._samples(x)
        return Fidelity(fidelity(self.stored, self.contents, samples), len(samples))

    def _samples(self, x: NDArray[Any] | Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[np.generic]]]:
        return samples_of(self.network, dict(x) if isinstance(x, Mapping) else {"": np.asarray(x)})

    def _repr_html_(self) -> str:
        return self.report._repr_html_()


@dataclass(frozen=True)
class Quantized:
    """Result of quantizing a float model.

    Attributes:
        path: the written file.
        layers: number of integer layers.
        macs: multiply-accumulates of one inference.
        text: the quantization settings and the reason for them.
    """

    path: Path
    layers: int
    macs: int
    text: str
