"""Passes of the array: what a run of loader and array takes at least, against one cycle by cycle."""

import numpy as np
import pytest

from codesign.timing.bound.array_passes import Array, Passes, Rows


def test_passes_of_a_group() -> None:
    n_l = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    passes = Passes(np.array([7, 7, 7, 7, 3]), n_l)
    assert np.asarray(passes.count).tolist() == [7, 4, 3, 2, 1]
    assert np.asarray(passes.full).tolist() == [1, 2, 3, 4, 3]
    assert np.asarray(passes.last).tolist() == [1, 1, 1, 3, 3]
    assert passes.most == 7


def _followed(commands: list[tuple[int, int]], n_l: int, kw: int, period: int) -> list[int]:
    """Cycles in which the array is free behind every command of so many rows, accepted no sooner than in a cycle.

    Every pass is followed: its rows are loaded into the buffer of the pass before the last, then its tiles go.
    """
    loader, free, ends, found = 0, 0, [-1, -1], list[int]()
    for accepted, rows in commands:
        loader = max(loader, accepted + 1)
        for first in range(0, rows, n_l):
            loader = max(loader, ends[-2] + 1) + min(n_l, rows - first) * kw
            free = max(free, loader + 2) + period
            ends.append(free - 1)
        found.append(free)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_pass_ends_sooner(seed: int) -> None:
    """And one command alone ends when it must."""
    rng, tight = np.random.default_rng(seed), 0
    for _ in range(60):
        n_l, kw, period = int(rng.integers(1, 7)), int(rng.integers(1, 12)), int(rng.integers(1, 80))
        commands = [(int(rng.integers(200 * number + 1)), int(rng.integers(1, 25))) for number in range(3)]
        array, work, want = Array(n_l), Rows(0, kw, period, 1, 0, 0), _followed(commands, n_l, kw, period)
        found = [int(array.run(t, rows, Passes(rows, n_l), work)) for t, rows in commands]
        assert all(bound <= real for bound, real in zip(found, want, strict=True)), (commands, n_l, kw, period)
        tight += found[0] == want[0]
    assert tight > 50


@pytest.mark.parametrize("n_l", [[1, 2, 5, 8], [9, 9, 12, 20]])
def test_many_designs_together(n_l: list[int]) -> None:
    """The second group is of the first designs alone; the others stay where they were."""
    rows_at_once, kw, period = np.array(n_l), np.array([3, 4, 5, 6]), np.array([20, 30, 40, 50])
    together, work = Array(rows_at_once), Rows(0, kw, period, 1, 0, 0)
    sizes = [np.array([7, 8, 9, 9]), np.array([4, 2])]
    for rows in sizes:
        together.run(0, rows, Passes(rows, rows_at_once), work.take_leading(rows))
    together.busy(np.array([0, 10**6]))
    together.put_off(5)
    for number, most in enumerate(n_l):
        alone = Array(most)
        for rows in sizes:
            if number < len(rows):
                mine = Rows(0, int(kw[number]), int(period[number]), 1, 0, 0)
                alone.run(0, int(rows[number]), Passes(int(rows[number]), most), mine)
        free = 10**6 if number == 1 else int(alone.free)
        assert [int(each[number]) for each in (together.free, together.loader, *together.ends)] == [  # type: ignore[index]
            free + 5, int(alone.loader) + 5, *(int(end) + 5 for end in alone.ends),
        ]  # fmt: skip


@pytest.mark.parametrize("together", [False, True])
def test_rows_wait_for_the_buffer_of_the_pass_before_the_last(together: bool) -> None:
    """Two passes end in cycles 110 and 210; then 160 words are loaded behind the first of them."""
    array, long, short = Array(4), Rows(0, 2, 100, 1, 0, 0), Rows(0, 40, 10, 1, 0, 0)
    for rows in [8] if together else [4, 4]:
        array.run(0, rows, Passes(rows, 4), long)
    assert (array.free, array.ends) == (211, (110, 210))
    assert array.run(0, 4, Passes(4, 4), short) == 111 + 160 + 2 + 10
