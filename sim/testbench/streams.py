"""Drivers, sinks and monitors of streams (payload, valid, ready) for cocotb benches.

Everything here runs inside the simulator. Drivers write just after the rising edge and sample at the
falling edge, when all signals have settled: a handshake seen there takes effect at the next rising edge.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

Pace = Callable[[], bool]
Rng = random.Random | np.random.Generator


def always() -> bool:
    """Pace without gaps."""
    return True


def sometimes(probability: float, rng: Rng) -> Pace:
    """Pace that proceeds with a probability in each cycle.

    Raises:
        ValueError: ``probability`` is not above 0 and at most 1.
    """
    if not 0 < probability <= 1:
        raise ValueError(f"probability is {probability}; legal: above 0, at most 1")
    return lambda: rng.random() < probability


def bursts(longest: int, rng: Rng) -> Pace:
    """Pace of alternating runs and pauses of random lengths, each 1 to ``longest`` cycles."""
    left, moving = 0, False

    def pace() -> bool:
        nonlocal left, moving
        if left == 0:
            left, moving = 1 + int(longest * rng.random()), not moving
        left -= 1
        return moving

    return pace


@dataclass(frozen=True, slots=True)
class Stream:
    """Handles of one stream port.

    Attributes:
        name: for messages.
        clock: its clock.
        payload, valid, ready: the signals.
    """

    name: str
    clock: Any
    payload: Any
    valid: Any
    ready: Any

    @classmethod
    def of(cls, dut: Any, name: str, clock: str = "clk") -> "Stream":
        """Finds stream ``name`` of a design, with ports ``name_valid`` or ``name__valid`` and so on.

        Raises:
            ValueError: the design has no such ports.
        """
        for between in ("_", "__"):
            if hasattr(dut, f"{name}{between}valid"):
                pins = {pin: getattr(dut, f"{name}{between}{pin}") for pin in ("payload", "valid", "ready")}
                return cls(name, getattr(dut, clock), **pins)
        raise ValueError(f"no stream {name!r}; legal: ports {name}_payload, {name}_valid, {name}_ready")

    def moves(self) -> bool:
        """Whether the next edge transfers a payload; to be called at a falling edge."""
        return bool(self.valid.value) and bool(self.ready.value)


async def start(dut: Any, *, period_ns: int = 10, reset_cycles: int = 2) -> None:
    """Starts the clock ``clk`` and releases ``rst`` after ``reset_cycles`` cycles."""
    dut.rst.value = 1
    Clock(dut.clk, period_ns, "ns").start()
    await ClockCycles(dut.clk, reset_cycles)
    dut.rst.value = 0


class StreamDriver:
    """Drives a stream into the design; an offered payload stays until it is accepted.

    Args:
        stream: from `Stream.of`.
        pace: called in each cycle in which a new payload could be offered.
    """

    def __init__(self, stream: Stream, pace: Pace = always) -> None:
        self.stream = stream
        self.waiting: deque[int] = deque()
        self.sent: list[int] = []
        self._pace = pace
        stream.valid.value = 0
        cocotb.start_soon(self._run())

    def put(self, payloads: Iterable[int]) -> None:
        """Adds payloads to the queue."""
        self.waiting.extend(payloads)

    async def drained(self) -> None:
        """Returns once all payloads have been accepted."""
        while self.waiting:
            await RisingEdge(self.stream.clock)

    async def _run(self) -> None:
        shown = False
        while True:
            await RisingEdge(self.stream.clock)
            if not shown and self.waiting and self._pace():
                self.stream.payload.value = self.waiting[0]
                shown = True
            self.stream.valid.value = int(shown)
            await FallingEdge(self.stream.clock)
            if self.stream.moves():
                self.sent.append(self.waiting.popleft())
                shown = False


class Sink:
    """Receives a stream from the design and keeps the payloads.

    Args:
        stream: from `Stream.of`.
        pace: called in each cycle for the value of ready.
    """

    def __init__(self, stream: Stream, pace: Pace = always) -> None:
        self.stream = stream
        self.received: list[int] = []
        self._pace = pace
        stream.ready.value = 0
        cocotb.start_soon(self._run())

    async def count(self, wanted: int) -> list[int]:
        """Returns the payloads once there are ``wanted`` of them."""
        while len(self.received) < wanted:
            await RisingEdge(self.stream.clock)
        return self.received

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.stream.clock)
            self.stream.ready.value = int(self._pace())
            await FallingEdge(self.stream.clock)
            if self.stream.moves():
                self.received.append(int(self.stream.payload.value))


class Monitor:
    """Fails the test if a stream's protocol is broken.

    The rule: once valid, valid and payload stay until ready. Ready is unconstrained.

    Args:
        stream: from `Stream.of`.
        reset: signal that suspends the check while high, or None.
    """

    def __init__(self, stream: Stream, reset: Any = None) -> None:
        self.stream = stream
        self.cycle = 0
        self.transfers: list[tuple[int, int]] = []
        self.stalled_cycles = 0
        self._reset = reset
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        held: int | None = None
        while True:
            await FallingEdge(self.stream.clock)
            self.cycle += 1
            if self._reset is not None and bool(self._reset.value):
                held = None
                continue
            held = self._look(held)

    def _look(self, held: int | None) -> int | None:
        """Checks one cycle; returns the payload that must be held, if any."""
        if not bool(self.stream.valid.value):
            assert held is None, f"{self.stream.name}, cycle {self.cycle}: valid fell before ready"
            return None
        payload = int(self.stream.payload.value)
        assert held in (None, payload), (
            f"{self.stream.name}, cycle {self.cycle}: payload changed before ready, {held:#x} to {payload:#x}"
        )
        if not bool(self.stream.ready.value):
            self.stalled_cycles += 1
            return payload
        self.transfers.append((self.cycle, payload))
        return None
