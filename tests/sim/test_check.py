import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.compiler.host import image_of
from codesign.compiler.program import Program, compile_network, program_traffic
from codesign.errors import CheckError
from codesign.flow.build import plan
from codesign.flow.samples import random_samples
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.hw.system import accelerator
from codesign.ir.network import Network, run
from codesign.quant.lower.lowering import lower
from codesign.sim import check
from codesign.sim.check import PROBE, SimulatedAccelerator, VerifySubject, compiled, probes
from codesign.sim.verilator.simulator import Library
from codesign.target.board import Board
from codesign.target.commands import Command
from codesign.target.design import Design
from codesign.target.engines import COMMAND_BYTES, HEADER_BITS, OPERAND_BITS

ZCU102 = Board.load("zcu102")
BUDGET = {"dsp": 60}


def subject(design: Design, network: Network) -> VerifySubject:
    program = compile_network(network, design)
    return VerifySubject(network, design, program, accelerator.formulas(design.engines), accelerator.identity(design))


@pytest.fixture(scope="module")
def design() -> Design:
    """Hardware that runs digits-mlp and small products."""
    made = plan("digits-mlp", ZCU102, budget=BUDGET).design
    roomy = {name: 4 * size for name, size in made.memories.items()}
    return replace(made, memories=roomy)


@pytest.fixture(scope="module")
def verilog(design: Design) -> Mapping[str, str]:
    return accelerator.simulation_sources(design).files


@pytest.fixture(scope="module")
def library(verilog: Mapping[str, str]) -> Library:
    return compiled(verilog, ZCU102.memory)


def mlp() -> Network:
    found = zoo.load("digits-mlp")
    assert isinstance(found, Workload)
    return lower(found)


def commands(program: Program, engine: str) -> list[Command]:
    return [command for command in program.commands if command.engine == engine]


def test_traffic_counts_every_transfer(design: Design) -> None:
    program = compile_network(zoo.gemm(3, 20, 7), design)
    reads, writes = program_traffic(program, design.word_bytes)
    matrix = program.inputs["a"].size + program.outputs["c"].size
    fetched = 8 * 8 + 8 * 24  # one tile: eight table entries, 20 inputs padded to 24
    assert reads + writes == matrix + fetched + 64 * len(program.commands)


@pytest.mark.rtl
def test_inferences_follow_each_other_without_reset(design: Design, library: Library, rng: np.random.Generator) -> None:
    network = zoo.gemm(3, 20, 7)
    program = compile_network(network, design)
    with SimulatedAccelerator(library, image_of(program), accelerator.identity(design)) as simulated:
        cycles = set()
        for _ in range(3):
            golden = run(network, {"a": rng.integers(-128, 128, (3, 20))})
            inference = simulated.infer(golden)
            np.testing.assert_array_equal(inference.outputs["c"], golden["c"])
            cycles.add(inference.cycles)
        assert len(cycles) == 1
        assert inference.busy["linear"] > 0
        assert list(inference.busy) == ["load", "store", "fetch", "linear"]
        assert min(inference.busy.values()) > 0
        assert (inference.read_bytes, inference.write_bytes) == program_traffic(program, design.word_bytes)


@pytest.mark.rtl
def test_another_design_is_refused(design: Design, library: Library) -> None:
    image = image_of(compile_network(zoo.gemm(1, 1, 1), design))
    with pytest.raises(CheckError, match="the hardware says it is"):
        SimulatedAccelerator(library, image, bytes(32))


@pytest.mark.rtl
@pytest.mark.parametrize("name", ["digits-mlp", "gemm:5x30x20"])
def test_golden_cycle_model_and_hardware_agree(design: Design, library: Library, name: str) -> None:
    found = zoo.load(name)
    mine = subject(design, lower(found) if isinstance(found, Workload) else found)
    result = check.verify(mine, library, random_samples(mine.network, 3, 0))
    assert result.passed, result
    assert (result.bit_exact, result.cycle_exact, result.images) == (True, True, 3)


@pytest.mark.rtl
def test_an_illegal_command_is_named(design: Design, library: Library) -> None:
    program = compile_network(zoo.gemm(1, 1, 1), design)
    image, last = image_of(program), len(program.commands) - 1
    broken = bytearray(image.commands)
    broken[COMMAND_BYTES * last + HEADER_BITS // 8 :] = bytes(OPERAND_BITS // 8)  # the last command has no operands
    assert program.commands[last].engine == "store"
    with SimulatedAccelerator(library, replace(image, commands=bytes(broken))) as simulated:
        with pytest.raises(CheckError, match=f"command {last} is illegal for engine store"):
            simulated.infer({"a": np.zeros((1, 1), np.int64)})


@pytest.mark.rtl
def test_a_command_for_an_engine_that_the_design_lacks_is_named(design: Design, library: Library) -> None:
    program = compile_network(zoo.gemm(1, 1, 1), design)
    image = image_of(program)
    broken = bytearray(image.commands)
    broken[COMMAND_BYTES] = len(program.engines)  # the second command
    with SimulatedAccelerator(library, replace(image, commands=bytes(broken))) as simulated:
        with pytest.raises(CheckError, match="the run stopped at command 1: unknown engine"):
            simulated.infer({"a": np.zeros((1, 1), np.int64)})


def mutated(verilog: Mapping[str, str], module: str, pattern: str, replacement: str) -> dict[str, str]:
    (name,) = (n for n in verilog if re.fullmatch(module, n))
    text, count = re.subn(pattern, replacement, verilog[name], count=1)
    assert count == 1, f"{pattern} is not in {name}"
    return {**verilog, name: text}


@pytest.mark.rtl
def test_wrong_hardware_is_traced_to_the_first_layer(design: Design, verilog: Mapping[str, str]) -> None:
    """The multipliers add one to every sum of the first column."""
    broken = mutated(verilog, r"packed_dot_\d+_s\.v", r"assign y0 = ([^;]+);", r"assign y0 = \1 + 18'd64;")
    mine = subject(design, mlp())
    samples = random_samples(mine.network, 3, 0)
    result = check.verify(mine, compiled(broken, ZCU102.memory), samples, rerun="codesign verify b --waves")
    assert not result.passed
    assert not result.bit_exact
    assert result.cycle_exact
    found = result.mismatches[0]
    first = mine.network.layers[0]
    golden = run(mine.network, samples[found.image])[first.target]
    assert (found.image, found.layer, found.engine) == (0, first.name, "linear")
    assert found.expected == golden[found.element]
    assert found.got != found.expected
    assert found.tile == (found.element[0] // design.linear["n_l"], found.element[1] // design.linear["t_out"])
    assert "codesign verify b --waves" in str(found)


@pytest.mark.rtl
def test_a_wrong_cycle_model_is_a_failure(design: Design, library: Library) -> None:
    mine = subject(design, mlp())
    slow = replace(mine.formulas, drain_latency=mine.formulas.drain_latency + 1)
    result = check.verify(replace(mine, formulas=slow), library, random_samples(mine.network, 1, 0))
    assert result.bit_exact
    assert not result.cycle_exact
    assert not result.passed


@pytest.mark.rtl
def test_waves_are_written(design: Design, verilog: Mapping[str, str], tmp_path: Path) -> None:
    mine = subject(design, zoo.gemm(1, 1, 1))
    library = compiled(verilog, ZCU102.memory, waves=True)
    result = check.verify(mine, library, random_samples(mine.network, 1, 0), waves=tmp_path / "w.vcd")
    assert result.waves == tmp_path / "w.vcd"
    assert (tmp_path / "w.vcd").read_text().count("$var") > 100


@pytest.mark.rtl
def test_probes_show_every_element_of_every_layer() -> None:
    """On the golden model: what a cut network shows is what the layer computes."""
    found = zoo.load("digits-vit")
    assert isinstance(found, Workload)
    network = lower(found)
    design = plan("digits-vit", ZCU102).design
    arrays, _ = zoo.heldout("digits-vit")
    sample = {name: array[0] for name, array in arrays.items()}
    golden = run(network, sample)
    for count, layer in enumerate(network.layers, start=1):
        shown = [(at, run(probe, sample)[PROBE]) for at, probe in probes(network, count, design)]
        columns = [at + column for at, values in shown for column in range(values.shape[1])]
        assert columns == list(range(network.tensors[layer.target].columns)), layer.name
        np.testing.assert_array_equal(np.concatenate([values for _, values in shown], axis=1), golden[layer.target])
