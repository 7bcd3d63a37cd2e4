from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from codesign.frontend import zoo
from codesign.frontend.needs import needed, needed_macs
from codesign.frontend.workload import Workload, from_proto
from tests.codesign.frontend.models import one_input


def _node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def _affected(workload: Workload, seed: int) -> NDArray[np.bool_]:
    """Whether changing an element of ``x`` changes any output."""
    shape, rng = workload.inputs["x"], np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    before = workload.evaluate({"x": x})["y"]
    found = np.zeros(shape, np.bool_)
    for place in np.ndindex(shape):
        other = x.copy()
        other[place] += 1.5
        found[place] = not np.array_equal(workload.evaluate({"x": other})["y"], before)
    return found


RNG = np.random.default_rng(5)
W, V = RNG.standard_normal((4, 6)) / 4, RNG.standard_normal((6, 5))
MODELS = {
    "columns": [_node("MatMul", "x w", "h"), _node("Slice", "h one four last")],
    "a row": [_node("MatMul", "x w", "h"), _node("Gather", "h zero", "y", axis=1)],
    "a row after a norm": [
        _node("MatMul", "x w", "h"), _node("LayerNormalization", "h gain", "n"), _node("MatMul", "n v", "p"),
        _node("Gather", "p zero", "y", axis=1),
    ],
    "a row of attention": [
        _node("MatMul", "x w", "k"), _node("Transpose", "k", "t", perm=[0, 2, 1]), _node("MatMul", "k t", "s"),
        _node("Softmax", "s", "a"), _node("MatMul", "a k", "o"), _node("Gather", "o zero", "y", axis=1),
    ],
    "parts": [
        _node("Split", "x", "a b", axis=1, num_outputs=2), _node("Relu", "b", "c"),
        _node("Concat", "c w1", "y", axis=1),
    ],
    "repeated": [_node("Slice", "x one two last", "a"), _node("Expand", "a sizes", "y")],
    "a sum of rows": [_node("Slice", "x one two rows", "a"), _node("ReduceSum", "a last", "y", keepdims=1)],
}  # fmt: skip
CONSTANTS: Mapping[str, NDArray[Any]] = {
    "w": W, "v": V, "gain": np.ones(6), "w1": np.zeros((1, 1, 4)), "zero": np.array(0, np.int64),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64), "four": np.array([4], np.int64), "last": np.array([2], np.int64),
    "rows": np.array([1], np.int64), "sizes": np.array([1, 4, 3], np.int64),
}  # fmt: skip


def _workload(name: str) -> Workload:
    nodes = MODELS[name]
    used = {i for node in nodes for i in node.input}
    constants = {
        key: onnx.numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), key)
        for key, value in CONSTANTS.items()
        if key in used
    }
    return from_proto(one_input(*nodes, shape=(1, 4, 4), **constants), name)


@pytest.mark.parametrize("name", MODELS)
def test_what_outputs_depend_on_is_needed(name: str) -> None:
    workload = _workload(name)
    affected, said = _affected(workload, 3), needed(workload)["x"]
    assert np.array_equal(said, affected)


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("columns", 4 * 4 * 3), ("a row", 4 * 6), ("a row after a norm", 4 * 6 + 6 * 5),
        ("a row of attention", 4 * 4 * 6 + 4 * 6 + 6 * 4),
    ],
)  # fmt: skip
def test_products_that_are_needed_are_counted(name: str, macs: int) -> None:
    assert needed_macs(_workload(name)) == macs < _workload(name).macs


def test_all_of_a_plain_model_is_needed() -> None:
    found = zoo.load("digits-mlp")
    assert isinstance(found, Workload)
    assert needed_macs(found) == found.macs
