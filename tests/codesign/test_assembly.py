import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from codesign import models
from codesign.archive import json_bytes
from codesign.assembly import contents, files, model_faults, peak_macs, plan
from codesign.board import Board
from codesign.bundle import read_bundle, write_bundle
from codesign.errors import BundleError, InputError
from codesign.samples import random_samples, samples_of

ZCU102 = Board.load("zcu102")
Change = Callable[[dict[str, bytes]], None]


def test_a_bundle_holds_what_it_must(built: Path, mlp: Path) -> None:
    names = set(read_bundle(built).files)
    assert names >= {
        "README.txt", "constraints/clock.xdc", "design.json", "network.npz", "program.bin", "registers.json",
        "report.html", "report.json", "rtl/top.v", "weights.bin",
    }  # fmt: skip
    assert "model.onnx" not in names
    stored = read_bundle(mlp).data("model.onnx")
    assert stored == models.original("digits-mlp")
    assert "rtl/top.v" in names
    assert {name.replace("sim/", "rtl/") for name in names if name.startswith("sim/")} < names


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


def edit_json(name: str, change: Callable[[dict[str, object]], object]) -> Change:
    def edit(inside: dict[str, bytes]) -> None:
        document = json.loads(inside[name])
        change(document)
        inside[name] = json_bytes(document)

    return edit


def flip(name: str) -> Change:
    return lambda inside: inside.update({name: bytes([inside[name][0] ^ 1]) + inside[name][1:]})


@pytest.mark.parametrize(
    "change",
    [
        flip("program.bin"),
        flip("weights.bin"),
        flip("network.npz"),
        lambda inside: inside.pop("network.npz"),
        lambda inside: inside.pop("design.json"),
        lambda inside: inside.pop("report.json"),
        edit_json("design.json", lambda d: d.update(version=99)),
        edit_json("design.json", lambda d: d.update(design=[])),
        edit_json("design.json", lambda d: d["design"]["engines"].pop("linear")),  # type: ignore[index]
        edit_json("design.json", lambda d: d["design"]["memories"].clear()),  # type: ignore[index]
        edit_json("design.json", lambda d: d["design"]["engines"]["linear"].update(t_in=0)),  # type: ignore[index]
        edit_json("report.json", lambda d: d.update(cycles=[])),
        lambda inside: [inside.pop(name) for name in list(inside) if name.endswith(".v")],
    ],
)
def test_a_bundle_with_parts_of_another_is_refused(built: Path, tmp_path: Path, change: Change) -> None:
    inside = dict(read_bundle(built).files)
    change(inside)
    write_bundle(tmp_path / "b", inside)
    with pytest.raises(BundleError):
        contents(read_bundle(tmp_path / "b"))


def test_a_shipped_model_has_no_faults(mlp: Path) -> None:
    bundle = read_bundle(mlp)
    held = contents(bundle)
    arrays, _ = models.heldout("digits-mlp")
    assert model_faults(bundle, held, samples_of(held.network, arrays)[:3]) == []


def test_another_model_file_is_a_fault(mlp: Path, tmp_path: Path) -> None:
    inside = {**read_bundle(mlp).files, "model.onnx": models.original("digits-vit")}
    write_bundle(tmp_path / "b", inside)
    bundle = read_bundle(tmp_path / "b")
    held = contents(bundle)
    faults = model_faults(bundle, held, random_samples(held.network, 1, 0))
    assert [fault for fault in faults if "multiply-accumulates" in fault]
    assert [fault for fault in faults if fault == "network.npz is not what model.onnx lowers to"]


def test_a_product_has_no_model_file_to_compare_with(built: Path) -> None:
    bundle = read_bundle(built)
    assert model_faults(bundle, contents(bundle), []) == []


def float_model(path: Path, external: bool = False) -> Path:
    rng = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(rng.normal(size=(12, 5)).astype(np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, s]) for n, s in (("x", 12), ("y", 5))]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location="w.bin", size_threshold=0)
    return path


def test_a_float_model_needs_samples(tmp_path: Path) -> None:
    path = float_model(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="calibration data"):
        plan(path, ZCU102)
    made = plan(path, ZCU102, calibration={"x": np.random.default_rng(1).normal(size=(8, 12))})
    assert made.calibrated
    write_bundle(tmp_path / "b", files(made))
    bundle = read_bundle(tmp_path / "b")
    held = contents(bundle)
    assert held.calibrated
    assert model_faults(bundle, held, random_samples(held.network, 1, 0)) == []


def test_a_model_with_external_data_stays_outside(tmp_path: Path) -> None:
    path = float_model(tmp_path / "m.onnx", external=True)
    made = plan(path, ZCU102, calibration={"x": np.random.default_rng(1).normal(size=(8, 12))})
    assert made.original is None
    assert made.macs == 60
