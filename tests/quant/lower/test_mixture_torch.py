"""Mixtures of experts as torch's exporters write them: read, and lowered to the same integers."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.frontend.workload import load_onnx
from codesign.ir.mixture import Experts, Route
from codesign.ir.network import Linear, Norm, run
from codesign.quant.lower.lowering import lower

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install codesign[quant]")
nn: Any = torch.nn

pytestmark = pytest.mark.quant
WIDTH, HIDDEN, EXPERTS, CHOSEN = 16, 24, 4, 2


class _Mixture(nn.Module):
    """Every expert computes every token.

    Args:
        gate: scatter, mask or one hot.
        total: slices, stack, product or einsum.
    """

    def __init__(self, gate: str, total: str) -> None:
        super().__init__()
        self.gate, self.total = gate, total
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(EXPERTS)
        )

    def gates(self, share: Any) -> Any:
        values, index = share.topk(CHOSEN, dim=-1)
        if self.gate == "scatter":
            return torch.zeros_like(share).scatter(-1, index, values)
        if self.gate == "mask":
            return share * torch.zeros_like(share).scatter(-1, index, 1.0)
        return (nn.functional.one_hot(index, EXPERTS).to(share.dtype) * values[..., None]).sum(-2)

    def forward(self, x: Any) -> Any:
        gates, results = self.gates(self.router(x).softmax(-1)), [expert(x) for expert in self.experts]
        if self.total == "slices":
            return sum(gates[..., i : i + 1] * y for i, y in enumerate(results))
        stack = torch.stack(results, dim=-2)
        if self.total == "stack":
            return (gates[..., None] * stack).sum(-2)
        if self.total == "product":
            return (gates[..., None, :] @ stack)[..., 0, :]
        return torch.einsum("bte,bted->btd", gates, stack)


class _Net(nn.Module):
    def __init__(self, gate: str, total: str) -> None:
        super().__init__()
        self.embed, self.norm1, self.mixture = nn.Conv2d(1, WIDTH, 2, 2), nn.LayerNorm(WIDTH), _Mixture(gate, total)
        self.norm2, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, image: Any) -> Any:
        x = self.embed(image).flatten(2).transpose(1, 2)
        x = x + self.mixture(self.norm1(x))
        return self.head(self.norm2(x)[:, 0])


def _logits(model: Any, path: Path, dynamo: bool, images: Any) -> list[list[int]]:
    """Integer logits of a model as one exporter writes it."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = {"input_names": ["image"], "output_names": ["logits"], "verbose": False}
            torch.onnx.export(model, (torch.rand(1, 1, 8, 8),), path, dynamo=dynamo, external_data=False, **names)
    finally:
        logging.disable(logging.NOTSET)
    workload = load_onnx(path)
    with torch.no_grad():
        expected = model(torch.tensor(images[:1], dtype=torch.float32)).numpy()
    np.testing.assert_allclose(workload.evaluate({"image": images[0]})["logits"], expected, rtol=1e-4, atol=1e-5)
    network = lower(workload, calibration={"image": images})
    assert [type(layer) for layer in network] == [Linear, Norm, Linear, Route, Experts, Norm, Linear]
    return [run(network, {"image": x})[network.outputs[0].source][0].tolist() for x in images[:5]]


@pytest.mark.parametrize(
    ("gate", "total"), [("scatter", "slices"), ("mask", "stack"), ("one hot", "product"), ("scatter", "einsum")]
)
def test_both_exporters_give_the_same_integers(gate: str, total: str, tmp_path: Path) -> None:
    found = []
    images = np.random.default_rng(0).random((20, 1, 8, 8))
    for spelling in ((gate, total), ("scatter", "slices")):
        torch.manual_seed(0)
        model = _Net(*spelling).eval()
        found += [_logits(model, tmp_path / f"{dynamo}.onnx", dynamo, images) for dynamo in (True, False)]
    assert all(x == found[0] for x in found[1:])
