import pytest

from codesign.sweeps.sweep import Sweep, sweep
from tests.codesign.sweeps.folders import REQUEST


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep with everything in it; read it only."""
    return sweep(REQUEST, tmp_path_factory.mktemp("sweep") / "s")
