import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from codesign.errors import InputError
from codesign.frontend.workload import Workload, from_proto, load_onnx, sample_shape
from tests.codesign.frontend.models import Change, changed, constant, dense, one_input, refusal, weights
from tests.quant.vits import Recipe, build

Model = onnx.ModelProto


# Reading what is right ----------------------------------------------------------------


def test_shapes_constants_and_macs() -> None:
    workload = from_proto(dense())
    assert workload.shapes["h"] == (1, 2)
    assert workload.outputs == {"y": (1, 2)}
    assert workload.macs == 8
    assert [n.op for n in workload.nodes] == ["MatMul", "Relu"]
    got = workload.evaluate({"x": np.array([1.0, 0, 0, 1])})
    assert got["y"].tolist() == [[0.0, 2.0]]


def test_a_symbolic_batch_becomes_one_and_shape_arithmetic_is_folded() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": constant("zero", [0], np.int64), "rest": constant("rest", [2, 2], np.int64)}
    workload = from_proto(one_input(*nodes, shape=("batch", 4), **constants))
    assert workload.inputs == {"x": (1, 4)}
    assert [n.op for n in workload.nodes] == ["Reshape"]
    assert workload.outputs == {"y": (1, 2, 2)}


def test_quantizers_of_weights_are_kept() -> None:
    workload = from_proto(build(Recipe()))
    assert sum(n.op == "Quant" for n in workload.nodes) > 20
    assert "image" in workload.inputs


def test_unused_nodes_are_dropped() -> None:
    model = dense()
    model.graph.node.append(helper.make_node("Relu", ["x"], ["unused"]))
    assert len(from_proto(model).nodes) == 2


def test_summary_names_every_node(tmp_path: Path) -> None:
    path = tmp_path / "dense.onnx"
    onnx.save(dense(), path)
    workload = load_onnx(path)
    lines = workload.summary().splitlines()
    assert lines[0] == "dense: x 1x4, y 1x2; 2 nodes, 8 constants, 8 MACs"
    assert lines[2].split() == ["MatMul", "product", "1x2", "8"]
    page = workload._repr_html_()
    assert page.count("<tr>") == 3
    assert "product" in page


def test_html_is_escaped() -> None:
    model = dense()
    model.graph.node[0].name = "<script>"
    assert "<script>" not in from_proto(model)._repr_html_()


def test_the_evaluator_equals_onnx_own_reference() -> None:
    for norm, embedding, activation in (("whole", "conv", "gelu"), ("decomposed", "reshape", "erf")):
        model = build(Recipe(form="float", norm=norm, embedding=embedding, activation=activation, mask="causal"))
        x = np.random.default_rng(1).random((1, 1, 6, 6)).astype(np.float32)
        expected = np.asarray(ReferenceEvaluator(model).run(None, {"image": x})).reshape(1, -1)
        got = next(iter(from_proto(model).evaluate({"image": x}).values()))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_infinity_is_legal_in_an_additive_mask() -> None:
    model = one_input(helper.make_node("Add", ["x", "m"], ["y"]), m=[[0, 0, -np.inf, 0]])
    assert from_proto(model).evaluate({"x": np.zeros(4)})["y"][0, 2] == -np.inf


def test_sample_shapes_leave_out_a_batch_axis_of_one() -> None:
    assert sample_shape((1, 3, 4)) == (3, 4)
    assert sample_shape((5, 4)) == (5, 4)


# Bad files -----------------------------------------------------------------------------


def _inf(model: Model) -> None:
    weights(model).CopyFrom(constant("w", np.full((4, 2), np.inf)))


def _double(model: Model) -> None:
    model.graph.initializer.append(constant("w", np.ones((4, 2))))


def _two_makers(model: Model) -> None:
    model.graph.node.append(helper.make_node("Relu", ["x"], ["h"], "again"))


def _cycle(model: Model) -> None:
    model.graph.node[0].input[0] = "y"


def _missing_input(model: Model) -> None:
    model.graph.node[0].input[0] = "ghost"


def _missing_output(model: Model) -> None:
    model.graph.output[0].name = "ghost"


def _no_outputs(model: Model) -> None:
    del model.graph.output[:]


def _no_opset(model: Model) -> None:
    del model.opset_import[:]


def _old_opset(model: Model) -> None:
    model.opset_import[0].version = 7


def _future_opset(model: Model) -> None:
    model.opset_import[0].version = 9999


def _dynamic_width(model: Model) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "width"


def _zero_width(model: Model) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0


def _huge_input(model: Model) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 50


def _shapeless_input(model: Model) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _integer_input(model: Model) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def _sequence_input(model: Model) -> None:
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [4])))


def _mismatched(model: Model) -> None:
    weights(model).CopyFrom(constant("w", np.ones((5, 2))))


def _foreign_domain(model: Model) -> None:
    model.graph.node[1].domain = "com.example"


def _unknown_operator(model: Model) -> None:
    model.graph.node[1].op_type = "LSTM"


def _control_flow(model: Model) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "body", [], [])
    model.graph.node[1].attribute.append(helper.make_attribute("then_branch", body))


def _wrong_attribute(model: Model) -> None:
    model.graph.node[1].op_type = "Softmax"
    model.graph.node[1].attribute.append(helper.make_attribute("axis", "last"))


def _axis_outside(model: Model) -> None:
    model.graph.node[1].op_type = "Softmax"
    model.graph.node[1].attribute.append(helper.make_attribute("axis", 7))


def _too_few_inputs(model: Model) -> None:
    del model.graph.node[0].input[1]


def _no_node_output(model: Model) -> None:
    del model.graph.node[0].output[:]


def _bomb(model: Model) -> None:
    model.graph.node[1].op_type = "Expand"
    model.graph.node[1].input.append("shape")
    model.graph.initializer.append(constant("shape", [1 << 30, 1 << 20, 1], np.int64))


def _computed_shape(model: Model) -> None:
    model.graph.node[1].op_type = "Reshape"
    model.graph.node[1].input.append("h")


def _control_characters(model: Model) -> None:
    model.graph.node[1].name = "relu\n\x1b[2J"


_BAD: dict[str, tuple[Change, str]] = {
    "infinite weights": (_inf, r"tensor w, used by product \(MatMul\), holds infinity"),
    "initializer twice": (_double, r"initializer w is there twice"),
    "tensor made twice": (_two_makers, r"tensor h is made twice"),
    "cycle": (_cycle, r"node product \(MatMul\) depends on itself through a cycle"),
    "missing input": (_missing_input, r"node product \(MatMul\) needs 'ghost'"),
    "missing output": (_missing_output, r"output 'ghost' is made by nothing"),
    "no outputs": (_no_outputs, r"no outputs or no operator set"),
    "no operator set": (_no_opset, r"no outputs or no operator set"),
    "old operator set": (_old_opset, r"operator set 7; legal: 13 to"),
    "future operator set": (_future_opset, r"operator set 9999; legal: 13 to"),
    "dynamic width": (_dynamic_width, r"input x has dynamic size 'width' on axis 1; legal: only the batch axis 0"),
    "zero width": (_zero_width, r"input x has size 0 on axis 1; legal: at least 1"),
    "huge input": (_huge_input, r"input x has shape .*legal: at most"),
    "input without shape": (_shapeless_input, r"input x has no shape"),
    "integer input": (_integer_input, r"input x has element type 7; legal: float"),
    "sequence input": (_sequence_input, r"input x has element type 0; legal: float"),
    "shapes that do not multiply": (_mismatched, r"node product \(MatMul\): shapes \(1, 4\) and \(5, 2\)"),
    "foreign domain": (_foreign_domain, r"1 unsupported operators: relu \(Relu\): operators of domain 'com.example'"),
    "unknown operator": (_unknown_operator, r"1 unsupported operators: relu \(LSTM\): no integer"),
    "control flow": (_control_flow, r"1 unsupported operators: relu \(Relu\): control flow"),
    "attribute of a wrong type": (
        _wrong_attribute,
        r"node relu \(Softmax\): attribute axis is 'last'; legal: an integer",
    ),
    "axis outside": (_axis_outside, r"node relu \(Softmax\): axis 7 is out of bounds"),
    "too few inputs": (_too_few_inputs, r"node product \(MatMul\): input 1 is missing"),
    "node without output": (_no_node_output, r"node product has no output"),
    "expansion bomb": (_bomb, r"node relu \(Expand\): shape .*legal: at most"),
    "computed shape": (_computed_shape, r"node relu \(Reshape\): an integer array is needed"),
    "name with control characters": (_control_characters, r"name 'relu\\n.*; legal: characters that print"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_models_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, expected = _BAD[case]
    assert re.search(expected, refusal(changed(change, tmp_path)))


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"not a model", b"PK\x03\x04" * 9, b"\xff" * 1000, b"{}\n"])
def test_files_that_are_no_models_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "legal" in refusal(path)


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path, tmp_path / "a\0b.onnx"):
        assert "model" in refusal(path)


def test_every_truncation_is_refused_or_still_a_whole_model(tmp_path: Path) -> None:
    whole = build(Recipe(width=8, heads=1, mlp=8)).SerializeToString()
    path = tmp_path / "m.onnx"
    for end in range(1, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        assert len(refusal(path)) < 4000


def test_random_damage_never_ends_in_another_error(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = np.frombuffer(build(Recipe(width=8, heads=1, mlp=8)).SerializeToString(), np.uint8)
    path, refused = tmp_path / "m.onnx", 0
    for _ in range(150):
        damaged = whole.copy()
        spots = rng.integers(0, len(damaged), size=int(rng.integers(1, 12)))
        damaged[spots] = rng.integers(0, 256, size=len(spots))
        path.write_bytes(damaged.tobytes())
        message = _message(path)
        refused += bool(message)
        assert "\n" not in message
    assert refused > 10


def _message(path: Path) -> str:
    try:
        load_onnx(path)
    except InputError as error:
        return str(error)
    return ""


def test_all_unsupported_operators_are_named_at_once() -> None:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "w"], ["a"], "first"),
        helper.make_node("GRU", ["a", "w", "w"], ["b"], "second"),
        helper.make_node("Thing", ["b"], ["y"], "third", domain="com.example"),
    ]
    with pytest.raises(InputError, match=r"3 unsupported operators: first \(LSTM\): .*; second .*; third \(Thing\)"):
        from_proto(one_input(*nodes, w=np.ones((4, 2))))


def test_constants_that_fold_to_nan_are_refused() -> None:
    model = one_input(
        helper.make_node("Sqrt", ["w"], ["r"], "root"),
        helper.make_node("MatMul", ["x", "r"], ["y"]),
        w=-np.ones((4, 2)),
    )
    with pytest.raises(InputError, match=r"node root \(Sqrt\) computes NaN"):
        from_proto(model)


def test_products_of_huge_constants_are_refused_quickly() -> None:
    size = constant("n", [1 << 11, 1 << 11], np.int64)
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["a"], "a"),
        helper.make_node("MatMul", ["a", "a"], ["b"], "square"),
        helper.make_node("MatMul", ["x", "b"], ["y"]),
    ]
    with pytest.raises(InputError, match=r"square .*multiplies constants"):
        from_proto(one_input(*nodes, shape=(1, 1 << 11), n=size))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, "inputs"),
        ({"z": np.zeros(4)}, "inputs"),
        ({"x": np.zeros(5)}, "legal: numbers of shape"),
        ({"x": np.array(["a", "b", "c", "d"])}, "legal: numbers"),
        ({"x": np.array([0, np.nan, 0, 0])}, "legal: finite"),
    ],
)
def test_bad_samples_are_refused(inputs: dict[str, NDArray[np.generic]], expected: str) -> None:
    workload: Workload = from_proto(dense())
    with pytest.raises(InputError, match=expected):
        workload.evaluate(inputs)


def test_an_older_operator_set_is_read_where_nothing_changed() -> None:
    integer = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    constants = {name: constant(name, [[1, 2], [3, 4]], np.uint8) for name in "ab"}
    nodes = [integer, helper.make_node("Cast", ["c"], ["d"], to=1), helper.make_node("Add", ["x", "d"], ["y"])]
    model = one_input(*nodes, shape=(1, 2), **constants)
    model.opset_import[0].version = 12
    with pytest.raises(InputError, match="operator set 12; legal: 13 to"):
        from_proto(model)
    del model.graph.node[1:]
    model.graph.output[0].name = "c"
    assert from_proto(model).evaluate({"x": np.zeros(2)})["c"].tolist() == [[7, 10], [15, 22]]


def test_large_integer_products_of_constants_are_refused_quickly() -> None:
    big = constant("a", np.zeros((1 << 12, 1 << 12)), np.uint8)
    node = helper.make_node("MatMulInteger", ["a", "a"], ["y"])
    with pytest.raises(InputError, match="multiplies constants"):
        from_proto(one_input(node, a=big))
