import math

import numpy as np
import pytest

from codesign.frontend.operators.call import MAX_ELEMENTS, Call, check_size
from codesign.frontend.operators.products import conv_windows, matmul_shape, quant_range
from codesign.frontend.operators.registry import evaluate


def test_quant_rounds_half_to_even_and_saturates() -> None:
    x = np.array([0.25, 0.75, -0.25, 100.0, -100.0])
    parameters = [np.array(0.5), np.array(0.0), np.array(8.0)]
    (wide,) = evaluate("Quant", Call({"signed": 1, "narrow": 0}, [x, *parameters]))
    assert wide.tolist() == [0.0, 1.0, 0.0, 63.5, -64.0]
    (narrow,) = evaluate("Quant", Call({"signed": 1, "narrow": 1}, [x, *parameters]))
    assert narrow.tolist()[-1] == -63.5
    (positive,) = evaluate("Quant", Call({"signed": 0, "narrow": 0}, [x, *parameters]))
    assert positive.tolist() == [0.0, 1.0, 0.0, 100.0, 0.0]


@pytest.mark.parametrize(
    ("signed", "narrow", "bits", "expected"),
    [(1, 0, 8, (-128, 127)), (1, 1, 8, (-127, 127)), (0, 0, 8, (0, 255)), (0, 1, 8, (0, 254)), (1, 0, 4, (-8, 7))],
)
def test_ranges_of_quant(signed: int, narrow: int, bits: int, expected: tuple[int, int]) -> None:
    call = Call({"signed": signed, "narrow": narrow}, [None, np.ones(1), np.zeros(1), np.array(float(bits))])
    assert quant_range(call) == expected


@pytest.mark.parametrize(
    ("attributes", "bits"),
    [({"rounding_mode": "FLOOR"}, 8.0), ({}, 2.5), ({}, 0.0), ({}, 33.0), ({"signed": "x"}, 8.0)],
)
def test_quant_without_an_exact_meaning_is_refused(attributes: dict[str, int | str], bits: float) -> None:
    with pytest.raises((ValueError, TypeError), match="legal"):
        quant_range(Call(attributes, [None, np.ones(1), np.zeros(1), np.array(bits)]))


def test_convolution_windows_name_each_factor_and_padding() -> None:
    windows = conv_windows(Call({"strides": (2, 2), "pads": (1, 1, 0, 0)}, []), (1, 1, 3, 3), (1, 1, 2, 2))
    assert windows.tolist() == [[-1, -1, -1, 0], [-1, -1, 1, 2], [-1, 3, -1, 6], [4, 5, 7, 8]]


def test_sizes_are_checked_before_anything_is_allocated() -> None:
    with pytest.raises(ValueError, match="legal: at most"):
        check_size((MAX_ELEMENTS, 2))
    with pytest.raises(ValueError, match="legal: at most"):
        evaluate("Expand", Call({}, [np.ones(1), np.array([1 << 40])]))
    with pytest.raises(ValueError, match="legal: at most"):
        evaluate("ConstantOfShape", Call({}, [np.array([1 << 30, 1 << 30])]))
    with pytest.raises(ValueError, match="do not multiply"):
        matmul_shape((2, 3), (4, 5))


def test_the_error_function_is_that_of_the_c_library() -> None:
    rng = np.random.default_rng(0)
    between = (np.arange(-900, 900) + 0.5) / 128  # farthest from the points of its table
    drawn = [rng.normal(size=20000) * scale for scale in (1e-300, 1e-9, 1e-3, 0.1, 1.0, 3.0)]
    x = np.concatenate([between, *drawn, rng.uniform(-7, 7, 20000), [0.0, 6.0, -6.0, 1e300, np.inf, -np.inf]])
    (found,) = evaluate("Erf", Call({}, [x]))
    exact = np.array([math.erf(v) for v in x.tolist()])
    assert (np.abs(found - exact) / np.spacing(np.abs(exact))).max() <= 4
    assert np.abs(found).max() == 1
    (rest,) = evaluate("Erf", Call({}, [np.array([[np.nan], [-0.0]])]))
    assert np.isnan(rest[0, 0])
    assert np.signbit(rest[1, 0])
    assert rest.shape == (2, 1)
