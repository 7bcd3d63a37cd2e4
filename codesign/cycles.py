"""Cycles of a whole program, equal to the hardware's.

The rules are in `codesign.rules`; they run as Python or, many times faster, as machine code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from codesign.design import Design
from codesign.errors import CheckError
from codesign.machine import Machine
from codesign.program import Program
from codesign.systolic import EngineTimes


class Activity(NamedTuple):
    """One command on its engine: accepted in cycle ``start``, done in cycle ``stop``."""

    engine: str
    label: str
    start: int
    stop: int


@dataclass(frozen=True)
class Timing:
    """Cycles of one run.

    Attributes:
        total: from the start write to the interrupt, the hardware's cycle register.
        activities: every command, in list order.
        rings, early: words of the weight ring and of the table ring that this run needs, and that some commands need;
            see `codesign.machine.Machine`.
    """

    total: int
    activities: tuple[Activity, ...]
    rings: tuple[int | None, int | None] = (None, None)
    early: Mapping[int, tuple[int | None, int | None]] = field(default_factory=dict)


def exact(program: Program, design: Design, times: EngineTimes, *, compiled: bool | None = None) -> Timing:
    """Cycles of a program without external stalls, equal to the hardware's own count.

    The run begins with the accelerator idle and the memory's bandwidth bucket full.

    Args:
        program: the command list and where it lies.
        design: what it runs on.
        times: what the kernels say of their own durations.
        compiled: whether to run as machine code: where that can be had, never, or (None) if somebody asked for it
            before. It takes seconds to get once, so ask before many or long runs. Never changes a cycle.

    Raises:
        CheckError: the program deadlocks; the message names the first command that never starts.
    """
    machine = Machine(program, design, times, compiled=compiled)
    machine.run()
    if min(machine.stop) < 0:
        index = machine.stop.index(-1)
        command = program.commands[index]
        raise CheckError(f"command {index} ({command.engine}, {command.label}) never ends: the program deadlocks")
    engines, labels = [c.engine for c in program.commands], [c.label for c in program.commands]
    activities = tuple(map(Activity, engines, labels, machine.start, machine.stop))
    return Timing(max(machine.stop) + 1, activities, machine.rings, machine.early)
