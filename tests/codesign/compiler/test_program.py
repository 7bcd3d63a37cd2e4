"""From a network to commands, memory plan and image."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from codesign.compiler.program import FETCH_LEAD, Program, block_tiles, compile_network
from codesign.dse.planner import plain
from codesign.errors import NothingFits
from codesign.flow.build import tools
from codesign.frontend.workload import Workload
from codesign.frontend.zoo import gemm, load
from codesign.ir.network import Network
from codesign.quant.lower.lowering import lower
from codesign.target.commands import RELEASE, Command
from codesign.target.design import Design
from codesign.target.engines import MOVERS, engine_names
from tests.accelerators import SMALL_VIT, board, chain, fitting
from tests.quant.vits import random_network

_LINEAR = {"t_in": 8, "t_out": 8, "n_l": 3, "kw_max": 8, "ring_words": 128, "table_words": 16, "tables": 4}


def _design(network: Network, row_group: int = 1 << 15, **linear: int) -> Design:
    return fitting(Design(board(), {"linear": _LINEAR | linear}, {}, row_group), [network])


def _vit(seed: int, row_group: int = 5) -> tuple[Network, Program, Design]:
    network = random_network(seed)[0]
    design = fitting(Design(board(), SMALL_VIT, {}, row_group), [network])
    return network, compile_network(network, design), design


def _of(program: Program, engine: str) -> list[Command]:
    return [command for command in program.commands if command.engine == engine]


def test_a_product_is_fetched_loaded_multiplied_and_stored() -> None:
    program = compile_network(gemm(7, 37, 9), _design(gemm(7, 37, 9)))
    assert [command.engine for command in program.commands] == ["fetch", "load", "linear", "store"]
    assert len(program.encode()) == 64 * 4


def test_regions_of_the_image_do_not_overlap() -> None:
    _, program, _ = _vit(1)
    parts = [(program.constants_at, len(program.constants)), (program.list_at, len(program.encode()))]
    parts += [(p.address, p.size) for p in (*program.inputs.values(), *program.outputs.values())]
    parts.sort()
    assert all(a + size <= b for (a, size), (b, _) in pairwise(parts))
    assert parts[-1][0] + parts[-1][1] <= program.dram_bytes


@pytest.mark.parametrize("seed", range(8))
def test_every_access_stays_in_its_memory(seed: int) -> None:
    _, program, design = _vit(seed)
    sizes = dict(design.memories) | {"lut": 256 * SMALL_VIT["linear"]["tables"]}
    spans = [span for command in program.commands for span in (*command.reads, *command.writes)]
    assert all(0 <= span.start < span.stop <= sizes[span.memory] for span in spans)


@pytest.mark.parametrize("seed", range(8))
def test_every_read_finds_what_was_written_last(seed: int) -> None:
    """Walking the list in order, each byte that is read was written before."""
    _, program, _ = _vit(seed)
    written: dict[str, set[int]] = {}
    for command in program.commands:
        for span in command.reads:
            assert set(range(span.start, span.stop)) <= written.get(span.memory, set()), command.label
        for span in command.writes:
            written.setdefault(span.memory, set()).update(range(span.start, span.stop))


def test_what_is_loaded_at_the_begin_comes_before_the_weights_of_later_layers() -> None:
    _, program, _ = _vit(2)
    engines = [command.engine for command in program.commands]
    first, second = (i for i, engine in enumerate(engines) if engine == "fetch" and engines[:i].count("fetch") < 2)
    assert engines[:first] == ["load"]
    assert program.commands[first].waits == {}
    assert program.commands[second].waits == {"load": 1}
    assert engines[:second].count("load") >= 2


def test_blocks_fit_the_rings() -> None:
    network = gemm(40, 64, 300)
    design = _design(network)
    for command in _of(compile_network(network, design), "linear"):
        assert command.fields["ib"] * command.fields["ob"] <= design.linear["ring_words"]
        assert command.fields["ob"] <= design.linear["table_words"]


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_fetched_a_few_blocks_ahead_of_their_use(seed: int) -> None:
    _, program, _ = _vit(seed)
    total, fetched, used = len(_of(program, "fetch")), 0, 1
    for command in program.commands:
        fetched += command.engine == "fetch"
        if command.engine == "linear":
            assert fetched == min(total, used + FETCH_LEAD) or used == fetched == 1
            used += command.fields["flags"] & RELEASE
    assert used == total + 1


def test_a_large_product_streams_through_its_windows() -> None:
    network = gemm(100, 64, 64)
    design = replace(_design(network), memories={"input": 10 * 64, "output": 6 * 64})
    program = compile_network(network, design)
    assert max(command.fields["rows"] for command in _of(program, "linear")) == 3
    assert sum(command.fields["words"] for command in _of(program, "store")) == 100
    assert sum(command.fields["words"] for command in _of(program, "load")) == 100


def test_weights_lie_on_pages_of_their_own() -> None:
    _, program, _ = _vit(2)
    assert all(command.fields["dram"] % 4096 == 0 for command in _of(program, "fetch"))


def test_same_input_gives_the_same_bytes() -> None:
    (_, one, _), (_, two, _) = _vit(3), _vit(3)
    assert one.encode() == two.encode()
    assert one.constants == two.constants


@pytest.mark.parametrize(
    ("linear", "message"),
    [
        ({"kw_max": 1}, "a source row has 2 words, kw_max is 1; smallest that fits: 2"),
        ({"ring_words": 8}, "a tile has 16 weight words, the ring 8; smallest that fits: 16"),
    ],
)
def test_what_does_not_fit_is_named(linear: dict[str, int], message: str) -> None:
    network = gemm(5, 128, 8)
    with pytest.raises(NothingFits, match=message):
        compile_network(network, _design(network, **linear))


def test_a_memory_that_is_too_small_is_named() -> None:
    network = random_network(1)[0]
    design = fitting(Design(board(), SMALL_VIT, {}), [network], {"hidden": 64})
    with pytest.raises(NothingFits, match=r"memory hidden needs \d+ bytes, the design has 64; smallest that fits: \d+"):
        compile_network(network, design)


def test_commands_name_known_engines_and_layers() -> None:
    network, program, _ = _vit(5)
    names = {layer.name for layer in network} | set(network.tensors) | set(network.constants)
    assert {command.engine for command in program.commands} == set(engine_names(SMALL_VIT))
    assert all(command.label in names for command in program.commands)


@pytest.mark.parametrize("seed", range(3))
def test_a_program_without_constants_has_the_same_commands(seed: int) -> None:
    network, program, design = _vit(seed)
    bare = compile_network(network, design, bare=True)
    assert bare.constants == b""
    assert replace(bare, constants=program.constants).encode() == program.encode()
    assert all(getattr(bare, f.name) == getattr(program, f.name) for f in fields(bare) if f.name != "constants")


def _changed(design: Design, engine: str, **values: int) -> Design:
    return replace(design, engines={**design.engines, engine: {**design.engines[engine], **values}})


def test_designs_of_equal_commands_share_a_program_without_constants() -> None:
    network, _, design = _vit(1)
    bare = compile_network(network, design, bare=True)
    assert compile_network(network, _changed(design, "attention", n_a=8), bare=True) is bare
    assert compile_network(network, _changed(design, "linear", ring_words=512), bare=True) is bare
    for other in (replace(design, row_group=4), _changed(design, "linear", t_in=4), _changed(design, "vector", t_v=64)):
        need = fitting(other, [network])
        assert compile_network(network, need, bare=True).encode() == compile_network(network, need).encode()
        assert compile_network(network, need, bare=True).encode() != bare.encode()


def _changing(program: Program) -> list[tuple[str, dict[str, int]]]:
    """Operands that count in units of the ports of the attention or the vector engine."""
    names = ("db", "q_base", "k_base", "v_base", "o_base", "r_base", "r_stride", "g_base", "x_base", "x_stride")
    return [(c.engine, {name: c.fields[name] for name in names if name in c.fields}) for c in program.commands]


@pytest.mark.parametrize(("engine", "values"), [("attention", {"t_a": 2}), ("vector", {"t_v": 16})])
def test_designs_share_a_program_whose_on_chip_addresses_count_in_another_s_units(
    engine: str, values: dict[str, int]
) -> None:
    network, _, design = _vit(0)
    other = _changed(design, engine, **values)
    bare, own = compile_network(network, design, bare=True), compile_network(network, other)
    assert compile_network(network, other, bare=True) is bare
    for mine, theirs, (name, left), (_, right) in zip(
        own.commands, bare.commands, _changing(own), _changing(bare), strict=True
    ):
        assert (left != right) == (name == engine)
        assert mine._replace(fields={**mine.fields, **right}) == theirs
    assert own.jobs == bare.jobs
    assert [command.work for command in own.commands] == [command.work for command in bare.commands]


def test_jobs_are_the_works_of_all_commands() -> None:
    _, program, _ = _vit(1)
    mine = {number: (job.engine, job.work) for job in program.jobs for number in job.commands}
    for number, command in enumerate(program.commands):
        if command.engine not in MOVERS:
            assert mine.pop(number) == (command.engine, command.work)
    assert not mine
    works = [(job.engine, tuple(job.work.items())) for job in program.jobs]
    assert len(set(works)) == len(works) < sum(len(job.commands) for job in program.jobs)


def test_a_shared_program_is_not_given_to_a_design_that_cannot_run_it() -> None:
    network, _, design = _vit(1)
    assert compile_network(network, design, bare=True).commands
    with pytest.raises(NothingFits, match="memory hidden needs"):
        compile_network(network, replace(design, memories={**design.memories, "hidden": 64}), bare=True)
    with pytest.raises(NothingFits, match="memory affine needs"):
        compile_network(network, replace(design, memories={**design.memories, "affine": 64}), bare=True)
    with pytest.raises(NothingFits, match="kw_max is 1; smallest that fits"):
        compile_network(network, _changed(design, "linear", kw_max=1), bare=True)


def test_more_tables_than_the_design_has_are_named() -> None:
    network = chain(np.random.default_rng(0), 4, [16, 16, 16, 16])
    compile_network(network, _design(network, tables=2))
    with pytest.raises(NothingFits, match="linear1: table 2, the design has 1"):
        compile_network(network, _design(network, tables=1))


def test_windows_follow_the_design_s_memories_and_row_group() -> None:
    """A single layer is laid out anew for other memories, and for other groups of rows."""
    network = gemm(100, 64, 64)
    whole = _design(network)
    first = compile_network(network, replace(whole, memories={"input": 10 * 64, "output": 6 * 64}), bare=True)
    second = compile_network(network, replace(whole, memories={"input": 20 * 64, "output": 20 * 64}), bare=True)
    third = compile_network(
        network, replace(whole, memories={"input": 20 * 64, "output": 20 * 64}, row_group=4), bare=True
    )
    most = [max(command.fields["rows"] for command in _of(program, "linear")) for program in (first, second, third)]
    assert most == [3, 10, 4]
    assert max(command.fields["rows"] for command in _of(compile_network(network, whole), "linear")) == 100


def _workload(name: str) -> Workload:
    found = load(name)
    assert isinstance(found, Workload)
    return found


def test_no_engine_runs_a_mixture_of_experts_yet() -> None:
    network, design = (
        lower(_workload("digits-moe-vit")),
        fitting(Design(board(), SMALL_VIT, {}, 5), [lower(_workload("digits-vit"))]),
    )
    tries = (lambda: compile_network(network, design), lambda: plain(network, board(), tools()))
    for attempt in tries:
        with pytest.raises(NothingFits) as caught:
            attempt()
        assert caught.value.exit_code == 1
        told = "digits-moe-vit: no engine runs blocks.1.gates_out/Quant (Route), blocks.1/Add_3 (Experts), "
        assert str(caught.value).startswith(told)
        assert "\n" not in str(caught.value)


def test_a_block_that_several_commands_go_over_fits_the_ring() -> None:
    """Rows of one pass, but of three commands: the weights of a block must all stay until the last."""
    linear = {"n_l": 16, "ring_words": 8, "table_words": 64}
    assert block_tiles(12, 4, 5, linear, row_group=12) == 5
    assert block_tiles(12, 4, 5, linear, row_group=4) == 2
    assert block_tiles(17, 4, 5, linear, row_group=17) == 2
