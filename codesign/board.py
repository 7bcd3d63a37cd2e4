"""What a board offers: device resources, clock and memory, each figure with where it comes from.

A board is one TOML file. Those that ship lie in ``codesign.boards`` and are loaded by name; any
other is loaded by its path::

    name = "zcu102"
    part = "xczu9eg-ffvb1156-2-e"
    family = "ultrascale+"
    clock_hz = 300_000_000

    [resources]
    dsp = 2520
    ...
    [memory]
    ports = 4
    ...
    [energy]                # may be missing; then nothing is said of energy
    mac_fj = 2500
    ...
    [sources]               # dotted key of a figure or of its table -> public address
    "resources" = "https://..."
    [assumptions]           # dotted key of a figure -> why this value is assumed
    "clock_hz" = "..."
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from importlib import resources
from pathlib import Path

from codesign.errors import InputError

FAMILIES = ("ultrascale+", "versal")

_FILE_LIMIT = 1 << 20  # bytes of TOML
_FIGURE_LIMIT = 1 << 40  # keeps every product of figures within 64 bits where it is computed
_AXI_BOUNDARY = 4096  # bytes; an AXI burst never crosses it
_TEXTS = ("name", "part", "family")
_REMARKS = ("sources", "assumptions")
_ENERGY = "energy"


def _check_whole(key: str, value: object, low: int, high: int = _FIGURE_LIMIT) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{key} is {value!r}; legal: a whole number from {low} to {high}")


def _check_power_of_two(key: str, value: int, low: int, high: int) -> None:
    _check_whole(key, value, low, high)
    if value & (value - 1):
        raise ValueError(f"{key} is {value}; legal: a power of two from {low} to {high}")


@dataclass(frozen=True, slots=True)
class Available:
    """Device resources of the whole part.

    Attributes:
        dsp: DSP48E2 or DSP58 slices.
        bram36: block RAMs of 36 Kbit.
        uram: UltraRAMs of 288 Kbit; 0 where the part has none.
        lut: six-input look-up tables.
        ff: flip-flops.
    """

    dsp: int
    bram36: int
    uram: int
    lut: int
    ff: int

    def __post_init__(self) -> None:
        for name in _names(Available):
            _check_whole(f"resources.{name}", getattr(self, name), 0 if name == "uram" else 1)


@dataclass(frozen=True, slots=True)
class Memory:
    """The off-chip memory as the programmable logic sees it, in cycles of the board's clock.

    Bandwidth is a token bucket over reads and writes of all ports together: every cycle adds
    ``bytes_numerator / bytes_denominator`` bytes of credit, at most one burst is saved up.

    Attributes:
        clock_hz: the board's clock; not a key of the file's memory table.
        ports: AXI ports.
        port_bits: data width of each port.
        bytes_per_second: sustained bandwidth over all ports.
        burst_bytes: longest burst.
        read_latency: cycles from granting a read to its first beat.
        write_latency: cycles from a write's last beat to its response.
        outstanding: bursts in flight per port and direction.
    """

    clock_hz: int
    ports: int
    port_bits: int
    bytes_per_second: int
    burst_bytes: int
    read_latency: int
    write_latency: int
    outstanding: int

    def __post_init__(self) -> None:
        _check_whole("clock_hz", self.clock_hz, 1)
        _check_whole("memory.ports", self.ports, 1, 64)
        _check_power_of_two("memory.port_bits", self.port_bits, 32, 1024)
        _check_whole("memory.bytes_per_second", self.bytes_per_second, 1)
        _check_power_of_two("memory.burst_bytes", self.burst_bytes, self.port_bits // 8, _AXI_BOUNDARY)
        for name in ("read_latency", "write_latency"):
            _check_whole(f"memory.{name}", getattr(self, name), 1, 1 << 16)
        _check_whole("memory.outstanding", self.outstanding, 1, 256)

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
    """What events cost, in femtojoules, and what is drawn all the time; modelled, never measured here.

    Attributes:
        mac_fj: one 8-bit multiply-accumulate in a DSP.
        ram_byte_fj: one byte read from or written to an on-chip memory.
        lut_cycle_fj: one look-up table with its nets, in every cycle in which its part works.
        ff_cycle_fj: one flip-flop with its clock, in every cycle.
        offchip_byte_fj: one byte moved to or from the off-chip memory, interface included.
        static_mw: milliwatts of everything that is on whether or not the accelerator works.
        error_percent: half the width of the band in which the sum is believed to lie.
    """

    mac_fj: int
    ram_byte_fj: int
    lut_cycle_fj: int
    ff_cycle_fj: int
    offchip_byte_fj: int
    static_mw: int
    error_percent: int

    def __post_init__(self) -> None:
        for name in _names(Energy):
            _check_whole(f"{_ENERGY}.{name}", getattr(self, name), 1, 99 if name == "error_percent" else 10**9)


@dataclass(frozen=True, slots=True)
class Board:
    """A device on a board, its clock and its memory.

    Attributes:
        name: what users call it.
        part: the vendor's part number.
        family: one of ``FAMILIES``.
        clock_hz: clock of the generated design; assumed until a vendor tool has timed it.
        resources: what the part has.
        memory: the off-chip memory at this clock.
        sources: dotted key of a figure or of its table to a public address.
        assumptions: dotted key of a figure to the reason why it is assumed.
        energy: what events cost; None if nothing is known of it.
    """

    name: str
    part: str
    family: str
    clock_hz: int
    resources: Available
    memory: Memory
    sources: Mapping[str, str] = field(hash=False)
    assumptions: Mapping[str, str] = field(hash=False)
    energy: Energy | None = None

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family is {self.family!r}; legal: {' or '.join(FAMILIES)}")
        for key in ("name", "part"):
            if not getattr(self, key).isprintable() or not getattr(self, key).strip():
                raise ValueError(f"{key} is {getattr(self, key)!r}; legal: printable text")
        if self.memory.clock_hz != self.clock_hz:
            raise ValueError(f"memory.clock_hz is {self.memory.clock_hz}; legal: the board's {self.clock_hz}")
        _check_remarks("sources", self.sources, (*self.figures(), "part", *self._tables()))
        _check_remarks("assumptions", self.assumptions, self.figures())
        for name in ("sources", "assumptions"):
            object.__setattr__(self, name, dict(getattr(self, name)))  # a copy: the caller's may change

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Board":
        """The board of that name, or in that file if it ends in ``.toml``.

        Raises:
            InputError: unknown name, unreadable file, malformed TOML, or an illegal value; one line.
        """
        text = str(name_or_path)
        if text.endswith(".toml"):
            return _parse(text, _read(Path(text)))
        if text not in boards():
            raise InputError(f"unknown board {text!r}; known: {', '.join(boards())}, or a path to a .toml file")
        return _parse(text, resources.files("codesign.boards").joinpath(f"{text}.toml").read_bytes())

    def figures(self) -> dict[str, int]:
        """Every number of the board by its dotted key, in the file's order."""
        found = {
            f"{table}.{name}": getattr(value, name)
            for table, value in self._tables().items()
            for name in _names(type(value))
        }
        return {"clock_hz": self.clock_hz, **found}

    def _tables(self) -> dict[str, Available | Memory | Energy]:
        tables: dict[str, Available | Memory | Energy] = {"resources": self.resources, "memory": self.memory}
        return tables if self.energy is None else {**tables, _ENERGY: self.energy}

    @property
    def coefficients(self) -> Energy:
        """What events cost.

        Raises:
            InputError: nothing is known of it.
        """
        if self.energy is None:
            raise InputError(f"board {self.name} has no table [energy]; legal: a board file with one")
        return self.energy

    def at(self, *, ports: int = 0, clock_hz: int = 0) -> "Board":
        """This board with some of its ports in use and at another clock; 0 leaves either as it is.

        The memory's bandwidth stays the same per second; a design at another clock is not timed either.

        Raises:
            ValueError: more ports than there are, or no clock.

        >>> Board.load("zcu102").at(ports=2).memory.ports
        2
        """
        new = {"memory.ports": ports or self.memory.ports, "clock_hz": clock_hz or self.clock_hz}
        if not 1 <= new["memory.ports"] <= self.memory.ports:
            raise ValueError(f"{ports} ports; legal: 1 to the board's {self.memory.ports}")
        figures = self.figures()
        chosen = {key: f"{value}, chosen for the design" for key, value in new.items() if value != figures[key]}
        if not chosen:
            return self
        texts = (self.name, self.part, self.family)
        return _assemble(texts, {**figures, **new}, self.sources, {**self.assumptions, **chosen})

    def with_overrides(self, settings: Iterable[str]) -> "Board":
        """This board with figures replaced by ``KEY=VALUE`` settings and marked as assumed.

        The memory's bandwidth is kept per second, so its bytes per cycle follow the clock.

        Raises:
            InputError: no such figure, or an illegal value; one line.

        >>> Board.load("zcu102").with_overrides(["clock_hz=250e6"]).memory.bytes_denominator
        25
        """
        figures = self.figures()
        assumptions = dict(self.assumptions)
        for setting in settings:
            key, value = _setting(setting, figures)
            figures[key] = value
            assumptions[key] = f"set to {value} by the user"
        try:
            return _assemble((self.name, self.part, self.family), figures, self.sources, assumptions)
        except ValueError as error:
            raise InputError(f"--set: {error}") from error


CLOCKS = (Fraction(1, 2), Fraction(2, 3), Fraction(5, 6), Fraction(1))
"""Clocks that a search looks at, as shares of a board's own."""


def clocks(board: Board) -> tuple[int, ...]:
    """Clocks that a search looks at, in Hz, whole MHz but for the board's own; none is timed.

    >>> clocks(Board.load("zcu102"))
    (150000000, 200000000, 250000000, 300000000)
    """
    slower = {int(board.clock_hz * share) // 10**6 * 10**6 for share in CLOCKS if share < 1}
    return (*sorted(clock for clock in slower if clock), board.clock_hz)


def port_counts(board: Board) -> tuple[int, ...]:
    """Numbers of AXI ports that a design may use: all, or a power of two of them.

    >>> port_counts(Board.load("zcu102"))
    (1, 2, 4)
    """
    fewer = (1 << i for i in range(board.memory.ports.bit_length()))
    return (*(ports for ports in fewer if ports < board.memory.ports), board.memory.ports)


def boards() -> tuple[str, ...]:
    """Names of the boards that ship, sorted.

    >>> "zcu102" in boards()
    True
    """
    found = (entry.name for entry in resources.files("codesign.boards").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def _names(kind: type[Available] | type[Memory] | type[Energy]) -> list[str]:
    return [entry.name for entry in fields(kind) if entry.name != "clock_hz"]


def _check_remarks(table: str, remarks: Mapping[str, str], legal: Iterable[str]) -> None:
    for key, remark in remarks.items():
        if key not in legal:
            raise ValueError(f"{table} names {key!r}; legal: the dotted key of a figure, quoted")
        if not remark.strip():
            raise ValueError(f"{table}.{key!r} is {remark!r}; legal: text")
        if table == "sources" and not remark.startswith("https://"):
            raise ValueError(f"sources.{key!r} is {remark!r}; legal: an address that starts with https://")


def _assemble(
    texts: tuple[str, str, str],
    figures: Mapping[str, int],
    sources: Mapping[str, str],
    assumptions: Mapping[str, str],
) -> Board:
    clock_hz = figures["clock_hz"]
    available = Available(**_values("resources", figures))
    memory = Memory(clock_hz, **_values("memory", figures))
    coefficients = _values(_ENERGY, figures)
    energy = Energy(**coefficients) if coefficients else None
    return Board(*texts, clock_hz, available, memory, sources, assumptions, energy)


def _values(table: str, figures: Mapping[str, int]) -> dict[str, int]:
    """The figures of one table by their name in it."""
    return {key.removeprefix(f"{table}."): value for key, value in figures.items() if key.startswith(f"{table}.")}


def _whole(key: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} is {value!r}; legal: a whole number")
    return value


def _setting(setting: str, legal: Iterable[str]) -> tuple[str, int]:
    key, equals, text = setting.partition("=")
    if not equals or key not in legal:
        raise InputError(f"--set {setting!r}; legal: KEY=VALUE with KEY one of {', '.join(legal)}")
    try:
        return key, int(text) if text.isdecimal() else _whole(key, float(text))
    except ValueError as error:
        raise InputError(f"--set {setting!r}; legal: a whole number such as 80 or 250e6") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read board file {path}: {reason}") from error
    if len(data) > _FILE_LIMIT:
        raise InputError(f"board file {path} is larger than {_FILE_LIMIT} bytes")
    return data


def _parse(origin: str, data: bytes) -> Board:
    try:
        return _board(tomllib.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise InputError(f"board {origin}: {' '.join(str(error).split())}") from error


def _board(document: Mapping[str, object]) -> Board:
    _check_keys("", document, (*_TEXTS, "clock_hz", "resources", "memory"), (_ENERGY, *_REMARKS))
    figures = {"clock_hz": _whole("clock_hz", document["clock_hz"])}
    for table, kind in (("resources", Available), ("memory", Memory), (_ENERGY, Energy)):
        if table not in document:
            continue
        values = _table(table, document[table])
        _check_keys(f"{table}.", values, _names(kind))
        figures |= {f"{table}.{name}": _whole(f"{table}.{name}", value) for name, value in values.items()}
    name, part, family = (_text(key, document[key]) for key in _TEXTS)
    return _assemble((name, part, family), figures, *(_remarks(key, document.get(key, {})) for key in _REMARKS))


def _remarks(table: str, value: object) -> dict[str, str]:
    return {key: _text(f"{table}.{key!r}", remark) for key, remark in _table(table, value).items()}


def _check_keys(
    prefix: str, table: Mapping[str, object], required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    for key in table:
        if key not in (*required, *optional):
            raise ValueError(f"unknown key {prefix + key!r}; legal: {', '.join((*required, *optional))}")
    for key in required:
        if key not in table:
            raise ValueError(f"key {prefix + key!r} is missing")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}; legal: text")
    return value


def _table(key: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {value!r}; legal: a table [{key}]")
    return value
