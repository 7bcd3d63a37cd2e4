"""The command format of the accelerator: engines, memories, operand fields, tokens.

A command is 64 bytes, little-endian. Word 0 holds the engine's number; word 1 four bits per
engine that say how many tokens the command takes from it; word 2 four bits per engine that
say how many tokens it gives when done; from bit 96 on follow the engine's operands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

COMMAND_BYTES = 64
HEADER_BITS = 96
OPERAND_BITS = 8 * COMMAND_BYTES - HEADER_BITS
MAX_TOKENS = 15

ENGINES = ("load", "store", "fetch", "linear", "attention", "vector")
"""Engines in the order of their numbers."""
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


class Span(NamedTuple):
    """Bytes ``start`` to ``stop`` of an on-chip memory."""

    memory: str
    start: int
    stop: int


@dataclass(frozen=True)
class Command:
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
    waits: Mapping[str, int] = field(default_factory=dict)
    posts: Mapping[str, int] = field(default_factory=dict)

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


def _tokens(counts: Mapping[str, int]) -> int:
    value = 0
    for engine, count in counts.items():
        if not 0 <= count <= MAX_TOKENS:
            raise ValueError(f"{count} tokens; legal: 0 to {MAX_TOKENS}")
        value |= count << 4 * ENGINES.index(engine)
    return value


def ordered(commands: list[Command]) -> list[Command]:
    """The commands with the tokens that keep every read behind its writes and every write behind its reads.

    A command waits for the newest command of every other engine whose bytes clash with its own.
    Per pair of engines these edges never cross, so a plain count of tokens matches them in order.
    A command only ever waits for earlier ones, so the list cannot deadlock. The linear engine
    starts loading a command while the one before still writes; so it waits for itself too.
    """
    waits: list[dict[str, int]] = [{} for _ in commands]
    posts: list[dict[str, int]] = [{} for _ in commands]
    newest: dict[tuple[str, str], int] = {}
    seen: dict[str, dict[str, list[_Access]]] = {}
    for index, command in enumerate(commands):
        for engine, producer in _clashes(command, seen, newest).items():
            newest[engine, command.engine] = producer
            waits[index][engine] = 1
            posts[producer][command.engine] = 1
        for spans, writes in ((command.reads, False), (command.writes, True)):
            for span in spans:
                accesses = seen.setdefault(span.memory, {}).setdefault(command.engine, [])
                accesses.append((index, span.start, span.stop, writes))
    return [
        Command(c.engine, c.fields, c.reads, c.writes, c.label, wait, post)
        for c, wait, post in zip(commands, waits, posts, strict=True)
    ]


_Access = tuple[int, int, int, bool]
"""Index of a command, the first byte that it touches, the first behind, and whether it writes."""


def _clashes(
    me: Command, seen: Mapping[str, Mapping[str, list[_Access]]], newest: Mapping[tuple[str, str], int]
) -> dict[str, int]:
    """The newest earlier command per engine that this one must follow, if its engine does not follow it already."""
    found: dict[str, int] = {}
    for spans, writes in ((me.reads, False), (me.writes, True)):
        for memory, start, stop in spans:
            for engine, accesses in seen.get(memory, {}).items():
                if engine == me.engine and engine != "linear":
                    continue
                known = found.get(engine, newest.get((engine, me.engine), -1))
                for index, first, last, written in reversed(accesses):
                    if index <= known:
                        break
                    if (written or writes) and first < stop and start < last:
                        found[engine] = index
                        break
    return found
