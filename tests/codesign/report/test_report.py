import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from codesign import api as flow
from codesign.errors import BundleError
from codesign.flow.build import plan
from codesign.flow.deviation import Deviation
from codesign.report.report import UNKNOWN, Report
from codesign.target.board import Board
from codesign.timing.energy import RunEnergy
from codesign.timing.stalls import Wait
from tests.codesign import chromium
from tests.codesign.report.reports import reported

DESIGN_KEYS = {
    "model", "board", "clock_mhz", "cycles", "latency_ms", "period_ms", "gops", "macs", "macs_per_cycle",
    "mac_utilization", "resources", "traffic_bytes", "bit_exact", "engines", "search",
}  # fmt: skip
LOADING = {"link", "img", "iframe", "object", "embed", "audio", "video", "base", "form", "image", "use"}
VOID = {"meta"}
NEW = {
    "waits", "bytes_per_cycle", "search", "energy", "accuracy", "command", "budget", "synthesized_parts",
    "calibration", "crosscheck", "deviation",
}  # fmt: skip


class Page(HTMLParser):
    """Collects text and complains about elements that are not closed or that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in LOADING, tag
        assert not {name for name, _ in attrs if name in ("src", "href", "srcset") or name.startswith("on")}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not data.strip() or self.open[-1] in ("style", "script", "template"):
            return
        self.text.append(data.strip())
        if self.open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.fixture
def report(built: Path) -> Report:
    return flow.report(built)


@pytest.fixture(scope="module")
def whole() -> Report:
    """A report with every optional figure; search and energy are made up."""
    search = {
        "strategy": "exact", "objective": "latency", "objectives": ["latency_us", "dsp"], "points": 1000,
        "evaluated": 7, "scored": 3, "proven": True, "proof": "1,000 points: all settled", "chosen": 1,
        "front": [
            {"t_in": 16, "n_l": 2, "latency_us": 1.0, "dsp": 36.0},
            {"t_in": 8, "n_l": 2, "latency_us": 1.5, "dsp": 18.0},
            {"t_in": 8, "n_l": 1, "latency_us": 3.0, "dsp": 9.0},
        ],
    }  # fmt: skip
    spent = {"offchip": 3e-5, "shell": 1e-6, "idle": 1e-6, "static": 1e-4}
    energy = RunEnergy({"linear": 1.3e-5}, error=0.5, **spent).to_json()
    made = plan("gemm:5x30x20", Board.load("zcu102"), budget={"dsp": 60, "lut": 200_000})
    return reported(made, search=search, energy=energy, notes=("a note",)).with_accuracy(0.97222, 360, "simulated")


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
    wrong = report.verified(bit_exact=False, simulated=modelled, images=3, faults=("not bit-exact",))
    assert wrong.verdict() == "simulated on 3 images: bits differ; not bit-exact"
    assert ('class="cs-verdict good"' in good.html(), 'class="cs-verdict bad"' in wrong.html()) == (True, True)


def test_the_terminal_gets_ten_lines_with_the_binding_one_marked(report: Report) -> None:
    lines = report.lines()
    assert len(lines) == 8  # the command line adds the design and the next command
    assert "assumed, not timed" in lines[0]
    assert [line for line in lines if line.endswith("binding")] == [
        line for line in lines if line.startswith(report.binding)
    ]


def test_the_page_is_whole_and_loads_nothing(report: Report) -> None:
    page = read(replace(report, energy=None).html())
    text = " ".join(page.text)
    assert text.index(report.verdict()[1:]) < text.index("Latency")  # the verdict comes first
    assert page.headings == [
        f"{report.model} on {report.board}", "Latency", "Utilization", "Resources", "Roofline", "Where the cycles go",
        "Designs", "What open tools cannot tell", "Assumptions",
    ]  # fmt: skip
    for sentence in UNKNOWN:
        assert sentence in text
    for reason in (report.assumptions or {}).values():
        assert reason in text
    assert "default-src 'none'" in report.html()


def test_a_whole_report_shows_everything(whole: Report) -> None:
    page = read(whole.html())
    for heading in ("Accuracy", "Designs", "What a parameter buys", "How it was searched", "Energy"):
        assert heading in page.headings
    text = " ".join(page.text)
    assert "97.22 % of 360 samples right simulated" in text
    assert "145 µJ per inference, believed to lie between 72.5 and 218 µJ (±50 %) modelled" in text
    assert "1,000 points: all settled proven" in text
    assert "command list still read" in text
    assert f"{whole.command} --design t_in=" in whole.html()


def test_a_plain_choice_says_how_to_see_every_design(report: Report) -> None:
    page = read(report.html())
    assert f"{report.command} --objective latency" in page.text
    assert "What a parameter buys" not in page.headings


def test_what_is_not_known_yet_says_how_to_know_it(report: Report) -> None:
    text = " ".join(read(replace(report, model="my.onnx").html()).text)
    for command in ("codesign verify does it", "codesign verify --synth top does it", "codesign run with --input and"):
        assert command in text
    assert "Accuracy" not in read(report.html()).headings  # a matrix product has no labels


def test_where_the_numbers_come_from(report: Report) -> None:
    found = replace(
        report,
        calibration={"text": "quantized with 8 samples", "evidence": "modelled"},
        crosscheck={"backend": "hls4ml", "version": "1.3.0", "samples": 40, "values": 4000, "evidence": "simulated"},
    )
    found = replace(found, deviation=Deviation(0.5, "2 samples").judged("<do> this").to_json())
    page = read(found.html())
    assert "Numbers" in page.headings
    assert "Error 0.5 of the outputs' squares against the model, 2 samples modelled" in " ".join(page.text)
    assert "of their squares; legal: 0.02; <do> this" in " ".join(page.text)
    text = " ".join(page.text)
    assert "The float model was quantized with 8 samples modelled" in text
    assert (
        "hls4ml 1.3.0, compiled with g++, gives the golden model's integers, all 4,000 of 40 samples simulated" in text
    )
    assert Report.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_parts_are_synthesized_one_after_the_other(report: Report) -> None:
    one = report.with_synthesis({"linear": {"dsp": 40, "bram36": 1.5, "uram": 0, "lut": 10, "ff": 20}})
    assert not one.wholly_synthesized
    assert one.resources["synthesized"] == {"dsp": 40, "bram36": 1.5, "uram": 0, "lut": 10, "ff": 20}
    assert "Parts of the design, the others not yet" in one.html()
    head = re.findall(r"<thead>(.*?)</thead>", one.html())
    assert [row for row in head if "synthesized" in row] == [row for row in head if "formula is off by" in row]
    rest = {part: dict(counts) for part, counts in report.parts.items() if part != "linear"}
    both = one.with_synthesis(rest)
    assert both.wholly_synthesized
    assert both.resources["synthesized"]["lut"] == 10 + sum(counts["lut"] for counts in rest.values())  # type: ignore[index]
    assert both.synthesized_parts["linear"] == one.synthesized_parts["linear"]  # type: ignore[index]
    assert ">exact<" in both.html()
    assert Report.from_json(json.loads(json.dumps(both.to_json()))) == both


def test_accuracy_is_part_of_the_verdict(report: Report) -> None:
    page = replace(report, model="my.onnx").with_accuracy(0.985, 400, "modelled").html()
    verdict = page.partition('class="cs-verdict')[2].partition("</div>")[0]
    assert '98.50 % of 400 samples right <span class="cs-mark modelled">' in verdict


def test_a_notebook_gets_the_same_without_a_script(whole: Report) -> None:
    html = whole._repr_html_()
    assert "<script" not in html
    found, full = read(html), read(whole.html())
    assert found.headings == full.headings[1:]
    style = html.partition("<style>")[2].partition("</style>")[0]
    rules = re.findall(r"(?:^|})\s*([^{}@]+){", style.replace("\n", ""))
    assert rules
    assert all(part.lstrip().startswith(".cs-") for rule in rules for part in rule.split(","))  # nothing else changes


def test_the_document_comes_back_whole(whole: Report) -> None:
    document = json.loads(json.dumps(whole.to_json()))
    again = Report.from_json(document)
    assert again.to_json() == whole.to_json()
    assert again.html() == whole.html()
    assert {"strategy", "points", "evaluated", "seconds", "front"} <= set(document["search"])
    assert again.waits == whole.waits


def test_a_document_without_the_optional_figures_is_read(report: Report) -> None:
    document = {name: value for name, value in report.to_json().items() if name not in NEW}
    again = Report.from_json(document)
    assert all(not getattr(again, name) for name in NEW)
    assert "Roofline" not in read(again.html()).headings
    assert document["timeline"] == again.timeline


@pytest.mark.parametrize(
    "change",
    [
        {"search": {"strategy": "exact", "front": [{"dsp": "<"}], "objectives": [], "points": 1}},
        {"search": []},
        {"energy": {"total": 0}},
        {"waits": [["linear", 1]]},
        {"accuracy": {"share": 1}},
        {"calibration": {"text": "quantized"}},
        {"crosscheck": {"backend": "hls4ml"}},
        {"deviation": {"error": 0.1}},
        {"deviation": {"text": "a", "evidence": "modelled", "warnings": 3}},
        {"synthesized_parts": {"linear": 3}},
        {"accuracy": {"share": 1, "samples": 2, "evidence": "<script>"}},
        {"bytes_per_cycle": "fast"},
        {"traffic_bytes": 0},
        {"peak_macs": 1e999},
    ],
)
def test_damaged_optional_figures_are_refused(report: Report, change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=r"report\.json is damaged"):
        Report.from_json({**report.to_json(), **change})


def test_evidence_never_shares_a_column(report: Report) -> None:
    """Of the tables that compare, every column has one kind of evidence."""
    modelled = report.cycles["modelled"]
    assert modelled is not None
    both = report.verified(bit_exact=True, simulated=modelled + 7, images=1, faults=())
    found = {part: {**counts, "dsp": 11 if part == "linear" else 0} for part, counts in both.parts.items()}
    both = both.with_synthesis(found)
    for page, marks in ((both.html(), ["modelled", "simulated"]), (both.html(), ["modelled", "synthesized"])):
        head = next(h for h in re.findall(r"<thead>(.*?)</thead>", page) if marks[1] in h)
        assert re.findall(r'cs-mark (\w+)"', head) == marks
    cycles = re.search(r"cycles of one inference</th>(.*?)</tr>", both.html())
    assert cycles is not None
    assert re.findall(r">([\d,]+)<", cycles[1]) == [f"{modelled:,}", f"{modelled + 7:,}"]
    dsp = re.search(r"<th>dsp[^<]*</th>(.*?)</tr>", both.html())
    assert dsp is not None
    there = (report.resources["available"] or {})["dsp"]
    counts = [f"{(report.resources['modelled'] or {})['dsp']:,}", "11", f"{there:,}"]
    assert [cell for cell in re.findall(r">([^<>]+)<", dsp[1]) if "%" not in cell] == counts


def test_the_binding_resource_is_marked(report: Report) -> None:
    row = re.search(r'<tr class="binding"><th>(.*?)</th>', report.html())
    assert row is not None
    assert row[1] == f"{report.binding} (binding)"


def test_names_are_escaped(whole: Report) -> None:
    evil = "<script>alert(1)</script>"
    search = {**(whole.search or {}), "front": [{evil: 1, "latency_us": 1.0, "dsp": 2.0}], "chosen": 0, "proof": evil}
    found = replace(
        whole, model=evil, board=evil, notes=(evil,), search=search, assumptions={evil: evil}, command=evil,
        timeline=((evil, evil, 0, 9),), waits=(Wait(evil, 0, 9, evil, evil),), parts={evil: whole.parts["linear"]},
        engines=({"name": evil, "parameters": {evil: evil}, "busy_cycles": 3},),
    )  # fmt: skip
    for html in (found.html(), found._repr_html_()):
        read(html)
        assert evil not in html


def test_pictures_are_had_alone(whole: Report) -> None:
    for name in ("timeline", "roofline", "resources", "utilization", "front"):
        assert ET.fromstring(whole.plot(name)._repr_svg_()).tag.endswith("svg")
    with pytest.raises(ValueError, match="no plot 'front'"):
        replace(whole, search=None).plot("front")


def test_the_timeline_shows_every_command_and_every_wait(report: Report) -> None:
    svg = ET.fromstring(report.plot("timeline").svg)
    bars = svg.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == len(report.timeline) + len(report.waits)
    assert all(float(bar.get("x", "0")) + float(bar.get("width", "0")) <= 1000 for bar in bars)


# In a browser.

WIDTHS = (400, 640, 1000, 1600)
WHICH = "document.querySelector('.cs-which').textContent"
SPOTS = """[...document.querySelectorAll('.cs-canvas circle')].map(circle => {
  const box = circle.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})"""
SHIFTS = """new Promise(done => {
  const found = [];
  const observer = new PerformanceObserver(list => found.push(...list.getEntries().map(e => e.value)));
  observer.observe({type: 'layout-shift', buffered: true});
  setTimeout(() => done(found), 100);
})"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    binary = chromium.find()
    if binary is None:
        pytest.skip(f"no browser: none of {', '.join(chromium.NAMES)} is on the path")
    with chromium.tab(binary, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(tab: chromium.Tab, whole: Report, tmp_path: Path) -> Path:
    file = tmp_path / "report.html"
    file.write_text(whole.html(), encoding="utf-8")
    tab.events.clear()
    return file


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_any_window(tab: chromium.Tab, page: Path, width: int, dark: bool) -> None:
    tab.open(page, width, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    outside = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.cs-scroll, .cs-canvas, .cs-detail')"
    assert tab.run(f"{outside} && e.getBoundingClientRect().right > innerWidth).map(e => e.tagName)") == []
    cut = "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth && e.clientWidth > 0"
    hidden = f"{cut} && ['hidden', 'clip', 'visible'].includes(getComputedStyle(e).overflowX) && e.matches('div'))"
    assert tab.run(f"{hidden}.map(e => e.className)") == []
    shade = tab.run("getComputedStyle(document.querySelector('main')).backgroundColor")
    assert shade == ("rgb(20, 24, 30)" if dark else "rgb(255, 255, 255)")
    assert tab.run("document.querySelector('h1 ~ *').className").startswith("cs-verdict")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_moves_while_designs_are_looked_at(tab: chromium.Tab, whole: Report, page: Path, width: int) -> None:
    long = {**(whole.search or {}), "commands": ["short", 9 * "quite long ", 99 * "very long "]}
    page.write_text(replace(whole, search=long).html(), encoding="utf-8")
    tab.open(page, width)
    tab.run("document.querySelector('.cs-canvas').scrollIntoView({block: 'center'})")
    tab.settle()
    place = "JSON.stringify([...document.querySelectorAll('h2')].map(h => h.getBoundingClientRect().y))"
    before, seen = tab.run(place), set()
    for x, y in tab.run(SPOTS):
        tab.point(x, y)
        seen.add(tab.run(WHICH))
    tab.run(
        "const up = document.querySelectorAll('select')[1]; up.value = 't_in'; up.dispatchEvent(new Event('change'))"
    )
    assert len(seen) == len(tab.run(SPOTS)) > 2
    assert tab.run(place) == before
    assert tab.run(SHIFTS) == []


def test_a_click_copies_the_command_of_a_design(tab: chromium.Tab, whole: Report, page: Path) -> None:
    tab.pipe.call("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    tab.open(page, 1000)
    tab.run("document.querySelector('.cs-canvas').scrollIntoView({block: 'center'})")
    tab.settle()
    by_place = sorted(map(tuple, tab.run(SPOTS)))  # from the fastest to the slowest
    tab.point(*by_place[0], click=True)
    assert tab.run(WHICH) == "design 1 of 3"
    assert tab.run(COPIED) == "copied"
    assert tab.run("navigator.clipboard.readText()").startswith(f"{whole.command} --design t_in=")


COPIED = """new Promise(done => {
  const look = () => {
    const text = document.querySelector('.cs-status').textContent;
    text ? done(text) : setTimeout(look, 10);
  };
  look();
})"""


def test_the_keyboard_reaches_every_design(tab: chromium.Tab, page: Path) -> None:
    tab.open(page, 1000)
    focused, stops = "document.activeElement.className.baseVal ?? document.activeElement.className", []
    for _ in range(60):
        tab.press("Tab")
        stops.append(tab.run(f"document.activeElement.tagName + ' ' + ({focused})"))
        if stops[-1].startswith("circle"):
            break
    assert [stop for stop in stops if stop.startswith("SELECT")]  # the axes come before the designs
    assert stops[-1] == "circle on"  # the one that was built
    walked = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        tab.press(key)
        walked.append(tab.run(WHICH).partition(" of")[0])
        assert tab.run("document.activeElement.getAttribute('aria-label')").startswith(walked[-1])
    assert walked == ["design 1", "design 2", "design 3", "design 3", "design 2"]
    tab.press("Enter")
    assert tab.run(COPIED) in ("copied", "select the command to copy it")


def test_every_control_has_a_name(tab: chromium.Tab, page: Path) -> None:
    tab.open(page, 1000)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "combobox", "region", "image", "img"}
    found = [n for n in nodes if not n.get("ignored") and n["role"]["value"] in wanted]
    assert {"button", "combobox", "region"} <= {n["role"]["value"] for n in found}
    assert all(n["name"]["value"].strip() for n in found)


def test_the_page_asks_for_nothing_and_complains_of_nothing(tab: chromium.Tab, page: Path) -> None:
    tab.open(page, 1000)
    requests = {params["request"]["url"] for name, params in tab.events if name == "Network.requestWillBeSent"}
    assert requests == {page.as_uri()}
    assert not [event for event in tab.events if event[0] in ("Runtime.exceptionThrown", "Log.entryAdded")]


def test_without_scripts_the_plot_stands_there(tab: chromium.Tab, page: Path) -> None:
    tab.open(page, 1000, script=False)
    root = tab.call("DOM.getDocument")["root"]["nodeId"]
    for selector, count in ((".cs-canvas circle", 3), (".cs-canvas circle.on", 1), ("select:enabled", 0)):
        found = tab.call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
        assert len(found) == count, selector
