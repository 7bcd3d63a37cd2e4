"""Cycle-exact simulation of generated designs: ports, clock, off-chip memory, host, waves.

A design is compiled once into a `Library`; each `Library.start` gives an independent `Simulator`.
Cycle ``c`` lasts from one rising edge of ``clk`` to the next: values set during ``c`` are sampled by the
edge that ends it, and values read are those settled for the inputs of ``c``.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codesign.errors import CheckError
from codesign.sim.verilator.binding import EVENT, DramConfig, Lane, TrafficCounts, Values, empty, load, pack, unpack
from codesign.sim.verilator.verilate import Built, VerilogPort, build, find_tools

CHANNELS = ("AR", "R", "AW", "W", "B", "read grant", "write grant")
_HOST_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class MemoryPorts:
    """The AXI4 ports of a design and the timing of the memory behind them.

    Attributes:
        ports: ``m_axi0_*`` to ``m_axi{ports-1}_*``.
        port_bytes: data width of each.
        num: numerator of the memory's bandwidth in bytes per cycle, all ports together.
        den: denominator of the bandwidth.
        read_latency: cycles from the grant of a read to its first beat, at least 1.
        write_latency: cycles from the last beat of a write to its response, at least 1.
        outstanding: open requests per port and direction.
        burst_bytes: longest burst, and depth of the bandwidth's token bucket.
    """

    ports: int
    port_bytes: int
    num: int
    den: int = 1
    read_latency: int = 60
    write_latency: int = 1
    outstanding: int = 8
    burst_bytes: int = 256

    def __post_init__(self) -> None:
        if self.port_bytes not in (4, 8, 16, 32, 64):
            raise ValueError(f"port_bytes is {self.port_bytes}; legal: 4, 8, 16, 32, 64")
        for name in ("ports", "num", "den", "read_latency", "write_latency", "outstanding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; legal: at least 1")
        if self.ports > 64:
            raise ValueError(f"ports is {self.ports}; legal: at most 64")
        if not self.port_bytes <= self.burst_bytes <= 4096:
            raise ValueError(f"burst_bytes is {self.burst_bytes}; legal: {self.port_bytes} to 4096")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic of one memory port since the start: bytes of data beats, and requests."""

    read_bytes: int
    write_bytes: int
    reads: int
    writes: int


def compile_design(
    sources: Mapping[str, str],
    top: str,
    *,
    ports: Mapping[str, VerilogPort] | None = None,
    memory: MemoryPorts | None = None,
    optimize: str = "-O1",
    waves: bool = False,
    cache: Path | None = None,
    compiler: Sequence[str] | None = None,
) -> "Library":
    """Compiles a design for simulation, or finds it in the cache.

    Args:
        sources: Verilog file name (no folders) to text.
        top: name of the top module; its clock is ``clk`` and its reset ``rst``.
        ports: expected ports of the top module; None accepts any.
        memory: timing of the memory at the ports ``m_axi*``; not part of the compiled library.
        optimize: ``-O0`` to ``-O3``, for the design's code.
        waves: whether simulators of this library can write waves.
        cache: folder for compiled designs; None is the user's cache folder.
        compiler: first arguments of the C++ compiler's command; None searches for one.

    Raises:
        ToolError: a tool is missing or fails.
        ValueError: an argument is illegal, or the design's ports are not the expected ones.
    """
    built = build(sources, top, tools=find_tools(compiler), optimize=optimize, waves=waves, cache=cache)
    expected = built.ports if ports is None else ports
    wrong = sorted(n for n in {*expected, *built.ports} if expected.get(n) != built.ports.get(n))
    if wrong:
        raise ValueError(f"ports of {top} are not those expected: {', '.join(wrong)}")
    return Library(built, waves, memory)


@dataclass(frozen=True, slots=True)
class Library:
    """A compiled design.

    Attributes:
        built: the library file and the ports.
        can_wave: whether its simulators can write waves.
        memory: default timing of the off-chip memory; None for a design without.
    """

    built: Built
    can_wave: bool
    memory: MemoryPorts | None = None

    @property
    def ports(self) -> Mapping[str, VerilogPort]:
        """Port name to width and direction."""
        return self.built.ports

    def start(self, *, memory: MemoryPorts | None = None, dram_bytes: int = 1 << 20) -> "Simulator":
        """Starts a simulator in cycle 0 with all inputs 0.

        Args:
            memory: timing that replaces the library's default.
            dram_bytes: size of the off-chip memory; host memory is used only where touched.

        Raises:
            ValueError: the design lacks a port that the memory needs, or a size is illegal.
            ToolError: the library does not load.
        """
        return Simulator(self, memory if memory is not None else self.memory, dram_bytes)


class Simulator:
    """A running design, created by `Library.start`.

    After a `CheckError` from a broken protocol the simulator refuses to run further cycles, and
    `error` holds the reason. Close it, or use it in a ``with`` statement.
    """

    def __init__(self, library: Library, memory: MemoryPorts | None, dram_bytes: int) -> None:
        if memory is not None and dram_bytes < 1:
            raise ValueError(f"dram_bytes is {dram_bytes}; legal: at least 1")
        self.library = library
        self.memory = memory
        self._ports = library.ports
        self._index = {name: index for index, name in enumerate(library.ports)}
        self._dram = np.zeros(dram_bytes if memory is not None else 0, np.uint8)
        self._call = load(library.built.path)
        self._handle: int | None = self._open()

    def _open(self) -> int:
        m = self.memory
        config = None
        if m is not None:
            config = DramConfig(
                self._dram.size, m.num, m.den, m.ports, m.port_bytes, m.burst_bytes,
                m.read_latency, m.write_latency, m.outstanding,
            )  # fmt: skip
        message = ctypes.create_string_buffer(500)
        handle = self._call["open"](config, self._dram.ctypes.data, message, len(message))
        if not handle:
            raise ValueError(message.value.decode(errors="replace"))
        return int(handle)

    def close(self) -> None:
        """Ends the simulation and closes its wave file; idempotent."""
        if self._handle is not None:
            self._call["close"](self._handle)
            self._handle = None

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    @property
    def cycles(self) -> int:
        """Clock cycles since the start."""
        return int(self._call["cycle"](self._live()))

    @property
    def error(self) -> str | None:
        """Reason why the simulation stopped; None while it has not failed."""
        text: bytes = self._call["error"](self._live())
        return text.decode(errors="replace") or None

    @property
    def dram(self) -> NDArray[np.uint8]:
        """Contents of the off-chip memory, readable and writable between cycles.

        Raises:
            ValueError: the simulator was started without a memory.
        """
        if self.memory is None:
            raise ValueError("the simulator was started without a memory; legal: start(memory=...)")
        return self._dram

    def set(self, name: str, value: int) -> None:
        """Drives an input from the current cycle on; negative values are two's complement.

        Raises:
            ValueError: the input does not exist, is driven by the memory, or the value does not fit.
        """
        port = self._input(name)
        if not -(1 << port.width >> 1) <= value < 1 << port.width:
            raise ValueError(f"{name} = {value} does not fit its {port.width} bits")
        data = (int(value) & ((1 << port.width) - 1)).to_bytes(port.storage, "little")
        self._call["set"](self._live(), self._index[name], data)

    def get(self, name: str, *, signed: bool = False) -> int:
        """Value of a port in the current cycle.

        Raises:
            ValueError: no such port.
            CheckError: the simulation has failed.
        """
        port = self._port(name)
        buffer = ctypes.create_string_buffer(port.storage)
        self._ran(self._call["get"](self._live(), self._index[name], buffer))
        value = int.from_bytes(buffer.raw, "little")
        return value - (1 << port.width) if signed and value >> (port.width - 1) else value

    def step(self, cycles: int = 1) -> None:
        """Advances by ``cycles`` cycles.

        Raises:
            CheckError: the design broke a protocol.
        """
        self._clocked(cycles)
        self._ran(self._call["step"](self._live(), cycles))

    def reset(self, cycles: int = 2) -> None:
        """Holds ``rst`` for ``cycles`` cycles, then releases it; the memory drops its requests."""
        self.set("rst", 1)
        self.step(cycles)
        self.set("rst", 0)

    def run_until(self, name: str, value: int = 1, *, limit: int) -> int:
        """Runs until a port of at most 64 bits has the value; returns the cycles taken.

        Returns 0 if it has the value already.

        Raises:
            CheckError: the limit is reached, or the design broke a protocol.
        """
        self._clocked(limit)
        if self._port(name).width > 64:
            raise ValueError(f"{name} has {self._ports[name].width} bits; legal: at most 64")
        ran = int(self._call["run_until"](self._live(), self._index[name], value, limit))
        if ran == -2:
            raise CheckError(f"cycle {self.cycles}: {name} was not {value} within {limit} cycles")
        return self._ran(ran)

    def run_until_irq(self, limit: int) -> int:
        """Runs until ``irq`` is high; returns the cycles taken; see `run_until`."""
        return self.run_until("irq", 1, limit=limit)

    def write_sequence(
        self, inputs: Mapping[str, ArrayLike], record: Sequence[str] = (), cycles: int | None = None
    ) -> dict[str, Values]:
        """Runs one cycle per element: drives the inputs, lets them settle, records, ends the cycle.

        Args:
            inputs: input name to one value per cycle: integers, or for more than 64 bits rows of
                little-endian bytes, uint8 ``[cycles, bytes]``.
            record: ports to record in every cycle.
            cycles: number of cycles, required only without inputs.

        Returns:
            Recorded port name to unsigned ``[cycles]``, or for more than 64 bits uint8 ``[cycles, bytes]``.

        Raises:
            ValueError: a name, length or value is illegal.
            CheckError: the design broke a protocol.
        """
        packed = {name: pack(name, self._input(name), np.asarray(values)) for name, values in inputs.items()}
        counts = {len(values) for values in packed.values()} | ({cycles} if cycles is not None else set())
        if len(counts) != 1:
            raise ValueError(f"sequences of {sorted(counts)} cycles; legal: one common length")
        count = counts.pop()
        self._clocked(count)
        shown = {name: empty(self._port(name), count) for name in record}
        self._ran(self._call["sequence"](
            self._live(), count, self._lanes(packed), len(packed), self._lanes(shown), len(shown)
        ))  # fmt: skip
        return {name: unpack(self._ports[name], values) for name, values in shown.items()}

    def axil_write(self, address: int, value: int, *, strobe: int = 15, limit: int = _HOST_LIMIT) -> int:
        """Writes a register over ``s_axil_*``; returns the cycles taken.

        Raises:
            CheckError: an error response, no response within ``limit`` cycles, or a broken protocol.
        """
        self._host(address, value)
        response = ctypes.c_uint32()
        cycles = self._ran(self._call["axil_write"](self._live(), address, value, strobe, limit, response))
        if response.value != 0:
            raise CheckError(f"cycle {self.cycles}: write of register {address:#x} answered {response.value}, not 0")
        return cycles

    def axil_read(self, address: int, *, limit: int = _HOST_LIMIT) -> int:
        """Reads a register over ``s_axil_*``; errors as in `axil_write`."""
        self._host(address, 0)
        value, response = ctypes.c_uint32(), ctypes.c_uint32()
        self._ran(self._call["axil_read"](self._live(), address, limit, value, response))
        if response.value != 0:
            raise CheckError(f"cycle {self.cycles}: read of register {address:#x} answered {response.value}, not 0")
        return value.value

    def stall(self, seed: int, probability: float) -> None:
        """Stalls each memory channel in each cycle with a probability, reproducibly; 0 stops it.

        Results must not change by it; cycle counts may.
        """
        self._needs_memory()
        if not 0 <= probability < 1:
            raise ValueError(f"probability is {probability}; legal: 0 <= probability < 1")
        self._call["stall"](self._live(), seed % (1 << 64), round(probability * (1 << 32)))

    def record_memory(self, limit: int = 1_000_000) -> None:
        """Discards recorded memory events and records the next ``limit``."""
        self._needs_memory()
        self._call["record"](self._live(), limit)

    def memory_events(self) -> NDArray[np.void]:
        """Recorded handshakes and grants in order, with cycle, address, port and channel (see `CHANNELS`)."""
        self._needs_memory()
        pointer = ctypes.c_void_p()
        count = self._call["events"](self._live(), pointer)
        dtype = np.dtype(EVENT)
        data = ctypes.string_at(pointer, count * dtype.itemsize) if count else b""
        return np.frombuffer(data, dtype)

    def traffic(self) -> tuple[Traffic, ...]:
        """Traffic of each memory port since the start."""
        ports = self._needs_memory().ports
        pointer = ctypes.POINTER(TrafficCounts)()
        self._call["traffic"](self._live(), pointer)
        return tuple(Traffic(t.read_bytes, t.write_bytes, t.reads, t.writes) for t in pointer[:ports])

    def starved_cycles(self) -> int:
        """Cycles since the start in which a request waited for the memory's bandwidth."""
        self._needs_memory()
        return int(self._call["traffic"](self._live(), ctypes.POINTER(TrafficCounts)()))

    def waves(self, path: Path | None) -> None:
        """Writes waves (VCD) to a file from the current cycle on; None closes the file.

        The rising edge that starts cycle ``c`` is at time ``10 * c``.

        Raises:
            ValueError: the library was compiled without waves.
            OSError: the file cannot be written.
        """
        if not self.library.can_wave:
            raise ValueError("the library was compiled without waves; legal: compile_design(..., waves=True)")
        if path is not None:
            path.touch()
        self._ran(self._call["waves"](self._live(), b"" if path is None else str(path).encode()))

    def _live(self) -> int:
        if self._handle is None:
            raise ValueError("the simulator is closed")
        return self._handle

    def _ran(self, result: int) -> int:
        if result < 0:
            raise CheckError(self.error or "the simulation failed")
        return int(result)

    def _clocked(self, cycles: int) -> None:
        if cycles < 0:
            raise ValueError(f"cycles is {cycles}; legal: at least 0")
        if "clk" not in self._ports:
            raise ValueError("the design has no port clk; legal: set and get only")

    def _port(self, name: str) -> VerilogPort:
        if name not in self._ports:
            raise ValueError(f"no port {name!r}; legal: {', '.join(sorted(self._ports))}")
        return self._ports[name]

    def _input(self, name: str) -> VerilogPort:
        port = self._port(name)
        driven = name == "clk" or (self.memory is not None and name.startswith("m_axi"))
        if port.direction != "i" or driven:
            raise ValueError(f"port {name} is not an input that the caller drives")
        return port

    def _needs_memory(self) -> MemoryPorts:
        if self.memory is None:
            raise ValueError("the simulator was started without a memory; legal: start(memory=...)")
        return self.memory

    def _host(self, address: int, value: int) -> None:
        self._clocked(0)
        width = self._port("s_axil_awaddr").width
        if address % 4 != 0 or not 0 <= address < 1 << width:
            raise ValueError(f"register address {address:#x}; legal: a multiple of 4 below {1 << width:#x}")
        if not 0 <= value < 1 << 32:
            raise ValueError(f"register value {value}; legal: 0 to 2**32 - 1")

    def _lanes(self, arrays: Mapping[str, Values]) -> ctypes.Array[Lane]:
        lanes = [Lane(self._index[name], self._ports[name].storage, a.ctypes.data) for name, a in arrays.items()]
        return (Lane * len(lanes))(*lanes)
