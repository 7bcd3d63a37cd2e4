"""The bench beside FINN: cycles and DSPs of a small network on our engines and on FINN's, estimates both.

FINN builds one engine per layer with its weights on chip, all at work on different samples; ours runs layer by
layer on one and loads weights and samples from off-chip memory, which is in its cycles. So FINN's interval is the
shorter one for a network as small as this, while its cost grows with every layer.
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
    """Our accelerator and our HLS kernel, each beside every folding of FINN's.

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
    """Figure by figure; block RAM in halves of 18 Kbit."""
    theirs, case = estimate.row, f"{MODEL}@{_BOARD}:finn-{estimate.target_cycles}"
    source = f"finn-plus {version}, estimated, {estimate.target_cycles} cycles asked"
    row = Row(case, "", "1", 0, "modelled", None, source, at_least=False, wanted=False)
    names = ("interval_cycles", "latency_cycles", "dsp", "bram18", "lut")
    return [replace(row, metric=name, ours=getattr(ours, name), reference=getattr(theirs, name)) for name in names]


def hls_cycles(network: Network, params: Mapping[str, int]) -> int:
    """Fewest cycles of the HLS kernel for a network's layers, if all its loops reach an interval of one cycle.

    Per layer, the longest of what must follow each other in `codesign/hw/linear_hls.h`: weights fetched; rows
    loaded, then multiplied; tables read, then results written. Start-up and transfers from memory are not in it.
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
    """DSPs of the HLS kernel if each product and each requantizer takes one; its C++ packs no two into one."""
    return params["t_in"] * params["t_out"] * params["n_l"] + params["t_out"]
