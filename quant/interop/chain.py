"""Export of chains of matrix products as QONNX files for hls4ml and FINN.

Both accept fewer forms than this package. `to_qonnx` writes a model from any source format as Quant, MatMul,
Add and Relu over one row, with every constant on a grid and used once, and all shapes explicit.
"""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import InputError
from codesign.frontend.onnx_reader import Node
from codesign.frontend.operators.call import Call, Ints
from codesign.frontend.workload import Workload
from codesign.numerics.fixed_point import limits, signed_bits
from codesign.quant.match.graph import Quantizer
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Floats

_DOMAIN = "qonnx.custom_op.general"
_RESHAPES = ("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_LEGAL = "legal: a chain of MatMul or Gemm, Add of constants, Relu and quantizers"


def to_qonnx(workload: Workload) -> onnx.ModelProto:
    """Converts a model to QONNX in the form that hls4ml and FINN accept.

    Args:
        workload: from a QONNX, QDQ or QCDQ file, with power-of-two scales.

    Raises:
        InputError: the model is no such chain; the message names the node and the legal form.
    """
    chain = Chain(workload)
    return _QonnxWriter(chain.size, chain.steps, next(iter(workload.inputs)), next(iter(workload.outputs))).model()


@dataclass(frozen=True, eq=False)
class _Grid:
    """A constant on a grid: ``integers * scale``, with a power-of-two scale."""

    integers: Ints
    scale: float


@dataclass(frozen=True, eq=False)
class _ChainStep:
    """One operation: product or bias with a constant, quantizer, or neither for ReLU."""

    op: str
    constant: _Grid | None = None
    quantizer: Quantizer | None = None


class Chain:
    """A model as a chain of steps from its input to its output.

    Attributes:
        steps: in execution order; a quantizer first and last.
        size: elements of one input sample.

    Raises:
        InputError: the model is no chain; the message names the node and the legal form.
    """

    def __init__(self, workload: Workload) -> None:
        if len(workload.inputs) != 1 or len(workload.outputs) != 1:
            ends = f"{len(workload.inputs)} inputs and {len(workload.outputs)} outputs"
            raise InputError(f"{workload.name}: {ends}; legal: one of each")
        self.workload, self.patterns = workload, Patterns(workload)
        self.size = math.prod(next(iter(workload.inputs.values())))
        self._found: list[_ChainStep] = []
        name = next(iter(workload.outputs))
        while name not in workload.inputs:
            if name in self.patterns.values:
                raise InputError(f"{workload.name}: output {name} is constant; {_LEGAL}")
            name = self._step(name)
        self.steps = _without_signs(self._found[::-1])
        if not self.steps or self.steps[0].quantizer is None or self.steps[-1].quantizer is None:
            raise InputError(f"{workload.name}: no quantizer at the input or output; legal: both")

    @property
    def output(self) -> Quantizer:
        """The quantizer of the output."""
        last = self.steps[-1].quantizer
        assert last is not None
        return last

    def refuse(self, node: Node, reason: str) -> InputError:
        """Error about a node."""
        return InputError(f"{self.workload.name}: node {node}: {reason}")

    def _step(self, name: str) -> str:
        """Adds the step that makes a tensor; returns the tensor it reads."""
        node, kind = self.patterns.node(name), self.patterns.kind(name)
        if kind == "quant":
            quantizer = self.patterns.quantizer(name)
            _exponent(self, node, quantizer.scale)
            self._found.append(_ChainStep("Quant", quantizer=quantizer))
            return self.patterns.quantized(name)
        if kind == "product" and node.op in ("MatMul", "Gemm"):
            return self._product(node)
        if node.op == "Relu":
            self._found.append(_ChainStep("Relu"))
            return node.inputs[0]
        if node.op == "Add":
            return self._bias(node)
        if node.op in _RESHAPES:
            return node.inputs[0]
        raise self.refuse(node, f"it is no part of a chain; {_LEGAL}")

    def _product(self, node: Node) -> str:
        found = self.patterns.product(node.outputs[0])
        if found.by_column or len(found.demand) != 1:
            raise self.refuse(node, f"a product of {len(found.demand)} rows; legal: one row")
        call = Call(node.attributes, [])
        if node.op == "Gemm" and (call.real("alpha", 1.0), call.real("beta", 1.0)) != (1.0, 1.0):
            raise self.refuse(node, "alpha or beta is not 1; legal: 1")
        if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2]:
            self._found.append(
                _ChainStep("Add", self._constant(node, self.patterns.values[node.inputs[2]], len(found.weights)))
            )
        if found.grid is None:
            raise self.refuse(node, "weights without a quantizer; legal: quantized ones")
        for scale in np.unique(found.grid[1]):
            _exponent(self, node, float(scale))
        self._found.append(_ChainStep("MatMul", _on_grid(found.weights.T)))
        return found.source

    def _bias(self, node: Node) -> str:
        fixed = [name for name in node.inputs if name in self.patterns.values]
        moving = [name for name in node.inputs if name not in self.patterns.values]
        if len(fixed) != 1 or len(moving) != 1:
            raise self.refuse(node, f"a sum of two tensors; {_LEGAL}")
        width = math.prod(self.workload.shapes[moving[0]])
        if math.prod(self.workload.shapes[node.outputs[0]]) != width:
            raise self.refuse(node, f"a sum that is larger than its operand; {_LEGAL}")
        self._found.append(_ChainStep("Add", self._constant(node, self.patterns.values[fixed[0]], width)))
        return moving[0]

    def _constant(self, node: Node, value: NDArray[Any], width: int) -> _Grid:
        """A bias broadcast to a width."""
        if value.size not in (1, width):
            raise self.refuse(node, f"a bias of {value.size} values on {width}; {_LEGAL}")
        if not np.array_equal(value.astype(np.float32), value):
            raise self.refuse(node, "a bias of more than 24 bits; legal: values that float32 holds")
        return _on_grid(np.broadcast_to(value.reshape(-1), (width,)).reshape(1, width))


def _without_signs(steps: list[_ChainStep]) -> list[_ChainStep]:
    """The steps with unsigned quantizers directly after ReLU."""
    found = steps[:1]
    for before, step in itertools.pairwise(steps):
        if before.op == "Relu" and step.quantizer is not None and step.quantizer.low < 0:
            step = replace(step, quantizer=replace(step.quantizer, low=0))
        found.append(step)
    return found


def _exponent(chain: Chain, node: Node, scale: float) -> None:
    """Raises InputError unless a scale is a power of two."""
    if math.frexp(scale)[0] != 0.5:
        raise chain.refuse(node, f"scale {scale:g}; legal: powers of two, else other tools compute other integers")


def _on_grid(values: Floats) -> _Grid:
    """Converts values to integers on the coarsest power-of-two grid that represents all of them exactly."""
    exponents = [_lowest_bit(v) for v in np.unique(values).tolist() if v]
    scale = 2.0 ** min(exponents, default=0)
    return _Grid(np.rint(values / scale).astype(np.int64), scale)


def _lowest_bit(value: float) -> int:
    """Exponent of the lowest set bit of a float.

    >>> _lowest_bit(0.75), _lowest_bit(12.0)
    (-2, 2)
    """
    numerator, denominator = abs(value).as_integer_ratio()
    return (numerator & -numerator).bit_length() - denominator.bit_length()


class _QonnxWriter:
    """Writes steps as a QONNX model with explicit shapes."""

    def __init__(self, size: int, steps: list[_ChainStep], source: str, target: str) -> None:
        self.size, self.steps, self.source, self.target = size, steps, source, target
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {source: (1, size)}

    def model(self) -> onnx.ModelProto:
        """The ONNX model."""
        name = self.source
        for index, step in enumerate(self.steps):
            last = index == len(self.steps) - 1
            name = self.write(step, name, self.target if last else f"{step.op}_{index}_out", f"{step.op}_{index}")
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes.pop(n)) for n in (self.source, name)]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in self.shapes.items()]
        graph = helper.make_graph(self.nodes, "chain", ends[:1], ends[1:], self.constants, value_info=values)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(_DOMAIN, 2)])

    def write(self, step: _ChainStep, source: str, target: str, name: str) -> str:
        """Appends one step; returns its output's name."""
        shape = self.shapes[source]
        if step.quantizer is not None:
            self.quant(source, target, name, step.quantizer)
        elif step.constant is not None:
            found, grid = self.tensor(f"{name}_raw", step.constant.integers * step.constant.scale), step.constant
            low, high = int(grid.integers.min()), int(grid.integers.max())
            bottom, top = limits(signed_bits(low, high))
            fixed = f"{name}_constant"
            self.shapes[fixed] = grid.integers.shape
            self.quant(found, fixed, f"{name}_quant", Quantizer(grid.scale, bottom, top))
            self.nodes.append(helper.make_node(step.op, [source, fixed], [target], name=name))
            shape = (1, grid.integers.shape[1])
        else:
            self.nodes.append(helper.make_node(step.op, [source], [target], name=name))
        self.shapes[target] = shape
        return target

    def quant(self, source: str, target: str, name: str, quantizer: Quantizer) -> None:
        bits, signed, narrow = _form(quantizer)
        numbers = {"scale": quantizer.scale, "zero": 0.0, "bits": bits}
        given = [self.tensor(f"{name}_{label}", number) for label, number in numbers.items()]
        node = helper.make_node(
            "Quant", [source, *given], [target], name=name, domain=_DOMAIN, signed=signed, narrow=narrow,
            rounding_mode="ROUND",
        )  # fmt: skip
        self.nodes.append(node)

    def tensor(self, name: str, value: NDArray[np.floating[Any]] | float) -> str:
        array = np.asarray(value, np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        self.shapes[name] = array.shape
        return name


def _form(quantizer: Quantizer) -> tuple[int, int, int]:
    """Bits, signed and narrow attributes of a quantizer's range.

    Raises:
        InputError: no bit width has this range.
    """
    low, high = quantizer.low, quantizer.high
    bits = signed_bits(low, high)
    if (low, high) in (limits(bits), limits(bits, narrow=True)):
        return bits, 1, int((low, high) == limits(bits, narrow=True))
    if low == 0 and (high + 1) & high == 0:
        return bits - 1, 0, 0
    raise InputError(f"quantizer range {low} to {high}; legal: all values of a width, or all but the lowest")
