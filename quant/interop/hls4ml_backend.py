"""Cross-check of integer results: runs a quantized network through hls4ml.

hls4ml turns a QONNX file into its own fixed-point C++, which shares the parsing of the model with this
package, but no lowering, goldens or hardware. With power-of-two scales both compute the same integers.
Supported are chains of matrix products, biases, ReLU and quantizers (`codesign.quant.interop.chain`); its
transformer layers convert to other numbers without an error, so they are refused.
"""

import contextlib
import importlib
import io
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError, ToolError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.ir.network import run
from codesign.quant.interop.chain import Chain, to_qonnx
from codesign.quant.lower.lowering import lower
from codesign.quant.match.views import Floats

Ints = NDArray[np.int64]
Model = Workload | str | Path

INPUT_TYPE = "fixed<48,16>"
"""Type of the model input: keeps float32 values below 2**15 to 32 binary places, so they quantize unchanged."""
PART = "xczu9eg-ffvb1156-2-e"
CLOCK_MHZ = 300.0


@dataclass(frozen=True)
class Comparison:
    """Comparison of the integers of two backends.

    Attributes:
        samples: number of inputs run.
        values: number of integers compared.
        differing: number of integers that differ.
        largest: largest difference, in output steps.
    """

    samples: int
    values: int
    differing: int
    largest: int

    @property
    def equal(self) -> bool:
        """Whether all integers are equal."""
        return self.differing == 0


def run_hls4ml(
    model: Model,
    inputs: Mapping[str, NDArray[Any]],
    *,
    folder: Path | None = None,
    part: str = PART,
    clock_mhz: float = CLOCK_MHZ,
) -> dict[str, Ints]:
    """Runs a model in hls4ml's C++ and returns its integers; compiling takes about ten seconds.

    Args:
        model: a parsed model, or an argument of `codesign.frontend.zoo.load`.
        inputs: an array per model input, samples first.
        folder: folder for hls4ml's project; None is a temporary one.
        part: device of the project.
        clock_mhz: clock of the project; neither changes the integers.

    Returns:
        Output name to ``[samples, values]``, in steps of the output quantizer.

    Raises:
        InputError: hls4ml cannot run the model, see `chain.to_qonnx`, or the arrays do not fit its inputs.
        ToolError: hls4ml or g++ is missing or fails.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="codesign-hls4ml-") as temporary:
            return run_hls4ml(model, inputs, folder=Path(temporary), part=part, clock_mhz=clock_mhz)
    workload = load_workload(model)
    chain = Chain(workload)
    samples = _samples(workload, chain.size, inputs)
    converted = _convert(workload, folder, part, clock_mhz)
    if shutil.which("g++") is None:
        raise ToolError("hls4ml compiles with g++, which is missing; install it")
    _quietly(converted.compile)
    values = np.asarray(_quietly(converted.predict, samples)).reshape(len(samples), -1)
    return {next(iter(workload.outputs)): np.rint(values / chain.output.scale).astype(np.int64)}


def compare(
    model: Model,
    inputs: Mapping[str, NDArray[Any]],
    *,
    folder: Path | None = None,
    part: str = PART,
    clock_mhz: float = CLOCK_MHZ,
) -> Comparison:
    """Runs a model through hls4ml and through our goldens and compares all integers.

    Args:
        model: as for `run_hls4ml`.
        inputs: an array per model input, samples first.
        folder: as for `run_hls4ml`.
        part: likewise.
        clock_mhz: likewise.

    Raises:
        InputError, ToolError: as in `run_hls4ml`; InputError also if our lowering refuses the model.
    """
    workload = load_workload(model)
    theirs = run_hls4ml(workload, inputs, folder=folder, part=part, clock_mhz=clock_mhz)
    network = lower(workload)
    (output,) = network.outputs
    rows = [run(network, {name: x[i] for name, x in inputs.items()}) for i in range(len(theirs[output.name]))]
    ours = np.stack([values[output.source].reshape(-1) for values in rows])
    apart = np.abs(ours - theirs[output.name])
    return Comparison(len(ours), ours.size, int(np.count_nonzero(apart)), int(apart.max(initial=0)))


def load_workload(model: Model) -> Workload:
    """Loads a model by name or path; returns a parsed one unchanged.

    Raises:
        InputError: it does not exist, or is a matrix product by name, which has no file.
    """
    loaded = model if isinstance(model, Workload) else zoo.load(model)
    if not isinstance(loaded, Workload):
        raise InputError(f"model {model} is no file; legal: an ONNX file or a model that ships as one")
    return loaded


def _samples(workload: Workload, size: int, inputs: Mapping[str, NDArray[Any]]) -> Floats:
    """The single input as float64 ``[samples, size]``."""
    (name,) = workload.inputs
    if sorted(inputs) != [name]:
        raise InputError(f"{workload.name}: inputs {sorted(inputs)}; legal: ['{name}']")
    array = np.asarray(inputs[name])
    if array.ndim < 2 or not len(array) or array[0].size != size:
        raise InputError(f"{workload.name}: input {name} is {array.shape}; legal: samples first, {size} values each")
    return np.ascontiguousarray(array.reshape(len(array), size), dtype=np.float64)


# hls4ml itself ------------------------------------------------------------------------


def _convert(workload: Workload, folder: Path, part: str, clock_mhz: float) -> Any:
    """hls4ml's model graph; types follow from the quantizers."""
    model = to_qonnx(workload)
    hls4ml = _hls4ml()
    config = _quietly(hls4ml.utils.config_from_onnx_model, model, granularity="name", backend="Vitis")
    config["LayerName"][next(iter(workload.inputs))]["Precision"]["result"] = INPUT_TYPE
    return _quietly(
        hls4ml.converters.convert_from_onnx_model, model, hls_config=config, output_dir=str(folder), backend="Vitis",
        part=part, clock_period=1000 / clock_mhz, project_name="network",
    )  # fmt: skip


def _hls4ml() -> Any:
    try:
        return importlib.import_module("hls4ml")
    except ImportError as error:
        raise ToolError("hls4ml is missing; get it with: pip install 'codesign[hls]'") from error


def _quietly(action: Any, *arguments: Any, **options: Any) -> Any:
    """Calls hls4ml with its output captured; any exception becomes a ToolError."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            return action(*arguments, **options)
    except Exception as error:
        raise ToolError(f"hls4ml failed: {' '.join(str(error).split())}", log=printed.getvalue()) from error
