"""Where matrices lie in the on-chip memories."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from codesign.compiler.layout import Layout, Region, analysis, groups, layout, linear_columns, memory_need, whole_layout
from codesign.compiler.program import compile_network
from codesign.errors import NothingFits
from codesign.frontend.zoo import gemm
from codesign.ir.network import Attention, Linear, Network
from codesign.target.design import Design
from tests.accelerators import SMALL_VIT, board, chain
from tests.quant.vits import random_network

_LINEAR = {"t_in": 8, "t_out": 8, "n_l": 3, "kw_max": 8, "ring_words": 128, "table_words": 16, "tables": 4}


def _bare(row_group: int = 5, ports: int = 4, **widths: int) -> Design:
    """A design without memories, its engines as wide as told."""
    engines = {name: {key: widths.get(key, value) for key, value in p.items()} for name, p in SMALL_VIT.items()}
    return Design(board(ports), engines, {}, row_group)


def test_memory_need_is_enough_and_tight() -> None:
    network = random_network(4)[0]
    need = memory_need(network, _bare())
    compile_network(network, replace(_bare(), memories=need))
    for name in set(need) - {"input", "output"}:
        with pytest.raises(NothingFits, match=name):
            compile_network(network, replace(_bare(), memories=need | {name: need[name] - 64}))


def test_what_is_asked_for_cannot_be_changed_by_the_one_who_asked() -> None:
    network = random_network(4)[0]
    need = memory_need(network, _bare())
    kept = dict(need)
    need.clear()
    assert memory_need(network, _bare()) == kept


@pytest.mark.parametrize("widths", [{}, {"t_out": 16}, {"t_a": 8}, {"t_v": 16}, {"ports": 2}])
def test_every_port_of_a_memory_divides_a_row(widths: dict[str, int]) -> None:
    network, design = random_network(2)[0], _bare(**widths)
    found = whole_layout(network, design)
    engines = design.engines
    for name, region in found.regions.items():
        wide = 2 if region.memory in ("residual", "position", "skip") else 1
        ports = {design.word_bytes, wide * engines["linear"]["t_out"]}
        if region.memory in ("residual", "normed", "skip"):
            ports.add(wide * engines["vector"]["t_v"])
        columns = found.columns[name].total if name in found.columns else network.constants[name].shape[1]
        assert all(region.pitch % port == 0 for port in ports)
        assert columns * wide <= region.pitch < columns * wide + max(ports)


def _network(case: int) -> Network:
    """A random transformer, or one of two chains."""
    return random_network(case)[0] if case < 6 else chain(np.random.default_rng(0), 7, [16] * (2 * case - 9))


@pytest.mark.parametrize("case", range(8))
def test_tensors_that_live_at_the_same_time_lie_apart(case: int) -> None:
    network = _network(case)
    found, body = whole_layout(network, _bare()), analysis(network, tuple(_bare().engines))
    born = {name: step for step, name in reversed(body.definitions)}
    for one, two in combinations(found.regions, 2):
        a, b = found.regions[one], found.regions[two]
        both = max(born[one], born[two]) <= min(body.last[one], body.last[two])
        if a.memory == b.memory and both:
            spans = sorted([a.span(0, a.rows), b.span(0, b.rows)], key=lambda span: span.start)
            assert spans[0].stop <= spans[1].start, (one, two)


def test_a_sum_takes_the_place_of_what_is_added() -> None:
    network = random_network(1)[0]
    found = whole_layout(network, _bare())
    sums = [layer for layer in network if isinstance(layer, Linear) and layer.addend in network.tensors]
    places = [(found.regions[layer.target], found.regions[layer.addend]) for layer in sums if layer.addend is not None]
    beside = [(target.base, addend.base) for target, addend in places if target.memory == addend.memory]
    assert beside
    assert all(target == addend for target, addend in beside)


def test_heads_are_padded_apart() -> None:
    network = random_network(1)[0]
    attention = next(layer for layer in network if isinstance(layer, Attention))
    columns = whole_layout(network, _bare(t_a=8)).columns[attention.query]
    assert columns.wide % 8 == 0
    head, column = divmod(columns.places, columns.wide)
    assert np.array_equal(head, np.repeat(np.arange(attention.heads), attention.head_dim))
    assert np.array_equal(column, np.tile(np.arange(attention.head_dim), attention.heads))
    assert columns.total % max(SMALL_VIT["linear"]["t_out"], _bare().word_bytes) == 0
    found = {layer: (k, n) for layer, k, n in linear_columns(network, _bare(t_a=8))}
    maker = next(layer for layer in found if layer.target == attention.query)
    assert found[maker][1] == columns.total


def test_designs_of_the_same_widths_share_a_layout() -> None:
    network = random_network(3)[0]
    found = layout(network, _bare())
    assert layout(network, _bare(n_a=8, t_in=4, row_group=2)) is found
    assert whole_layout(network, _bare()) is found
    for other in (_bare(t_out=16), _bare(t_a=8), _bare(t_v=4), _bare(ports=2)):
        assert layout(network, other) is not found


def test_layouts_of_the_same_bytes_have_the_same_first() -> None:
    network = random_network(0)[0]
    found = layout(network, _bare())
    assert found.first is found
    for same in (_bare(t_a=2), _bare(t_a=8), _bare(t_v=4), _bare(t_v=16)):
        other = layout(network, same)
        assert other.first is found
        assert (other.regions, other.columns) == (found.regions, found.columns)


def test_layouts_of_other_bytes_are_firsts_of_their_own() -> None:
    network = random_network(3)[0]
    found = layout(network, _bare())
    affine, pitch, heads, bus, tiles = (
        layout(network, _bare(**widths))
        for widths in ({"t_v": 16}, {"t_v": 128}, {"t_a": 32}, {"ports": 2}, {"t_out": 4})
    )
    assert (affine.pitch, affine.columns) == (found.pitch, found.columns)
    assert affine.constants != found.constants
    assert pitch.pitch != found.pitch
    assert heads.columns != found.columns
    assert found.first is found
    assert all(other.first is other for other in (affine, pitch, heads, bus, tiles))


def test_single_layers_with_other_windows_differ() -> None:
    network = gemm(100, 64, 64)
    bare = Design(board(), {"linear": _LINEAR}, {"input": 640, "output": 640})
    assert layout(network, bare).first is not layout(network, replace(bare, row_group=4)).first


def test_kinds_are_the_linear_layers_of_equal_sizes() -> None:
    network = random_network(3)[0]
    found = layout(network, _bare())
    numbers = [number for number, layer in enumerate(network) if isinstance(layer, Linear)]
    assert sorted(number for _, mine in found.kinds for number in mine) == numbers
    for first, mine in found.kinds:
        for layer in (network.layers[number] for number in mine):
            assert isinstance(layer, Linear)
            assert (layer.rows, found.tiles(layer, 1)) == (first.rows, found.tiles(first, 1))
            assert found.analysis.tables.get(layer) == found.analysis.tables.get(first)


def test_kinds_differ_in_rows_columns_and_tables() -> None:
    network = chain(np.random.default_rng(0), 9, [16] * 8)
    layers = [layer for layer in network if isinstance(layer, Linear)]
    shared, rows = layers[0].table, (9, 9, 9, 9, 4, 4, 4)
    tables = (None, None, shared, shared, None, None, shared)
    changed = [replace(x, rows=r, table=table) for x, r, table in zip(layers, rows, tables, strict=True)]
    tensors = {
        name: replace(tensor, rows=rows[max(0, number - 1)])
        for number, (name, tensor) in enumerate(network.tensors.items())
    }
    outputs = (replace(network.outputs[0], shape=(4, 16)),)
    network = replace(network, layers=tuple(changed), tensors=tensors, outputs=outputs)
    kinds = layout(network, Design(board(), {"linear": _LINEAR}, {})).kinds
    assert [(first.name, numbers) for first, numbers in kinds] == [
        ("linear0", [0, 1]), ("linear2", [2, 3]), ("linear4", [4, 5]), ("linear6", [6]),
    ]  # fmt: skip


def test_networks_of_the_same_shapes_have_layouts_of_their_own() -> None:
    one, two = gemm(5, 16, 8, seed=0), gemm(5, 16, 8, seed=1)
    design = Design(board(), {"linear": _LINEAR}, {})
    assert layout(one, design).network is one
    assert layout(two, design).network is two


def _streaming(rows: int, room: dict[str, int], row_group: int = 1 << 15) -> Layout:
    return layout(gemm(rows, 64, 64), Design(board(), {"linear": _LINEAR}, room, row_group))


def test_a_window_holds_whole_groups_and_two_of_them() -> None:
    found = _streaming(100, {"input": 11 * 64, "output": 7 * 64})
    source, target = (found.regions[tensor] for tensor in found.network.tensors)
    layer = found.network.layers[0]
    assert isinstance(layer, Linear)
    assert (source.window, target.window) == (9, 6)
    assert found.chunk(layer, 1 << 15) == 3
    assert found.need == {"input": 10 * 64, "output": 6 * 64}
    assert not _streaming(100, {"input": 100 * 64, "output": 100 * 64}).regions[layer.source].streamed


def test_rows_of_a_window_follow_each_other_around_its_end() -> None:
    region = Region("input", 128, 64, 4, 10)
    assert [region.at(row) for row in range(6)] == [128, 192, 256, 320, 128, 192]
    assert region.span(6, 2) == ("input", 256, 384)
    assert region.chunk == 2


@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_groups_cover_all_rows_once(most: int) -> None:
    cut = groups(11, most)
    assert [row for first, rows in cut for row in range(first, first + rows)] == list(range(11))
    assert max(rows for _, rows in cut) <= most


def test_spans_are_the_bytes_of_groups_of_rows() -> None:
    network = chain(np.random.default_rng(0), 7, [16, 24, 16])
    found = whole_layout(network, Design(board(), {"linear": _LINEAR}, {}))
    name = network.layers[0].target
    region = found.regions[name]
    spans = found.spans(name, 2, 5, 3)
    assert spans == [region.span(2, 3), region.span(5, 2)]
    assert found.spans(name, 2, 5, 3) is spans
    assert found.spans(name, 2, 5, 2) == [region.span(2, 2), region.span(4, 2), region.span(6, 1)]
