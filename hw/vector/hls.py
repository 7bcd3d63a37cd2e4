"""The vector kernel as HLS C++, with the design parameters of its RTL.

`sources` generates the project, `data` turns norms into testbench commands with expected results.
`codesign.sim.hls` compiles it and compares with golden; see `codesign.hw.emit.hls` for the limits of that
check. Digit recurrences take one cycle per digit, as in the RTL.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from codesign.errors import NothingFits
from codesign.hw.emit.hls import CLOCK_MHZ, PART, Argument, HlsCall, HlsTop, decode, encode, project, vectors, words
from codesign.hw.vector import RMS, WIDE_RESULT
from codesign.ir.network import Norm
from codesign.numerics import nonlinear
from codesign.numerics.fixed_point import IntArray, IntLike, integers, limits
from codesign.target.kernel import ceil_div

if TYPE_CHECKING:
    from codesign.hw.vector import VectorKernel

_OPERANDS = {
    "rows": "rows",
    "d": "columns",
    "shift": "of the last rounding, 0 to 31",
    "flags": "bit 0: root-mean-square norm; bit 1: results of 16 bits, in a wide design",
    "eps": "added to the variance",
}


@dataclass(frozen=True, eq=False)
class HlsNorm:
    """A norm with its input rows.

    Attributes:
        layer: the norm to run.
        r: int16 source, ``[at least first_row + rows, d]``.
    """

    layer: Norm
    r: IntLike


def top(kernel: "VectorKernel") -> HlsTop:
    """The top function of a design."""
    fields, t_v = kernel.fields, kernel.t_v
    return HlsTop(
        "vector",
        f"Vector<{t_v}, {kernel.max_d}, {kernel.ring_words}{', 1' if kernel.wide else ''}>",
        f"The vector kernel in HLS C++: layer and RMS norm, {t_v} columns per cycle, rows of up to {kernel.max_d}.",
        (
            *(Argument(name, "operand", fields[name], text) for name, text in _OPERANDS.items()),
            Argument("source", "input", 16 * t_v, "rows of int16, each filled up to a whole word"),
            Argument("affine", "input", 64 * t_v, "once per command, per column 32 bits of bias, 16 of gain"),
            Argument("target", "output", 8 * _bytes(kernel) * t_v, f"rows of int{8 * _bytes(kernel)}"),
        ),
    )


def _bytes(kernel: "VectorKernel") -> int:
    """Bytes of a result on its stream; 8-bit results are sign-extended in a wide design."""
    return 1 + kernel.wide


def sources(kernel: "VectorKernel", part: str = PART, clock_mhz: int = CLOCK_MHZ) -> dict[str, str]:
    """The HLS project of a design, file name to text; see `codesign.hw.emit.hls.project`."""
    return project(top(kernel), part, clock_mhz)


def job_vectors(kernel: "VectorKernel", jobs: list[HlsNorm]) -> dict[str, str]:
    """Testbench input files for jobs that run one after the other.

    Raises:
        NothingFits: a row is longer than ``max_d``, or results have 16 bits and the design is not wide.
        ValueError: an array has a shape or values that its layer does not take.
    """
    return vectors(top(kernel), [_call(kernel, job) for job in jobs], {})


def data(kernel: "VectorKernel", jobs: list[HlsNorm]) -> dict[str, str]:
    """Files of the project's folder ``data``: `job_vectors` and the expected results from golden."""
    return job_vectors(kernel, jobs) | {"target.expected.hex": "".join(_expected(kernel, job) for job in jobs)}


def targets(kernel: "VectorKernel", jobs: list[HlsNorm], text: str) -> list[IntArray]:
    """The target of each job, decoded from the words that the testbench wrote."""
    values = decode(text).reshape(-1).view((np.int8, np.int16)[kernel.wide]).astype(np.int64)
    found, at = [], 0
    for job in jobs:
        width = ceil_div(job.layer.d, kernel.t_v) * kernel.t_v
        size = job.layer.rows * width
        found.append(values[at : at + size].reshape(-1, width)[:, : job.layer.d])
        at += size
    return found


def _expected(kernel: "VectorKernel", job: HlsNorm) -> str:
    """Expected target words of a job; padding columns have zero gain and bias and give zero."""
    layer = job.layer
    rows = integers("r", job.r)[layer.first_row : layer.first_row + layer.rows]
    found = nonlinear.norm(rows, layer.gain, layer.bias, layer.shift, layer.eps, layer.rms, layer.bits)
    spare = ceil_div(layer.d, kernel.t_v) * kernel.t_v - layer.d
    kind = (np.int8, np.int16)[kernel.wide]
    return encode(words(np.pad(found, ((0, 0), (0, spare))).astype(kind), _bytes(kernel) * kernel.t_v))


def _call(kernel: "VectorKernel", job: HlsNorm) -> HlsCall:
    layer, r = job.layer, integers("r", job.r, *limits(16))
    if layer.d > kernel.max_d:
        raise NothingFits(f"{layer.name}: {layer.d} columns, max_d is {kernel.max_d}")
    if layer.bits == 16 and not kernel.wide:
        raise NothingFits(f"{layer.name}: results of 16 bits, wide is 0")
    if r.ndim != 2 or r.shape[1] != layer.d or len(r) < layer.first_row + layer.rows:
        raise ValueError(f"{layer.name}: r is {r.shape}; legal: [at least {layer.first_row + layer.rows}, {layer.d}]")
    row = ceil_div(layer.d, kernel.t_v)
    padded = np.zeros((layer.rows, row * kernel.t_v), np.int16)
    padded[:, : layer.d] = r[layer.first_row : layer.first_row + layer.rows]
    affine = np.zeros(row * kernel.t_v, np.int64)
    affine[: layer.d] = (layer.bias & 0xFFFFFFFF) | (layer.gain & 0xFFFF) << 32
    operands = {
        "rows": layer.rows, "d": layer.d, "shift": layer.shift, "eps": layer.eps,
        "flags": RMS * layer.rms + WIDE_RESULT * (layer.bits == 16),
    }  # fmt: skip
    inputs = {"source": words(padded, 2 * kernel.t_v), "affine": words(affine, 8 * kernel.t_v)}
    return HlsCall(operands, inputs, {"target": layer.rows * row})
