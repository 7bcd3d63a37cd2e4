"""Random small vision transformers as ONNX files, in the spellings that exporters use; no torch.

`random_vit` draws a recipe from a seed and builds it; `random_network` lowers it too.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.frontend.workload import Workload, from_proto, sample_shape
from codesign.ir.network import Network
from codesign.quant.lower.lowering import Lowered, lower_traced

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recipe:
    """Shape and spelling of a vision transformer.

    Attributes:
        form: quant (QONNX), qdq, qcdq, or float (needs calibration).
        scales: po2 or float.
        embedding: conv or reshape (with a matrix product).
        qkv: separate, split or gather (of one product).
        norm: whole or decomposed.
        activation: gelu, erf, tanh, relu or silu.
        scaling: where 1/sqrt(d) is: scores_mul, scores_div, query or both.
        argument: whether the activation's input is quantized.
        parts: whether both sides of a residual add are quantized, not only the sum.
        stream_bits: of the residual stream's quantizers.
        order: pre (norms read the residual stream) or post (norms make it).
    """

    seed: int = 0
    image: int = 6
    patch: int = 2
    channels: int = 1
    width: int = 16
    heads: int = 2
    depth: int = 1
    mlp: int = 32
    classes: int = 5
    form: str = "quant"
    scales: str = "po2"
    embedding: str = "conv"
    qkv: str = "separate"
    norm: str = "whole"
    activation: str = "gelu"
    scaling: str = "scores_mul"
    mask: str = "full"
    window: int = 3
    class_token: bool = True
    argument: bool = True
    parts: bool = True
    conv_bias: bool = False
    symbolic_batch: bool = False
    stream_bits: int = 16
    order: str = "pre"

    @property
    def tokens(self) -> int:
        return (self.image // self.patch) ** 2 + self.class_token

    @property
    def exact(self) -> bool:
        """Whether every integer between non-linear functions must equal the file's."""
        return (
            self.form != "float"
            and self.scales == "po2"
            and self.parts
            and (self.argument or self.activation == "relu")
        )


def recipe(seed: int) -> Recipe:
    """Draw a recipe: width 8 to 48, 1 to 4 heads, 1 or 2 blocks, images of 4 to 8 pixels."""
    rng = np.random.default_rng([seed, 77])

    def one(*choices: str) -> str:
        return str(rng.choice(choices))

    patch = int(rng.integers(1, 4))
    heads = int(rng.integers(1, 5))
    return Recipe(
        seed=seed,
        image=patch * int(rng.integers(math.ceil(4 / patch), 8 // patch + 1)) if patch > 1 else 4,
        patch=patch,
        channels=int(rng.choice([1, 1, 3])),
        width=heads * int(rng.integers(math.ceil(8 / heads), 48 // heads + 1)),
        heads=heads,
        depth=int(rng.integers(1, 3)),
        mlp=int(rng.integers(8, 65)),
        classes=int(rng.integers(2, 12)),
        form=one("quant", "quant", "qdq", "qcdq", "float"),
        scales=one("po2", "float"),
        embedding=one("conv", "reshape"),
        qkv=one("separate", "split", "gather"),
        norm=one("whole", "decomposed"),
        activation=one("gelu", "erf", "tanh", "relu", "silu"),
        scaling=one("scores_mul", "scores_div", "query", "both"),
        mask=one("full", "full", "causal", "sliding"),
        window=int(rng.integers(1, 5)),
        class_token=bool(rng.integers(0, 4)),
        argument=bool(rng.integers(0, 2)),
        parts=bool(rng.integers(0, 4)),
        conv_bias=bool(rng.integers(0, 2)),
        symbolic_batch=bool(rng.integers(0, 2)),
    )


def random_vit(seed: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """A random vision transformer and the shape of one input sample; float ones need calibration."""
    chosen = recipe(seed)
    return build(chosen), (chosen.channels, chosen.image, chosen.image)


@cache
def random_network(seed: int) -> tuple[Network, tuple[int, ...]]:
    """The integer network of `random_vit`, calibrated if need be, and the shape of one sample."""
    chosen = recipe(seed)
    return lowered(chosen)[1].network, (chosen.channels, chosen.image, chosen.image)


def lowered(chosen: Recipe) -> tuple[Workload, Lowered]:
    """Build and lower a recipe."""
    workload = from_proto(build(chosen), f"vit{chosen.seed}")
    calibration = {"image": samples(chosen, 8)} if chosen.form == "float" else None
    return workload, lower_traced(workload, calibration=calibration)


def samples(chosen: Recipe, count: int) -> Floats:
    """Images with values 0 to 1, samples first."""
    rng = np.random.default_rng([chosen.seed, 99])
    return rng.random((count, chosen.channels, chosen.image, chosen.image))


def build(chosen: Recipe) -> onnx.ModelProto:
    """The ONNX model of a recipe; its quantizers' scales hold what eight random images show."""
    plain = _Builder(replace(chosen, form="float"), {})
    model = plain.model()
    if chosen.form == "float":
        return model
    workload = from_proto(model)
    shape = sample_shape(workload.inputs["image"])
    top: dict[str, float] = {}
    for sample in samples(chosen, 8):
        for name, value in workload.tensors({"image": sample.reshape(shape)}):
            top[name] = max(top.get(name, 0.0), float(np.abs(value).max()))
    return _Builder(chosen, {i: top[name] for i, name in enumerate(plain.sites)}).model()


def _ceil_po2(x: float) -> float:
    return 2.0 ** math.ceil(math.log2(x))


class _Builder:
    """Writes one model; the float form of it finds the ranges for the others."""

    def __init__(self, chosen: Recipe, top: dict[int, float]) -> None:
        self.r, self.top = chosen, top
        self.rng = np.random.default_rng(chosen.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.sites: list[str] = []
        self.scale_of: dict[str, float] = {}
        self.residual = 2.0 * _ceil_po2(max(top.values(), default=1.0)) / 32768

    # Nodes and constants

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object) -> str:
        names = [f"{kind.lower()}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, names[0], domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return names[0]

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(list(values), np.int64)

    def normal(self, *shape: int, scale: float = 1.0) -> Floats:
        return np.asarray(self.rng.standard_normal(shape) * scale)

    # Quantizers

    def quant(self, x: str, bits: int = 8, wide_scale: float = 0.0) -> str:
        site = len(self.sites)
        self.sites.append(x)
        if self.r.form == "float":
            return x
        top = self.top[site] or 1.0
        scale = wide_scale or (_ceil_po2(top / 127) if self.r.scales == "po2" else top / 127)
        made = self.quantizer(x, np.float32(scale), bits)
        self.scale_of[made] = float(np.float32(scale))
        return made

    def wide(self, x: str) -> str:
        return self.quant(x, 16, self.residual) if self.r.stream_bits == 16 else self.quant(x)

    def quantizer(self, x: str, scale: np.float32, bits: int) -> str:
        if self.r.form == "quant":
            parameters = [self.const(v) for v in (scale, 0.0, bits)]
            domain = "qonnx.custom_op.general"
            return self.op("Quant", x, *parameters, domain=domain, signed=1, narrow=0, rounding_mode="ROUND")
        integer = np.int8 if bits == 8 else np.int16
        parameters = [self.const(scale), self.const(0, integer)]
        made = self.op("QuantizeLinear", x, *parameters)
        if self.r.form == "qcdq" and bits == 8:
            made = self.op("Clip", made, self.const(-127, np.int8), self.const(127, np.int8))
        return self.op("DequantizeLinear", made, *parameters)

    def weight(self, value: Floats) -> tuple[str, Floats]:
        """Weights [n, ...] with one scale per output channel, as a tensor and those scales."""
        flat = np.abs(value.reshape(len(value), -1)).max(axis=1) / 127
        scale = np.array([_ceil_po2(s) for s in flat]) if self.r.scales == "po2" else flat
        scale = scale.astype(np.float32).astype(np.float64)
        shaped = scale.reshape(-1, *(1,) * (value.ndim - 1))
        if self.r.form == "float":
            return self.const(value), scale
        if self.r.form == "quant":
            parameters = [self.const(v) for v in (shaped, 0.0, 8.0)]
            domain = "qonnx.custom_op.general"
            return self.op("Quant", self.const(value), *parameters, domain=domain, signed=1, narrow=1), scale
        integers = self.const(np.clip(np.rint(value / shaped), -127, 127), np.int8)
        return self.op("DequantizeLinear", integers, self.const(scale), axis=0), scale

    def bias(self, value: Floats, scale: Floats) -> str:
        """A bias on the grid of the products."""
        if self.r.form == "float":
            return self.const(value)
        if self.r.form == "quant":
            parameters = [self.const(v) for v in (scale, 0.0, 32.0)]
            return self.op("Quant", self.const(value), *parameters, domain="onnx.brevitas", signed=1, narrow=0)
        integers = self.const(np.rint(value / scale), np.int32)
        return self.op("DequantizeLinear", integers, self.const(scale), axis=0)

    # Layers

    def linear(self, x: str, k: int, n: int, gemm: bool = False) -> str:
        weight, scale = self.weight(self.normal(n, k, scale=k**-0.5))
        bias = self.bias(self.normal(n, scale=0.1), self.scale_of.get(x, 1.0) * scale)
        if gemm:
            return self.op("Gemm", x, weight, bias, transB=1)
        return self.op("Add", self.op("MatMul", x, self.op("Transpose", weight, perm=[1, 0])), bias)

    def norm(self, x: str) -> str:
        gamma, beta = self.normal(self.r.width, scale=0.1) + 1, self.normal(self.r.width, scale=0.1)
        if self.r.norm == "whole":
            return self.op("LayerNormalization", x, self.const(gamma), self.const(beta), axis=-1, epsilon=1e-5)
        axes = self.ints(-1)
        d = self.op("Sub", x, self.op("ReduceMean", x, axes, keepdims=1))
        square = self.op("Mul", d, d) if self.r.seed % 2 else self.op("Pow", d, self.const(2.0))
        root = self.op("Sqrt", self.op("Add", self.op("ReduceMean", square, axes, keepdims=1), self.const(1e-5)))
        return self.op("Add", self.op("Mul", self.op("Div", d, root), self.const(gamma)), self.const(beta))

    def activation(self, x: str) -> str:
        kind = self.r.activation
        if kind == "gelu":
            return self.op("Gelu", x)
        if kind == "relu":
            return self.op("Relu", x)
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind == "erf":
            inner = self.op("Erf", self.op("Div", x, self.const(math.sqrt(2.0))))
        else:
            cube = self.op("Mul", self.op("Pow", x, self.const(3.0)), self.const(0.044715))
            inner = self.op("Tanh", self.op("Mul", self.op("Add", x, cube), self.const(math.sqrt(2 / math.pi))))
        return self.op("Mul", self.op("Mul", x, self.op("Add", inner, self.const(1.0))), self.const(0.5))

    def split_heads(self, x: str, perm: list[int]) -> str:
        r = self.r
        return self.op("Transpose", self.op("Reshape", x, self.ints(1, r.tokens, r.heads, -1)), perm=perm)

    def qkv(self, x: str) -> list[str]:
        """Query [1, h, n, d], key [1, h, d, n] and value [1, h, n, d]."""
        r = self.r
        perms = ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
        if r.qkv == "separate":
            return [self.split_heads(self.quant(self.linear(x, r.width, r.width)), p) for p in perms]
        fused = self.quant(self.linear(x, r.width, 3 * r.width))
        if r.qkv == "split":
            first = self.op("Split", fused, self.ints(*[r.width] * 3), outputs=3, axis=-1)
            return [
                self.split_heads(name, p) for name, p in zip((first, f"{first}_1", f"{first}_2"), perms, strict=True)
            ]
        shaped = self.op("Reshape", fused, self.ints(1, r.tokens, 3, r.heads, -1))
        moved = self.op("Transpose", shaped, perm=[2, 0, 3, 1, 4])
        q, k, v = (self.op("Gather", moved, self.const(i, np.int64), axis=0) for i in range(3))
        return [q, self.op("Transpose", k, perm=[0, 1, 3, 2]), v]

    def scaled_scores(self, q: str, k: str) -> str:
        d, place = self.r.width // self.r.heads, self.r.scaling
        if place == "query":
            q = self.op("Mul", q, self.const(d**-0.5))
        elif place == "both":
            q, k = (self.op("Mul", x, self.const(d**-0.25)) for x in (q, k))
        scores = self.op("MatMul", q, k)
        if place == "scores_div":
            return self.op("Div", scores, self.const(d**0.5))
        return self.op("Mul", scores, self.const(d**-0.5)) if place == "scores_mul" else scores

    def masked(self, scores: str) -> str:
        r = self.r
        if r.mask == "full":
            return scores
        i, j = np.indices((r.tokens, r.tokens))
        seen = (j <= i) & (j > i - (r.window if r.mask == "sliding" else r.tokens))
        if r.seed % 2:
            return self.op("Add", scores, self.const(np.where(seen, 0.0, -np.inf if r.seed % 4 == 1 else -1e9)))
        return self.op("Where", self.const(seen, np.bool_), scores, self.const(-np.inf))

    def attention(self, x: str) -> str:
        q, k, v = self.qkv(x)
        probabilities = self.op("Softmax", self.masked(self.scaled_scores(q, k)), axis=-1)
        heads = self.op("Transpose", self.op("MatMul", probabilities, v), perm=[0, 2, 1, 3])
        return self.quant(self.op("Reshape", heads, self.ints(1, self.r.tokens, self.r.width)))

    def residual_add(self, stream: str, x: str) -> str:
        return self.wide(self.op("Add", stream, self.wide(x) if self.r.parts else x))

    def post_block(self, stream: str) -> str:
        """Sums are normalised; what a norm makes is multiplied (8 bit) and added to (16 bit)."""
        r = self.r
        x = self.linear(self.attention(self.quant(stream)), r.width, r.width)
        stream = self.norm(self.residual_add(self.wide(stream), x))
        x = self.linear(self.quant(stream), r.width, r.mlp)
        x = self.quant(self.activation(self.quant(x) if r.argument else x))
        return self.norm(self.residual_add(self.wide(stream), self.linear(x, r.mlp, r.width)))

    def block(self, stream: str) -> str:
        r = self.r
        x = self.attention(self.quant(self.norm(stream)))
        stream = self.residual_add(stream, self.linear(x, r.width, r.width))
        x = self.linear(self.quant(self.norm(stream)), r.width, r.mlp)
        x = self.quant(self.activation(self.quant(x) if r.argument else x))
        return self.residual_add(stream, self.linear(x, r.mlp, r.width))

    # The whole model

    def patches(self) -> str:
        """Embedded patches [1, n, width]."""
        r, image = self.r, self.quant("image")
        k, side = r.channels * r.patch**2, r.image // r.patch
        if r.embedding == "reshape":
            shaped = self.op("Reshape", image, self.ints(1, r.channels, side, r.patch, side, r.patch))
            moved = self.op("Transpose", shaped, perm=[0, 2, 4, 1, 3, 5])
            return self.linear(self.op("Reshape", moved, self.ints(1, side * side, k)), k, r.width)
        weight, scale = self.weight(self.normal(r.width, r.channels, r.patch, r.patch, scale=k**-0.5))
        inputs = [image, weight]
        if r.conv_bias:
            inputs.append(self.bias(self.normal(r.width, scale=0.1), self.scale_of.get(image, 1.0) * scale))
        made = self.op("Conv", *inputs, kernel_shape=[r.patch] * 2, strides=[r.patch] * 2)
        return self.op("Transpose", self.op("Reshape", made, self.ints(1, r.width, -1)), perm=[0, 2, 1])

    def tokens(self) -> str:
        r, x = self.r, self.patches()
        x = self.wide(x) if r.parts else x
        if r.class_token:
            token = self.const(self.on_grid(self.normal(1, 1, r.width, scale=0.3)))
            x = self.op("Concat", token, x, axis=1)
        table = self.const(self.on_grid(self.normal(1, r.tokens, r.width, scale=0.3)))
        return self.wide(self.op("Add", x, table))

    def on_grid(self, x: Floats) -> Floats:
        return x if self.r.form == "float" else np.rint(x / self.residual) * self.residual

    def model(self) -> onnx.ModelProto:
        r = self.r
        stream = self.tokens() if r.order == "pre" else self.norm(self.tokens())
        for _ in range(r.depth):
            stream = self.block(stream) if r.order == "pre" else self.post_block(stream)
        if r.seed % 2:
            row = self.op("Gather", stream, self.const(0, np.int64), axis=1)
        else:
            row = self.op("Squeeze", self.op("Slice", stream, self.ints(0), self.ints(1), self.ints(1)), self.ints(1))
        logits = self.linear(
            self.quant(self.norm(row) if r.order == "pre" else row), r.width, r.classes, gemm=bool(r.seed % 3)
        )
        return self.finished(logits)

    def finished(self, output: str) -> onnx.ModelProto:
        r = self.r
        batch: int | str = "batch" if r.symbolic_batch else 1
        shape = [batch, r.channels, r.image, r.image]
        graph = helper.make_graph(
            self.nodes,
            "vit",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 21)]
        opsets += [helper.make_opsetid(domain, 1) for domain in ("qonnx.custom_op.general", "onnx.brevitas")]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)
