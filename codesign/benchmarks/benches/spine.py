"""The bench of the spine: models and matrix products on simulated hardware, and times to build and to model."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory

from codesign.benchmarks.benches import Options
from codesign.benchmarks.row import GOAL, Row
from codesign.compiler.host import image_of
from codesign.compiler.program import Program, compile_network
from codesign.dse.planner import plain
from codesign.errors import CheckError, ToolError
from codesign.flow.build import plan, tools
from codesign.flow.samples import random_samples, samples_of
from codesign.frontend import zoo
from codesign.hw.system import accelerator
from codesign.ir.network import Network, run
from codesign.sim.check import Inference, Sample, SimulatedAccelerator, compiled, memory_ports
from codesign.sim.verilator.simulator import Library
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.timing.cycles import exact

BOARD = "zcu102"

_LOG = logging.getLogger(__name__)
_TIMED = 200
"""Runs of the cycle model; the fastest is reported."""


OPTIONS: tuple[str, ...] = ()


def rows(_: Options) -> list[Row]:
    """The vision transformer, then three matrix products."""
    return [*_transformer(), *_products()]


# The vision transformer ------------------------------------------------------------------


def _transformer() -> list[Row]:
    """Figures of digits-vit on all held-out images: predictions, simulation speed, cycles, build time."""
    case, made = f"digits-vit@{BOARD}", plan("digits-vit", Board.load(BOARD))
    arrays, labels = zoo.heldout("digits-vit")
    samples = samples_of(made.network, arrays)
    runs, seconds = _simulated(_library(made.design), made.network, made.program, made.design, samples)
    output = made.network.outputs[0].source
    right = sum(int(r.outputs[output].argmax()) == label for r, label in zip(runs, labels, strict=True))
    latency_ms = runs[0].cycles / made.design.board.clock_hz * 1e3
    return [
        Row(case, "accuracy_pct", "%", 100 * right / len(runs), "simulated", 96.5, GOAL),
        Row(case, "cycles_per_s", "1/s", sum(r.cycles for r in runs) / seconds, "measured", 1e5, GOAL),
        Row(case, "multipliers", "1", made.design.multipliers, "modelled", 512, GOAL),
        Row(case, "cycles", "1", runs[0].cycles, "simulated"),
        Row(case, "latency_ms", "ms", latency_ms, "simulated"),
        Row(case, "build_cpu_s", "s", _build_seconds("digits-vit"), "measured", 10, GOAL, at_least=False),
    ]


def _build_seconds(model: str) -> float:
    """CPU seconds of one build in a new process, including its children."""
    before = os.times()
    with TemporaryDirectory() as folder:
        command = (sys.executable, "-m", "codesign", "build", model, "--board", BOARD, "--out", f"{folder}/bundle")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(f"codesign build {model} failed", command, log=done.stderr)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


# Matrix products -------------------------------------------------------------------------


def _products() -> list[Row]:
    """Figures of three matrix products on one accelerator, whose array is chosen for the first."""
    board = Board.load(BOARD)
    design = plain(zoo.gemm(1024, 1024, 1024), board, tools())
    hardware = accelerator.sources(design)
    library = compiled(hardware.simulated, board.memory)
    per_dsp = design.multipliers / accelerator.multipliers(hardware.sources.files)
    found = _product(library, design, (1024, 1024, 1024), 0.95)
    found.insert(1, Row(found[0].case, "macs_per_cycle_per_dsp", "1", per_dsp, "modelled", 1.9, GOAL))
    found.append(_half_bandwidth(library, design))
    for sizes in ((1000, 1000, 1000), (197, 192, 768)):
        found += _product(library, design, sizes, None)[:1]
    return found


def _product(library: Library, design: Design, sizes: tuple[int, int, int], goal: float | None) -> list[Row]:
    case = f"gemm:{'x'.join(map(str, sizes))}:int8@{BOARD}"
    network = zoo.gemm(*sizes)
    program = compile_network(network, design)
    modelled, model_seconds = _modelled(program, design)
    runs, seconds = _simulated(library, network, program, design, list(random_samples(network, 1, 0)))
    (cycles,) = (r.cycles for r in runs)
    if cycles != modelled:
        raise CheckError(f"{case}: {cycles} cycles simulated, {modelled} modelled")
    _LOG.info("%s: %d cycles, simulated in %.1f s, modelled in %.4f s", case, cycles, seconds, model_seconds)
    source = GOAL if goal is not None else ""
    return [
        Row(case, "mac_utilization", "1", network.macs / design.multipliers / cycles, "simulated", goal, source),
        Row(case, "multipliers", "1", design.multipliers, "modelled", 2048, GOAL),
        Row(case, "cycles", "1", cycles, "simulated"),
        Row(case, "cycles_per_s", "1/s", cycles / seconds, "measured", 25e3, GOAL),
        Row(case, "model_speedup_ratio", "1", seconds / model_seconds, "measured", 1e3, GOAL),
    ]


def _half_bandwidth(library: Library, design: Design) -> Row:
    """The largest product with half the memory bandwidth."""
    memory = design.board.memory
    board = design.board.with_overrides([f"memory.bytes_per_second={memory.bytes_per_second // 2}"])
    slower, network = replace(design, board=board), zoo.gemm(1024, 1024, 1024)
    program = compile_network(network, slower)
    slow_library = replace(library, memory=memory_ports(board.memory))
    runs, _ = _simulated(slow_library, network, program, slower, list(random_samples(network, 1, 0)))
    utilization = network.macs / design.multipliers / runs[0].cycles
    return Row(f"gemm:1024x1024x1024:int8@{BOARD}", "mac_utilization_half_bandwidth", "1", utilization, "simulated")


def _modelled(program: Program, design: Design) -> tuple[int, float]:
    """Modelled cycles, and the best run time of the model in seconds."""
    formulas, seconds, cycles = accelerator.formulas(design.engines), [], 0
    for _ in range(_TIMED):
        start = time.perf_counter()
        cycles = exact(program, design, formulas, compiled=True).total
        seconds.append(time.perf_counter() - start)
    return cycles, min(seconds)


def _library(design: Design) -> Library:
    return compiled(accelerator.simulation_sources(design).files, design.board.memory)


def _simulated(
    library: Library, network: Network, program: Program, design: Design, samples: Sequence[Sample]
) -> tuple[list[Inference], float]:
    """Simulates every sample, checks it bit-exactly, and returns the results and the seconds of simulation alone."""
    runs, seconds = [], 0.0
    with SimulatedAccelerator(library, image_of(program), accelerator.identity(design)) as simulated:
        for number, sample in enumerate(samples, start=1):
            golden = run(network, sample)
            start = time.perf_counter()
            inference = simulated.infer(golden)
            seconds += time.perf_counter() - start
            if any((golden[name] != found).any() for name, found in inference.outputs.items()):
                raise CheckError(f"{network.name}: sample {number} differs from the golden model")
            runs.append(inference)
            if number % 100 == 0:
                _LOG.info("%s: simulated %d of %d samples", network.name, number, len(samples))
    return runs, seconds
