import json
import pickle
import re
import tomllib
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codesign.errors import InputError
from codesign.target.board import Board, Key, boards, file_format
from codesign.target.board_figures import Available, BoardMemory, Energy

TEXT = """
name = "toy"
part = "xc-toy"
family = "ultrascale+"
clock_hz = 100_000_000

[resources]
dsp = 10
bram36 = 20
uram = 0
lut = 3000
ff = 6000

[memory]
ports = 2
port_bits = 64
bytes_per_second = 1_500_000_000
burst_bytes = 256
read_latency = 30
write_latency = 10
outstanding = 4

[sources]
"resources" = "https://example.org/parts"

[assumptions]
"memory.read_latency" = "not measured"
"""

ENERGY = """
[energy]
mac_fj = 2000
ram_byte_fj = 1000
lut_cycle_fj = 30
ff_cycle_fj = 10
offchip_byte_fj = 100_000
static_mw = 500
error_percent = 40
"""


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "toy.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_is_loaded_as_it_stands(tmp_path: Path) -> None:
    board = Board.load(write(tmp_path, TEXT))
    assert board == Board(
        name="toy",
        part="xc-toy",
        family="ultrascale+",
        clock_hz=100_000_000,
        resources=Available(dsp=10, bram36=20, uram=0, lut=3000, ff=6000),
        memory=BoardMemory(100_000_000, 2, 64, 1_500_000_000, 256, 30, 10, 4),
        sources={"resources": "https://example.org/parts"},
        assumptions={"memory.read_latency": "not measured"},
    )
    assert (board.memory.bytes_numerator, board.memory.bytes_denominator) == (15, 1)


def test_a_board_can_be_hashed_and_pickled(tmp_path: Path) -> None:
    board = Board.load(write(tmp_path, TEXT))
    assert pickle.loads(pickle.dumps(board)) == board
    assert hash(board) == hash(Board.load(str(tmp_path / "toy.toml")))


def test_figures_name_every_number_once(tmp_path: Path) -> None:
    figures = Board.load(write(tmp_path, TEXT)).figures()
    assert len(figures) == 13
    assert figures["clock_hz"] == 100_000_000
    assert figures["resources.lut"] == 3000
    assert figures["memory.outstanding"] == 4
    assert "memory.clock_hz" not in figures


def test_whole_floats_are_numbers(tmp_path: Path) -> None:
    text = TEXT.replace("100_000_000", "100e6")
    assert Board.load(write(tmp_path, text)).clock_hz == 100_000_000


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "toy"', "name = toy", "Invalid value"),
        ('name = "toy"', "name = 3", "name is 3; legal: text"),
        ('name = "toy"', 'name = " "', "legal: printable text"),
        ('name = "toy"', "", "key 'name' is missing"),
        ('"ultrascale+"', '"spartan"', "family is 'spartan'; legal: ultrascale+ or versal"),
        ("clock_hz = 100_000_000", "clock_hz = 0", "clock_hz is 0"),
        ("clock_hz = 100_000_000", "clock_hz = true", "clock_hz is True"),
        ("clock_hz = 100_000_000", 'clock_hz = "fast"', "clock_hz is 'fast'"),
        ("clock_hz = 100_000_000", "clock_hz = 1.5", "clock_hz is 1.5"),
        ("clock_hz = 100_000_000", "clock_hz = inf", "clock_hz is inf"),
        ("clock_hz = 100_000_000", "clock_hz = nan", "clock_hz is nan"),
        ("clock_hz = 100_000_000", f"clock_hz = {'9' * 5000}", "board"),
        ("dsp = 10", "dsp = -10", "resources.dsp is -10"),
        ("dsp = 10", "dsps = 10", "unknown key 'resources.dsps'"),
        ("dsp = 10", "", "key 'resources.dsp' is missing"),
        ("uram = 0", "uram = -1", "resources.uram is -1"),
        ("ports = 2", "ports = 0", "memory.ports is 0"),
        ("ports = 2", "ports = 65", "memory.ports is 65"),
        ("port_bits = 64", "port_bits = 96", "memory.port_bits is 96; legal: a power of two"),
        ("burst_bytes = 256", "burst_bytes = 8192", "memory.burst_bytes is 8192"),
        ("burst_bytes = 256", "burst_bytes = 4", "memory.burst_bytes is 4"),
        ("read_latency = 30", "read_latency = 0", "memory.read_latency is 0"),
        ("outstanding = 4", "outstanding = 0", "memory.outstanding is 0"),
        ("outstanding = 4", "outstanding = 4\nclock_hz = 1", "unknown key 'memory.clock_hz'"),
        ("[memory]", "[memory.deep]", "unknown key 'memory.deep'"),
        ("[resources]", "[[resources]]", "legal: a table [resources]"),
        ("[sources]", "[source]", "unknown key 'source'"),
        ('"resources" =', '"resources.luts" =', "sources names 'resources.luts'"),
        ("https://", "http://", "legal: an address that starts with https://"),
        ('"memory.read_latency"', "memory.read_latency", "assumptions.'memory' is"),
        ('"not measured"', "80", "legal: text"),
        ('"not measured"', '""', "legal: text"),
    ],
)
def test_illegal_files_end_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert TEXT.count(old) == 1
    with pytest.raises(InputError) as caught:
        Board.load(write(tmp_path, TEXT.replace(old, new)))
    message = str(caught.value)
    assert says in message
    assert message.startswith(f"board {tmp_path}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"\x00", b"[" * 100_000, b"a = " + b"[" * 5000, b"#" * (1 << 21)],
    ids=["empty", "not-utf8", "nul", "brackets", "deep", "large"],
)
def test_garbage_files_end_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        Board.load(write(tmp_path, data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_unreadable_files_say_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.toml").mkdir()
    for path in (tmp_path / name / "x.toml", tmp_path / "folder.toml"):
        with pytest.raises(InputError, match="cannot read board file"):
            Board.load(path)


@pytest.mark.parametrize("name", ["", "zcu", "../zcu102", "zcu102/", "__init__"])
def test_unknown_names_list_the_known(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown board .*; known: .*zcu102.*"):
        Board.load(name)


def test_what_events_cost_is_loaded_with_its_remarks(tmp_path: Path) -> None:
    text = TEXT.replace("[sources]", f'{ENERGY}[sources]\n"energy" = "https://example.org/power"')
    text += '"energy.static_mw" = "a guess"\n'
    board = Board.load(write(tmp_path, text))
    assert board.energy == Energy(2000, 1000, 30, 10, 100_000, 500, 40)
    assert board.coefficients is board.energy
    assert board.sources["energy"] == "https://example.org/power"
    assert board.assumptions["energy.static_mw"] == "a guess"
    assert len(board.figures()) == 20
    changed = board.with_overrides(["energy.static_mw=2e3", "clock_hz=50e6"])
    assert changed.coefficients == replace(board.coefficients, static_mw=2000)
    assert "set to 2000" in changed.assumptions["energy.static_mw"]
    assert pickle.loads(pickle.dumps(changed)) == changed


def test_a_board_that_says_nothing_of_energy_has_no_coefficients(tmp_path: Path) -> None:
    board = Board.load(write(tmp_path, TEXT))
    assert board.energy is None
    with pytest.raises(InputError, match=r"board toy has no table \[energy\]; legal: a board file with one"):
        _ = board.coefficients
    with pytest.raises(InputError, match=r"--set 'energy\.static_mw=1'; legal: KEY=VALUE"):
        board.with_overrides(["energy.static_mw=1"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("mac_fj = 2000", "", "key 'energy.mac_fj' is missing"),
        ("mac_fj = 2000", "mac_fj = 0", "energy.mac_fj is 0"),
        ("mac_fj = 2000", "mac_fj = -1", "energy.mac_fj is -1"),
        ("mac_fj = 2000", "mac_fj = 1.5", "energy.mac_fj is 1.5"),
        ("mac_fj = 2000", "mac_fj = 10_000_000_000", "energy.mac_fj is 10000000000"),
        ("mac_fj = 2000", "mac_pj = 2", "unknown key 'energy.mac_pj'"),
        (
            "error_percent = 40",
            "error_percent = 100",
            "energy.error_percent is 100; legal: a whole number from 1 to 99",
        ),
        ("[energy]", "[[energy]]", "legal: a table [energy]"),
        (ENERGY, "[energy]\n", "key 'energy.mac_fj' is missing"),
        (ENERGY, "", "assumptions names 'energy.static_mw'"),
    ],
)
def test_illegal_coefficients_end_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = TEXT.replace("[sources]", f"{ENERGY}[sources]") + '"energy.static_mw" = "a guess"\n'
    assert text.count(old) == 1
    with pytest.raises(InputError) as caught:
        Board.load(write(tmp_path, text.replace(old, new)))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_are_marked_and_leave_the_original(tmp_path: Path) -> None:
    board = Board.load(write(tmp_path, TEXT))
    changed = board.with_overrides(["memory.read_latency=80", "resources.dsp=2e2"])
    assert changed.memory.read_latency == 80
    assert changed.resources.dsp == 200
    assert set(changed.assumptions) == {"memory.read_latency", "resources.dsp"}
    assert "80" in changed.assumptions["memory.read_latency"]
    assert board.memory.read_latency == 30
    assert "resources.dsp" not in board.assumptions
    assert board.with_overrides([]) == board


@pytest.mark.parametrize(
    "setting",
    [
        *("dsp=3", "=3", "name=other", "sources=1", "memory.clock_hz=1", "memory.ports=-1", "memory.ports=1e3"),
        *("clock_hz", "clock_hz=", "clock_hz=fast", "clock_hz=1.5", "clock_hz=nan", "clock_hz=0", "clock_hz=1e300"),
    ],
)
def test_illegal_overrides_end_in_one_line(setting: str) -> None:
    with pytest.raises(InputError) as caught:
        Board.load("zcu102").with_overrides([setting])
    assert "--set" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_memory_runs_at_the_clock_of_the_board() -> None:
    with pytest.raises(ValueError, match=r"memory\.clock_hz"):
        replace(Board.load("zcu102"), clock_hz=1)


def test_boards_are_sorted_names() -> None:
    assert list(boards()) == sorted(boards())
    assert "zcu102" in boards()


# The format, as documented and as read.

FULL = TEXT.replace("[sources]", f"{ENERGY}[sources]")
"""A file with every table."""


def shown(document: dict[str, Any]) -> str:
    """A document as TOML."""
    top = {name: value for name, value in document.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in document.items() if isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in top.items()]
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in values.items())]
    return "\n".join(lines)


def put(document: dict[str, Any], key: Key, value: object) -> dict[str, Any]:
    """The document with another value of a key; without the key for None."""
    table, _, name = key.name.rpartition(".")
    found: dict[str, Any] = deepcopy(document)
    place = found.setdefault(table, {}) if table else found
    place[name] = value
    if value is None:
        del place[name]
    return found


def accepted(folder: Path, document: dict[str, Any]) -> Board:
    return Board.load(write(folder, shown(document)))


def refused(folder: Path, document: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        accepted(folder, document)
    return str(caught.value)


DOCUMENT: dict[str, Any] = tomllib.loads(FULL)
KEYS = {key.name: key for key in file_format()}
NUMBERS = [key for key in KEYS.values() if key.unit != "text"]


def test_the_format_has_every_key_that_is_read_and_no_other(tmp_path: Path) -> None:
    board = accepted(tmp_path, DOCUMENT)
    assert {key.name for key in NUMBERS} == {*board.figures()}
    assert len(KEYS) == len(file_format())
    assert {*KEYS} - {*board.figures()} == {"name", "part", "family", 'sources."KEY"', 'assumptions."KEY"'}
    for table in ("", "resources", "memory", "energy"):
        unknown = Key(f"{table}.other" if table else "other", "", "", "", "")
        legal = refused(tmp_path, put(DOCUMENT, unknown, 1)).partition("legal: ")[2].split(", ")
        known = {name.partition(".")[0] for name in KEYS}
        if table:
            known = {name.partition(".")[2] for name in KEYS if name.startswith(f"{table}.")}
        assert {*legal} == known


@pytest.mark.parametrize("name", [name for name in KEYS if not name.endswith('"KEY"')])
def test_a_key_is_needed_as_the_format_says(name: str, tmp_path: Path) -> None:
    key = KEYS[name]
    assert f"key {name!r} is missing" in refused(tmp_path, put(DOCUMENT, key, None))
    table, whole = name.partition(".")[0], "all of [energy] or none (default)"
    assert (key.needed == whole) == (table == "energy")
    if key.needed == whole:
        assert accepted(tmp_path, {name: value for name, value in DOCUMENT.items() if name != table}).energy is None
    else:
        assert key.needed == "required"


@pytest.mark.parametrize("table", ["sources", "assumptions"])
def test_remarks_are_optional_as_the_format_says(table: str, tmp_path: Path) -> None:
    key = KEYS[f'{table}."KEY"']
    assert key.needed == "optional, default none"
    bare = {name: value for name, value in DOCUMENT.items() if name != table}
    assert getattr(accepted(tmp_path, bare), table) == {}
    legal = "https://x.org" if key.legal == "https://..." else "a reason"
    for figure in NUMBERS:
        assert figure.name in getattr(accepted(tmp_path, {**bare, table: {figure.name: legal}}), table)
    assert "legal" in refused(tmp_path, {**bare, table: {"memory.ports": ""}})


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.name)
def test_numbers_are_legal_as_the_format_says(key: Key, tmp_path: Path) -> None:
    found = re.fullmatch(r"a (power of two|whole number) from (\d+) to (\d+)", key.legal)
    assert found is not None
    low, high = int(found[2]), int(found[3])
    narrow = put(DOCUMENT, KEYS["memory.port_bits"], 32)  # a burst is at least as long as a port is wide
    for legal in (low, high):
        assert accepted(tmp_path, put(narrow, key, legal)).figures()[key.name] == legal
    wrong: list[object] = [low - 1, high + 1, True, "many", 1.5, *([3 * low] if found[1] == "power of two" else [])]
    for value in wrong:
        assert f"{key.name} is {value!r}; legal: " in refused(tmp_path, put(narrow, key, value))


def test_units_are_those_of_the_names() -> None:
    units = {
        "_hz": "Hz",
        "_bits": "bits",
        "_bytes": "bytes",
        "_per_second": "bytes/s",
        "_fj": "fJ",
        "_mw": "mW",
        "_percent": "%",
    }
    for key in file_format():
        ends = [unit for end, unit in units.items() if key.name.endswith(end)]
        assert not ends or ends == [key.unit]
        assert all((key.unit, key.needed, key.legal, key.meaning))
    assert KEYS["family"].legal == "ultrascale+ or versal"
