"""The rules of conftest.py, tried on small suites of their own."""

import shutil
from pathlib import Path

import pytest

from tests.marks import few_fast

pytest_plugins = ["pytester"]
SUITE = """
import pytest

def test_fast(): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.rtl
def test_rtl(): pass

@pytest.mark.quant
def test_quant(): pass
"""
SKIPPED = """
import pytest

@pytest.mark.LEVEL
def test_skipped(): pytest.skip("no simulator")
"""
MODULE_SKIPPED = """
import pytest
pytest.importorskip("no_such_library")
pytestmark = pytest.mark.LEVEL
"""
CASES_SKIPPED = """
import pytest
pytest.importorskip("no_such_library")
cases = pytest.mark.parametrize("case", few_fast([1, 2], 1))
"""
RANDOM = """
def test_random(rng): print("drew", rng.integers(1 << 60)); assert False
"""
PLAIN = ("-p", "no:cacheprovider", "-p", "no:unraisableexception")
"""Without what writes beside the suite, and without five searches for garbage at the end of each run."""
INI = "[pytest]\ntestpaths = .\nmarkers =\n fast: f\n rtl: r\n slow: s\n quant: q\n notebooks: n\n board: b\n"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with our conftest.py, outside of CI."""
    monkeypatch.delenv("CI", raising=False)
    shutil.copy(Path(__file__).parent / "conftest.py", pytester.path)
    pytester.makeini(INI)
    return pytester


def run(suite: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    (suite.path / "test_suite.py").write_text(text)
    return suite.runpytest_inprocess(*PLAIN, "-rA", *options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-n0",), {"test_fast"}),
        (("-m", "rtl"), {"test_rtl"}),
        (("-m", "quant"), {"test_quant"}),
        (("-m", "fast or slow"), {"test_fast", "test_slow"}),
        (("test_suite.py::test_slow",), {"test_slow"}),
    ],
)
def test_levels(suite: pytest.Pytester, options: tuple[str, ...], expected: set[str]) -> None:
    done = run(suite, SUITE, *options)
    assert done.ret == 0
    assert {line.rpartition("::")[2] for line in done.outlines if line.startswith("PASSED")} == expected


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        ((), 2), (("-m", "fast"), 2), (("-k", "fast"), 2), (("-n3",), 0), (("-n0",), 0), (("-s",), 0), (("--pdb",), 0),
        (("--trace",), 0), (("--collect-only",), 0), (("-m", "rtl"), 0), (("test_suite.py",), 0),
        (("test_suite.py::test_fast",), 0), (("-p", "no:xdist"), 0), (("--fixtures",), 0), (("--setup-show",), 0),
    ],
)  # fmt: skip
def test_whose_processes_they_are(suite: pytest.Pytester, options: tuple[str, ...], workers: int) -> None:
    suite.makepyfile(test_suite=SUITE)
    assert len(getattr(suite.parseconfigure(*PLAIN, *options).option, "tx", ())) == workers


@pytest.mark.rtl
def test_two_processes_run_what_one_would(suite: pytest.Pytester) -> None:
    done = run(suite, SUITE)
    assert (done.ret, done.parseoutcomes()) == (0, {"passed": 1})
    done.stdout.fnmatch_lines(["level: fast; seed: 0", "2 workers *"])


@pytest.mark.parametrize("level", few_fast(["rtl", "quant"], 1))
@pytest.mark.parametrize("text", [SKIPPED, MODULE_SKIPPED], ids=["test", "module"])
def test_a_skipped_test_that_must_run_fails_in_ci_only(
    suite: pytest.Pytester, text: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text.replace("LEVEL", level)
    assert run(suite, text, "-m", level).ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    monkeypatch.setenv("CI", "true")
    done = run(suite, text, "-m", level)
    assert done.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert f"skipped in CI, where the {level} level must run" in done.stdout.str()


def test_a_module_may_be_skipped_where_its_level_is_not_asked_for(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    text = MODULE_SKIPPED.replace("LEVEL", "quant")
    assert run(suite, text, "-m", "rtl").ret == pytest.ExitCode.NO_TESTS_COLLECTED
    assert run(suite, CASES_SKIPPED, "-m", "rtl").ret == pytest.ExitCode.INTERRUPTED


def test_random_tests_print_their_seed_and_repeat(suite: pytest.Pytester) -> None:
    def drawn(*options: str) -> str:
        done = run(suite, RANDOM, "-n0", *options)
        seed = options[1] if options else "0"
        assert f"seed: {seed} (repeat with --seed {seed})" in done.stdout.str()
        return next(line for line in done.outlines if line.startswith("drew"))

    assert drawn() == drawn("--seed", "0")
    assert drawn() != drawn("--seed", "1")
