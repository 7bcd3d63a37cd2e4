"""Build report as a value, as JSON and as a self-contained HTML page.

Every figure is labelled with its evidence: *modelled*, *simulated* or *synthesized*, never mixed in one
column. Figures that no open tool can determine are listed.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Self

from codesign.errors import BundleError
from codesign.render import html, svg
from codesign.render.html import Html, mark, paragraph, table
from codesign.render.svg import Bar, Picture, Point, short
from codesign.report import search_section
from codesign.report.figures import Figures
from codesign.timing import stalls
from codesign.timing.stalls import Wait

UNKNOWN = (
    "whether the design closes timing at the assumed clock",
    "whether place and route find room for it as counted",
    "DRAM refresh, bank conflicts and other masters on the memory",
    "power and temperature",
)
"""Figures that only vendor tools or a board can determine."""

_NONE = "–"
_LONGEST = 200
"""Maximum idle intervals in the table."""


@dataclass(frozen=True)
class Report(Figures):
    """`codesign.report.figures.Figures` of a build, rendered as a page."""

    @classmethod
    def from_json(cls, document: object) -> Self:
        """Parses and checks an untrusted JSON document.

        Raises:
            BundleError: a missing or illegal value.
        """
        try:
            values = {f.name: document[f.name] for f in fields(cls) if f.default is MISSING}  # type: ignore[index]
            values |= {f.name: document.get(f.name, f.default) for f in fields(cls) if f.name not in values}  # type: ignore[attr-defined]
            for name in ("engines", "faults", "notes"):
                values[name] = tuple(values[name])
            values["timeline"] = tuple((str(e), str(n), int(a), int(b)) for e, n, a, b in values["timeline"])
            values["waits"] = tuple(Wait(str(e), int(a), int(b), str(c), str(r)) for e, a, b, c, r in values["waits"])
            if values["search"] is not None and values["search"]["points"] is None:
                values["search"] = None
            report = cls(**values)
            report.to_json(), report.html(), report.lines()
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise BundleError(f"report.json is damaged: {' '.join(str(error).split())}") from error
        return report

    def html(self) -> str:
        """Complete HTML page: verdict, figures with their evidence, then the figures no open tool can determine."""
        return html.document(f"{self.model} on {self.board}", self.body(interactive=True))

    def _repr_html_(self) -> str:
        return html.fragment(self.body(interactive=False))

    def body(self, *, interactive: bool) -> str:
        """Page content without the HTML document; only the interactive form needs the document's script."""
        searched = self._plain()
        if self.search is not None:
            searched = search_section.sections(self.search, self._command(), self.budget or {}, interactive=interactive)
        parts = [
            self._verdict(),
            html.section("Latency", self._latency()),
            html.section("Accuracy", self._accuracy()),
            html.section("Numbers", self._numbers()),
            html.section("Utilization", self._utilization()),
            html.section("Resources", self._resources()),
            html.section("Roofline", self._roofline()),
            html.section("Where the cycles go", self._cycles_go()),
            searched,
            html.section("Energy", self._energy()),
            html.section("What open tools cannot tell", [html.listing(UNKNOWN)]),
            html.section("Assumptions", [html.listing(self._assumptions())]),
            html.section("Notes", [html.listing(self.notes)]),
        ]
        return "\n".join(part for part in parts if part)

    def plot(self, name: str) -> Picture:
        """One plot of the page: ``timeline``, ``roofline``, ``resources``, ``utilization`` or ``front``.

        Raises:
            ValueError: unknown name, or the report lacks these figures.
        """
        if name == "timeline":
            return self._timeline()
        if name == "resources":
            return svg.shares(self._shares())
        if name == "utilization":
            return svg.shares([(e["name"], *self._busy(e["busy_cycles"])) for e in self.engines])
        if name == "roofline" and self.bytes_per_cycle:
            points = [Point(kind, self.macs / n, kind == "simulated") for kind, n in self.cycles.items() if n]
            intensity = self.macs / self.traffic_bytes
            return svg.roofline(points, intensity, peak=self.peak_macs, bandwidth=self.bytes_per_cycle)
        if name == "front" and self.search is not None and self.search["front"]:
            return search_section.plot(self.search)
        raise ValueError(f"no plot {name!r}; legal: timeline, resources, utilization, and roofline and front if known")

    def _command(self) -> str:
        return self.command or search_section.base_command(self.model, self.board)

    # Sections.

    def _plain(self) -> str:
        """Text shown in place of the search section if the design was not searched for."""
        command = html.shown(f"{self._command()} --objective latency")
        text = (
            "This design is a plain choice. To see every design that is worth building, and what each parameter buys:"
        )
        return html.section("Designs", [paragraph(text), Html(f"<p><code>{command}</code></p>")])

    def _verdict(self) -> str:
        text = self.verdict()
        state = "" if self.bit_exact is None else "good" if self.agrees else "bad"
        name, share, used = max(self._shares(), key=lambda row: row[1])
        room = "does not fit, too much" if share > 1 else "binding resource"
        facts = [
            Html(
                f"{_time(self.latency_ms)} {mark('simulated' if self.cycles['simulated'] else 'modelled')}"
                f" at {self.clock_mhz:g} MHz {mark('assumed')}"
            ),
            Html(f"{room} {html.shown(name)}: {used} {mark('modelled')}"),
        ]
        if self.accuracy is not None:
            facts.append(Html(f"{html.shown(self._right())} {mark(str(self.accuracy['evidence']))}"))
        strong = html.shown(text[0].upper() + text[1:])
        return f'<div class="cs-verdict {state}"><strong>{strong}</strong>{html.listing(facts)}</div>'

    def _latency(self) -> list[str]:
        """Table of cycle-dependent figures, one column per kind of evidence."""
        known = {name: count for name, count in self.cycles.items() if count}

        def row(name: str, value: Callable[[int], str]) -> list[str]:
            return [name, *(value(count) for count in known.values())]

        rows = [
            row("cycles of one inference", lambda n: f"{n:,}"),
            row(f"latency at {self.clock_mhz:g} MHz", lambda n: _time(n / self.clock_mhz / 1e3)),
            row("inferences per second", lambda n: f"{self.clock_mhz * 1e6 / n:,.0f}"),
            row("billions of operations per second", lambda n: short(2 * self.macs * self.clock_mhz / n / 1e3)),
            row("multiply-accumulates per cycle", lambda n: short(self.macs / n)),
            row(f"share of the {self.peak_macs:,} possible", lambda n: f"{100 * self.macs / n / self.peak_macs:.1f} %"),
        ]
        later = "" if self.cycles["simulated"] else " Nothing was simulated yet: codesign verify does it."
        work = f"{self.macs:,} multiply-accumulates of one inference"
        return [
            table(["", *known], rows, f"The clock is assumed: no open tool times this design.{later}"),
            paragraph(work, "counted"),
            paragraph(f"{self.traffic_bytes:,} bytes to and from the off-chip memory", "modelled"),
        ]

    def _right(self) -> str:
        found = self.accuracy or {}
        return f"{100 * float(found['share']):.2f} % of {int(found['samples']):,} samples right"

    def _accuracy(self) -> list[str]:
        if self.accuracy is not None:
            return [paragraph(self._right(), str(self.accuracy["evidence"]))]
        if self.model.startswith("gemm:"):
            return []
        return [paragraph("Not known yet; codesign run with --input and --labels tells it.")]

    def _numbers(self) -> list[str]:
        """How the model was quantized, and which other backend returns the same integers."""
        found: list[str] = []
        if self.calibration is not None:
            text = f"The float model was {self.calibration['text']}"
            found.append(paragraph(text, str(self.calibration["evidence"])))
        if self.deviation is not None:
            found.append(paragraph(f"Error {self.deviation['text']}", str(self.deviation["evidence"])))
            found += [paragraph(f"Warning: {text}") for text in self.deviation["warnings"]]
        if self.crosscheck is not None:
            made = f"The C++ of {self.crosscheck['backend']} {self.crosscheck['version']}, compiled with g++,"
            count, samples = int(self.crosscheck["values"]), int(self.crosscheck["samples"])
            text = f"{made} gives the golden model's integers, all {count:,} of {samples:,} samples"
            found.append(paragraph(text, str(self.crosscheck["evidence"])))
        return found

    def _busy(self, cycles: int) -> tuple[float, str]:
        share = cycles / (self.cycles["modelled"] or 1)
        return share, f"{cycles:,} cycles, {100 * share:.1f} %"

    def _utilization(self) -> list[str]:
        rows = [
            [e["name"], *self._busy(e["busy_cycles"])[1].split(" cycles, "), html.pairs(e["parameters"]) or _NONE]
            for e in self.engines
        ]
        caption = "Cycles in which an engine has a command under way"
        return [
            html.scroll(self.plot("utilization").svg, caption, size="narrow"),
            table(["engine", "busy cycles", "of the run", "parameters"], rows, caption, evidence="modelled"),
        ]

    def _shares(self) -> list[tuple[str, float, str]]:
        """(resource, modelled share, text) for each available resource; the text gives used, available and share."""
        used, there = self.resources["modelled"] or {}, self.resources["available"] or {}
        return [
            (name, count / there[name], f"{count:,} of {there[name]:,}, {100 * count / there[name]:.1f} %")
            for name, count in used.items()
            if there[name]
        ]

    def _resources(self) -> list[str]:
        there = self.resources["available"] or {}
        kinds = ["modelled", *(["synthesized"] if self.wholly_synthesized else [])]
        rows = []
        for name, _, _ in self._shares():
            counts = [(self.resources[kind] or {})[name] for kind in kinds]
            cells = [text for n in counts for text in (short(n), f"{100 * n / there[name]:.1f} %")]
            rows.append([f"{name} (binding)" if name == self.binding else name, *cells, short(there[name])])
        binding = frozenset(i for i, row in enumerate(rows) if row[0].endswith("(binding)"))
        heading = ["", *(text for kind in kinds for text in (kind, "of available")), "available"]
        limited = f", limited by the budget {html.pairs(self.budget)}" if self.budget else ""
        caption = f"Used of what the device has{limited}; of the binding one the largest share is used."
        later = "" if self.synthesized_parts else " Nothing was synthesized yet: codesign verify --synth top does it."
        return [
            html.scroll(self.plot("resources").svg, "share of each resource", size="narrow"),
            table(heading, rows, caption + later, strong=binding),
            *self._synthesis(),
            html.details("by part", self._parts()),
        ]

    def _parts(self) -> str:
        names = [name for name, _, _ in self._shares()]
        parts = [[part, *(short(counts[name]) for name in names)] for part, counts in self.parts.items()]
        return table(["part", *names], parts, "Resources by part", evidence="modelled")

    def _synthesis(self) -> list[str]:
        """Table of synthesized against modelled counts."""
        rows = []
        for part, counts in (self.synthesized_parts or {}).items():
            for name, count in counts.items():
                modelled = self.parts.get(part, {}).get(name, 0)
                if count or modelled:
                    rows.append([part, name, short(modelled), short(count), _apart(modelled, count)])
        what = "Every part of the design" if self.wholly_synthesized else "Parts of the design, the others not yet"
        heading = ["part", "resource", "modelled", "synthesized", "formula is off by"]
        return [table(heading, rows, f"{what}, through open synthesis")] if rows else []

    def _roofline(self) -> list[str]:
        if not self.bytes_per_cycle:
            return []
        intensity = self.macs / self.traffic_bytes
        bound = "the memory" if intensity * self.bytes_per_cycle < self.peak_macs else "the multipliers"
        limit = min(self.peak_macs, intensity * self.bytes_per_cycle)
        text = (
            f"{short(intensity)} multiply-accumulates per off-chip byte: {bound} would allow {short(limit)} per cycle."
            f" The memory's {short(self.bytes_per_cycle)} bytes per cycle are"
        )
        return [paragraph(text, "assumed"), html.scroll(self.plot("roofline").svg, "roofline")]

    # Where the cycles go.

    def _timeline(self) -> Picture:
        bars = [Bar(e, a, b, f"{e}: {name}, cycles {a:,} to {b:,}") for e, name, a, b in self.timeline]
        bars += [
            Bar(e, a, b, f"{e} waits {b - a:,} cycles, {a:,} to {b:,}: {reason}", cause)
            for e, a, b, cause, reason in self.waits
            if cause != stalls.WEIGHTS
        ]
        return svg.timeline(bars, self.cycles["modelled"] or 0)

    def _cycles_go(self) -> list[str]:
        text = (
            "Every bar is a command; a thin line is waiting, in the colour of the engine that is waited for, grey for"
            " the command list or if nothing is left to do. Point at one to read what it waits for."
        )
        return [
            paragraph(text, "modelled"),
            html.scroll(self.plot("timeline").svg, "timeline of the engines", size="wide"),
            *self._causes(),
            html.details("every idle stretch", self._stretches()),
        ]

    def _causes(self) -> list[str]:
        """Idle cycles by engine and cause."""
        if not self.waits:
            return []
        counts = stalls.shares(self.waits)
        causes = list(dict.fromkeys(cause for by in counts.values() for cause in by))
        rows = [
            [engine, *(f"{by[cause]:,}" if cause in by else _NONE for cause in causes)] for engine, by in counts.items()
        ]
        heading = ["engine", *(_CAUSES.get(cause, f"for {cause}") for cause in causes)]
        caption = "Cycles that each engine waits, by what it waits for"
        return [table(heading, rows, caption, evidence="modelled")]

    def _stretches(self) -> str:
        waits = sorted(self.waits, key=lambda wait: wait[1] - wait[2])[:_LONGEST]
        rows = [[e, f"{b - a:,}", f"{a:,}", f"{b:,}", reason] for e, a, b, _, reason in waits]
        caption = f"The {len(waits)} longest of {len(self.waits)} idle stretches"
        heading = ["engine", "cycles", "from", "to", "waits for"]
        return table(heading, rows, caption, evidence="modelled") if waits else ""

    # The rest.

    def _energy(self) -> list[str]:
        if self.energy is None:
            return []
        total, (least, most) = float(self.energy["total"]), self.energy["band"]
        parts = {**self.energy["engines"], **{name: self.energy[name] for name in _ENERGY}}
        rows = [
            [_ENERGY.get(name, name), _micro(value), f"{100 * value / total:.1f} %"] for name, value in parts.items()
        ]
        band = f"{_micro(least)} and {_micro(most)} µJ (±{100 * float(self.energy['error']):.0f} %)"
        text = f"{_micro(total)} µJ per inference, believed to lie between {band}"
        evidence = str(self.energy["evidence"])
        return [paragraph(text, evidence), table(["", "µJ", "share"], rows, "Where it goes", evidence=evidence)]

    def _assumptions(self) -> list[Html]:
        found = (self.assumptions or {}).items()
        return [Html(f"{html.shown(key)}: {html.shown(reason)} {mark('assumed')}") for key, reason in found]


_CAUSES = {
    stalls.READING: "command list still read",
    stalls.DONE: "nothing left to do",
    stalls.WEIGHTS: "at the pace of its weights (not idle)",
}
_ENERGY = {
    "offchip": "off-chip transfers",
    "shell": "shell and memories",
    "idle": "engines while they wait",
    "static": "drawn all the time",
}


def _apart(modelled: float, count: float) -> str:
    """Relative error of a modelled count against a synthesized one, as text.

    >>> _apart(41, 41), _apart(98, 100), _apart(5, 0)
    ('exact', '−2.0 %', '–')
    """
    if modelled == count:
        return "exact"
    return f"{100 * (modelled - count) / count:+.1f} %".replace("-", "−") if count else _NONE


def _time(ms: float) -> str:
    """Time in milliseconds as text with a suitable unit.

    >>> _time(0.0208066), _time(31.5)
    ('20.807 µs', '31.5 ms')
    """
    return f"{short(ms * 1e3)} µs" if ms < 1 else f"{short(ms)} ms"


def _micro(joules: float) -> str:
    """Microjoules as text with three digits, already more than the model's accuracy."""
    return f"{float(f'{1e6 * joules:.3g}'):,.10g}"
