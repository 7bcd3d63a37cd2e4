"""Figures of a board: device resources, memory and energy coefficients, each with unit, meaning and legal values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction

_FIGURE_LIMIT = 1 << 40  # keeps every product of figures within 64 bits where it is computed
_AXI_BOUNDARY = 4096  # bytes; an AXI burst never crosses it
_MOST = 10**9  # of an energy coefficient

ENERGY = "energy"
"""Name of the table of energy coefficients."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Format of an integer figure in a board file.

    Attributes:
        unit: unit of the number.
        meaning: description of the number.
        low: smallest legal value.
        high: largest legal value.
        power_of_two: whether only powers of two are legal.
    """

    unit: str
    meaning: str
    low: int = 1
    high: int = _FIGURE_LIMIT
    power_of_two: bool = False

    @property
    def legal(self) -> str:
        """Legal values, as text."""
        return f"a {'power of two' if self.power_of_two else 'whole number'} from {self.low} to {self.high}"

    def check(self, key: str, value: object) -> None:
        """Checks a value.

        Raises:
            ValueError: illegal value; the message names the key.
        """
        if isinstance(value, bool) or not isinstance(value, int) or not self._allows(value):
            raise ValueError(f"{key} is {value!r}; legal: {self.legal}")

    def _allows(self, value: int) -> bool:
        return self.low <= value <= self.high and not (self.power_of_two and value & (value - 1))


CLOCK = Figure("Hz", "clock of the generated design; assumed until a vendor tool has timed it")
"""Format of the clock, the one figure outside a table."""


@dataclass(frozen=True, slots=True)
class Available:
    """Device resources of the whole part."""

    dsp: int = field(metadata={"is": Figure("slices", "DSP48E2 or DSP58")})
    bram36: int = field(metadata={"is": Figure("36 Kbit", "block RAMs")})
    uram: int = field(metadata={"is": Figure("288 Kbit", "UltraRAMs; 0 where the part has none", low=0)})
    lut: int = field(metadata={"is": Figure("LUTs", "six-input look-up tables")})
    ff: int = field(metadata={"is": Figure("FFs", "flip-flops")})

    def __post_init__(self) -> None:
        _check("resources", self)


@dataclass(frozen=True, slots=True)
class BoardMemory:
    """Off-chip memory as seen by the programmable logic, in cycles of the board's clock.

    Bandwidth is a token bucket shared by reads and writes of all ports: every cycle adds
    ``bytes_numerator / bytes_denominator`` bytes of credit, and at most one burst is saved up.

    Attributes:
        clock_hz: the board's clock; not a key of the file's memory table.
    """

    clock_hz: int
    ports: int = field(metadata={"is": Figure("ports", "AXI ports", high=64)})
    port_bits: int = field(metadata={"is": Figure("bits", "data width of each port", 32, 1024, power_of_two=True)})
    bytes_per_second: int = field(metadata={"is": Figure("bytes/s", "sustained bandwidth over all ports")})
    burst_bytes: int = field(
        metadata={"is": Figure("bytes", "longest burst, at least a port's width", 4, _AXI_BOUNDARY, power_of_two=True)}
    )
    read_latency: int = field(metadata={"is": Figure("cycles", "from granting a read to its first beat", high=1 << 16)})
    write_latency: int = field(
        metadata={"is": Figure("cycles", "from a write's last beat to its response", high=1 << 16)}
    )
    outstanding: int = field(metadata={"is": Figure("bursts", "in flight per port and direction", high=256)})

    def __post_init__(self) -> None:
        CLOCK.check("clock_hz", self.clock_hz)
        _check("memory", self)
        if self.burst_bytes < self.port_bits // 8:
            least = self.port_bits // 8
            raise ValueError(f"memory.burst_bytes is {self.burst_bytes}; legal: at least the {least} bytes of a port")

    @property
    def _bytes_per_cycle(self) -> Fraction:
        return Fraction(self.bytes_per_second, self.clock_hz)

    @property
    def bytes_numerator(self) -> int:
        """Bytes of credit added in every ``bytes_denominator`` cycles, reduced."""
        return self._bytes_per_cycle.numerator

    @property
    def bytes_denominator(self) -> int:
        """Cycles in which ``bytes_numerator`` bytes of credit are added, reduced."""
        return self._bytes_per_cycle.denominator


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy coefficients per event and static power; modelled, not measured."""

    mac_fj: int = field(metadata={"is": Figure("fJ", "one 8-bit multiply-accumulate in a DSP", high=_MOST)})
    ram_byte_fj: int = field(
        metadata={"is": Figure("fJ", "one byte read from or written to an on-chip memory", high=_MOST)}
    )
    lut_cycle_fj: int = field(
        metadata={
            "is": Figure("fJ", "one look-up table, its nets included, per cycle in which its part works", high=_MOST)
        }
    )
    ff_cycle_fj: int = field(metadata={"is": Figure("fJ", "one flip-flop with its clock, per cycle", high=_MOST)})
    offchip_byte_fj: int = field(
        metadata={"is": Figure("fJ", "one byte to or from the off-chip memory, interface included", high=_MOST)}
    )
    static_mw: int = field(metadata={"is": Figure("mW", "what is on whether or not the accelerator works", high=_MOST)})
    error_percent: int = field(
        metadata={"is": Figure("%", "half the width of the band in which the sum is believed to lie", high=99)}
    )

    def __post_init__(self) -> None:
        _check(ENERGY, self)


Table = Available | BoardMemory | Energy

TABLES: Mapping[str, type[Table]] = {"resources": Available, "memory": BoardMemory, ENERGY: Energy}
"""Tables of figures in a board file, in its order."""


def formats(kind: type[Table]) -> dict[str, Figure]:
    """Figure formats of a table by field name."""
    return {entry.name: entry.metadata["is"] for entry in fields(kind) if entry.metadata}


def _check(table: str, value: Table) -> None:
    for name, figure in formats(type(value)).items():
        figure.check(f"{table}.{name}", getattr(value, name))
