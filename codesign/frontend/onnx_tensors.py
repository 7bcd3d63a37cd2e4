"""Tensors of an untrusted ONNX file as arrays: raw bytes, typed fields, and external data of the model's own folder."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codesign.errors import InputError
from codesign.frontend.operators.call import MAX_ELEMENTS, Array
from codesign.frontend.operators.elementwise import FLOATS, integer_range

if TYPE_CHECKING:
    import onnx

_DTYPES: Mapping[int, str] = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8",
    12: "<u4", 13: "<u8", 16: "<u2",
}  # fmt: skip
_PACKED: Mapping[int, int] = {21: 4, 22: 4, 25: 2, 26: 2}
_BFLOAT16 = 16
_NARROW = (2, 3, 4, 5, 6, 9, 10, 16)


@dataclass(eq=False)
class TensorReader:
    """Reads tensors of one model; every size is checked against the available bytes before allocation.

    Attributes:
        name: name of the model in messages.
        folder: folder of external data; None allows none.
    """

    name: str
    folder: Path | None

    def fail(self, text: str) -> InputError:
        """Error about the model, in one line."""
        return InputError(f"{self.name}: {' '.join(text.split())}")

    def array(self, name: str, tensor: "onnx.TensorProto") -> Array:
        """Values of a tensor as float64, int64 or bool, in its shape.

        Raises:
            InputError: a shape, type or size that is not legal, NaN, or external data that may not be read.
        """
        dims = tuple(tensor.dims)
        if any(n < 0 for n in dims) or math.prod(dims) > MAX_ELEMENTS:
            raise self.fail(f"tensor {name} claims shape {dims}; legal: at most {MAX_ELEMENTS} elements")
        if tensor.data_type not in _DTYPES and tensor.data_type not in _PACKED:
            legal = sorted((*_DTYPES, *_PACKED))
            raise self.fail(f"tensor {name} has element type {tensor.data_type}; legal: {legal}")
        count = math.prod(dims)
        flat = self.widened(name, self.stored(name, tensor, count), tensor.data_type, count)
        if flat.dtype.kind == "f" and np.isnan(flat).any():
            raise self.fail(f"tensor {name} holds NaN; legal: finite weights")
        return flat.reshape(dims)

    def stored(self, name: str, tensor: "onnx.TensorProto", count: int) -> Array:
        """The values as the file stores them, types narrower than a byte still packed."""
        kind = tensor.data_type
        if tensor.data_location == 1 or tensor.HasField("raw_data"):
            dtype = np.dtype(_DTYPES.get(kind, "u1"))
            data = self.external(name, tensor) if tensor.data_location == 1 else tensor.raw_data
            size = _stored(kind, count) * dtype.itemsize
            if len(data) != size:
                raise self.fail(f"tensor {name} has {len(data)} bytes; legal: {size} for its shape")
            return np.frombuffer(data, dtype)
        values = _typed_field(tensor)
        if len(values) != _stored(kind, count):
            raise self.fail(f"tensor {name} has {len(values)} values; legal: {_stored(kind, count)} for its shape")
        if kind in (_BFLOAT16, 10):
            return np.array(values, np.int64).astype("<u2").view(_DTYPES[kind])
        return np.array(values, np.float64 if kind in FLOATS else np.uint64 if kind == 13 else np.int64)

    def widened(self, name: str, x: Array, kind: int, count: int) -> Array:
        """Converts the file's element type to float64, int64 or bool."""
        if kind in _PACKED:
            return _unpacked(x, kind, count)
        if kind == _BFLOAT16:
            x = (x.astype(np.uint32) << 16).view(np.float32)
        if kind == 9:
            return x.astype(np.bool_)
        if x.dtype.kind == "u" and int(x.max(initial=0)) >= 1 << 63:
            raise self.fail(f"tensor {name} holds {int(x.max())}; legal: below {1 << 63}")
        return x.astype(np.float64 if kind in FLOATS else np.int64)

    def external(self, name: str, tensor: "onnx.TensorProto") -> bytes:
        """Bytes of a tensor stored in another file of the model's folder."""
        entries = {e.key: e.value for e in tensor.external_data}
        path = self.inside(name, entries.get("location", ""))
        offset, length = entries.get("offset", "0"), entries.get("length")
        if not offset.isdecimal() or not (length is None or length.isdecimal()):
            raise self.fail(f"tensor {name} has external offset {offset!r}, length {length!r}; legal: byte counts")
        size = path.stat().st_size
        count = size - int(offset) if length is None else int(length)
        if count < 0 or int(offset) + count > size or count > 8 * MAX_ELEMENTS:
            raise self.fail(f"tensor {name} claims {count} bytes at {offset} of {path.name}, which has {size}")
        try:
            with path.open("rb") as file:
                file.seek(int(offset))
                return file.read(count)
        except OSError as error:
            raise self.fail(f"tensor {name}: {path.name} cannot be read ({error.strerror})") from error

    def inside(self, name: str, location: str) -> Path:
        """File of external data; refuses one outside the model's folder."""
        legal = "legal: a file in the model's folder"
        if self.folder is None or not location or "\0" in location:
            raise self.fail(f"tensor {name} has external data at {location!r}; {legal}")
        folder = self.folder.resolve()
        path = (folder / location).resolve()
        if not path.is_relative_to(folder) or Path(location).is_absolute() or not path.is_file():
            raise self.fail(f"tensor {name} has external data at {location!r}; {legal}")
        return path


def _typed_field(tensor: "onnx.TensorProto") -> list[float] | list[int]:
    """Values of a tensor that is not stored as raw bytes."""
    kind = tensor.data_type
    if kind in _NARROW or kind in _PACKED:
        return list(tensor.int32_data)
    if kind == 7:
        return list(tensor.int64_data)
    if kind in (12, 13):
        return list(tensor.uint64_data)
    return list(tensor.double_data if kind == 11 else tensor.float_data)


def _stored(kind: int, count: int) -> int:
    """Number of stored values for a number of elements; types narrower than a byte share one."""
    return -(-count * _PACKED[kind] // 8) if kind in _PACKED else count


def _unpacked(x: Array, kind: int, count: int) -> Array:
    """Unpack elements that share bytes, the first in the lowest bits, as int64."""
    bits, ends = _PACKED[kind], integer_range(kind)
    parts = x.astype(np.int64)[:, None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)
    values = parts.reshape(-1)[:count]
    return np.where(values > ends[1], values - (1 << bits), values) if ends else values
