"""Bundles that several modules look at; built once for all processes of a run."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import pytest

from codesign import api as flow
from codesign import catalog
from codesign.cache import publish

SMALL = "gemm:5x30x20"
"""A matrix product with nothing round about it."""


@cache
def _found(group: str, path: tuple[str, ...]) -> EntryPoints:
    return entry_points(group=group)


def _entry_points(*, group: str) -> EntryPoints:
    """Entry points of the packages on Python's path as it is."""
    return _found(group, tuple(sys.path))


@pytest.fixture(scope="session", autouse=True)
def packages_are_read_once() -> Iterator[None]:
    """Entry points are read once per path: for every command it would take longer than most commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "entry_points", _entry_points)
        yield


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the smallest array; read it, or copy it before changing anything."""
    return _once(tmp_path_factory, "gemm", lambda out: flow.build(SMALL, "zcu102", out=out, budget="dsp=60"))


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a model that ships; likewise."""
    return _once(tmp_path_factory, "mlp", lambda out: flow.build("digits-mlp", "zcu102", out=out))


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the whole run, which the first process that wants it fills."""
    own = factory.getbasetemp()
    run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def fill(folder: Path) -> None:
        make(folder / "bundle")

    return publish(run / "built", name, fill) / "bundle"
