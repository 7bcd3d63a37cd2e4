import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.errors import CheckError
from codesign.solver.problem import Inputs, Problem, Term, check_directions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": {"x": (2, 1)}}, "axis x"),
        ({"axes": {"x": ()}}, "axis x"),
        ({"terms": (Term("y", ("z",), lambda p: p["z"]),)}, "term y"),
        ({"terms": (Term("x", ("x",), lambda p: p["x"]),)}, "term x"),
        ({"terms": (Term("y", ("x",), lambda p: p["x"], floor="z"),)}, "term y"),
        ({"objectives": ()}, "objectives"),
        ({"objectives": ("z",)}, "objectives"),
        ({"limits": {"z": 1.0}}, "limits"),
    ],
)
def test_a_wrong_problem_is_named(change: dict[str, object], message: str) -> None:
    good = {"axes": {"x": (1, 2)}, "terms": (), "limits": {}, "objectives": ("x",)}
    with pytest.raises(ValueError, match=message):
        Problem(**{**good, **change})  # type: ignore[arg-type]


def test_a_term_has_one_direction_per_input() -> None:
    with pytest.raises(ValueError, match="at most one direction"):
        Term("y", ("x",), lambda p: p["x"], rising=("x",), falling=("x",))
    with pytest.raises(ValueError, match="at most one direction"):
        Term("y", ("x",), lambda p: p["x"], rising=("z",))


def test_too_large_a_space_is_refused() -> None:
    with pytest.raises(ValueError, match="below 2"):
        Problem({f"x{i}": tuple(range(256)) for i in range(8)}, (), {}, ("x0",))


def _directed(formula: object, falling: tuple[str, ...] = (), floor: str | None = None) -> Problem:
    rising = tuple(name for name in ("x", "y") if name not in falling)
    term = Term("z", ("x", "y"), formula, rising, falling, floor)  # type: ignore[arg-type]
    return Problem({"x": tuple(range(1, 30)), "y": (1, 2, 3)}, (term,), {}, ("z",))


def test_a_wrong_direction_is_found() -> None:
    def ratio(inputs: Inputs) -> NDArray[np.float64]:
        return np.asarray(inputs["x"] / inputs["y"])

    check_directions(_directed(ratio, ("y",)))
    with pytest.raises(CheckError, match="term z is not rising in y"):
        check_directions(_directed(ratio))
    with pytest.raises(CheckError, match="term z is not falling in x"):
        check_directions(_directed(ratio, ("x", "y")))


def test_a_direction_that_is_no_number_is_found() -> None:
    def root(inputs: Inputs) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.sqrt(inputs["x"] - 2.0 * inputs["y"])

    with pytest.raises(CheckError, match="term z is not rising in x"):
        check_directions(_directed(root, ("y",)))


def test_a_wrong_floor_is_found() -> None:
    check_directions(_directed(lambda p: p["x"] + p["y"], floor="x"))
    with pytest.raises(CheckError, match="term z lies below its floor y"):
        check_directions(_directed(lambda p: p["x"], floor="y"))
