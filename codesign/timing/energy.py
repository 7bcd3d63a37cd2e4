"""Modelled energy of one run, and power of a design that never rests.

Everything follows from the coefficients of the board (`codesign.target.board.Energy`), whose sources and
assumptions are in the board's file. Nothing here is measured: every figure comes with the band in
which it is believed to lie.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codesign.compiler.program import Program
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.kernel import DSP_MACS, Joules, Resources, joules

EngineJoules = Mapping[str, Callable[[Mapping[str, int]], float]]
"""Joules of a command's work, by the engine that runs it; engines that only move data are not there."""

_RAM_BYTES = 16
"""A 64-bit read and a 64-bit write of one memory block per cycle."""
_MILLI, _FEMTO = 1e-3, 1e-15


@dataclass(frozen=True)
class RunEnergy:
    """Joules of one run by where they go; modelled.

    Attributes:
        engines: of the commands of each engine.
        offchip: bytes to and from the off-chip memory, and their way into and out of on-chip memories.
        shell: parts that are no engines, taken to work in every cycle.
        idle: clocks of the engines while they wait.
        static: what is drawn all the time.
        error: half the width of the band around the total, relative to it.
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
        """Least and most joules that the total is believed to stand for."""
        return self.total * (1 - self.error), self.total * (1 + self.error)

    def to_json(self) -> dict[str, object]:
        """Plain data, in joules, with the total, the band and how it came about."""
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
    """What one run of a program costs.

    Args:
        program: its commands.
        design: with the board and its coefficients.
        cycles: of the run.
        busy: cycles of it in which each engine has a command under way, see `codesign.timing.stalls.busy`.
        parts: resources by part, those of engines under their engine's name.
        engines: what the kernels say of their commands' work.
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
    """Watts of a design every part of which works in every cycle, off-chip transfers left out.

    Published designs come close to that, so it is where the coefficients are compared with them.

    Raises:
        InputError: the board has no coefficients.
    """
    blocks = resources.bram36 + resources.uram
    each_cycle = joules(board, macs=resources.dsp * DSP_MACS, ram_bytes=blocks * _RAM_BYTES, cycles=1, logic=resources)
    return each_cycle * board.clock_hz + board.coefficients.static_mw * _MILLI
