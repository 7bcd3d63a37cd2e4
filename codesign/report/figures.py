"""Figures of a build with their evidence, as plain data and as terminal lines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from codesign.timing.stalls import Wait

PLAIN: Mapping[str, Any] = {
    "strategy": "plain", "points": None, "evaluated": None, "proven": None, "seconds": None, "front": []
}  # fmt: skip
"""Defaults of ``search`` in a report's JSON: a design that was not searched for."""


@dataclass(frozen=True)
class Figures:
    """Figures of a build.

    Attributes:
        model: model as named by the user.
        board: name of the board.
        clock_mhz: clock, assumed and not timed.
        macs: multiply-accumulates of one inference.
        cycles: ``modelled`` and, once verified, ``simulated``.
        peak_macs: multiply-accumulates per cycle of all multipliers.
        resources: ``modelled``, ``synthesized`` (sum of the synthesized parts; None if there are none) and
            ``available``, by resource.
        parts: modelled resources by part and resource.
        traffic_bytes: off-chip bytes read and written per inference.
        engines: name, parameters and busy cycles of each engine.
        timeline: engine, layer, first and last cycle of each command.
        bit_exact: whether hardware and golden model agree; None until verified.
        images: number of samples compared.
        faults: mismatches found by verification.
        assumptions: unmeasured figures with the reason for their values.
        notes: decisions made by lowering.
        waits: engine, first and last cycle, cause and reason of each idle interval, see `codesign.timing.stalls`.
        bytes_per_cycle: off-chip bandwidth; None if unknown.
        search: search result, see `codesign.report.search_section`; None if the design was not searched for.
        energy: `codesign.timing.energy.RunEnergy.to_json`; None if unknown.
        accuracy: ``share`` of correct predictions, ``samples`` and ``evidence``; None if unknown.
        command: command line that built this, without objective and budget.
        budget: user limits below the board's resources.
        calibration: how a float model was quantized, see `codesign.flow.calibrate`; None for other models.
        crosscheck: backend that returned the same integers, see `codesign.flow.hls4ml`; None if not requested.
        deviation: error of the outputs against the model, see `codesign.flow.deviation`; None if unknown.
        synthesized_parts: resources counted by open synthesis, by synthesized part and resource.
    """

    model: str
    board: str
    clock_mhz: float
    macs: int
    cycles: Mapping[str, int | None]
    peak_macs: int
    resources: Mapping[str, Mapping[str, float] | None]
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
    calibration: Mapping[str, Any] | None = None
    crosscheck: Mapping[str, Any] | None = None
    deviation: Mapping[str, Any] | None = None
    synthesized_parts: Mapping[str, Mapping[str, float]] | None = None

    @property
    def total_cycles(self) -> int:
        """Simulated cycles if available, else modelled cycles."""
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
        """The resource with the highest utilization."""
        used, there = self.resources["modelled"] or {}, self.resources["available"] or {}
        return max((name for name in used if there[name]), key=lambda name: used[name] / there[name])

    def verified(
        self, *, bit_exact: bool, simulated: int, images: int, faults: Sequence[str], modelled: int | None = None
    ) -> Self:
        """Copy with a simulation's result; ``modelled`` replaces the build's modelled cycles if given."""
        return replace(
            self,
            cycles={"modelled": modelled or self.cycles["modelled"], "simulated": simulated},
            bit_exact=bit_exact,
            images=images,
            faults=tuple(faults),
        )

    def with_accuracy(self, share: float, samples: int, evidence: str) -> Self:
        """Copy with the share of correct predictions on some samples; ``evidence`` is for example ``simulated``."""
        return replace(self, accuracy={"share": share, "samples": samples, "evidence": evidence})

    def with_synthesis(self, found: Mapping[str, Mapping[str, float]]) -> Self:
        """Copy with synthesis counts by part and resource; parts not named keep theirs."""
        parts = {**(self.synthesized_parts or {}), **{part: _counts(counts) for part, counts in found.items()}}
        names = self.resources["modelled"] or {}
        total = _counts({name: sum(counts[name] for counts in parts.values()) for name in names})
        return replace(self, resources={**self.resources, "synthesized": total}, synthesized_parts=parts)

    @property
    def wholly_synthesized(self) -> bool:
        """Whether every part of the design was synthesized."""
        return bool(self.synthesized_parts) and self.parts.keys() <= (self.synthesized_parts or {}).keys()

    def to_json(self) -> dict[str, object]:
        """JSON-compatible data, derived figures included."""
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "latency_ms": self.latency_ms,
            "period_ms": self.latency_ms,
            "gops": 2 * self.macs / self.latency_ms / 1e6,
            "macs_per_cycle": self.macs_per_cycle,
            "mac_utilization": self.macs_per_cycle / self.peak_macs,
            "search": {**PLAIN, **(self.search or {})},
        }

    def lines(self) -> list[str]:
        """Clock, cycles, latency, resources, choice, error with warnings and evidence, a line each, for a terminal."""
        return [
            f"clock      {self.clock_mhz:g} MHz, assumed, not timed",
            f"cycles     {self._cycles()}",
            f"latency    {self.latency_ms:.4g} ms, {self.macs_per_cycle:.4g} MACs per cycle of {self.peak_macs}",
            *(f"{name:10} {text}" for name, text in self.used()),
            *self._choice_line(),
            *self._synthesis_line(),
            *self._error_lines(),
            f"evidence   {self.verdict()}",
        ]

    def _choice_line(self) -> list[str]:
        search = self.search or {}
        if not search.get("objective"):
            return []
        near = f" within {100 * search['within']:.6g} %" if search.get("within") else ""
        count = len(search["front"])
        return [f"choice     best{near} for {search['objective']}, of {count} designs that no other one dominates"]

    def _synthesis_line(self) -> list[str]:
        found = self.resources["synthesized"]
        if found is None:
            return []
        what = "all parts" if self.wholly_synthesized else ", ".join(self.synthesized_parts or {})
        return [f"synthesis  {', '.join(f'{name} {count:g}' for name, count in found.items() if count)}, of {what}"]

    def _error_lines(self) -> list[str]:
        if self.deviation is None:
            return []
        warnings = [f"warning    {text}" for text in self.deviation["warnings"]]
        return [f"error      {self.deviation['text']}, {self.deviation['evidence']}", *warnings]

    def _cycles(self) -> str:
        simulated = self.cycles["simulated"]
        return f"{self.cycles['modelled']} modelled" + (f", {simulated} simulated" if simulated else "")

    def used(self) -> Iterator[tuple[str, str]]:
        """Yields (resource, text) for each available resource; the text gives used, available and share."""
        used, there = self.resources["modelled"] or {}, self.resources["available"] or {}
        for name, count in used.items():
            if there[name]:
                share = f"{count} of {there[name]}, {100 * count / there[name]:.1f} %, modelled"
                yield name, share + (", binding" if name == self.binding else "")

    @property
    def agrees(self) -> bool:
        """Whether a simulation was run and found no fault."""
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


def _counts(found: Mapping[str, float]) -> dict[str, float]:
    """Counts with integral floats converted to integers; half block RAMs stay fractional."""
    return {name: int(count) if count == int(count) else count for name, count in found.items()}
