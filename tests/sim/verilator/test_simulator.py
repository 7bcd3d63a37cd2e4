import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.sim.verilator.simulator import CHANNELS, Library, MemoryPorts, Simulator, compile_design
from codesign.sim.verilator.verilate import VerilogPort
from tests.sim import masters as designs
from tests.sim.dram_twin import DramTwin
from tests.sim.masters import PAGE_BITS, random_masters

PLAIN = """
module plain(input clk, input rst, input [7:0] small__part, input [99:0] wide, input signed [39:0] middle,
             output reg [99:0] sum, output [63:0] count, output low);
    reg [63:0] n;
    assign count = n + small__part;
    assign low = small__part[0];
    always @(posedge clk) begin
        if (rst) begin n <= 0; sum <= 0; end
        else begin n <= n + {{24{middle[39]}}, middle}; sum <= sum ^ wide; end
    end
endmodule
"""
REGISTERS = """
module registers(input clk, input rst, output irq,
    input [11:0] s_axil_awaddr, input s_axil_awvalid, output s_axil_awready,
    input [31:0] s_axil_wdata, input [3:0] s_axil_wstrb, input s_axil_wvalid, output s_axil_wready,
    output [1:0] s_axil_bresp, output s_axil_bvalid, input s_axil_bready,
    input [11:0] s_axil_araddr, input s_axil_arvalid, output s_axil_arready,
    output [31:0] s_axil_rdata, output [1:0] s_axil_rresp, output s_axil_rvalid, input s_axil_rready);
    reg [31:0] file [0:3];
    reg [2:0] pace; reg a, w, r; reg [11:0] wa, ra; reg [31:0] wd; reg [3:0] ws; reg done; reg [2:0] wait_b;
    reg [7:0] countdown;
    integer i;
    assign s_axil_awready = !a && pace == 3;
    assign s_axil_wready = !w && pace[0];
    assign s_axil_bvalid = done && wait_b == 0;
    assign s_axil_bresp = wa[11] ? 2 : 0;
    assign s_axil_arready = !r && pace == 1;
    assign s_axil_rvalid = r;
    assign s_axil_rdata = file[ra[3:2]];
    assign s_axil_rresp = ra[11] ? 3 : 0;
    assign irq = countdown == 1;
    always @(posedge clk) begin
        pace <= pace + 1;
        if (countdown != 0) countdown <= countdown - 1;
        if (s_axil_awvalid && s_axil_awready) begin a <= 1; wa <= s_axil_awaddr; end
        if (s_axil_wvalid && s_axil_wready) begin w <= 1; wd <= s_axil_wdata; ws <= s_axil_wstrb; end
        if (a && w && !done) begin
            done <= 1; wait_b <= 2;
            for (i = 0; i < 4; i = i + 1) if (ws[i]) file[wa[3:2]][8*i +: 8] <= wd[8*i +: 8];
            if (wa == 12) countdown <= wd[7:0];
        end
        if (wait_b != 0) wait_b <= wait_b - 1;
        if (s_axil_bvalid && s_axil_bready) begin done <= 0; a <= 0; w <= 0; end
        if (s_axil_arvalid && s_axil_arready) begin r <= 1; ra <= s_axil_araddr; end
        if (s_axil_rvalid && s_axil_rready) r <= 0;
        if (rst) begin pace <= 0; a <= 0; w <= 0; r <= 0; done <= 0; wait_b <= 0; countdown <= 0; end
    end
endmodule
"""
SMALL = MemoryPorts(1, 16, 16, read_latency=4, write_latency=3, outstanding=2)


@pytest.fixture(scope="module")
def plain() -> Library:
    return compile_design({"plain.v": PLAIN}, "plain")


@pytest.fixture
def sim(plain: Library) -> Iterator[Simulator]:
    with plain.start() as simulator:
        simulator.reset()
        yield simulator


@pytest.fixture(scope="module")
def registers() -> Library:
    return compile_design({"registers.v": REGISTERS}, "registers")


@pytest.fixture(scope="module")
def wires() -> Library:
    return compile_design(designs.wires(16), "wires", memory=SMALL)


@pytest.fixture
def bus(wires: Library) -> Iterator[Simulator]:
    with wires.start(dram_bytes=8192) as simulator:
        simulator.dram[:] = np.arange(8192) % 251
        yield simulator


@pytest.mark.rtl
class TestPorts:
    def test_names_widths_and_directions(self, plain: Library) -> None:
        assert plain.ports == {
            "clk": VerilogPort(1, "i"), "rst": VerilogPort(1, "i"), "small__part": VerilogPort(8, "i"),
            "wide": VerilogPort(100, "i"),
            "middle": VerilogPort(40, "i"), "sum": VerilogPort(100, "o"), "count": VerilogPort(64, "o"),
            "low": VerilogPort(1, "o"),
        }  # fmt: skip

    def test_expected_ports_are_compared(self, plain: Library) -> None:
        compile_design({"plain.v": PLAIN}, "plain", ports=plain.ports)
        with pytest.raises(ValueError, match="wide"):
            compile_design({"plain.v": PLAIN}, "plain", ports={**plain.ports, "wide": VerilogPort(99, "i")})

    def test_values_settle_in_the_cycle_and_registers_at_its_end(self, sim: Simulator) -> None:
        sim.set("small__part", 7)
        sim.set("middle", 5)
        assert (sim.get("count"), sim.get("low")) == (7, 1)
        sim.step()
        assert sim.get("count") == 12
        sim.step(10)
        assert (sim.get("count"), sim.cycles) == (62, 13)

    def test_wide_and_negative_values(self, sim: Simulator) -> None:
        sim.set("wide", (1 << 99) + 12345)
        sim.set("middle", -3)
        sim.step()
        assert sim.get("sum") == (1 << 99) + 12345
        assert sim.get("sum", signed=True) == 12345 - (1 << 99)
        assert sim.get("count", signed=True) == -3
        assert sim.get("middle") == (1 << 40) - 3

    @pytest.mark.parametrize(
        ("name", "value"), [("wide", 1 << 100), ("middle", -(1 << 39) - 1), ("low", 1), ("clk", 1), ("no", 0)]
    )
    def test_illegal_values_and_names(self, sim: Simulator, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=name):
            sim.set(name, value)

    def test_run_until(self, sim: Simulator) -> None:
        sim.set("middle", 2)
        assert sim.run_until("count", 0, limit=0) == 0
        assert sim.run_until("count", 200, limit=100) == 100
        with pytest.raises(CheckError, match=r"cycle 112: count was not 201 within 10 cycles"):
            sim.run_until("count", 201, limit=10)
        with pytest.raises(ValueError, match="sum has 100 bits"):
            sim.run_until("sum", 1, limit=1)
        with pytest.raises(ValueError, match="cycles is -1"):
            sim.step(-1)

    def test_a_closed_simulator_refuses(self, plain: Library) -> None:
        with plain.start() as simulator:
            simulator.step()
        simulator.close()
        with pytest.raises(ValueError, match="closed"):
            simulator.step()

    def test_simulators_of_one_library_are_independent(self, plain: Library) -> None:
        with plain.start() as one, plain.start() as two:
            one.set("middle", 1)
            one.step(5)
            two.step(3)
            assert (one.get("count"), one.cycles, two.get("count"), two.cycles) == (5, 5, 0, 3)

    def test_libraries_of_one_process_are_independent(self, plain: Library, registers: Library) -> None:
        with plain.start() as one, registers.start() as two:
            one.set("middle", 4)
            two.reset()
            one.step(2)
            assert (one.get("count"), two.get("irq")) == (8, 0)

    def test_a_design_without_memory_has_none(self, sim: Simulator) -> None:
        for use in (lambda: sim.dram, lambda: sim.stall(0, 0.5), sim.traffic, sim.record_memory, sim.starved_cycles):
            with pytest.raises(ValueError, match="without a memory"):
                use()

    def test_a_memory_needs_its_ports(self, plain: Library) -> None:
        with pytest.raises(ValueError, match="no port m_axi0_arvalid"):
            plain.start(memory=SMALL)

    def test_combinational_designs_have_no_clock(self) -> None:
        library = compile_design(
            {"inv.v": "module inv(input [3:0] a, output [3:0] y); assign y = ~a; endmodule"}, "inv"
        )
        with library.start() as simulator:
            simulator.set("a", 5)
            assert simulator.get("y") == 10
            with pytest.raises(ValueError, match="no port clk"):
                simulator.step()


@pytest.mark.rtl
class TestSequence:
    def test_equals_single_steps(self, plain: Library, rng: np.random.Generator) -> None:
        middle, small = rng.integers(-(1 << 39), 1 << 39, 200), rng.integers(0, 256, 200)
        wide = rng.integers(0, 256, (200, 13), dtype=np.uint8)
        wide[:, 12] &= 15
        with plain.start() as fast, plain.start() as slow:
            got = fast.write_sequence({"middle": middle, "small__part": small, "wide": wide}, ["count", "sum", "low"])
            for t in range(200):
                for name, value in (("middle", middle[t]), ("small__part", small[t])):
                    slow.set(name, int(value))
                slow.set("wide", int.from_bytes(wide[t].tobytes(), "little"))
                assert slow.get("count") == got["count"][t]
                assert slow.get("low") == got["low"][t]
                assert slow.get("sum").to_bytes(13, "little") == got["sum"][t].tobytes()
                slow.step()
            assert fast.cycles == slow.cycles == 200

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            ({"middle": [0.5]}, "legal: integers"),
            ({"middle": [1 << 40]}, "do not fit its 40 bits"),
            ({"middle": [[1]]}, "shape"),
            ({"wide": [1]}, r"legal: uint8 \[cycles, 13\]"),
            ({"wide": np.full((1, 13), 255, np.uint8)}, "do not fit its 100 bits"),
            ({"middle": [1, 2], "small__part": [1]}, "one common length"),
            ({"sum": [1]}, "not an input"),
            ({}, "one common length"),
        ],
    )
    def test_illegal_sequences(self, sim: Simulator, values: dict[str, object], why: str) -> None:
        with pytest.raises(ValueError, match=why):
            sim.write_sequence(values)  # type: ignore[arg-type]


@pytest.mark.rtl
class TestHost:
    def test_registers_keep_what_is_written(self, registers: Library) -> None:
        with registers.start() as simulator:
            simulator.reset()
            for k in range(3):
                assert simulator.axil_write(4 * k, 0x12345678 + k) > 2
            simulator.axil_write(4, 0xAABBCCDD, strobe=0b0110)
            assert [simulator.axil_read(4 * k) for k in range(3)] == [0x12345678, 0x12BBCC79, 0x1234567A]

    def test_interrupt(self, registers: Library) -> None:
        with registers.start() as simulator:
            simulator.reset()
            simulator.axil_write(12, 50)
            before = simulator.cycles
            assert simulator.run_until_irq(100) == simulator.cycles - before
            assert 40 < simulator.cycles - before < 50
            simulator.step()
            with pytest.raises(CheckError, match="irq was not 1 within 100 cycles"):
                simulator.run_until_irq(100)

    def test_error_answers_and_silence(self, registers: Library) -> None:
        with registers.start() as simulator:
            simulator.reset()
            with pytest.raises(CheckError, match="0x800 answered 2"):
                simulator.axil_write(0x800, 1)
            with pytest.raises(CheckError, match="0x804 answered 3"):
                simulator.axil_read(0x804)
            assert simulator.error is None
            with pytest.raises(CheckError, match="no answer on s_axil within 1 cycles"):
                simulator.axil_read(0, limit=1)
            for address, value in ((2, 0), (4096, 0), (0, 1 << 32)):
                with pytest.raises(ValueError, match="register"):
                    simulator.axil_write(address, value)


CONFIGS = [
    (1, 4, MemoryPorts(1, 4, 3, 2, read_latency=1, write_latency=1, outstanding=1)),
    (1, 4, MemoryPorts(1, 4, 9, 2, read_latency=7, write_latency=12, outstanding=3)),
    (4, 16, MemoryPorts(4, 16, 256, 5, read_latency=60, write_latency=5, outstanding=8)),
    (4, 16, MemoryPorts(4, 16, 64, 1, read_latency=20, write_latency=1, outstanding=2)),
    (2, 64, MemoryPorts(2, 64, 1000, 9, read_latency=33, write_latency=40, outstanding=16)),
]
RATES = [(256, 256, 256, 256), (256, 0, 0, 256), (0, 256, 256, 256), (60, 50, 128, 90), (256, 256, 40, 256)]


@pytest.fixture(scope="module")
def masters() -> Callable[[int, int], Library]:
    return lambda ports, port_bytes: compile_design(random_masters(ports, port_bytes), "top")


def _as_ints(values: NDArray[np.unsignedinteger]) -> list[int]:
    if values.ndim == 1:
        return [int(value) for value in values]
    return [int.from_bytes(row.tobytes(), "little") for row in values]


def _follow(sim: Simulator, twin: DramTwin, pace: dict[str, int], cycles: int) -> int:
    """Runs the design and the twin side by side; every pin of every cycle must agree. Returns the beats read."""
    ports = len(twin.shown)
    names = [name for name in sim.library.ports if name.startswith("m_axi")]
    first = sim.cycles
    recorded = sim.write_sequence({name: np.full(cycles, value) for name, value in pace.items()}, names)
    columns = {name: _as_ints(values) for name, values in recorded.items()}
    counts = np.zeros((ports, 3), np.int64)
    for t in range(cycles):
        shown = twin.drive(first + t)
        pins = [
            {n[len(f"m_axi{p}_") :]: columns[n][t] for n in names if n.startswith(f"m_axi{p}_")} for p in range(ports)
        ]
        for port, pin in enumerate(pins):
            assert {name: pin[name] for name in shown[port]} == shown[port], f"cycle {first + t}, port {port}"
            taken = pin["rvalid"] & pin["rready"]
            counts[port] += taken, taken * (pin["rdata"] & 0xFFFFFFFF), pin["bvalid"] & pin["bready"]
        twin.sample(first + t, pins)
    for port, seen in enumerate(counts):
        assert [sim.get(f"{name}{port}") for name in ("beats", "sum", "answers")] == [int(n) % (1 << 32) for n in seen]
    return int(counts[:, 0].sum())


def _pace(rates: tuple[int, int, int, int], seed: int) -> dict[str, int]:
    return dict(zip(("read_rate", "write_rate", "data_rate", "ready_rate"), rates, strict=True)) | {"seed": seed}


@pytest.mark.rtl
class TestMemoryTiming:
    @pytest.mark.parametrize("stalls", [0.0, 0.3])
    @pytest.mark.parametrize("case", range(len(CONFIGS)))
    def test_every_pin_of_every_cycle_equals_the_twin(
        self, masters: Callable[[int, int], Library], rng: np.random.Generator, case: int, stalls: float
    ) -> None:
        ports, port_bytes, memory = CONFIGS[case]
        for rates in RATES:
            with masters(ports, port_bytes).start(memory=memory, dram_bytes=1 << PAGE_BITS) as sim:
                sim.dram[:] = rng.integers(0, 256, sim.dram.size)
                seed = int(rng.integers(1 << 32))
                sim.stall(seed, stalls)
                twin = DramTwin(memory, sim.dram.tobytes(), seed, stalls)
                beats = _follow(sim, twin, _pace(rates, seed), 500)
                assert sim.dram.tobytes() == bytes(twin.content)
                assert (beats > 50) == (rates[0] > 0)

    def test_reset_forgets_requests_and_keeps_the_content(self, masters: Callable[[int, int], Library]) -> None:
        ports, port_bytes, memory = CONFIGS[3]
        with masters(ports, port_bytes).start(memory=memory, dram_bytes=1 << PAGE_BITS) as sim:
            twin = DramTwin(memory, sim.dram.tobytes())
            _follow(sim, twin, _pace(RATES[0], 1), 333)
            for name in ("read_rate", "write_rate"):
                sim.set(name, 0)
            sim.reset(1)
            again = DramTwin(memory, bytes(twin.content))
            assert _follow(sim, again, _pace(RATES[0], 2), 400) > 50

    def test_stalls_change_cycles_and_are_reproducible(self, masters: Callable[[int, int], Library]) -> None:
        ports, port_bytes, memory = CONFIGS[3]
        events = []
        for seed, probability in ((0, 0.0), (1, 0.5), (1, 0.5), (2, 0.5)):
            with masters(ports, port_bytes).start(memory=memory, dram_bytes=1 << PAGE_BITS) as sim:
                sim.stall(seed, probability)
                sim.record_memory(100_000)
                sim.write_sequence({name: np.full(2000, v) for name, v in _pace(RATES[0], 3).items()})
                events.append(sim.memory_events().tobytes())
        assert events[1] == events[2]
        assert len({*events}) == 3

    def test_illegal_probability(self, bus: Simulator) -> None:
        with pytest.raises(ValueError, match="probability is 1"):
            bus.stall(0, 1.0)


class TestBus:
    """Single bursts over bare wires: cycles counted by hand, and every rule broken once."""

    pytestmark = pytest.mark.rtl

    def send(self, bus: Simulator, kind: str, address: int, beats: int) -> int:
        """One address handshake; returns its cycle."""
        bus.set(f"t_{kind}addr", address)
        bus.set(f"t_{kind}len", beats - 1)
        bus.set(f"t_{kind}valid", 1)
        bus.run_until(f"m_axi0_{kind}ready", limit=100)
        accepted = bus.cycles
        bus.step()
        bus.set(f"t_{kind}valid", 0)
        return accepted

    def test_a_read(self, bus: Simulator) -> None:
        accepted = self.send(bus, "ar", 64, 3)
        bus.run_until("m_axi0_rvalid", limit=100)
        assert bus.cycles == accepted + 1 + SMALL.read_latency
        bus.step(5)
        assert (bus.get("m_axi0_rvalid"), bus.get("m_axi0_rlast")) == (1, 0)
        bus.set("t_rready", 1)
        for beat in range(3):
            data = bus.get("m_axi0_rdata").to_bytes(16, "little")
            assert list(data) == [(64 + 16 * beat + i) % 251 for i in range(16)]
            assert bus.get("m_axi0_rlast") == (beat == 2)
            bus.step()
        assert (bus.get("m_axi0_rvalid"), bus.get("beats"), bus.get("answers")) == (0, 3, 0)
        assert bus.traffic()[0].read_bytes == 48

    def test_a_write(self, bus: Simulator) -> None:
        bus.record_memory()
        accepted = self.send(bus, "aw", 32, 2)
        for beat, strobe in enumerate((0xFFFF, 0x00F1)):
            bus.set("t_wdata", int.from_bytes(bytes([200 + beat] * 16), "little"))
            bus.set("t_wstrb", strobe)
            bus.set("t_wlast", beat)
            bus.set("t_wvalid", 1)
            bus.run_until("m_axi0_wready", limit=100)
            assert bus.cycles == accepted + 2 + beat
            bus.step()
        bus.set("t_wvalid", 0)
        bus.run_until("m_axi0_bvalid", limit=100)
        assert bus.cycles == accepted + 3 + SMALL.write_latency
        bus.step(3)
        assert bus.get("m_axi0_bvalid") == 1
        bus.set("t_bready", 1)
        bus.step()
        assert (bus.get("m_axi0_bvalid"), bus.get("answers")) == (0, 1)
        second = [(201 if 0x00F1 >> i & 1 else (48 + i) % 251) for i in range(16)]
        assert list(bus.dram[32:64]) == [200] * 16 + second
        told = [(CHANNELS[e["channel"]], int(e["cycle"]) - accepted) for e in bus.memory_events()]
        assert told == [("AW", 0), ("write grant", 1), ("W", 2), ("W", 3), ("B", 9)]

    def test_no_more_than_the_outstanding_requests(self, bus: Simulator) -> None:
        for _ in range(SMALL.outstanding):
            self.send(bus, "ar", 0, 1)
        bus.step(50)
        assert bus.get("m_axi0_arready") == 0
        bus.set("t_rready", 1)
        bus.step()
        assert bus.get("m_axi0_arready") == 1

    def test_ports_of_the_memory_are_not_the_callers(self, bus: Simulator) -> None:
        with pytest.raises(ValueError, match="not an input that the caller drives"):
            bus.set("m_axi0_arready", 1)

    @pytest.mark.parametrize(
        ("kind", "address", "beats", "why"),
        [
            ("ar", 8, 1, "ar of 16 bytes at address 8: not aligned"),
            ("aw", 0, 17, "aw of 272 bytes at address 0: longer than the largest burst"),
            ("ar", 4096 - 128, 9, "crosses a 4096-byte boundary"),
            ("aw", 8192, 1, "outside the memory"),
            ("ar", (1 << 40) - 16, 1, "outside the memory"),
        ],
    )
    def test_illegal_bursts(self, bus: Simulator, kind: str, address: int, beats: int, why: str) -> None:
        with pytest.raises(CheckError, match=rf"cycle \d+, port m_axi0: .*{why}"):
            self.send(bus, kind, address, beats)

    @pytest.mark.parametrize(("address", "beats"), [(4096 - 256, 16), (4096, 16), (8192 - 16, 1)])
    def test_bursts_up_to_the_limits_are_legal(self, bus: Simulator, address: int, beats: int) -> None:
        self.send(bus, "ar", address, beats)
        bus.set("t_rready", 1)
        bus.step(100)
        assert bus.get("beats") == beats

    def stuck(self, bus: Simulator, kind: str) -> None:
        """Fills the queue and leaves one more request waiting."""
        for _ in range(SMALL.outstanding):
            self.send(bus, kind, 0, 1)
        bus.set(f"t_{kind}addr", 32)
        bus.set(f"t_{kind}valid", 1)
        bus.step(3)

    @pytest.mark.parametrize("kind", ["ar", "aw"])
    @pytest.mark.parametrize(
        ("pin", "value", "why"),
        [("valid", 0, "valid fell before"), ("addr", 48, "changed before"), ("len", 3, "changed before")],
    )
    def test_requests_stay_until_taken(self, bus: Simulator, kind: str, pin: str, value: int, why: str) -> None:
        self.stuck(bus, kind)
        bus.set(f"t_{kind}{pin}", value)
        with pytest.raises(CheckError, match=kind + ".*" + why + f" {kind}ready"):
            bus.step()

    @pytest.mark.parametrize(
        ("pin", "value", "why"),
        [
            ("valid", 0, "wvalid fell"),
            ("data", 5, "wdata, wstrb or wlast changed"),
            ("strb", 1, "changed"),
            ("last", 1, "changed"),
        ],
    )
    def test_data_stay_until_taken(self, bus: Simulator, pin: str, value: int, why: str) -> None:
        bus.set("t_wvalid", 1)
        bus.step(5)
        bus.set(f"t_w{pin}", value)
        with pytest.raises(CheckError, match=why):
            bus.step()

    @pytest.mark.parametrize(
        ("beats", "last", "why"), [(2, 1, "wlast is 1 in beat 0 of 2"), (1, 0, "wlast is 0 in beat 0 of 1")]
    )
    def test_wlast(self, bus: Simulator, beats: int, last: int, why: str) -> None:
        self.send(bus, "aw", 0, beats)
        bus.set("t_wvalid", 1)
        bus.set("t_wlast", last)
        with pytest.raises(CheckError, match=why):
            bus.step(20)

    def test_after_a_failure_nothing_runs(self, bus: Simulator) -> None:
        with pytest.raises(CheckError, match="not aligned"):
            self.send(bus, "ar", 8, 1)
        cycle = bus.cycles
        assert bus.error is not None
        for use in (bus.step, lambda: bus.get("beats"), lambda: bus.run_until("beats", limit=5)):
            with pytest.raises(CheckError, match="not aligned"):
                use()
        assert bus.cycles == cycle

    @pytest.mark.parametrize(
        ("fixed", "why"), [({"arsize": 3}, "size is not the port's"), ({"arburst": 0}, "not an incrementing")]
    )
    def test_size_and_burst_are_checked_where_they_exist(self, fixed: dict[str, int], why: str) -> None:
        library = compile_design(designs.wires(16, fixed), "wires", memory=SMALL)
        with library.start() as simulator, pytest.raises(CheckError, match=why):
            self.send(simulator, "ar", 0, 1)

    def test_the_width_of_the_ports_is_checked(self, wires: Library) -> None:
        with pytest.raises(ValueError, match="port m_axi0_rdata has 16 bytes of storage, 32 expected"):
            wires.start(memory=replace(SMALL, port_bytes=32))


@pytest.mark.rtl
def test_a_small_design_runs_a_million_cycles_per_second(plain: Library) -> None:
    with plain.start() as simulator:
        start = time.process_time()
        simulator.step(1_000_000)
        assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"port_bytes": 12},
        {"ports": 0},
        {"ports": 65},
        {"num": 0},
        {"read_latency": 0},
        {"write_latency": 0},
        {"burst_bytes": 8},
    ],
)
def test_illegal_memories(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        replace(SMALL, **wrong)
