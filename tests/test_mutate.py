"""Faults are drawn fairly, planted alone, and judged by the tests of their module."""

import ast
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import mutate
from tests.mutants import KINDS, Mutant, mutants
from tests.mutate import ROOT, Importers, Planted, draw, files, mirror, stages

SILENT = '''
"""Text of 1 < 2."""
from dataclasses import dataclass
@dataclass(order=True)
class Point:
    """Text."""
    x: "int | None"
    def __repr__(self) -> str:
        return "a" if self.x == 1 else "b"
    def check(self, y: int | None, *others: list[int | str]) -> "int | None":
        """Text of 1 + 2."""
        assert self.x != 3, "3 + 4"
        print(f"{self.x + 1}")
        raise ValueError(f"{y + 1}; legal: 1" + "2")
'''
FAULTS = [
    ("x = a < b", {"x = a <= b"}), ("x = 1 <= a", {"x = 2 <= a", "x = 1 < a"}),
    ("x = (a) == (b)", {"x = (a) != (b)"}), ("x = a not in b", {"x = a in b"}),
    ("x = a + b * c", {"x = a - b * c", "x = a + b // c"}), ("x = -a", {"x = a"}), ("x = -1", {"x = -2"}),
    ("x = a and b or c", {"x = a or b or c", "x = a and b and c"}), ("x = a & ~b", {"x = a | ~b", "x = a & b"}),
    ("x = not a", {"x = a"}), ("x = True", {"x = False"}),
    ("x = Mux(a, b, c)", {"x = Mux(a, c, b)"}), ("x = b if a else c", {"x = c if a else b"}),
    ("with m.If(a): f = b", {"with m.If((a) == 0): f = b"}),
    ("x = a[0]", {"x = a[1]"}), ("x = a[-1]", {"x = a[-2]"}), ("x = a[b:]", {"x = a[(b) + 1:]"}),
    ("x = f(a, k=b)", {"x = f(a)"}), ("x = f(k=a, n=b)", {"x = f(k=b, n=a)"}),
    ("x = zip(a, b, strict=True)", set[str]()), ("x = y = int | None", set[str]()),
    ("m.d.sync += a.eq(b)", {"pass"}), ("m.d.sync += [a, b]", {"m.d.sync += [b]", "m.d.sync += [a]"}),
    ("f(a)", {"pass"}), ("a.b = c", {"pass"}), ("x = a", set[str]()),
]  # fmt: skip
TOY = """
def double(x: int) -> int:
    return x + x


def hidden(x: int) -> int:
    return x - 5
"""
TESTS = """
import pytest
from codesign.timing.toy import double, hidden
pytestmark = pytest.mark.fast


def test_double():
    assert double(3) == 6


def test_hidden():
    hidden(1)
"""


@pytest.mark.parametrize(("line", "expected"), FAULTS)
def test_the_faults_of_a_line(line: str, expected: set[str]) -> None:
    found = mutants("a.py", line.encode())
    assert {mutant.planted(line.encode()).decode() for mutant in found} == expected
    assert len(found) == len(expected)
    assert all(mutant.valid(line.encode()) for mutant in found)


def test_an_operator_is_found_behind_letters_of_other_width_and_over_lines() -> None:
    source = 'x = ("\u00e4\u20ac", (a\n    < b))'.encode()
    assert [mutant.planted(source).decode() for mutant in mutants("a.py", source)] == [
        'x = ("\u00e4\u20ac", (a\n    <= b))'
    ]


def test_nothing_is_planted_where_no_test_looks() -> None:
    assert mutants("a.py", SILENT.encode()) == []


def test_drawn_faults_are_python_and_differ_in_one_place() -> None:
    drawn = draw(ROOT, files(ROOT, "hw/system/[bmr]*"), 27, 1)
    assert len(set(drawn)) == len(drawn) == 27
    assert {mutant.kind for mutant in drawn} == set(KINDS)
    for mutant in drawn:
        source = (ROOT / mutant.file).read_bytes()
        planted = mutant.planted(source)
        ast.parse(planted)
        rest = len(source) - mutant.end
        assert planted[: mutant.start] == source[: mutant.start]
        assert planted[len(planted) - rest :] == source[mutant.end :]
        assert planted != source
        line, before, after = mutant.shown(source)
        assert source.decode().splitlines()[line - 1].strip() == before != after


def test_the_draw_follows_the_seed_alone() -> None:
    names = files(ROOT, "codesign/compiler/ho*")
    drawn = draw(ROOT, names, 12, 5)
    assert draw(ROOT, names, 12, 5) == drawn
    assert draw(ROOT, names, 5, 5) == drawn[:5]
    assert draw(ROOT, names, 12, 6) != drawn


def test_a_draw_ends_when_all_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "hw").mkdir()
    (tmp_path / "hw" / "a.py").write_text(TOY)
    drawn = draw(tmp_path, files(tmp_path), 100, 0)
    assert sorted(drawn, key=lambda m: (m.start, m.text)) == sorted(
        mutants("hw/a.py", TOY.encode()), key=lambda m: (m.start, m.text)
    )
    assert len(drawn) == 3


def test_every_area_has_files_and_none_is_a_test() -> None:
    found = files(ROOT)
    assert all(any(name.startswith(f"{area}/") for name in found) for area in mutate.AREAS)
    assert not [name for name in found if name.startswith("tests/")]


def toy(root: Path, tests: str = TESTS) -> Path:
    """A tree with one module and its tests."""
    texts = {"codesign/timing/toy.py": TOY, "tests/codesign/timing/test_toy.py": tests}
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("codesign", "codesign/timing"):
        (root / name / "__init__.py").touch()
    return root


def test_own_tests_come_first_then_those_that_import_the_module_or_its_users(tmp_path: Path) -> None:
    root = toy(tmp_path)
    more = {
        "codesign/timing/user.py": "from codesign.timing import toy",
        "tests/helper.py": "import codesign.timing.toy",
        "tests/codesign/timing/test_near.py": "from tests.helper import x",
        "tests/codesign/test_far.py": "from codesign.timing.toy import double",
        "tests/codesign/timing/test_user.py": "from codesign.timing import user",
    }
    for name, text in more.items():
        (root / name).write_text(text)
    importers = Importers(root)
    near, far = "tests/codesign/timing/test_near.py", "tests/codesign/test_far.py"
    own = ("codesign/timing/toy.py", mirror("codesign/timing/toy.py"))
    assert stages(root, importers, "codesign/timing/toy.py") == [
        (*own, "-m", "fast"), (*own, "-m", "rtl"), (near, far, "-m", "fast"), (near, far, "-m", "rtl"),
    ]  # fmt: skip
    (root / "tests/codesign/timing/test_user.py").write_text("from codesign.timing import other")
    (root / "tests/codesign/timing/test_toy.py").write_text("from codesign.timing.user import double")
    for name in (near, far):
        (root / name).unlink()
    assert importers.tests("codesign/timing/user.py") == ["tests/codesign/timing/test_user.py"]
    assert Importers(root).tests("codesign/timing/toy.py") == ["tests/codesign/timing/test_toy.py"]


def run(
    root: Path, argv: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, object]], str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "none"))
    report = root / "report.json"
    code = mutate.main([*argv, "--json", str(report)], root)
    return code, json.loads(report.read_text()), capsys.readouterr().out


@pytest.mark.rtl
def test_a_fault_that_a_test_sees_is_killed_and_another_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, text = run(toy(tmp_path), ["--count", "9"], monkeypatch, capsys)
    own = "tests/codesign/timing/test_toy.py"
    by_place = {(v["where"], v["kind"]): (v["killed"], v["killer"]) for v in found}
    assert code == 1
    assert by_place == {
        ("codesign/timing/toy.py:3", "arithmetic"): (True, f"{own}::test_double"),
        ("codesign/timing/toy.py:7", "arithmetic"): (False, None),
        ("codesign/timing/toy.py:7", "constant"): (False, None),
    }
    assert "toy.py:7 | constant | return x - 5 | return x - 6 | SURVIVED | " in text
    assert f"toy.py:3 | arithmetic | return x + x | return x - x | {own}::test_double | " in text
    assert "all             3 planted,   2 survived" in text
    assert (tmp_path / "codesign/timing/toy.py").read_text() == TOY


@pytest.mark.rtl
def test_a_test_that_fails_anyway_kills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = TESTS.replace("== 6", "== 7")
    code, found, text = run(toy(tmp_path, broken), ["--count", "1", "--workers", "1"], monkeypatch, capsys)
    assert (code, found[0]["killed"], found[0]["sound"]) == (1, False, False)
    assert "SURVIVED (tests/codesign/timing/test_toy.py::test_double fails without it)" in text


@pytest.mark.rtl
def test_an_endless_test_is_ended_and_counts_as_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = TESTS.replace("    assert double(3) == 6", "    while double(3) != 6:\n        pass")
    options = ["--count", "1", "--seed", "1", "--timeout", "4"]
    code, found, _ = run(toy(tmp_path, endless), options, monkeypatch, capsys)
    assert (code, found[0]["where"]) == (0, "codesign/timing/toy.py:3")
    assert (found[0]["killer"], found[0]["sound"]) == ("more than 4 s", True)


def test_a_list_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mutate.main(["--list", "--count", "1", "--seed", "1"], toy(tmp_path)) == 0
    assert capsys.readouterr().out == "codesign/timing/toy.py:3 | arithmetic | return x + x | return x - x\n"


@pytest.mark.parametrize(("argv", "message"), [
    (["--count", "0"], "--count 0; legal: above 0"), (["--minutes", "-1"], "--minutes -1.0; legal: above 0"),
    (["--only", "nowhere/*"], "--only 'nowhere/*' matches no file; legal: a pattern of paths in hw, "),
])  # fmt: skip
def test_bad_options_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mutate.main(argv)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_summary_counts_what_a_broken_test_killed_as_alive() -> None:
    rows = [Planted("a:1", "mux", "b", "c", killer, sound, 1.0) for killer, sound in (("t", True), ("t", False))]
    assert [row.killed for row in rows] == [True, False]
    assert Mutant("a", "mux", 0, 1, "b").planted(b"axe") == b"bxe"
    assert os.path.commonpath([mirror("hw/a/b.py"), "tests/hw/a"]) == "tests/hw/a"
