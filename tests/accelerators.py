"""Whole accelerators for the tests: designs that suit a network, and runs of programs on the RTL."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from codesign.compiler import host
from codesign.compiler.layout import memory_need
from codesign.compiler.program import Program, compile_network
from codesign.hw.system import top
from codesign.hw.system.accelerator import formulas, simulation_sources
from codesign.ir.network import Input, Linear, Network, Output, Tensor, run
from codesign.sim.verilator.simulator import Library, MemoryPorts, Simulator, compile_design
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.timing.cycles import exact

SMALL_VIT = {
    "linear": {
        "t_in": 8, "t_out": 8, "n_l": 3, "kw_max": 8, "ring_words": 256, "table_words": 32, "tables": 4,
    },
    "attention": {"t_a": 4, "n_a": 4, "max_keys": 64, "db_max": 16},
    "vector": {"t_v": 8, "max_d": 64},
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one program did on the RTL and in the models."""

    bits_equal: bool
    simulated: int
    modelled: int


def board(ports: int = 4, latency: int = 60, outstanding: int = 8, bytes_per_second: int | None = None) -> Board:
    """The ZCU102 with another memory interface."""
    base = Board.load("zcu102")
    memory = replace(
        base.memory,
        ports=ports,
        read_latency=latency,
        outstanding=outstanding,
        bytes_per_second=bytes_per_second or base.memory.bytes_per_second,
    )
    return replace(base, memory=memory)


def fitting(design: Design, networks: Iterable[Network], limits: Mapping[str, int] | None = None) -> Design:
    """The design with memories that hold every tensor of the networks, or ``limits`` where given."""
    need: dict[str, int] = {}
    for network in networks:
        for name, size in memory_need(network, design).items():
            need[name] = max(need.get(name, 0), -(-size // 1024) * 1024)
    return replace(design, memories=need | dict(limits or {}))


def compiled(design: Design) -> Library:
    """The design's RTL, ready to run behind its board's memory."""
    m = design.board.memory
    ports = MemoryPorts(
        m.ports,
        m.port_bits // 8,
        m.bytes_numerator,
        m.bytes_denominator,
        m.read_latency,
        m.write_latency,
        m.outstanding,
    )
    sources = simulation_sources(design)
    return compile_design(sources.files, sources.top, memory=ports)


def run_program(
    library: Library,
    design: Design,
    network: Network,
    samples: list[Mapping[str, NDArray[np.generic]]],
    stall: tuple[int, float] | None = None,
) -> list[Outcome]:
    """Runs the samples back to back without reset; ``stall`` is a seed and a probability of random stalls."""
    program = compile_network(network, design)
    modelled = exact(program, design, formulas(design.engines)).total
    image = host.image_of(program)
    outcomes = []
    with library.start(dram_bytes=program.dram_bytes) as simulator:
        host.load(simulator.dram, image)
        if stall:
            simulator.stall(*stall)
        simulator.reset(2)
        for sample in samples:
            golden = run(network, sample)
            for name, place in program.inputs.items():
                host.write_matrix(simulator.dram, place, golden[name])
            simulator.step(_refill(design.board))
            start(simulator, program)
            simulator.run_until_irq(20_000_000)
            equal = all(
                np.array_equal(host.read_matrix(simulator.dram, p), golden[n]) for n, p in program.outputs.items()
            )
            failed = simulator.axil_read(top.ERROR)
            outcomes.append(Outcome(equal and not failed, simulator.axil_read(top.CYCLES_LOW), modelled))
    return outcomes


def _refill(board: Board) -> int:
    """Cycles after which the memory's bandwidth bucket is full again."""
    m = board.memory
    return -(-m.burst_bytes * m.bytes_denominator // m.bytes_numerator)


def start(simulator: Simulator, program: Program) -> None:
    """Writes the registers that begin a run."""
    for register, value in (
        (top.INTERRUPT, 1),
        (top.LIST_LOW, program.list_at),
        (top.LIST_COUNT, len(program.commands)),
        (top.WATCHDOG, 1 << 20),
        (top.CONTROL, 1),
    ):
        simulator.axil_write(register, value)


def chain(rng: np.random.Generator, rows: int, widths: list[int], *, wide: bool = False) -> Network:
    """Linear layers of the given widths one behind the other, with random tables and a random wide end."""
    tensors = {"t0": Tensor("t0", rows, widths[0], 8, 1.0)}
    layers = []
    for index, (k, n) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        bits = 16 if wide and last else 8
        limit = 1 << (bits - 1)
        tensors[f"t{index + 1}"] = Tensor(f"t{index + 1}", rows, n, bits, 1.0)
        scale = 17 + int(np.log2(127 * 74 * np.sqrt(k) / (limit / 2)))
        layers.append(
            Linear(
                f"linear{index}", f"t{index}", f"t{index + 1}", rows,
                rng.integers(-127, 128, (n, k)).astype(np.int8), rng.integers(-5000, 5000, n),
                rng.integers(1 << 16, 1 << 17, n), np.full(n, scale), -limit, limit - 1,
                table=None if last else rng.integers(-128, 128, 256).astype(np.int8),
            )
        )  # fmt: skip
    gather = np.arange(rows * widths[0]).reshape(rows, -1)
    inputs = (Input("x", (rows, widths[0]), "t0", gather),)
    outputs = (Output("y", (rows, widths[-1]), f"t{len(layers)}"),)
    return Network("chain", tensors, tuple(layers), inputs, outputs)


def integers(rng: np.random.Generator, network: Network) -> dict[str, NDArray[np.float64]]:
    """Full-range values for every input of a network whose input scales are 1."""
    return {put.name: rng.integers(-128, 128, put.shape).astype(float) for put in network.inputs}
