"""Random post-norm transformers as integer networks, the kind that BERT and MiniLM are.

Every norm feeds linear layers (8 bits) and the next residual add (16 bits); the residual stream itself ends at
each norm. A model input may feed both at once, or an embedding with constant rows begins the stream.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from codesign.ir.network import MASKS, Attention, Input, Layer, Linear, Network, Norm, Output, Tensor
from codesign.numerics.fixed_point import requantizer
from codesign.numerics.nonlinear import norm_parameters

_SPREAD = {8: 40.0, 16: 6000.0}
"""Standard deviation that the values of a tensor aim at, by bits."""
_WEIGHT = 73.6
"""Standard deviation of a weight."""


@dataclass
class _Builder:
    """Layers and tensors under construction; ``wild`` gives norms full-range gains, biases and shifts."""

    rng: np.random.Generator
    rows: int
    wild: bool
    tensors: dict[str, Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    constants: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int16]]] = field(default_factory=dict)

    def tensor(self, name: str, rows: int, columns: int, bits: int) -> str:
        self.tensors[name] = Tensor(name, rows, columns, bits, 1.0)
        return name

    def linear(self, name: str, source: str, n: int, bits: int, addend: str | None = None, table: bool = False) -> str:
        """A random linear layer whose results use most of their range."""
        k, half = self.tensors[source].columns, 1 << bits - 1
        multiplier, shift = requantizer(_SPREAD[bits] / (_SPREAD[8] * _WEIGHT * k**0.5))
        self.layers.append(
            Linear(
                name, source, self.tensor(name, self.rows, n, bits), self.rows,
                self.rng.integers(-127, 128, (n, k)).astype(np.int8), self.rng.integers(-5000, 5000, n),
                np.full(n, multiplier), np.full(n, shift), -half, half - 1,
                self.rng.integers(-128, 128, 256).astype(np.int8) if table else None, addend,
            )
        )  # fmt: skip
        return name

    def norm(self, name: str, source: str, bits: int, rms: bool, first_row: int = 0, rows: int = 0) -> str:
        """A norm with parameters as a trained model has them, or with any that are legal."""
        rows, d = rows or self.rows, self.tensors[source].columns
        gamma, beta = self.rng.uniform(0.2, 2, d), self.rng.normal(0, 0.5, d)
        gain, bias, shift, eps = norm_parameters(gamma, beta, 1e-6, 2.0**-9, 1 / _SPREAD[bits], d)
        if self.wild:
            gain, bias = self.rng.integers(-(1 << 15), 1 << 15, d), self.rng.integers(-(1 << 31), 1 << 31, d)
            shift, eps = int(self.rng.integers(0, 32)), int(self.rng.integers(1 << int(self.rng.integers(1, 49))))
        target = self.tensor(name, rows, d, bits)
        self.layers.append(Norm(name, source, target, rows, gain, bias, shift, eps, rms, first_row, bits))
        return name

    def attention(self, name: str, q: str, k: str, v: str, heads: int) -> str:
        mask = str(self.rng.choice(MASKS))
        width = self.tensors[q].columns
        score, out = requantizer(128 / (_SPREAD[8] ** 2 * (width / heads) ** 0.5)), requantizer(1.0)
        self.tensor(name, self.rows, width, 8)
        window = int(self.rng.integers(1, self.rows + 1)) if mask == "sliding" else 0
        dim = width // heads
        self.layers.append(
            Attention(name, q, k, v, name, self.rows, self.rows, heads, dim, *score, *out, mask=mask, window=window)
        )
        return name

    def pair(self, name: str, source: str, rms: bool) -> tuple[str, str]:
        """The two norms of one post-norm: 8 bits to be multiplied, 16 bits to be added."""
        return self.norm(f"{name} narrow", source, 8, rms), self.norm(f"{name} wide", source, 16, rms)

    def block(self, at: int, x: tuple[str, str], heads: int, hidden: int, rms: bool) -> str:
        """Attention and perceptron, each with its add; returns the stream in front of the last norm."""
        width = self.tensors[x[0]].columns
        q, k, v = (self.linear(f"{name}{at}", x[0], width, 8) for name in "qkv")
        mixed = self.attention(f"mixed{at}", q, k, v, heads)
        first = self.linear(f"first{at}", mixed, width, 16, addend=x[1])
        inner = self.pair(f"inner{at}", first, rms)
        up = self.linear(f"up{at}", inner[0], hidden, 8, table=True)
        return self.linear(f"second{at}", up, width, 16, addend=inner[1])


@cache
def post_norm(seed: int, *, wild: bool = False) -> Network:
    """A random post-norm transformer; all its scales are 1.

    Args:
        seed: the same seed gives the same network.
        wild: norms with any legal numbers, so that most of their results are saturated.
    """
    rng = np.random.default_rng([seed, 55])
    heads = int(rng.integers(1, 4))
    width, rows = heads * int(rng.integers(3, 14)), int(rng.integers(1, 20))
    make, rms = _Builder(rng, rows, wild), bool(rng.integers(2))
    inputs: tuple[Input, ...]
    gather = np.arange(rows * width).reshape(rows, width)
    narrow = Input("x", gather.shape, make.tensor("x narrow", rows, width, 8), gather)
    if rng.integers(2):
        wide = make.tensor("x wide", rows, width, 16)
        inputs, x = (narrow, Input("x", gather.shape, wide, gather, -(1 << 15), (1 << 15) - 1)), ("x narrow", "x wide")
    else:
        make.constants["positions"] = rng.integers(-8000, 8000, (rows, width)).astype(np.int16)
        inputs = (narrow,)
        x = make.pair("embedded", make.linear("embedding", "x narrow", width, 16, addend="positions"), rms)
    for at in range(int(rng.integers(1, 3))):
        stream = make.block(at, x, heads, int(rng.integers(5, 50)), rms)
        x = make.pair(f"outer{at}", stream, rms)
    ends = [x[1], make.linear("head", x[0], int(rng.integers(2, 12)), int(rng.choice([8, 16])))]
    if rng.integers(2):
        ends.append(make.norm("pooled", stream, 16, rms, first_row=rows - 1, rows=1))
    outputs = tuple(Output(name, make.tensors[name].shape, name) for name in ends)
    return Network(f"post-norm {seed}", make.tensors, tuple(make.layers), inputs, outputs, make.constants)


def samples(
    network: Network, seed: int, count: int
) -> list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]]:
    """Samples of a network of `post_norm`; most numbers fit 8 bits, some need 16, some neither."""
    rng = np.random.default_rng([seed, 56])
    shapes = {item.name: item.shape for item in network.inputs}
    spread = rng.choice([40.0, 3000.0, 40000.0], count)
    return [{name: rng.normal(0, s, shape) for name, shape in shapes.items()} for s in spread]
