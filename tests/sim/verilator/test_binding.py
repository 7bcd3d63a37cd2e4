from pathlib import Path

import numpy as np
import pytest

from codesign.errors import ToolError
from codesign.sim.verilator.binding import EVENT, DramConfig, empty, load, pack, unpack
from codesign.sim.verilator.verilate import VerilogPort


def test_structures_have_the_sizes_of_the_harness() -> None:
    assert np.dtype(EVENT).itemsize == 24
    assert DramConfig.outstanding.offset == 44


@pytest.mark.parametrize("content", [b"nothing", b""])
def test_a_library_that_does_not_load(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "design.so"
    path.write_bytes(content)
    with pytest.raises(ToolError, match="does not load"):
        load(path)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 31, 33, 64])
def test_packed_integers_keep_the_low_bits(width: int) -> None:
    values = np.array([-1, 0, (1 << (width - 1)) - 1, -(1 << (width - 1))])
    packed = pack("p", VerilogPort(width, "i"), values)
    assert [int(v) for v in packed] == [int(v) % (1 << width) for v in values]
    assert packed.itemsize == VerilogPort(width, "i").storage


def test_wide_values_lose_only_padding() -> None:
    port = VerilogPort(100, "o")
    rows = np.arange(26, dtype=np.uint8).reshape(2, 13)
    rows[:, 12] &= 15
    packed = pack("p", port, rows)
    assert packed.shape == empty(port, 2).shape == (2, 16)
    assert np.array_equal(unpack(port, packed), rows)
