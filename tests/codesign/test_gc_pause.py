"""The collector waits, and goes on as it was before whatever happens."""

import gc

import pytest

from codesign.gc_pause import uncollected


@pytest.mark.parametrize("before", [False, True])
def test_the_collector_is_afterwards_as_it_was(before: bool) -> None:
    was = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == before
        with pytest.raises(KeyError), uncollected():
            raise KeyError
        assert gc.isenabled() == before
    finally:
        (gc.enable if was else gc.disable)()
