"""Writes a small quantized model in which the operator stands between two matrix products."""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def model(rows: int = 12, widths: tuple[int, int, int] = (16, 40, 10), threshold: float = 1.75, seed: int = 0) -> bytes:
    """An ONNX file: input, product, operator, product; every scale is a power of two."""
    rng = np.random.default_rng(seed)
    k, hidden, n = widths
    weights = {"w0": rng.normal(0, 0.08, (k, hidden)), "w1": rng.normal(0, 0.2, (hidden, n))}
    nodes, values, at = [], [], "x"

    def quantized(name: str, scale: float) -> str:
        values.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"))
        values.append(numpy_helper.from_array(np.array(0, np.int8), f"{name}_zero"))
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_q"]))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], [f"{name}_dq"])
        )
        return f"{name}_dq"

    at = quantized("x", 1 / 32)
    for name, value in weights.items():
        values.append(numpy_helper.from_array(value.astype(np.float32), name))
    nodes.append(helper.make_node("MatMul", [at, quantized("w0", 1 / 64)], ["h"], name="first"))
    at = quantized("h", 1 / 32)
    nodes.append(helper.make_node("KeepRows", [at], ["kept"], name="keep", domain="org.keep_rows", threshold=threshold))
    nodes.append(helper.make_node("MatMul", ["kept", quantized("w1", 1 / 64)], ["y"], name="second"))
    graph = helper.make_graph(
        nodes, "keep", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, rows, n])], values,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.keep_rows", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(model())
