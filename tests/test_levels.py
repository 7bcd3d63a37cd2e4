from pathlib import Path

import pytest

from tests import levels
from tests.levels import Level, durations


def test_a_report_gives_seconds_and_names(tmp_path: Path) -> None:
    cases = '<testcase classname="tests.a" name="test_b" time="1.5"/><testcase classname="c" name="d" time="0.25"/>'
    (tmp_path / "fast.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert durations(tmp_path / "fast.xml") == [(1.5, "tests.a::test_b"), (0.25, "c::d")]
    assert durations(tmp_path / "missing.xml") == []


@pytest.mark.parametrize(("codes", "expected"), [((0, 0), 0), ((1, 0), 1), ((0, 5), 1)])
def test_every_level_runs_and_one_failure_is_a_failure(
    codes: tuple[int, int],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = tuple(Level(f"level{i}", ("python", "-c", f"raise SystemExit({code})")) for i, code in enumerate(codes))
    monkeypatch.setattr(levels, "QUICK", chosen)
    monkeypatch.chdir(tmp_path)
    assert levels.main([]) == expected
    summary = capsys.readouterr().out.partition("time per level")[2].splitlines()
    verdicts = [line.split()[2:] for line in summary if "level" in line]
    assert verdicts == [[f"level{i}", "passed" if code == 0 else "FAILED"] for i, code in enumerate(codes)]


def test_all_adds_the_slow_level() -> None:
    assert [level.name for level in levels.QUICK][-3:] == ["fast", "rtl", "notebooks"]
    assert [level.name for level in levels.ALL] == [level.name for level in levels.QUICK] + ["slow"]


@pytest.mark.parametrize(("argv", "expected"), [(["--only", "quant"], ["quant"]), (["--only", "fast"], ["fast"])])
def test_one_level_alone(argv: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = list[str]()

    def passing(level: Level) -> tuple[bool, float]:
        ran.append(level.name)
        return True, 0.0

    monkeypatch.setattr(levels, "_run", passing)
    assert levels.main(argv) == 0
    assert ran == expected


def test_an_unknown_level_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        levels.main(["--only", "quick"])
    assert "invalid choice: 'quick'" in capsys.readouterr().err
