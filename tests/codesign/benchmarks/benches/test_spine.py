from pathlib import Path

import numpy as np
import pytest

from codesign import api as flow
from codesign.benchmarks.benches import spine
from codesign.dse.planner import plain
from codesign.flow.build import plan, tools
from codesign.frontend import zoo
from codesign.target.board import Board


@pytest.mark.rtl
def test_a_product_s_rows_are_those_that_scripts_read() -> None:
    """The rows of the spine bench, on the smallest array."""
    design = plain(zoo.gemm(40, 70, 90), Board.load("zcu102"), tools(), budget={"dsp": 60})
    rows = spine._product(spine._library(design), design, (40, 70, 90), 0.1)
    assert {row.case for row in rows} == {"gemm:40x70x90:int8@zcu102"}
    found = {row.metric: row for row in rows}
    assert found.keys() >= {"mac_utilization", "model_speedup_ratio", "cycles", "cycles_per_s"}
    cycles = plan("gemm:40x70x90", Board.load("zcu102"), budget={"dsp": 60}).timing.total
    assert found["cycles"].ours == cycles
    assert found["mac_utilization"].ours == 40 * 70 * 90 / design.multipliers / cycles
    assert found["mac_utilization"].state == "reached"


@pytest.mark.parametrize(
    ("count", "least"),
    [pytest.param(20, 0.9, marks=pytest.mark.rtl), pytest.param(400, 0.965, marks=pytest.mark.slow)],
)
def test_the_transformer_classifies_heldout_images_on_rtl(tmp_path: Path, count: int, least: float) -> None:
    bundle = flow.build("digits-vit", "zcu102", out=tmp_path / "b")
    images, labels = flow.heldout("digits-vit")
    on_hardware, golden = (bundle.run(images["image"][:count], target=target) for target in ("sim", "golden"))
    np.testing.assert_array_equal(on_hardware.outputs["logits"], golden.outputs["logits"])
    assert set(on_hardware.cycles) == {bundle.report.cycles["modelled"]}
    assert (on_hardware.predictions == labels[:count]).mean() >= least
