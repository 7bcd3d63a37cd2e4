"""Products of axes."""

import numpy as np
import pytest

from codesign.solver.space import ParameterSpace


def _space() -> ParameterSpace:
    return ParameterSpace({"a": (1, 2, 4), "b": (3, 5)}, lambda params: params["a"] * params["b"] < 12)


def test_points_come_with_the_last_axis_fastest() -> None:
    space = _space()
    points = space.points()
    assert space.size == 6
    assert points["a"].tolist() == [1, 1, 2, 2, 4, 4]
    assert points["b"].tolist() == [3, 5, 3, 5, 3, 5]
    assert np.flatnonzero(space.legal(points)).tolist() == [0, 1, 2, 3]


def test_a_range_of_points_is_a_part_of_all() -> None:
    space = _space()
    whole = space.points()
    for first, count in ((0, 2), (1, 3), (4, 9)):
        part = space.points(first, count)
        for name, values in part.items():
            assert values.tolist() == whole[name][first : first + count].tolist()


@pytest.mark.parametrize("values", [(), (2, 1), (1, 1)])
def test_an_axis_without_order_is_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="legal: at least one value, ascending, none twice"):
        ParameterSpace({"a": values}, lambda params: 1)
