"""Real exports of torch modules: read, equal to torch in float, and lowered to the same few layers."""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.frontend.workload import load_onnx
from codesign.ir.network import Attention, Linear, Network, Norm, run
from codesign.quant.lower.lowering import lower_traced

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install codesign[quant]")
nn: Any = torch.nn

pytestmark = pytest.mark.quant
WIDTH = 24


class _Fused(nn.Module):
    """Attention by hand, from one projection."""

    def __init__(self, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        batch, tokens, _ = x.shape
        shaped = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(self.attend(*shaped.unbind(0)).transpose(1, 2).reshape(batch, tokens, WIDTH))

    def attend(self, q: Any, k: Any, v: Any) -> Any:
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


class _ScaledDotProduct(_Fused):
    """torch's own attention function."""

    def attend(self, q: Any, k: Any, v: Any) -> Any:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class _MultiHead(nn.Module):
    """torch's own attention module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.inner(x, x, x, need_weights=False)[0]


class _Block(nn.Module):
    def __init__(self, attention: Any, activation: Any, norm: Any) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = norm(), attention, norm()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 40), activation, nn.Linear(40, WIDTH))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PostBlock(_Block):
    def forward(self, x: Any) -> Any:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class _Vit(nn.Module):
    def __init__(self, block: Callable[[], Any]) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.3)
        self.positions = nn.Parameter(torch.randn(1, 17, WIDTH) * 0.3)
        self.blocks, self.norm, self.head = nn.Sequential(block(), block()), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: Any) -> Any:
        x = self.embed(image).flatten(2).transpose(1, 2)
        return self.end(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions)

    def end(self, x: Any) -> Any:
        return self.head(self.norm(self.blocks(x))[:, 0])


class _PostVit(_Vit):
    """Norms make the residual stream, as in BERT."""

    def end(self, x: Any) -> Any:
        return self.head(self.blocks(self.norm(x))[:, 0])


def _layer_norm() -> Any:
    return nn.LayerNorm(WIDTH)


_BLOCKS: dict[str, Callable[[], Any]] = {
    "by hand": lambda: _Block(_Fused(3), nn.GELU(), _layer_norm),
    "scaled dot product": lambda: _Block(_ScaledDotProduct(3), nn.GELU("tanh"), _layer_norm),
    "causal": lambda: _Block(_ScaledDotProduct(2, causal=True), nn.SiLU(), _layer_norm),
    "module": lambda: _Block(_MultiHead(), nn.ReLU(), _layer_norm),
    "rms": lambda: _Block(_Fused(1), nn.Hardswish(), lambda: nn.RMSNorm(WIDTH, eps=1e-5)),
    "encoder layer": lambda: nn.TransformerEncoderLayer(WIDTH, 3, 40, 0.0, "gelu", batch_first=True, norm_first=True),
}
_POST_BLOCKS: dict[str, Callable[[], Any]] = {
    "by hand": lambda: _PostBlock(_Fused(3), nn.GELU(), _layer_norm),
    "encoder layer": lambda: nn.TransformerEncoderLayer(WIDTH, 3, 40, 0.0, "gelu", batch_first=True),
}  # fmt: skip


def _export(model: Any, path: Path, how: str) -> None:
    options: dict[str, Any] = {"dynamo": how != "torchscript"}
    batch = 2 if how == "dynamic batch" else 1
    if how == "dynamic batch":
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {"input_names": ["image"], "output_names": ["logits"], "verbose": False}
            torch.onnx.export(model, (torch.rand(batch, 1, 8, 8),), path, external_data=False, **names, **options)
    finally:
        logging.disable(logging.NOTSET)


_WAYS = ("dynamo", "dynamic batch", "torchscript")
_NO_WAY = ("rms", "torchscript")
"""Torch's older exporter has no RMS norm."""


@pytest.mark.parametrize(("name", "how"), [case for case in product(_BLOCKS, _WAYS) if case != _NO_WAY])
def test_exports_are_read_and_lowered(name: str, how: str, tmp_path: Path) -> None:
    network = _lowered(lambda: _Vit(_BLOCKS[name]), how, tmp_path)
    assert Counter(type(x) for x in network) == {Linear: 14, Norm: 5, Attention: 2}
    assert {x.mask for x in network if isinstance(x, Attention)} == {"causal" if name == "causal" else "full"}


@pytest.mark.parametrize("how", _WAYS)
@pytest.mark.parametrize("name", _POST_BLOCKS)
def test_post_norm_exports_are_read_and_lowered(name: str, how: str, tmp_path: Path) -> None:
    network = _lowered(lambda: _PostVit(_POST_BLOCKS[name]), how, tmp_path)
    assert Counter(type(x) for x in network) == {Linear: 14, Norm: 9, Attention: 2}
    assert Counter(x.bits for x in network if isinstance(x, Norm)) == {8: 5, 16: 4}


def _lowered(make: Callable[[], Any], how: str, folder: Path) -> Network:
    """The network of an exported model; file and integers are compared with torch and with the file."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = make().eval()
    _export(model, folder / "m.onnx", how)
    workload = load_onnx(folder / "m.onnx")
    rng = np.random.default_rng(0)
    image = rng.random((1, 1, 8, 8))
    with torch.no_grad():
        expected = model(torch.tensor(image, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(workload.evaluate({"image": image})["logits"], expected, rtol=1e-4, atol=1e-5)
    made = lower_traced(workload, calibration={"image": rng.random((8, 1, 8, 8))})
    values, floats = run(made.network, {"image": image}), dict(workload.tensors({"image": image}))
    for tensor, source in made.sources.items():
        a = values[tensor].astype(np.float64)
        b = np.where(source.index < 0, 0.0, floats[source.tensor].reshape(-1)[source.index])
        assert (a * b).sum() >= 0.99 * math.sqrt((a * a).sum() * (b * b).sum()), tensor
    return made.network
