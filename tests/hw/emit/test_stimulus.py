import numpy as np
import pytest

from codesign.hw.emit.stimulus import ROOM, cut, pack, place


@pytest.mark.parametrize(("rows", "words"), [(1, ROOM), (ROOM, 1), (ROOM // 2, 2), (3, 5), (7, ROOM // 7)])
@pytest.mark.parametrize("slot", [0, 1])
def test_rows_lie_apart_and_within_their_slot(slot: int, rows: int, words: int, rng: np.random.Generator) -> None:
    for _ in range(50):
        base, stride = place(rng, slot, rows, words)
        assert stride >= words
        assert slot * ROOM <= base
        assert base + stride * (rows - 1) + words <= (slot + 1) * ROOM


def test_rows_use_the_slot_to_its_ends(rng: np.random.Generator) -> None:
    bases = {place(rng, 1, 1, ROOM - 2)[0] for _ in range(100)}
    assert bases == {ROOM, ROOM + 1, ROOM + 2}


def test_words_of_a_result_end_with_their_part() -> None:
    found = [(row, index, word.values.tolist()) for row, index, word in cut(np.arange(20).reshape(2, 10), 3, 5)]
    one = [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9]]
    assert found == [(row, i, [10 * row + v for v in part]) for row in range(2) for i, part in enumerate(one)]


def test_elements_are_packed_from_the_lowest_bits() -> None:
    assert pack(np.array([[1, -1, 127, -128], [0, 2, 0, 0]]), 8) == [0x807FFF01, 0x200]
