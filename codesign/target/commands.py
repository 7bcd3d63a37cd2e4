"""The command format of the accelerator: engines, operands, tokens.

A command is 64 bytes, little-endian. Its first byte holds the engine's number; from bit 32 on four bits per engine say
how many tokens the command takes from it, and from bit 96 on four bits per engine how many tokens it gives when done;
from bit 160 on follow the engine's operands, see `codesign.target.kernel.Kernel.fields`. Numbers of engines are those
of `codesign.target.engines.engine_names`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from codesign.target.engines import COMMAND_BYTES, HEADER_BITS, POSTS_AT, RING, TOKEN_BITS, WAITS_AT, fields_of

MAX_TOKENS = (1 << TOKEN_BITS) - 1

RELEASE, USE_TABLE = 1, 2
"""Flags of a command of the engine with the ring. RELEASE frees the weights behind the last row group, without it the
next command uses them again; USE_TABLE sends the result through an 8-bit table."""

_NO_TOKENS: Mapping[str, int] = {}


class Span(NamedTuple):
    """Bytes ``start`` to ``stop`` of an on-chip memory."""

    memory: str
    start: int
    stop: int


class Command(NamedTuple):
    """One command before it is bytes.

    Attributes:
        engine: its name in the design.
        fields: operands by name; those left out are 0.
        reads, writes: on-chip bytes that it touches.
        label: the layer it works for.
        work: what the kernel's formulas take of it, padding included; empty for a command that only moves data.
        first, rows: rows of the layer's target that it makes.
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
        """The 64 bytes.

        Args:
            engines: of the design, in the order of their numbers.

        Raises:
            ValueError: an unknown field, or a value that its field does not hold.
        """
        head = engines.index(self.engine)
        head |= _tokens(self.waits, engines) << WAITS_AT | _tokens(self.posts, engines) << POSTS_AT
        operands = operand_bits(self.engine, self.fields)
        return (head | operands << HEADER_BITS).to_bytes(COMMAND_BYTES, "little")


def operand_bits(engine: str, fields: Mapping[str, int]) -> int:
    """Operands as the engine takes them, the first lowest; each is stored modulo its width.

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
    """The commands with the tokens that keep every read behind its writes and every write behind its reads.

    A command waits for the newest command of every other engine whose bytes clash with its own.
    Per pair of engines these edges never cross, so a plain count of tokens matches them in order.
    A command only ever waits for earlier ones, so the list cannot deadlock. The engine with the ring
    starts loading a command while the one before still writes; so it waits for itself too.
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
    """Who touched some bytes.

    Attributes:
        wrote, used: the newest command by engine of those that wrote, and of all.
        writers, users: these of all bytes that clash with these.
    """

    __slots__ = ("used", "users", "writers", "wrote")

    def __init__(self) -> None:
        self.wrote: dict[str, int] = {}
        self.used: dict[str, int] = {}
        self.writers: list[dict[str, int]] = []
        self.users: list[dict[str, int]] = []

    def clash(self, other: "_Access") -> None:
        """They share bytes with others."""
        self.writers.append(other.wrote)
        self.users.append(other.used)


class _Touched(dict[Span, _Access]):
    """Who touched bytes of the on-chip memories, by all the bytes that were asked for."""

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
