"""Cross-check of a model's integers: hls4ml's C++ for the model, compiled and compared with the golden model.

hls4ml's project is stored in the bundle, so that it can be synthesized with Vitis HLS.
"""

import importlib.metadata
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.flow.samples import random_samples
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.ir.network import Network
from codesign.quant.interop.hls4ml_backend import compare
from codesign.target.board import Board

BACKENDS = ("rtl", "hls4ml")
"""Backends of a build: Verilog alone, or also hls4ml's project."""

_IMAGES = 100
"""Number of random samples for a model that is not built in."""

_STAMP = re.compile(r"^(LIB_STAMP=|Stamp: )(\w+)$", re.MULTILINE)
_PLACE = re.compile(r"^OutputDir: .*$", re.MULTILINE)
_COMPILED = (".so", ".dylib")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CrossCheck:
    """hls4ml's project of a model, whose integers equal the golden model's.

    Attributes:
        files: contents of the project's files by name.
        version: version of hls4ml.
        samples: number of samples run.
        values: number of integers compared.
    """

    files: Mapping[str, bytes]
    version: str
    samples: int
    values: int

    def to_json(self) -> dict[str, object]:
        """JSON for a report."""
        return {
            "backend": "hls4ml", "version": self.version, "samples": self.samples, "values": self.values,
            "evidence": "simulated",
        }  # fmt: skip


def crosscheck(model: str, workload: Workload, network: Network, board: Board) -> CrossCheck:
    """Generates hls4ml's project of a model, compiles it and compares every integer with the golden model.

    Args:
        model: model as named by the user; a built-in one runs all its held-out samples, others random ones.
        workload: the model with its quantizers.
        network: its integer network.
        board: device and clock of the project.

    Raises:
        InputError: hls4ml does not support the model, see `codesign.quant.interop.chain.to_qonnx`.
        ToolError: hls4ml or g++ is missing, or one of them fails.
        CheckError: the integers differ.
    """
    _LOG.info("%s: compiling hls4ml's C++ with g++", model)
    with TemporaryDirectory(prefix="codesign-hls4ml-") as folder:
        found = compare(
            workload, _samples(model, network), folder=Path(folder), part=board.part, clock_mhz=board.clock_hz / 1e6
        )
        if not found.equal:
            raise CheckError(
                f"{model}: hls4ml and the golden model differ in {found.differing} of {found.values} integers,"
                f" by up to {found.largest} steps of the output"
            )
        return CrossCheck(_project(Path(folder)), importlib.metadata.version("hls4ml"), found.samples, found.values)


def _samples(model: str, network: Network) -> Mapping[str, NDArray[Any]]:
    if model in {shipped.name for shipped in zoo.models() if shipped.heldout}:
        return zoo.heldout(model)[0]
    each = random_samples(network, _IMAGES, 0)
    return {name: np.stack([sample[name] for sample in each]) for name in each[0]}


def _project(folder: Path) -> dict[str, bytes]:
    """Reproducible source files of a project by name, without compiled ones."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in _COMPILED)
    return {path.relative_to(folder).as_posix(): _steady(path.read_bytes()) for path in files}


def _steady(data: bytes) -> bytes:
    """File contents with the build folder and random stamp removed."""
    text = data.decode("utf-8", errors="surrogateescape")
    text = _PLACE.sub("OutputDir: .", _STAMP.sub(r"\g<1>0", text))
    return text.encode("utf-8", errors="surrogateescape")
