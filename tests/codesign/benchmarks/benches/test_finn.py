"""Our cycles and DSPs beside FINN's recorded estimates, figure by figure."""

import json
from importlib import resources
from pathlib import Path

import pytest

from codesign.benchmarks.benches import Options, finn
from codesign.benchmarks.benches.finn import hls_cycles, hls_dsp
from codesign.flow.build import plan
from codesign.frontend import zoo
from codesign.hw.system import accelerator
from codesign.quant.interop.finn_estimates import TARGETS, recorded
from codesign.target.board import Board

PARAMETERS = {"t_in": 8, "t_out": 8, "n_l": 2, "word_bytes": 16}


def test_every_folding_of_finn_has_our_figures_beside_it() -> None:
    rows = finn.rows(Options())
    made = plan("digits-mlp", Board.load("zcu102"))
    need = accelerator.total(accelerator.resources(made.design))
    ours = {
        "interval_cycles": made.timing.total, "latency_cycles": made.timing.total, "dsp": need.dsp,
        "bram18": 2 * need.bram36, "lut": need.lut,
    }  # fmt: skip
    for estimate in recorded().estimates:
        found = {r.metric: r for r in rows if r.case == f"digits-mlp@zcu102:finn-{estimate.target_cycles}"}
        assert {name: row.ours for name, row in found.items()} == ours
        assert {name: row.reference for name, row in found.items()} == {n: getattr(estimate.row, n) for n in ours}
        assert {row.source for row in found.values()} == {
            f"finn-plus 1.6.1, estimated, {estimate.target_cycles} cycles asked"
        }
        assert not {row.state for row in found.values()} & {"reached", "missed"}
    assert len(rows) == len(TARGETS) * len(ours) + 2


@pytest.mark.parametrize(
    ("sizes", "changes", "cycles"),
    [
        # 2 tiles, the table's 256 entries and 2 x 2 rows one after the other; then 2 groups of 6 words each
        ((5, 20, 12), {}, 2 + 256 + 4 + 2 * 2 * 3),
        # weights: 10 tiles of 4 words of requantization, and 80 x 4 words each
        ((1, 640, 80), {}, 10 * 4 + 10 * 80 * 4),
        # rows: 2 further groups of 4 rows of 4 words
        ((10, 64, 8), {"t_in": 32, "n_l": 4}, 1 + 256 + 4 + 2 * 4 * 4),
        # 64 rows of 8 words, then 4 words of weights
        ((64, 128, 8), {"t_in": 32, "n_l": 64}, 64 * 8 + 4),
    ],
)
def test_the_hls_kernel_s_least_cycles(sizes: tuple[int, int, int], changes: dict[str, int], cycles: int) -> None:
    assert hls_cycles(zoo.gemm(*sizes), PARAMETERS | changes) == cycles


def test_the_hls_kernel_packs_no_products() -> None:
    assert hls_dsp(PARAMETERS) == 8 * 8 * 2 + 8


def test_an_environment_is_asked_instead_of_the_record(tmp_path: Path) -> None:
    changed = json.loads((resources.files("codesign") / "data" / "finn-digits-mlp.json").read_text())
    changed["finn"] = "9.9"
    (tmp_path / "answer.json").write_text(json.dumps(changed))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncp {tmp_path}/answer.json "$(dirname "$1")/result.json"\n')
    python.chmod(0o755)
    assert finn.rows(Options(finn=python))[0].source.startswith("finn-plus 9.9, ")
