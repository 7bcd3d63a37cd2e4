import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from amaranth.sim import Simulator as PySimulator
from amaranth.sim import SimulatorContext

from codesign.errors import InputError
from codesign.sim.verilator.simulator import compile_design
from codesign.sim.waves import Wave, draw, read, signal_names
from tests.sim.masters import counter
from tests.sim.verilator.test_simulator import PLAIN

SMALL = """$timescale 1ps $end
$scope module TOP $end
$var wire 1 ! clk $end
$scope module deep $end
$var wire 1 ! clk $end
$var wire 4 " data [3:0] $end
$var wire 1 # go $end
$upscope $end
$upscope $end
$enddefinitions $end
#5
0!
b0001 "
0#
#10
1!
b0010 "
#15
0!
1#
#20
1!
bx "
#25
0!
#30
1!
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.vcd"
    path.write_text(SMALL, encoding="utf-8")
    return path


def test_a_cycle_shows_what_is_settled_before_the_edge_that_ends_it(small: Path) -> None:
    clk, data, go = read(small, ["clk", "data", "go"])
    assert clk.is_clock
    assert data == Wave("data", 4, 0, (1, 2, None))
    assert go == Wave("go", 1, 0, (0, 1, 1))


def test_windows_and_numbers(small: Path) -> None:
    assert read(small, ["data"], first=1, cycles=1) == (Wave("data", 4, 1, (2,)),)
    assert read(small, ["data"], first=2)[0].values == (None,)
    assert read(small, ["go"], period=5)[0].first == 1
    assert read(small, ["go"], period=None, first=1)[0] == Wave("go", 1, 1, (1, 1))


def test_names_by_their_end(small: Path) -> None:
    assert signal_names(small) == ("TOP.clk", "TOP.deep.clk", "TOP.deep.data", "TOP.deep.go")
    assert read(small, ["deep.data"])[0].values == read(small, ["TOP.deep.data"])[0].values
    with pytest.raises(ValueError, match="no signal 'dat' in the waves; similar: data"):
        read(small, ["dat"])


def test_bad_files_and_windows(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read waves .*No such file"):
        signal_names(tmp_path / "none.vcd")
    with pytest.raises(InputError, match="no cycle of clk from 9 on"):
        read(small, ["data"], first=9)
    with pytest.raises(ValueError, match="cycles is 0"):
        read(small, ["data"], cycles=0)
    small.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="is not a VCD file"):
        read(small, ["data"])


def _texts(svg: str) -> list[str]:
    return [e.text or "" for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    ("radix", "shown"),
    [
        ({}, ["e", "7"]),
        ({"bus": "signed"}, ["-2", "7"]),
        ({"bus": "binary"}, ["1110", "0111"]),
        ({"bus": "unsigned"}, ["14", "7"]),
    ],
)
def test_drawing(radix: Mapping[str, str], shown: list[str]) -> None:
    waves = [
        Wave("clk", 1, 40, (0,) * 4, True),
        Wave("a<b", 1, 40, (0, 1, 1, None)),
        Wave("bus", 4, 40, (14, 14, 7, None)),
    ]
    assert _texts(draw(waves, radix=radix, column=50)) == [
        "40",
        "41",
        "42",
        "43",
        "clk",
        "a<b",
        "?",
        "bus",
        *shown,
        "?",
    ]


def test_long_values_are_cut_and_whole_in_the_tip() -> None:
    svg = draw([Wave("wide", 64, 0, (0x123456789ABCDEF0,))])
    assert _texts(svg)[-1].endswith("…")
    assert [e.text for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")] == ["123456789abcdef0"]
    assert _texts(draw([Wave("wide", 64, 0, (0x123456789ABCDEF0,))], column=8)) == ["0", "wide"]


def test_illegal_drawings() -> None:
    wave = Wave("a", 1, 0, (0,))
    with pytest.raises(ValueError, match="different windows"):
        draw([wave, Wave("b", 1, 1, (0,))])
    with pytest.raises(ValueError, match="different windows"):
        draw([])
    with pytest.raises(ValueError, match="radix octal; legal: hex"):
        draw([wave], radix={"a": "octal"})
    with pytest.raises(ValueError, match="column is 2"):
        draw([wave], column=2)


def test_waves_of_amaranths_own_simulator(tmp_path: Path) -> None:
    module, total = counter()
    path = tmp_path / "py.vcd"
    seen = []

    async def bench(ctx: SimulatorContext) -> None:
        for _ in range(10):
            seen.append(ctx.get(total))
            await ctx.tick()

    simulator = PySimulator(module)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    with simulator.write_vcd(str(path)):
        simulator.run()
    assert seen == [0, 0, 1, 3, 6, 10, 15, 21, 28, 36]
    assert list(read(path, ["count"], period=None, cycles=9)[0].values) == seen[:9]


@pytest.mark.rtl
def test_waves_of_the_simulator_are_what_it_saw(tmp_path: Path, rng: np.random.Generator) -> None:
    library = compile_design({"plain.v": PLAIN}, "plain", waves=True)
    middle = rng.integers(-100, 100, 30)
    with library.start() as simulator:
        simulator.reset()
        simulator.step(5)
        simulator.waves(tmp_path / "one.vcd")
        seen = simulator.write_sequence({"middle": middle}, ["count", "low"])
        simulator.waves(None)
        simulator.step(5)
        simulator.waves(tmp_path / "two.vcd")
        simulator.step(3)
    one = {wave.name: wave for wave in read(tmp_path / "one.vcd", ["count", "middle", "n"])}
    assert one["count"] == Wave("count", 64, 7, tuple(int(v) for v in seen["count"]))
    assert one["middle"].values == tuple(int(v) % (1 << 40) for v in middle)
    assert one["n"].values == one["count"].values
    assert (two := read(tmp_path / "two.vcd", ["clk"])[0]).first == 42
    assert len(two.values) == 3


@pytest.mark.rtl
def test_waves_need_a_library_for_it_and_a_folder(tmp_path: Path) -> None:
    with compile_design({"plain.v": PLAIN}, "plain").start() as simulator:
        with pytest.raises(ValueError, match="compiled without waves"):
            simulator.waves(tmp_path / "one.vcd")
    with compile_design({"plain.v": PLAIN}, "plain", waves=True).start() as simulator:
        with pytest.raises(FileNotFoundError):
            simulator.waves(tmp_path / "none" / "one.vcd")
        simulator.step()
        assert simulator.error is None
