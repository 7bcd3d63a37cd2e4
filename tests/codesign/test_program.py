"""From a network to commands, memory plan and image."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from codesign.assembly import tools
from codesign.command import ENGINES, RELEASE, Command, Span
from codesign.design import Design
from codesign.errors import NothingFits
from codesign.models import gemm, load
from codesign.network import Attention, Layer, Linear, Network
from codesign.partition import plain
from codesign.program import Program, block_tiles, compile_network, homes, memory_need
from codesign.quant.lower import lower
from codesign.workload import Workload
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


@pytest.mark.parametrize("rows", [1, 3, 4, 40])
def test_weights_are_released_by_the_last_row_group_of_each_block(rows: int) -> None:
    network = gemm(rows, 64, 300)
    program = compile_network(network, _design(network, row_group=2))
    flags = [command.fields["flags"] & RELEASE for command in _of(program, "linear")]
    assert sum(flags) == len(_of(program, "fetch"))
    assert flags[-1] == RELEASE


def test_blocks_fit_the_rings() -> None:
    network = gemm(40, 64, 300)
    design = _design(network)
    for command in _of(compile_network(network, design), "linear"):
        assert command.fields["ib"] * command.fields["ob"] <= design.linear["ring_words"]
        assert command.fields["ob"] <= design.linear["table_words"]


def test_a_large_product_streams_through_its_windows() -> None:
    network = gemm(100, 64, 64)
    design = replace(_design(network), memories={"input": 10 * 64, "output": 6 * 64})
    program = compile_network(network, design)
    assert max(command.fields["rows"] for command in _of(program, "linear")) == 3
    assert sum(command.fields["words"] for command in _of(program, "store")) == 100
    assert sum(command.fields["words"] for command in _of(program, "load")) == 100


def test_equal_tables_are_loaded_once() -> None:
    rng = np.random.default_rng(0)
    network = chain(rng, 4, [16, 16, 16, 16])
    first, second, last = network.layers
    assert isinstance(first, Linear)
    assert isinstance(second, Linear)
    network = replace(network, layers=(first, replace(second, table=first.table), last))
    program = compile_network(network, _design(network))
    luts = [c for c in _of(program, "load") if c.writes[0].memory == "lut"]
    assert [command.writes for command in luts] == [(Span("lut", 0, 256),)]


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


def _with(network: Network, old: Layer, new: Layer) -> Network:
    return replace(network, layers=tuple(new if layer is old else layer for layer in network))


def test_a_tensor_needed_in_two_places_is_refused() -> None:
    network = random_network(1)[0]
    attention = next(layer for layer in network if isinstance(layer, Attention))
    with pytest.raises(NothingFits, match=r"needed in \['key', 'query'\]; legal: one memory each"):
        homes(_with(network, attention, replace(attention, key=attention.query)))


def test_a_tensor_out_of_its_reader_s_reach_is_refused() -> None:
    network = random_network(1)[0]
    attention = next(layer for layer in network if isinstance(layer, Attention))
    reader = next(layer for layer in network if isinstance(layer, Linear) and layer.source == attention.target)
    with pytest.raises(NothingFits, match="lies in memory query; the linear engine reads input, normed"):
        homes(_with(network, reader, replace(reader, source=attention.query)))


def test_memory_need_is_enough_and_tight() -> None:
    network = random_network(4)[0]
    bare = Design(board(), SMALL_VIT, {}, 5)
    need = memory_need(network, bare)
    compile_network(network, replace(bare, memories=need))
    for name in set(need) - {"input", "output"}:
        with pytest.raises(NothingFits, match=name):
            compile_network(network, replace(bare, memories=need | {name: need[name] - 64}))


def test_commands_name_known_engines_and_layers() -> None:
    network, program, _ = _vit(5)
    names = {layer.name for layer in network} | set(network.tensors) | set(network.constants)
    assert {command.engine for command in program.commands} == set(ENGINES)
    assert all(command.label in names for command in program.commands)


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
        told = "digits-moe-vit: no engine runs a mixture of experts yet: blocks.1.gates_out/Quant, blocks.1/Add_3, "
        assert str(caught.value).startswith(told)
        assert "\n" not in str(caught.value)


def test_a_block_that_several_commands_go_over_fits_the_ring() -> None:
    """Rows of one pass, but of three commands: the weights of a block must all stay until the last."""
    linear = {"n_l": 16, "ring_words": 8, "table_words": 64}
    assert block_tiles(12, 4, 5, linear, row_group=12) == 5
    assert block_tiles(12, 4, 5, linear, row_group=4) == 2
    assert block_tiles(17, 4, 5, linear, row_group=17) == 2
