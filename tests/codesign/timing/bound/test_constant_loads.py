"""The loads that the bound counts are those of the program."""

import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.ir.network import Network, Norm
from codesign.target.commands import Command
from codesign.target.design import Design
from codesign.timing.bound.constant_loads import Load, Loads, first_fetch
from codesign.timing.bound.memory import Interfaces
from tests.accelerators import SMALL_VIT, board, chain, fitting
from tests.quant.vits import random_network
from tests.transformers import post_norm


def _loads(network: Network, design: Design) -> Loads:
    return Loads(network, Interfaces(network, [design.board]), 0, design.linear, None)


def _made(network: Network) -> tuple[Design, list[Command]]:
    linear = {**SMALL_VIT["linear"], "tables": 16, "kw_max": 64}
    engines = {**SMALL_VIT, "linear": linear, "vector": {"t_v": 1, "max_d": 64, "wide": 1}}
    design = fitting(Design(board(1), engines, {}, 4), [network])
    commands = compile_network(network, design, bare=True).commands
    return design, [command for command in commands if command.engine == "load"]


@pytest.mark.parametrize(
    "network", [random_network(1)[0], random_network(4)[0], post_norm(0)], ids=lambda network: network.name
)
def test_loads_are_those_of_the_program(network: Network) -> None:
    design, commands = _made(network)
    loads, there, found = _loads(network, design), set[object](), list[tuple[str, object]]()
    for layer in network:
        found += [("affine", None)] if isinstance(layer, Norm) else []
        found += [(load.memory, load.words) for load in loads.before(layer, there)]
    assert [memory for memory, _ in found] == [span.memory for command in commands for span in command.writes]
    for (_, words), command in zip(found, commands, strict=True):
        assert words in (None, command.fields["words"])
    assert not any(list(loads.before(layer, there)) for layer in network)


def test_the_rows_of_a_single_layer_are_loaded_all_the_time() -> None:
    for widths, want in (([64, 32], []), ([64, 32, 16], ["input", "lut"])):
        network = chain(np.random.default_rng(0), 9, widths)
        loads = _loads(network, _made(network)[0])
        assert [load.memory for load in loads.before(network.layers[0], set())] == want


def test_loads_one_behind_the_other() -> None:
    network = random_network(1)[0]
    design, _ = _made(network)
    loads = _loads(network, design)
    first = loads.add(Load("position", 40), 0)
    second = loads.add(Load("affine", 7), 3)
    assert second - first == loads.transfer("load", 7)
    loads.repeat(loads.moves[1:], 3, 4)
    assert loads.moves == [(40, 0), (7, 3), (7, 7), (7, 11)]


def test_what_begins_together_is_later_than_each_alone() -> None:
    network = random_network(1)[0]
    design, _ = _made(network)
    alone = _loads(network, design)
    fetch = first_fetch(design.linear, (4, 3), design.word_bytes, (64, 16))
    together = Loads(network, Interfaces(network, [design.board]), 0, design.linear, fetch)
    assert together.add(Load("input", 30), 0) >= alone.add(Load("input", 30), 0)
    together.behind_first()
    before = together.free
    assert together.add(Load("position", 30), 0) == before + together.transfer("load", 30)


def test_the_first_fetch_has_as_many_tiles_as_the_rings_hold() -> None:
    linear = {"t_in": 8, "t_out": 16}
    assert first_fetch(linear, (4, 30), 32, (64, 16)) == (4, 16, 16, 30)
    assert first_fetch(linear, (10, 30), 32, (64, 16)) == (4, 40, 6, 30)
    assert first_fetch(linear, (100, 3), 32, (64, 16)) == (4, 400, 1, 3)
    assert first_fetch(linear, (4, 5), 32, (64, 16)) == (4, 16, 5, 5)


def test_words_of_a_matrix_are_padded_row_by_row() -> None:
    network = random_network(1)[0]
    loads = _loads(network, _made(network)[0])
    word = int(loads.word)
    unit = max(word, 2 * SMALL_VIT["linear"]["t_out"])
    assert loads.words(5, unit + 1, 1) * word == 5 * (2 * unit if unit == word else -(-(unit + 1) // word) * word)
    assert loads.words(3, unit // 2, 2) * word == 3 * unit
