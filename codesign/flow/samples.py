"""Samples for a network, read from files or random, and arrays that are written to files."""

import io
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.ir.network import Input, Network

LIMIT_BYTES = 1 << 32
"""Largest file of arrays that is read."""

Array = NDArray[np.generic]


def load_arrays(path: str | Path) -> dict[str, Array]:
    """Arrays of an untrusted ``.npy`` (one array, named "") or ``.npz`` file.

    Raises:
        InputError: missing, too large, damaged, with pickled objects, or not numbers.
    """
    file = Path(path)
    try:
        if file.stat().st_size > LIMIT_BYTES:
            raise InputError(f"{file} has {file.stat().st_size} bytes; legal: at most {LIMIT_BYTES}")
        with file.open("rb") as opened:
            found = np.load(opened, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"": _numbers(file, "", found)}
            return {name: _numbers(file, name, found[name]) for name in found.files}
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, MemoryError, SyntaxError) as error:
        raise InputError(f"{file} is no .npy or .npz file of numbers: {' '.join(str(error).split())}") from error


def _numbers(file: Path, name: str, array: Array) -> Array:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{file}: array {name!r} is {array.dtype}; legal: numbers")
    return array


def load_labels(path: str | Path, count: int) -> NDArray[np.int64]:
    """Labels of ``count`` samples from a file of one array.

    Raises:
        InputError: see `load_arrays`, or not one whole number per sample.
    """
    arrays = load_arrays(path)
    array = next(iter(arrays.values())) if len(arrays) == 1 else np.zeros(0)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(f"labels {path}: {array.dtype} {array.shape}; legal: one whole number per sample, ({count},)")
    return array.astype(np.int64)


def save_array(path: Path, array: NDArray[np.float64]) -> None:
    """Writes an array as ``.npy`` atomically.

    Raises:
        InputError: the file cannot be written.
    """
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    write_file(path, file.getvalue())


def write_file(path: Path, data: bytes) -> None:
    """Writes a file atomically.

    Raises:
        InputError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def samples_of(network: Network, arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    """One dictionary per sample, checked against the network's inputs.

    Args:
        network: defines the inputs and their shapes.
        arrays: an array per input, samples on axis 0; a single array may be named "". The sample axis may be
            omitted for a single sample.

    Raises:
        InputError: missing or unknown inputs, a wrong shape, unequal counts or no sample.
    """
    inputs = {item.name: item for item in network.inputs}
    if set(arrays) == {""} and len(inputs) == 1:
        arrays = {next(iter(inputs)): arrays[""]}
    if set(arrays) != set(inputs):
        raise InputError(f"{network.name}: arrays {sorted(arrays)}; legal: {sorted(inputs)}")
    stacked = {name: _stacked(inputs[name], np.asarray(arrays[name])) for name in inputs}
    counts = {len(array) for array in stacked.values()}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"{network.name}: {sorted(counts)} samples; legal: equally many per input, at least 1")
    return [{name: array[i] for name, array in stacked.items()} for i in range(counts.pop())]


def _stacked(item: Input, array: Array) -> Array:
    """The array with the sample axis added if it was omitted."""
    if array.dtype.kind not in "fiub":
        raise InputError(f"input {item.name} is {array.dtype}; legal: numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"input {item.name} holds NaN or infinity; legal: finite numbers")
    if array.shape == item.shape:
        return array[np.newaxis]
    if array.ndim > len(item.shape) and array.shape in ((len(array), *item.shape), (len(array), 1, *item.shape)):
        return array.reshape(len(array), *item.shape)
    raise InputError(f"input {item.name} has shape {array.shape}; legal: samples first, then {item.shape}")


def random_samples(network: Network, count: int, seed: int) -> list[dict[str, Array]]:
    """Random samples that cover each input's whole integer range.

    Args:
        network: defines the inputs, their ranges and scales.
        count: at least 1.
        seed: the same seed gives the same samples.
    """
    rng = np.random.default_rng(seed)
    scales = {item.name: network.tensors[item.target].scale for item in network.inputs}
    return [
        {item.name: rng.integers(item.low, item.high + 1, item.shape) * scales[item.name] for item in network.inputs}
        for _ in range(count)
    ]
