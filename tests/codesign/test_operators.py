from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from codesign.errors import InputError
from codesign.operators import MAX_ELEMENTS, Call, check_size, conv_windows, evaluate, matmul_shape, quant_range
from codesign.workload import Workload, load_onnx

_NODE_TESTS = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"


def _array(path: Path) -> tuple[str, NDArray[np.generic]]:
    tensor = onnx.TensorProto.FromString(path.read_bytes())
    return tensor.name, np.asarray(numpy_helper.to_array(tensor))


def _arrays(folder: Path, kind: str) -> dict[str, NDArray[np.generic]]:
    return dict(_array(path) for path in folder.glob(f"{kind}_*.pb"))


def _readable(folder: Path) -> Workload | None:
    try:
        return load_onnx(folder / "model.onnx")
    except InputError:
        return None


def _half(arrays: dict[str, NDArray[np.generic]]) -> bool:
    return any(a.dtype.itemsize == 2 and a.dtype.kind != "i" for a in arrays.values())


def test_the_conformance_suite_of_onnx_passes_wherever_the_model_is_accepted() -> None:
    passed, operators = 0, set[str]()
    for folder in sorted(_NODE_TESTS.iterdir()):
        workload, data = _readable(folder), folder / "test_data_set_0"
        if workload is None or not data.exists():
            continue
        inputs, outputs = _arrays(data, "input"), _arrays(data, "output")
        if _half(inputs) or any(not np.isfinite(x.astype(np.float64)).all() for x in inputs.values()):
            continue
        got = workload.evaluate({n: x for n, x in inputs.items() if n in workload.inputs})
        for name, expected in outputs.items():
            assert got[name].shape == expected.shape, folder.name
            want = expected.astype(np.float64)
            np.testing.assert_allclose(got[name].astype(np.float64), want, 1e-4, 1e-5, err_msg=folder.name)
        passed += 1
        operators.update(node.op for node in workload.nodes)
    assert passed > 250
    assert {"Gelu", "LayerNormalization", "Softmax", "Conv", "Gemm", "MatMul", "Transpose", "Erf"} <= operators


def test_quant_rounds_half_to_even_and_saturates() -> None:
    x = np.array([0.25, 0.75, -0.25, 100.0, -100.0])
    parameters = [np.array(0.5), np.array(0.0), np.array(8.0)]
    (wide,) = evaluate("Quant", Call({"signed": 1, "narrow": 0}, [x, *parameters]))
    assert wide.tolist() == [0.0, 1.0, 0.0, 63.5, -64.0]
    (narrow,) = evaluate("Quant", Call({"signed": 1, "narrow": 1}, [x, *parameters]))
    assert narrow.tolist()[-1] == -63.5
    (positive,) = evaluate("Quant", Call({"signed": 0, "narrow": 0}, [x, *parameters]))
    assert positive.tolist() == [0.0, 1.0, 0.0, 100.0, 0.0]


@pytest.mark.parametrize(
    ("signed", "narrow", "bits", "expected"),
    [(1, 0, 8, (-128, 127)), (1, 1, 8, (-127, 127)), (0, 0, 8, (0, 255)), (0, 1, 8, (0, 254)), (1, 0, 4, (-8, 7))],
)
def test_ranges_of_quant(signed: int, narrow: int, bits: int, expected: tuple[int, int]) -> None:
    call = Call({"signed": signed, "narrow": narrow}, [None, np.ones(1), np.zeros(1), np.array(float(bits))])
    assert quant_range(call) == expected


@pytest.mark.parametrize(
    ("attributes", "bits"),
    [({"rounding_mode": "FLOOR"}, 8.0), ({}, 2.5), ({}, 0.0), ({}, 33.0), ({"signed": "x"}, 8.0)],
)
def test_quant_without_an_exact_meaning_is_refused(attributes: dict[str, int | str], bits: float) -> None:
    with pytest.raises((ValueError, TypeError), match="legal"):
        quant_range(Call(attributes, [None, np.ones(1), np.zeros(1), np.array(bits)]))


def test_convolution_windows_name_each_factor_and_padding() -> None:
    windows = conv_windows(Call({"strides": (2, 2), "pads": (1, 1, 0, 0)}, []), (1, 1, 3, 3), (1, 1, 2, 2))
    assert windows.tolist() == [[-1, -1, -1, 0], [-1, -1, 1, 2], [-1, 3, -1, 6], [4, 5, 7, 8]]


def test_sizes_are_checked_before_anything_is_allocated() -> None:
    with pytest.raises(ValueError, match="legal: at most"):
        check_size((MAX_ELEMENTS, 2))
    with pytest.raises(ValueError, match="legal: at most"):
        evaluate("Expand", Call({}, [np.ones(1), np.array([1 << 40])]))
    with pytest.raises(ValueError, match="legal: at most"):
        evaluate("ConstantOfShape", Call({}, [np.array([1 << 30, 1 << 30])]))
    with pytest.raises(ValueError, match="do not multiply"):
        matmul_shape((2, 3), (4, 5))
