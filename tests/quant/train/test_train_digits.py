"""The shipped digit models, checked without torch."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.quant.reference import IntegerVit, read_quantizers

DATA = Path(__file__).parents[3] / "codesign" / "data"
MODELS = ("digits-vit.onnx", "digits-mlp.onnx", "digits-mlp-qcdq.onnx", "digits-moe-vit.onnx")


@pytest.fixture(scope="module")
def vit() -> IntegerVit:
    return IntegerVit(DATA / "digits-vit.onnx", heads=4, blocks=4)


@pytest.mark.rtl
def test_integer_logits_equal_those_of_torch(vit: IntegerVit) -> None:
    held_out, expected = np.load(DATA / "digits-heldout.npz"), np.load(DATA / "digits-logits.npz")
    got = np.stack([vit.run(image) for image in held_out["image"]])
    assert got.tolist() == expected["vit"].tolist()
    assert np.mean(got.argmax(axis=1) == held_out["label"]) >= 0.965


def test_heldout_arrays() -> None:
    held_out = np.load(DATA / "digits-heldout.npz")
    images, labels = held_out["image"], held_out["label"]
    assert (images.shape, images.dtype) == ((400, 1, 8, 8), np.float32)
    assert (labels.shape, labels.dtype) == ((400,), np.int64)
    assert np.array_equal(images * 16, np.rint(images * 16))
    assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("name", MODELS)
def test_models_are_small_and_self_contained(name: str) -> None:
    path = DATA / name
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model)
    assert path.stat().st_size < 1_000_000
    assert not any(t.external_data for t in model.graph.initializer)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    assert [v.name for v in model.graph.input] == ["image"]
    assert shapes == [[1, 1, 8, 8]]
    assert [v.name for v in model.graph.output] == ["logits"]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_widths_of_the_quantizers(vit: IntegerVit) -> None:
    residual = {vit.residual_scale}
    for name, quantizer in vit.quantizers.items():
        if name.startswith(("residual", "logits")):
            assert (quantizer.low, quantizer.high) == (-32768, 32767)
            assert {float(quantizer.scale)} == residual
        elif name.endswith("weight_quant"):
            assert (quantizer.low, quantizer.high) == (-127, 127)
            assert quantizer.scale.size == len(quantizer.constant)
        elif name.endswith("bias_quant"):
            assert np.abs(quantizer.constant).max() < 2**24
        else:
            assert (quantizer.low, quantizer.high) == (-128, 127)
            assert quantizer.scale.shape == ()


def test_mlp_quantizers_are_signed_8_bit() -> None:
    quantizers = read_quantizers(onnx.load(DATA / "digits-mlp.onnx"))
    assert {(q.low, q.high) for q in quantizers.values()} == {(-128, 127), (-127, 127)}
