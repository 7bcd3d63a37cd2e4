"""The sentence encoder ``minilm`` of the extra: quantized once, kept in the user's cache folder."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.cache import default_cache, publish
from codesign.errors import InputError
from codesign.frontend.zoo import write
from codesign.quant.calibrate import minilm

_LOG = logging.getLogger(__name__)
_FILE = f"{minilm.NAME}.onnx"


def encoder_file(cache: Path | None = None) -> bytes:
    """The encoder's device model with quantizers, as an ONNX file; the first time takes about a minute.

    Args:
        cache: folder for the result; None takes the user's.

    Raises:
        ToolError: the extra is not installed, or the cache folder cannot be written.
        InputError: the extra's files are damaged.
    """
    encoder = minilm.load()

    def fill(folder: Path) -> None:
        _LOG.info("%s: taking scales from %d texts; a minute, once", minilm.NAME, minilm.CALIBRATION_TEXTS)
        (folder / _FILE).write_bytes(minilm.quantized(encoder))

    name = f"{minilm.NAME}-{minilm.fingerprint(encoder)}"
    return (publish(cache or default_cache(), name, fill) / _FILE).read_bytes()


def export_encoder(folder: str | Path, cache: Path | None = None) -> tuple[Path, ...]:
    """Write ``minilm.onnx`` and ``inputs.npy``, what the device gets for all test texts, into a folder.

    Raises:
        ToolError: the extra is not installed, or the cache folder cannot be written.
        InputError: the extra's files are damaged, or a folder that cannot be written.
    """
    data, encoder = encoder_file(cache), minilm.load()
    inputs = encoder.embedded(minilm.texts(encoder)[1]).astype(np.float32)
    return write(folder, minilm.NAME, data, {"inputs": inputs})


def encoder_inputs(count: int, seed: int = 0) -> NDArray[np.float64]:
    """What the device gets for some of the test texts, samples first, in an order that the seed gives.

    Raises:
        ToolError: the extra is not installed.
        InputError: more texts than there are, or the extra's files are damaged.
    """
    encoder = minilm.load()
    _, texts = minilm.texts(encoder)
    if not 1 <= count <= len(texts):
        raise InputError(f"{count} samples; legal: 1 to {len(texts)}, the test texts of {minilm.NAME}")
    order = np.arange(len(texts)) if seed == 0 else np.random.default_rng(seed).permutation(len(texts))
    return encoder.embedded([texts[i] for i in order[:count]])
