import random

import pytest

from codesign.sim.testbench.streams import always, bursts, sometimes


def test_always() -> None:
    assert all(always() for _ in range(10))


def test_sometimes() -> None:
    pace = sometimes(0.25, random.Random(1))
    assert 200 < sum(pace() for _ in range(1000)) < 300
    for probability in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"probability is {probability}; legal: above 0, at most 1"):
            sometimes(probability, random.Random(1))


def test_bursts_alternate_runs_and_pauses_of_limited_length() -> None:
    pace = bursts(3, random.Random(2))
    moves = "".join("1" if pace() else "0" for _ in range(500))
    runs, pauses = moves.split("0"), moves.split("1")
    assert {len(run) for run in runs} == {0, 1, 2, 3} == {len(pause) for pause in pauses}
