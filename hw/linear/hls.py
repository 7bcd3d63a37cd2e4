"""The linear kernel as HLS C++, with the design parameters of its RTL.

`sources` generates the project, `data` turns layers into testbench commands with expected results. Commands
have the RTL's operands, and constants are the bytes of a program image. `codesign.sim.hls` compiles the
project and compares with golden; see `codesign.hw.emit.hls` for the limits of that check.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codesign.errors import NothingFits
from codesign.hw.emit.hls import (
    CLOCK_MHZ,
    MAX_BITS,
    PART,
    Argument,
    HlsCall,
    HlsTop,
    decode,
    encode,
    project,
    vectors,
    words,
)
from codesign.hw.linear import ACC_BITS
from codesign.ir import network
from codesign.numerics.fixed_point import IntArray, IntLike, integers, limits
from codesign.target.commands import USE_TABLE
from codesign.target.kernel import ceil_div

if TYPE_CHECKING:
    from codesign.hw.linear import LinearKernel

_OPERANDS = {
    "rows": "rows of source and target",
    "kw": "bus words per source row",
    "ib": "weight words per tile",
    "ob": "tiles, of t_out columns each",
    "flags": "bit 1: the result goes through a table",
    "table": "number of that table",
    "low": "smallest requantized value",
    "high": "largest requantized value",
    "addend": "not 0: add the addends, with 16-bit saturation",
}
_SIGNED = ("low", "high")


@dataclass(frozen=True, eq=False)
class HlsProduct:
    """A layer with its arrays.

    Attributes:
        layer: the layer to run.
        x: int8 source, ``[at least first_row + rows, k]``.
        addend: int16 ``[rows, n]``, given exactly if the layer has an addend.
    """

    layer: network.Linear
    x: IntLike
    addend: IntLike | None = None


@dataclass(frozen=True)
class _Block:
    """Tiles ``first`` to ``first + tiles`` of a layer."""

    first: int
    tiles: int


def top(kernel: "LinearKernel") -> HlsTop:
    """The top function of a design.

    Raises:
        ValueError: a word, or the sums of a row, exceed the widest HLS stream.
    """
    k, fields = kernel, kernel.fields
    if ACC_BITS * k.t_out > MAX_BITS:
        raise ValueError(f"t_out {k.t_out}; legal for HLS: at most {MAX_BITS // ACC_BITS}")
    order = (k.t_in, k.t_out, k.n_l, k.kw_max, k.ring_words, k.table_words, k.tables, k.word_bytes)
    bus, wide = 8 * k.word_bytes, 16 * k.t_out
    return HlsTop(
        "linear",
        f"Linear<{', '.join(map(str, order))}>",
        f"The linear kernel in HLS C++: {k.t_in} inputs, {k.t_out} outputs and {k.n_l} rows per cycle.",
        (
            *(Argument(name, "operand", fields[name], text, name in _SIGNED) for name, text in _OPERANDS.items()),
            Argument("tables", "memory", 8, "all tables, 256 entries each", signed=True, depth=256 * k.tables),
            Argument("source", "input", bus, "rows of int8, each filled up to a whole word"),
            Argument("constants", "input", bus, "requantization of all tiles, then weights as the array reads them"),
            Argument("addends", "input", wide, "int16, in the order of the target"),
            Argument("target", "output", wide, "int16: for each group of rows, each tile, each row: t_out columns"),
        ),
    )


def sources(kernel: "LinearKernel", part: str = PART, clock_mhz: int = CLOCK_MHZ) -> dict[str, str]:
    """The HLS project of a design, file name to text; see `codesign.hw.emit.hls.project`."""
    return project(top(kernel), part, clock_mhz)


def job_vectors(kernel: "LinearKernel", jobs: list[HlsProduct]) -> dict[str, str]:
    """Testbench input files for jobs that run one after the other.

    Raises:
        NothingFits: the design's rows, rings or tables are too small for a layer.
        ValueError: an array has a shape or values that its layer does not take.
    """
    luts: list[bytes] = []
    calls = [call for job in jobs for call in _calls(kernel, job, luts)]
    if len(luts) > kernel.tables:
        raise NothingFits(f"{len(luts)} different tables, the design has {kernel.tables}")
    tables = np.zeros(256 * kernel.tables, np.int64)
    content = np.frombuffer(b"".join(luts), np.int8)
    tables[: len(content)] = content
    return vectors(top(kernel), calls, {"tables": tables})


def data(kernel: "LinearKernel", jobs: list[HlsProduct]) -> dict[str, str]:
    """Files of the project's folder ``data``: `job_vectors` and the expected results from golden."""
    return job_vectors(kernel, jobs) | {"target.expected.hex": "".join(_expected(kernel, job) for job in jobs)}


def targets(kernel: "LinearKernel", jobs: list[HlsProduct], text: str) -> list[IntArray]:
    """The target of each job, decoded from the words that the testbench wrote."""
    values = decode(text).reshape(-1).view("<i2").astype(np.int64)
    found, at = [], 0
    for job in jobs:
        rows, target = job.layer.rows, np.zeros((job.layer.rows, _columns(kernel, job.layer)), np.int64)
        for block in _blocks(kernel, job.layer):
            for index in _order(kernel, rows, block):
                target[index] = values[at : at + target[index].size].reshape(target[index].shape)
                at += target[index].size
        found.append(target[:, : job.layer.n])
    return found


def _expected(kernel: "LinearKernel", job: HlsProduct) -> str:
    """Expected target words of a job; padding columns have zero weights, bias and scale."""
    layer, columns = job.layer, _columns(kernel, job.layer)
    spare = columns - layer.n
    filled = replace(
        layer,
        weights=np.pad(layer.weights, ((0, spare), (0, 0))),
        bias=np.pad(layer.bias, (0, spare)),
        multiplier=np.pad(layer.multiplier, (0, spare)),
        shift=np.pad(layer.shift, (0, spare)),
    )
    addend = None if job.addend is None else _addend(kernel, job).astype(np.int64)
    target = network.linear_golden(filled, integers("x", job.x), addend).astype(np.int16)
    order = [target[index] for block in _blocks(kernel, layer) for index in _order(kernel, layer.rows, block)]
    return encode(words(np.concatenate(order), 2 * kernel.t_out))


# From a layer to commands -------------------------------------------------------------


def _columns(kernel: "LinearKernel", layer: network.Linear) -> int:
    """Columns of a layer, rounded up to whole tiles."""
    return ceil_div(layer.n, kernel.t_out) * kernel.t_out


def _blocks(kernel: "LinearKernel", layer: network.Linear) -> list[_Block]:
    """Splits a layer into blocks of as many tiles as the rings hold; weights used only once need not fit.

    Raises:
        NothingFits: a source row is longer than ``kw_max``, or a tile does not fit the weight ring.
    """
    row, sums = ceil_div(layer.k, kernel.word_bytes), ceil_div(layer.k, kernel.t_in)
    if row > kernel.kw_max:
        raise NothingFits(f"{layer.name}: a source row has {row} words, kw_max is {kernel.kw_max}")
    if sums > kernel.ring_words:
        raise NothingFits(f"{layer.name}: a tile has {sums} weight words, the ring {kernel.ring_words}")
    tiles = ceil_div(layer.n, kernel.t_out)
    most = min(tiles, kernel.table_words)
    if layer.rows > kernel.n_l:
        most = min(most, kernel.ring_words // sums)
    return [_Block(first, min(most, tiles - first)) for first in range(0, tiles, most)]


def _order(kernel: "LinearKernel", rows: int, block: _Block) -> Iterator[tuple[slice, slice]]:
    """Row and column slices in result order of a block: ``t_out`` columns of one row at a time."""
    for group in range(0, rows, kernel.n_l):
        for tile in range(block.first, block.first + block.tiles):
            for row in range(group, min(group + kernel.n_l, rows)):
                yield slice(row, row + 1), slice(tile * kernel.t_out, (tile + 1) * kernel.t_out)


def _calls(kernel: "LinearKernel", job: HlsProduct, luts: list[bytes]) -> Iterator[HlsCall]:
    layer = job.layer
    source = _source(kernel, job)
    addend = _addend(kernel, job)
    weights, requant = _weights(kernel, layer), _requantization(kernel, layer)
    fields = {
        "rows": layer.rows, "kw": ceil_div(layer.k, kernel.word_bytes), "ib": ceil_div(layer.k, kernel.t_in),
        "flags": 0, "table": 0, "low": layer.low, "high": layer.high, "addend": int(layer.addend is not None),
    }  # fmt: skip
    if layer.table is not None:
        fields |= {"flags": USE_TABLE, "table": _lut(layer.table, luts)}
    for block in _blocks(kernel, layer):
        mine = slice(block.first, block.first + block.tiles)
        order = list(_order(kernel, layer.rows, block))
        added = np.concatenate([addend[index] for index in order]) if layer.addend is not None else addend[:0]
        inputs = {
            "source": source,
            "constants": np.concatenate(
                [words(requant[mine], kernel.word_bytes), words(weights[mine], kernel.word_bytes)]
            ),
            "addends": words(added, 2 * kernel.t_out),
        }
        yield HlsCall({**fields, "ob": block.tiles}, inputs, {"target": len(order)})


def _source(kernel: "LinearKernel", job: HlsProduct) -> NDArray[np.uint8]:
    layer, x = job.layer, integers("x", job.x, *limits(8))
    if x.ndim != 2 or x.shape[1] != layer.k or len(x) < layer.first_row + layer.rows:
        raise ValueError(f"{layer.name}: x is {x.shape}; legal: [at least {layer.first_row + layer.rows}, {layer.k}]")
    padded = np.zeros((layer.rows, ceil_div(layer.k, kernel.word_bytes) * kernel.word_bytes), np.int8)
    padded[:, : layer.k] = x[layer.first_row : layer.first_row + layer.rows]
    return words(padded, kernel.word_bytes)


def _addend(kernel: "LinearKernel", job: HlsProduct) -> NDArray[np.int16]:
    layer = job.layer
    padded = np.zeros((layer.rows, _columns(kernel, layer)), np.int16)
    if (job.addend is None) != (layer.addend is None):
        raise ValueError(f"{layer.name}: addend is {job.addend is not None}; legal: {layer.addend is not None}")
    if job.addend is not None:
        addend = integers("addend", job.addend, *limits(16))
        if addend.shape != (layer.rows, layer.n):
            raise ValueError(f"{layer.name}: addend is {addend.shape}; legal: ({layer.rows}, {layer.n})")
        padded[:, : layer.n] = addend
    return padded


def _weights(kernel: "LinearKernel", layer: network.Linear) -> NDArray[np.int8]:
    """Weights ``[tiles, weight words, t_out, t_in]``, zero-padded."""
    sums = ceil_div(layer.k, kernel.t_in)
    padded = np.zeros((_columns(kernel, layer), sums * kernel.t_in), np.int8)
    padded[: layer.n, : layer.k] = layer.weights
    return np.ascontiguousarray(padded.reshape(-1, kernel.t_out, sums, kernel.t_in).transpose(0, 2, 1, 3))


def _requantization(kernel: "LinearKernel", layer: network.Linear) -> NDArray[np.uint64]:
    """One word per column, ``[tiles, t_out]``: bias, multiplier from bit 32, shift from bit 49."""
    table = np.zeros(_columns(kernel, layer), np.int64)
    table[: layer.n] = (layer.bias & 0xFFFFFFFF) | layer.multiplier << 32 | layer.shift << 49
    return table.astype(np.uint64).reshape(-1, kernel.t_out)


def _lut(table: NDArray[np.int8], luts: list[bytes]) -> int:
    """Index of a table in ``luts``; equal tables are stored once."""
    content = table.tobytes()
    if content not in luts:
        luts.append(content)
    return luts.index(content)
