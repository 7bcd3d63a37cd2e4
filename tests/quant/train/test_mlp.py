"""The ReLU network gives the same integers in brevitas, onnxruntime and integer numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from codesign.numerics import fixed_point as number
from tests.quant.reference import read_quantizers

Ints = npt.NDArray[np.int64]
DATA = Path(__file__).parents[3] / "codesign" / "data"


def _integers(path: Path, images: npt.NDArray[np.float32]) -> Ints:
    """Logits of a QONNX ReLU network in integer numpy: quantizers in file order."""
    quantizers = list(read_quantizers(onnx.load(path)).values())
    weights = [q for q in quantizers if q.values is not None]
    acts = [q for q in quantizers if q.values is None]
    x = acts[0].apply(images.reshape(len(images), -1))
    for index, (weight, source, target) in enumerate(zip(weights, acts, acts[1:], strict=False)):
        acc = number.matmul(x, weight.constant.T)
        unit = float(source.scale) * float(weight.scale) / float(target.scale)
        low = 0 if index < len(weights) - 1 else target.low
        x = number.requantize(acc, *number.requantizer(unit), low, target.high)
    return x


def _onnxruntime(path: Path, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Float logits of a QCDQ file, one image at a time, optimisations off."""
    ort: Any = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install codesign[quant]")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": x[None]})[0] for x in images])


def test_shipped_network_on_every_image() -> None:
    held_out = np.load(DATA / "digits-heldout.npz")
    expected = np.load(DATA / "digits-logits.npz")["mlp"]
    got = _integers(DATA / "digits-mlp.onnx", held_out["image"])
    assert got.tolist() == expected.tolist()
    assert np.mean(got.argmax(axis=1) == held_out["label"]) >= 0.94


def test_shipped_network_in_onnxruntime() -> None:
    images = np.load(DATA / "digits-heldout.npz")["image"]
    scale = float(read_quantizers(onnx.load(DATA / "digits-mlp.onnx"))["logits"].scale)
    got = _onnxruntime(DATA / "digits-mlp-qcdq.onnx", images) / scale
    assert got.tolist() == np.load(DATA / "digits-logits.npz")["mlp"].tolist()


@pytest.mark.quant
@pytest.mark.parametrize("widths", [(64, 32, 32, 10), (64, 7), (64, 33, 5)])
def test_brevitas_onnxruntime_and_integers_agree(widths: tuple[int, ...], tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
    mlp: Any = pytest.importorskip("codesign.quant.train.mlp")
    train_digits: Any = pytest.importorskip("codesign.quant.train.train_digits")
    torch.manual_seed(len(widths))
    model = mlp.QuantMlp(widths)
    images = torch.randint(0, 17, (60, 1, 8, 8)) / 16
    train_digits.calibrate(model, images)
    for form in ("qonnx", "qcdq"):
        train_digits.export_model(
            model, images[:1], tmp_path / f"{form}.onnx", form=form, inputs="image", outputs="logits"
        )
    expected = train_digits.integer_logits(model, images)
    assert len(np.unique(expected)) > 50
    assert _integers(tmp_path / "qonnx.onnx", images.numpy()).tolist() == expected.tolist()
    scale = float(read_quantizers(onnx.load(tmp_path / "qonnx.onnx"))["logits"].scale)
    got = _onnxruntime(tmp_path / "qcdq.onnx", images.numpy()) / scale
    assert got.tolist() == expected.tolist()


@pytest.mark.quant
def test_widths_are_checked() -> None:
    mlp: Any = pytest.importorskip("codesign.quant.train.mlp")
    with pytest.raises(ValueError, match=r"two or more positive numbers, got \(3,\)"):
        mlp.QuantMlp((3,))
