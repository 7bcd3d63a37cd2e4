"""Packages that are installed for one test: a folder on the path with what an installer leaves there."""

import sys
from pathlib import Path

import pytest


def install(patch: pytest.MonkeyPatch, folder: Path, name: str, code: str, points: str) -> None:
    """Makes a package of one module importable, with its entry points.

    Args:
        patch: undoes it.
        folder: a new one.
        name: of the package and of its module.
        code: of the module.
        points: contents of its ``entry_points.txt``.
    """
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(points)
    (folder / f"{name}.py").write_text(code)
    patch.syspath_prepend(folder)
    patch.delitem(sys.modules, name, raising=False)
