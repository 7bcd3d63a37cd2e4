"""Small graphs with a mixture of experts, in the spellings that exporters use; no torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from codesign.frontend.workload import Workload, from_proto

GATES = ("scatter", "mask", "one hot", "logits", "quantized")
SUMS = ("slices", "stack", "product", "einsum")
TOKENS, WIDTH, HIDDEN, EXPERTS, CHOSEN = 5, 8, 6, 4, 2


@dataclass
class Mixture:
    """Builds ``y = head(norm(r + sum of gate * expert(norm(r))))`` from ``x`` [1, 5, 8], all of it quantized.

    Attributes:
        gate: one of `GATES`, all, or renormalised, of chosen, threshold, fewer: what is no mixture of ours.
        sum: one of `SUMS`, shared (an expert serves twice), or squared, doubled, unequal, deep, narrow: likewise.
        quantized: whether the file has quantizers.
    """

    gate: str = "scatter"
    sum: str = "slices"
    quantized: bool = True
    seed: int = 3
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        made = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name, domain=domain, **attributes))
        return name

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def quant(self, x: str, scale: float, bits: int = 8, signed: int = 1, narrow: int = 0) -> str:
        if not self.quantized:
            return x
        parameters = [self.const(v) for v in (scale, 0.0, bits)]
        return self.op("Quant", x, *parameters, domain="qonnx.custom_op.general", signed=signed, narrow=narrow)

    def linear(self, x: str, k: int, n: int, gain: float = 0.3) -> str:
        weight = self.quant(self.const(self.rng.normal(size=(k, n)) * gain), 2.0**-7, narrow=1)
        return self.op("Add", self.op("MatMul", x, weight), self.const(self.rng.integers(-64, 64, n) / 2**12))

    def stream(self, x: str) -> str:
        return self.quant(x, 2.0**-11, bits=16)

    def norm(self, x: str) -> str:
        made = self.op("LayerNormalization", x, self.const(np.ones(WIDTH)), self.const(np.zeros(WIDTH)))
        return self.quant(made, 2.0**-5)

    def expert(self, x: str, number: int) -> str:
        wide = HIDDEN + (self.sum == "unequal" and number == 2)
        hidden = self.quant(self.op("Gelu", self.quant(self.linear(x, WIDTH, wide), 2.0**-5)), 2.0**-5)
        if self.sum == "deep" and number == 1:
            hidden = self.quant(self.op("Gelu", self.quant(self.linear(hidden, wide, wide), 2.0**-5)), 2.0**-5)
        return self.stream(self.linear(hidden, wide, WIDTH))

    # Gates

    def top(self, x: str) -> tuple[str, str]:
        count = {"fewer": 3, "all": EXPERTS}.get(self.gate, CHOSEN)
        name = self.op("TopK", x, self.const([count], np.int64), outputs=2)
        return name, f"{name}.1"

    def zeros(self) -> str:
        return self.const(np.zeros((1, TOKENS, EXPERTS)))

    def one_hot(self, index: str) -> str:
        return self.op("OneHot", index, self.const(EXPERTS, np.int64), self.const([0.0, 1.0]))

    def gates(self, logits: str) -> str:
        if self.gate == "of chosen":
            values, index = self.top(logits)
            return self.op("ScatterElements", self.zeros(), index, self.op("Softmax", values), axis=-1)
        share = self.op("Softmax", logits)
        if self.gate == "logits":
            _, index = self.top(logits)
            chosen = self.op("ReduceSum", self.one_hot(index), self.const([-2], np.int64), keepdims=0)
            return self.op("Mul", share, chosen)
        values, index = self.top(share)
        makers: dict[str, Callable[[str, str, str], str]] = {
            "scatter": self.gate_scatter, "all": self.gate_scatter, "fewer": self.gate_fewer, "mask": self.gate_mask,
            "quantized": self.gate_quantized, "one hot": self.gate_one_hot, "threshold": self.gate_threshold,
            "renormalised": self.gate_renormalised,
        }  # fmt: skip
        return makers[self.gate](share, values, index)

    def gate_scatter(self, share: str, values: str, index: str) -> str:
        return self.op("ScatterElements", self.zeros(), index, values, axis=-1)

    def gate_fewer(self, share: str, values: str, index: str) -> str:
        last = self.const(np.array([1.0, 1.0, 0.0]).reshape(1, 1, 3))
        return self.op("ScatterElements", self.zeros(), index, self.op("Mul", values, last), axis=-1)

    def gate_quantized(self, share: str, values: str, index: str) -> str:
        return self.quant(self.gate_scatter(share, values, index), 2.0**-8, signed=0)

    def gate_mask(self, share: str, values: str, index: str) -> str:
        ones = self.const(np.ones((1, TOKENS, CHOSEN)))
        return self.op("Mul", self.op("ScatterElements", self.zeros(), index, ones, axis=-1), share)

    def gate_one_hot(self, share: str, values: str, index: str) -> str:
        each = self.op("Mul", self.op("Unsqueeze", values, self.const([-1], np.int64)), self.one_hot(index))
        return self.op("ReduceSum", each, self.const([2], np.int64), keepdims=0)

    def gate_renormalised(self, share: str, values: str, index: str) -> str:
        total = self.op("ReduceSum", values, self.const([-1], np.int64))
        return self.gate_scatter(share, self.op("Div", values, total), index)

    def gate_threshold(self, share: str, values: str, index: str) -> str:
        ends = [self.const([v], np.int64) for v in (CHOSEN - 1, CHOSEN, -1)]
        least = self.op("Slice", values, *ends)
        return self.op("Where", self.op("GreaterOrEqual", share, least), share, self.const(0.0))

    # Sums

    def total(self, gates: str, outputs: list[str]) -> str:
        if self.sum in ("stack", "product", "einsum"):
            axis = self.const([2], np.int64)
            stack = self.op("Concat", *(self.op("Unsqueeze", y, axis) for y in outputs), axis=2)
            makers = {"stack": self.sum_stack, "product": self.sum_product, "einsum": self.sum_einsum}
            return makers[self.sum](gates, stack)
        outputs = [outputs[0], *outputs[:-1]] if self.sum == "shared" else outputs
        found = ""
        for number, y in enumerate(outputs):
            gate = self.op("Slice", gates, *(self.const([v], np.int64) for v in (number, number + 1, -1)))
            part = self.op("Mul", self.op("Mul", gate, gate) if self.sum == "squared" else gate, y)
            for _ in range(60 if self.sum == "doubled" and not found else 0):
                part = self.op("Add", part, part)
            found = self.op("Add", found, part) if found else part
        return found

    def sum_stack(self, gates: str, stack: str) -> str:
        weighted = self.op("Mul", self.op("Unsqueeze", gates, self.const([3], np.int64)), stack)
        return self.op("ReduceSum", weighted, self.const([2], np.int64), keepdims=0)

    def sum_product(self, gates: str, stack: str) -> str:
        made = self.op("MatMul", self.op("Unsqueeze", gates, self.const([2], np.int64)), stack)
        return self.op("Squeeze", made, self.const([2], np.int64))

    def sum_einsum(self, gates: str, stack: str) -> str:
        return self.op("Einsum", gates, stack, equation="bte,bted->btd")

    def workload(self) -> Workload:
        """The graph, read."""
        return from_proto(self.model(), "moe")

    def model(self) -> onnx.ModelProto:
        """The graph."""
        r = self.stream(self.linear(self.quant("x", 2.0**-6), WIDTH, WIDTH))
        x = self.norm(r)
        logits = self.quant(self.linear(x, WIDTH, EXPERTS, 0.7), 2.0**-5)
        outputs = [self.expert(self.norm(r) if self.sum == "narrow" else x, i) for i in range(EXPERTS)]
        r = self.stream(self.op("Add", r, self.stream(self.total(self.gates(logits), outputs))))
        y = self.quant(self.linear(self.norm(r), WIDTH, 3), 2.0**-4)
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, TOKENS, WIDTH))],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("qonnx.custom_op.general", 1)]
        return helper.make_model(graph, opset_imports=opsets)
