"""Bundles that several modules look at; built once per process."""

from pathlib import Path

import pytest

from codesign import flow

SMALL = "gemm:5x30x20"
"""A matrix product with nothing round about it."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the smallest array; read it, or copy it before changing anything."""
    return flow.build(SMALL, "zcu102", out=tmp_path_factory.mktemp("built") / "gemm", budget="dsp=60").path


@pytest.fixture(scope="session")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a model that ships; likewise."""
    return flow.build("digits-mlp", "zcu102", out=tmp_path_factory.mktemp("built") / "mlp").path
