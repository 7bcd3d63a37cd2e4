import xml.etree.ElementTree as ET

from codesign.flow.build import plan
from codesign.target.board import Board
from codesign.timing.stalls import WEIGHTS
from tests.codesign.report.reports import reported


def test_waiting_for_weights_is_no_idle_stretch() -> None:
    slow = reported(plan("gemm:1x512x512", Board.load("zcu102"), budget={"dsp": 200}))
    weights = [wait for wait in slow.waits if wait.cause == WEIGHTS]
    assert weights
    assert "at the pace of its weights (not idle)" in slow.html()
    bars = ET.fromstring(slow.plot("timeline").svg).findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == len(slow.timeline) + len(slow.waits) - len(weights)


def test_the_command_repeats_what_the_user_set() -> None:
    board = Board.load("zcu102").with_overrides(["clock_hz=250e6"])
    made = plan("gemm:5x30x20", board, budget={"dsp": 60, "lut": 200_000})
    found = reported(made)
    assert found.command == "codesign build gemm:5x30x20 --board zcu102 --set clock_hz=250000000"
    assert found.budget == {"dsp": 60, "lut": 200_000}
