import json

import pytest

from codesign.cli import main


def test_boards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "part", "family", "MHz", "dsp", "bram36", "uram", "lut", "ff", "GB/s"]
    zcu102 = ["zcu102", "xczu9eg-ffvb1156-2-e", "ultrascale+", "300", "2520", "912", "0", "274080", "548160", "15.36"]
    assert zcu102 in [row.split() for row in rows]


def test_boards_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards", "--json"]) == 0
    found = {board["name"]: board for board in json.loads(capsys.readouterr().out)["boards"]}
    assert found["zcu102"]["resources"]["dsp"] == 2520
    assert "clock_hz" in found["zcu102"]["assumptions"]


def test_kernels_and_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels"]) == 0
    assert "t_in t_out n_l" in capsys.readouterr().out
    assert main(["kernels", "vector"]) == 0
    assert "columns per cycle" in capsys.readouterr().out
    assert main(["models"]) == 0
    assert "digits-vit" in capsys.readouterr().out
