"""One form of a workload: the same function, the same integers, whoever exported it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codesign.frontend import zoo
from codesign.frontend.onnx_reader import Node
from codesign.frontend.workload import Workload, from_proto, load_onnx
from codesign.ir.network import Linear, Network, outputs, run
from codesign.quant.lower.lowering import lower
from codesign.quant.match.normalize import normalized
from tests.marks import few_fast
from tests.quant.vits import Recipe, build, recipe, samples


def structure(workload: Workload) -> tuple[tuple[str, ...], ...]:
    """A workload's computation without names: one row per node, in an order determined by its outputs.

    A row holds the operator, the shape of its result, its attributes, and the source of each input: an
    earlier row, a model input, or a constant of some shape (small integer constants by value).
    """
    rows: dict[str, int] = {}
    found: list[tuple[str, ...]] = []
    waiting = list(workload.outputs)[::-1]
    while waiting:
        node = workload.producers.get(waiting[-1])
        if node is None or waiting[-1] in rows:
            waiting.pop()
        elif missing := [n for n in node.inputs if n in workload.producers and n not in rows]:
            waiting += missing[::-1]
        else:
            rows.update(dict.fromkeys(node.outputs, len(found)))
            found.append(_row(workload, node, rows))
    return tuple(found)


def _row(workload: Workload, node: Node, rows: dict[str, int]) -> tuple[str, ...]:
    attributes = sorted(f"{k}={v}" for k, v in node.attributes.items())
    inputs = [_origin(workload, name, rows) for name in node.inputs]
    return node.op, str(workload.shapes[node.outputs[0]]), *attributes, *inputs


def _origin(workload: Workload, name: str, rows: dict[str, int]) -> str:
    if name in rows:
        return f"row {rows[name]}"
    value = workload.constants.get(name)
    if value is None:
        return f"input {name}"
    return str(value.tolist()) if value.dtype.kind in "iub" and value.size <= 8 else f"constant {value.shape}"


def _workload(*nodes: onnx.NodeProto, shape: tuple[int, ...], **constants: Any) -> Workload:
    """``x`` of this shape to ``y``; constants by name, whole numbers as int64."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [_tensor(name, np.asarray(value)) for name, value in constants.items()],
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def _tensor(name: str, value: Any) -> onnx.TensorProto:
    kind = np.int64 if value.dtype.kind == "i" else np.float32
    tensor: onnx.TensorProto = numpy_helper.from_array(value.astype(kind), name)
    return tensor


def _node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), f"{op}-{output.split()[0]}", **attributes)


def _same(workload: Workload, *ops: str) -> Workload:
    """The normal form, of these operators and of the same values."""
    made = normalized(workload)
    assert [node.op for node in made.nodes] == list(ops)
    x = np.random.default_rng(0).standard_normal(workload.inputs["x"])
    a, b = (w.evaluate({"x": x})["y"] for w in (workload, made))
    np.testing.assert_allclose(a, b, 1e-6, 1e-7)
    assert structure(normalized(made)) == structure(made)
    return made


# Layout -----------------------------------------------------------------------------------


def test_reshapes_in_a_row_are_one() -> None:
    nodes = [
        _node("Flatten", "x", "a"),
        _node("Reshape", "a s", "b"),
        _node("Unsqueeze", "b axis", "c"),
        _node("Squeeze", "c axis", "d"),
        _node("Relu", "d", "y"),
    ]
    made = _same(_workload(*nodes, shape=(1, 4, 6), s=[8, 3], axis=[0]), "Reshape", "Relu")
    assert made.shapes["y"] == (8, 3)


def test_what_changes_nothing_is_gone() -> None:
    nodes = [
        _node("Identity", "x", "a"),
        _node("Transpose", "a", "b", perm=[1, 0, 2]),
        _node("Transpose", "b", "c", perm=[1, 0, 2]),
        _node("Slice", "c zero most", "d"),
        _node("Dropout", "d", "e"),
        _node("Relu", "e", "y"),
    ]
    _same(_workload(*nodes, shape=(2, 3, 4), zero=[0], most=[1 << 40]), "Relu")


def test_a_slice_that_reverses_stays() -> None:
    nodes = [_node("Slice", "x from to axis step", "a"), _node("Relu", "a", "y")]
    constants: dict[str, Any] = {"from": [-1], "to": [-100], "axis": [1], "step": [-1]}
    _same(_workload(*nodes, shape=(1, 5), **constants), "Slice", "Relu")


@pytest.mark.parametrize("seed", range(40))
def test_random_reshapes_and_transposes_become_three_at_most(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice([1, 2, 3, 4, 6], 4))
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {}
    current, name = np.zeros(shape), "x"
    for i in range(5):
        if rng.random() < 0.5:
            perm = [int(a) for a in rng.permutation(current.ndim)]
            nodes.append(_node("Transpose", name, f"t{i}", perm=perm))
            current = current.transpose(perm)
        else:
            constants[f"s{i}"] = _factors(current.size, rng)
            nodes.append(_node("Reshape", f"{name} s{i}", f"t{i}"))
            current = current.reshape(constants[f"s{i}"])
        name = f"t{i}"
    workload = _workload(*nodes, _node("Relu", name, "y"), shape=shape, **constants)
    made = normalized(workload)
    x = rng.standard_normal(shape)
    assert np.array_equal(workload.evaluate({"x": x})["y"], made.evaluate({"x": x})["y"])
    assert made.outputs == workload.outputs


def _factors(size: int, rng: np.random.Generator) -> list[int]:
    """A random shape of this size."""
    found: list[int] = []
    while size > 1:
        n = int(rng.choice([d for d in range(2, size + 1) if size % d == 0]))
        found.append(n)
        size //= n
    return found + [1] * int(rng.integers(1, 3))


def test_a_transpose_between_reshapes_is_one() -> None:
    nodes = [
        _node("Reshape", "x s", "a"),
        _node("Transpose", "a", "b", perm=[0, 2, 1]),
        _node("Reshape", "b t", "c"),
        _node("Relu", "c", "y"),
    ]
    made = _same(_workload(*nodes, shape=(1, 2, 5, 3), s=[2, 5, 3], t=[1, 2, 3, 5]), "Transpose", "Relu")
    assert made.nodes[0].attributes["perm"] == (0, 1, 3, 2)


def test_split_and_gather_are_slices() -> None:
    split = [_node("Split", "x parts", "a b", axis=1), _node("Add", "a b", "y")]
    _same(_workload(*split, shape=(1, 6), parts=[3, 3]), "Slice", "Slice", "Add")
    gather = [_node("Gather", "x first", "a", axis=1), _node("Relu", "a", "y")]
    _same(_workload(*gather, shape=(1, 6, 4), first=np.array(-1)), "Slice", "Reshape", "Relu")


def test_an_output_keeps_its_name() -> None:
    made = _same(_workload(_node("Relu", "x", "a"), _node("Identity", "a", "y"), shape=(1, 3)), "Relu", "Identity")
    assert made.outputs == {"y": (1, 3)}


# Parts ------------------------------------------------------------------------------------


def _normed(op: str, **options: Any) -> Workload:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((5, 4, 3, 3) if op == "Conv" else (5, 4) if options.get("transB") else (4, 5))
    constants: dict[str, Any] = {
        "w": weight,
        "c": rng.standard_normal(5),
        "g": rng.standard_normal(5),
        "m": rng.standard_normal(5),
    }
    nodes = [_node(op, "x w c", "a", **options), _node("BatchNormalization", "a g c m v", "b"), _node("Relu", "b", "y")]
    return _workload(*nodes, shape=(1, 4, 6, 6) if op == "Conv" else (1, 4), v=rng.random(5) + 0.5, **constants)


def test_a_batch_norm_becomes_part_of_the_product() -> None:
    for options in ({"transB": 1}, {"alpha": 0.5, "beta": 2.0}):
        _same(_normed("Gemm", **options), "Gemm", "Relu")
    _same(_normed("Conv", strides=[2, 2]), "Conv", "Relu")


@pytest.mark.parametrize("order", ["half last", "half first", "by factor"])
def test_a_gelu_with_erf_is_a_gelu(order: str) -> None:
    inner = _node("Mul", "x inverse", "a") if order == "by factor" else _node("Div", "x root", "a")
    bell = [inner, _node("Erf", "a", "b"), _node("Add", "one b", "c")]
    last = [_node("Mul", "x c", "d"), _node("Mul", "half d", "y")]
    first = [_node("Mul", "x half", "d"), _node("Mul", "d c", "y")]
    constants = {"root": 2.0**0.5, "inverse": 0.5**0.5, "one": 1.0, "half": 0.5}
    _same(_workload(*bell, *(first if order == "half first" else last), shape=(1, 9), **constants), "Gelu")


def test_what_only_looks_like_a_gelu_stays() -> None:
    bell = [_node("Div", "x root", "a"), _node("Erf", "a", "b"), _node("Add", "b one", "c")]
    nodes = [*bell, _node("Mul", "x c", "d"), _node("Mul", "d half", "y")]
    _same(_workload(*nodes, shape=(1, 9), root=1.5, one=1.0, half=0.5), "Div", "Erf", "Add", "Mul", "Mul")


# Whole models -----------------------------------------------------------------------------


def _rows(network: Network) -> list[tuple[str, Any]]:
    return [(x.name, x.weights.tolist() if isinstance(x, Linear) else "") for x in network]


def _equal_networks(workload: Workload, calibration: Any, sample: Any) -> None:
    before, after = (lower(w, calibration=calibration) for w in (workload, normalized(workload)))
    assert _rows(before) == _rows(after)
    a, b = (outputs(network, run(network, sample)) for network in (before, after))
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["digits-mlp", "digits-vit"])
def test_shipped_models_keep_their_integers(name: str) -> None:
    workload = zoo.load(name)
    assert isinstance(workload, Workload)
    _equal_networks(workload, None, {"image": zoo.heldout(name)[0]["image"][0]})


@pytest.mark.parametrize("seed", few_fast(range(12), 2))
def test_random_models_keep_their_integers(seed: int) -> None:
    chosen = recipe(seed)
    if chosen.activation == "erf":  # its constants are float32 numbers near 1/sqrt(2), and ties go either way
        chosen = replace(chosen, activation="tanh")
    calibration = {"image": samples(chosen, 4)} if chosen.form == "float" else None
    _equal_networks(from_proto(build(chosen)), calibration, {"image": samples(chosen, 1)[0]})


def test_spellings_of_one_model_have_one_structure() -> None:
    plain = Recipe(form="float", activation="gelu")
    found = {structure(normalized(from_proto(build(replace(plain, activation=a))))) for a in ("gelu", "erf")}
    assert len(found) == 1


@pytest.mark.quant
@pytest.mark.parametrize("name", ["by hand", "scaled dot product", "causal", "module", "encoder layer", "mlp"])
def test_both_exporters_of_torch_give_the_same_workload(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
    exported = pytest.importorskip("tests.quant.lower.test_lowering_torch", exc_type=ImportError)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers = [torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU()]
    mlp = torch.nn.Sequential(*layers, torch.nn.Dropout(), torch.nn.Linear(32, 10))
    model = (mlp if name == "mlp" else exported._Vit(exported._BLOCKS[name])).eval()
    made = []
    for how in ("dynamo", "torchscript"):
        exported._export(model, tmp_path / f"{how}.onnx", how)
        made.append(normalized(load_onnx(tmp_path / f"{how}.onnx")))
    assert structure(made[0]) == structure(made[1])
    image = np.random.default_rng(0).random((1, 1, 8, 8))
    a, b = (w.evaluate({"image": image})["logits"] for w in made)
    np.testing.assert_allclose(a, b, 1e-5, 1e-6)
