"""hls4ml and our goldens give the same integers; what hls4ml would get wrong is refused."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import InputError, ToolError
from codesign.frontend import zoo
from codesign.quant.interop import hls4ml_backend as backend
from codesign.quant.interop.hls4ml_backend import compare, run_hls4ml
from tests.quant.chains import random_chain

compiled = pytest.mark.skipif(
    importlib.util.find_spec("hls4ml") is None, reason="needs hls4ml: pip install codesign[hls]"
)
DATA = Path(__file__).parents[3] / "codesign" / "data"


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("file", ["digits-mlp.onnx", "digits-mlp-qcdq.onnx"])
def test_the_shipped_network_on_every_held_out_image(file: str) -> None:
    images, labels = zoo.heldout("digits-mlp")
    expected = np.load(DATA / "digits-logits.npz")["mlp"]
    (got,) = run_hls4ml(DATA / file, images).values()
    assert got.tolist() == expected.tolist()
    assert np.mean(got.argmax(axis=1) == labels) >= 0.94


@compiled
@pytest.mark.slow
def test_the_shipped_network_on_images_it_never_saw_the_like_of(rng: np.random.Generator) -> None:
    images = {"image": rng.normal(0, 2, (500, 1, 8, 8)).astype(np.float32)}
    found = compare("digits-mlp", images)
    assert found.equal, found
    assert found.values == 5000


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(("widths", "gemm"), [((7, 13, 5), True), ((16, 11, 3), False), ((3, 2, 4, 2), True)])
def test_random_networks(rng: np.random.Generator, widths: tuple[int, ...], gemm: bool) -> None:
    workload = random_chain(rng, widths, gemm).workload()
    found = compare(workload, {"x": rng.normal(0, 1.5, (400, widths[0]))})
    assert found.equal, found
    assert found.samples == 400


@compiled
@pytest.mark.slow
def test_a_difference_is_counted(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = random_chain(rng, (4, 6), True).workload()
    inputs = {"x": rng.normal(0, 1, (9, 4))}
    right = run_hls4ml(workload, inputs)
    (name,) = right
    wrong = right[name].copy()
    wrong[3, 2] += 5
    monkeypatch.setattr(backend, "run_hls4ml", lambda *_, **__: {name: wrong})
    found = compare(workload, inputs)
    assert (found.differing, found.largest, found.equal) == (1, 5, False)


@compiled
@pytest.mark.slow
def test_the_project_stays_in_the_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    workload = random_chain(rng, (4, 3), True).workload()
    folder = tmp_path / "hls4ml"
    assert compare(
        workload, {"x": rng.normal(0, 1, (5, 4))}, folder=folder, part="xck26-sfvc784-2lv-c", clock_mhz=250
    ).equal
    assert (folder / "firmware" / "network.cpp").read_text(encoding="utf-8").count("nnet::dense<") == 1
    settings = (folder / "hls4ml_config.yml").read_text(encoding="utf-8")
    assert "xck26-sfvc784-2lv-c" in settings
    assert "ClockPeriod: 4.0" in settings


def test_wrong_models_and_arrays(rng: np.random.Generator) -> None:
    workload = random_chain(rng, (4, 3), True).workload()
    with pytest.raises(InputError, match=r"inputs \['image'\]; legal: \['x'\]"):
        run_hls4ml(workload, {"image": np.zeros((2, 4))})
    with pytest.raises(InputError, match=r"input x is \(2, 5\); legal: samples first, 4 values each"):
        run_hls4ml(workload, {"x": np.zeros((2, 5))})
    with pytest.raises(InputError, match="model gemm:2x2x2 is no file"):
        run_hls4ml("gemm:2x2x2", {"a": np.zeros((1, 4))})


def test_missing_hls4ml_is_named(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hls4ml", None)
    with pytest.raises(ToolError, match=r"hls4ml is missing; get it with: pip install 'codesign\[hls\]'"):
        run_hls4ml(random_chain(rng, (4, 3), True).workload(), {"x": np.zeros((1, 4))})
