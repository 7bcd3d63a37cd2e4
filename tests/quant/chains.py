"""Random chains of matrix products as QONNX, to read with `codesign.frontend.workload`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.frontend.workload import Workload, from_proto


class ChainBuilder:
    """Builds a QONNX chain over one row."""

    def __init__(self, width: int, scale: float = 2.0**-6) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.width, self.start, self.name = width, width, "x"
        self.quant(scale)

    def tensor(self, value: NDArray[Any] | float) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        target = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [target], name=target, domain=domain, **attributes))
        return target

    def quantized(self, name: str, scale: float, bits: float = 8.0, signed: int = 1, narrow: int = 0) -> str:
        given = [self.tensor(value) for value in (scale, 0.0, bits)]
        domain = "qonnx.custom_op.general"
        return self.add("Quant", name, *given, domain=domain, signed=signed, narrow=narrow, rounding_mode="ROUND")

    def quant(self, scale: float, bits: float = 8.0, signed: int = 1, narrow: int = 0) -> None:
        self.name = self.quantized(self.name, scale, bits, signed, narrow)

    def product(self, weights: NDArray[Any], scale: float, gemm: bool, bias: NDArray[Any] | None = None) -> None:
        fixed = self.quantized(self.tensor(weights.T if gemm else weights), scale, narrow=1)
        given = [] if bias is None or not gemm else [self.tensor(bias)]
        options: dict[str, Any] = {"transB": 1} if gemm else {}
        self.name = self.add("Gemm" if gemm else "MatMul", self.name, fixed, *given, **options)
        if bias is not None and not gemm:
            self.name = self.add("Add", self.name, self.tensor(bias))
        self.width = weights.shape[1]

    def relu(self) -> None:
        self.name = self.add("Relu", self.name)

    def workload(self) -> Workload:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width])
            for name, width in (("x", self.start), (self.name, self.width))
        ]
        graph = helper.make_graph(self.nodes, "chain", ends[:1], ends[1:], self.constants)
        imports = [helper.make_opsetid("", 20), helper.make_opsetid("qonnx.custom_op.general", 2)]
        return from_proto(helper.make_model(graph, opset_imports=imports), "chain")


def random_chain(rng: np.random.Generator, widths: Sequence[int], gemm: bool) -> ChainBuilder:
    """Biases on the products' grid, power-of-two scales, ReLU with signed or unsigned quantizers."""
    scale = 2.0**-6
    chain = ChainBuilder(widths[0], scale)
    for index, width in enumerate(widths[1:]):
        step = 2.0 ** -int(rng.integers(5, 8))
        weights = step * rng.integers(-127, 128, (chain.width, width))
        bias = scale * step * rng.integers(-(1 << 14), 1 << 14, width) if rng.random() < 0.8 else None
        chain.product(weights, step, gemm, bias)
        last = index == len(widths) - 2
        if not last:
            chain.relu()
        scale = 2.0 ** -int(rng.integers(2, 6))
        chain.quant(scale, narrow=int(last))
    return chain
