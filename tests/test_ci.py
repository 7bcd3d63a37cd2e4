"""What CI runs, on a machine whose tools are stubs that write down their calls."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

COMMANDS = ["make test", "make test-quant", "make test-312"]
INSTALL = ["apt-get -qq update", "apt-get -qq install -y --no-install-recommends chromium"]


@dataclass(frozen=True)
class Machine:
    """A folder with a copy of ``.ci/run``, and one with the only tools that there are."""

    folder: Path

    def tool(self, name: str, script: str = "") -> None:
        path = self.folder / "bin" / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "$CALLS"\n{script}\n')
        path.chmod(0o755)

    def run(self) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """The run, and all calls of tools; each is whole, for the tools run one after the other."""
        environment = {"PATH": str(self.folder / "bin"), "CALLS": str(self.folder / "calls")}
        command = ["/bin/bash", str(self.folder / ".ci" / "run")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done, (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    shutil.copytree(Path(__file__).parent.parent / ".ci", tmp_path / ".ci")
    (tmp_path / "bin").mkdir()
    found = Machine(tmp_path)
    os.symlink(shutil.which("dirname") or "", tmp_path / "bin" / "dirname")
    (tmp_path / "bin" / "id").write_text("#!/bin/bash\necho 0\n")
    (tmp_path / "bin" / "id").chmod(0o755)
    found.tool("make", '[ "$CI" = true ]')
    return found


def test_a_browser_that_is_there_is_not_installed(machine: Machine) -> None:
    machine.tool("google-chrome")
    machine.tool("apt-get")
    done, calls = machine.run()
    assert (done.returncode, done.stdout, calls) == (0, "", COMMANDS)


def test_a_browser_is_installed_where_root_can(machine: Machine) -> None:
    machine.tool("apt-get")
    done, calls = machine.run()
    assert (done.returncode, done.stdout, calls) == (0, "", INSTALL + COMMANDS)


@pytest.mark.parametrize("why", ["no apt", "apt fails", "not root"])
def test_without_a_browser_it_says_so_and_goes_on(machine: Machine, why: str) -> None:
    if why != "no apt":
        machine.tool("apt-get", "exit 100")
    if why == "not root":
        machine.tool("id", "echo 1000")
    done, calls = machine.run()
    assert done.returncode == 0
    assert done.stdout == "no Chromium here, and none could be installed: tests in a browser are skipped\n"
    assert [call for call in calls if call.startswith("make")] == COMMANDS


@pytest.mark.parametrize("broken", ["test", "test-quant", "test-312"])
def test_one_failure_fails_and_the_others_run(machine: Machine, broken: str) -> None:
    machine.tool("chromium")
    machine.tool("make", f'[ "$1" != {broken} ] || exit 2')
    done, calls = machine.run()
    assert (done.returncode, calls) == (2, COMMANDS)
