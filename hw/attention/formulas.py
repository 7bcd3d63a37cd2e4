"""Closed forms of the attention engine: its latency, pass lengths, the sizes of its parts, and its buffers.

All take integers or arrays of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from codesign.hw.primitives.memory import READ_LATENCY, bram18, log2, lutram, row_memory
from codesign.hw.primitives.multiply import PackedDot, Requantizer
from codesign.ir.network import MASKS
from codesign.target.kernel import Number, Params, Work, ceil_div, maximum, minimum

CHAIN = 4
"""Most products of a packed dot; both operands use the full int8 range."""
EXP_LATENCY = 2
DIVIDER_LATENCY = 19
WEIGHT_LATENCY = READ_LATENCY + Requantizer.LATENCY + EXP_LATENCY
"""Cycles from reading scores to their exponentials."""
SUM_LATENCY = PackedDot.latency(1) + 1
"""Cycles from an exponential and its values to their sums."""
WRITE_LATENCY = DIVIDER_LATENCY + Requantizer.LATENCY
"""Cycles from sums to the word that is written."""
_FULL, _SLIDING = MASKS.index("full"), MASKS.index("sliding")


def values(source: Mapping[str, Number], *names: str) -> tuple[Any, ...]:
    """Looks up several names; untyped, since arithmetic on integers or arrays is beyond the type checker."""
    return tuple(source[name] for name in names)


def score_latency(t_a: Any) -> Any:
    """Cycles from the address of queries to complete scores."""
    dot = PackedDot.latency(0) + minimum(t_a, CHAIN) + (t_a > 4) + (t_a > 8) + (t_a > 16)
    return 2 * READ_LATENCY + dot + 1


def latency(t_a: Any) -> Any:
    """Fixed cycles of a command, without its slots and the rows of the last group."""
    setup = 2 * Requantizer.LATENCY + 9
    return setup + score_latency(t_a) + WEIGHT_LATENCY + SUM_LATENCY + WRITE_LATENCY


class QueryGroups:
    """Pass lengths of the groups of query rows, summed in closed form.

    Group ``g`` starts at row ``x = offset + g * n`` and has ``r`` rows (n, fewer in the last). It has
    ``min(x + r, keys) - max(0, x - window + 1)`` keys; its pass length is the larger of that and n.
    A causal mask is a sliding one with a window past all rows; a full mask a causal one past all keys.
    """

    def __init__(self, n_a: Any, work: Work) -> None:
        rows, keys, mask, window, offset = values(work, "rows", "keys", "mask", "window", "query_offset")
        self.n, self.rows, self.keys = n_a, rows, keys
        self.offset = _choose(mask == _FULL, keys, offset)
        self.window = _choose(mask == _SLIDING, window, self.offset + rows)
        self.count = ceil_div(rows, n_a)
        self.most = maximum(minimum(n_a + self.window - 1, keys), n_a)

    def last_rows(self) -> Any:
        """Rows of the last group."""
        return self.rows - (self.count - 1) * self.n

    def passes(self, group: Any) -> Any:
        """Pass length of one group."""
        first = self.offset + group * self.n
        end = minimum(first + minimum(self.n, self.rows - group * self.n), self.keys)
        return maximum(end - maximum(first - self.window + 1, 0), self.n)

    def total(self) -> Any:
        """Sum of the pass lengths: ``most`` each, less rise and fall; the last group is added separately."""
        others = self.count - 1
        reach = self.keys + self.window - 1
        rise = _ramp(self.most - self.n - self.offset, self.n, others)
        last = self.offset + (others - 1) * self.n
        fall = _ramp(last - reach + self.most, self.n, others) - _ramp(last - reach + self.n, self.n, others)
        return others * self.most - rise - fall + self.passes(others)

    def longest(self) -> Any:
        """Largest pass length: at the end of the rise, one before it, or in the last group."""
        last = self.count - 1
        top = minimum(maximum(ceil_div(self.most - self.n - self.offset, self.n), 0), last)
        best = maximum(self.passes(top), self.passes(maximum(top - 1, 0)))
        return maximum(best, self.passes(last))


def _ramp(start: Any, step: Any, count: Any) -> Any:
    """``sum(max(0, start - g * step) for g in range(count))``.

    >>> _ramp(7, 3, 5), _ramp(7, 3, 2), _ramp(-1, 3, 2)
    (12, 11, 0)
    """
    terms: Any = minimum(maximum(ceil_div(start, step), 0), count)
    return terms * start - step * (terms * (terms - 1) // 2)


def _choose(condition: Any, a: Any, b: Any) -> Any:
    """``a`` where the condition holds, else ``b``; keeps Python integers."""
    if isinstance(condition, bool):
        return a if condition else b
    return np.where(condition, a, b)


class Sizes:
    """Widths and counts of the engine's parts."""

    def __init__(self, params: Params) -> None:
        t_a, n_a, keys, db = values(params, "t_a", "n_a", "max_keys", "db_max")
        self.t_a, self.n_a, self.key_bits, self.block_bits = t_a, n_a, log2(keys), log2(db)
        self.score_bits, self.total_bits = 16 + log2(t_a * db), 8 + self.key_bits
        self.sum_bits = t_a * (self.total_bits + 8)
        self.chain = minimum(t_a, CHAIN)
        self.chains = t_a // self.chain
        self.dots, self.products = n_a // 2 * self.chains, n_a * ceil_div(t_a, 2)

    def units(self) -> dict[str, dict[str, Any]]:
        """Unit counts that are the same for LUTs and flip-flops."""
        n_a, score_bits = self.n_a, self.n_a * self.score_bits
        tree = n_a * (20 * (self.chains - 1) - log2(self.chains))
        return {
            "score_pair": {"score bits": score_bits, "tree bits": tree},
            "softmax_pair": {"score bits": score_bits, "rows": n_a},
            "requantizer": {"setup": 1, "rows": n_a, "columns": self.t_a},
            "value_lane": {"sum bits": n_a * self.sum_bits, "total bits": n_a * self.total_bits, "rows": n_a},
            "reciprocal": {"engine": 1, "total bits": self.total_bits},
            "attention": {
                "engine": 1,
                "rows": n_a,
                "lane bits": n_a * (self.sum_bits + self.total_bits),
                "key bits": self.key_bits,
            },
        }


def buffers(params: Params) -> tuple[Any, Any, Any]:
    """Block RAM halves, LUTs and flip-flops of the score buffer, the query buffer and the ring of sums.

    Queries have a write enable per row, so each row is whole bytes: 8 bits wide in LUT RAM, 9 in block RAM.
    """
    size, (t_a, n_a, keys) = Sizes(params), values(params, "t_a", "n_a", "max_keys")
    word, depth = n_a * (size.score_bits + 1), 2 * 2**size.block_bits
    scores, sums = row_memory(word, word, 2 * keys), row_memory(size.sum_bits, size.sum_bits, 32)
    queries = bram18(9 * n_a * t_a, depth), n_a * lutram(8 * t_a, depth), 8 * n_a * t_a * (1 + (depth <= 64))
    halves, logic, registers = (sum(parts) for parts in zip(scores, sums, queries, strict=True))
    return halves, logic, registers
