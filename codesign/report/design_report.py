"""Report of a design before simulation: every figure as the models give it."""

from collections.abc import Mapping, Sequence
from typing import Any

from codesign.report import search_section
from codesign.report.report import Report
from codesign.target.board import Board
from codesign.target.commands import Command
from codesign.target.design import Design
from codesign.target.kernel import Resources
from codesign.timing import stalls
from codesign.timing.cycles import Timing
from codesign.timing.stalls import Wait


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
    """Report of a design before simulation.

    Args:
        model: model as named by the user.
        design: parameters and board.
        macs: multiply-accumulates of one inference.
        peak_macs: multiply-accumulates per cycle of all multipliers.
        timing: the program's timing from the cycle model.
        parts: modelled resources by part.
        available: resources of the device, or the user's budget.
        traffic_bytes: off-chip bytes of one inference.
        notes: decisions made by lowering.
        commands: the program's commands, to attribute idle intervals.
        search: search result, see `codesign.report.search_section`.
        energy: `codesign.timing.energy.RunEnergy.to_json`.
        command: command line that built this, without objective and budget; by default made from model and board.
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
        command=command or " ".join([search_section.base_command(model, board.name), *_settings(board)]),
        budget={name: count for name, count in limit.items() if count < getattr(board.resources, name)},
    )


def _plain(resources: Resources) -> dict[str, int]:
    return {name: int(value) for name, value in vars(resources).items()}


def _engines(design: Design, timing: Timing) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {"name": name, "parameters": dict(design.engines.get(name, {})), "busy_cycles": cycles}
        for name, cycles in stalls.busy(timing.activities).items()
    )


def _waits(commands: Sequence[Command], timing: Timing) -> tuple[Wait, ...]:
    """Idle intervals, then the intervals in which the array is limited by weight delivery."""
    if not commands:
        return ()
    idle = stalls.idle(commands, timing.activities, timing.total)
    return (*idle, *stalls.starved(commands, timing.activities))


def _bytes_per_cycle(board: Board) -> float:
    """Off-chip bytes per cycle: the lesser of sustained memory bandwidth and port bandwidth."""
    memory = board.memory
    return min(memory.bytes_numerator / memory.bytes_denominator, memory.ports * memory.port_bits / 8)


def _settings(board: Board) -> list[str]:
    """Command-line options that reproduce changed board figures."""
    return [
        f"--set {key}={value}"
        for key, value in board.figures().items()
        if board.assumptions.get(key) == f"set to {value} by the user"
    ]
