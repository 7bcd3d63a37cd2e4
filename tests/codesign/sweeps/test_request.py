from importlib import resources
from pathlib import Path

import pytest

import codesign
from codesign.cli import main
from codesign.sweeps.request import SweepRequest
from tests.codesign.sweeps.folders import tree


def test_the_python_face_takes_sequences(tmp_path: Path) -> None:
    found = codesign.sweep(
        ["gemm:8x16x16"],
        ["zcu102", "kv260"],
        tmp_path / "s",
        clock_mhz=[100, 200],
        budget=["all", "lut=90000"],
        limit=9,
    )
    assert len(found.combinations) == 8
    again = codesign.sweep(
        "gemm:8x16x16", "zcu102,kv260", tmp_path / "s", clock_mhz="100,200", budget=("all", "lut=90000"), limit=9,
        resume=True,
    )  # fmt: skip
    assert again.resumed == found.rows
    other = codesign.sweep(
        "gemm:8x16x16", "zcu102", tmp_path / "t", clock_mhz=150, budget="dsp=9", axis="n_l=1", limit=9
    )
    assert set(other.scan().collect()["n_l"]) == {1}


def test_the_same_budget_may_be_written_in_many_ways() -> None:
    request = SweepRequest(("a",), ("b",), budgets=("lut=5, dsp=3", " all "))
    assert request.budgets == ("dsp=3,lut=5", "all")
    assert SweepRequest(("a",), ("b",), budgets=()).budgets == ("all",)


BAD: dict[str, tuple[list[str], int, str]] = {
    "no model": (["--board", "zcu102", "--out", "@out"], 2, "MODEL"),
    "no board": (["gemm:4x4x4", "--out", "@out"], 2, "--board"),
    "no folder": (["gemm:4x4x4", "--board", "zcu102"], 2, "--out"),
    "unknown model": (["gemm:4x4x4,resnet", "--board", "zcu102", "--out", "@out"], 2, "digits-vit"),
    "a model twice": (["gemm:4x4x4,gemm:4x4x4", "--board", "zcu102", "--out", "@out"], 2, "twice"),
    "an empty model": (["gemm:4x4x4,", "--board", "zcu102", "--out", "@out"], 2, "none empty"),
    "a garbage model": (["@garbage.onnx", "--board", "zcu102", "--out", "@out"], 2, "garbage.onnx"),
    "a matrix too large": (["gemm:99999999x1x1", "--board", "zcu102", "--out", "@out"], 2, "65536"),
    "unknown board": (["gemm:4x4x4", "--board", "zcu102,zcu999", "--out", "@out"], 2, "zcu999"),
    "a board twice": (["gemm:4x4x4", "--board", "zcu102,zcu102", "--out", "@out"], 2, "twice"),
    "an empty board": (["gemm:4x4x4", "--board", "", "--out", "@out"], 2, "none empty"),
    "broken board": (["gemm:4x4x4", "--board", "@broken.toml", "--out", "@out"], 2, "broken.toml"),
    "a bus that is not built": (["gemm:4x4x4", "--board", "@ports.toml", "--out", "@out"], 2, "power of two"),
    "a clock of zero": (["gemm:4x4x4", "--board", "zcu102", "--clock-mhz", "200,0", "--out", "@out"], 2, "-mhz 0"),
    "a clock of nan": (["gemm:4x4x4", "--board", "zcu102", "--clock-mhz", "nan", "--out", "@out"], 2, "-mhz nan"),
    "a clock of letters": (["gemm:4x4x4", "--board", "zcu102", "--clock-mhz", "fast", "--out", "@out"], 2, "fast"),
    "a clock twice": (["gemm:4x4x4", "--board", "zcu102", "--clock-mhz", "200,2e2", "--out", "@out"], 2, "twice"),
    "clocks of the same hertz": (
        ["gemm:4x4x4", "--board", "zcu102", "--clock-mhz", "200,200.0000001", "--out", "@out"], 2, "twice",
    ),
    "no clock": (["gemm:4x4x4", "--board", "zcu102", "--clock-mhz", "", "--out", "@out"], 2, "--clock-mhz"),
    "a budget of watts": (["gemm:4x4x4", "--board", "zcu102", "--budget", "watts=5", "--out", "@out"], 2, "dsp=N"),
    "an empty budget": (["gemm:4x4x4", "--board", "zcu102", "--budget", "", "--out", "@out"], 2, "dsp=N"),
    "a budget twice": (
        ["gemm:4x4x4", "--board", "zcu102", "--budget", "dsp=5,lut=9", "--budget", "lut=9,dsp=5", "--out", "@out"],
        2, "twice",
    ),
    "a limit of zero": (["gemm:4x4x4", "--board", "zcu102", "--limit", "0", "--out", "@out"], 2, "--limit 0"),
    "a limit of letters": (["gemm:4x4x4", "--board", "zcu102", "--limit", "x", "--out", "@out"], 2, "--limit"),
    "an axis of no parameter": (["gemm:4x4x4", "--board", "zcu102", "--axis", "x=1", "--out", "@out"], 2, "n_l"),
    "an axis without values": (["gemm:4x4x4", "--board", "zcu102", "--axis", "n_l=", "--out", "@out"], 2, "PARAMETER"),
    "an axis of letters": (["gemm:4x4x4", "--board", "zcu102", "--axis", "n_l=1,x", "--out", "@out"], 2, "PARAMETER"),
    "an axis twice": (
        ["gemm:4x4x4", "--board", "zcu102", "--axis", "n_l=1", "--axis", "n_l=2", "--out", "@out"], 2, "each once",
    ),
    "an axis with a value that is none": (
        ["gemm:4x4x4", "--board", "zcu102", "--axis", "t_in=8,9", "--out", "@out"], 2, "t_in=9 is not in its space",
    ),
    "an axis that the network has not": (
        ["gemm:4x4x4", "--board", "zcu102", "--axis", "t_a=8", "--out", "@out"], 2, "legal: parameters t_in",
    ),
    "out is a file": (["gemm:4x4x4", "--board", "zcu102", "--out", "@file"], 2, "not a folder"),
    "out is foreign": (["gemm:4x4x4", "--board", "zcu102", "--out", "@foreign"], 2, "other files"),
    "resume the foreign": (["gemm:4x4x4", "--board", "zcu102", "--out", "@foreign", "--resume"], 2, "other files"),
    "out cannot be made": (["gemm:4x4x4", "--board", "zcu102", "--out", "@file/s"], 2, "file"),
    "out is a bundle": (["gemm:4x4x4", "--board", "zcu102", "--out", "@bundle"], 2, "other files"),
    "a manifest of others": (["gemm:4x4x4", "--board", "zcu102", "--out", "@others", "--resume"], 2, "not a sweep's"),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    zcu102 = (resources.files("codesign.boards") / "zcu102.toml").read_text()
    texts = {
        "file": "x", "foreign/notes.txt": "mine", "bundle/bundle.json": "{}", "others/manifest.json": "{}",
        "garbage.onnx": "no model", "broken.toml": "name = [", "ports.toml": zcu102.replace("ports = 4", "ports = 3"),
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, code, part = BAD[name]
    before = tree(place)
    argv = ["sweep", *(str(place / a[1:]) if a.startswith("@") else a for a in arguments), "--quiet"]
    assert main(argv) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("codesign: error: ")
    assert printed.err.count("\n") == 1
    assert part in printed.err
    assert tree(place) == before
    assert not (place / "out").exists()
