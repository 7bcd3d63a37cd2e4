"""Passes of the linear engine: some rows are loaded, then the array sweeps the weights once for all of them."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from codesign.target.kernel import Number, ceil_div, maximum, minimum
from codesign.timing.bound.row_groups import replace_leading, take_leading


class Passes:
    """Passes of the array over a block of weights for a row group, at most ``n_l`` rows each.

    Attributes:
        count, most: passes, and the most of any design.
        full, last: rows of every pass but the last, and of the last one.
    """

    def __init__(self, rows: Number, n_l: Number) -> None:
        n_l = take_leading(n_l, rows)
        self.count = ceil_div(rows, n_l)
        self.most = int(np.max(self.count))
        self.full = minimum(n_l, rows)
        self.last: Number = rows - (self.count - 1) * n_l

    @cached_property
    def ends(self) -> tuple["_Turns", "_Turns"]:
        """Pass counts up to the last pass and to the one before, at least two each."""
        return _turns(maximum(self.count, 2)), _turns(maximum(self.count - 1, 2))


class _Turns(NamedTuple):
    """A number of passes, at least two, that alternate between two buffers.

    Attributes:
        two, four: 1 for exactly two passes, and for four or more.
        more: passes after the second.
        pairs, odd: pairs of these, and 1 if one is left.
        others, others_odd: the same for all passes after the first.
    """

    two: Number
    four: Number
    more: Number
    pairs: Number
    odd: Number
    others: Number
    others_odd: Number


def _turns(count: Any) -> _Turns:
    more = count - 2
    return _Turns((more == 0) * 1, (more > 1) * 1, more, more // 2, more % 2, (count - 1) // 2, (count - 1) % 2)


class Rows(NamedTuple):
    """Values shared by all row groups of a layer.

    Attributes:
        constants: first cycle in which the table and the rows to add are loaded.
        kw: bus words of a source row.
        period, blocks: cycles of a pass over all weights, and the number of weight blocks.
        once, turn: earliest end of the array's first pass over its last block, and cycles of a further such pass.
    """

    constants: Number
    kw: Number
    period: Number
    blocks: Number
    once: Number
    turn: Number

    def take_leading(self, like: Number) -> "Rows":
        """Values of the leading designs, as many as ``like`` has."""
        return Rows(*(take_leading(each, like) for each in self))


class Array:
    """Timing of the array and of the row loader before it.

    Rows are double-buffered: those of a pass load after the end of the last pass but one; its tiles take a period.

    Args:
        n_l: most rows of a pass.

    Attributes:
        loader, free: first cycles in which they can go on.
        ends: cycles in which the last two passes ended, older first.
    """

    def __init__(self, n_l: Number) -> None:
        self.loader: Number = 0 * n_l
        self.free: Number = 0 * n_l
        self.ends: tuple[Number, Number] = 0 * n_l - 1, 0 * n_l - 1

    def put_off(self, late: Number) -> None:
        """Delays everything by ``late`` cycles."""
        self.loader, self.free = self.loader + late, self.free + late
        self.ends = self.ends[0] + late, self.ends[1] + late

    def busy(self, until: Number) -> None:
        """Keeps the array busy until a cycle, for the leading designs or all."""
        self.free = replace_leading(self.free, maximum(take_leading(self.free, until), until))

    def run(self, t: Number, rows: Number, passes: Passes, work: Rows) -> Number:
        """Runs the passes of a command accepted in cycle ``t``; returns when the array is free again."""
        loader, array, before, behind = (take_leading(each, rows) for each in (self.loader, self.free, *self.ends))
        full = passes.full * work.kw
        start = maximum(maximum(loader, t + 1), before + 1)
        end = maximum(array, start + full + 2) + work.period
        earlier = behind + 1
        if passes.most > 1:
            end, earlier = self._several(passes, end, maximum(start + full, earlier), earlier, work)
        loader = maximum(loader, start + rows * work.kw * work.blocks)
        array = maximum(end, loader + 3)
        self.loader, self.free = replace_leading(self.loader, loader), replace_leading(self.free, array)
        self.ends = replace_leading(self.ends[0], earlier - 1), replace_leading(self.ends[1], array - 1)
        return array

    @staticmethod
    def _several(passes: Passes, one: Number, then: Number, earlier: Number, work: Rows) -> tuple[Number, Number]:
        """Ends of the last pass and of the one before it; a design with one pass keeps ``one`` and ``earlier``."""
        period, full = work.period, passes.full * work.kw
        short = full - passes.last * work.kw
        detour = full + 2 + period

        def until(turns: _Turns, short: Any) -> Any:
            """End of the last of these passes, whose rows load ``short`` cycles faster than a full one's."""
            second = maximum(one, then + full - short * turns.two + 2) + period
            found = maximum(second + turns.more * period, then + turns.more * full + full - short + 2 + period)
            pairs: Any = second + turns.pairs * detour + turns.odd * period - short * turns.four
            others: Any = one + turns.others * detour + turns.others_odd * period - short
            return maximum(found, maximum(pairs, others))

        last, before = passes.ends
        end, earlier_end = until(last, short), until(before, 0)
        several, third = (passes.count > 1) * 1, (passes.count > 2) * 1
        found: Any = third * earlier_end + (several - third) * one
        return several * end + (1 - several) * one, found + (1 - several) * earlier
