"""The recorded table holds: a small row at level rtl, every row at level slow; and differences are seen."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import oracle
from tests.oracle import KEYS, TABLE, Row, Table, differences

SMALL = "digits-mlp@zcu102"
"""The row whose design is generated soonest."""


@pytest.fixture(scope="module")
def table() -> Table:
    return oracle.read()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all rows leave their bundles, so that files are made once."""
    return tmp_path_factory.mktemp("oracle")


def without_front(row: Row) -> Row:
    return {name: column for name, column in row.items() if name != "front"}


# The table and the code -----------------------------------------------------------------


@pytest.mark.rtl
def test_a_small_row_is_as_recorded(table: Table, folder: Path) -> None:
    found = oracle.observed(SMALL, folder, searched=False)
    assert not differences(without_front(table[SMALL]), found)


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_every_row_is_as_recorded(key: str, table: Table, folder: Path) -> None:
    assert not differences(table[key], oracle.observed(key, folder))


def test_the_table_is_small_and_whole(table: Table, tmp_path: Path) -> None:
    assert tuple(sorted(table)) == tuple(sorted(KEYS))
    assert TABLE.stat().st_size < 300_000
    oracle.write(table, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == TABLE.read_bytes()


# Differences ----------------------------------------------------------------------------

COLUMNS = (
    "constants", "cycles", "design", "energy", "front", "identity", "model", "modules", "predictions", "program",
    "resources", "work",
)  # fmt: skip


def test_every_column_is_tried(table: Table) -> None:
    assert tuple(sorted(table[SMALL])) == COLUMNS
    assert {name for row in table.values() for name in row} == {*COLUMNS}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_planted_difference_is_reported_in_each_column(column: str, table: Table) -> None:
    recorded = table[SMALL]
    for name, value in recorded[column].items():
        planted = {**recorded, column: {**recorded[column], name: "planted"}}
        assert differences(recorded, planted) == [f"{column} {name}: recorded {value}, found planted"]
        gone = {**recorded, column: {n: x for n, x in recorded[column].items() if n != name}}
        assert differences(recorded, gone) == [f"{column} {name}: recorded {value}, found nothing"]
        assert differences(gone, recorded) == [f"{column} {name}: recorded nothing, found {value}"]
    assert not differences(recorded, json.loads(json.dumps(recorded)))


def test_a_design_that_fits_no_more_differs(table: Table) -> None:
    refused: Row = {"build": {"error": "no design fits"}, "front": table[SMALL]["front"]}
    lines = differences(table[SMALL], refused)
    assert lines[0] == "build error: recorded nothing, found no design fits"
    assert {line.split()[0] for line in lines if "found nothing" in line} == {*COLUMNS} - {"front"}


def test_many_differences_are_cut_short_with_their_count() -> None:
    recorded: Row = {"modules": {f"rtl/m{i:02}": "old" for i in range(40)}, "work": {"macs": 1}}
    lines = differences(recorded, {"modules": {**dict.fromkeys(recorded["modules"], "new")}, "work": {"macs": 2}})
    assert lines[0] == "modules rtl/m00: recorded old, found new"
    assert lines[-2:] == ["modules: and 28 more", "work macs: recorded 1, found 2"]


# What hashes see ------------------------------------------------------------------------


def modules(folder: Path, text: str, identity: int = 0) -> Mapping[str, object]:
    (folder / "rtl").mkdir(exist_ok=True)
    (folder / "rtl" / "unit.v").write_text(f"// by a tool\n{text}")
    return oracle._modules(folder, identity.to_bytes(32, "little"))


def test_a_module_is_known_by_its_text_alone(tmp_path: Path) -> None:
    first, second = "module unit(a);\nendmodule\n\n", "module \\unit.part (b);\nendmodule\n"
    found = modules(tmp_path, first + second)
    assert [*found] == ["rtl/unit", "rtl/unit.part"]
    assert modules(tmp_path, f"{second}// moved\n{first}") == found
    changed = modules(tmp_path, first + second.replace("b", "c"))
    assert changed["rtl/unit"] == found["rtl/unit"]
    assert changed["rtl/unit.part"] != found["rtl/unit.part"]


def test_the_words_of_an_identity_are_not_the_hardware(tmp_path: Path) -> None:
    text = "module top(a);\n  assign a = 32'd{};\nendmodule\n"
    found = modules(tmp_path, text.format(77), identity=77)
    assert modules(tmp_path, text.format(88), identity=88) == found
    assert modules(tmp_path, text.format(778), identity=77) != found


def front(*rows: dict[str, float]) -> SimpleNamespace:
    """What a search returns, as far as a table holds it."""
    return SimpleNamespace(rows=rows, objectives=("dsp",), proof=SimpleNamespace(points=5))


def test_a_front_tells_values_from_parameters() -> None:
    found, same = (oracle._front(front({"n": 1, "dsp": 2.0}, {"n": 3, "dsp": 1.0})) for _ in range(2))
    assert found == same
    assert (found["designs"], found["space"], found["first"], found["last"]) == (2, 5, "dsp=2.0, n=1", "dsp=1.0, n=3")
    changed = oracle._front(front({"n": 1, "dsp": 2.0}, {"n": 4, "dsp": 1.0}))
    assert {name for name in found if found[name] != changed[name]} == {"last", "parameters", "rows from 0000"}
    changed = oracle._front(front({"n": 1, "dsp": 2.5}, {"n": 3, "dsp": 1.0}))
    assert {name for name in found if found[name] != changed[name]} == {"first", "values", "rows from 0000"}
    assert oracle._front(front())["designs"] == 0


# The command ----------------------------------------------------------------------------


@pytest.fixture
def planted(table: Table, monkeypatch: pytest.MonkeyPatch) -> Row:
    """What every row is found to be: the small one with another number of cycles."""
    row = {**table[SMALL], "cycles": {**table[SMALL]["cycles"], "total": 1}}
    monkeypatch.setattr(oracle, "observed", lambda key, folder: row)
    return row


def test_the_command_compares(planted: Row, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cycles = table[SMALL]["cycles"]["total"]
    path = tmp_path / "table.json"
    oracle.write({SMALL: table[SMALL]}, path)
    assert oracle.main(["--only", SMALL], path) == 1
    printed = capsys.readouterr().out
    assert f"{SMALL}: different" in printed
    assert f"  cycles total: recorded {cycles}, found 1\n0 of 1 rows equal" in printed
    oracle.write({SMALL: planted}, path)
    assert oracle.main(["--only", SMALL], path) == 0
    assert f"{SMALL}: equal" in capsys.readouterr().out


def test_the_command_records_and_keeps_other_rows(planted: Row, table: Table, tmp_path: Path) -> None:
    path, other = tmp_path / "table.json", "digits-mlp@u280"
    oracle.write({SMALL: table[SMALL], other: table[other], "gone@u280": table[other]}, path)
    assert oracle.main(["--record", "--only", SMALL], path) == 0
    assert oracle.read(path) == {SMALL: planted, other: table[other]}


def test_a_pattern_without_a_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        oracle.main(["--only", "digits-mlp@zcu999"])
    assert "'digits-mlp@zcu999'; legal: digits-mlp@kv260, " in capsys.readouterr().err
