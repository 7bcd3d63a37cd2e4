"""Modelled energy of one run, and power of a fully active design.

Everything follows from the coefficients of the board (`codesign.target.board_figures.Energy`), whose sources and
assumptions are in the board's file. Nothing here is measured: every figure comes with an uncertainty band.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.compiler.program import Program
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.kernel import DSP_MACS, Joules, Resources, joules

EngineJoules = Mapping[str, Callable[[Mapping[str, int]], float]]
"""Joules of a command's work, by engine; data movers are absent."""

_RAM_BYTES = 16
"""Bytes per memory block and cycle: a 64-bit read and a 64-bit write."""
_MILLI, _FEMTO = 1e-3, 1e-15


@dataclass(frozen=True)
class RunEnergy:
    """Modelled joules of one run, by consumer.

    Attributes:
        engines: commands, by engine.
        offchip: transfers to and from the off-chip memory, with their on-chip memory accesses.
        shell: parts other than engines, assumed active in every cycle.
        idle: clocking of the engines while they wait.
        static: static power over the run.
        error: half-width of the band around the total, relative to it.
    """

    engines: Mapping[str, float]
    offchip: float
    shell: float
    idle: float
    static: float
    error: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(self.engines.values()) + self.offchip + self.shell + self.idle + self.static

    @property
    def band(self) -> tuple[float, float]:
        """Lower and upper end of the band around the total."""
        return self.total * (1 - self.error), self.total * (1 + self.error)

    def to_json(self) -> dict[str, object]:
        """JSON-ready joules, with total, band and kind of evidence."""
        parts = {name: getattr(self, name) for name in ("offchip", "shell", "idle", "static")}
        return {
            "engines": dict(self.engines),
            **parts,
            "total": self.total,
            "band": list(self.band),
            "error": self.error,
            "evidence": "modelled",
        }


def run_energy(
    program: Program,
    design: Design,
    *,
    cycles: int,
    busy: Mapping[str, int],
    parts: Mapping[str, Resources],
    engines: EngineJoules,
    traffic_bytes: int,
) -> RunEnergy:
    """Modelled energy of one run of a program.

    Args:
        program: the program.
        design: the design; its board has the coefficients.
        cycles: cycles of the run.
        busy: by engine, cycles with a command in flight, see `codesign.timing.stalls.busy`.
        parts: resources by part; an engine's under its name.
        engines: joules of the commands' work.
        traffic_bytes: off-chip bytes of the run, both directions.

    Raises:
        InputError: the board has no coefficients.
    """
    board, e = design.board, design.board.coefficients
    spent = dict.fromkeys(engines, 0.0)
    for job in program.jobs:
        spent[job.engine] += engines[job.engine](job.work) * len(job.commands)
    shell = sum((part for name, part in parts.items() if name not in engines), Resources())
    waiting = sum(int(parts[name].ff) * (cycles - busy.get(name, 0)) for name in engines)
    return RunEnergy(
        engines=spent,
        offchip=traffic_bytes * (e.offchip_byte_fj + e.ram_byte_fj) * _FEMTO,
        shell=float(joules(board, macs=0, ram_bytes=0, cycles=cycles, logic=shell)),
        idle=waiting * e.ff_cycle_fj * _FEMTO,
        static=e.static_mw * _MILLI * cycles / board.clock_hz,
        error=e.error_percent / 100,
    )


def full_power(resources: Resources, board: Board) -> Joules:
    """Watts of a design with every part active in every cycle, without off-chip transfers.

    Published designs come close to that, so this figure serves to compare the coefficients with them.

    Raises:
        InputError: the board has no coefficients.
    """
    blocks = resources.bram36 + resources.uram
    each_cycle = joules(board, macs=resources.dsp * DSP_MACS, ram_bytes=blocks * _RAM_BYTES, cycles=1, logic=resources)
    return each_cycle * board.clock_hz + board.coefficients.static_mw * _MILLI
