"""Random small BERT encoders, and a second, plain implementation of what they compute."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.quant.calibrate.minilm import Bert, Encoder

Floats = NDArray[np.float64]


def bert(
    seed: int = 0, layers: int = 2, width: int = 24, heads: int = 3, inner: int = 40, vocabulary: int = 50
) -> Bert:
    """Weights as a trained encoder has them, roughly: channels of norms that stick out included."""
    rng = np.random.default_rng([seed, 11])
    weights: dict[str, Floats] = {
        "embeddings.word_embeddings.weight": rng.normal(size=(vocabulary, width)),
        "embeddings.position_embeddings.weight": rng.normal(size=(64, width)) * 0.3,
        "embeddings.token_type_embeddings.weight": rng.normal(size=(2, width)) * 0.3,
    }

    def linear(name: str, n: int, k: int) -> None:
        weights[f"{name}.weight"] = rng.normal(size=(n, k)) * k**-0.5
        weights[f"{name}.bias"] = rng.normal(size=n) * 0.1

    def norm(name: str) -> None:
        gain = 1 + 0.2 * rng.normal(size=width)
        gain[rng.integers(width)] *= 6
        weights[f"{name}.LayerNorm.weight"] = gain
        weights[f"{name}.LayerNorm.bias"] = rng.normal(size=width) * 0.1

    norm("embeddings")
    for layer in (f"encoder.layer.{i}" for i in range(layers)):
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output")
        linear(f"{layer}.intermediate.dense", inner, width)
        linear(f"{layer}.output.dense", width, inner)
        norm(f"{layer}.output")
    return Bert({n: x.astype(np.float32) for n, x in weights.items()}, heads)


@cache
def _letters(text: str) -> tuple[int, ...]:
    """Tokens of a text: a mark, a number per letter, and another mark."""
    return (1, *(2 + ord(letter) % 48 for letter in text), 0)


def encoder(seed: int = 0) -> Encoder:
    """An encoder whose tokens are letters: a text has two more than it has letters."""
    return Encoder(bert(seed), lambda texts: [[*_letters(t)] for t in texts], f"letters {seed}")


def reference(model: Bert, tokens: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Hidden states of one text before the first layer and after the last one, as the paper's formulas say."""
    w = {name: x.astype(np.float64) for name, x in model.weights.items()}
    x = np.array(
        [
            w["embeddings.word_embeddings.weight"][token]
            + w["embeddings.position_embeddings.weight"][place]
            + w["embeddings.token_type_embeddings.weight"][0]
            for place, token in enumerate(tokens.tolist())
        ]
    )
    first = x = _norm(w, "embeddings", x, model.epsilon)
    layers = {name.split(".")[2] for name in w if name.startswith("encoder.layer.")}
    for layer in (f"encoder.layer.{i}" for i in range(len(layers))):
        q, k, v = (_linear(w, f"{layer}.attention.self.{part}", x) for part in ("query", "key", "value"))
        depth = x.shape[1] // model.heads
        mixed = np.zeros_like(x)
        for head in range(model.heads):
            own = slice(head * depth, (head + 1) * depth)
            scores = np.exp(q[:, own] @ k[:, own].T / math.sqrt(depth))
            mixed[:, own] = scores / scores.sum(axis=1, keepdims=True) @ v[:, own]
        x = _norm(
            w, f"{layer}.attention.output", x + _linear(w, f"{layer}.attention.output.dense", mixed), model.epsilon
        )
        inner = _linear(w, f"{layer}.intermediate.dense", x)
        inner = inner * np.array([[(1 + math.erf(v / math.sqrt(2))) / 2 for v in row] for row in inner.tolist()])
        x = _norm(w, f"{layer}.output", x + _linear(w, f"{layer}.output.dense", inner), model.epsilon)
    return first, x


def _linear(w: dict[str, Floats], name: str, x: Floats) -> Floats:
    return np.asarray(np.einsum("tk,nk->tn", x, w[f"{name}.weight"]) + w[f"{name}.bias"])


def _norm(w: dict[str, Floats], name: str, x: Floats, epsilon: float) -> Floats:
    made = (x - x.mean(axis=1)[:, None]) / np.sqrt(x.var(axis=1)[:, None] + epsilon)
    return np.asarray(made * w[f"{name}.LayerNorm.weight"] + w[f"{name}.LayerNorm.bias"])


def write(folder: Path, model: Bert) -> None:
    """The three files of an encoder whose words are numbers."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    save_file(dict(model.weights), folder / "model.safetensors")
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, **{str(i): 3 + i for i in range(40)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_padding(length=5)
    tokenizer.enable_truncation(7)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"num_attention_heads": model.heads, "layer_norm_eps": model.epsilon}
    (folder / "config.json").write_text(json.dumps(config))
