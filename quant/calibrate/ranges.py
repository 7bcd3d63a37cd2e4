"""Ranges, scales and integer weights from the quantization tools of onnxruntime.

Its calibrators observe tensors of a model that it runs, see
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html. Here that is a dummy model whose
inputs are tensors of the real one, computed by `codesign.frontend.workload`. So every operator and quantizer is
observed as defined here, whether or not onnxruntime has it.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from codesign.errors import InputError, ToolError
from codesign.frontend.workload import Workload
from codesign.numerics.fixed_point import dequantize
from codesign.quant.calibrate.observe import Sample, watched
from codesign.quant.match.views import Floats

Clip: TypeAlias = Literal["max", "percentile"]
"""Kind of range: the full observed range, or the one that holds `PERCENTILE` of the values."""

PERCENTILE = 99.999
"""In percent; the excluded values are split evenly between both ends."""

PACKAGE = "onnxruntime"
INSTALL = "pip install 'codesign[calibrate]'"

_METHODS: Mapping[Clip, str] = {"max": "MinMax", "percentile": "Percentile"}
_BINS = 2048
"""Bins of the percentile histogram."""

_GROWTH = 256.0
"""Largest growth of a tensor's magnitude over samples that a histogram takes; its bins grow as much in number."""

_OPSET = 18
"""Old enough for every supported release."""


@dataclass(frozen=True)
class Range:
    """Range of a tensor's values.

    Attributes:
        low, high: least and greatest value.
    """

    low: float
    high: float

    @property
    def top(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high))


def check() -> None:
    """Raises unless the library is installed.

    Raises:
        ToolError: the library is not installed.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ToolError(f"quantizing a float model needs {PACKAGE}; install: {INSTALL}")


def version() -> str:
    """Version of the installed library.

    Raises:
        ToolError: the library is not installed.
    """
    check()
    return importlib.metadata.version(PACKAGE)


def _tools(name: str) -> Any:
    """A module of the library, untyped."""
    check()
    return importlib.import_module(f"{PACKAGE}.quantization.{name}")


# Tensors ---------------------------------------------------------------------------------


def ranges(workload: Workload, each: Sequence[Sample], clips: Mapping[str, Clip]) -> dict[str, Range]:
    """Ranges of tensors over samples.

    Args:
        workload: the model.
        each: the samples.
        clips: kind of range per tensor; constants are ignored.

    Raises:
        InputError: magnitudes that float32 or a histogram does not hold.
        ToolError: the library is not installed.
    """
    computed = {*workload.inputs, *(name for node in workload.nodes for name in node.outputs)}
    names = {clip: [n for n in clips if clips[n] == clip and n in computed] for clip in _METHODS}
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints how far it is
            found = {clip: _Observer(Path(folder), clip, wanted) for clip, wanted in names.items() if wanted}
            for sample in watched(workload.name, each):
                values = {n: x for n, x in workload.tensors(sample) if n in clips}
                for observer in found.values():
                    observer.show(values)
            return {name: r for observer in found.values() for name, r in observer.ranges().items()}


class _Observer:
    """Wrapper of one of the library's calibrators.

    Args:
        folder: folder for its dummy model.
        clip: kind of range.
        names: tensors to observe.
    """

    def __init__(self, folder: Path, clip: Clip, names: Sequence[str]) -> None:
        tools, self.names = _tools("calibrate"), {f"tensor{i}": name for i, name in enumerate(names)}
        self.clip, self.first = clip, dict[str, float]()
        path = folder / f"{clip}.onnx"
        path.write_bytes(_model(list(self.names)).SerializeToString())
        self.calibrator = tools.create_calibrator(
            path,
            augmented_model_path=str(folder / f"{clip}.augmented.onnx"),
            calibrate_method=tools.CalibrationMethod[_METHODS[clip]],
            extra_options={"symmetric": False, "num_bins": _BINS, "percentile": PERCENTILE},
        )

    def show(self, values: Mapping[str, Floats]) -> None:
        """Passes a sample's tensors to the calibrator."""
        with np.errstate(over="ignore"):
            inputs = {label: values[name].reshape(-1).astype(np.float32) for label, name in self.names.items()}
        for label, x in inputs.items():
            self.check(label, float(np.abs(x).max(initial=0.0)))
        self.calibrator.collect_data(_Once(iter([inputs])))

    def check(self, label: str, top: float) -> None:
        """Refuses a sample's magnitude that the calibrator cannot take."""
        first = self.first[label] = self.first.get(label) or top
        if not np.isfinite(top):
            raise InputError(f"tensor {self.names[label]}: values above 3.4e38; legal: those of float32")
        if self.clip == "percentile" and top > _GROWTH * first:
            grown = f"tensor {self.names[label]}: magnitude {top:.3g} after {first:.3g}"
            raise InputError(f"{grown}; legal with clip percentile: up to {_GROWTH:g} times, samples without outliers")

    def ranges(self) -> dict[str, Range]:
        """Observed range of each tensor."""
        data = self.calibrator.compute_data()
        ends = {name: [float(np.min(x)) for x in data[label].range_value] for label, name in self.names.items()}
        return {name: Range(low, high) for name, (low, high) in ends.items()}


@dataclass(frozen=True, eq=False)
class _Once:
    """Data reader for the calibrators, which call `get_next` until it returns None."""

    inputs: Iterator[dict[str, NDArray[np.float32]]]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next sample."""
        return next(self.inputs, None)


def _model(names: Sequence[str]) -> onnx.ModelProto:
    """Dummy model whose inputs are vectors and whose outputs are their shapes."""
    nodes = [helper.make_node("Shape", [name], [f"{name}.shape"]) for name in names]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}.size"]) for name in names]
    outputs = [helper.make_tensor_value_info(f"{name}.shape", TensorProto.INT64, [1]) for name in names]
    graph = helper.make_graph(nodes, "tensors", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


# Scales and integers ---------------------------------------------------------------------


def symmetric_scale(low: float, high: float, bits: int) -> float:
    """Symmetric scale with which narrow-range signed integers hold an interval; 1 for all zeros."""
    return float(_scale(np.float32(low), np.float32(high), bits))


def channel_scales(weights: Floats, bits: int) -> Floats:
    """Symmetric scale per row, ``[n]``, of weights ``[n, k]``."""
    lows, highs = (end.astype(np.float32) for end in (weights.min(axis=1), weights.max(axis=1)))
    return np.array([_scale(low, high, bits) for low, high in zip(lows, highs, strict=True)], np.float64)


def on_grid(weights: Floats, scales: Floats, bits: int) -> Floats:
    """Weights ``[n, k]`` rounded to narrow-range integers times a scale per row."""
    top = (1 << (bits - 1)) - 1
    steps = scales.astype(np.float32)[:, None]
    integers = _tools("quant_utils").quantize_nparray(TensorProto.INT8, weights, steps, 0, low=-top, high=top)
    return np.asarray(dequantize(integers.astype(np.int64), scales[:, None]))


def _scale(low: np.float32, high: np.float32, bits: int) -> Any:
    top = np.array((1 << (bits - 1)) - 1, np.int16)
    return _tools("quant_utils").compute_scale_zp(low, high, -top, top, symmetric=True)[1]
