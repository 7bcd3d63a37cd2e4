import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codesign.timing import event_kernel as ev
from codesign.timing.jit import compiled_run, ready_run

_ASK = """
import sys
from pathlib import Path
from codesign.timing.jit import compiled_run
run = compiled_run(Path(sys.argv[1]))
print(sum(run.stats.cache_hits.values()), sum(run.stats.cache_misses.values()))
"""
"""What a process does that asks for the rules; prints how often it found them compiled and how often not."""


def _ask(cache: Path) -> "subprocess.Popen[str]":
    command = (sys.executable, "-c", _ASK, str(cache))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _told(process: "subprocess.Popen[str]") -> list[int]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return [int(word) for word in out.split()]


def test_nobody_who_does_not_ask_waits_for_the_compiler() -> None:
    code = "import sys; from codesign.timing import cycles, jit; print(jit.ready_run(), 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None False\n"


def test_what_was_asked_for_is_ready() -> None:
    run = compiled_run()
    assert run is not None
    assert ready_run() is run


def test_without_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else find(name))
    with caplog.at_level(logging.INFO, "codesign.timing.jit"):
        assert compiled_run(tmp_path) is None
    assert "pip install 'codesign[compiled]'" in caplog.text
    assert not list(tmp_path.iterdir())


def test_without_a_folder_to_write_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert compiled_run(tmp_path / "file" / "cache") is None
    assert "runs uncompiled: cannot write to the cache folder" in caplog.text


def test_machine_code_is_made_of_the_text_of_the_rules() -> None:
    """On the same memory both do the same, value for value, tables included."""
    run = compiled_run()
    assert run is not None
    memory = [0] * ev.FIXED
    memory[ev.NEXT], memory[ev.BURSTS] = ev.END, 1
    memory[ev.ISSUE_AT] = memory[ev.GRANT_AT] = ev.NEVER
    memory[ev.HEADS : ev.HEAD_WORDS] = [ev.NEVER] * (ev.HEAD_WORDS - ev.HEADS)
    memory[ev.TOUCHED] = 1
    array = np.array(memory, np.int64)
    run(array)
    ev.run(memory)
    assert array.tolist() == memory
    assert memory[ev.TOUCHED] == 0


@pytest.mark.slow
def test_processes_compile_once_and_keep_it(tmp_path: Path) -> None:
    """Of two at once one compiles and the other waits; a third finds it, even if it may not write."""
    first, second = _ask(tmp_path), _ask(tmp_path)
    assert [_told(process) for process in (first, second)] == [[1, 0], [1, 0]]
    assert len(list(tmp_path.glob("cycles-*/__pycache__/*.nbc"))) == 1
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert _told(_ask(tmp_path)) == [1, 0]
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755)
