import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from codesign.render.svg import STYLE, Axis, Bar, Picture, Point, lengths, roofline, scatter, shares, stair, timeline

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [{"n": 1, "latency": 9.0, "dsp": 10}, {"n": 2, "latency": 4.0, "dsp": 40}, {"n": 3, "latency": 1.0, "dsp": 400}]


def drawn(picture: Picture) -> ET.Element:
    """The picture as a tree, which is well-formed, loads nothing and says what it shows."""
    root = ET.fromstring(picture.svg)
    assert root.get("aria-label")
    assert root.get("role") == "img"
    for element in root.iter():
        assert element.tag not in (f"{SVG}script", f"{SVG}image", f"{SVG}use")
        assert not {name for name in element.attrib if name.endswith("href") or name.startswith("on")}
    assert "url(" not in picture.svg
    return root


def test_an_axis_is_linear_or_logarithmic() -> None:
    axis = Axis(0, 10, 100, 200)
    assert [axis(v) for v in (0, 5, 10)] == [100, 150, 200]
    log = Axis(1, 100, 0, 100, log=True)
    assert [log(v) for v in (1, 10, 100)] == [0, 50, 100]
    assert Axis.around([1, 1000], 0, 1).log
    assert not Axis.around([100, 110], 0, 1).log


@pytest.mark.parametrize("values", [[5.0], [0.0], [-3.0, -3.0], [1e-9, 2e-9], [0, 7], [3, 1e12]])
def test_an_axis_holds_its_values_and_has_round_ticks(values: list[float]) -> None:
    axis = Axis.around(values, 0, 500)
    assert all(0 <= axis(value) <= 500 for value in values)
    assert 2 <= len(axis.ticks) <= 12
    assert all(a < b for a, b in pairwise(axis.ticks))


@pytest.mark.parametrize("low_high", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1)])
def test_an_axis_without_extent_is_refused(low_high: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="legal: ascending"):
        Axis(*low_high, 0, 1)


def test_designs_stand_where_their_values_are() -> None:
    circles = drawn(scatter(ROWS, "latency", "dsp", objectives=("latency", "dsp"), chosen=1)).findall(f"{SVG}circle")
    assert len(circles) == 3
    assert [c.get("class") for c in circles] == ["p", "p", "on"]  # the chosen one is drawn last, on top
    by_title = {(c.findtext(f"{SVG}title") or ""): (float(c.get("cx", 0)), float(c.get("cy", 0))) for c in circles}
    slow, fast = by_title["n 1, latency 9, dsp 10"], by_title["n 3, latency 1, dsp 400"]
    assert slow[0] > fast[0]  # more latency is further to the right
    assert slow[1] > fast[1]  # fewer DSPs are further down


def test_only_objectives_have_a_stair() -> None:
    both = drawn(scatter(ROWS, "latency", "dsp", objectives=("latency", "dsp")))
    assert len(both.findall(f"{SVG}path")) == 1
    assert not drawn(scatter(ROWS, "n", "dsp", objectives=("latency", "dsp"))).findall(f"{SVG}path")
    assert stair([(1, 5), (2, 5), (0, 6)]) == [(0, 6), (1, 5)]


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="columns 'energy' and 'dsp' of 3 designs; legal: n, latency, dsp"):
        scatter(ROWS, "energy", "dsp")
    with pytest.raises(ValueError, match="no designs"):
        scatter([])


def test_the_first_plot_shows_the_objectives() -> None:
    shown = drawn(scatter(ROWS, objectives=("dsp", "latency"))).get("aria-label")
    assert shown == "3 designs: latency against dsp"
    assert drawn(scatter(ROWS, objectives=("dsp",))).get("aria-label") == "3 designs: n against dsp"
    assert drawn(scatter([{"dsp": 4}])).get("aria-label") == "1 designs: dsp against dsp"


@pytest.mark.parametrize("intensity", [0.5, 20.0, 5000.0])
def test_no_point_stands_above_the_roof(intensity: float) -> None:
    peak, bandwidth = 1000.0, 50.0
    limit = min(peak, intensity * bandwidth)
    root = drawn(
        roofline(
            [Point("modelled", limit, False), Point("simulated", limit / 3, True)],
            intensity,
            peak=peak,
            bandwidth=bandwidth,
        )
    )
    assert (root.get("aria-label") or "").endswith(f"of at most {limit:,.0f} multiply-accumulates per cycle")
    path = next(p for p in root.findall(f"{SVG}path") if p.get("class") == "roof").get("d", "")
    corners = [(float(a), float(b)) for a, b in re.findall(r"([\d.]+) ([\d.]+)", path)]
    at, below = root.findall(f"{SVG}circle")
    x, y = float(at.get("cx", 0)), float(at.get("cy", 0))
    (x0, y0), (x1, y1) = next(pair for pair in pairwise(corners) if pair[0][0] <= x <= pair[1][0])
    assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=0.5)  # it touches the roof
    assert float(below.get("cy", 0)) > y
    assert {at.get("class"), below.get("class")} == {"new", "on"}  # modelled is hollow, simulated is full


def test_the_timeline_is_drawn_to_scale() -> None:
    bars = [Bar("load", 0, 100, "a"), Bar("linear", 100, 400, "b"), Bar("linear", 0, 100, "waits", "load"),
            Bar("load", 100, 400, "rest", "end")]  # fmt: skip
    rects = {r.findtext(f"{SVG}title"): r for r in drawn(timeline(bars, 400)).findall(f"{SVG}rect")}
    width = {name: float(r.get("width", 0)) for name, r in rects.items()}
    assert width["b"] == pytest.approx(3 * width["a"], rel=1e-3)
    assert rects["waits"].get("style") == rects["a"].get("style")  # the colour of what it waits for
    assert rects["rest"].get("style") == "fill:var(--g)"
    assert float(rects["waits"].get("height", 0)) < float(rects["a"].get("height", 0))
    assert max(float(r.get("x", 0)) + float(r.get("width", 0)) for r in rects.values()) <= 1000


def test_a_long_timeline_stays_small() -> None:
    bars = [Bar("linear", i, i + 1, "tiny") for i in range(50_000)]
    assert len(timeline(bars, 50_000).svg) < 2_000_000


def test_shares_never_leave_their_frame() -> None:
    root = drawn(shares([("dsp", 0.5, "5 of 10"), ("lut", 1.7, "17 of 10")]))
    bars = [r for r in root.findall(f"{SVG}rect") if r.get("class") is None]
    assert [float(r.get("width", 0)) for r in bars] == [200, 400]
    assert "→ 17 of 10" in "".join(root.itertext())


def test_lengths_start_at_a_power_of_ten() -> None:
    root = drawn(
        lengths([("a", 0.02), ("b", 0.2), ("none", 0.0), ("a name that is much too long " + "x" * 40, 0.1)], "w")
    )
    sizes = [float(r.get("width", 0)) for r in root.findall(f"{SVG}rect")]
    assert len(sizes) == 3
    assert sizes[0] < sizes[2] < sizes[1]
    decade = sizes[1] - sizes[0]  # from 0.02 to 0.2
    assert sizes[0] == pytest.approx(decade * math.log10(2), abs=0.2)
    names = [t.text for t in root.findall(f"{SVG}text") if t.get("text-anchor") == "end"]
    assert names[:3] == ["a", "b", "none"]
    assert names[3] == "…" + "x" * 33
    with pytest.raises(ValueError, match="w of 1 parts; legal: at least one above 0"):
        lengths([("a", 0.0)], "w")


def _contrast(one: str, other: str) -> float:
    """Ratio of luminances as WCAG defines it."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_stand_out_in_light_and_dark() -> None:
    themes = [dict(re.findall(r"--(\w+):(#[0-9a-f]+)", block)) for block in STYLE.split("@media")]
    assert len(themes) == 2
    for theme in themes:
        assert all(_contrast(theme[name], theme["s"]) >= 4.5 for name in ("i", "m", "a", "w"))
        assert all(_contrast(theme[f"c{i}"], theme["s"]) >= 3 for i in range(6))
