"""The node tests of the onnx package: each runs with the package's tolerances, or is skipped for a stated reason.

Float inputs are inputs of the model; index, shape, integer and boolean ones become constants, which is
what files have there. Three routes are counted apart:

* ``run``: the model is read, its constants are folded, and the workload is evaluated;
* ``constant``: the same with every input a constant, where a shape depends on float values or is empty;
* ``direct``: infinities or NaN come in, which no model input may hold; the model is read, and its
  operators are evaluated one by one.
"""

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from codesign.errors import InputError
from codesign.frontend.onnx_reader import graph_of
from codesign.frontend.operators.call import Call
from codesign.frontend.operators.elementwise import integer_range
from codesign.frontend.operators.registry import evaluate
from codesign.frontend.workload import from_proto
from codesign.numerics import fixed_point as number
from tests.marks import few_fast

Arrays = Mapping[str, NDArray[Any]]

FLOATS = (1, 10, 11, 16)
TABLE_OF = "1.22."
"""The release of onnx whose counts are below; with another one they are not compared."""

REASONS = {
    "not tensors": r"has element type 0; legal: float",
    "text": r"element type 8[;,]",
    "complex numbers": r"element type 1[45][;,]",
    "float8, float4": r"(element type|attribute to is|output type) (1[789]|20|23|24)[;,]",
    "scales per block": r"scales per block",
    "control flow": r"control flow has no fixed schedule",
    "operator": r"no integer or reference implementation",
    "domain": r"operators of domain|no operator set",
    "older operator set": r"operator set \d+; legal",
    "training": r"training mode",
    "batch or group": r"legal: \[1, C, \.\.\.\] and \[D, C, \.\.\.\], group 1",
    "automatic padding": r"automatic padding",
    "empty": r"zero-size array to reduction",
}
"""Why a test is skipped, by what reading its model answers."""


WHOLE = {
    "run": 965,
    "operator": 564,
    "float8, float4": 96,
    "control flow": 38,
    "direct": 28,
    "domain": 26,
    "older operator set": 15,
    "batch or group": 12,
    "training": 8,
    "scales per block": 3,
    "constant": 3,
    "text": 2,
    "not tensors": 2,
    "empty": 2,
    "automatic padding": 1,
}
"""All node tests by route or by reason."""

COUNTS: dict[str, dict[str, int]] = {
    "MatMul": {"run": 80, "direct": 2, "control flow": 4},
    "Gemm": {"run": 11},
    "Add": {"run": 162, "direct": 2, "control flow": 4},
    "Sub": {"run": 117, "batch or group": 12, "control flow": 4, "older operator set": 3},
    "Mul": {"run": 206, "direct": 2, "batch or group": 4, "control flow": 4, "older operator set": 1},
    "Div": {"run": 189, "direct": 2, "control flow": 18, "older operator set": 4},
    "Sqrt": {"run": 149, "direct": 2, "control flow": 13},
    "Pow": {"run": 16},
    "ReduceMean": {"run": 71},
    "Softmax": {"run": 80, "direct": 2},
    "LayerNormalization": {"run": 19},
    "Gelu": {"run": 4},
    "Erf": {"run": 3},
    "Tanh": {"run": 14, "direct": 2},
    "Relu": {"run": 1, "control flow": 4},
    "Sigmoid": {"run": 3, "batch or group": 4},
    "Reshape": {"run": 131, "direct": 2, "control flow": 18, "operator": 34},
    "Transpose": {"run": 87, "direct": 2, "control flow": 18, "operator": 34},
    "Concat": {"run": 140, "direct": 2, "batch or group": 12, "control flow": 18},
    "Slice": {"run": 79, "batch or group": 12, "control flow": 4},
    "Split": {"run": 24},
    "Gather": {"run": 41},
    "Squeeze": {"run": 31, "control flow": 13},
    "Unsqueeze": {"run": 106, "direct": 2, "control flow": 4},
    "Flatten": {"run": 47},
    "Constant": {
        "run": 231,
        "direct": 2,
        "batch or group": 12,
        "control flow": 24,
        "older operator set": 4,
        "operator": 34,
    },
    "Cast": {
        "run": 211,
        "direct": 18,
        "batch or group": 4,
        "control flow": 17,
        "float8, float4": 60,
        "older operator set": 3,
        "operator": 3,
    },
    "QuantizeLinear": {"run": 8, "float8, float4": 3, "older operator set": 3, "scales per block": 2},
    "DequantizeLinear": {"run": 8, "float8, float4": 5, "scales per block": 1},
    "QLinearMatMul": {"run": 8},
    "MatMulInteger": {"run": 1},
    "TopK": {"run": 7},
    "ScatterElements": {"run": 7},
    "GatherElements": {"run": 21},
    "OneHot": {"run": 4},
    "Einsum": {"run": 6},
}
"""Node tests that an operator occurs in, on its own or in the body of a function, by route or by reason."""

INTEGER = ("MatMulInteger", "QLinearMatMul", "QuantizeLinear")


@dataclass(frozen=True, eq=False)
class Case:
    """A node test: a model, and tensors for its inputs and outputs."""

    name: str
    model: onnx.ModelProto
    data: tuple[Path, ...]
    rtol: float
    atol: float

    @functools.cached_property
    def operators(self) -> set[str]:
        return {node.op_type for node in self.model.graph.node}


@functools.cache
def _cases() -> tuple[Case, ...]:
    found = []
    for test in sorted(load_model_tests(kind="node"), key=lambda test: test.name):
        folder = Path(str(test.model_dir))
        model, data = onnx.load(folder / "model.onnx"), tuple(sorted(folder.glob("test_data_set_*")))
        found.append(Case(test.name, model, data, test.rtol, test.atol))
    return tuple(found)


def _tensors(folder: Path, kind: str, values: Any) -> dict[str, onnx.TensorProto]:
    """The tensors of a data set by the names of the model's inputs or outputs; empty where it is no tensor."""
    return {
        value.name: onnx.TensorProto.FromString((folder / f"{kind}_{i}.pb").read_bytes())
        for i, value in enumerate(values)
        if value.type.HasField("tensor_type")
    }


def _value(tensor: onnx.TensorProto) -> NDArray[Any]:
    array = np.asarray(numpy_helper.to_array(tensor))
    if tensor.data_type in FLOATS:
        return array.astype(np.float64)
    return array if array.dtype.kind in "OUb" else array.astype(np.int64)


def _finite(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type not in FLOATS or bool(np.isfinite(_value(tensor)).all())


def _bound(model: onnx.ModelProto, tensors: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """The model with these inputs as constants; what is not finite is read as zeros."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for name, tensor in tensors.items():
        constant = made.graph.initializer.add()
        constant.CopyFrom(tensor)
        if not _finite(tensor):
            zeros = np.zeros(tuple(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
            constant.CopyFrom(numpy_helper.from_array(zeros))
        constant.name = name
    return made


def _workload(case: Case, tensors: Mapping[str, onnx.TensorProto], inputs: set[str]) -> Arrays:
    constant = {name: tensor for name, tensor in tensors.items() if name not in inputs}
    workload = from_proto(_bound(case.model, constant), case.name)
    return workload.evaluate({name: _value(tensors[name]) for name in inputs})


def _directly(case: Case, tensors: Mapping[str, onnx.TensorProto]) -> Arrays:
    graph = graph_of(_bound(case.model, tensors), case.name)
    values = {**graph.constants, **{name: _value(tensor) for name, tensor in tensors.items()}}
    for node in graph.nodes:
        try:
            call = Call(node.attributes, [values[n] if n else None for n in node.inputs], len(node.outputs))
            values.update(zip(node.outputs, evaluate(node.op, call), strict=False))
        except ValueError as error:
            raise InputError(str(error)) from error
    return {name: values[name] for name in graph.outputs}


def _routes(case: Case, tensors: Mapping[str, onnx.TensorProto]) -> dict[str, Callable[[], Arrays]]:
    if not all(map(_finite, tensors.values())):
        return {"direct": lambda: _directly(case, tensors)}
    free = {n for n, t in tensors.items() if t.data_type in FLOATS and min(t.dims, default=1) > 0}
    return {"run": lambda: _workload(case, tensors, free), "constant": lambda: _workload(case, tensors, set())}


def _compare(case: Case, got: Arrays, expected: Mapping[str, onnx.TensorProto]) -> None:
    for name, tensor in expected.items():
        wanted, value = _value(tensor), np.asarray(got[name])
        assert value.shape == wanted.shape, case.name
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(value.astype(np.float64), wanted, case.rtol, case.atol, err_msg=case.name)
        else:
            np.testing.assert_array_equal(value.astype(np.int64), wanted.astype(np.int64), err_msg=case.name)


def _data_set(case: Case, folder: Path) -> str:
    """The route that a data set took; it agrees. Else why the model is not taken."""
    tensors = _tensors(folder, "input", case.model.graph.input)
    refusal = ""
    for route, evaluated in _routes(case, tensors).items():
        try:
            got = evaluated()
        except InputError as error:
            refusal = refusal or str(error)
            continue
        _compare(case, got, _tensors(folder, "output", case.model.graph.output))
        return route
    reason = next((reason for reason, pattern in REASONS.items() if re.search(pattern, refusal)), None)
    assert reason is not None, f"{case.name} is skipped without a stated reason: {refusal}"
    return reason


@functools.cache
def _outcome(case: Case) -> str:
    (outcome,) = {_data_set(case, folder) for folder in case.data}
    return outcome


def _counted(cases: Iterable[Case]) -> dict[str, int]:
    return dict(Counter(map(_outcome, cases)))


@pytest.fixture
def counts_are_known() -> None:
    if not onnx.__version__.startswith(TABLE_OF):
        pytest.skip(f"counts are those of onnx {TABLE_OF}x, this is {onnx.__version__}")


@pytest.mark.rtl
def test_every_node_test_agrees_or_is_skipped_for_a_stated_reason() -> None:
    found = _counted(_cases())
    assert set(found) <= {"run", "constant", "direct", *REASONS}
    assert found["run"] > 900


@pytest.mark.rtl
@pytest.mark.usefixtures("counts_are_known")
def test_as_many_as_counted_run_and_are_skipped() -> None:
    assert _counted(_cases()) == WHOLE


@pytest.mark.usefixtures("counts_are_known")
@pytest.mark.parametrize("operator", few_fast(COUNTS, 4))
def test_as_many_as_counted_use_an_operator(operator: str) -> None:
    assert _counted(case for case in _cases() if operator in case.operators) == COUNTS[operator]


@pytest.mark.parametrize("operator", COUNTS)
def test_an_operator_alone_is_skipped_for_its_types_only(operator: str) -> None:
    alone = _counted(case for case in _cases() if case.operators == {operator})
    assert alone["run"] > 0
    assert set(alone) <= {"run", "direct", "float8, float4", "scales per block"}


def _golden(case: Case, x: Sequence[NDArray[Any]], low: int, high: int) -> NDArray[np.int64]:
    """What the integer arithmetic of the golden model makes of a node test's inputs."""
    (node,) = case.model.graph.node
    if node.op_type == "MatMulInteger":
        return number.matmul(x[0] - x[2], x[1] - x[3])
    if node.op_type == "QuantizeLinear":
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        scale, zero = (v.reshape(-1, *(1,) * (x[0].ndim - 1 - axis)) if v.ndim else v for v in x[1:])
        return number.saturate(number.quantize(x[0], scale, 32) + zero, low, high)
    total = number.matmul(x[0] - x[2], x[3] - x[5])
    multiplier, shift = number.requantizer(float((x[1] * x[4] / x[6]).item()))
    point = int(x[7].item())
    return np.asarray(number.requantize(total, multiplier, shift, low - point, high - point) + point)


@pytest.mark.parametrize("operator", INTEGER)
def test_golden_arithmetic_gives_the_same_integers(operator: str) -> None:
    chosen = [c for c in _cases() if c.operators == {operator} and _outcome(c) == "run"]
    for case in chosen:
        inputs = _tensors(case.data[0], "input", case.model.graph.input)
        (expected,) = _tensors(case.data[0], "output", case.model.graph.output).values()
        low, high = integer_range(expected.data_type) or (0, 0)
        got = _golden(case, [_value(t) for t in inputs.values()], low, high)
        assert np.array_equal(got, _value(expected)), case.name
    assert len(chosen) == {"MatMulInteger": 1, "QLinearMatMul": 8, "QuantizeLinear": 8}[operator]
