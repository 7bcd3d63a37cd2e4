"""Models by name: small trained built-in models, and matrix products.

``import codesign.frontend.zoo`` requires only numpy; reading an ONNX file imports onnx.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.frontend.workload import Workload, load_onnx, parse_onnx, sample_shape
from codesign.ir.network import Input, Linear, Network, Output, Tensor
from codesign.numerics.fixed_point import requantizer

MAX_GEMM_SIZE = 1 << 16
"""Largest M, K or N of a ``gemm:`` model."""

MAX_GEMM_WORDS = 1 << 28
"""Maximum elements of a matrix of a ``gemm:`` model."""

_GEMM = re.compile(r"gemm:(-?\d{1,18})x(-?\d{1,18})x(-?\d{1,18})(?::(\w+))?", re.ASCII)


@dataclass(frozen=True)
class Model:
    """A built-in model.

    Attributes:
        name: name accepted by `load`.
        description: one line.
        file: file in ``codesign/data``; empty if the weights are in an optional package.
        heldout: file of held-out labelled samples in ``codesign/data``; empty if there are none.
        bare: whether the file's quantizers are removed to give a float model.
    """

    name: str
    description: str
    file: str = ""
    heldout: str = ""
    bare: bool = False


def models() -> tuple[Model, ...]:
    """All built-in models, by name."""
    return (
        Model(
            "digits-mlp",
            "digits 8x8: three matrix products with ReLU, power-of-two scales",
            "digits-mlp.onnx",
            "digits-heldout.npz",
        ),
        Model(
            "digits-moe-vit",
            "digits 8x8: digits-vit with 4 experts, 2 per token, in every second block; no hardware yet, golden only",
            "digits-moe-vit.onnx",
            "digits-heldout.npz",
        ),
        Model(
            "digits-vit",
            "digits 8x8: vision transformer, 17 tokens, width 64, 4 heads, 4 blocks",
            "digits-vit.onnx",
            "digits-heldout.npz",
        ),
        Model(
            "digits-vit-float",
            "digits-vit without its quantizers: a float model, to be quantized with samples",
            "digits-vit.onnx",
            "digits-heldout.npz",
            bare=True,
        ),
        Model(
            "minilm",
            "sentence encoder all-MiniLM-L6-v2: 6 post-norm BERT layers on 32 tokens; its weights are an extra",
        ),
    )


def model(name: str) -> Model:
    """The model of this name.

    Raises:
        InputError: there is none.
    """
    found = next((m for m in models() if m.name == name), None)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> InputError:
    names = ", ".join(m.name for m in models())
    return InputError(f"model {name!r} is not known; legal: {names}, gemm:MxKxN, or a path to a .onnx file")


def load(name: str | Path) -> Workload | Network:
    """Load a model.

    Args:
        name: a name of `models`, ``gemm:MxKxN`` or ``gemm:MxKxN:int8``, or a path to an ONNX file.

    Returns:
        A `Network` for matrix products, else a `Workload`.

    Raises:
        InputError: unknown name, unusable file, or a model whose weights are in an optional package.
    """
    text = str(name)
    if text.startswith("gemm:"):
        return _parsed_gemm(text)
    if text in {m.name for m in models()}:
        return _shipped(text)
    path = Path(name)
    if path.suffix == ".onnx" or _is_file(path):
        return load_onnx(path)
    raise _unknown(text)


def _shipped(name: str) -> Workload:
    found = _with_file(name)
    if found.bare:
        return parse_onnx(_content(found), name)
    with resources.as_file(_data(found.file)) as path:
        return load_onnx(path)


def _with_file(name: str) -> Model:
    found = model(name)
    if not found.file:
        raise InputError(f"model {name} is no file of this package, it is made from an extra; legal: load or build it")
    return found


def _content(found: Model) -> bytes:
    """Bytes of a built-in model's file."""
    data = _data(found.file).read_bytes()
    if not found.bare:
        return data
    import onnx

    whole = onnx.load_model_from_string(data)
    for node in whole.graph.node:
        if node.op_type == "Quant":
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output, node.name))
    return bytes(whole.SerializeToString())


def original(name: str | Path) -> bytes:
    """Bytes of the ONNX file from which `load` reads a model.

    Raises:
        InputError: the file cannot be read.
    """
    if str(name) in {m.name for m in models()}:
        return _content(_with_file(str(name)))
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read model {name}: {error.strerror}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _data(file: str) -> resources.abc.Traversable:
    return resources.files("codesign") / "data" / file


def heldout(name: str) -> tuple[Mapping[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Held-out samples of a built-in model.

    Returns:
        An array per model input, samples on axis 0, and the label of each sample.

    Raises:
        InputError: an unknown name, or a model without labelled samples.
    """
    shapes = _shipped(name).inputs
    with resources.as_file(_data(model(name).heldout)) as path, np.load(path, allow_pickle=False) as arrays:
        labels = arrays["label"].astype(np.int64)
        inputs = {n: arrays[n].astype(np.float32) for n in shapes}
    return {n: x.reshape(-1, *sample_shape(shapes[n])) for n, x in inputs.items()}, labels


def export(name: str, folder: str | Path) -> tuple[Path, ...]:
    """Write a built-in model and its held-out samples into a folder.

    Returns:
        The files: ``NAME.onnx``, ``inputs.npy``, ``labels.npy``.

    Raises:
        InputError: an unknown name, or a folder that cannot be written.
    """
    inputs, labels = heldout(name)
    return write(folder, name, _content(model(name)), {"inputs": next(iter(inputs.values())), "labels": labels})


def write(folder: str | Path, name: str, data: bytes, arrays: Mapping[str, NDArray[Any]]) -> tuple[Path, ...]:
    """Write a model's file and some arrays into a folder.

    Returns:
        The files: ``NAME.onnx``, and an ``.npy`` per array.

    Raises:
        InputError: a folder that cannot be written.
    """
    target = Path(folder)
    paths = target / f"{name}.onnx", *(target / f"{label}.npy" for label in arrays)
    try:
        target.mkdir(parents=True, exist_ok=True)
        paths[0].write_bytes(data)
        for path, array in zip(paths[1:], arrays.values(), strict=True):
            np.save(path, array)
    except OSError as error:
        raise InputError(f"folder {target} cannot be written ({error.strerror}); legal: a writable folder") from error
    return paths


# Matrix products -------------------------------------------------------------------


def _parsed_gemm(text: str) -> Network:
    match = _GEMM.fullmatch(text)
    if match is None or match[4] not in (None, "int8"):
        raise InputError(f"model {text!r} is not a matrix product; legal: gemm:MxKxN or gemm:MxKxN:int8")
    return gemm(*(int(size) for size in match.groups()[:3]))


def gemm(m: int, k: int, n: int, seed: int = 0) -> Network:
    """One int8 matrix product ``[m, k] x [k, n]`` with full-range random weights.

    For inputs drawn uniformly from int8, the output's standard deviation is 32, a quarter of full scale.

    Args:
        m: rows of the input; each size is 1 to `MAX_GEMM_SIZE`.
        k: columns of the input.
        n: columns of the output; no matrix may have more than `MAX_GEMM_WORDS` elements.
        seed: seed of the weights.

    Raises:
        InputError: a size that is not legal.
    """
    if not all(1 <= size <= MAX_GEMM_SIZE for size in (m, k, n)):
        raise InputError(f"gemm {m}x{k}x{n}; legal: sizes of 1 to {MAX_GEMM_SIZE}")
    if max(m * k, k * n, m * n) > MAX_GEMM_WORDS:
        raise InputError(f"gemm {m}x{k}x{n}; legal: matrices of at most {MAX_GEMM_WORDS} elements")
    weights = np.random.default_rng([seed, m, k, n]).integers(-127, 128, size=(n, k), dtype=np.int8)
    multiplier, shift = requantizer(32 / (74 * 73.3 * k**0.5))
    layer = Linear(
        name="gemm",
        source="a",
        target="c",
        rows=m,
        weights=weights,
        bias=np.zeros(n, np.int64),
        multiplier=np.full(n, multiplier, np.int64),
        shift=np.full(n, shift, np.int64),
    )
    return Network(
        name=f"gemm-{m}x{k}x{n}",
        tensors={"a": Tensor("a", m, k, 8, 1.0), "c": Tensor("c", m, n, 8, 2.0**shift / multiplier)},
        layers=(layer,),
        inputs=(Input("a", (m, k), "a", np.arange(m * k, dtype=np.int64).reshape(m, k)),),
        outputs=(Output("c", (m, n), "c"),),
    )
