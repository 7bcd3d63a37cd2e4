"""Small ONNX models, and the message of a file that is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import InputError
from codesign.frontend.workload import load_onnx

Change = Callable[[onnx.ModelProto], None]


def constant(name: str, value: object, dtype: type = np.float32) -> TensorProto:
    tensor = TensorProto()
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, dtype), name))
    return tensor


def one_input(
    *nodes: onnx.NodeProto, shape: tuple[int | str | None, ...] = (1, 4), **constants: object
) -> onnx.ModelProto:
    """``x`` of this shape to ``y``; constants by name."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [c if isinstance(c, TensorProto) else constant(n, c) for n, c in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def dense() -> onnx.ModelProto:
    matmul = helper.make_node("MatMul", ["x", "w"], ["h"], "product")
    relu = helper.make_node("Relu", ["h"], ["y"], "relu")
    return one_input(matmul, relu, w=np.arange(8.0).reshape(4, 2) - 3)


def changed(change: Change, folder: Path) -> Path:
    """The file of a changed `dense`."""
    model, path = dense(), folder / "m.onnx"
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def weights(model: onnx.ModelProto) -> TensorProto:
    tensor: TensorProto = model.graph.initializer[0]
    return tensor


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_onnx(path)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message
