"""The report of a build: one value, as JSON and as a page that needs nothing but a browser.

Every figure says how it came about: *modelled*, *simulated*, *synthesized*, and never two of them in one
column. What no open tool can tell is listed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from codesign import page, pareto, plots
from codesign import waits as waiting
from codesign.board import Board
from codesign.command import Command
from codesign.cycles import Timing
from codesign.design import Design
from codesign.errors import BundleError
from codesign.kernel import Resources
from codesign.page import Html, mark, paragraph, table
from codesign.plots import Bar, Picture, Point, short
from codesign.waits import Wait

UNKNOWN = (
    "whether the design closes timing at the assumed clock",
    "whether place and route find room for it as counted",
    "DRAM refresh, bank conflicts and other masters on the memory",
    "power and temperature",
)
"""What only a vendor's tools or a board can tell."""

_NONE, _LATER = "–", "not yet"
_LONGEST = 200
"""Idle stretches in the table."""


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
        waits: engine, first and last cycle, cause and reason of every idle stretch, see `codesign.waits`.
        bytes_per_cycle: what the off-chip memory allows; None if unknown.
        search: how the design was found, see `codesign.pareto`; None for the plain choice.
        energy: as `codesign.energy.RunEnergy.to_json` gives it; None if unknown.
        accuracy: ``share`` of right predictions, ``samples`` and ``evidence``; None if unknown.
        command: the call that built this, without objective and budget.
        budget: resources of which less than the board has may be used.
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
    waits: tuple[Wait, ...] = ()
    bytes_per_cycle: float | None = None
    search: Mapping[str, Any] | None = None
    energy: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None
    command: str | None = None
    budget: Mapping[str, int] | None = None

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

    def with_accuracy(self, share: float, samples: int, evidence: str) -> "Report":
        """The same with the share of right predictions on some samples; ``evidence`` is simulated, say."""
        return replace(self, accuracy={"share": share, "samples": samples, "evidence": evidence})

    def with_synthesis(self, found: Resources) -> "Report":
        """The same with the resources that a synthesis counted."""
        return replace(self, resources={**self.resources, "synthesized": _plain(found)})

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
            "search": {**_PLAIN, **(self.search or {})},
        }

    @classmethod
    def from_json(cls, document: object) -> "Report":
        """The report of a document that nobody vouches for.

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
            if values["search"] is not None and values["search"]["strategy"] == _PLAIN["strategy"]:
                values["search"] = None
            report = cls(**values)
            report.to_json(), report.html(), report.lines()
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
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

    @property
    def agrees(self) -> bool:
        """Truth of a simulation having found nothing wrong."""
        return bool(self.bit_exact) and not self.faults and self.cycles["simulated"] == self.cycles["modelled"]

    def verdict(self) -> str:
        """Whether hardware and models agree, in one sentence."""
        if self.bit_exact is None:
            return "modelled; not simulated yet"
        if self.agrees:
            return f"simulated: bit-exact on {self.images} images, cycles equal to the model"
        wrong = [] if self.bit_exact else ["bits differ"]
        wrong += [] if self.cycles["simulated"] == self.cycles["modelled"] else ["cycles differ from the model"]
        return f"simulated on {self.images} images: {'; '.join([*wrong, *self.faults])}"

    def html(self) -> str:
        """A page of its own: verdict first, then figures with their evidence, then what nobody here can tell."""
        return page.document(f"{self.model} on {self.board}", self.body(interactive=True))

    def _repr_html_(self) -> str:
        return page.fragment(self.body(interactive=False))

    def body(self, *, interactive: bool) -> str:
        """The page without its frame; only an interactive one needs the frame's script."""
        searched = ""
        if self.search is not None:
            searched = pareto.sections(self.search, self._command(), self.budget or {}, interactive=interactive)
        parts = [
            self._verdict(),
            page.section("Latency", self._latency()),
            page.section("Accuracy", self._accuracy()),
            page.section("Utilization", self._utilization()),
            page.section("Resources", self._resources()),
            page.section("Roofline", self._roofline()),
            page.section("Where the cycles go", self._cycles_go()),
            searched,
            page.section("Energy", self._energy()),
            page.section("What open tools cannot tell", [page.listing(UNKNOWN)]),
            page.section("Assumptions", [page.listing(self._assumptions())]),
            page.section("Notes", [page.listing(self.notes)]),
        ]
        return "\n".join(part for part in parts if part)

    def plot(self, name: str) -> Picture:
        """One of the page's drawings: ``timeline``, ``roofline``, ``resources``, ``utilization`` or ``front``.

        Raises:
            ValueError: another name, or the report has no such figures.
        """
        if name == "timeline":
            return self._timeline()
        if name == "resources":
            return plots.shares([(n, share, text) for n, share, text in self._shares("modelled")])
        if name == "utilization":
            return plots.shares([(e["name"], *self._busy(e["busy_cycles"])) for e in self.engines])
        if name == "roofline" and self.bytes_per_cycle:
            points = [Point(kind, self.macs / n, kind == "simulated") for kind, n in self.cycles.items() if n]
            intensity = self.macs / self.traffic_bytes
            return plots.roofline(points, intensity, peak=self.peak_macs, bandwidth=self.bytes_per_cycle)
        if name == "front" and self.search is not None and self.search["front"]:
            return pareto.plot(self.search)
        raise ValueError(f"no plot {name!r}; legal: timeline, resources, utilization, and roofline and front if known")

    def _command(self) -> str:
        return self.command or pareto.base_command(self.model, self.board)

    # Sections.

    def _verdict(self) -> str:
        text = self.verdict()
        state = "" if self.bit_exact is None else "good" if self.agrees else "bad"
        simulated = bool(self.cycles["simulated"])
        name, share, used = max(self._shares("modelled"), key=lambda row: row[1])
        latency, clock = f"{short(self.latency_ms)} ms", f"{self.clock_mhz:g} MHz"
        facts = [
            Html(f"{latency} {mark('simulated' if simulated else 'modelled')} at {clock} {mark('assumed')}"),
            Html(f"{'does not fit: ' if share > 1 else ''}most of {page.shown(name)}: {used} {mark('modelled')}"),
        ]
        return f'<div class="cs-verdict {state}"><strong>{page.shown(text)}</strong>{page.listing(facts)}</div>'

    def _latency(self) -> list[str]:
        """Figures that depend on cycles, each kind of evidence in a column of its own."""
        counts = [self.cycles["modelled"], self.cycles["simulated"]]

        def row(name: str, value: Callable[[int], str]) -> list[str]:
            return [name, *(value(count) if count else _LATER for count in counts)]

        rows = [
            row("cycles of one inference", lambda n: f"{n:,}"),
            row(f"latency at {self.clock_mhz:g} MHz, in ms", lambda n: short(n / self.clock_mhz / 1e3)),
            row("inferences per second", lambda n: f"{self.clock_mhz * 1e6 / n:,.0f}"),
            row("billions of operations per second", lambda n: short(2 * self.macs * self.clock_mhz / n / 1e3)),
            row("multiply-accumulates per cycle", lambda n: short(self.macs / n)),
            row(f"share of the {self.peak_macs:,} possible", lambda n: f"{100 * self.macs / n / self.peak_macs:.1f} %"),
        ]
        work = f"{self.macs:,} multiply-accumulates of one inference"
        return [
            table(["", "modelled", "simulated"], rows, "The clock is assumed: no open tool times this design."),
            paragraph(work, "counted"),
            paragraph(f"{self.traffic_bytes:,} bytes to and from the off-chip memory", "modelled"),
        ]

    def _accuracy(self) -> list[str]:
        if self.accuracy is None:
            return []
        share, samples = float(self.accuracy["share"]), int(self.accuracy["samples"])
        return [paragraph(f"{100 * share:.2f} % of {samples:,} samples right", str(self.accuracy["evidence"]))]

    def _busy(self, cycles: int) -> tuple[float, str]:
        share = cycles / (self.cycles["modelled"] or 1)
        return share, f"{cycles:,} cycles, {100 * share:.1f} %"

    def _utilization(self) -> list[str]:
        rows = [
            [e["name"], *self._busy(e["busy_cycles"])[1].split(" cycles, "), page.pairs(e["parameters"]) or _NONE]
            for e in self.engines
        ]
        caption = "Cycles in which an engine has a command under way (modelled)"
        return [
            page.scroll(self.plot("utilization").svg, caption),
            table(["engine", "busy cycles", "of the run", "parameters"], rows, caption),
        ]

    def _shares(self, evidence: str) -> list[tuple[str, float, str]]:
        """Per resource that the device has: share of it, and used, available and share as text."""
        used, there = self.resources[evidence] or {}, self.resources["available"] or {}
        return [
            (name, count / there[name], f"{count:,} of {there[name]:,}, {100 * count / there[name]:.1f} %")
            for name, count in used.items()
            if there[name]
        ]

    def _resources(self) -> list[str]:
        there, synthesized = self.resources["available"] or {}, self.resources["synthesized"]
        rows = []
        for name, share, _ in self._shares("modelled"):
            count = (self.resources["modelled"] or {})[name]
            other = None if synthesized is None else synthesized[name]
            rows.append(
                [
                    f"{name} (binding)" if name == self.binding else name,
                    f"{count:,}",
                    f"{100 * share:.1f} %",
                    _LATER if other is None else f"{other:,}",
                    _LATER if other is None else f"{100 * other / there[name]:.1f} %",
                    f"{there[name]:,}",
                ]
            )
        binding = frozenset(i for i, row in enumerate(rows) if row[0].endswith("(binding)"))
        heading = ["", "modelled", "of available", "synthesized", "of available", "available"]
        limited = f", limited by the budget {page.pairs(self.budget)}" if self.budget else ""
        caption = f"Used of what the device has{limited}; of the binding one the largest share is used"
        names = [name for name, _, _ in self._shares("modelled")]
        parts = [[part, *(f"{counts[name]:,}" for name in names)] for part, counts in self.parts.items()]
        return [
            page.scroll(self.plot("resources").svg, "share of each resource (modelled)"),
            table(heading, rows, caption, strong=binding),
            page.details("by part", table(["part", *names], parts, "Resources by part (modelled)")),
        ]

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
        return [paragraph(text, "assumed"), page.scroll(self.plot("roofline").svg, "roofline")]

    # Where the cycles go.

    def _timeline(self) -> Picture:
        bars = [Bar(e, a, b, f"{e}: {name}, cycles {a:,} to {b:,}") for e, name, a, b in self.timeline]
        bars += [
            Bar(e, a, b, f"{e} waits {b - a:,} cycles, {a:,} to {b:,}: {reason}", cause)
            for e, a, b, cause, reason in self.waits
            if cause != waiting.WEIGHTS
        ]
        return plots.timeline(bars, self.cycles["modelled"] or 0)

    def _cycles_go(self) -> list[str]:
        text = "Every bar is a command; a thin line is waiting, in the colour of the engine that is waited for."
        return [
            paragraph(text, "modelled"),
            page.scroll(self.plot("timeline").svg, "timeline of the engines", wide=True),
            *self._causes(),
            page.details("every idle stretch", self._stretches()),
        ]

    def _causes(self) -> list[str]:
        """Idle cycles by engine and cause."""
        if not self.waits:
            return []
        counts = waiting.shares(self.waits)
        causes = list(dict.fromkeys(cause for by in counts.values() for cause in by))
        rows = [
            [engine, *(f"{by[cause]:,}" if cause in by else _NONE for cause in causes)] for engine, by in counts.items()
        ]
        heading = ["engine", *(_CAUSES.get(cause, f"for {cause}") for cause in causes)]
        return [table(heading, rows, "Cycles that each engine waits, by what it waits for (modelled)")]

    def _stretches(self) -> str:
        waits = sorted(self.waits, key=lambda wait: wait[1] - wait[2])[:_LONGEST]
        rows = [[e, f"{b - a:,}", f"{a:,}", f"{b:,}", reason] for e, a, b, _, reason in waits]
        caption = f"The {len(waits)} longest of {len(self.waits)} idle stretches (modelled)"
        return table(["engine", "cycles", "from", "to", "waits for"], rows, caption) if waits else ""

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
        caption = "Where it goes (modelled)"
        return [paragraph(text, str(self.energy["evidence"])), table(["", "µJ", "share"], rows, caption)]

    def _assumptions(self) -> list[Html]:
        found = (self.assumptions or {}).items()
        return [Html(f"{page.shown(key)}: {page.shown(reason)} {mark('assumed')}") for key, reason in found]


_PLAIN: Mapping[str, Any] = {"strategy": "plain", "points": None, "evaluated": None, "seconds": None, "front": []}
"""What stands for the search of a design that was not searched for."""
_CAUSES = {
    waiting.READING: "command list still read",
    waiting.DONE: "nothing left to do",
    waiting.WEIGHTS: "at the pace of its weights (not idle)",
}
_ENERGY = {
    "offchip": "off-chip transfers",
    "shell": "shell and memories",
    "idle": "engines while they wait",
    "static": "drawn all the time",
}


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
    commands: Sequence[Command] = (),
    search: Mapping[str, Any] | None = None,
    energy: Mapping[str, Any] | None = None,
    command: str | None = None,
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
        commands: the program's list, to tell what idle stretches wait for.
        search: how the design was found, see `codesign.pareto`.
        energy: as `codesign.energy.RunEnergy.to_json` gives it.
        command: the call that built this, without objective and budget; made from model and board if not given.
    """
    board, limit = design.board, _plain(available)
    return Report(
        model=model,
        board=board.name,
        clock_mhz=board.clock_hz / 1e6,
        macs=macs,
        cycles={"modelled": timing.total, "simulated": None},
        peak_macs=peak_macs,
        resources={"modelled": _plain(sum(parts.values(), Resources())), "synthesized": None, "available": limit},
        parts={name: _plain(part) for name, part in parts.items()},
        traffic_bytes=traffic_bytes,
        engines=_engines(design, timing),
        timeline=tuple((a.engine, a.label, a.start, a.stop) for a in timing.activities),
        assumptions=dict(board.assumptions),
        notes=tuple(notes),
        waits=_waits(commands, timing),
        bytes_per_cycle=_bytes_per_cycle(board),
        search=search,
        energy=energy,
        command=command or " ".join([pareto.base_command(model, board.name), *_settings(board)]),
        budget={name: count for name, count in limit.items() if count < getattr(board.resources, name)},
    )


def _plain(resources: Resources) -> dict[str, int]:
    return {name: int(value) for name, value in vars(resources).items()}


def _micro(joules: float) -> str:
    """Microjoules with three digits, which is more than the model knows."""
    return f"{float(f'{1e6 * joules:.3g}'):,.10g}"


def _engines(design: Design, timing: Timing) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {"name": name, "parameters": dict(design.engines.get(name, {})), "busy_cycles": cycles}
        for name, cycles in waiting.busy(timing.activities).items()
    )


def _waits(commands: Sequence[Command], timing: Timing) -> tuple[Wait, ...]:
    """Idle stretches, then those in which the array goes at the pace of its weights."""
    if not commands:
        return ()
    stretches = waiting.idle(commands, timing.activities, timing.total)
    return (*stretches, *waiting.starved(commands, timing.activities))


def _bytes_per_cycle(board: Board) -> float:
    """The memory's sustained bandwidth, or that of the ports if it is less."""
    memory = board.memory
    return min(memory.bytes_numerator / memory.bytes_denominator, memory.ports * memory.port_bits / 8)


def _settings(board: Board) -> list[str]:
    """The options that changed figures of the board."""
    return [
        f"--set {key}={value}"
        for key, value in board.figures().items()
        if board.assumptions.get(key) == f"set to {value} by the user"
    ]
