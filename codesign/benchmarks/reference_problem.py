"""Synthetic search problem with a known front: an FPGA accelerator for a matrix product.

It has nine parameters, 1.2e9 designs and three objectives.

The array has R x C elements, each with u multipliers. The product of 1024 x 1024 x 1024 is cut into tiles of
tm x tn x tk; o is the stationary operand (output, weight, input), d the number of buffers, b the bytes per
cycle to memory. Its front, found by enumerating all designs, is stored in ``codesign/data``.
"""

from importlib import resources

import numpy as np
from numpy.typing import NDArray

from codesign.solver.front import hypervolume
from codesign.solver.problem import Array, Inputs, Problem, Term, monotone
from codesign.target.kernel import ceil_div

M = N = K = 1024
DSP, BRAM, LUT = 1728, 624, 230400
_TILES = (
    8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144,
    160, 192, 224, 256, 288, 320, 352, 384, 448, 512, 576, 640, 704, 768, 896, 1024,
)  # fmt: skip
_SIDES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 64)
_UNROLL = (1, 2, 3, 4, 6, 8, 12, 16)
AXES = {
    "R": _SIDES, "C": _SIDES, "u": _UNROLL, "o": (0, 1, 2), "d": (1, 2), "b": (16, 32, 64),
    "tm": _TILES, "tn": _TILES, "tk": _TILES,
}  # fmt: skip


def _bytes(x: Inputs) -> Array:
    """Bytes transferred to and from memory."""
    left, right = np.where(x["o"] == 2, 1, x["nn"]), np.where(x["o"] == 1, 1, x["nm"])
    return np.asarray(M * K * left + K * N * right + M * N * np.where(x["o"] == 0, 1, 4 * (2 * x["nk"] - 1)))


def _latency(x: Inputs) -> Array:
    overlapped = np.maximum(x["compute"], x["memory"]) + x["first"]
    return np.where(x["d"] > 1, overlapped, x["compute"] + x["memory"])


def _lut(x: Inputs) -> Array:
    array, edges = x["R"] * x["C"], x["R"] + x["C"]
    return np.asarray(18.0 * array * x["u"] + 40.0 * edges * x["u"] + 60.0 * array + 1500.0 * x["b"] / 16.0 + 6000.0)


def _buffer(words: Array, lanes: Array, depth: int) -> Array:
    """Block RAMs of a buffer of `words` words in `lanes` banks."""
    return np.asarray(lanes * ceil_div(words, lanes * depth))


def _energy(x: Inputs) -> Array:
    fixed = 0.25 * M * N * K + 20.0 * x["bytes"] + 1.2 * (x["local"] + x["bytes"] * 2.0)
    return np.asarray(fixed + x["latency"] * (x["power"] + 0.6 * x["bram"] / 100.0) * 3.0)


def _compute(x: Inputs) -> Array:
    return np.asarray(x["rows"] * x["columns"] * x["depths"] + x["nm"] * x["nn"] * x["nk"] * x["fill"])


_TERMS = (
    Term("nm", ("tm",), lambda x: ceil_div(M, x["tm"])),
    Term("nn", ("tn",), lambda x: ceil_div(N, x["tn"])),
    Term("nk", ("tk",), lambda x: ceil_div(K, x["tk"])),
    Term("rows", ("nm", "tm", "R"), lambda x: x["nm"] * ceil_div(x["tm"], x["R"])),
    Term("columns", ("nn", "tn", "C"), lambda x: x["nn"] * ceil_div(x["tn"], x["C"])),
    Term("depths", ("nk", "tk", "u"), lambda x: x["nk"] * ceil_div(x["tk"], x["u"])),
    Term("fill", ("R", "C"), lambda x: x["R"] + x["C"] + 12),
    monotone("compute", ("rows", "columns", "depths", "nm", "nn", "nk", "fill"), _compute),
    Term("bytes", ("o", "nm", "nn", "nk"), _bytes, rising=("nm", "nn", "nk")),
    monotone("memory", ("bytes", "b"), lambda x: x["bytes"] / x["b"], falling=("b",)),
    monotone("first", ("tm", "tn", "tk", "b"), lambda x: (x["tm"] + x["tn"]) * x["tk"] / x["b"], falling=("b",)),
    Term("latency", ("d", "compute", "memory", "first"), _latency, rising=("compute", "memory", "first")),
    Term("dsp", ("R", "C", "u"), lambda x: ceil_div(x["R"] * x["C"] * x["u"], 2)),
    Term("lut", ("R", "C", "u", "b"), _lut),
    Term("bram_left", ("R", "u", "tm", "tk"), lambda x: _buffer(x["tm"] * x["tk"], x["R"] * x["u"], 2048)),
    Term("bram_right", ("C", "u", "tk", "tn"), lambda x: _buffer(x["tk"] * x["tn"], x["C"] * x["u"], 2048)),
    Term("bram_out", ("R", "C", "tm", "tn"), lambda x: _buffer(x["tm"] * x["tn"], x["R"] * x["C"], 512)),
    monotone(
        "bram", ("d", "bram_left", "bram_right", "bram_out"),
        lambda x: x["d"] * (x["bram_left"] + x["bram_right"]) + x["bram_out"],
    ),
    Term("logic", ("dsp", "lut"), lambda x: np.maximum(x["dsp"] / DSP, x["lut"] / LUT)),
    monotone("share", ("logic", "bram"), lambda x: np.maximum(x["logic"], x["bram"] / BRAM)),
    Term("local", ("R", "C"), lambda x: 2.0 * M * N * K / np.minimum(x["R"], x["C"])),
    Term("power", ("dsp", "b"), lambda x: 0.9 + 0.25 * x["dsp"] / 100.0 + 0.2 * x["b"]),
    monotone("energy", ("bytes", "local", "latency", "power", "bram"), _energy),
)  # fmt: skip


def reference_problem() -> Problem:
    """The problem; its objectives are latency in cycles, energy in arbitrary units and the largest resource share."""
    return Problem(AXES, _TERMS, {"share": 1.0}, ("latency", "energy", "share"))


def known_front() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Enumerated front: objective vectors ``[602, 3]`` (single precision) and axis indices ``[602, 9]``."""
    path = resources.files("codesign") / "data" / "reference-front.npz"
    with path.open("rb") as file, np.load(file) as data:
        return data["values"].astype(np.float64), data["points"].astype(np.int64)


def hypervolume_ratio(values: NDArray[np.float64], true: NDArray[np.float64] | None = None) -> float:
    """Hypervolume of a front over the true front's, of log objectives scaled to the true range, reference point 1.1.

    Args:
        values: positive objective vectors, one per row.
        true: the true front; by default that of the reference problem.
    """
    known = known_front()[0] if true is None else true
    low, high = np.log(known.min(axis=0)), np.log(known.max(axis=0))
    span, corner = np.where(high > low, high - low, 1.0), (1.1,) * known.shape[1]
    mine, most = (hypervolume((np.log(each) - low) / span, corner) for each in (values, known))
    return mine / most
