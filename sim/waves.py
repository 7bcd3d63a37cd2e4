"""Timing diagrams from VCD waves: an SVG string with one column per clock cycle.

A cycle shows the values settled just before the rising edge that ends it. In files of
`codesign.sim.verilator.simulator` cycle numbers are the simulator's; in others the first edge ends cycle 0.

>>> print(draw([Wave("clk", 1, 0, (None, None), is_clock=True)])[:4])
<svg
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TextIO

from codesign.errors import InputError

PERIOD = 10  # time units per cycle in files of our simulator
RADIX = ("hex", "unsigned", "signed", "binary")

_ROW, _HIGH, _LABEL, _GLYPH, _TOP = 26, 16, 7.0, 6.6, 22
_STYLE = (
    ".wave text{font:11px ui-monospace,Menlo,Consolas,monospace;fill:#222}.wave .axis{fill:#777;font-size:10px}"
    ".wave path{fill:none;stroke:#1f5fa8;stroke-width:1.2}.wave .grid{stroke:#e3e3e3;stroke-width:1}"
    ".wave .bus{fill:#eaf1fa}.wave .unknown{fill:#f6d5d5;stroke:#b33}"
)


@dataclass(frozen=True, slots=True)
class Wave:
    """Values of one signal in consecutive cycles.

    Attributes:
        name: label.
        width: bits.
        first: number of the first cycle.
        values: unsigned value per cycle; None where unknown.
        is_clock: drawn as a clock, whatever the values.
    """

    name: str
    width: int
    first: int
    values: tuple[int | None, ...]
    is_clock: bool = False


@dataclass(slots=True)
class _Header:
    """Signals declared in a file: dotted hierarchical name to identifier and bits."""

    signals: dict[str, tuple[str, int]] = field(default_factory=dict)

    def find(self, name: str) -> tuple[str, int]:
        """Finds a signal by its name or a dotted suffix of it; of several, the one with the fewest scopes."""
        found = [full for full in self.signals if full == name or full.endswith(f".{name}")]
        if not found:
            close = get_close_matches(name, {full.rpartition(".")[2] for full in self.signals}, 5)
            raise ValueError(f"no signal {name!r} in the waves; similar: {', '.join(close) or 'none'}")
        return self.signals[min(found, key=lambda full: (full.count("."), full))]


def signal_names(path: Path) -> tuple[str, ...]:
    """Full names of all signals in a file, sorted.

    Raises:
        InputError: the file is missing or is not VCD.
    """
    with _opened(path) as file:
        return tuple(sorted(_header(path, file).signals))


def read(
    path: Path,
    names: Sequence[str],
    *,
    first: int | None = None,
    cycles: int = 32,
    clock: str = "clk",
    period: int | None = PERIOD,
) -> tuple[Wave, ...]:
    """Reads signals in a window of cycles.

    Args:
        path: VCD file with one item per line, as simulators write it.
        names: signals, each by full name or a dotted suffix of it.
        first: first cycle; None is the first in the file.
        cycles: length of the window; fewer are returned if the file ends.
        clock: the signal whose rising edges end the cycles.
        period: time units per cycle, to compute cycle numbers; None counts edges from 0.

    Raises:
        InputError: the file is missing, is not VCD or has no rising edge in the window.
        ValueError: a signal is not in the file, or ``cycles`` is below 1.
    """
    if cycles < 1:
        raise ValueError(f"cycles is {cycles}; legal: at least 1")
    with _opened(path) as file:
        header = _header(path, file)
        wanted = [header.find(name) for name in names]
        clock_id = header.find(clock)[0]
        samples = _cycles(file, {clock_id, *(key for key, _ in wanted)}, clock_id, period)
        start, rows = _window(samples, first, cycles)
    if not rows:
        raise InputError(f"{path}: no cycle of {clock} from {first} on; the waves end earlier")
    return tuple(
        Wave(name, width, start, tuple(row.get(key) for row in rows), key == clock_id)
        for name, (key, width) in zip(names, wanted, strict=True)
    )


def draw(waves: Sequence[Wave], *, radix: Mapping[str, str] | None = None, column: int = 34) -> str:
    """Timing diagram as one SVG element, for a page or ``IPython.display.SVG``.

    Args:
        waves: rows from top to bottom, all of the same window.
        radix: signal name to one of `RADIX`; hex if not given.
        column: width of a cycle in pixels, at least 8.

    Raises:
        ValueError: windows differ, or a radix or the column is not legal.
    """
    radix = dict(radix or {})
    wrong = sorted(set(radix.values()) - set(RADIX))
    if wrong:
        raise ValueError(f"radix {', '.join(wrong)}; legal: {', '.join(RADIX)}")
    if column < 8:
        raise ValueError(f"column is {column}; legal: at least 8")
    if len({(wave.first, len(wave.values)) for wave in waves}) != 1:
        raise ValueError("waves of different windows; legal: at least one wave, all of the same cycles")
    left = round(max(len(wave.name) for wave in waves) * _LABEL) + 12
    count = len(waves[0].values)
    width, height = left + count * column + 8, _TOP + len(waves) * _ROW + 4
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" class="wave" width="{width}" height="{height}">']
    parts += [f"<style>{_STYLE}</style>", *_axis(waves[0].first, count, left, column, height)]
    for row, wave in enumerate(waves):
        y = _TOP + row * _ROW
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(wave.name)}</text>')
        parts += _row(wave, left, y, column, radix.get(wave.name, "hex"))
    return "\n".join([*parts, "</svg>"])


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except OSError as reason:
        raise InputError(f"cannot read waves {path}: {reason.strerror}") from None


def _header(path: Path, file: TextIO) -> _Header:
    header, scopes = _Header(), list[str]()
    for line in file:
        words = line.split()
        if not words:
            continue
        if words[0] == "$scope" and len(words) >= 3:
            scopes.append(words[2])
        elif words[0] == "$upscope" and scopes:
            scopes.pop()
        elif words[0] == "$var" and len(words) >= 6 and words[2].isdecimal():
            header.signals[".".join([*scopes, words[4]])] = (words[3], int(words[2]))
        elif words[0] == "$enddefinitions":
            return header
    raise InputError(f"{path} is not a VCD file: it has no $enddefinitions")


def _changes(file: Iterable[str], wanted: set[str]) -> Iterator[tuple[int, dict[str, int | None]]]:
    """For each time in the file, the time and the changed values of the wanted identifiers."""
    now, changed = 0, dict[str, int | None]()
    for line in file:
        kind = line[:1]
        if kind == "#":
            yield now, changed
            now, changed = int(line[1:]), {}
        elif kind in "01xXzZ" and line[1:].strip() in wanted:
            changed[line[1:].strip()] = _number(kind)
        elif kind in "bB":
            digits, _, key = line[1:].strip().partition(" ")
            if key in wanted:
                changed[key] = _number(digits)
    yield now, changed


def _number(digits: str) -> int | None:
    return int(digits, 2) if digits.strip("01") == "" else None


def _cycles(
    file: Iterable[str], wanted: set[str], clock: str, period: int | None
) -> Iterator[tuple[int, dict[str, int | None]]]:
    """Number and settled values of each cycle, ended by a rising edge."""
    values: dict[str, int | None] = {}
    edges = 0
    for now, changed in _changes(file, wanted):
        if changed.get(clock) == 1 and values.get(clock) == 0:
            yield (now // period - 1 if period is not None else edges), dict(values)
            edges += 1
        values.update(changed)


def _window(
    samples: Iterator[tuple[int, dict[str, int | None]]], first: int | None, cycles: int
) -> tuple[int, list[dict[str, int | None]]]:
    start, rows = 0, list[dict[str, int | None]]()
    for number, values in samples:
        if first is not None and number < first:
            continue
        start = start if rows else number
        rows.append(values)
        if len(rows) == cycles:
            break
    return start, rows


def _axis(first: int, count: int, left: int, column: int, height: int) -> Iterator[str]:
    every = -(-int(_GLYPH * len(str(first + count)) + 8) // column)
    for cycle in range(count + 1):
        x = left + cycle * column
        yield f'<path class="grid" d="M{x} {_TOP - 4}V{height}"/>'
        if cycle < count and (first + cycle) % every == 0:
            yield f'<text class="axis" x="{x + 2}" y="12">{first + cycle}</text>'


def _row(wave: Wave, left: int, y: int, column: int, radix: str) -> Iterator[str]:
    top, bottom = y, y + _HIGH
    if wave.is_clock:
        beat = f"V{top}h{column / 2:g}V{bottom}h{column - column / 2:g}"
        yield f'<path d="M{left} {bottom}{beat * len(wave.values)}"/>'
        return
    x = left
    for value, group in groupby(wave.values):
        span = column * len(list(group))
        if wave.width == 1 and value is not None:
            edge = f"M{x} {top}V{bottom}" if x > left else ""
            yield f'<path d="{edge}M{x} {top if value else bottom}h{span}"/>'
        else:
            yield from _bus(value, wave.width, x, span, top, radix)
        x += span


def _bus(value: int | None, width: int, x: int, span: int, top: int, radix: str) -> Iterator[str]:
    """A hexagon with the value, cut to fit; the whole value is its tooltip."""
    text = "?" if value is None else _text(value, width, radix)
    kind = "unknown" if value is None else "bus"
    half, slope = _HIGH // 2, 3
    shape = f"M{x} {top + half}l{slope} {-half}h{span - 2 * slope}l{slope} {half}l{-slope} {half}h{2 * slope - span}z"
    yield f'<path class="{kind}" d="{shape}"><title>{text}</title></path>'
    room = int((span - 2 * slope - 2) / _GLYPH)
    shown = text if len(text) <= room else f"{text[: room - 1]}…" if room > 1 else ""
    if shown:
        yield f'<text x="{x + span / 2:g}" y="{top + 12}" text-anchor="middle">{shown}</text>'


def _text(value: int, width: int, radix: str) -> str:
    if radix == "hex":
        return f"{value:x}"
    if radix == "binary":
        return f"{value:0{width}b}"
    if radix == "signed" and value >> (width - 1):
        value -= 1 << width
    return str(value)
