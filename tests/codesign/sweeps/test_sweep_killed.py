import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from codesign.sweeps.sweep import Sweep
from tests.codesign.sweeps.folders import REQUEST, tree

KILLS = 20

SERVER = """
import json, os, sys
from pathlib import Path
from codesign.sweeps.request import SweepRequest
from codesign.sweeps.sweep import sweep
fields = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[1]).items()}
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sweep(SweepRequest(**fields), Path(sys.argv[2]), resume=True)
        os._exit(0)
    print(pid, flush=True)
    status = os.waitpid(pid, 0)[1]
    print("killed" if os.WIFSIGNALED(status) else "failed" if status else "done", flush=True)
"""
"""Starts a sweep per line that it reads, in a process of its own; imports are done once."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    fields = {name: getattr(REQUEST, name) for name in REQUEST.__dataclass_fields__}
    command = [sys.executable, "-c", SERVER, json.dumps(fields), str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as started:
        yield started
        assert started.stdin is not None
        started.stdin.close()


def _lived(server: subprocess.Popen[str], seconds: float | None, watched: Path | None = None) -> str:
    """Starts a sweep, kills it after so many seconds if it is still there, and says how it ended.

    With a folder to watch the seconds count from the moment in which the sweep first writes there.
    """
    assert server.stdin is not None
    assert server.stdout is not None
    before = _writes(watched)
    server.stdin.write("go\n")
    server.stdin.flush()
    pid = int(server.stdout.readline())
    while watched is not None and _writes(watched) == before:
        if select.select([server.stdout], [], [], 0.001)[0]:
            break
    if seconds is not None and not select.select([server.stdout], [], [], seconds)[0]:
        os.kill(pid, signal.SIGKILL)
    return server.stdout.readline().strip()


def _writes(folder: Path | None) -> int:
    return len(list(folder.glob("part-*"))) if folder is not None else 0


@pytest.mark.rtl
def test_after_twenty_kills_it_is_the_same(server: subprocess.Popen[str], swept: Sweep, tmp_path: Path) -> None:
    """Killed at random moments: no point is lost, none is there twice, every byte is the same."""
    seed, folder = 20 * 7919, tmp_path / "killed"
    draw, ends, found = random.Random(seed), list[str](), list[int]()
    longest = max(0.2, swept.seconds / 12)
    while ends.count("killed") < KILLS:
        if ends.count("done"):
            shutil.rmtree(folder)
            ends, found, longest = [], [], longest / 2
        ends.append(_lived(server, draw.uniform(0, longest), folder if len(ends) % 4 else None))
        found.append(_writes(folder))
    print(f"seed {seed}; shards after each kill: {found}")
    assert _lived(server, None) == "done"
    assert tree(folder) == tree(swept.path)
    assert sum(after > before for before, after in pairwise(found)) >= KILLS // 4
    assert found == sorted(found)
    assert set(ends) == {"killed"}
