"""The command format of the accelerator: engines, operands, tokens.

A command is 64 bytes, little-endian. Byte 0 is the engine number. Bits 32 to 95 hold four bits per engine: tokens that
the command waits for from that engine; bits 96 to 159 hold four bits per engine: tokens that it posts to it when done.
From bit 160 on follow the operands, see `codesign.target.kernel.Kernel.fields`. Engines are numbered by
`codesign.target.engines.engine_names`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from codesign.target.engines import COMMAND_BYTES, HEADER_BITS, POSTS_AT, RING, TOKEN_BITS, WAITS_AT, fields_of

MAX_TOKENS = (1 << TOKEN_BITS) - 1

RELEASE, USE_TABLE = 1, 2
"""Flags of a linear command. RELEASE frees the weights after the last row group, without it the next command reuses
them; USE_TABLE passes the result through an 8-bit table."""

_NO_TOKENS: Mapping[str, int] = {}


class Span(NamedTuple):
    """Bytes ``start`` to ``stop`` of an on-chip memory."""

    memory: str
    start: int
    stop: int


class Command(NamedTuple):
    """One command before encoding.

    Attributes:
        engine: name of the engine in the design.
        fields: operands by name; missing ones are 0.
        reads, writes: on-chip byte ranges that it accesses.
        label: name of the layer.
        work: argument of the kernel's formulas, padding included; empty for a command that only moves data.
        first, rows: first row and number of rows of the layer's target that it computes.
        waits, posts: tokens per engine name.
    """

    engine: str
    fields: Mapping[str, int]
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    label: str = ""
    work: Mapping[str, int] = _NO_TOKENS
    first: int = 0
    rows: int = 0
    waits: Mapping[str, int] = _NO_TOKENS
    posts: Mapping[str, int] = _NO_TOKENS

    def encode(self, engines: Sequence[str]) -> bytes:
        """Encodes the command in 64 bytes.

        Args:
            engines: names of the design's engines, in number order.

        Raises:
            ValueError: an unknown field, or a value that its field does not hold.
        """
        head = engines.index(self.engine)
        head |= _tokens(self.waits, engines) << WAITS_AT | _tokens(self.posts, engines) << POSTS_AT
        operands = operand_bits(self.engine, self.fields)
        return (head | operands << HEADER_BITS).to_bytes(COMMAND_BYTES, "little")


def operand_bits(engine: str, fields: Mapping[str, int]) -> int:
    """Operands packed as the engine receives them, the first lowest, each modulo its width.

    Raises:
        ValueError: an unknown field, or a value that its field does not hold.
    """
    value, at, left = 0, 0, dict(fields)
    for name, bits in fields_of(engine).items():
        operand = left.pop(name, 0)
        if not -(1 << (bits - 1)) <= operand < 1 << bits:
            raise ValueError(f"{engine} {name} is {operand}; legal: {bits} bits")
        value |= (operand % (1 << bits)) << at
        at += bits
    if left:
        raise ValueError(f"{engine} has no operand {', '.join(left)}")
    return value


def _tokens(counts: Mapping[str, int], engines: Sequence[str]) -> int:
    value = 0
    for engine, count in counts.items():
        if not 0 <= count <= MAX_TOKENS:
            raise ValueError(f"{count} tokens; legal: 0 to {MAX_TOKENS}")
        value |= count << TOKEN_BITS * engines.index(engine)
    return value


def ordered(commands: Iterable[Command]) -> list[Command]:
    """Commands with the tokens that enforce all read-after-write, write-after-read and write-after-write orders.

    A command waits for the newest conflicting command of every other engine.
    Per pair of engines these edges never cross, so counting tokens matches them in order.
    Commands wait only for earlier ones, so the list cannot deadlock. The linear engine
    starts loading a command while its previous one still writes, so it also waits for itself.
    """
    before = list(commands)
    engines = dict.fromkeys(command.engine for command in before)
    waits: list[dict[str, int]] = [{} for _ in before]
    posts: list[dict[str, int]] = [{} for _ in before]
    follows = {engine: dict.fromkeys(engines, -1) for engine in engines}
    for engine in engines:
        if engine != RING:
            follows[engine][engine] = len(before)
    touched = _Touched()
    for index, (engine, _, reads, writes, *_) in enumerate(before):
        known, wait = follows[engine], waits[index]
        read, written = [touched[span] for span in reads], [touched[span] for span in writes]
        for clashing in [access.writers for access in read] + [access.users for access in written]:
            for newest in clashing:
                for producer, last in newest.items():
                    if last > known[producer]:
                        known[producer] = last
                        wait[producer] = 1
        for producer in wait:
            posts[known[producer]][engine] = 1
        for access in read:
            access.used[engine] = index
        for access in written:
            access.used[engine] = access.wrote[engine] = index
    return [Command(*command[:-2], wait, post) for command, wait, post in zip(before, waits, posts, strict=True)]


class _Access:
    """Latest accesses to one span.

    Attributes:
        wrote, used: index of the newest writing, and of the newest accessing, command by engine.
        writers, users: the same mappings of every span that overlaps this one.
    """

    __slots__ = ("used", "users", "writers", "wrote")

    def __init__(self) -> None:
        self.wrote: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.writers: list[dict[str, int]] = []
        self.users: list[dict[str, int]] = []

    def clash(self, other: "_Access") -> None:
        """Registers an overlapping span."""
        self.writers.append(other.wrote)
        self.users.append(other.used)


class _Touched(dict[Span, _Access]):
    """Latest accesses by span; a missing span is added and linked to all overlapping ones."""

    def __init__(self) -> None:
        super().__init__()
        self._memories: dict[str, list[tuple[Span, _Access]]] = {}

    def __missing__(self, span: Span) -> _Access:
        found = self[span] = _Access()
        beside = self._memories.setdefault(span.memory, [])
        beside.append((span, found))
        for (_, start, stop), access in beside:
            if start < span.stop and span.start < stop:
                found.clash(access)
                if access is not found:
                    access.clash(found)
        return found
