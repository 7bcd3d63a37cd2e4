"""Earliest arrival of all linear layers' weights, fetched in order, as memory rate and ring room allow it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from codesign.target.kernel import Number, Params, maximum
from codesign.timing.bound.memory import FREE, Rates
from codesign.timing.simulate import BURST_BYTES

LATEST = 3
"""Tiles examined for holding back weights; only the latest matter."""


class Freed(NamedTuple):
    """The earliest cycle in which a tile, and so any later one, frees its room in the rings.

    Attributes:
        tile, word: index of the tile and of its first word among all weights in order.
        at: the cycle.
    """

    tile: Number
    word: Number
    at: Number


class Cut(NamedTuple):
    """The cut of a layer's weights into tiles and blocks.

    Attributes:
        ib, spacing: weight words and initiation interval of a tile.
        all, tiles, blocks, last: tiles of the layer and of a block; blocks; tiles of the last block.
        passes: passes of the array over a block.
        freed: cycles from a tile's start in the last pass until its room is freed.
    """

    ib: Number
    spacing: Number
    all: Number
    tiles: Number
    blocks: Number
    last: Number
    passes: Number
    freed: Number


class Rings:
    """The weights fetched so far, and the latest tiles that freed their room.

    Args:
        rates: the memory's best-case rates.
        linear: parameters of the linear engine.

    Attributes:
        known: whether the ring sizes are known; if not, the bound holds for any ring sizes and any cut into blocks.
        tiles, words: of all weights so far.
        bursts: fewest full-length bursts that brought them.
        freed: tiles that freed their room, in order.
        came: earliest cycle in which all weights so far have arrived.
    """

    def __init__(self, rates: Rates, linear: Params) -> None:
        self.rates, self.linear = rates, linear
        self._bytes: Number = linear["t_in"] * linear["t_out"]
        self.known = bool(np.min(linear["ring_words"]) < FREE)
        self.tiles: Number = 0
        self.words: Number = 0
        self.bursts: Number = 0
        self.last_full: Number = 0
        self.freed: list[Freed] = []
        self.came: Number = 0

    def take(self, cut: Cut) -> Freed:
        """Appends the next layer; returns where its weights start."""
        before = Freed(self.tiles, self.words, 0)
        self.tiles, self.words = self.tiles + cut.all, self.words + cut.all * cut.ib
        if self.known:
            others: Number = (cut.blocks - 1) * self._whole_bursts(cut.tiles, cut.ib)
            self.bursts = self.bursts + others + self._whole_bursts(cut.last, cut.ib)
            rest: Any = cut.last * self.linear["t_out"] * (8 + self.linear["t_in"] * cut.ib) % BURST_BYTES
            self.last_full = (rest == 0) * 1
        else:
            self.bursts = self.bursts + cut.all * self._whole_bursts(1, cut.ib)
        return before

    def put_off(self, late: Number, tiles: Number, words: Number, bursts: Number) -> None:
        """Advances past skipped repeats: adds to the totals, and moves the latest freed tiles by ``late`` cycles."""
        self.tiles, self.words, self.bursts = self.tiles + tiles, self.words + words, self.bursts + bursts
        self.freed = [Freed(tile + tiles, word + words, at + late) for tile, word, at in self.freed[-LATEST:]]
        self.came = self.came + late

    def fetched(self) -> Number:
        """Bytes of all tables and weights so far."""
        p = self.linear
        found: Number = 8 * p["t_out"] * self.tiles + p["t_in"] * p["t_out"] * self.words
        return found

    def arrival(self, early: Sequence[tuple[Number, Number]]) -> Number:
        """Earliest arrival of the last of the weights so far.

        The memory has a rate and a latency; and with a full ring, a word is requested only after the word in its
        place has arrived and been used.

        Args:
            early: per load, its bus words, and the byte offset in fetch order beyond which weights come after it.
        """
        p, rates = self.linear, self.rates
        turns = maximum((self.words - 1) // p["ring_words"], (self.tiles - 1) // p["table_words"])
        size, bursts = self.fetched(), self.bursts
        for words, behind in early:
            late: Any = (self.fetched() > behind) * words * rates.word
            size, bursts = size + late, bursts + late // BURST_BYTES
        moved = rates.moved(size, bursts, self.last_full)
        return rates.begin + 1 + rates.latency + maximum(moved, turns * rates.latency)

    def turned(self, cut: Cut, before: Freed, there: Number, start: Number) -> tuple[Number, Number]:
        """Applies the delays by full rings to the layer taken last.

        Args:
            cut: its cut.
            before: where its weights start.
            there: earliest arrival of its last weights without these delays.
            start: earliest start of the array on it.

        Returns:
            Earliest arrival of its last weights, and earliest end of the array's first pass over its last block.
        """
        whole, last, spacing = cut.tiles * cut.ib, cut.last * cut.ib, cut.spacing
        asked = self._asked(before.tile + cut.tiles)
        begin = self._held_back(asked, before.word + whole, whole)
        begin = maximum(begin, self.came + self._flow(whole))
        start = maximum(start, self._held_back(asked, before.word + cut.ib, cut.ib) + 1)
        first = maximum(start + cut.tiles * spacing, begin + 1 + spacing)
        between = (cut.passes - 2) * cut.tiles * spacing
        again: Any = (cut.passes > 1) * 1
        self.freed.append(before._replace(at=again * (first + between) + (1 - again) * start + cut.freed))
        there = maximum(there, self._held_back(self._asked(self.tiles), self.words, last))
        self.came = there = maximum(there, begin + self._flow(self.words - before.word - whole))
        step = maximum(2 * cut.tiles * spacing, self._back(cut, cut.tiles) + spacing)
        end = maximum((cut.tiles + cut.last) * spacing, self._back(cut, cut.last) + spacing)
        several: Any = (cut.blocks > 1) * 1
        chain = first + several * ((cut.blocks - 1) * between + (cut.blocks - 2) * step + end)
        found: Number = again * chain + (1 - again) * self._once(cut, start)
        return there, found

    def give_back(self, cut: Cut, end: Number) -> None:
        """Records when the weights of a layer that the array ended in cycle ``end`` free their room.

        In a last pass that is not the only one all weights are present, so it has no gaps.
        """
        again: Any = (cut.passes > 1) * 1
        begun = again * (end - cut.last * cut.spacing + cut.freed)
        first, words = self.freed[-1], cut.last * cut.ib
        if bool(np.max(cut.blocks) > 1):
            self.freed.append(Freed(self.tiles - cut.last, self.words - words, begun))
        else:
            self.freed[-1] = first._replace(at=maximum(first.at, begun))
        self.freed.append(Freed(self.tiles - 1, self.words - cut.ib, end - cut.spacing + cut.freed))

    def _once(self, cut: Cut, start: Number) -> Number:
        """Earliest end of the array's only pass over a layer; every tile of such a pass frees its room."""
        ring: Any = self.linear["ring_words"]
        fit = maximum(ring // cut.ib, 1)
        late = (fit + 1) * cut.ib - ring
        found = (cut.all - 1) // fit * (late > 0) * (cut.freed + self._arrival_cycles(late))
        several, more = (cut.blocks > 1) * 1, (cut.blocks > 2) * 1
        inner = self._turn(cut, cut.tiles) + (cut.blocks - 3) * self._turn(cut, cut.tiles, asked=True)
        turns = more * (inner + self._turn(cut, cut.last, asked=True)) + (several - more) * self._turn(cut, cut.last)
        return start + cut.spacing + maximum(found, turns + several * (cut.last - 1) * cut.spacing)

    def _turn(self, cut: Cut, tiles: Number, *, asked: bool = False) -> Number:
        """Fewest cycles from the first tile of a single-pass block to that of the next block of ``tiles`` tiles.

        The next block's weights are requested once enough tables of the first are freed. The first one's tiles run one
        by one and, if its own weights were requested that way (``asked``), no faster than these arrive.
        """
        late: Any = tiles - (self.linear["table_words"] - cut.tiles)
        one_by_one = cut.freed + (late - 1) * cut.spacing + self._arrival_cycles(cut.ib)
        weights = cut.freed + self._arrival_cycles(late * cut.ib) if asked else 0
        found: Number = (late > 0) * maximum(one_by_one, weights)
        return found

    def _back(self, cut: Cut, tiles: Number) -> Number:
        """Fewest cycles from the start of a block's last pass until the next block of ``tiles`` tiles has arrived."""
        p: Any = self.linear
        late: Any = tiles - (p["table_words"] - cut.tiles)
        found = (late > 0) * (cut.freed + (late - 1) * cut.spacing + self._arrival_cycles(tiles * cut.ib))
        words: Any = (tiles + cut.tiles) * cut.ib - p["ring_words"]
        return maximum(found, (words > 0) * (cut.freed + self._arrival_cycles(words)))

    def _asked(self, tiles: Any) -> Number:
        """Earliest request for the weights of a fetch whose table ends at tile ``tiles`` of all.

        They are requested after their whole table, and a table only once the tile a ring's length before is freed.
        """
        asked: Number = 0
        for tile, _, at in self.freed[-LATEST:]:
            asked = maximum(asked, (tiles - self.linear["table_words"] > tile) * at)
        return asked

    def _held_back(self, asked: Any, words: Any, own: Number) -> Number:
        """Earliest arrival of all weights up to word ``words``; 0 if no ring delays them.

        Args:
            asked: earliest request for them.
            words: word up to which they count, among all weights.
            own: words of their fetch up to there.
        """
        found: Number = (asked > 0) * (asked + self._arrival_cycles(own))
        free = words - self.linear["ring_words"]
        for _, word, at in self.freed[-LATEST:]:
            late = free - word
            found = maximum(found, (late > 0) * (at + self._arrival_cycles(late)))
        return found

    def _arrival_cycles(self, words: Any) -> Number:
        """Fewest cycles from when there is room until ``words`` weight words have arrived."""
        return self.rates.come(words * self._bytes)

    def _flow(self, words: Any) -> Number:
        """Fewest cycles in which ``words`` weight words arrive right after others."""
        size = words * self._bytes
        return maximum(self.rates.granted(size), maximum(size - BURST_BYTES, 0) // self.rates.word)

    def _whole_bursts(self, tiles: Number, ib: Number) -> Number:
        """Full-length bursts of a block's fetch: tables, then weights, from the start of a page."""
        p = self.linear
        table, weights = 8 * p["t_out"] * tiles, p["t_in"] * p["t_out"] * ib * tiles
        rest: Any = maximum(weights - -table % BURST_BYTES, 0)
        found: Number = table // BURST_BYTES + rest // BURST_BYTES
        return found
