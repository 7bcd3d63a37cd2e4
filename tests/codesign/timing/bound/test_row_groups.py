"""Groups of rows of many designs are those of each, and what is said of the first designs stays theirs."""

import numpy as np

from codesign.timing.bound.row_groups import Done, RowGroups, replace_leading, take_leading

_SIZES = np.array([1, 2, 3, 3, 5, 7, 16, 20])


def test_designs_that_have_a_group_come_first() -> None:
    for rows in (1, 2, 7, 16, 17):
        many, alone = RowGroups(rows, _SIZES), [RowGroups(rows, int(size)) for size in _SIZES]
        assert np.asarray(many.count).tolist() == [each.count for each in alone] == [len(each.list) for each in alone]
        assert np.asarray(many.last).tolist() == [each.last for each in alone]
        for number, group in enumerate(many.list):
            theirs = [each.list[number] for each in alone if number < len(each.list)]
            assert np.asarray(group.rows).tolist() == [each.rows for each in theirs]
            assert np.asarray(group.first).tolist() == [each.first for each in theirs]
            assert group.number == number


def test_groups_cover_every_row_once() -> None:
    for size in range(1, 20):
        found = RowGroups(17, size).list
        assert [row for _, first, rows in found for row in range(first, first + rows)] == [*range(17)]


def test_what_is_new_of_the_first_designs_leaves_the_others() -> None:
    old = np.array([5, 6, 7])
    assert np.asarray(replace_leading(old, np.array([1, 2]))).tolist() == [1, 2, 7]
    assert np.asarray(replace_leading(0, np.array([1, 2]))).tolist() == [1, 2]
    assert replace_leading(3, 4) == 4
    assert np.asarray(take_leading(old, np.array([0]))).tolist() == [5]
    assert take_leading(9, np.array([0])) == 9


def test_rows_are_done_with_the_last_group_that_holds_any_of_them() -> None:
    rng, rows = np.random.default_rng(0), 17
    many = RowGroups(rows, _SIZES)
    ends = [np.cumsum(rng.integers(1, 9, len(RowGroups(rows, int(size)).list))) for size in _SIZES]
    done = Done(many, [np.array([end[number] for end in ends if number < len(end)]) for number in range(17)])
    assert np.asarray(done.all).tolist() == [end[-1] for end in ends]
    for row in range(rows):
        found = np.asarray(done.upto(np.full(len(_SIZES), row))).tolist()
        assert found == [end[row // size] for end, size in zip(ends, _SIZES, strict=True)]
        assert np.asarray(done.upto(row)).tolist() == found
    for first in (0, 3):
        for group in RowGroups(rows - first, _SIZES).list:
            last = np.asarray(first + group.first + group.rows - 1).tolist()
            want = [end[row // size] for end, size, row in zip(ends, _SIZES, last, strict=False)]
            assert np.asarray(done.of(group, first)).tolist() == want


def test_rows_that_come_at_once() -> None:
    done = Done(None, [np.arange(len(_SIZES))])
    for group in RowGroups(17, _SIZES).list:
        assert np.asarray(done.of(group, 3)).tolist() == [*range(len(group.rows))]  # type: ignore[arg-type]
    assert np.asarray(done.upto(4)).tolist() == [*range(len(_SIZES))]
