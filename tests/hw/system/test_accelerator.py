import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from codesign.compiler.program import compile_network
from codesign.dse.planner import plain
from codesign.flow.build import tools
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.hw.primitives.memory import bram18, bram36
from codesign.hw.system import accelerator
from codesign.ir.network import Network
from codesign.quant.lower.lowering import lower
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import MOST_ENGINES, engine_names, kernels
from codesign.timing.cycles import exact
from tests.transformers import post_norm

ZCU102 = Board.load("zcu102")
ARRAY = re.compile(r'\(\* r[ao]m_style = "block" \*\)\s+reg \[(\d+):0\] \w+ \[(\d+):(\d+)\];', re.MULTILINE)


def chosen(name: str, budget: Mapping[str, int]) -> Design:
    found = zoo.load(name)
    network = lower(found) if isinstance(found, Workload) else found
    assert isinstance(network, Network)
    return plain(network, ZCU102, tools(), budget=budget)


@pytest.fixture(scope="module")
def vit() -> tuple[Design, accelerator.Hardware]:
    design = chosen("digits-vit", {"dsp": 200})
    return design, accelerator.sources(design)


@pytest.fixture(scope="module")
def gemm() -> tuple[Design, accelerator.Hardware]:
    design = chosen("gemm:40x70x90", {"dsp": 100})
    return design, accelerator.sources(design)


@pytest.fixture(scope="module")
def post() -> tuple[Design, accelerator.Hardware]:
    """A post-norm transformer whose memories are large enough for block RAM."""
    design = plain(post_norm(2), ZCU102, tools(), budget={"dsp": 200})
    design = replace(design, memories={name: 16 * size for name, size in design.memories.items()})
    return design, accelerator.sources(design)


@pytest.mark.rtl
@pytest.mark.parametrize("which", ["vit", "gemm", "post"])
def test_multipliers_are_as_many_as_the_verilog_has(which: str, request: pytest.FixtureRequest) -> None:
    design, hardware = request.getfixturevalue(which)
    assert accelerator.multipliers(hardware.sources.files) == accelerator.total(accelerator.resources(design)).dsp


@pytest.mark.rtl
@pytest.mark.parametrize("which", ["vit", "gemm", "post"])
def test_block_rams_are_as_many_as_the_verilog_has(which: str, request: pytest.FixtureRequest) -> None:
    design, hardware = request.getfixturevalue(which)
    counts = accelerator.instances(hardware.sources.files)
    halves = 0
    for name, text in hardware.sources.files.items():
        for bits, one, other in ARRAY.findall(text):
            width, depth = int(bits) + 1, max(int(one), int(other)) + 1
            halves += counts[name.removesuffix(".v")] * min(2 * int(bram36(width, depth)), int(bram18(width, depth)))
    modelled = accelerator.total(accelerator.resources(design)).bram36
    assert modelled - len(design.engines) <= halves / 2 <= modelled  # an odd half is rounded up per engine


@pytest.mark.rtl
def test_simulation_takes_models_for_the_files_with_primitives(gemm: tuple[Design, accelerator.Hardware]) -> None:
    _, hardware = gemm
    with_primitives = {name for name, text in hardware.sources.files.items() if "DSP48E2" in text}
    assert set(hardware.models) == with_primitives
    assert not [name for name, text in hardware.simulated.items() if "DSP48E2" in text]


@pytest.mark.rtl
def test_both_ways_to_the_simulated_verilog_are_one(gemm: tuple[Design, accelerator.Hardware]) -> None:
    design, hardware = gemm
    assert dict(accelerator.simulation_sources(design).files) == hardware.simulated


def test_the_identity_follows_the_hardware_alone() -> None:
    design = chosen("gemm:5x30x20", {"dsp": 100})
    same = [replace(design, row_group=3), replace(design, board=ZCU102.with_overrides(["clock_hz=1e8"]))]
    other = [
        replace(design, memories={**design.memories, "input": 2 * design.memories["input"]}),
        replace(design, engines={"linear": {**design.linear, "n_l": 2}}),
        replace(design, board=ZCU102.with_overrides(["memory.ports=2"])),
    ]
    assert {accelerator.identity(d) for d in same} == {accelerator.identity(design)}
    assert len({accelerator.identity(d) for d in (design, *other)}) == 4
    assert len(accelerator.identity(design)) == 32


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("memory.ports=3", "power of two up to 64"),
        ("memory.ports=8", "power of two up to 64"),
        ("memory.burst_bytes=128", "legal for this hardware: 256"),
    ],
)
def test_an_interface_that_the_hardware_lacks_is_refused(setting: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        accelerator.bus_of(ZCU102.with_overrides([setting]).memory)


def test_requests_in_flight_are_a_power_of_two() -> None:
    assert accelerator.bus_of(ZCU102.with_overrides(["memory.outstanding=13"]).memory).outstanding == 8


def test_registers_have_places_of_their_own() -> None:
    design = chosen("digits-vit", {})
    more = {f"attention_{i}": design.engines["attention"] for i in range(2, MOST_ENGINES - 4)}
    largest = replace(design, engines={**design.engines, **more})
    assert len(engine_names(largest.engines)) == MOST_ENGINES
    for each in (design, largest):
        found = accelerator.registers(each)
        offsets = [entry["offset"] for entry in found.values()]  # type: ignore[index]
        assert len(set(offsets)) == len(offsets)
        names = {f"{kind}_{name.upper()}" for kind in ("BUSY", "WAIT") for name in engine_names(each.engines)}
        assert names < set(found)
        assert names == {name for name in found if name.startswith(("BUSY_", "WAIT_"))}


def test_durations_are_those_of_the_kernels() -> None:
    design = chosen("digits-vit", {})
    found = zoo.load("digits-vit")
    assert isinstance(found, Workload)
    program = compile_network(lower(found), design)
    timing = exact(program, design, accelerator.formulas(design.engines))
    for activity, command in zip(timing.activities, program.commands, strict=True):
        if command.engine == "vector":
            assert activity.stop - activity.start == kernels()["vector"].cycles(
                design.engines["vector"], {"rows": command.fields["rows"], "d": command.fields["d"]}
            )
