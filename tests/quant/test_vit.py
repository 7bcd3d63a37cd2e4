"""The quantized vision transformer is, in torch, the integer network of its exported file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.quant.reference import IntegerVit

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
vit: Any = pytest.importorskip("codesign.quant.vit")
export: Any = pytest.importorskip("codesign.quant.export")
train_digits: Any = pytest.importorskip("codesign.quant.train_digits")


def _images(config: Any, count: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, config.channels, config.image, config.image)
    return torch.randint(0, 65, shape, generator=generator) / 64


def _trained(config: Any, seed: int) -> tuple[Any, Any]:
    """Return a random float network with lively norms, and its calibrated quantized form."""
    torch.manual_seed(seed)
    trained = vit.VisionTransformer(config, vit.FloatLayers())
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "norm" in name or "class_token" in name or "positions" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model = vit.VisionTransformer(config, vit.QuantLayers(2.0**-11))
    vit.load_float(model, trained)
    train_digits.calibrate(model, _images(config, 32, seed))
    model.freeze()
    return trained, model


@pytest.mark.parametrize("seed", range(3))
def test_torch_equals_the_integers_of_the_exported_file(seed: int, tmp_path: Path) -> None:
    heads, blocks = (1, 2, 3)[seed], (2, 1, 1)[seed]
    config = vit.VitConfig(
        image=(8, 6, 9)[seed], patch=(2, 3, 3)[seed], channels=(1, 3, 2)[seed], width=24,
        heads=heads, blocks=blocks, mlp=40, classes=5,
    )  # fmt: skip
    _, model = _trained(config, seed)
    images = _images(config, 12, seed + 10)
    names = {"inputs": "image", "outputs": "logits"}
    with vit.float_functions(model):
        export.export_model(model, images[:1], tmp_path / "m.onnx", form="qonnx", **names)
    got = train_digits.integer_logits(model, images)
    reference = IntegerVit(tmp_path / "m.onnx", heads, blocks)
    expected = [reference.run(image).tolist() for image in images.numpy()]
    assert got.tolist() == expected
    assert len(np.unique(got)) > 20


def test_integers_stay_close_to_float_and_scales_stay_frozen() -> None:
    trained, model = _trained(vit.VitConfig(blocks=2), 5)
    images = _images(trained.config, 16, 6)
    scales = {n: float(m.act_quant.scale()) for n, m in model.named_modules() if n.endswith("_out")}
    with torch.no_grad():
        smooth, exact = trained(images), model(images)
    cosine = torch.nn.functional.cosine_similarity(smooth, exact).min()
    assert float(cosine) > 0.99
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    before = model.blocks[0].q.weight.detach().clone()
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(images), torch.arange(16) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not torch.equal(model.blocks[0].q.weight, before)
    for name, module in model.named_modules():
        if name in scales:
            assert float(module.act_quant.scale()) == scales[name]
            assert np.frexp(scales[name])[0] == 0.5


def test_load_float_refuses_what_does_not_fit() -> None:
    trained = vit.VisionTransformer(vit.VitConfig(blocks=2), vit.FloatLayers())
    model = vit.VisionTransformer(vit.VitConfig(blocks=1), vit.QuantLayers(2.0**-10))
    with pytest.raises(ValueError, match=r"without counterpart: \['blocks\.1\."):
        vit.load_float(model, trained)


def test_config_refuses() -> None:
    with pytest.raises(ValueError, match="heads must divide width"):
        vit.VitConfig(heads=5)
    with pytest.raises(ValueError, match="patch must divide image"):
        vit.VitConfig(patch=3)
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        vit.VitConfig(blocks=0)
    with pytest.raises(ValueError, match=r"power of two, got 0\.3"):
        vit.QuantLayers(0.3)
