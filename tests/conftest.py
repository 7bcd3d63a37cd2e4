"""Levels, workers, seeds and the rule that nothing is skipped unseen in CI.

Bare ``pytest`` runs the fast level in two processes; ``-m rtl``, ``-m "fast or rtl"`` select others, and a
test named as ``path::name`` runs whatever its level. Whoever names a path, ``-n``, ``-s`` or ``--pdb`` gets
the processes that he asks for, without ``-n`` this one alone.
"""

import gc
import os
import zlib
from collections.abc import Generator

import numpy as np
import pytest

_LEVELS = ("rtl", "slow", "quant", "notebooks", "board")
_WORKERS = 2
_WATCHED = ("usepdb", "trace", "collectonly", "setupshow", "showfixtures", "show_fixtures_per_test")
"""Options of whoever looks at one process."""
_GARBAGE = 50_000
"""Objects between two searches for garbage: Python's 700 would take a twentieth of all time."""
_MUST_RUN = {"rtl": ("mark.rtl", "few_fast("), "quant": ("mark.quant",)}
"""Levels of which nothing may be skipped in CI, and how a module says that it has tests of them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="seed of the random tests (default 0)")


def pytest_configure(config: pytest.Config) -> None:
    gc.set_threshold(_GARBAGE)
    named = any("::" in str(argument) for argument in config.args)
    if not config.option.markexpr and not named:
        config.option.markexpr = "fast"
    if _whole_fast_level(config):
        config.option.tx, config.option.dist = ["popen"] * _WORKERS, "worksteal"


def _whole_fast_level(config: pytest.Config) -> bool:
    """Whether all fast tests are to run, and nothing says in which process."""
    option = config.option
    free = getattr(option, "numprocesses", 0) is None and not hasattr(config, "workerinput")
    watched = option.capture == "no" or any(getattr(option, name, False) for name in _WATCHED)
    return free and not watched and option.markexpr == "fast" and config.args_source != config.ArgsSource.ARGS


def pytest_report_header(config: pytest.Config) -> str:
    return f"level: {config.option.markexpr or 'as named'}; seed: {config.option.seed}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(item.get_closest_marker(level) for level in _LEVELS):
            item.add_marker(pytest.mark.fast)


def pytest_collection_finish() -> None:
    """What was collected stays to the end: searches for garbage pass over it."""
    gc.collect()
    gc.freeze()


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    level = next((level for level in _MUST_RUN if item.get_closest_marker(level)), None)
    if report.skipped and level and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where the {level} level must run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    level = _asked_for(collector)
    if report.skipped and level and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} skipped in CI, where the {level} level must run"
    return report


def _asked_for(collector: pytest.Collector) -> str | None:
    """The level that must run, is asked for, and has tests in a module."""
    if not collector.path.is_file():
        return None
    text = collector.path.read_text(encoding="utf-8")
    asked: str = collector.config.option.markexpr
    return next((n for n, signs in _MUST_RUN.items() if n in asked and any(s in text for s in signs)), None)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test alone: the same for the same ``--seed`` in any order of tests."""
    seed: int = request.config.option.seed
    print(f"seed: {seed} (repeat with --seed {seed})")
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])
