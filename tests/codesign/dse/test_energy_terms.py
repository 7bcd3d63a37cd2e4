"""No run costs less than the terms say, and the exact figure is that of the report."""

from dataclasses import replace

import numpy as np
import pytest

from codesign.dse.design_space import DesignSpace
from codesign.dse.energy_terms import ENERGY
from codesign.errors import InputError
from codesign.flow.build import tools
from codesign.ir.network import Network
from codesign.target.board import Board
from tests.marks import few_fast
from tests.quant.vits import random_network


def _gaps(network: Network, seed: int, count: int) -> list[float]:
    space, rng = DesignSpace(network, Board.load("zcu102"), tools()), np.random.default_rng(seed)
    problem = space.problem(("latency_us", ENERGY))
    parameters = problem.parameters(np.stack([rng.integers(0, n, count) for n in problem.shape], axis=1))
    bounds = problem.compute(parameters, [ENERGY])[ENERGY]
    gaps = []
    for i, bound in enumerate(bounds):
        exact = space.evaluate({name: int(values[i]) for name, values in parameters.items()})
        gaps += [(exact[ENERGY] - bound) / exact[ENERGY]] if exact is not None else []
    return gaps


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_no_run_costs_less(seed: int) -> None:
    gaps = _gaps(random_network(seed)[0], seed, 25)
    assert len(gaps) > 5
    assert min(gaps) >= 0
    assert np.median(gaps) < 0.25


def test_a_board_without_coefficients_is_refused() -> None:
    space = DesignSpace(
        random_network(0)[0], replace(Board.load("zcu102"), energy=None, sources={}, assumptions={}), tools()
    )
    with pytest.raises(InputError, match="no table"):
        space.problem((ENERGY, "dsp"))
    point = {name: values[0] for name, values in space.axes.items()}
    assert ENERGY not in (space.evaluate(point) or {})
