"""Boards of the user: found by name, and a broken one breaks itself alone."""

import json
from pathlib import Path

import pytest

import codesign
from codesign import api as flow
from codesign.cli import main
from codesign.errors import InputError
from codesign.target import board
from codesign.target.board import Board
from codesign.target.board_catalog import board_catalog, board_folders, load_board
from tests.codesign.target.test_board import TEXT
from tests.packages import install


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of boards, with one."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "toy.toml").write_text(TEXT)
    monkeypatch.setenv("CODESIGN_BOARDS", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return folder


def listed(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """Names that ``codesign boards`` lists, and the lines of its log."""
    capsys.readouterr()
    assert main(["boards", "--json"]) == 0
    printed = capsys.readouterr()
    return [found["name"] for found in json.loads(printed.out)["boards"]], printed.err.splitlines()


@pytest.mark.parametrize(
    ("environ", "folders"),
    [
        ({}, []),
        ({"HOME": "/home/me"}, ["/home/me/.config/codesign/boards"]),
        ({"HOME": "/home/me", "XDG_CONFIG_HOME": "/etc/me"}, ["/etc/me/codesign/boards"]),
        ({"CODESIGN_BOARDS": "/a::/b:/a", "XDG_CONFIG_HOME": ""}, ["/a", "/b"]),
        ({"CODESIGN_BOARDS": "/a", "HOME": "/h"}, ["/a", "/h/.config/codesign/boards"]),
    ],
)
def test_the_environment_says_where_boards_may_lie(environ: dict[str, str], folders: list[str]) -> None:
    assert board_folders(environ) == tuple(map(Path, folders))


def test_a_missing_folder_is_named_and_the_others_are_listed(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CODESIGN_BOARDS", f"{tmp_path / 'none'}:{mine}:{tmp_path / 'none'}")
    says = f"CODESIGN_BOARDS names {tmp_path / 'none'}, which is no folder"
    assert listed(capsys) == (sorted([*board.boards(), "toy"]), [says])


@pytest.mark.rtl
def test_a_board_of_the_user_is_used_by_name(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys) == (sorted([*board.boards(), "toy"]), [])
    assert load_board("toy", [mine]) == Board.load(mine / "toy.toml")
    assert load_board(mine / "toy.toml") == Board.load(mine / "toy.toml")
    big = Board.load("zcu102").resources
    text = TEXT.replace("dsp = 10", f"dsp = {big.dsp}").replace("bram36 = 20", f"bram36 = {big.bram36}")
    text = text.replace("lut = 3000", f"lut = {big.lut}").replace("ff = 6000", f"ff = {big.ff}")
    (mine / "large.toml").write_text(text.replace('"toy"', '"large"'))
    assert len(codesign.search("gemm:4x16x16", "large")) > 0
    assert main(["build", "gemm:4x16x16", "--board", "large", "--out", str(tmp_path / "b"), "--quiet"]) == 0
    assert flow.report(tmp_path / "b").board == "large"


def test_so_is_one_in_the_settings(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "settings" / "codesign" / "boards"
    folder.mkdir(parents=True)
    (folder / "other.toml").write_text(TEXT.replace('"toy"', '"other"'))
    assert {"other", "toy"} < {*listed(capsys)[0]}
    (folder / "toy.toml").write_text(TEXT)
    names, lines = listed(capsys)
    assert "toy" not in names
    assert lines == [f"board 'toy' comes from {mine}/toy.toml and {folder}/toy.toml; legal: one of them"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TEXT.replace("dsp = 10", "dsp = "), "Invalid value"),
        (TEXT.replace("dsp = 10", ""), "key 'resources.dsp' is missing"),
        (TEXT, "name is 'toy'; legal: 'broken', as its file is called"),
        ("\0", "broken.toml"),
    ],
)
def test_a_broken_file_is_named_and_the_others_work(
    text: str, reason: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "broken.toml").write_text(text)
    names, lines = listed(capsys)
    assert names == sorted([*board.boards(), "toy"])
    assert len(lines) == 1
    assert lines[0].startswith(f"board {mine}/broken.toml: ")
    assert reason in lines[0]
    assert main(["build", "gemm:4x16x16", "--board", "broken", "--out", str(tmp_path / "b")]) == 2
    assert capsys.readouterr().err == f"codesign: error: {lines[0]}\n"
    assert load_board("toy", [mine]).name == "toy"


def test_what_ships_keeps_its_name(
    mine: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (mine / "zcu102.toml").write_text(TEXT.replace('"toy"', '"zcu102"'))
    refusal = f"board 'zcu102' of {mine}/zcu102.toml is refused: codesign ships one; legal: another name"
    assert listed(capsys) == (sorted([*board.boards(), "toy"]), [refusal])
    caplog.clear()
    assert load_board("zcu102", [mine]) == Board.load("zcu102")
    assert caplog.messages == [refusal]


def test_an_unknown_name_says_where_it_was_looked_for(mine: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        codesign.search("gemm:4x16x16", "toi")
    searched = f"searched: {mine}, {tmp_path}/settings/codesign/boards"
    known = "kv260, toy, u280, zcu102, zcu104"
    assert str(caught.value) == f"board 'toi' is not known; legal: {known} ({searched}), or a path to a .toml file"


def test_a_package_offers_one(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"from codesign.target.board import Board\nTOY = Board.load({str(mine / 'toy.toml')!r})\n"
    install(monkeypatch, tmp_path / "p", "toyboard", code, "[codesign.boards]\ntoy = toyboard:TOY\n")
    assert load_board("toy").name == "toy"
    with pytest.raises(InputError, match=r"toy\.toml and toyboard 1\.5 \(pip uninstall toyboard removes it\); legal"):
        board_catalog([mine]).load("toy")


def test_the_format_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards", "--format"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "unit", "needed", "legal", "meaning"]
    assert main(["boards", "--format", "--json"]) == 0
    keys = json.loads(capsys.readouterr().out)["keys"]
    assert [row.split()[0] for row in rows] == [key["name"] for key in keys]
    assert all(key[part] in row for key, row in zip(keys, rows, strict=True) for part in ("unit", "needed", "legal"))
