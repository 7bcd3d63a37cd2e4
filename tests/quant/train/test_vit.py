"""The quantized vision transformer is, in torch, the integer network of its exported file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from codesign.frontend import zoo
from codesign.frontend.workload import Workload, load_onnx
from codesign.ir.mixture import Experts
from codesign.ir.network import Network, run
from codesign.quant.lower.lowering import lower
from tests.quant.reference import IntegerVit, read_quantizers

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
vit: Any = pytest.importorskip("codesign.quant.train.vit")
layers: Any = pytest.importorskip("codesign.quant.train.layers")
export: Any = pytest.importorskip("codesign.quant.interop.export")
train_digits: Any = pytest.importorskip("codesign.quant.train.train_digits")

pytestmark = pytest.mark.quant


def _images(config: Any, count: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, config.channels, config.image, config.image)
    return torch.randint(0, 65, shape, generator=generator) / 64


def _trained(config: Any, seed: int) -> tuple[Any, Any]:
    """Return a random float network with lively norms, and its calibrated quantized form."""
    torch.manual_seed(seed)
    trained = vit.VisionTransformer(config, layers.FloatLayers())
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "norm" in name or "class_token" in name or "positions" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model = vit.VisionTransformer(config, layers.QuantLayers(2.0**-11))
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
    assert layers.scale_of(model.residual) == 2.0**-11
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
    trained = vit.VisionTransformer(vit.VitConfig(blocks=2), layers.FloatLayers())
    model = vit.VisionTransformer(vit.VitConfig(blocks=1), layers.QuantLayers(2.0**-10))
    with pytest.raises(ValueError, match=r"without counterpart: \['blocks\.1\."):
        vit.load_float(model, trained)


def test_config_refuses() -> None:
    with pytest.raises(ValueError, match="heads must divide width"):
        vit.VitConfig(heads=5)
    with pytest.raises(ValueError, match="patch must divide image"):
        vit.VitConfig(patch=3)
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        vit.VitConfig(blocks=0)
    for chosen in (0, 3, 4):
        with pytest.raises(ValueError, match=f"chosen must be 1 or 2 and below experts, got {chosen} of 4"):
            vit.VitConfig(experts=4, chosen=chosen)
    with pytest.raises(ValueError, match="expert_mlp must be at least 1, got 0"):
        vit.VitConfig(expert_mlp=0)
    with pytest.raises(ValueError, match=r"power of two, got 0\.3"):
        layers.QuantLayers(0.3)


# Mixtures of experts


def _golden(network: Network, images: Any) -> list[list[int]]:
    name, source = network.inputs[0].name, network.outputs[0].source
    return [run(network, {name: image})[source][0].tolist() for image in images]


@pytest.mark.parametrize("seed", range(3))
def test_torch_equals_golden_with_experts(seed: int, tmp_path: Path) -> None:
    experts, chosen = ((4, 2), (3, 1), (5, 2))[seed]
    config = vit.VitConfig(width=24, heads=3, blocks=2, mlp=40, experts=experts, chosen=chosen, expert_mlp=16)
    trained, model = _trained(config, seed)
    images = _images(config, 12, seed + 10)
    with vit.float_functions(model):
        names = {"inputs": "image", "outputs": "logits"}
        export.export_model(model, images[:1], tmp_path / "m.onnx", form="qonnx", **names)
    network = lower(load_onnx(tmp_path / "m.onnx"))
    (mixture,) = [layer for layer in network if isinstance(layer, Experts)]
    assert (len(mixture.experts), mixture.chosen) == (experts, chosen)
    assert train_digits.integer_logits(model, images).tolist() == _golden(network, images.numpy())
    with torch.no_grad():
        assert float(torch.nn.functional.cosine_similarity(trained(images), model(images)).min()) > 0.98


def _restored(path: Path, config: Any) -> Any:
    """The torch network of an exported file: its parameters, and the scales of its quantizers."""
    file = onnx.load(path)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in file.graph.initializer}
    nodes, quantizers = {node.name: node for node in file.graph.node}, read_quantizers(file)
    model = vit.VisionTransformer(config, layers.QuantLayers(float(quantizers["residual"].scale)))
    train_digits.calibrate(model, _images(config, 2, 0))  # quantizers have scales from then on
    wanted = {"class_token": "residual/Quant_1", "positions": "residual/Quant_2"}
    state = {}
    for name, value in model.state_dict().items():
        module, _, part = name.rpartition(".")
        if name.endswith("scaling_impl.value"):
            quantizer = quantizers[name.split(".act_quant")[0]]
            state[name] = torch.tensor(float(np.log2(quantizer.scale)) + 7.0)
        elif name in wanted:
            state[name] = torch.tensor(constants[nodes[wanted[name]].input[0]])
        elif "norm" in module.split(".")[-1]:
            inputs = nodes[f"{module}/LayerNormalization"].input
            state[name] = torch.tensor(constants[inputs[1 if part == "weight" else 2]])
        else:
            state[name] = torch.tensor(constants[nodes[f"{module}.{part}_quant/Quant"].input[0]])
        assert state[name].shape == value.shape
    model.load_state_dict(state)
    model.eval()
    model.freeze()
    return model


@pytest.mark.parametrize("name", ["digits-vit", "digits-moe-vit"])
def test_what_was_trained_is_what_runs_on_every_image(name: str) -> None:
    config = train_digits.MIXTURE if "moe" in name else vit.VitConfig()
    file = Path(zoo.__file__).parents[1] / "data" / zoo.model(name).file
    model, workload, images = _restored(file, config), zoo.load(name), zoo.heldout(name)[0]["image"]
    assert isinstance(workload, Workload)
    assert train_digits.integer_logits(model, torch.as_tensor(images)).tolist() == _golden(lower(workload), images)


def test_logits_of_models_that_are_not_trained_now_stay(tmp_path: Path) -> None:
    path = tmp_path / "digits-logits.npz"
    for name, value in (("vit", 1), ("mlp", 2), ("vit", 3)):
        train_digits._add_logits(path, name, np.full((2, 10), value, np.int16))
    with np.load(path) as arrays:
        assert {name: int(arrays[name][0, 0]) for name in arrays} == {"vit": 3, "mlp": 2}
