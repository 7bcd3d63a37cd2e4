"""Boards: device resources, clock, memory and energy coefficients, each figure with its source.

A board is one TOML file. This module reads it and checks each figure against its unit, meaning and legal values in
`codesign.target.board_figures`, from which ``codesign boards --format`` is printed as well. See ``codesign/boards``
for examples; `codesign.target.board_catalog` finds boards by name.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import resources
from pathlib import Path

from codesign.errors import InputError
from codesign.target.board_figures import CLOCK, ENERGY, TABLES, Available, BoardMemory, Energy, Table, formats

FAMILIES = ("ultrascale+", "versal")

_FILE_LIMIT = 1 << 20  # bytes of TOML
_TEXTS = {
    "name": ("printable text", "what users type; a file that is found by name is called as this"),
    "part": ("printable text", "the vendor's part number"),
    "family": (" or ".join(FAMILIES), "what the part is a member of"),
}
_REMARKS = {
    "sources": (
        "https://...",
        "public address of a figure, of a table's figures or of the part, by its dotted key, quoted",
    ),
    "assumptions": ("text", "why a figure is assumed, by its dotted key, quoted"),
}
"""Legal values and meaning by key."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a board file.

    Attributes:
        name: key, dotted with its table.
        unit: unit of a number; else ``text``.
        needed: whether it is required, and its default if not.
        legal: legal values.
        meaning: description.
    """

    name: str
    unit: str
    needed: str
    legal: str
    meaning: str


def file_format() -> tuple[Key, ...]:
    """Keys allowed in a board file.

    >>> [key.unit for key in file_format() if key.name == "clock_hz"]
    ['Hz']
    """
    found = [Key(name, "text", "required", *says) for name, says in _TEXTS.items()]
    found.append(Key("clock_hz", CLOCK.unit, "required", CLOCK.legal, CLOCK.meaning))
    for table, kind in TABLES.items():
        needed = f"all of [{table}] or none (default)" if table == ENERGY else "required"
        found += [Key(f"{table}.{name}", f.unit, needed, f.legal, f.meaning) for name, f in formats(kind).items()]
    found += [Key(f'{table}."KEY"', "text", "optional, default none", *says) for table, says in _REMARKS.items()]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Board:
    """A device on a board, its clock and its memory.

    Attributes:
        name: name by which users select it.
        part: the vendor's part number.
        family: one of ``FAMILIES``.
        clock_hz: clock of the generated design; assumed until a vendor tool has timed it.
        resources: resources of the part.
        memory: the off-chip memory at this clock.
        sources: public address by dotted key of a figure or table.
        assumptions: reason by dotted key of an assumed figure.
        energy: energy coefficients; None if unknown.
    """

    name: str
    part: str
    family: str
    clock_hz: int
    resources: Available
    memory: BoardMemory
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
        """The built-in board of that name, or the board in that file if it ends in ``.toml``.

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
            for name in formats(type(value))
        }
        return {"clock_hz": self.clock_hz, **found}

    def _tables(self) -> dict[str, Table]:
        tables: dict[str, Table] = {"resources": self.resources, "memory": self.memory}
        return tables if self.energy is None else {**tables, ENERGY: self.energy}

    @property
    def coefficients(self) -> Energy:
        """Energy coefficients.

        Raises:
            InputError: the board has none.
        """
        if self.energy is None:
            raise InputError(f"board {self.name} has no table [energy]; legal: a board file with one")
        return self.energy

    def at(self, *, ports: int = 0, clock_hz: int = 0) -> "Board":
        """This board restricted to some memory ports and at another clock; 0 keeps either as it is.

        The memory bandwidth per second is kept; the new clock is marked as assumed.

        Raises:
            ValueError: more ports than the board has, or an illegal clock.

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
"""Candidate clocks of a search, as fractions of the board's clock."""


def clocks(board: Board) -> tuple[int, ...]:
    """Candidate clocks of a search in Hz, ascending; whole MHz except for the board's own. None is timed.

    >>> clocks(Board.load("zcu102"))
    (150000000, 200000000, 250000000, 300000000)
    """
    slower = {int(board.clock_hz * share) // 10**6 * 10**6 for share in CLOCKS if share < 1}
    return (*sorted(clock for clock in slower if clock), board.clock_hz)


def port_counts(board: Board) -> tuple[int, ...]:
    """Numbers of AXI ports that a design may use: powers of two, and all.

    >>> port_counts(Board.load("zcu102"))
    (1, 2, 4)
    """
    fewer = (1 << i for i in range(board.memory.ports.bit_length()))
    return (*(ports for ports in fewer if ports < board.memory.ports), board.memory.ports)


def boards() -> tuple[str, ...]:
    """Names of the built-in boards, sorted.

    >>> "zcu102" in boards()
    True
    """
    found = (entry.name for entry in resources.files("codesign.boards").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


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
    memory = BoardMemory(clock_hz, **_values("memory", figures))
    coefficients = _values(ENERGY, figures)
    energy = Energy(**coefficients) if coefficients else None
    return Board(*texts, clock_hz, available, memory, sources, assumptions, energy)


def _values(table: str, figures: Mapping[str, int]) -> dict[str, int]:
    """Values of one table by field name, from values by dotted key."""
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
    _check_keys("", document, (*_TEXTS, "clock_hz", "resources", "memory"), (ENERGY, *_REMARKS))
    figures = {"clock_hz": _whole("clock_hz", document["clock_hz"])}
    for table, kind in TABLES.items():
        if table not in document:
            continue
        values = _table(table, document[table])
        _check_keys(f"{table}.", values, [*formats(kind)])
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
