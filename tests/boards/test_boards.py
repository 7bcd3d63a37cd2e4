"""Every board that ships: each figure has a public source or a stated assumption."""

from dataclasses import asdict

import numpy as np
import pytest

from codesign.flow.build import plan
from codesign.hw.system import accelerator
from codesign.hw.system.accelerator import bus_of
from codesign.target.board import Board, boards
from codesign.target.design import Design
from tests.accelerators import chain, compiled, fitting, integers, run_program
from tests.marks import few_fast


@pytest.mark.parametrize("name", boards())
def test_a_board_is_called_as_its_file(name: str) -> None:
    assert Board.load(name).name == name


@pytest.mark.parametrize("name", boards())
def test_every_figure_is_sourced_or_assumed(name: str) -> None:
    board = Board.load(name)
    for key in board.figures():
        known = key in board.sources or key.partition(".")[0] in board.sources
        assert known or key in board.assumptions, key
    assert "part" in board.sources


@pytest.mark.parametrize("name", boards())
def test_the_clock_is_marked_as_assumed(name: str) -> None:
    assert "clock_hz" in Board.load(name).assumptions


@pytest.mark.parametrize("name", boards())
def test_the_ports_carry_the_bandwidth(name: str) -> None:
    memory = Board.load(name).memory
    per_cycle = memory.ports * memory.port_bits // 8
    assert memory.bytes_numerator <= per_cycle * memory.bytes_denominator


KNOWN = {  # DSP, BRAM36, URAM, LUT, FF of the part; ports, bits per port; GB/s at the ports
    "zcu102": ("xczu9eg-ffvb1156-2-e", (2520, 912, 0, 274_080, 548_160), (4, 128), 15.36),
    "kv260": ("xck26-sfvc784-2LV-c", (1248, 144, 64, 117_120, 234_240), (4, 128), 15.36),
    "zcu104": ("xczu7ev-ffvc1156-2-e", (1728, 312, 96, 230_400, 460_800), (4, 128), 15.36),
    "u280": ("xcu280-fsvh2892-2L-e", (9024, 2016, 960, 1_303_680, 2_607_360), (2, 256), 16.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_figures_are_those_of_the_data_sheets(name: str) -> None:
    board, (part, resources, ports, bandwidth) = Board.load(name), KNOWN[name]
    assert board.part == part
    assert tuple(asdict(board.resources).values()) == resources
    assert (board.memory.ports, board.memory.port_bits) == ports
    assert board.memory.bytes_per_second == bandwidth * 1e9


@pytest.mark.parametrize("name", boards())
def test_a_board_that_can_do_more_says_so(name: str) -> None:
    """The generated hardware's bus word has at most 64 bytes; every board that ships fills it."""
    memory = Board.load(name).memory
    assert bus_of(memory).word_bytes == 64
    limited = memory.bytes_per_second == 64 * memory.clock_hz
    assert limited == ("generated hardware" in Board.load(name).assumptions.get("memory.ports", ""))


@pytest.mark.parametrize("name", few_fast(boards(), 1))
def test_digits_vit_fits_every_board(name: str) -> None:
    made = plan("digits-vit", Board.load(name))
    used, there = accelerator.total(accelerator.resources(made.design)), made.design.board.resources
    assert all(getattr(used, key) <= value for key, value in asdict(there).items())
    assert 0 < made.timing.total < 20_000


@pytest.mark.rtl
def test_two_wide_ports_run_bit_for_bit_and_cycle_for_cycle(rng: np.random.Generator) -> None:
    """The u280's bus; the other boards' is that of every other test."""
    linear = {"t_in": 8, "t_out": 8, "n_l": 2, "kw_max": 2, "ring_words": 64, "table_words": 16, "tables": 2}
    networks = [chain(rng, 1, [1, 1]), chain(rng, 7, [37, 9], wide=True), chain(rng, 5, [64, 50, 61, 10])]
    design = fitting(Design(Board.load("u280"), {"linear": linear}, {}, 3), networks)
    library = compiled(design)
    for network in networks:
        for outcome in run_program(library, design, network, [integers(rng, network) for _ in range(3)]):
            assert outcome.bits_equal
            assert outcome.simulated == outcome.modelled


def test_zcu102() -> None:
    board = Board.load("zcu102")
    assert board.part == "xczu9eg-ffvb1156-2-e"
    assert (board.memory.bytes_numerator, board.memory.bytes_denominator) == (256, 5)
    assert board.figures() == {
        "clock_hz": 300_000_000,
        "resources.dsp": 2520,
        "resources.bram36": 912,
        "resources.uram": 0,
        "resources.lut": 274_080,
        "resources.ff": 548_160,
        "memory.ports": 4,
        "memory.port_bits": 128,
        "memory.bytes_per_second": 19_200_000_000 * 8 // 10,
        "memory.burst_bytes": 256,
        "memory.read_latency": 60,
        "memory.write_latency": 20,
        "memory.outstanding": 8,
        "energy.mac_fj": 2500,
        "energy.ram_byte_fj": 1000,
        "energy.lut_cycle_fj": 30,
        "energy.ff_cycle_fj": 15,
        "energy.offchip_byte_fj": 4 * 8 * 7000,
        "energy.static_mw": 3600,
        "energy.error_percent": 50,
    }
