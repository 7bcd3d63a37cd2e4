"""A bundle as a user holds it: its report, its network, what else it holds, and what can be done with it."""

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
    """How close integers are to the float values that they stand for.

    Attributes:
        cosines: by layer in execution order, the smallest over the samples; 1 is equal.
        samples: how many there were.
    """

    cosines: Mapping[str, float]
    samples: int

    @property
    def worst(self) -> str:
        """The layer with the smallest cosine."""
        return min(self.cosines, key=self.cosines.__getitem__)

    def plot(self) -> Picture:
        """By layer what is missing from a cosine of 1."""
        return lengths([(name, 1 - cosine) for name, cosine in self.cosines.items()], "1 - cosine")

    def _repr_svg_(self) -> str:
        return self.plot().svg


@dataclass(frozen=True)
class Bundle:
    """A built accelerator: the folder that `build` leaves behind, checked against its hashes.

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
        """Figures of the design and how each came about."""
        return Report.from_json(self.stored.json("report.json"))

    @cached_property
    def network(self) -> Network:
        """The model in integers."""
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
        """Runs samples: an array for a model of one input, else one per input name; samples first."""
        return ran(self.network, self.report, self._samples(x), target, lambda: self.contents)

    def fidelity(self, x: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Fidelity:
        """How close each layer's integers are to the float values that they stand for; ``x`` as for `run`.

        Raises:
            InputError: samples that do not fit, or a model without a file with quantizers.
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
    """A float model that was quantized.

    Attributes:
        path: the file.
        layers: layers in integers.
        macs: multiply-accumulates of one inference.
        text: how it was quantized, and why so.
    """

    path: Path
    layers: int
    macs: int
    text: str
