"""Ranges, scales and integers from the quantization tools of onnxruntime.

Its calibrators find the ranges of tensors of a model that it runs, see
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html. The model that it gets here does
nothing: its inputs are tensors of the real one, and what `codesign.frontend.workload` computes of samples goes in. So
every operator and quantizer is observed as it is defined here, whichever of them onnxruntime has.
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

from codesign.errors import ToolError
from codesign.frontend.workload import Workload
from codesign.numerics.fixed_point import dequantize
from codesign.quant.calibrate.observe import Sample, watched
from codesign.quant.match.views import Floats

Clip: TypeAlias = Literal["max", "percentile"]
"""Which range of a tensor counts: all that the samples show, or what holds `PERCENTILE` of it."""

PERCENTILE = 99.999
"""In percent; half of the rest lies below the range and half above."""

PACKAGE = "onnxruntime"
INSTALL = "pip install 'codesign[calibrate]'"

_METHODS: Mapping[Clip, str] = {"max": "MinMax", "percentile": "Percentile"}
_BINS = 2048
"""Of the histogram that a percentile comes from."""

_OPSET = 18
"""Old enough for every release that is asked for."""


@dataclass(frozen=True)
class Range:
    """The values of a tensor that count.

    Attributes:
        low, high: the least and the greatest.
    """

    low: float
    high: float

    @property
    def top(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))


def check() -> None:
    """Raise unless the library is installed.

    Raises:
        ToolError: it is not.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise ToolError(f"quantizing a float model needs {PACKAGE}; install: {INSTALL}")


def version() -> str:
    """Which release of the library is installed.

    Raises:
        ToolError: none is.
    """
    check()
    return importlib.metadata.version(PACKAGE)


def _tools(name: str) -> Any:
    """One of the library's modules, which have no types."""
    check()
    return importlib.import_module(f"{PACKAGE}.quantization.{name}")


# Tensors ---------------------------------------------------------------------------------


def ranges(workload: Workload, each: Sequence[Sample], clips: Mapping[str, Clip]) -> dict[str, Range]:
    """Ranges of tensors over samples.

    Args:
        workload: the model.
        each: the samples.
        clips: which range is wanted of each tensor; constants are left out.

    Raises:
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
    """One of the library's calibrators.

    Args:
        folder: where it keeps its model.
        clip: which one.
        names: the tensors that it sees.
    """

    def __init__(self, folder: Path, clip: Clip, names: Sequence[str]) -> None:
        tools, self.names = _tools("calibrate"), {f"tensor{i}": name for i, name in enumerate(names)}
        path = folder / f"{clip}.onnx"
        path.write_bytes(_model(list(self.names)).SerializeToString())
        self.calibrator = tools.create_calibrator(
            path,
            augmented_model_path=str(folder / f"{clip}.augmented.onnx"),
            calibrate_method=tools.CalibrationMethod[_METHODS[clip]],
            extra_options={"symmetric": False, "num_bins": _BINS, "percentile": PERCENTILE},
        )

    def show(self, values: Mapping[str, Floats]) -> None:
        """Show it a sample's tensors."""
        inputs = {label: values[name].reshape(-1).astype(np.float32) for label, name in self.names.items()}
        self.calibrator.collect_data(_Once(iter([inputs])))

    def ranges(self) -> dict[str, Range]:
        """What it found."""
        data = self.calibrator.compute_data()
        ends = {name: [float(np.min(x)) for x in data[label].range_value] for label, name in self.names.items()}
        return {name: Range(low, high) for name, (low, high) in ends.items()}


@dataclass(frozen=True, eq=False)
class _Once:
    """What the library takes samples from: it asks for the next one until there is none."""

    inputs: Iterator[dict[str, NDArray[np.float32]]]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next sample."""
        return next(self.inputs, None)


def _model(names: Sequence[str]) -> onnx.ModelProto:
    """A model that does nothing with its inputs, which are vectors."""
    nodes = [helper.make_node("Shape", [name], [f"{name}.shape"]) for name in names]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}.size"]) for name in names]
    outputs = [helper.make_tensor_value_info(f"{name}.shape", TensorProto.INT64, [1]) for name in names]
    graph = helper.make_graph(nodes, "tensors", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)


# Scales and integers ---------------------------------------------------------------------


def symmetric_scale(low: float, high: float, bits: int) -> float:
    """The scale with which signed integers of a narrow range hold an interval; 1 for nothing but zeros."""
    return float(_scale(np.float32(low), np.float32(high), bits))


def channel_scales(weights: Floats, bits: int) -> Floats:
    """The scale of every row, ``[n]``, of weights ``[n, k]``."""
    lows, highs = (end.astype(np.float32) for end in (weights.min(axis=1), weights.max(axis=1)))
    return np.array([_scale(low, high, bits) for low, high in zip(lows, highs, strict=True)], np.float64)


def on_grid(weights: Floats, scales: Floats, bits: int) -> Floats:
    """What integers of a narrow range, with a scale per row, make of weights ``[n, k]``."""
    top = (1 << (bits - 1)) - 1
    steps = scales.astype(np.float32)[:, None]
    integers = _tools("quant_utils").quantize_nparray(TensorProto.INT8, weights, steps, 0, low=-top, high=top)
    return np.asarray(dequantize(integers.astype(np.int64), scales[:, None]))


def _scale(low: np.float32, high: np.float32, bits: int) -> Any:
    top = np.array((1 << (bits - 1)) - 1, np.int16)
    return _tools("quant_utils").compute_scale_zp(low, high, -top, top, symmetric=True)[1]
