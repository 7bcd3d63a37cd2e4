"""Small accelerators, compiled once per test process."""

from collections.abc import Iterator

import pytest

from codesign.hw.system import top as hw
from codesign.sim.verilator.simulator import Library, MemoryPorts
from tests.hw.host import NARROW, WIDE, Host, build


@pytest.fixture(scope="session", params=[NARROW, WIDE], ids=["one port", "four ports"])
def shape(request: pytest.FixtureRequest) -> hw.Shape:
    chosen: hw.Shape = request.param
    return chosen


@pytest.fixture(scope="session")
def library(shape: hw.Shape) -> Library:
    return build(shape)


@pytest.fixture
def host(library: Library, shape: hw.Shape) -> Iterator[Host]:
    made = Host(library, shape)
    yield made
    made.close()


@pytest.fixture
def slow_host(library: Library, shape: hw.Shape) -> Iterator[Host]:
    """A host whose memory answers so late that bursts are under way whenever something happens."""
    bus = shape.bus
    made = Host(library, shape, MemoryPorts(bus.ports, bus.port_bytes, 1, 1, 400, 100, bus.outstanding))
    yield made
    made.close()
