"""The layout holds together: one package from four folders, and the house rules."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from codesign.cli import main

ROOT = Path(__file__).parent.parent
MAPPED = ("boards", "hw", "quant", "sim")
LONGEST_FUNCTION = 60  # lines
MOST_FILES = 20  # of one folder
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FORBIDDEN = ("# no" + "qa", "TO" + "DO", "FIX" + "ME", "x" + "fail(")


def sources() -> Iterator[Path]:
    for folder in ("codesign", *MAPPED, "tests"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if not any(p.is_symlink() for p in path.parents))


@pytest.mark.parametrize("name", MAPPED)
def test_the_links_are_relative(name: str) -> None:
    assert os.readlink(ROOT / "codesign" / name) == f"../{name}"


@pytest.mark.parametrize("name", MAPPED)
def test_a_mapped_folder_cannot_be_imported_twice(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert f"ImportError: import this package as codesign.{name}, not {name}" in done.stderr


@pytest.mark.parametrize("name", MAPPED)
def test_a_mapped_folder_is_wholly_packaged(name: str) -> None:
    setup = PROJECT["tool"]["setuptools"]
    for path in (ROOT / name).rglob("*"):
        if "__pycache__" in path.parts:
            continue
        package = ".".join(("codesign", *(path if path.is_dir() else path.parent).relative_to(ROOT).parts))
        assert package in setup["packages"], path
        patterns = ["*.py", *setup["package-data"].get(package, [])]
        assert path.is_dir() or any(fnmatch(path.name, pattern) for pattern in patterns), path


def test_tests_are_named_after_modules() -> None:
    for folder in ("codesign", *MAPPED):
        for path in (ROOT / "tests" / folder).rglob("*.py"):
            source = ROOT / path.parent.relative_to(ROOT / "tests")
            assert source.is_dir(), f"{path.parent} mirrors no package"
            if not path.name.startswith("test_"):
                assert "def test_" not in path.read_text(), f"{path} holds tests but is not named after a module"


def test_no_folder_is_crowded() -> None:
    for folder in {path.parent for path in sources()}:
        held = [path for path in folder.iterdir() if path.is_file()]
        assert len(held) <= MOST_FILES, f"{folder} holds {len(held)} files"


@pytest.mark.parametrize("path", sorted(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [word for word in FORBIDDEN if word in text]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"


@pytest.mark.rtl
def test_the_readme_shows_what_a_build_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("--out build/digits-vit-zcu102\n")[2].partition("\n\n$")[0]
    assert main(["build", "digits-vit", "--board", "zcu102", "--out", str(tmp_path / "b"), "--quiet"]) == 0
    assert capsys.readouterr().out.replace(str(tmp_path / "b"), "build/digits-vit-zcu102").strip() == shown


@pytest.mark.slow
def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    copy = tmp_path / "source"
    unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "notebooks")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unwanted)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True, timeout=300)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("codesign/")}
        assert {name.partition("/")[0] for name in wheel.namelist()} == {"codesign", "codesign-0.1.0.dist-info"}
    mapped = {ROOT / "codesign" / name for name in MAPPED}
    own = [path for path in (ROOT / "codesign").rglob("*.py") if not mapped & {*path.parents}]
    expected = {f"codesign/{path.relative_to(ROOT / 'codesign')}" for path in own} | {"codesign/py.typed"}
    expected |= {f"codesign/data/{path.name}" for path in (ROOT / "codesign" / "data").glob("*")}
    inside = [path for name in MAPPED for path in (ROOT / name).rglob("*") if "__pycache__" not in path.parts]
    expected |= {f"codesign/{path.relative_to(ROOT)}" for path in inside if path.is_file()}
    assert packed == expected
