from itertools import product

import numpy as np
import pytest

from codesign.solver.front import (
    Archive,
    DominatedRegion,
    Front,
    Mask,
    Proof,
    Values,
    hypervolume,
    layers,
    nondominated,
)
from tests.marks import few_fast


def _reached(members: Values, queries: Values) -> Mask:
    return np.array([bool((members <= query).all(axis=1).any()) for query in queries])


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("values", few_fast([7, 10_000], 1))
def test_cover_is_comparison_of_every_pair(width: int, values: int) -> None:
    random = np.random.default_rng(width * values)
    members, queries = (random.integers(0, values, (n, width)).astype(float) for n in (900, 1500))
    members[:, 0] += values // 3
    cover = DominatedRegion(members)
    assert np.array_equal(cover.reaches(queries), _reached(members, queries))
    assert cover.reaches(members).all()
    fast = cover.reaches(queries, fast=True)
    assert not (fast & ~_reached(members, queries)).any()


def test_cover_of_nothing_reaches_nothing() -> None:
    assert not DominatedRegion(np.zeros((0, 3))).reaches(np.ones((4, 3))).any()
    assert len(DominatedRegion(np.ones((2, 3))).reaches(np.zeros((0, 3)))) == 0


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("values", few_fast([4, 50, 100_000], 2))
def test_nondominated_is_comparison_of_every_pair(width: int, values: int) -> None:
    random = np.random.default_rng(width + values)
    rows = random.integers(0, values, (700, width)).astype(float)
    strictly = np.array([((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any() for row in rows])
    first = np.array([not (rows[:i] == row).all(axis=1).any() for i, row in enumerate(rows)])
    assert np.array_equal(nondominated(rows), ~strictly & first)
    assert np.array_equal(nondominated(rows, ties=True), ~strictly)


def test_archive_is_the_nondominated_of_everything_added() -> None:
    random = np.random.default_rng(5)
    values = random.integers(0, 40, (3000, 3)).astype(float)
    points = np.arange(3000)[:, None]
    archive = Archive(3, 1)
    for part in np.split(np.arange(3000), 30):
        archive.add(values[part], points[part])
    kept = np.sort(archive.points[:, 0])
    assert np.array_equal(kept, np.flatnonzero(nondominated(values)))
    assert np.array_equal(values[archive.points[:, 0]], archive.values)
    assert np.array_equal(archive.born, archive.points[:, 0] // 100 + 1)
    assert not archive.add(archive.values, archive.points)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_hypervolume_counts_unit_cells(width: int) -> None:
    rows = np.random.default_rng(width).integers(0, 7, (12, width)).astype(float)
    corner = [5, 6, 4, 5][:width]
    cells = np.array(list(product(*map(range, corner))), dtype=float)
    assert hypervolume(rows, corner) == _reached(rows, cells).sum()
    assert hypervolume(rows + 10, corner) == 0


def test_layers_are_fronts_of_what_is_left() -> None:
    values = np.random.default_rng(0).integers(0, 9, (60, 3)).astype(float)
    taken, left = layers(values, 60), np.arange(60)
    assert sorted(taken) == [*range(60)]
    while len(left):
        best = left[nondominated(values[left])]
        first, taken = taken[: len(best)], taken[len(best) :]
        assert {*map(tuple, values[first])} == {*map(tuple, values[best])}
        left = np.setdiff1d(left, first)
    assert np.array_equal(layers(values, 7), layers(values, 60)[:7])


def test_hypervolume_names_a_wrong_reference() -> None:
    with pytest.raises(ValueError, match="reference of 3 coordinates"):
        hypervolume(np.zeros((1, 2)), (1, 1, 1))


def _proof(**changes: int) -> Proof:
    counts = {"points": 100, "dominated": 50, "evaluated": 20, "boxes": 9, "tried": 4} | changes
    return Proof(infeasible={"dsp": 30}, **counts)


def test_proof_settles_every_point_once() -> None:
    with pytest.raises(ValueError, match="101 points settled of 100"):
        _proof(dominated=51)


def test_proof_line_names_what_cut_and_what_is_missing() -> None:
    assert str(_proof()).startswith("100 points: cut as infeasible 30 by dsp; 50 cut by bounds")
    assert "scored" not in str(_proof())
    assert "7 scored exactly, largest gap" in str(_proof(scored=7))
    assert "7 scored exactly and 3 as equal ones, largest gap" in str(_proof(scored=7, recalled=3))
    assert _proof().exact
    assert not _proof(scored=7, unscored=3).exact
    assert "NOT PROVEN, 3 points" in str(_proof(scored=7, unscored=3))


def _front(count: int = 3) -> Front:
    values = np.stack([np.arange(count) + 0.5, 10.0 - np.arange(count)], axis=1)
    return Front(("latency", "dsp"), values, {"lanes": 2 ** np.arange(count)}, _proof())


def test_front_rows_and_best() -> None:
    front = _front()
    assert len(front) == 3
    assert front.rows[1] == {"lanes": 2, "latency": 1.5, "dsp": 9.0}
    assert front.best("latency") == front.rows[0]
    assert front.best("dsp") == front.rows[2]
    with pytest.raises(ValueError, match="best 'lut'"):
        front.best("lut")
    with pytest.raises(ValueError, match="of 0 points"):
        _front(0).best("dsp")


def test_front_table_shows_points_and_proof() -> None:
    lines = _front(30).table(4).splitlines()
    assert lines[0].split() == ["latency", "dsp", "lanes"]
    assert lines[1].split() == ["0.5", "10", "1"]
    assert lines[4].split() == ["29.5", "-19", str(2**29)]
    assert lines[5:] == ["4 of 30 points", str(_proof())]
    assert len(_front(30).table(None).splitlines()) == 32
    assert "<pre>latency" in _front()._repr_html_()


def test_front_measures_its_hypervolume() -> None:
    assert _front().hypervolume((3.5, 11)) == 3 * 1 + 2 * 1 + 1 * 1


def test_front_needs_a_vector_per_point() -> None:
    with pytest.raises(ValueError, match="points by objectives"):
        Front(("latency",), np.zeros((2, 1)), {"lanes": np.arange(3)}, _proof())
