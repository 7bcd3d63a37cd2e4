from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from codesign.compiler.program import Program, compile_network
from codesign.frontend.zoo import gemm
from codesign.ir.network import Linear, Network
from codesign.target.commands import RELEASE, Command, Span
from codesign.target.design import Design
from tests.accelerators import SMALL_VIT, board, chain, fitting
from tests.quant.vits import random_network

_LINEAR = {"t_in": 8, "t_out": 8, "n_l": 3, "kw_max": 8, "ring_words": 128, "table_words": 16, "tables": 4}


def _design(network: Network, row_group: int = 1 << 15) -> Design:
    return fitting(Design(board(), {"linear": _LINEAR}, {}, row_group), [network])


def _of(program: Program, engine: str) -> list[Command]:
    return [command for command in program.commands if command.engine == engine]


@pytest.mark.parametrize("rows", [1, 3, 4, 40])
def test_weights_are_released_by_the_last_row_group_of_each_block(rows: int) -> None:
    network = gemm(rows, 64, 300)
    program = compile_network(network, _design(network, row_group=2))
    flags = [command.fields["flags"] & RELEASE for command in _of(program, "linear")]
    assert sum(flags) == len(_of(program, "fetch"))
    assert flags[-1] == RELEASE


def test_blocks_lie_beside_each_other_in_the_target() -> None:
    network = gemm(40, 64, 300)
    design = _design(network, row_group=20)
    linear = _of(compile_network(network, design), "linear")
    columns: dict[int, list[int]] = {}
    for command in linear:
        columns.setdefault(command.writes[0].start, []).append(command.fields["target_base"])
        columns[command.writes[0].start] += [command.fields["target_base"] + command.fields["ob"]]
    assert len(columns) == 2
    for start, edges in columns.items():
        assert edges[0] == start // design.linear["t_out"]
        assert edges[1:-1:2] == edges[2::2]
        assert edges[-1] - edges[0] == -(-300 // design.linear["t_out"])


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


@pytest.mark.parametrize("rows", [1, 40])
def test_a_block_is_its_table_then_its_weights_in_the_order_of_use(rows: int) -> None:
    """Read back byte by byte from where each fetch begins: tile, weight word, column, input."""
    (layer,) = (network := gemm(rows, 50, 300)).layers
    assert isinstance(layer, Linear)
    design = _design(network, row_group=20)
    program = compile_network(network, design)
    first, t = 0, 8
    for fetch in _of(program, "fetch"):
        word, at = design.word_bytes, fetch.fields["dram"] - program.constants_at
        tiles, sums = fetch.fields["table_words"] * word // (8 * t), -(-50 // t)
        assert fetch.fields["weight_words"] * word == tiles * sums * t * t
        body = at + tiles * 8 * t
        for column in range(first, min(first + tiles * t, 300)):
            tile, lane = divmod(column - first, t)
            entry = int.from_bytes(program.constants[at + 8 * (column - first) :][:8], "little")
            assert entry & 0xFFFFFFFF == int(layer.bias[column]) & 0xFFFFFFFF
            assert (entry >> 32 & 0x1FFFF, entry >> 49) == (layer.multiplier[column], layer.shift[column])
            for k in range(50):
                place = body + ((tile * sums + k // t) * t + lane) * t + k % t
                assert program.constants[place] == int(layer.weights[column, k]) & 255
        first += tiles * t
    assert first >= 300


def test_attention_writes_where_its_command_says() -> None:
    """The bytes from which tokens are derived begin at the operand's address, and those of row groups meet."""
    network = random_network(1)[0]
    program = compile_network(network, fitting(Design(board(), SMALL_VIT, {}, 5), [network]))
    found = _of(program, "attention")
    spans = [command.writes[0] for command in found]
    assert [span.start for span in spans] == [c.fields["o_base"] * SMALL_VIT["attention"]["t_a"] for c in found]
    pairs = list(pairwise(spans))
    assert len(pairs) > 1
    assert all(span.stop == after.start for span, after in pairs if after.start > span.start)
