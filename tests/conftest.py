"""Levels, seeds and the rule that a skipped rtl test fails in CI.

Bare ``pytest`` runs the fast level; ``-m rtl``, ``-m "fast or rtl"`` select others, and a test named
as ``path::name`` runs whatever its level.
"""

import os
import zlib
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest

_LEVELS = ("rtl", "slow", "notebooks", "board")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of the random tests (default 0)")


def pytest_configure(config: pytest.Config) -> None:
    named = any("::" in str(argument) for argument in config.args)
    if not config.option.markexpr and not named:
        config.option.markexpr = "fast"


def pytest_report_header(config: pytest.Config) -> str:
    return f"level: {config.option.markexpr or 'as named'}; seed: {config.option.seed}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(level) for level in _LEVELS):
            item.add_marker(pytest.mark.fast)


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.get_closest_marker("rtl") and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where the rtl level must run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and _in_ci() and _holds_rtl(collector.path):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skipped in CI, where the rtl level must run"
    return report


def _holds_rtl(path: Path) -> bool:
    return path.is_file() and "mark.rtl" in path.read_text(encoding="utf-8")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test alone: the same for the same ``--seed`` in any order of tests."""
    seed: int = request.config.option.seed
    print(f"seed: {seed} (repeat with --seed {seed})")
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])
