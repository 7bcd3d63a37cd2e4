"""What memory and rings hold back of the weights of all linear layers, which come one behind the other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from codesign.target.kernel import Number, Params, maximum
from codesign.timing.bound.memory import FREE, Rates
from codesign.timing.simulate import BURST_BYTES

LATEST = 3
"""Tiles that are looked at as to whether they hold back weights; only the latest matter."""


class Freed(NamedTuple):
    """A tile that gives its room in the rings back in no cycle before ``at``, so no later tile does.

    Attributes:
        tile, word: its number and that of its first word, of all weights in order.
        at: the cycle.
    """

    tile: Number
    word: Number
    at: Number


class Cut(NamedTuple):
    """How a layer's weights are cut.

    Attributes:
        ib, spacing: words and cycles of a tile.
        all, tiles, blocks, last: tiles of the layer and of a block; blocks; tiles of the last block.
        passes: times that the array goes over a block.
        freed: cycles from the begin of a tile in the last pass until it gives its room back.
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
    """The weights up to now, and the latest tiles that gave back their room.

    Args:
        rates: of the memory.
        linear: parameters of the linear engine.

    Attributes:
        known: whether the rings' words are; if not, they and the blocks of weights may be any.
        tiles, words: of all weights up to now.
        bursts: of full length that brought them, at least.
        freed: some tiles in order.
        came: cycle before which the weights up to now were not all there.
    """

    def __init__(self, rates: Rates, linear: Params) -> None:
        self.rates, self.linear = rates, linear
        self._bytes: Number = linear["t_in"] * linear["t_out"]
        self.known = bool(np.min(linear["ring_words"]) < FREE)
        self.tiles: Number = 0
        self.words: Number = 0
        self.bursts: Number = 0
        self.even: Number = 0
        self.freed: list[Freed] = []
        self.came: Number = 0

    def take(self, cut: Cut) -> Freed:
        """The next layer; returns where it begins."""
        before = Freed(self.tiles, self.words, 0)
        self.tiles, self.words = self.tiles + cut.all, self.words + cut.all * cut.ib
        if self.known:
            others: Number = (cut.blocks - 1) * self._whole_bursts(cut.tiles, cut.ib)
            self.bursts = self.bursts + others + self._whole_bursts(cut.last, cut.ib)
            odd: Any = cut.last * self.linear["t_out"] * (8 + self.linear["t_in"] * cut.ib) % BURST_BYTES
            self.even = (odd == 0) * 1
        else:
            self.bursts = self.bursts + cut.all * self._whole_bursts(1, cut.ib)
        return before

    def put_off(self, late: Number, tiles: Number, words: Number, bursts: Number) -> None:
        """So many cycles later as much more has come as did until now, and the latest tiles are behind it."""
        self.tiles, self.words, self.bursts = self.tiles + tiles, self.words + words, self.bursts + bursts
        self.freed = [Freed(tile + tiles, word + words, at + late) for tile, word, at in self.freed[-LATEST:]]
        self.came = self.came + late

    def fetched(self) -> Number:
        """Bytes of all tables and weights up to now."""
        p = self.linear
        found: Number = 8 * p["t_out"] * self.tiles + p["t_in"] * p["t_out"] * self.words
        return found

    def arrival(self, early: Sequence[tuple[Number, Number]]) -> Number:
        """Cycle before which the last of the weights up to now cannot be there.

        The memory has a rate and a latency; and when a ring is full, a word is asked for only after the word in
        its place was there and used.

        Args:
            early: bus words of loads that are asked for before all that lies so many bytes behind the first weights.
        """
        p, rates = self.linear, self.rates
        turns = maximum((self.words - 1) // p["ring_words"], (self.tiles - 1) // p["table_words"])
        size, bursts = self.fetched(), self.bursts
        for words, behind in early:
            late: Any = (self.fetched() > behind) * words * rates.word
            size, bursts = size + late, bursts + late // BURST_BYTES
        moved = rates.moved(size, bursts, self.even)
        return rates.begin + 1 + rates.latency + maximum(moved, turns * rates.latency)

    def turned(self, cut: Cut, before: Freed, there: Number, start: Number) -> tuple[Number, Number]:
        """What the rings hold back in a layer that the array cannot begin before a cycle.

        Args:
            cut: of the layer, the last that was taken.
            before: where it begins.
            there: cycle before which its last weights are not there at any rate.
            start: the cycle before which the array cannot begin.

        Returns:
            Cycle before which its last weights are not there, and before which the array has not gone once over
            its last block.
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
        """Tells when the weights of the layer that the array has ended give back their room.

        In a last pass that is not the only one all weights are there, so it has no gaps.
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
        """Cycle before which the array has not gone over a layer of one pass, where every tile gives back its room."""
        ring: Any = self.linear["ring_words"]
        fit = maximum(ring // cut.ib, 1)
        late = (fit + 1) * cut.ib - ring
        found = (cut.all - 1) // fit * (late > 0) * (cut.freed + self._brought(late))
        several, more = (cut.blocks > 1) * 1, (cut.blocks > 2) * 1
        inner = self._turn(cut, cut.tiles) + (cut.blocks - 3) * self._turn(cut, cut.tiles, asked=True)
        turns = more * (inner + self._turn(cut, cut.last, asked=True)) + (several - more) * self._turn(cut, cut.last)
        return start + cut.spacing + maximum(found, turns + several * (cut.last - 1) * cut.spacing)

    def _turn(self, cut: Cut, tiles: Number, *, asked: bool = False) -> Number:
        """Cycles from the first tile of a block of one pass to that of the next, of so many tiles.

        The next block's weights are asked for when enough tables of this one are given back. Its tiles come one
        behind the other, and, if its own weights were asked for like that, no faster than these.
        """
        late: Any = tiles - (self.linear["table_words"] - cut.tiles)
        one_by_one = cut.freed + (late - 1) * cut.spacing + self._brought(cut.ib)
        weights = cut.freed + self._brought(late * cut.ib) if asked else 0
        found: Number = (late > 0) * maximum(one_by_one, weights)
        return found

    def _back(self, cut: Cut, tiles: Number) -> Number:
        """Cycles from the begin of a block's last pass before which the next, of so many tiles, is not all there."""
        p: Any = self.linear
        late: Any = tiles - (p["table_words"] - cut.tiles)
        found = (late > 0) * (cut.freed + (late - 1) * cut.spacing + self._brought(tiles * cut.ib))
        words: Any = (tiles + cut.tiles) * cut.ib - p["ring_words"]
        return maximum(found, (words > 0) * (cut.freed + self._brought(words)))

    def _asked(self, tiles: Any) -> Number:
        """Cycle before which the weights of a fetch are not asked for, whose table is the last of so many tiles of all.

        That is behind all of its table, and nothing comes that lies further behind a tile that is not done with than
        the ring is long.
        """
        asked: Number = 0
        for tile, _, at in self.freed[-LATEST:]:
            asked = maximum(asked, (tiles - self.linear["table_words"] > tile) * at)
        return asked

    def _held_back(self, asked: Any, words: Any, own: Number) -> Number:
        """Cycle before which weights are not there, up to so many words of all; 0 if they may be all along.

        Args:
            asked: cycle before which they are not asked for.
            words: up to which they are meant.
            own: words of their fetch up to there.
        """
        found: Number = (asked > 0) * (asked + self._brought(own))
        free = words - self.linear["ring_words"]
        for _, word, at in self.freed[-LATEST:]:
            late = free - word
            found = maximum(found, (late > 0) * (at + self._brought(late)))
        return found

    def _brought(self, words: Any) -> Number:
        """Cycles from when there is room before which so many weight words are not all there."""
        return self.rates.come(words * self._bytes)

    def _flow(self, words: Any) -> Number:
        """Cycles in which so many weight words come at least, behind others."""
        size = words * self._bytes
        return maximum(self.rates.granted(size), maximum(size - BURST_BYTES, 0) // self.rates.word)

    def _whole_bursts(self, tiles: Number, ib: Number) -> Number:
        """Bursts of full length of a block's fetch, tables and weights one behind the other from a page on."""
        p = self.linear
        table, weights = 8 * p["t_out"] * tiles, p["t_in"] * p["t_out"] * ib * tiles
        rest: Any = maximum(weights - -table % BURST_BYTES, 0)
        found: Number = table // BURST_BYTES + rest // BURST_BYTES
        return found
