"""FINN bench: estimated cycles and DSPs of a small network on this accelerator and on FINN's.

FINN builds a pipeline of one engine per layer with weights on chip; this accelerator runs layer by layer on one
engine, and its cycles include loading weights and samples from off-chip memory. So FINN's interval is shorter for a
small network, while its cost grows with every layer.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from codesign.benchmarks.benches import Options
from codesign.benchmarks.row import Row
from codesign.flow.build import plan
from codesign.hw.system.accelerator import resources, total
from codesign.ir.network import Linear, Network
from codesign.quant.interop import finn_estimates
from codesign.quant.interop.finn_estimates import MODEL, Estimate, Estimates
from codesign.target.board import Board
from codesign.target.kernel import ceil_div

_BOARD = "zcu102"
_LOG = logging.getLogger(__name__)
_REQUANT_BYTES = 8
_TABLE_ENTRIES = 256


OPTIONS = ("finn",)


def rows(options: Options) -> list[Row]:
    """Comparison of this accelerator and of its HLS kernel with every FINN folding.

    Raises:
        InputError: no such interpreter.
        ToolError: finn-plus is missing there or fails.
    """
    found = _estimates(options.finn)
    made = plan(MODEL, Board.load(_BOARD))
    need = total(resources(made.design))
    cycles, block_rams = made.timing.total, 2 * int(need.bram36)
    ours = finn_estimates.EstimateRow("ours, RTL, modelled", cycles, cycles, int(need.dsp), block_rams, int(need.lut))
    _LOG.info("%s", finn_estimates.table(found, [ours]))
    params = {**made.design.linear, "word_bytes": made.design.word_bytes}
    hls = hls_cycles(made.network, params), hls_dsp(params)
    return [
        *(row for estimate in found.estimates for row in _beside(ours, estimate, found.version)),
        Row(f"{MODEL}@{_BOARD}:hls", "least_cycles", "1", hls[0], "modelled"),
        Row(f"{MODEL}@{_BOARD}:hls", "dsp", "1", hls[1], "modelled"),
    ]


def _estimates(python: Path | None) -> Estimates:
    if python is None:
        return finn_estimates.recorded()
    with TemporaryDirectory() as folder:
        return finn_estimates.computed(python, Path(folder))


def _beside(ours: finn_estimates.EstimateRow, estimate: Estimate, version: str) -> list[Row]:
    """Rows that compare each figure of two estimates; block RAM in units of 18 Kbit."""
    theirs, case = estimate.row, f"{MODEL}@{_BOARD}:finn-{estimate.target_cycles}"
    source = f"finn-plus {version}, estimated, {estimate.target_cycles} cycles asked"
    row = Row(case, "", "1", 0, "modelled", None, source, at_least=False, wanted=False)
    names = ("interval_cycles", "latency_cycles", "dsp", "bram18", "lut")
    return [replace(row, metric=name, ours=getattr(ours, name), reference=getattr(theirs, name)) for name in names]


def hls_cycles(network: Network, params: Mapping[str, int]) -> int:
    """Lower bound on the HLS kernel's cycles for a network, with an initiation interval of 1 in all loops.

    Per layer, the longest sequential chain in `codesign/hw/linear/linear_hls.h`: fetching weights; loading, then
    multiplying rows; reading tables, then writing results. Pipeline fill and memory transfers are not included.
    """
    return sum(_layer_cycles(layer, params) for layer in network if isinstance(layer, Linear))


def _layer_cycles(layer: Linear, params: Mapping[str, int]) -> int:
    t_in, t_out, n_l, word = (params[name] for name in ("t_in", "t_out", "n_l", "word_bytes"))
    sums, tiles = int(ceil_div(layer.k, t_in)), int(ceil_div(layer.n, t_out))
    groups, rows = int(ceil_div(layer.rows, n_l)), min(layer.rows, n_l)
    fetch = tiles * int(ceil_div(_REQUANT_BYTES * t_out, word)) + tiles * sums * int(ceil_div(t_in * t_out, word))
    load, multiply, drain = rows * int(ceil_div(layer.k, word)), tiles * sums, tiles * rows
    first = max(fetch, load + multiply, tiles + _TABLE_ENTRIES + drain)
    return first + (groups - 1) * max(load, multiply, drain)


def hls_dsp(params: Mapping[str, int]) -> int:
    """DSPs of the HLS kernel at one per product and one per requantizer; its C++ does not pack products."""
    return params["t_in"] * params["t_out"] * params["n_l"] + params["t_out"]
