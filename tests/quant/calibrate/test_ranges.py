import importlib.util
from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import InputError, ToolError
from codesign.frontend.workload import Workload, from_proto
from codesign.quant.calibrate import ranges as library
from codesign.quant.calibrate.edit import QUANT_DOMAIN
from codesign.quant.calibrate.ptq import calibrate, choose
from codesign.quant.calibrate.ranges import Range, channel_scales, on_grid, ranges, symmetric_scale
from tests.quant.vits import Recipe, build, samples


def _steps(size: int) -> Workload:
    """x, then x rounded to quarters, then that plus a constant."""
    constants = {"scale": 0.25, "zero": 0.0, "bits": 8.0, "one": 1.0}
    nodes = [
        helper.make_node("Quant", ["x", "scale", "zero", "bits"], ["r"], "q", domain=QUANT_DOMAIN, signed=1, narrow=0),
        helper.make_node("Add", ["r", "one"], ["y"], "add"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, size)) for name in "xy"]
    tensors = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "steps", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(QUANT_DOMAIN, 1)]
    return from_proto(helper.make_model(graph, opset_imports=opsets))


def _each(rows: Sequence[NDArray[np.float64]]) -> list[dict[str, NDArray[np.float64]]]:
    return [{"x": row[None]} for row in rows]


# Ranges -----------------------------------------------------------------------------------


def test_the_largest_range_is_that_of_all_samples_as_the_quantizers_leave_them() -> None:
    each = _each([np.array([0.3, -1.2]), np.array([40.0, 0.1]), np.array([-3.1, 2.0])])
    found = ranges(_steps(2), each, {"x": "max", "r": "max", "y": "max", "one": "max"})
    assert found["r"] == Range(-3.0, 31.75)
    assert found["y"] == Range(-2.0, 32.75)
    assert found["x"].low == np.float32(-3.1)
    assert found["x"].top == 40
    assert "one" not in found


def test_ranges_of_a_network_are_those_of_its_evaluation() -> None:
    chosen = Recipe(form="quant")
    workload = from_proto(build(chosen))
    each = [{"image": image} for image in samples(chosen, 3)]
    names = [n.outputs[0] for n in workload.nodes if n.op in ("MatMul", "LayerNormalization", "Softmax", "Add")]
    found = ranges(workload, each, dict.fromkeys(names, "max"))
    seen = [dict(workload.tensors(sample)) for sample in each]
    assert len(names) > 8
    for name in names:
        assert found[name].low == np.float32(min(s[name].min() for s in seen))
        assert found[name].high == np.float32(max(s[name].max() for s in seen))


def test_a_percentile_leaves_out_the_few_values_that_are_farthest() -> None:
    rows = np.random.default_rng(0).uniform(-1.0, 2.0, (4, 60000))
    rows[2, 5], rows[3, 7] = 9.0, -5.0
    found = ranges(_steps(60000), _each(list(rows)), {"x": "percentile", "y": "max"})
    assert found["x"].low == pytest.approx(-1.0, abs=0.02)
    assert found["x"].high == pytest.approx(2.0, abs=0.02)
    assert found["y"] == Range(-4.0, 10.0)


def test_a_tensor_that_is_zero_at_first_has_a_range() -> None:
    found = ranges(_steps(2), _each([np.zeros(2), np.array([-1.0, 0.5])]), {"x": "percentile"})
    assert found["x"].low == pytest.approx(-1.0, abs=0.01)
    assert found["x"].high == pytest.approx(0.5, abs=0.01)
    nothing = ranges(_steps(2), _each([np.zeros(2)]), {"x": "percentile", "r": "max"})
    assert [r.top for r in nothing.values()] == [0, 0]


def test_the_library_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    ranges(_steps(2), _each([np.ones(2)]), {"x": "percentile", "y": "max"})
    assert capfd.readouterr() == ("", "")


# Scales and integers ----------------------------------------------------------------------


def test_a_scale_holds_the_larger_end_and_zero() -> None:
    assert symmetric_scale(-2.0, 254.0, 8) == 2
    assert symmetric_scale(-508.0, -3.0, 8) == 4
    assert symmetric_scale(1.0, 32767.0, 16) == 1
    assert symmetric_scale(0.0, 0.0, 8) == 1


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7)])
def test_weights_have_a_scale_per_channel_and_a_narrow_range(bits: int, top: int) -> None:
    weights = np.random.default_rng(1).normal(size=(5, 40)) * np.array([[1e-4], [0.3], [1.0], [0.0], [50.0]])
    scales = channel_scales(weights, bits)
    made = on_grid(weights, scales, bits)
    integers = made / scales[:, None]
    assert np.array_equal(integers, np.rint(integers))
    assert np.abs(integers).max(axis=1).tolist() == [top, top, top, 0, top]
    assert (np.abs(made - weights) <= scales[:, None] * 0.50001).all()


def test_integers_saturate_and_ties_go_to_even() -> None:
    weights = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 300.0, -300.0]])
    assert on_grid(weights, np.ones(1), 8).tolist() == [[0, 2, 2, 0, -2, 127, -127]]
    assert on_grid(weights, np.full(1, 0.5), 4).tolist() == [[0.5, 1.5, 2.5, -0.5, -1.5, 3.5, -3.5]]


# Without the library ----------------------------------------------------------------------


def test_a_missing_library_is_one_line_and_a_missing_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Recipe(form="float")
    data, images = build(chosen).SerializeToString(), {"image": samples(chosen, 1)}
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library.PACKAGE else found(name))
    for call in (calibrate, choose):
        with pytest.raises(ToolError, match=r"needs onnxruntime; install: pip install 'codesign\[calibrate\]'$") as e:
            call(data, images)
        assert e.value.exit_code == 3
        assert "\n" not in str(e.value)
    with pytest.raises(ToolError, match="needs onnxruntime"):
        library.version()


def test_the_release_is_that_of_the_package() -> None:
    assert library.version() == onnxruntime.__version__


def test_an_outlier_that_no_histogram_holds_is_refused_before_it_takes_the_memory() -> None:
    rows = [np.full(4, 0.5), np.full(4, 0.25), np.array([0.5, 1e12, 0.0, 0.0])]
    with pytest.raises(InputError, match=r"tensor x: magnitude 1e\+12 after 0\.5; legal with clip percentile"):
        ranges(_steps(4), _each(rows), {"x": "percentile"})
    assert ranges(_steps(4), _each(rows), {"x": "max"})["x"].high == pytest.approx(1e12)
    first = [np.zeros(4), np.full(4, 1e-3), np.full(4, 0.2)]
    assert ranges(_steps(4), _each(first), {"x": "percentile"})["x"].high == pytest.approx(0.2, rel=0.02)


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(InputError, match=r"tensor x: values above 3\.4e38; legal: those of float32"):
        ranges(_steps(4), _each([np.full(4, 1e39)]), {"x": "max"})
