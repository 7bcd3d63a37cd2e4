import itertools
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.numerics.fixed_point import requantizer
from codesign.numerics.moe import MAX_CHOSEN, MAX_GATE, gates, tokens_per_expert
from codesign.numerics.nonlinear import softmax_weights

Ints = NDArray[np.int64]
STEP = requantizer(128 * 2.0**-4)
"""Logits of scale 1/16."""


def _softmax(logits: Ints, scale: float) -> NDArray[np.float64]:
    e = np.exp((logits - logits.max(axis=1, keepdims=True)) * scale)
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def test_the_largest_logits_are_chosen_and_ties_go_to_the_lower_number() -> None:
    rows = [[5, 9, 9, 9], [9, 5, 9, 9], [0, 0, 0, 0], [-128, 127, -128, -128], [1, 2, 3, 4]]
    chosen = [np.flatnonzero(row).tolist() for row in gates(rows, 2, *STEP)]
    assert chosen == [[1, 2], [0, 2], [0, 1], [0, 1], [2, 3]]


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_choice_is_that_of_inserting_one_after_the_other(chosen: int) -> None:
    rows = np.array([*itertools.product(range(3), repeat=4)])
    for row, got in zip(rows, gates(rows, chosen, *STEP), strict=True):
        best: list[int] = []
        for number, value in enumerate(row):
            place = next((i for i, other in enumerate(best) if value > row[other]), len(best))
            best = [*best[:place], number, *best[place:]][:chosen]
        assert np.flatnonzero(got).tolist() == sorted(best)


@pytest.mark.parametrize("experts", [2, 4, 16, 200])
def test_gates_are_the_softmax_over_all_experts_within_two_steps(experts: int) -> None:
    """Half a step is the gate's own rounding; the table's entries and their sum are off by half of 1/255 each."""
    logits = np.random.default_rng(experts).integers(-128, 128, size=(500, experts))
    exact = 256 * _softmax(logits, 2.0**-4)
    got = gates(logits, experts, *STEP)
    assert np.abs(got - np.clip(exact, 1, MAX_GATE)).max() <= 2
    assert got.min() == 1


def test_gates_follow_the_definition_bit_for_bit() -> None:
    logits = np.random.default_rng(9).integers(-60, 60, size=(1000, 6))
    weights, totals = softmax_weights(logits, True, *STEP)
    for e, total, got in zip(weights.tolist(), totals.tolist(), gates(logits, 6, *STEP).tolist(), strict=True):
        length = total.bit_length()
        quotient = (65536 << (length - 1)) // total
        exact = [Fraction(x * quotient, 1 << (length + 7)) for x in e]
        assert got == [min(max(round(x), 1), 255) for x in exact]


def test_the_quotient_has_the_stated_bits() -> None:
    """With e = 255, 241, 210, 208 one bit more in the quotient would round the second gate to 68."""
    assert gates([[60, 53, 35, 34]], 4, *requantizer(1.0)).tolist() == [[71, 67, 59, 58]]


def test_gates_are_not_normalised_over_the_chosen() -> None:
    assert gates([[0, 0, 0, 0]], 2, *STEP).tolist() == [[64, 64, 0, 0]]
    assert gates([[0, 0, 0, 0]], 4, *STEP).tolist() == [[64, 64, 64, 64]]


def test_a_sure_choice_has_the_largest_gate_and_a_chosen_one_never_none() -> None:
    assert gates([[127, -128]], 2, *STEP).tolist() == [[255, 1]]
    assert gates([[-128]], 1, *STEP).tolist() == [[255]]


def test_counts_are_of_tokens_that_use_an_expert() -> None:
    logits = np.random.default_rng(0).integers(-128, 128, size=(31, 5))
    shares = gates(logits, 3, *STEP)
    counts = tokens_per_expert(shares)
    assert counts.tolist() == [int(np.count_nonzero(column)) for column in shares.T]
    assert counts.sum() == 3 * 31


def test_weighted_sums_fit_the_accumulator() -> None:
    assert MAX_CHOSEN * MAX_GATE * (1 << 15) < 1 << 31


@pytest.mark.parametrize("chosen", [0, 5])
def test_more_experts_than_there_are_is_misuse(chosen: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        gates([[1, 2, 3, 4]], chosen, *STEP)
    with pytest.raises(ValueError, match="logits"):
        gates([[1, 200]], 1, *STEP)
    with pytest.raises(ValueError, match="gates"):
        tokens_per_expert([[256]])
