"""Runs the levels of the test suite one after the other; the Makefile's test commands call it.

Ends with a time per level and the 20 slowest tests. The exit code is 0 only if every level passed;
a level that fails does not stop the next, so that one run shows everything.
"""

import argparse
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

_REPORTS = Path("build/test")
_SLOWEST = 20


@dataclass(frozen=True, slots=True)
class Level:
    """One command of the suite; a pytest level names its marker expression."""

    name: str
    command: tuple[str, ...]
    marker: bool = False

    def arguments(self) -> list[str]:
        """What to execute: the tool beside this Python, for pytest with a report of its times."""
        tool, *options = self.command
        report = [f"--junitxml={_report(self.name)}"] if self.marker else []
        return [str(Path(sys.executable).parent / tool), *options, *report]


def _pytest(name: str, *options: str) -> Level:
    return Level(name, ("pytest", "-q", "-m", name, *options), marker=True)


QUICK = (
    Level("ruff", ("ruff", "check", "--ignore-noqa", ".")),
    Level("format", ("ruff", "format", "--check", ".")),
    Level("mypy", ("mypy",)),
    Level("imports", ("lint-imports",)),
    _pytest("fast"),
    _pytest("rtl", "-n", "2"),
    _pytest("notebooks"),
)
ALL = (*QUICK, _pytest("slow", "-n", "2"))
APART = (_pytest("quant", "-n", "2", "tests/quant"),)
"""What runs in an environment of its own."""


def _report(name: str) -> Path:
    return _REPORTS / f"{name}.xml"


def durations(report: Path) -> list[tuple[float, str]]:
    """Seconds and name of every test in a JUnit report that our own pytest wrote; [] if none."""
    if not report.is_file():
        return []
    cases = ET.parse(report).getroot().iter("testcase")
    return [(float(c.get("time", "0")), f"{c.get('classname')}::{c.get('name')}") for c in cases]


def _run(level: Level) -> tuple[bool, float]:
    print(f"== {level.name}: {' '.join(level.command)}", flush=True)
    _report(level.name).unlink(missing_ok=True)
    start = time.monotonic()
    code = subprocess.run(level.arguments(), check=False).returncode
    return code == 0, time.monotonic() - start


def main(argv: list[str]) -> int:
    """Runs the levels and prints the summary; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="the slow level too")
    which.add_argument("--only", choices=[level.name for level in (*ALL, *APART)], help="one level alone")
    asked = parser.parse_args(argv)
    results = [(level, *_run(level)) for level in _chosen(asked.only, asked.all)]
    _summarize(results)
    return 0 if all(passed for _, passed, _ in results) else 1


def _chosen(only: str | None, all_levels: bool) -> tuple[Level, ...]:
    if only is not None:
        return tuple(level for level in (*ALL, *APART) if level.name == only)
    return ALL if all_levels else QUICK


def _summarize(results: list[tuple[Level, bool, float]]) -> None:
    slow = sorted((d for level, _, _ in results for d in durations(_report(level.name))), reverse=True)
    print(f"\nthe {_SLOWEST} slowest tests")
    for seconds, name in slow[:_SLOWEST]:
        print(f"{seconds:8.1f} s  {name}")
    print("\ntime per level")
    for level, passed, seconds in results:
        print(f"{seconds:8.1f} s  {level.name:10} {'passed' if passed else 'FAILED'}")
    print(f"{sum(seconds for _, _, seconds in results):8.1f} s  in all")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
