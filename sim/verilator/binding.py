"""Binding (ctypes) of the compiled harness: structures, functions, and port values as bytes."""

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codesign.errors import ToolError
from codesign.sim.verilator.verilate import VerilogPort

# Fields of a memory event: ``Event`` of dram.h.
EVENT = [("cycle", "<u8"), ("address", "<u8"), ("port", "<u4"), ("channel", "<u4")]

Values = NDArray[np.unsignedinteger]

_STORAGE: dict[int, type[np.unsignedinteger]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class DramConfig(ctypes.Structure):
    """``DramConfig`` of dram.h."""

    _fields_ = [
        ("bytes", ctypes.c_uint64),
        ("num", ctypes.c_uint64),
        ("den", ctypes.c_uint64),
        ("ports", ctypes.c_uint32),
        ("port_bytes", ctypes.c_uint32),
        ("burst_bytes", ctypes.c_uint32),
        ("read_latency", ctypes.c_uint32),
        ("write_latency", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32),
    ]


class TrafficCounts(ctypes.Structure):
    """``Traffic`` of dram.h."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("read_bytes", "write_bytes", "reads", "writes")]


class Lane(ctypes.Structure):
    """``Lane`` of harness.cpp."""

    _fields_ = [("port", ctypes.c_uint32), ("bytes", ctypes.c_uint32), ("values", ctypes.c_void_p)]


_H, _I64, _U32, _U64 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint64
_PU32 = ctypes.POINTER(ctypes.c_uint32)
_SIGNATURES = {
    "open": (_H, (ctypes.POINTER(DramConfig), _H, ctypes.c_char_p, _U64)),
    "close": (None, (_H,)),
    "error": (ctypes.c_char_p, (_H,)),
    "cycle": (_U64, (_H,)),
    "set": (None, (_H, _U32, ctypes.c_char_p)),
    "get": (_I64, (_H, _U32, ctypes.c_char_p)),
    "step": (_I64, (_H, _U64)),
    "run_until": (_I64, (_H, _U32, _U64, _U64)),
    "sequence": (_I64, (_H, _U64, ctypes.POINTER(Lane), _U32, ctypes.POINTER(Lane), _U32)),
    "axil_write": (_I64, (_H, _U32, _U32, _U32, _U64, _PU32)),
    "axil_read": (_I64, (_H, _U32, _U64, _PU32, _PU32)),
    "stall": (None, (_H, _U64, _U64)),
    "record": (None, (_H, _U64)),
    "events": (_U64, (_H, ctypes.POINTER(ctypes.c_void_p))),
    "traffic": (_U64, (_H, ctypes.POINTER(ctypes.POINTER(TrafficCounts)))),
    "waves": (_I64, (_H, ctypes.c_char_p)),
}


def load(path: Path) -> dict[str, "ctypes._NamedFuncPointer"]:
    """Loads a compiled design; returns its functions by name, without the prefix.

    Raises:
        ToolError: the file does not load or is not a compiled design.
    """
    try:
        library = ctypes.CDLL(str(path))
        calls = {name: library[f"codesign_{name}"] for name in _SIGNATURES}
    except (OSError, AttributeError) as reason:
        raise ToolError(f"compiled design {path} does not load: {reason}; delete its folder") from None
    for name, (result, arguments) in _SIGNATURES.items():
        calls[name].restype = result
        calls[name].argtypes = arguments
    return calls


def empty(port: VerilogPort, count: int) -> Values:
    """Empty buffer for ``count`` cycles of a port's values, in the model's layout."""
    if port.width > 64:
        return np.zeros((count, port.storage), np.uint8)
    return np.zeros(count, _STORAGE[port.storage])


def pack(name: str, port: VerilogPort, values: NDArray[np.generic]) -> Values:
    """Converts values to the model's layout, one row per cycle.

    Raises:
        ValueError: the array has a wrong shape or type for the port, or a value does not fit.
    """
    if values.dtype.kind not in "iub":
        raise ValueError(f"values of {name} are {values.dtype}; legal: integers")
    if port.width > 64:
        return _pack_wide(name, port, values)
    if values.ndim != 1:
        raise ValueError(f"values of {name} have shape {values.shape}; legal: [cycles]")
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if not -(1 << port.width >> 1) <= low <= high < 1 << port.width:
        raise ValueError(f"values of {name} from {low} to {high} do not fit its {port.width} bits")
    mask = np.uint64((1 << port.width) - 1)
    return np.ascontiguousarray((values.astype(np.uint64) & mask).astype(_STORAGE[port.storage]))


def _pack_wide(name: str, port: VerilogPort, values: NDArray[np.generic]) -> Values:
    used = -(-port.width // 8)
    if values.dtype != np.uint8 or values.ndim != 2 or values.shape[1] != used:
        raise ValueError(f"values of {name} are {values.dtype} {values.shape}; legal: uint8 [cycles, {used}]")
    packed = np.zeros((len(values), port.storage), np.uint8)
    packed[:, :used] = values
    if port.width % 8 and int(packed[:, used - 1].max(initial=0)) >> (port.width % 8):
        raise ValueError(f"values of {name} do not fit its {port.width} bits")
    return packed


def unpack(port: VerilogPort, values: Values) -> Values:
    """Values of a port in the model's layout, without padding bytes."""
    return values[:, : -(-port.width // 8)] if port.width > 64 else values
