import pytest

from codesign.target.commands import Command
from tests.hw.host import Host, check_faulty_ports, encoded


@pytest.mark.rtl
def test_an_error_answer_to_a_read_of_any_port(host: Host) -> None:
    check_faulty_ports(host, "read_fault", "load")


@pytest.mark.rtl
def test_bursts_take_the_ports_in_turn_and_begin_at_the_first(host: Host) -> None:
    """From rest, a transfer of some whole bursts gives every port its share, the first ones one more."""
    ports, burst = host.shape.bus.ports, host.shape.bus.burst_words
    for bursts in range(1, 2 * ports + 2):
        empty = host.sim.traffic()
        host.start(encoded([Command("load", {"words": bursts * burst})]), address=1 << 12)
        assert host.wait().error == 0
        found = [after.reads - before.reads for after, before in zip(host.sim.traffic(), empty, strict=True)]
        assert found == [len(range(port, bursts, ports)) + (port == 0) for port in range(ports)]
