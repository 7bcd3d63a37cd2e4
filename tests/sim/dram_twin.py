"""The off-chip memory a second time, written plainly from its definition, to compare the harness with."""

from collections.abc import Iterator, Mapping

from codesign.sim.verilator.simulator import MemoryPorts

_CHANNELS = ("arready", "rvalid", "awready", "wready", "bvalid")
_MASK = (1 << 64) - 1


class Request:
    """A burst: when it was accepted and granted, and which of its beats have passed."""

    def __init__(self, accepted: int, address: int, beats: int) -> None:
        self.accepted, self.address, self.beats = accepted, address, beats
        self.granted: int | None = None
        self.passed: list[int] = []
        self.answered = False

    @property
    def moved(self) -> bool:
        return len(self.passed) == self.beats


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class DramTwin:
    """Keeps the open requests and asks the definition's sentences of them in every cycle."""

    def __init__(self, memory: MemoryPorts, content: bytes, seed: int = 0, probability: float = 0.0) -> None:
        self.memory, self.content = memory, bytearray(content)
        self.seed, self.threshold = _mix(seed), round(probability * (1 << 32))
        self.credit = memory.burst_bytes * memory.den
        self.turn = 0
        self.requests: list[list[Request]] = [[] for _ in range(2 * memory.ports)]
        self.shown: list[dict[str, int]] = [dict.fromkeys(_CHANNELS, 0) for _ in range(memory.ports)]

    def _open(self, who: int) -> Iterator[Request]:
        return (r for r in self.requests[who] if not r.answered)

    def _moving(self, who: int, t: int, latency: int) -> Request | None:
        """The first burst with beats left, if its data may move in cycle t."""
        first = next((r for r in self.requests[who] if not r.moved), None)
        return first if first is not None and first.granted is not None and t >= first.granted + latency else None

    def _calm(self, port: int, channel: int, t: int) -> bool:
        draw = _mix((self.seed + t * 1024 + port * 8 + channel) & _MASK) >> 32
        return self.threshold == 0 or draw >= self.threshold

    def drive(self, t: int) -> list[dict[str, int]]:
        """What the memory drives in cycle t, port by port; payloads only while they are valid."""
        self.shown = [self._drive_port(port, self.shown[port], t) for port in range(self.memory.ports)]
        return self.shown

    def _drive_port(self, port: int, before: Mapping[str, int], t: int) -> dict[str, int]:
        m, reads, writes = self.memory, 2 * port, 2 * port + 1
        calm = [self._calm(port, channel, t) for channel in range(5)]
        shown = {
            "arready": int(sum(1 for _ in self._open(reads)) < m.outstanding and calm[0]),
            "awready": int(sum(1 for _ in self._open(writes)) < m.outstanding and calm[2]),
            "wready": int(self._moving(writes, t, 1) is not None and calm[3]),
        }
        answer = next(self._open(writes), None)
        due = answer is not None and answer.moved and t >= answer.passed[-1] + m.write_latency
        shown["bvalid"] = int(due and (before["bvalid"] == 1 or calm[4]))
        read = self._moving(reads, t, m.read_latency)
        shown["rvalid"] = int(read is not None and (before["rvalid"] == 1 or calm[1]))
        if read is not None and shown["rvalid"]:
            shown["rlast"] = int(len(read.passed) == read.beats - 1)
            at = read.address + len(read.passed) * m.port_bytes
            fresh = int.from_bytes(self.content[at : at + m.port_bytes], "little")
            shown["rdata"] = before["rdata"] if before["rvalid"] else fresh
        return shown

    def sample(self, t: int, pins: list[dict[str, int]]) -> None:
        """Takes what the design drives in cycle t."""
        self._grant(t)
        self.requests = [[r for r in queue if not r.answered] for queue in self.requests]
        for port, pin in enumerate(pins):
            self._sample_port(port, pin, t)

    def _grant(self, t: int) -> None:
        m = self.memory
        self.credit = min(m.burst_bytes * m.den, self.credit + m.num)
        order = [(self.turn + i) % (2 * m.ports) for i in range(2 * m.ports)]
        waiting = [(who, r) for who in order for r in self.requests[who] if r.granted is None and r.accepted < t]
        if not waiting:
            self.turn = 0
        elif self.credit >= waiting[0][1].beats * m.port_bytes * m.den:
            who, request = waiting[0]
            request.granted = t
            self.credit -= request.beats * m.port_bytes * m.den
            self.turn = (who + 1) % (2 * m.ports)

    def _sample_port(self, port: int, pin: Mapping[str, int], t: int) -> None:
        shown, reads, writes = self.shown[port], self.requests[2 * port], self.requests[2 * port + 1]
        after = dict(shown)
        if shown["rvalid"] and pin["rready"]:
            read = next(r for r in reads if not r.moved)
            read.passed.append(t)
            read.answered = read.moved
            after["rvalid"] = 0
        if shown["bvalid"] and pin["bready"]:
            next(r for r in writes if not r.answered).answered = True
            after["bvalid"] = 0
        if shown["wready"] and pin["wvalid"]:
            self._store(next(r for r in writes if not r.moved), pin, t)
        for kind, queue in (("ar", reads), ("aw", writes)):
            if shown[f"{kind}ready"] and pin[f"{kind}valid"]:
                queue.append(Request(t, pin[f"{kind}addr"], pin[f"{kind}len"] + 1))
        self.shown[port] = after

    def _store(self, write: Request, pin: Mapping[str, int], t: int) -> None:
        at = write.address + len(write.passed) * self.memory.port_bytes
        for byte in range(self.memory.port_bytes):
            if pin["wstrb"] >> byte & 1:
                self.content[at + byte] = pin["wdata"] >> (8 * byte) & 255
        write.passed.append(t)
