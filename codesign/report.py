"""The report of a build: one value, as JSON and as a page that needs nothing but a browser.

Every figure says how it came about: *modelled* or *simulated*. What no open tool can tell is listed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from typing import Any

from codesign.cycles import Timing
from codesign.design import Design
from codesign.errors import BundleError
from codesign.kernel import Resources

UNKNOWN = (
    "whether the design closes timing at the assumed clock",
    "whether place and route find room for it as counted",
    "DRAM refresh, bank conflicts and other masters on the memory",
    "power and temperature",
)
"""What only a vendor's tools or a board can tell."""

_COLOURS = ("#4878a8", "#b07c3a", "#6a9a5b", "#a0525f", "#7b6aa3", "#5b9a9a")
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.25rem .8rem .25rem 0;text-align:left;border-bottom:1px solid #ddd}td.n{text-align:right}
.verdict{padding:.6rem 1rem;border-left:.4rem solid #888;background:#f4f4f4}.good{border-color:#3a8a4a}
.bad{border-color:#b33}.mark{font-size:.8rem;color:#666;border:1px solid #bbb;border-radius:.6rem;padding:0 .4rem}
.binding{font-weight:600}svg{max-width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#333}
"""


@dataclass(frozen=True)
class Report:
    """What is known of a build.

    Attributes:
        model: what the user named.
        board: the board's name.
        clock_mhz: assumed, not timed.
        macs: multiply-accumulates of one inference.
        cycles: ``modelled`` and, once verified, ``simulated``.
        peak_macs: multiply-accumulates per cycle of all multipliers together.
        resources: ``modelled``, ``synthesized`` (None until it is) and ``available``, by resource.
        parts: modelled resources by part and resource.
        traffic_bytes: read and written off chip by one inference.
        engines: name, parameters and busy cycles.
        timeline: engine, layer, first and last cycle of every command.
        bit_exact: None until verified.
        images: samples that were compared.
        faults: what a verification found.
        assumptions: figures that nobody measured, with the reason.
        notes: what lowering decided on its own.
    """

    model: str
    board: str
    clock_mhz: float
    macs: int
    cycles: Mapping[str, int | None]
    peak_macs: int
    resources: Mapping[str, Mapping[str, int] | None]
    parts: Mapping[str, Mapping[str, int]]
    traffic_bytes: int
    engines: tuple[Mapping[str, Any], ...]
    timeline: tuple[tuple[str, str, int, int], ...]
    bit_exact: bool | None = None
    images: int = 0
    faults: tuple[str, ...] = ()
    assumptions: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()

    @property
    def total_cycles(self) -> int:
        """Simulated cycles if there are any, else modelled ones."""
        return self.cycles["simulated"] or self.cycles["modelled"] or 0

    @property
    def latency_ms(self) -> float:
        """Milliseconds of one inference at the assumed clock."""
        return self.total_cycles / self.clock_mhz / 1e3

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulates per cycle over the whole inference."""
        return self.macs / self.total_cycles

    @property
    def binding(self) -> str:
        """The resource of which the largest share is used."""
        used, there = self.resources["modelled"] or {}, self.resources["available"] or {}
        return max((name for name in used if there[name]), key=lambda name: used[name] / there[name])

    def verified(self, *, bit_exact: bool, simulated: int, images: int, faults: Sequence[str]) -> "Report":
        """The same with the result of a simulation."""
        return replace(
            self,
            cycles={**self.cycles, "simulated": simulated},
            bit_exact=bit_exact,
            images=images,
            faults=tuple(faults),
        )

    def to_json(self) -> dict[str, object]:
        """Plain data; figures that follow from others are included."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            **plain,
            "latency_ms": self.latency_ms,
            "period_ms": self.latency_ms,
            "gops": 2 * self.macs / self.latency_ms / 1e6,
            "macs_per_cycle": self.macs_per_cycle,
            "mac_utilization": self.macs_per_cycle / self.peak_macs,
            "search": {"strategy": "plain"},
        }

    @classmethod
    def from_json(cls, document: object) -> "Report":
        """The report of a document that nobody vouches for.

        Raises:
            BundleError: a missing or illegal value.
        """
        try:
            values = {f.name: document[f.name] for f in fields(cls)}  # type: ignore[index]
            for name in ("engines", "faults", "notes"):
                values[name] = tuple(values[name])
            values["timeline"] = tuple((str(e), str(n), int(a), int(b)) for e, n, a, b in values["timeline"])
            report = cls(**values)
            report.to_json(), report.html(), report.lines()
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise BundleError(f"report.json is damaged: {' '.join(str(error).split())}") from error
        return report

    def lines(self) -> list[str]:
        """Clock, cycles, latency, resources and evidence, one line each, for a terminal."""
        return [
            f"clock      {self.clock_mhz:g} MHz, assumed, not timed",
            f"cycles     {self._cycles()}",
            f"latency    {self.latency_ms:.4g} ms, {self.macs_per_cycle:.4g} MACs per cycle of {self.peak_macs}",
            *(f"{name:10} {text}" for name, text in self.used()),
            f"evidence   {self.verdict()}",
        ]

    def _cycles(self) -> str:
        simulated = self.cycles["simulated"]
        return f"{self.cycles['modelled']} modelled" + (f", {simulated} simulated" if simulated else "")

    def used(self) -> Iterator[tuple[str, str]]:
        """Per resource that the device has: used, available and share, as text."""
        used, there = self.resources["modelled"] or {}, self.resources["available"] or {}
        for name, count in used.items():
            if there[name]:
                share = f"{count} of {there[name]}, {100 * count / there[name]:.1f} %, modelled"
                yield name, share + (", binding" if name == self.binding else "")

    def verdict(self) -> str:
        """Whether hardware and models agree, in one sentence."""
        if self.bit_exact is None:
            return "modelled; not simulated yet"
        if self.bit_exact and not self.faults and self.cycles["simulated"] == self.cycles["modelled"]:
            return f"simulated: bit-exact on {self.images} images, cycles equal to the model"
        wrong = [] if self.bit_exact else ["bits differ"]
        wrong += [] if self.cycles["simulated"] == self.cycles["modelled"] else ["cycles differ from the model"]
        return f"simulated on {self.images} images: {'; '.join([*wrong, *self.faults])}"

    def html(self) -> str:
        """A page of its own: verdict first, then figures with their evidence, then what nobody here can tell."""
        title = f"{escape(self.model)} on {escape(self.board)}"
        parts = [
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>",
            f"<style>{_STYLE}</style><h1>{title}</h1>",
            self.body(),
            "</html>\n",
        ]
        return "\n".join(parts)

    def body(self) -> str:
        """The page without its frame."""
        state = "" if self.bit_exact is None else "good" if "bit-exact" in self.verdict() else "bad"
        return "\n".join(
            [
                f'<p class="verdict {state}">{escape(self.verdict())}</p>',
                _table(("", "", "evidence"), self._figures()),
                "<h2>Resources</h2>",
                _table(("", "used", "available", "share", "evidence"), self._resource_rows()),
                "<h2>Where the cycles go</h2>",
                self.timeline_svg(),
                "<h2>What open tools cannot tell</h2>",
                _list(UNKNOWN),
                "<h2>Assumptions</h2>",
                _list([f"{key}: {reason}" for key, reason in (self.assumptions or {}).items()]),
                *(["<h2>Notes</h2>", _list(self.notes)] if self.notes else []),
            ]
        )

    def _repr_html_(self) -> str:
        return f"<style>{_STYLE}</style>{self.body()}"

    def _figures(self) -> list[tuple[str, str, str]]:
        evidence = "simulated" if self.cycles["simulated"] else "modelled"
        rows = [("cycles", f"{self.cycles['modelled']}", "modelled")]
        if self.cycles["simulated"]:
            rows.append(("cycles", f"{self.cycles['simulated']}", "simulated"))
        return [
            *rows,
            (f"latency at {self.clock_mhz:g} MHz (assumed clock)", f"{self.latency_ms:.4g} ms", evidence),
            ("multiply-accumulates", f"{self.macs}", "counted"),
            ("multiply-accumulates per cycle", f"{self.macs_per_cycle:.4g} of {self.peak_macs}", evidence),
            ("off-chip traffic", f"{self.traffic_bytes} bytes", "modelled"),
        ]

    def _resource_rows(self) -> list[tuple[str, ...]]:
        used, there = self.resources["modelled"] or {}, self.resources["available"] or {}
        rows: list[tuple[str, ...]] = []
        for name, count in used.items():
            if there[name]:
                label = f"{name} (binding)" if name == self.binding else name
                rows.append((label, f"{count}", f"{there[name]}", f"{100 * count / there[name]:.1f} %", "modelled"))
        return rows

    def timeline_svg(self) -> str:
        """One lane per engine, one bar per command, drawn to scale over the modelled cycles."""
        lanes = list(dict.fromkeys(entry[0] for entry in self.timeline))
        width, left, row = 900, 80, 26
        scale = (width - left) / max(1, max((entry[3] for entry in self.timeline), default=1))
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {row * len(lanes) + 24}">']
        for index, name in enumerate(lanes):
            parts.append(f'<text x="0" y="{row * index + 17}">{escape(name)}</text>')
        for engine, label, start, stop in self.timeline:
            lane = lanes.index(engine)
            x, w = left + start * scale, max(0.5, (stop - start) * scale)
            parts.append(
                f'<rect x="{x:.1f}" y="{row * lane + 4}" width="{w:.1f}" height="18"'
                f' fill="{_COLOURS[lane % len(_COLOURS)]}"><title>{escape(label)}: {start} to {stop}</title></rect>'
            )
        end = max((entry[3] for entry in self.timeline), default=0)
        parts.append(
            f'<text x="{width}" y="{row * len(lanes) + 16}" text-anchor="end">{end} cycles, modelled</text></svg>'
        )
        return "\n".join(parts)


def report(
    model: str,
    design: Design,
    *,
    macs: int,
    peak_macs: int,
    timing: Timing,
    parts: Mapping[str, Resources],
    available: Resources,
    traffic_bytes: int,
    notes: Sequence[str] = (),
) -> Report:
    """The report of a design before anything was simulated.

    Args:
        model: what the user named.
        design: parameters and board.
        macs: multiply-accumulates of one inference.
        peak_macs: multiply-accumulates per cycle of all multipliers together.
        timing: of the program, from the cycle model.
        parts: modelled resources by part.
        available: the device, or less by the user's budget.
        traffic_bytes: off-chip bytes of one inference.
        notes: what lowering decided.
    """
    busy = dict.fromkeys((activity.engine for activity in timing.activities), 0)
    for activity in timing.activities:
        busy[activity.engine] += activity.stop - activity.start
    return Report(
        model=model,
        board=design.board.name,
        clock_mhz=design.board.clock_hz / 1e6,
        macs=macs,
        cycles={"modelled": timing.total, "simulated": None},
        peak_macs=peak_macs,
        resources={
            "modelled": _plain(sum(parts.values(), Resources())),
            "synthesized": None,
            "available": _plain(available),
        },
        parts={name: _plain(part) for name, part in parts.items()},
        traffic_bytes=traffic_bytes,
        engines=tuple(
            {"name": name, "parameters": dict(design.engines.get(name, {})), "busy_cycles": cycles}
            for name, cycles in busy.items()
        ),
        timeline=tuple((a.engine, a.label, a.start, a.stop) for a in timing.activities),
        assumptions=dict(design.board.assumptions),
        notes=tuple(notes),
    )


def _plain(resources: Resources) -> dict[str, int]:
    return {name: int(value) for name, value in vars(resources).items()}


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(_cell(heading[i], cell) for i, cell in enumerate(row)) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(column: str, text: str) -> str:
    if column == "evidence":
        return f'<td><span class="mark">{escape(text)}</span></td>'
    kind = ' class="binding"' if text.endswith("(binding)") else ""
    return f"<td{kind}>{escape(text)}</td>"


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
