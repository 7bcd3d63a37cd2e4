"""Cycles of a whole program, equal to the hardware's.

The rules are in `codesign.timing.event_kernel`; they run as Python or, many times faster, as machine code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from codesign.compiler.program import Program
from codesign.errors import CheckError
from codesign.target.design import Design
from codesign.timing.formulas import Formulas
from codesign.timing.simulate import Counts, Machine


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
        names: engine and label of every command, in list order.
        start, stop: cycles in which these are accepted and done.
        rings, early: words of the weight ring and of the table ring that the run needs, in all and up to the end
            of some commands; see `codesign.timing.simulate.Machine`.
    """

    total: int
    names: tuple[tuple[str, str], ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]
    rings: tuple[int | None, int | None] = (None, None)
    early: Mapping[int, tuple[int | None, int | None]] = field(default_factory=dict)

    @cached_property
    def activities(self) -> tuple[Activity, ...]:
        """Every command, in list order."""
        commands = zip(self.names, self.start, self.stop, strict=True)
        return tuple(Activity(*name, start, stop) for name, start, stop in commands)


def exact(
    program: Program,
    design: Design,
    formulas: Formulas,
    *,
    counts: Counts | None = None,
    compiled: bool | None = None,
) -> Timing:
    """Cycles of a program without external stalls, equal to the hardware's own count.

    The run begins with the accelerator idle and the memory's bandwidth bucket full.

    Args:
        program: the program.
        design: the design that runs it.
        formulas: duration formulas of the kernels.
        counts: data-dependent work of one inference, from `codesign.ir.network.counts`; None for the kernels'
            assumption, see `codesign.target.kernel.CommandKernel.assumes`.
        compiled: True to run as machine code where available, False for Python, None for machine code if it was
            requested before. Compiling takes seconds, once; request it for many or long runs. Never changes a cycle.

    Raises:
        CheckError: the program deadlocks; the message names the first command that never ends.
    """
    machine = Machine(program, design, formulas, counts=counts, compiled=compiled)
    machine.run()
    if min(machine.stop) < 0:
        index = machine.stop.index(-1)
        raise CheckError(f"command {index} ({', '.join(program.names[index])}) never ends: the program deadlocks")
    start, stop = tuple(machine.start), tuple(machine.stop)
    return Timing(max(stop) + 1, program.names, start, stop, machine.rings, machine.early)
