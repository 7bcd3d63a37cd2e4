"""Requests to FINN and its answers; the recorded answer is what finn-plus 1.6.1 wrote for digits-mlp."""

import importlib.util
import json
import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from codesign.errors import InputError, ToolError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, load_onnx
from codesign.quant.interop.finn_estimates import (
    TARGETS,
    EstimateRow,
    computed,
    read_estimates,
    recorded,
    table,
    write_request,
)

RECORDED = resources.files("codesign") / "data" / "finn-digits-mlp.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A request with its recorded answer."""
    write_request("digits-mlp", tmp_path, TARGETS)
    (tmp_path / "result.json").write_bytes(RECORDED.read_bytes())
    return tmp_path


def test_a_request_holds_model_script_and_targets(tmp_path: Path) -> None:
    script = write_request("digits-mlp", tmp_path / "finn", TARGETS, "xck26-sfvc784-2lv-c")
    assert sorted(path.name for path in script.parent.iterdir()) == ["estimate.py", "model.onnx", "request.json"]
    request = json.loads((script.parent / "request.json").read_text(encoding="utf-8"))
    assert request == {"part": "xck26-sfvc784-2lv-c", "target_cycles": list(TARGETS)}
    original, sent = zoo.load("digits-mlp"), load_onnx(script.parent / "model.onnx")
    assert isinstance(original, Workload)
    assert sent.macs == original.macs
    assert "import codesign" not in script.read_text(encoding="utf-8")
    assert "from codesign" not in script.read_text(encoding="utf-8")


def test_a_new_request_drops_the_old_answer(folder: Path) -> None:
    read_estimates(folder)
    write_request("digits-mlp", folder, [7])
    with pytest.raises(InputError, match=r"no estimates in .*; run .*estimate\.py with the Python of an environment"):
        read_estimates(folder)


def test_the_recorded_answer(folder: Path) -> None:
    found = read_estimates(folder)
    assert found == recorded()
    assert "finn-plus 1.6.1" in json.loads(RECORDED.read_text(encoding="utf-8"))["how"]
    assert (found.version, found.part) == ("1.6.1", "xczu9eg-ffvb1156-2-e")
    assert tuple(estimate.target_cycles for estimate in found.estimates) == TARGETS
    for estimate in found.estimates:
        assert estimate.interval_cycles == max(layer.cycles for layer in estimate.layers)
        assert [layer.name.partition("_")[0] for layer in estimate.layers] == [
            "Thresholding", "MVAU", "Thresholding", "MVAU", "Thresholding", "MVAU", "Thresholding",
        ]  # fmt: skip
        assert estimate.row.dsp == sum(layer.dsp for layer in estimate.layers)
    slowest = found.estimates[0]
    assert (slowest.interval_cycles, slowest.latency_cycles, slowest.row.dsp) == (1024, 2506, 4)


def test_the_table_has_ours_beside_theirs(folder: Path) -> None:
    ours = EstimateRow("ours, simulated", 150, 150, 64, 8, 5000)
    lines = table(read_estimates(folder), [ours]).splitlines()
    assert lines[0].split() == ["design", "interval", "latency", "DSP", "BRAM18", "LUT"]
    assert [int(line.rsplit(maxsplit=5)[1]) for line in lines[1:-1]] == [40, 80, 150, 160, 320, 1024]
    assert lines[3].split() == ["ours,", "simulated", "150", "150", "64", "8", "5000"]
    assert lines[-1] == "FINN: estimates of finn-plus 1.6.1 for xczu9eg-ffvb1156-2-e, not synthesized"
    assert len({len(line) for line in lines[:-1]}) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.pop("finn"),
        lambda document: document.update(estimates=3),
        lambda document: document["estimates"][0].update(layers=None),
        lambda document: document["estimates"][0]["layers"][1].update(dsp=-1),
        lambda document: document["estimates"][0]["layers"][1].update(cycles="64"),
    ],
    ids=["version", "estimates", "layers", "negative", "text"],
)
def test_an_answer_that_is_none(folder: Path, change: Any) -> None:
    document = json.loads(RECORDED.read_text(encoding="utf-8"))
    change(document)
    (folder / "result.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match=r"result\.json holds no estimates \(.*\); legal: what estimate\.py writes"):
        read_estimates(folder)


def test_requests_that_ask_for_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"target cycles \[\]; legal: at least one number"):
        write_request("digits-mlp", tmp_path, [])
    with pytest.raises(InputError, match=r"target cycles \[8, 0\]"):
        write_request("digits-mlp", tmp_path, [8, 0])
    with pytest.raises(InputError, match="it is no part of a chain"):
        write_request("digits-vit", tmp_path, [8])


def python_that_answers(folder: Path, text: str) -> Path:
    """Something that is started like a Python and runs a shell line instead."""
    found = folder / "python"
    found.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    found.chmod(0o755)
    return found


def test_another_environment_is_asked_by_files(tmp_path: Path) -> None:
    python = python_that_answers(tmp_path, f'cp "{RECORDED}" "$(dirname "$1")/result.json"')
    assert computed(python, tmp_path / "request") == recorded()
    request = json.loads((tmp_path / "request" / "request.json").read_text(encoding="utf-8"))
    assert request["target_cycles"] == [*TARGETS]


def test_an_environment_without_finn_is_a_tool_s_failure(tmp_path: Path) -> None:
    python = python_that_answers(tmp_path, "echo no finn here >&2; exit 1")
    with pytest.raises(ToolError, match="finn-plus failed") as caught:
        computed(python, tmp_path / "request")
    assert caught.value.log_tail == "no finn here"
    with pytest.raises(InputError, match="legal: the Python of an environment that has finn-plus"):
        computed(tmp_path / "none", tmp_path / "request")
    with pytest.raises(ToolError, match="did not answer"):
        computed(Path(shutil.copy(str(RECORDED), tmp_path / "text")), tmp_path / "request")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("finn") is None, reason="needs an environment with finn-plus")
def test_finn_answers_as_recorded(tmp_path: Path) -> None:
    assert computed(Path(sys.executable), tmp_path) == recorded()
