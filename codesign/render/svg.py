"""Plots as standalone SVG text.

A picture contains its own light and dark style and needs no fonts, scripts or links.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10
from typing import NamedTuple

Row = Mapping[str, int | float]
"""One design: values by column."""

STYLE = """
.cs-plot{--s:#fff;--i:#1c2430;--m:#5a6472;--g:#d9dee5;--a:#0b63b0;--w:#a33a00;
--c0:#0b63b0;--c1:#a8560a;--c2:#17784f;--c3:#a0327a;--c4:#5b4bb5;--c5:#48606f;background:var(--s)}
@media(prefers-color-scheme:dark){.cs-plot{--s:#14181e;--i:#e8ecf1;--m:#a4aebb;--g:#353d48;--a:#6db3f5;--w:#ff9d66;
--c0:#6db3f5;--c1:#eda65c;--c2:#5cc795;--c3:#ea8cc8;--c4:#aea3ff;--c5:#9fb4c2}}
.cs-plot text{font:13px system-ui,sans-serif;fill:var(--i)}.cs-plot .m{fill:var(--m)}
.cs-plot line,.cs-plot path{stroke:var(--g);fill:none}.cs-plot .x{stroke:var(--m)}
.cs-plot .roof{stroke:var(--i);stroke-width:2}.cs-plot .stair{stroke:var(--a);stroke-dasharray:4 3}
.cs-plot .p{fill:var(--a);fill-opacity:.75;stroke:var(--s)}.cs-plot .new{fill:var(--s);stroke:var(--a);stroke-width:2}
.cs-plot .on{fill:var(--w);fill-opacity:1;stroke:var(--i);stroke-width:1.5}.cs-plot .frame{fill:none;stroke:var(--m)}
"""
"""The style of every picture, also of those that a script draws."""

_COLOURS = 6
_WIDTH = 760
_LONGEST = 34
"""Maximum letters of a name next to a bar."""


@dataclass(frozen=True)
class Picture:
    """A drawing that notebooks show.

    Attributes:
        svg: one SVG element.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


class Bar(NamedTuple):
    """One interval of a timeline lane.

    Attributes:
        lane: name of the lane.
        start, stop: first cycle and end.
        text: tooltip.
        cause: for a waiting interval the lane waited for, which gives the colour; other names are drawn grey.
    """

    lane: str
    start: int
    stop: int
    text: str
    cause: str | None = None


class Point(NamedTuple):
    """A roofline point: name, multiply-accumulates per cycle and whether it was simulated."""

    name: str
    rate: float
    simulated: bool


def short(value: int | float) -> str:
    """A number as text: integers with thousands separators, others with five digits.

    >>> short(1234567), short(0.0296219)
    ('1,234,567', '0.029622')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"


# Axes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """Mapping from values to pixels, linear or logarithmic.

    Attributes:
        low, high: values at the two ends.
        first, last: pixels at the two ends.
        log: whether the scale is logarithmic.
    """

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high and (self.low > 0 or not self.log)):
            raise ValueError(f"axis from {self.low} to {self.high}; legal: ascending, finite, positive if logarithmic")

    @classmethod
    def around(cls, values: Sequence[float], first: float, last: float) -> "Axis":
        """An axis with a margin around the values; logarithmic if their range is large."""
        low, high = min(values), max(values)
        if low > 0 and high / low > 20:
            return cls(low / 1.25, high * 1.25, first, last, log=True)
        room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return cls(low - room if low - room > 0 or low <= 0 else 0.0, high + room, first, last)

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        measure: Callable[[float], float] = log10 if self.log else float
        low, high = measure(self.low), measure(self.high)
        return self.first + (measure(value) - low) / (high - low) * (self.last - self.first)

    @property
    def ticks(self) -> list[float]:
        """Round values on the axis.

        >>> Axis(0, 10, 0, 100).ticks
        [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
        >>> Axis(1, 100, 0, 100, log=True).ticks
        [1.0, 10.0, 100.0]
        """
        if self.log:
            powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            for steps in ((1,), (1, 3), (1, 2, 5)):
                found = [step * 10.0**p for p in powers for step in steps if self.low <= step * 10.0**p <= self.high]
                if len(found) > 2:
                    break
            return found[:: ceil(len(found) / 8) or 1]
        rough = (self.high - self.low) / 6
        power = 10.0 ** floor(log10(rough))
        step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= rough)
        first = ceil(self.low / step)
        return [round(i * step, 12) for i in range(first, floor(self.high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:.4g}"


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{mark}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{mark}/>'


def _titled(shape: str, title: str) -> str:
    """A shape, given without its closing slash, with a tooltip."""
    return f"<{shape}><title>{escape(title)}</title></{shape.split(' ', 1)[0]}>"


def _picture(width: int, height: int, name: str, parts: Sequence[str]) -> Picture:
    label = escape(name)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="cs-plot" viewBox="0 0 {width} {height}" role="img"'
    return Picture("\n".join([f'{head} aria-label="{label}"><style>{STYLE}</style>', *parts, "</svg>"]))


def _ticks(x: Axis, start: float, end: float, label: float, kind: str = "") -> list[str]:
    """Vertical grid lines from ``start`` to ``end``, and their values at the height ``label``."""
    return [
        part
        for value in x.ticks
        for part in (
            _line(x(value), start, x(value), end),
            _text(x(value), label, _tick(value), kind=kind, anchor="middle"),
        )
    ]


def _grid(x: Axis, y: Axis, across: str, up: str) -> list[str]:
    """Grid lines, tick labels and names of two axes."""
    parts = _ticks(x, y.first, y.last, y.first + 18)
    for value in y.ticks:
        parts += [
            _line(x.first, y(value), x.last, y(value)),
            _text(x.first - 6, y(value) + 4, _tick(value), anchor="end"),
        ]
    note = [" (log)" if axis.log else "" for axis in (x, y)]
    return [
        *parts,
        _text((x.first + x.last) / 2, y.first + 38, across + note[0], kind="m", anchor="middle"),
        _text(x.first - 60, y.last - 10, up + note[1], kind="m"),
    ]


# Plots -------------------------------------------------------------------------------------


def columns(rows: Sequence[Mapping[str, object]], objectives: Sequence[str]) -> list[str]:
    """Columns that every design has, objectives first, then in the order of the first design.

    Raises:
        ValueError: no designs, or a value that is not a number.
    """
    if not rows:
        raise ValueError("no designs; legal: at least one")
    for row in rows:
        for name, value in row.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
                raise ValueError(f"{name} of a design is {value!r}; legal: a finite number")
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return sorted(names, key=lambda name: objectives.index(name) if name in objectives else len(objectives))


def first_axes(names: Sequence[str]) -> tuple[str, str]:
    """Default x and y columns: the first two, or the only one twice."""
    return names[0], names[min(1, len(names) - 1)]


def scatter(
    rows: Sequence[Row],
    x: str | None = None,
    y: str | None = None,
    *,
    objectives: Sequence[str] = (),
    chosen: int | None = None,
) -> Picture:
    """Scatter plot of designs over two columns, the chosen one marked.

    If both columns are objectives, a dashed line shows their Pareto front.

    Args:
        rows: the designs.
        x: x column; by default the first objective.
        y: y column; by default the next objective or a parameter.
        objectives: columns that are minimised.
        chosen: index of the design that was built.

    Raises:
        ValueError: no designs, or an unknown column.
    """
    names = columns(rows, objectives)
    first = first_axes(names)
    x, y = x or first[0], y or first[1]
    if not {x, y} <= {*names}:
        raise ValueError(f"columns {x!r} and {y!r} of {len(rows)} designs; legal: {', '.join(names)}")
    across = Axis.around([row[x] for row in rows], 72, _WIDTH - 20)
    up = Axis.around([row[y] for row in rows], 330, 34)
    parts = _grid(across, up, x, y)
    if {x, y} <= {*objectives}:
        parts.append(_stair([(across(a), up(b)) for a, b in stair([(row[x], row[y]) for row in rows])], across, up))
    order = [i for i in range(len(rows)) if i != chosen] + ([chosen] if chosen is not None else [])
    for i in order:
        kind, radius = ("on", 7) if i == chosen else ("p", 5)
        shape = f'circle class="{kind}" cx="{across(rows[i][x]):.1f}" cy="{up(rows[i][y]):.1f}" r="{radius}"'
        values = ", ".join(f"{name} {short(value)}" for name, value in rows[i].items())
        parts.append(_titled(shape, values + (" (built)" if i == chosen else "")))
    return _picture(_WIDTH, 380, f"{len(rows)} designs: {y} against {x}", parts)


def stair(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pareto-minimal points, ascending by the first coordinate.

    >>> stair([(1, 3), (2, 3), (2, 2), (3, 1)])
    [(1, 3), (2, 2), (3, 1)]
    """
    found: list[tuple[float, float]] = []
    for point in sorted(points):
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return found


def _stair(corners: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    steps = [f"M{corners[0][0]:.1f} {y.last:.1f}V{corners[0][1]:.1f}"]
    steps += [f"H{a:.1f}V{b:.1f}" for a, b in corners[1:]]
    return f'<path class="stair" d="{"".join(steps)}H{x.last:.1f}"/>'


def roofline(points: Sequence[Point], intensity: float, *, peak: float, bandwidth: float) -> Picture:
    """Roofline plot: work per cycle against work per off-chip byte, under the compute and memory roofs.

    Args:
        points: rates of one design.
        intensity: multiply-accumulates per off-chip byte.
        peak: multiply-accumulates per cycle of all multipliers.
        bandwidth: bytes per cycle to and from the off-chip memory.
    """
    ridge = peak / bandwidth
    x = Axis(min(intensity, ridge) / 8, max(intensity, ridge) * 8, 72, _WIDTH - 20, log=True)
    y = Axis(min(x.low * bandwidth, *(point.rate / 2 for point in points)), peak * 2.5, 330, 34, log=True)
    roof = [(x.low, max(x.low * bandwidth, y.low)), (ridge, peak), (x.high, peak)]
    path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in roof)
    limit = min(peak, intensity * bandwidth)
    across, up = x(max(ridge * 0.6, x.low)), y(max(ridge * 0.6, x.low) * bandwidth)
    side = ("end", across - 12, up) if across > 300 else ("start", across + 14, up + 12)
    parts = [
        *_grid(x, y, "multiply-accumulates per off-chip byte", "multiply-accumulates per cycle"),
        f'<path class="roof" d="M{path}"/>',
        _text(x.last, y(peak) - 8, f"all multipliers: {short(peak)} per cycle", anchor="end"),
        _text(*side[1:], f"memory: {short(bandwidth)} bytes per cycle", anchor=side[0]),
        _line(x(intensity), y(limit), x(intensity), y.first, "x"),
    ]
    for number, point in enumerate(points):
        kind = "on" if point.simulated else "new"
        title = f"{point.name}: {short(point.rate)} of at most {short(limit)} multiply-accumulates per cycle"
        parts.append(
            _titled(f'circle class="{kind}" cx="{x(intensity):.1f}" cy="{y(point.rate):.1f}" r="{6 - number}"', title)
        )
    rates = list(dict.fromkeys(point.rate for point in points))
    text = ", ".join(f"{' and '.join(p.name for p in points if p.rate == rate)} {short(rate)}" for rate in rates)
    parts.append(_text(x(intensity) + 12, y(points[0].rate) + 18, text))  # clear of a nearby roof
    return _picture(_WIDTH, 380, f"roofline: {text} of at most {short(limit)} multiply-accumulates per cycle", parts)


def timeline(bars: Sequence[Bar], total: int, *, note: str = "modelled") -> Picture:
    """Timeline of lanes, to scale; waiting is a thin line in the colour of the lane waited for.

    Args:
        bars: intervals; lanes are ordered by their first bar.
        total: cycles of the run.
        note: evidence of the cycles.
    """
    lanes = list(dict.fromkeys(bar.lane for bar in bars))
    height, left, width = 34, 84, 1000
    x = Axis(0, max(total, 1), left, width - 14)
    bottom = height * len(lanes) + 8
    parts = _ticks(x, 4, bottom, bottom + 16, "m")
    parts += [_text(0, height * number + 26, lane) for number, lane in enumerate(lanes)]
    for bar in _drawable(bars, x):
        colour = _colour(lanes, bar.lane if bar.cause is None else bar.cause)
        top, thick = (9, 24) if bar.cause is None else (19, 4)
        at = f'x="{x(bar.start):.2f}" y="{height * lanes.index(bar.lane) + top}"'
        size = f'width="{max(0.4, x(bar.stop) - x(bar.start)):.2f}" height="{thick}"'
        parts.append(_titled(f'rect {at} {size} style="fill:{colour}"', bar.text))
    parts.append(_text(width - 14, bottom + 34, f"cycles, {note}", kind="m", anchor="end"))
    return _picture(width, bottom + 42, f"what each engine does in {total:,} cycles, {note}", parts)


def _colour(lanes: Sequence[str], lane: str) -> str:
    return f"var(--c{lanes.index(lane) % _COLOURS})" if lane in lanes else "var(--g)"


def _drawable(bars: Sequence[Bar], x: Axis) -> list[Bar]:
    """The bars, without those that would share a fifth of a pixel with another of their lane."""
    found: dict[tuple[str, bool, int, int], Bar] = {}
    for bar in bars:
        found.setdefault((bar.lane, bar.cause is None, floor(5 * x(bar.start)), floor(5 * x(bar.stop))), bar)
    return list(found.values())


def lengths(parts: Sequence[tuple[str, float]], what: str) -> Picture:
    """Logarithmic bar plot from a power of ten; values that are not positive have no bar.

    Args:
        parts: name and value, top to bottom.
        what: name of the values.

    Raises:
        ValueError: no value is positive.
    """
    values = [value for _, value in parts if value > 0]
    if not values:
        raise ValueError(f"{what} of {len(parts)} parts; legal: at least one above 0")
    left, bottom = 250, 20 * len(parts) + 6
    x = Axis(10.0 ** floor(log10(min(values)) - 1e-9), 1.25 * max(values), left, _WIDTH - 20, log=True)
    drawn = _ticks(x, 0, bottom, bottom + 16, "m")
    for number, (name, value) in enumerate(parts):
        label = name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"
        drawn.append(_text(left - 8, 20 * number + 15, label, anchor="end"))
        if value > 0:
            at = f'x="{left}" y="{20 * number + 4}" width="{x(value) - left:.1f}" height="13"'
            drawn.append(_titled(f'rect {at} style="fill:var(--c0)"', f"{name}: {value:.3g}"))
    drawn.append(_text(_WIDTH - 20, bottom + 34, f"{what} (log)", kind="m", anchor="end"))
    return _picture(_WIDTH, bottom + 42, f"{what} of {len(parts)} parts", drawn)


def shares(parts: Sequence[tuple[str, float, str]]) -> Picture:
    """Bar plot of shares from 0 to 100 % with their text; larger shares end in an arrow."""
    rows, wide = [], 400
    for number, (name, share, text) in enumerate(parts):
        top = 42 * number + 4
        size = f'width="{max(0.0, min(share, 1.0)) * wide:.1f}" height="12"'
        rows += [
            _text(0, top + 11, name),
            _text(wide, top + 11, ("→ " if share > 1 else "") + text, anchor="end"),
            f'<rect class="frame" x="0" y="{top + 17}" width="{wide}" height="12"/>',
            _titled(f'rect x="0" y="{top + 17}" {size} style="fill:var(--c0)"', text),
        ]
    return _picture(wide, 42 * len(parts), "; ".join(f"{name} {text}" for name, _, text in parts), rows)
