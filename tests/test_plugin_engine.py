"""An engine of another distribution: its own checks, in processes in which it is installed, and what breaks one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import few_fast

HERE = Path(__file__).parent
PLUGIN = HERE / "plugin_engine"
POINTS = "[codesign.kernels]\nkeep_rows = {kernel}\n[codesign.operators]\nkeep_rows = {operator}\n"


def _installed(folder: Path, kernel: str = "keep_rows:KeepRowsKernel", code: str | None = None) -> dict[str, str]:
    """The environment of a process in which the distribution is installed; with other code for its kernel if given."""
    info = folder / "codesign_keep_rows-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: codesign-keep-rows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS.format(kernel=kernel, operator="keep_rows.operator:KeepRowsOperator"))
    if code is not None:
        (folder / f"{kernel.partition(':')[0]}.py").write_text(code)
    path = os.pathsep.join(map(str, (folder, PLUGIN, PLUGIN / "checks", HERE.parent)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _codesign(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "codesign", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.rtl
def test_its_own_checks_pass(tmp_path: Path) -> None:
    checks = PLUGIN / "checks" / "test_keep_rows.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "fast or rtl", str(checks)]
    done = subprocess.run(
        command, env=_installed(tmp_path / "site"), cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_it_is_listed(tmp_path: Path) -> None:
    done = _codesign(_installed(tmp_path / "site"), "kernels", "keep_rows")
    assert (done.returncode, done.stderr) == (0, "")
    assert "lanes" in done.stdout


FAULTS = {
    "an import that fails": (
        "import no_such_module\n",
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "another contract": (
        "from keep_rows import KeepRowsKernel\nclass Other(KeepRowsKernel):\n    contract = 99\n",
        "it keeps contract 99; legal: 1",
    ),
    "a missing method": (
        "from codesign.target import kernel\nclass Other(kernel.CommandKernel):\n    contract, op = 1, 'keep_rows'\n",
        "it does not declare axes, cases,",
    ),
    "a name in use": (
        "from keep_rows import KeepRowsKernel\nclass Other(KeepRowsKernel):\n    op = 'vector'\n",
        "its class says that it is 'vector'",
    ),
}


@pytest.mark.parametrize("fault", few_fast(FAULTS, 1))
def test_a_plug_in_that_cannot_be_used_is_named_and_everything_else_works(fault: str, tmp_path: Path) -> None:
    code, reason = FAULTS[fault]
    environment = _installed(tmp_path / "site", "other_engine:Other", code)
    done = _codesign(environment, "kernels")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert reason in line
    assert "codesign-keep-rows 1.0 (pip uninstall codesign-keep-rows removes it) cannot be " in line
    assert "attention" in done.stdout
    asked = _codesign(environment, "kernels", "keep_rows")
    assert asked.returncode == 2
    assert asked.stderr.splitlines()[-1].startswith("codesign: error: engine 'keep_rows' of codesign-keep-rows")


@pytest.mark.slow
def test_its_types_are_strict() -> None:
    command = [sys.executable, "-m", "mypy", "-p", "keep_rows"]
    environment = {**os.environ, "MYPYPATH": str(PLUGIN)}
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_distribution_installs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(PLUGIN)]
    subprocess.run(command, check=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, HERE.parent)))}
    assert "lanes" in _codesign(environment, "kernels", "keep_rows").stdout
