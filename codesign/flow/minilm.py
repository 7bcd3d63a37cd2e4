"""The sentence encoder ``minilm`` from an optional package: quantized once and cached."""

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
    """ONNX file of the encoder's device part with quantizers; the first call takes about a minute.

    Args:
        cache: cache folder; None for the user's.

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
    """Writes ``minilm.onnx`` and ``inputs.npy``, the device inputs of all test texts, into a folder.

    Raises:
        ToolError: the extra is not installed, or the cache folder cannot be written.
        InputError: the extra's files are damaged, or a folder that cannot be written.
    """
    data, encoder = encoder_file(cache), minilm.load()
    inputs = encoder.embedded(minilm.texts(encoder)[1]).astype(np.float32)
    return write(folder, minilm.NAME, data, {"inputs": inputs})


def encoder_inputs(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Device inputs of ``count`` test texts, samples on axis 0, in an order given by the seed; 0 keeps theirs.

    Raises:
        ToolError: the extra is not installed.
        InputError: more texts than available, or the extra's files are damaged.
    """
    encoder = minilm.load()
    _, texts = minilm.texts(encoder)
    if not 1 <= count <= len(texts):
        raise InputError(f"{count} samples; legal: 1 to {len(texts)}, the test texts of {minilm.NAME}")
    order = np.arange(len(texts)) if seed == 0 else np.random.default_rng(seed).permutation(len(texts))
    return encoder.embedded([texts[i] for i in order[:count]])
