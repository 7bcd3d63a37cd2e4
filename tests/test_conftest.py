"""The rules of conftest.py, tried on small suites of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_fast(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.rtl
def test_rtl(): pass
"""
SKIPPED = """
import pytest

@pytest.mark.rtl
def test_rtl(): pytest.skip("no simulator")
"""
MODULE_SKIPPED = """
import pytest
pytest.importorskip("no_such_library")
pytestmark = pytest.mark.rtl
"""
RANDOM = """
def test_random(rng): print("drew", rng.integers(1 << 60)); assert False
"""


def run(folder: Path, suite: str, *options: str, ci: bool = False) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).parent / "conftest.py", folder)
    (folder / "test_suite.py").write_text(suite)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n fast: f\n rtl: r\n slow: s\n notebooks: n\n board: b\n")
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"test_fast"}),
        (("-m", "rtl"), {"test_rtl"}),
        (("-m", "fast or slow"), {"test_fast", "test_slow"}),
        (("test_suite.py::test_slow",), {"test_slow"}),
    ],
)
def test_levels(tmp_path: Path, options: tuple[str, ...], expected: set[str]) -> None:
    done = run(tmp_path, SUITE, *options)
    assert done.returncode == 0
    passed = {line.rpartition("::")[2] for line in done.stdout.splitlines() if line.startswith("PASSED")}
    assert passed == expected


@pytest.mark.parametrize("suite", [SKIPPED, MODULE_SKIPPED], ids=["test", "module"])
def test_a_skipped_rtl_test_fails_in_ci_only(tmp_path: Path, suite: str) -> None:
    assert run(tmp_path, suite, "-m", "rtl").returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    done = run(tmp_path, suite, "-m", "rtl", ci=True)
    assert done.returncode in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert "skipped in CI, where the rtl level must run" in done.stdout


def test_random_tests_print_their_seed_and_repeat(tmp_path: Path) -> None:
    def drawn(*options: str) -> str:
        done = run(tmp_path, RANDOM, *options)
        seed = options[1] if options else "0"
        assert f"seed: {seed} (repeat with --seed {seed})" in done.stdout
        return next(line for line in done.stdout.splitlines() if line.startswith("drew"))

    assert drawn() == drawn("--seed", "0")
    assert drawn() != drawn("--seed", "1")
