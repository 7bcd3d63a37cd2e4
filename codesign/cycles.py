"""Cycles of a whole program, equal to the hardware's, and a lower bound for every program of a network.

The rules are in `codesign.machine` and the modules beside it; what is known to happen again
is not done again, which never changes a cycle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from codesign.board import Memory
from codesign.design import Design
from codesign.errors import CheckError
from codesign.kernel import Number, ceil_div, larger
from codesign.machine import Machine
from codesign.network import Attention, Linear, Network, layer_macs
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


def bound(network: Network, engines: Mapping[str, Mapping[str, Number]], memory: Memory) -> Number:
    """A lower bound of `exact` for every program of the network, for one design or arrays of them.

    Each engine must do its work, and the memory must move every weight once: whatever is cut, padded
    or waits only adds to that.

    Args:
        network: the layers.
        engines: parameters by engine, integers or arrays.
        memory: the board's off-chip memory.
    """
    p = engines["linear"]
    linear: Number = 0
    bytes_moved, attention, vector = 0, 0, 0
    for layer in network:
        if isinstance(layer, Linear):
            tile = larger(ceil_div(layer.k, p["t_in"]), p["n_l"])
            linear = linear + ceil_div(layer.rows, p["n_l"]) * ceil_div(layer.n, p["t_out"]) * tile
            bytes_moved += layer.n * (layer.k + 8)
        elif isinstance(layer, Attention):
            attention += layer_macs(layer) // 2
        else:
            vector += layer.rows * layer.d
    bytes_moved -= memory.burst_bytes
    total = larger(linear, max(0, -(-bytes_moved * memory.bytes_denominator // memory.bytes_numerator)))
    if attention:
        total = larger(total, ceil_div(attention, engines["attention"]["t_a"] * engines["attention"]["n_a"]))
    if vector:
        total = larger(total, ceil_div(vector, engines["vector"]["t_v"]))
    return total
