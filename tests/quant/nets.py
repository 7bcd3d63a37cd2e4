"""Small graphs, damaged ones, and comparison of a lowered network with its float graph."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.frontend.operators.registry import operators
from codesign.frontend.workload import Workload, from_proto
from codesign.ir.network import Linear, Network, outputs, run
from codesign.numerics.fixed_point import quantize
from codesign.quant.lower.lowering import Lowered, lower_traced

Floats = NDArray[np.float64]


class Net:
    """A small graph from ``x`` [1, 6, 8] to one output."""

    def __init__(self, *shape: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.shape = shape or (1, 6, 8)
        self.rng = np.random.default_rng(3)

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, domain=domain, **attributes))
        return name

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def quant(self, x: str, scale: object = 1 / 64, zero: float = 0.0, bits: int = 8, **attributes: Any) -> str:
        parameters = [self.const(v) for v in (scale, zero, bits)]
        settings = {"signed": 1, "narrow": 0, **attributes}
        return self.op("Quant", x, *parameters, domain="qonnx.custom_op.general", **settings)

    def weights(self, *shape: int) -> Floats:
        return np.asarray(self.rng.normal(size=shape) * 0.3)

    def linear(self, x: str, k: int = 8, n: int = 8) -> str:
        weight = self.quant(self.const(self.weights(k, n)), 1 / 128, narrow=1)
        return self.op("MatMul", x, weight)

    def norm(self, x: str, width: int = 8) -> str:
        return self.op("LayerNormalization", x, self.const(np.ones(width)), self.const(np.zeros(width)))

    def stream(self) -> str:
        return self.quant(self.linear(self.quant("x")), 2**-11, bits=16)

    def workload(self, output: str) -> Workload:
        return from_proto(self.proto(output), "net")

    def proto(self, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("qonnx.custom_op.general", 1)]
        return helper.make_model(graph, opset_imports=opsets)

    def sample(self) -> dict[str, Floats]:
        return {"x": self.rng.uniform(-1, 1, size=self.shape)}


def exactly(net: Net, output: str) -> Network:
    """Lower, and check that the output equals the file's."""
    workload = net.workload(output)
    made = lower_traced(workload)
    for _ in range(3):
        sample = net.sample()
        got = outputs(made.network, run(made.network, sample))[output]
        assert np.array_equal(got, workload.evaluate(sample)[output].reshape(got.shape))
    return made.network


def damage(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Change an operator, an input, an attribute or a constant."""
    node = graph.node[int(rng.integers(len(graph.node)))]
    names = [name for n in graph.node for name in (*n.input, *n.output)]
    kind = int(rng.integers(4))
    if kind == 0:
        node.op_type = str(rng.choice(sorted(operators())))
    elif kind == 1 and node.input:
        node.input[int(rng.integers(len(node.input)))] = str(rng.choice([*names, ""]))
    elif kind == 2 and node.attribute:
        attribute = node.attribute[int(rng.integers(len(node.attribute)))]
        attribute.i = int(rng.integers(-3, 6))
        attribute.ints[:] = [int(rng.integers(-3, 6)) for _ in attribute.ints]
    elif kind == 3:
        constant = graph.initializer[int(rng.integers(len(graph.initializer)))]
        value = numpy_helper.to_array(constant).copy()
        value.flat[int(rng.integers(value.size))] = rng.choice([0, 1, 7, 100])
        constant.CopyFrom(numpy_helper.from_array(value, constant.name))


# Comparison with the float graph --------------------------------------------------------


def _expected(made: Lowered, values: Mapping[str, Floats]) -> dict[str, Floats]:
    """The float values that each integer tensor stands for."""
    return {
        name: np.where(source.index < 0, 0.0, values[source.tensor].reshape(-1)[source.index])
        for name, source in made.sources.items()
    }


def cosines(workload: Workload, made: Lowered, sample: Mapping[str, Floats]) -> dict[str, float]:
    """Cosine between the integers of every tensor and the values they stand for."""
    expected = _expected(made, dict(workload.tensors(sample)))
    integers = run(made.network, sample)
    return {name: _cosine(integers[name].astype(np.float64), x) for name, x in expected.items()}


def _cosine(a: Floats, b: Floats) -> float:
    length = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length else 1.0


def unequal(workload: Workload, made: Lowered, sample: Mapping[str, Floats]) -> list[str]:
    """Linear layers which, given the file's integers, do not make the file's integers."""
    network = made.network
    values = _expected(made, dict(workload.tensors(sample)))
    integers = {n: quantize(x, network.tensors[n].scale, 16) for n, x in values.items()}
    integers.update({n: table.astype(np.int64) for n, table in network.constants.items()})
    linear = [x for x in network if isinstance(x, Linear)]
    layers = [x for x in linear if _on_grid(values[x.target], network.tensors[x.target].scale)]
    assert layers
    return [x.name for x in layers if not np.array_equal(x.golden(integers), integers[x.target])]


def _on_grid(x: Floats, scale: float) -> bool:
    """Whether the file itself quantizes these values."""
    return bool(np.all(x / scale == np.rint(x / scale)))
