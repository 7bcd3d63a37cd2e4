"""An integer vision transformer written down once more, straight from the exported file.

It knows only the node names that the exporter gives, numpy, `number` and `nonlinear`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from codesign.numerics import fixed_point as number
from codesign.numerics import nonlinear

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Quantizer:
    """Scale and range of one Quant node, with its tensor's integers if that is constant."""

    scale: npt.NDArray[np.float64]
    low: int
    high: int
    values: Ints | None

    def apply(self, x: npt.ArrayLike) -> Ints:
        return number.quantize(x, self.scale, low=self.low, high=self.high)

    @property
    def constant(self) -> Ints:
        assert self.values is not None
        return self.values


def read_quantizers(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Every Quant node by the name of its module; checks that scales are powers of two."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    result = {}
    for node in model.graph.node:
        if node.op_type != "Quant":
            continue
        scale, zero, bits = (constants[name].astype(np.float64) for name in node.input[1:])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert not zero.any()
        signed = "gates_out" not in node.name
        assert attributes["signed"] == signed
        assert attributes["rounding_mode"] == b"ROUND"
        assert np.all(np.frexp(scale)[0] == 0.5)
        low, high = number.limits(int(bits), signed, bool(attributes["narrow"]))
        values = None
        if node.input[0] in constants:
            values = number.quantize(constants[node.input[0]], scale, low=low, high=high)
        result[node.name.removesuffix("/Quant")] = Quantizer(scale, low, high, values)
    return result


class IntegerVit:
    """The integer network of a file that `codesign.quant.interop.export` wrote from a vision transformer."""

    def __init__(self, path: Path, heads: int, blocks: int) -> None:
        model = onnx.load(path)
        self.quantizers = read_quantizers(model)
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.nodes = {node.name: node for node in model.graph.node}
        self.heads, self.blocks = heads, blocks
        self.residual_scale = self.scale("residual")
        self.linears: dict[str, tuple[Ints, ...]] = {}
        self.norms: dict[str, tuple[Ints, Ints, int, int]] = {}
        self.tables: dict[str, Ints] = {}

    def scale(self, name: str) -> float:
        return float(self.quantizers[name].scale)

    def linear(self, name: str, source: str, scale_out: float, x: Ints, bits: int = 8) -> Ints:
        """Requantized linear layer with integer bias, per output channel."""
        if name not in self.linears:
            self.linears[name] = self._prepare(name, self.scale(source), scale_out)
        matrix, bias, multiplier, shift = self.linears[name]
        acc = number.matmul(x, matrix.T) + bias
        return number.requantize(acc, multiplier, shift, *number.limits(bits))

    def _prepare(self, name: str, scale_in: float, scale_out: float) -> tuple[Ints, ...]:
        """Weights [n, k], bias, multiplier and shift [n] of a linear layer."""
        weight = self.quantizers[f"{name}.weight_quant"]
        matrix = weight.constant.reshape(len(weight.constant), -1)
        unit, bias = scale_in * weight.scale.ravel(), np.zeros(len(matrix), np.int64)
        if f"{name}.bias_quant" in self.quantizers:
            quantizer = self.quantizers[f"{name}.bias_quant"]
            assert np.array_equal(np.broadcast_to(quantizer.scale, unit.shape), unit)
            bias = quantizer.constant
        pairs = np.array([number.requantizer(u / scale_out) for u in unit.tolist()])
        assert set(pairs[:, 0].tolist()) == {1 << 16}
        return matrix, bias, pairs[:, 0], pairs[:, 1]

    def norm(self, name: str, target: str, r: Ints) -> Ints:
        if name not in self.norms:
            node = self.nodes[f"{name}/LayerNormalization"]
            gamma, beta = (self.constants[i] for i in node.input[1:])
            eps = next(a.f for a in node.attribute if a.name == "epsilon")
            scales = self.residual_scale, self.scale(target)
            self.norms[name] = nonlinear.norm_parameters(gamma, beta, eps, *scales, r.shape[1])
        return nonlinear.norm(r, *self.norms[name])

    def attention(self, block: str, q: Ints, k: Ints, v: Ints) -> Ints:
        scale_q, scale_k, scale_v = (self.scale(f"{block}.{x}_out") for x in "qkv")
        depth = q.shape[1] // self.heads
        score = number.requantizer(128 * scale_q * scale_k / np.sqrt(depth))
        out = number.requantizer(scale_v / self.scale(f"{block}.attention_out"))
        lo, hi = nonlinear.mask_interval("full", len(q), len(k))
        return nonlinear.attention(
            q, k, v, heads=self.heads, lo=lo, hi=hi, score_multiplier=score[0],
            score_shift=score[1], out_multiplier=out[0], out_shift=out[1],
        )  # fmt: skip

    def embed(self, image: npt.NDArray[np.float32]) -> Ints:
        """Patches as rows, one linear layer, class token and positions in 16 bit."""
        pixels = self.quantizers["pixels"].apply(image)
        size = self.quantizers["embed.weight_quant"].constant.shape[-1]
        channels, height, _ = pixels.shape
        grid = pixels.reshape(channels, height // size, size, -1, size)
        rows = grid.transpose(1, 3, 0, 2, 4).reshape(-1, channels * size * size)
        tokens = self.linear("embed", "pixels", self.residual_scale, rows, 16)
        first = self.quantizers["residual/Quant_1"].constant.reshape(1, -1)
        table = self.quantizers["residual/Quant_2"].constant.reshape(len(rows) + 1, -1)
        return number.saturate_bits(np.concatenate([first, tokens]) + table, 16)

    def feed_forward(self, block: str, r: Ints) -> Ints:
        x = self.norm(f"{block}.norm2", f"{block}.norm2_out", r)
        x = self.linear(f"{block}.fc1", f"{block}.norm2_out", self.scale(f"{block}.fc1_out"), x)
        if block not in self.tables:
            scales = self.scale(f"{block}.fc1_out"), self.scale(f"{block}.table_out")
            self.tables[block] = nonlinear.table("gelu", *scales).astype(np.int64)
        x = nonlinear.lookup(self.tables[block], x)
        return self.linear(f"{block}.fc2", f"{block}.table_out", self.residual_scale, x, 16)

    def block(self, block: str, r: Ints) -> Ints:
        x = self.norm(f"{block}.norm1", f"{block}.norm1_out", r)
        q, k, v = (self.linear(f"{block}.{n}", f"{block}.norm1_out", self.scale(f"{block}.{n}_out"), x) for n in "qkv")
        x = self.attention(block, q, k, v)
        x = self.linear(f"{block}.proj", f"{block}.attention_out", self.residual_scale, x, 16)
        r = number.saturate_bits(r + x, 16)
        return number.saturate_bits(r + self.feed_forward(block, r), 16)

    def run(self, image: npt.NDArray[np.float32]) -> Ints:
        """Integer logits of one image [channels, height, width]."""
        r = self.embed(image)
        for index in range(self.blocks):
            r = self.block(f"blocks.{index}", r)
        x = self.norm("norm", "norm_out", r[:1])
        return np.asarray(self.linear("head", "norm_out", self.scale("logits"), x, 16)[0])
