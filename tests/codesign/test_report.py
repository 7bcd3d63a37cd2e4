import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from codesign import flow
from codesign.errors import BundleError
from codesign.report import UNKNOWN, Report

DESIGN_KEYS = {
    "model", "board", "clock_mhz", "cycles", "latency_ms", "period_ms", "gops", "macs", "macs_per_cycle",
    "mac_utilization", "resources", "traffic_bytes", "bit_exact", "engines", "search",
}  # fmt: skip
VOID = {"meta", "rect"}


class Page(HTMLParser):
    """Collects text and complains about elements that are not closed or that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe"), tag
        assert not {name for name, _ in attrs} & {"src", "href"}
        if tag not in ("meta", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "html":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


@pytest.fixture
def report(built: Path) -> Report:
    return flow.report(built)


def test_the_document_has_what_scripts_read(report: Report) -> None:
    document = json.loads(json.dumps(report.to_json()))
    assert set(document) >= DESIGN_KEYS
    assert document["cycles"].keys() == {"modelled", "simulated"}
    assert document["resources"].keys() == {"modelled", "synthesized", "available"}
    assert document["latency_ms"] == pytest.approx(document["cycles"]["modelled"] / 300e6 * 1e3)
    assert document["macs"] == 5 * 30 * 20
    assert document["bit_exact"] is None
    assert Report.from_json(document).to_json() == report.to_json()


@pytest.mark.parametrize(
    "change",
    [{"cycles": 3}, {"clock_mhz": 0}, {"macs": "many"}, {"timeline": [[1, 2]]}, {"resources": {"modelled": None}}],
)
def test_a_damaged_document_is_refused(report: Report, change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=r"report\.json is damaged"):
        Report.from_json({**report.to_json(), **change})
    with pytest.raises(BundleError):
        Report.from_json([])


def test_a_verification_changes_the_verdict(report: Report) -> None:
    modelled = report.cycles["modelled"]
    assert modelled is not None
    good = report.verified(bit_exact=True, simulated=modelled, images=3, faults=())
    assert good.verdict() == "simulated: bit-exact on 3 images, cycles equal to the model"
    slow = report.verified(bit_exact=True, simulated=modelled + 1, images=3, faults=())
    assert "cycles differ" in slow.verdict()
    assert slow.total_cycles == modelled + 1
    wrong = report.verified(bit_exact=False, simulated=modelled, images=3, faults=("a fault",))
    assert wrong.verdict() == "simulated on 3 images: bits differ; a fault"
    assert ("good" in good.html(), "bad" in wrong.html().split("<p")[1]) == (True, True)


def test_the_terminal_gets_ten_lines_with_the_binding_one_marked(report: Report) -> None:
    lines = report.lines()
    assert len(lines) == 8  # the command line adds the design and the next command
    assert "assumed, not timed" in lines[0]
    assert [line for line in lines if line.endswith("binding")] == [
        line for line in lines if line.startswith(report.binding)
    ]


def test_the_page_is_whole_and_loads_nothing(report: Report) -> None:
    page = Page()
    page.feed(report.html())
    assert page.open == []
    text = " ".join(page.text)
    assert text.index(report.verdict()) < text.index("Resources")  # the verdict comes first
    for sentence in (*UNKNOWN, *(report.assumptions or {}).values()):
        assert sentence in text
    assert {"modelled"} <= set(page.text)


def test_names_are_escaped(report: Report) -> None:
    evil = replace(report, model="<script>alert(1)</script>", notes=("<b>",))
    page = Page()
    page.feed(evil.html())
    assert "<script>" not in evil.html()


def test_the_timeline_is_drawn_to_scale(report: Report) -> None:
    svg = ET.fromstring(report.timeline_svg())
    bars = svg.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == len(report.timeline)
    assert all(float(bar.get("x", "0")) + float(bar.get("width", "0")) <= 901 for bar in bars)
