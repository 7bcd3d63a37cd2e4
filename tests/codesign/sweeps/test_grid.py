"""Columns of a grid are what the planner, the kernels and the bound say of each design."""

from math import prod

import numpy as np
import pytest

from codesign.dse.planner import RESOURCES, available
from codesign.flow.build import integers
from codesign.hw.system import accelerator
from codesign.ir.network import Linear, Network
from codesign.sweeps import grid as grids
from codesign.sweeps.grid import Grid, ThinnedSpace, thinned, use
from codesign.target.board import Board
from codesign.target.kernel import Resources, ceil_div
from tests.marks import few_fast


@pytest.fixture(scope="module")
def vit() -> Grid:
    """A transformer's designs, few of each parameter."""
    return Grid(ThinnedSpace(integers("digits-vit"), Board.load("zcu102"), 3000))


def single(grid: Grid, parameters: dict[str, int]) -> dict[str, int]:
    """The figures of one design, each asked for by itself."""
    space = grid.space
    network, design = space.network, space.design(parameters)
    need = accelerator.total(accelerator.resources(design))
    deepest = max(layer.k for layer in network if isinstance(layer, Linear))
    fits = parameters["ring_words"] >= ceil_div(deepest, parameters["t_in"])
    alone = {name: np.array(value) for name, value in parameters.items()}
    cycles = space.problem(("latency_us",)).compute(alone, ["cycles"])["cycles"]
    legal = fits and space.planner.legal(design)
    return {"legal": bool(legal), "cycles": int(cycles), **{name: int(getattr(need, name)) for name in RESOURCES}}


@pytest.mark.rtl
def test_columns_are_the_figures_of_each_design(vit: Grid, rng: np.random.Generator) -> None:
    columns = vit.columns(0, vit.points)
    axes = vit.problem.axes
    for at in rng.integers(0, vit.points, 40).tolist():
        parameters = {name: int(columns[name][at]) for name in axes}
        row = {name: int(columns[name][at]) for name in ("legal", "cycles", *RESOURCES)}
        assert row == single(vit, parameters), parameters


def test_the_points_are_the_whole_product_in_order(vit: Grid) -> None:
    columns = vit.columns(0, vit.points)
    rows = np.stack([columns[name] for name in vit.problem.axes], axis=1)
    assert vit.points == prod(map(len, vit.space.axes.values())) == len(rows)
    assert np.array_equal(rows, np.unique(rows, axis=0))
    assert vit.index({name: columns[name] for name in vit.problem.axes}) == [*range(vit.points)]


def test_all_designs_have_the_board_s_clock(vit: Grid) -> None:
    assert vit.space.axes.get("clock_hz", (300_000_000,)) == (300_000_000,)
    slower = ThinnedSpace(integers("gemm:5x30x20"), Board.load("zcu102").with_overrides(["clock_hz=123000000"]), 50)
    assert slower.axes.get("clock_hz", (123_000_000,)) == (123_000_000,)


def test_ranges_are_parts_of_the_whole(vit: Grid) -> None:
    whole = vit.columns(0, vit.points)
    for first, stop in ((0, 1), (17, 400), (vit.points - 3, vit.points)):
        for name, part in vit.columns(first, stop).items():
            assert np.array_equal(part, whole[name][first:stop]), name


@pytest.mark.parametrize("cells", few_fast([100, 1], 1))
def test_tables_in_parts_are_the_same(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    space = ThinnedSpace(integers("gemm:20x70x33"), Board.load("zcu102"), 500)
    whole = Grid(space)
    monkeypatch.setattr(grids, "_TABLE_CELLS", cells)
    monkeypatch.setattr(grids, "_SMALL_TABLE", 1)
    parts = Grid(space)
    assert len(parts._tables) < len(whole._tables)
    for name, values in whole.columns(0, whole.points).items():
        assert np.array_equal(parts.columns(0, whole.points)[name], values), name


def test_the_digest_tells_formulas_apart(vit: Grid) -> None:
    network, board = integers("gemm:5x30x20"), Board.load("zcu102")
    digest = [Grid(ThinnedSpace(network, b, 50)).digest for b in (board, board, Board.load("u280"))]
    assert digest[0] == digest[1] != digest[2]


def test_illegal_designs_are_found(vit: Grid) -> None:
    legal = vit.columns(0, vit.points)["legal"]
    assert 0 < legal.sum() < vit.points


@pytest.mark.parametrize("limit", [1, 2, 10, 1000, 10**6, 10**9])
def test_thinned_axes_keep_the_limit_and_their_ends(limit: int) -> None:
    axes = {"a": tuple(range(13)), "b": (4, 8, 16, 32), "c": (1,), "d": tuple(range(0, 100, 3))}
    found = thinned(axes, limit)
    assert prod(map(len, found.values())) <= limit
    assert [*found] == [*axes]
    for name, values in found.items():
        assert set(values) <= set(axes[name])
        assert list(values) == sorted(values)
        assert values[0] == axes[name][0]
        assert values[-1] == axes[name][-1] or len(values) == 1
    if limit >= prod(map(len, axes.values())):
        assert found == axes


def test_what_binds_is_the_largest_share() -> None:
    columns = {name: np.zeros(4, np.int64) for name in RESOURCES} | {"legal": np.array([1, 1, 1, 0], bool)}
    columns["dsp"], columns["lut"] = np.array([50, 120, 10, 1]), np.array([10, 600, 10, 5])
    columns["uram"] = np.array([0, 0, 1, 0])
    feasible, binding = use(columns, Resources(dsp=100, bram36=10, uram=0, lut=1000, ff=10))
    assert feasible.tolist() == [True, False, False, False]
    assert [RESOURCES[i] for i in binding] == ["dsp", "dsp", "uram", "dsp"]


def test_a_budget_is_a_smaller_board(vit: Grid) -> None:
    columns, board = vit.columns(0, vit.points), vit.space.board
    feasible, _ = use(columns, available(board, {}))
    fewer, _ = use(columns, available(board, {"dsp": 700}))
    assert np.array_equal(fewer, feasible & (columns["dsp"] <= 700))
    assert 0 < fewer.sum() < feasible.sum()


def test_a_network_without_attention_has_no_such_axes() -> None:
    network = integers("gemm:5x30x20")
    assert isinstance(network, Network)
    grid = Grid(ThinnedSpace(network, Board.load("zcu102"), 50))
    assert [name for name in grid.problem.axes if name not in ("ports", "clock_hz")] == [
        "t_in", "t_out", "n_l", "ring_words", "table_words", "row_group",
    ]  # fmt: skip
