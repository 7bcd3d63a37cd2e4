import logging
from pathlib import Path

import numpy as np
import onnx
import pytest

from codesign.bundle import serialize
from codesign.bundle.files import read_bundle, write_bundle
from codesign.errors import InputError
from codesign.flow.build import files, integers, peak_macs, plan, quantized
from codesign.flow.deviation import BOUND
from codesign.flow.open import contents, model_faults
from codesign.flow.samples import random_samples
from codesign.frontend import zoo
from codesign.quant.lower.lowering import lower
from codesign.target.board import Board
from tests.quant.nets import Net

ZCU102 = Board.load("zcu102")


def test_a_bundle_holds_what_it_must(built: Path, mlp: Path) -> None:
    names = set(read_bundle(built).files)
    assert names >= {
        "README.txt", "constraints/clock.xdc", "design.json", "network.npz", "program.bin", "registers.json",
        "report.html", "report.json", "rtl/top.v", "weights.bin",
    }  # fmt: skip
    assert "model.onnx" not in names
    stored = read_bundle(mlp).data("model.onnx")
    assert stored == zoo.original("digits-mlp")
    assert "rtl/top.v" in names
    assert {name.replace("sim/", "rtl/") for name in names if name.startswith("sim/")} < names


@pytest.mark.rtl
def test_the_same_plan_gives_the_same_bytes(built: Path) -> None:
    again = files(plan("gemm:5x30x20", ZCU102, budget={"dsp": 60}))
    assert again == dict(read_bundle(built).files)


def test_a_bundle_is_read_as_it_was_planned(built: Path) -> None:
    made = plan("gemm:5x30x20", ZCU102, budget={"dsp": 60})
    held = contents(read_bundle(built))
    assert held.design == made.design
    assert held.program.encode() == made.program.encode()
    assert held.report == made.report()
    assert held.network.macs == made.macs == 3000
    assert held.verilog.keys() >= {"top.v"}


def test_peak_counts_all_multipliers() -> None:
    made = plan("digits-vit", ZCU102)
    attention = made.design.engines["attention"]
    assert peak_macs(made.design) == made.design.multipliers + 2 * attention["t_a"] * attention["n_a"]


def float_model(path: Path, external: bool = False) -> Path:
    rng = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(rng.normal(size=(12, 5)).astype(np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, s]) for n, s in (("x", 12), ("y", 5))]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location="w.bin", size_threshold=0)
    return path


def half_quantized(path: Path) -> Path:
    """The same with a quantizer at its input, and with a second product, whose input has none."""
    model = onnx.load(float_model(path))
    values = (("scale", 0.125), ("zero", 0.0), ("bits", 8.0), ("v", np.eye(5)))
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v, np.float32), n) for n, v in values)
    model.graph.node[0].output[0] = "h"
    model.graph.node.append(onnx.helper.make_node("MatMul", ["h", "v"], ["y"]))
    quantizer = onnx.helper.make_node(
        "Quant", ["x", "scale", "zero", "bits"], ["q"], domain="qonnx.custom_op.general",
        signed=1, narrow=0, rounding_mode="ROUND",
    )  # fmt: skip
    model.graph.node[0].input[0] = "q"
    model.graph.node.insert(0, quantizer)
    model.opset_import.append(onnx.helper.make_opsetid("qonnx.custom_op.general", 1))
    onnx.save(model, path)
    return path


CALIBRATION = {"x": np.random.default_rng(1).normal(size=(8, 12))}


@pytest.mark.rtl
def test_a_float_model_is_quantized_with_samples(tmp_path: Path) -> None:
    path = float_model(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="calibration data"):
        plan(path, ZCU102)
    made = plan(path, ZCU102, calibration=CALIBRATION)
    assert not made.calibrated
    assert made.calibration is not None
    assert serialize.write_network(lower(made.calibration.workload)) == serialize.write_network(made.network)
    assert made.report().calibration == made.calibration.to_json()
    write_bundle(tmp_path / "b", files(made))
    bundle = read_bundle(tmp_path / "b")
    assert bundle.data("quantized.onnx") == made.calibration.data
    assert "quantized.onnx" in bundle.data("README.txt").decode()
    assert "The float model was quantized with 8 samples" in bundle.data("report.html").decode()
    held = contents(bundle)
    assert not held.calibrated
    assert model_faults(bundle, held, random_samples(held.network, 1, 0)) == []


def test_build_and_quantize_give_the_same_integers(tmp_path: Path) -> None:
    path = float_model(tmp_path / "m.onnx")
    made = plan(path, ZCU102, calibration=CALIBRATION)
    network, found = quantized(path, CALIBRATION)
    assert made.calibration is not None
    assert found.data == made.calibration.data
    assert serialize.write_network(network) == serialize.write_network(made.network)
    assert serialize.write_network(integers(path, CALIBRATION)) == serialize.write_network(made.network)


@pytest.mark.rtl
def test_lowering_calibrates_what_a_file_leaves_unquantized(tmp_path: Path) -> None:
    path = half_quantized(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="calibration data"):
        plan(path, ZCU102)
    made = plan(path, ZCU102, calibration=CALIBRATION)
    assert made.calibrated
    assert made.calibration is None
    write_bundle(tmp_path / "b", files(made))
    bundle = read_bundle(tmp_path / "b")
    assert "quantized.onnx" not in bundle.files
    held = contents(bundle)
    assert held.calibrated
    assert model_faults(bundle, held, random_samples(held.network, 1, 0)) == []
    network, found = quantized(path, CALIBRATION)  # which puts quantizers where there are none
    assert len(network.layers) == 2
    assert found.choice.held == 2


def test_a_build_says_how_far_its_outputs_are_from_the_model() -> None:
    found = plan("digits-mlp", ZCU102)
    assert found.deviation is not None
    assert found.deviation.error == 0  # every scale is a power of two
    assert found.report().lines()[-2] == (
        "error      0 of the outputs' squares against the model, 3 held-out samples, modelled"
    )
    assert plan("gemm:2x3x4", ZCU102).report().deviation is None


def coarse(path: Path) -> Path:
    """Two products whose first result has a quantizer that saturates almost everywhere."""
    net = Net()
    inner = net.quant(net.linear(net.quant("x", 1 / 4)), 1 / 4)
    wide = net.quant(net.op("MatMul", inner, net.quant(net.const(np.eye(8)), 1 / 127, narrow=1)), 2**-11, bits=16)
    onnx.save(net.proto(net.linear(net.quant(net.norm(wide), 1 / 16))), path)
    return path


def test_a_file_that_the_integers_do_not_follow_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "codesign"):
        found = plan(coarse(tmp_path / "m.onnx"), ZCU102)
    assert found.deviation is not None
    assert found.deviation.samples == "3 random samples"
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == len(found.deviation.warnings) == (found.deviation.error > BOUND)


def test_unusable_data_are_named_in_the_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = half_quantized(tmp_path / "m.onnx")
    with caplog.at_level(logging.WARNING, "codesign"):
        found = plan(path, ZCU102, calibration={"x": np.zeros((8, 12))})
    text = "calibration data of input x: every value of 8 samples is 0; legal: 32 to 256 typical samples"
    assert f"warning    {text}" in found.report().lines()
    assert text in found.report().html()
    assert f"{path}: {text}" in [record.getMessage() for record in caplog.records]


def test_a_product_is_integers_already() -> None:
    with pytest.raises(InputError, match="is integers already; legal: a float model"):
        quantized("gemm:2x3x4", {"a": np.zeros((4, 2, 3))})


def test_an_unknown_backend_is_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="--backend 'vhdl'; legal: rtl, hls4ml"):
        plan("no such model", ZCU102, backend="vhdl")


def test_a_product_has_no_file_for_another_backend() -> None:
    with pytest.raises(InputError, match="--backend hls4ml: gemm:2x3x4 is no file"):
        plan("gemm:2x3x4", ZCU102, backend="hls4ml")


def test_a_model_with_external_data_stays_outside(tmp_path: Path) -> None:
    path = float_model(tmp_path / "m.onnx", external=True)
    made = plan(path, ZCU102, calibration=CALIBRATION)
    assert made.original is None
    assert made.macs == 60
