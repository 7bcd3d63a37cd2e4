"""The command format of the accelerator: engines, memories, operand fields, tokens.

A command is 64 bytes, little-endian. Word 0 holds the engine's number; word 1 four bits per
engine that say how many tokens the command takes from it; word 2 four bits per engine that
say how many tokens it gives when done; from bit 96 on follow the engine's operands.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

COMMAND_BYTES = 64
HEADER_BITS = 96
OPERAND_BITS = 8 * COMMAND_BYTES - HEADER_BITS
MAX_TOKENS = 15

ENGINES = ("load", "store", "fetch", "linear", "attention", "vector")
"""Engines in the order of their numbers."""
COMPUTING = ("linear", "attention", "vector")
"""Those whose commands are a kernel's work; the others move data."""
LOADS = ("input", "position", "affine", "lut")
"""Memories that the load engine writes, by number; the last is the linear engine's 8-bit tables."""
STORES = ("output", "residual", "skip")
"""Memories that the store engine reads, by number."""
SOURCES = ("input", "normed", "context", "hidden")
"""Memories that the linear engine reads rows from, by number."""
TARGETS = ("output", "hidden", "query", "key", "value", "residual")
"""Memories that the linear engine writes, by number."""
ADDENDS = ("none", "residual", "position", "skip")
"""Memories that the linear engine adds rows of, by number."""
NORM_SOURCES = ("residual",)
"""Memories that the vector engine reads rows from; it takes no number."""
WIDE = ("residual", "position", "skip")
"""Memories with 16 bits per element; the others have 8."""

RELEASE, USE_TABLE = 1, 2
"""Flags of a linear command. RELEASE frees the weights behind the last row group, without it the next
command uses them again; USE_TABLE sends the result through an 8-bit table."""
RMS, WIDE_RESULT = 1, 2
"""Flags of a vector command. RMS: root-mean-square norm instead of layer norm; WIDE_RESULT: the result has
16 bits and goes to the memory ``skip``, without it 8 bits to ``normed``."""

_TRANSFER = {"memory": 8, "address": 24, "words": 24, "dram": 40}
FIELDS: Mapping[str, Mapping[str, int]] = {
    # memory: number in LOADS or STORES; address: first word; words: bus words; dram: byte address.
    "load": _TRANSFER,
    "store": _TRANSFER,
    # Bus words of requantization table and of weights, one behind the other from byte address dram.
    "fetch": {"table_words": 24, "weight_words": 24, "dram": 40},
    # kw: words per source row; ib: weight words per tile; ob: tiles per row group; table: number of the
    # 8-bit table; bases and strides in words of their port; addend: number in ADDENDS.
    "linear": {
        "rows": 16, "source": 8, "target": 8, "kw": 16, "ib": 16, "ob": 16, "flags": 8, "table": 8,
        "source_base": 24, "source_stride": 24, "target_base": 24, "target_stride": 24,
        "addend_base": 24, "addend_stride": 24, "low": 16, "high": 16, "addend": 8,
    },
    # db: words per head and row; query_offset: index of query row 0 as the mask counts it; mask: 0 full,
    # 1 causal, 2 sliding.
    "attention": {
        "rows": 16, "keys": 16, "heads": 8, "db": 8, "query_offset": 16, "q_base": 24, "k_base": 24, "v_base": 24,
        "o_base": 24, "mask": 8, "window": 16, "score_multiplier": 24, "score_shift": 8, "out_multiplier": 24,
        "out_shift": 8,
    },
    "vector": {
        "rows": 16, "d": 16, "r_base": 24, "r_stride": 16, "g_base": 24, "x_base": 24, "x_stride": 16, "shift": 8,
        "flags": 8, "eps": 48,
    },
}  # fmt: skip
"""Operand fields of each engine in order, in bits; values are stored modulo their width."""


_NO_TOKENS: Mapping[str, int] = {}


class Span(NamedTuple):
    """Bytes ``start`` to ``stop`` of an on-chip memory."""

    memory: str
    start: int
    stop: int


class Command(NamedTuple):
    """One command before it is bytes.

    Attributes:
        engine: name in `ENGINES`.
        fields: operands by name, see `FIELDS`; those left out are 0.
        reads, writes: on-chip bytes that it touches.
        label: the layer it works for.
        waits, posts: tokens per engine name.
    """

    engine: str
    fields: Mapping[str, int]
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    label: str = ""
    waits: Mapping[str, int] = _NO_TOKENS
    posts: Mapping[str, int] = _NO_TOKENS

    def encode(self) -> bytes:
        """The 64 bytes.

        Raises:
            ValueError: an unknown field, or a value that its field does not hold.
        """
        value = ENGINES.index(self.engine) | _tokens(self.waits) << 32 | _tokens(self.posts) << 64
        at = HEADER_BITS
        left = dict(self.fields)
        for name, bits in FIELDS[self.engine].items():
            operand = left.pop(name, 0)
            if not -(1 << (bits - 1)) <= operand < 1 << bits:
                raise ValueError(f"{self.engine} {name} is {operand}; legal: {bits} bits")
            value |= (operand % (1 << bits)) << at
            at += bits
        if left:
            raise ValueError(f"{self.engine} has no operand {', '.join(left)}")
        return value.to_bytes(COMMAND_BYTES, "little")


def work_of(command: Command, units: Mapping[str, int]) -> dict[str, int]:
    """The work of a command of one of the engines `COMPUTING`, as the formulas of its kernel take it.

    Padding counts: a command says how many tiles and words there are, not how much of them is used.

    Args:
        command: its operands.
        units: columns of a weight word (t_in), of a tile (t_out) and of a word of a head (t_a).
    """
    said = defaultdict(int, command.fields)
    if command.engine == "linear":
        return {"rows": said["rows"], "k": said["ib"] * units["t_in"], "n": said["ob"] * units["t_out"]}
    if command.engine == "attention":
        names = ("rows", "keys", "heads", "mask", "window", "query_offset")
        return {**{name: said[name] for name in names}, "head_dim": said["db"] * units["t_a"]}
    return {"rows": said["rows"], "d": said["d"], "wide": int(said["flags"] & WIDE_RESULT != 0)}


def _tokens(counts: Mapping[str, int]) -> int:
    value = 0
    for engine, count in counts.items():
        if not 0 <= count <= MAX_TOKENS:
            raise ValueError(f"{count} tokens; legal: 0 to {MAX_TOKENS}")
        value |= count << 4 * ENGINES.index(engine)
    return value


def ordered(commands: Iterable[Command]) -> list[Command]:
    """The commands with the tokens that keep every read behind its writes and every write behind its reads.

    A command waits for the newest command of every other engine whose bytes clash with its own.
    Per pair of engines these edges never cross, so a plain count of tokens matches them in order.
    A command only ever waits for earlier ones, so the list cannot deadlock. The linear engine
    starts loading a command while the one before still writes; so it waits for itself too.
    """
    before = list(commands)
    waits: list[dict[str, int]] = [{} for _ in before]
    posts: list[dict[str, int]] = [{} for _ in before]
    follows = {engine: dict.fromkeys(ENGINES, -1) for engine in ENGINES}
    for engine in set(ENGINES) - {"linear"}:
        follows[engine][engine] = len(before)
    touched = _Touched()
    for index, (engine, _, reads, writes, _, _, _) in enumerate(before):
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
    found = zip(before, waits, posts, strict=True)
    return [
        Command(engine, fields, reads, writes, label, wait, post)
        for (engine, fields, reads, writes, label, _, _), wait, post in found
    ]


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
