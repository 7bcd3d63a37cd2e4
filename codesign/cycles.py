"""Cycles of a whole program, equal to the hardware's.

The rules are in `codesign.machine` and the modules beside it; what is known to happen again
is not done again, which never changes a cycle.
"""

from dataclasses import dataclass
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
    """

    total: int
    activities: tuple[Activity, ...]


def exact(program: Program, design: Design, times: EngineTimes) -> Timing:
    """Cycles of a program without external stalls, equal to the hardware's own count.

    The run begins with the accelerator idle and the memory's bandwidth bucket full.

    Raises:
        CheckError: the program deadlocks; the message names the first command that never starts.
    """
    machine = Machine(program, design, times)
    machine.run()
    if min(machine.stop) < 0:
        index = machine.stop.index(-1)
        command = program.commands[index]
        raise CheckError(f"command {index} ({command.engine}, {command.label}) never ends: the program deadlocks")
    engines, labels = [c.engine for c in program.commands], [c.label for c in program.commands]
    return Timing(max(machine.stop) + 1, tuple(map(Activity, engines, labels, machine.start, machine.stop)))
