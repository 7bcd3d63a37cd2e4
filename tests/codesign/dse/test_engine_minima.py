"""The least of a box of engines is below every engine of it, and at single values what the engine says."""

import numpy as np
import pytest

from codesign.dse.design_space import DesignSpace
from codesign.flow.build import tools
from codesign.ir.network import Attention, Norm
from codesign.target.board import Board
from tests.marks import few_fast
from tests.quant.vits import random_network

_SPACE = ("t_a", "n_a", "t_v")


@pytest.fixture(scope="module", params=few_fast([1, 4], 1))
def space(request: pytest.FixtureRequest) -> DesignSpace:
    return DesignSpace(random_network(request.param)[0], Board.load("zcu102"), tools())


def _cycles(space: DesignSpace, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(space.problem(("latency_us",)).compute(inputs, ["free_cycles"])["free_cycles"])


def test_a_box_is_below_all_its_members(space: DesignSpace) -> None:
    rng, term = np.random.default_rng(0), space.problem(("latency_us",)).by_name["free_cycles"]
    trees, axes = space.bounds.minima.trees, space.axes
    assert term.boxed is not None
    for _ in range(25):
        point = {name: np.array([rng.choice(values)]) for name, values in axes.items()}
        nodes = {axis: np.array([rng.integers(len(trees[axis].size))]) for axis in _SPACE}
        least = int(term.boxed({**{axis: point[axis] for axis in term.single}, **nodes})[0])
        members = {axis: _below(trees[axis], axes[axis], int(nodes[axis][0])) for axis in _SPACE}
        grid = dict(zip(_SPACE, np.meshgrid(*members.values(), indexing="ij"), strict=True))
        shape = grid["t_a"].shape
        found = _cycles(space, {**{n: np.full(shape, v[0]) for n, v in point.items()}, **grid})
        assert least <= found.min()
        if found.size == 1:
            assert least == found.min()


def _below(tree: object, values: tuple[int, ...], node: int) -> list[int]:
    """Values of the leaves below a node."""
    firsts, levels = tree.first, tree.levels  # type: ignore[attr-defined]
    level = max(i for i, first in enumerate(firsts) if first <= node)
    at = node - firsts[level]
    stops = [*levels[level], len(values)]
    return list(values[stops[at] : stops[at + 1]])


def test_leaves_say_what_the_kernels_say(space: DesignSpace) -> None:
    tables, rng = space.bounds.minima, np.random.default_rng(1)
    for _ in range(20):
        point = {name: int(rng.choice(values)) for name, values in space.axes.items()}
        design = space.design(point)
        times = tools().formulas(design.engines)
        nodes = {axis: tables.leaf(axis, np.array([point[axis]])) for axis in _SPACE}
        costs = tables.at(
            nodes, *(np.array([each]) for each in (point["t_out"], design.word_bytes, point["row_group"]))
        )
        for layer in space.network:
            if isinstance(layer, Norm):
                found = costs.time(layer, np.array([0]), np.array([3]))
                assert found[0] == times.times["vector"]({"rows": 3, "d": layer.d})  # type: ignore[index]
            if isinstance(layer, Attention):
                columns = int(costs.columns(layer)[0])  # type: ignore[index]
                wide = -(-layer.head_dim // point["t_a"]) * point["t_a"]
                assert columns % max(point["t_out"], design.word_bytes) == 0
                assert columns >= layer.heads * wide
