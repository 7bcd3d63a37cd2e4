import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, load_onnx
from codesign.ir.network import Linear, Network, run
from tests.marks import few_fast
from tests.quant.vits import Recipe, build


@pytest.mark.parametrize("name", few_fast([m.name for m in zoo.models() if m.heldout], 1))
def test_shipped_models_load_and_have_heldout_samples(name: str) -> None:
    workload = zoo.load(name)
    assert isinstance(workload, Workload)
    inputs, labels = zoo.heldout(name)
    assert set(inputs) == set(workload.inputs)
    for array in inputs.values():
        assert array.dtype == np.float32
        assert len(array) == len(labels) >= 360
    hits = [workload.evaluate({n: x[i] for n, x in inputs.items()})["logits"].argmax() == labels[i] for i in range(40)]
    assert sum(hits) >= 38


def test_a_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(build(Recipe()), path)
    loaded = zoo.load(path)
    assert isinstance(loaded, Workload)
    assert loaded.name == "small"


def test_export_writes_the_model_and_its_samples(tmp_path: Path) -> None:
    paths = zoo.export("digits-mlp", tmp_path / "new" / "folder")
    assert [p.name for p in paths] == ["digits-mlp.onnx", "inputs.npy", "labels.npy"]
    assert load_onnx(paths[0]).macs == 64 * 32 + 32 * 32 + 32 * 10
    assert len(np.load(paths[1])) == len(np.load(paths[2]))


def test_export_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        zoo.export("digits-mlp", tmp_path / "taken")


@pytest.mark.parametrize("name", ["gemm:3x17x5", "gemm:3x17x5:int8"])
def test_a_matrix_product_is_a_network(name: str) -> None:
    network = zoo.load(name)
    assert isinstance(network, Network)
    assert network.macs == 3 * 17 * 5
    (layer,) = network.layers
    assert isinstance(layer, Linear)
    assert layer.weights.shape == (5, 17)


def test_a_matrix_product_uses_the_range_of_its_weights_and_of_its_output() -> None:
    network = zoo.gemm(128, 96, 64)
    (layer,) = network.layers
    assert isinstance(layer, Linear)
    assert (int(layer.weights.min()), int(layer.weights.max())) == (-127, 127)
    a = np.random.default_rng(0).integers(-128, 128, size=(128, 96))
    c = run(network, {"a": a})["c"]
    assert 28 < c.std() < 36
    assert np.mean(np.abs(c) >= 127) < 0.001
    assert np.array_equal(c, run(zoo.gemm(128, 96, 64), {"a": a})["c"])


@pytest.mark.parametrize(
    "name",
    [
        "gemm:0x4x4", "gemm:4x-1x4", "gemm:4x4", "gemm:", "gemm:axbxc", "gemm:4x4x4:fp32", "gemm:4x4x4:",
        "gemm:65537x1x1", "gemm:65536x65536x1", "gemm:99999999999999999x1x1", "gemm:1e3x1x1", " gemm:1x1x1",
        "gemm:٣x1x1", "gemm:9999999999999999999999x1x1",
        "no-such-model", "none.onnx", "", "a\0b", "x" * 5000, ".", "digits_vit",
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError) as caught:
        zoo.load(name)
    assert "legal" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_have_no_samples(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="digits-vit"):
        zoo.heldout("nothing")
    with pytest.raises(InputError, match="digits-vit"):
        zoo.export("nothing", tmp_path)


def test_importing_models_does_not_import_onnx() -> None:
    code = "import sys, codesign.frontend.zoo; sys.exit('onnx' in sys.modules or 'google' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
