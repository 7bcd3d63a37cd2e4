"""The space of designs says of every point what the design says of itself, and its search misses none."""

from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.dse.design_space import CHOICES, OBJECTIVES, DesignSpace, choose, parse_design
from codesign.dse.energy_terms import ENERGY
from codesign.dse.planner import RESOURCES, plain
from codesign.errors import CheckError, InputError, NothingFits
from codesign.flow.build import tools
from codesign.frontend.zoo import gemm
from codesign.hw.system import accelerator
from codesign.ir.network import Linear, Network
from codesign.solver import exact as exact_search
from codesign.solver.front import Front, Proof, nondominated
from codesign.solver.front_check import check_front
from codesign.solver.problem import check_directions
from codesign.solver.scoring import ExactScorer
from codesign.target.board import Board
from codesign.target.kernel import Resources
from codesign.timing.bound.schedule import Bound
from codesign.timing.cycles import exact
from tests.accelerators import chain
from tests.codesign.dse.spaces import space_of
from tests.quant.vits import random_network

_FEW = {
    "t_in": (4, 8), "t_out": (8, 16), "n_l": (1, 3, 4), "ring_words": (64, 512), "table_words": (16,), "t_a": (4, 8),
    "n_a": (2, 6), "t_v": (2,), "row_group": (5, 17), "ports": (2, 4), "clock_hz": (200_000_000, 300_000_000),
}  # fmt: skip


class _Few(DesignSpace):
    """Few enough designs to score them all."""

    @property
    def axes(self) -> dict[str, tuple[int, ...]]:
        return _FEW


def _by_hand(network: Network, space: DesignSpace, objectives: tuple[str, ...]) -> list[tuple[float, ...]]:
    """Objectives of all legal designs, each compiled and timed."""
    found = []
    for values in product(*_FEW.values()):
        design = space.design(dict(zip(_FEW, values, strict=True)))
        need = sum(accelerator.resources(design).values(), Resources())
        if not space.planner.legal(design) or any(getattr(need, n) > getattr(space.limit, n) for n in vars(need)):
            continue
        try:
            cycles = exact(compile_network(network, design), design, accelerator.formulas(design.engines)).total
        except (NothingFits, CheckError):
            continue
        latency_us = cycles * 1e6 / design.board.clock_hz
        found.append((latency_us, *(float(getattr(need, name)) for name in objectives[1:])))
    return found


@pytest.mark.rtl
@pytest.mark.parametrize("objectives", [("latency_us", "dsp"), ("latency_us", "bram36", "lut")])
def test_the_search_finds_what_scoring_every_design_finds(objectives: tuple[str, ...]) -> None:
    network = random_network(2)[0]
    space = space_of(network, _Few)
    front = space.search(objectives)
    everything = np.array(_by_hand(network, space, objectives))
    want = everything[nondominated(everything)]
    assert sorted(map(tuple, front.values.tolist())) == sorted(map(tuple, want.tolist()))
    assert front.proof.exact
    assert front.proof.scored < len(everything)


def test_points_cost_what_their_designs_cost() -> None:
    network = random_network(1)[0]
    space, rng = space_of(network), np.random.default_rng(0)
    problem = space.problem(("latency_us", "dsp"))
    points = np.stack([rng.integers(0, n, 30) for n in problem.shape], axis=1)
    parameters = problem.parameters(points)
    found = problem.compute(parameters, ["free_cycles", *RESOURCES])
    for i in range(len(points)):
        design = space.design({name: int(values[i]) for name, values in parameters.items()})
        need = sum(accelerator.resources(design).values(), Resources())
        for name in RESOURCES:
            assert found[name][i] == getattr(need, name), (name, design)
        bound = Bound(network, design.board, (64, 16))
        engines = {**design.engines, "linear": {**design.linear, "ring_words": 1 << 30, "table_words": 1 << 30}}
        cycles = int(bound(engines, accelerator.formulas(engines), design.row_group))
        assert found["free_cycles"][i] == cycles


def test_what_was_asked_for_before_changes_no_cost() -> None:
    network = random_network(3)[0]
    space, limits = space_of(network), tuple(RESOURCES)
    problem, random = space.problem(("latency_us", "dsp")), np.random.default_rng(0)
    for _ in range(3):
        points = problem.parameters(random.integers(0, problem.shape, (20, len(problem.shape))))
        again = space_of(network).problem(("latency_us", "dsp")).compute(points, limits)
        assert all(np.array_equal(found, again[name]) for name, found in problem.compute(points, limits).items())


def test_a_ring_that_holds_the_longest_tile_is_legal() -> None:
    network = random_network(1)[0]
    deepest = max(layer.k for layer in network if isinstance(layer, Linear))
    term = space_of(network).problem(("dsp",)).by_name["illegal"]
    for t_in in (4, 8, 16):
        least = -(-deepest // t_in)
        for words, illegal in ((least, 0), (least - 1, 1)):
            assert term.formula({"t_in": np.array(t_in), "ring_words": np.array(words)}) == illegal


@pytest.mark.rtl
def test_a_search_of_resources_alone_finds_legal_designs() -> None:
    space = space_of(random_network(1)[0])
    front = space.search(("dsp", "bram36"))
    for row in front.rows:
        design = space.design({name: int(row[name]) for name in space.axes})
        assert space.planner.legal(design)
        assert sum(accelerator.resources(design).values(), Resources()).dsp == row["dsp"]


@pytest.mark.rtl
@pytest.mark.parametrize("seed", [1, 2])
def test_the_first_designs_decide_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rings decide most: weights come slowly, and rows pass several times."""
    slow = replace(Board.load("zcu102").memory, bytes_per_second=[2, 5, 15][seed] * 10**9)
    rng = np.random.default_rng(seed)
    network = chain(rng, 40, rng.integers(40, 400, 5).tolist())
    space = DesignSpace(network, replace(Board.load("zcu102"), memory=slow), tools())
    front = space.search()
    monkeypatch.setattr(exact_search, "_DIVE", 30)
    assert np.array_equal(space.search().values, front.values)
    assert front.proof.exact


def test_a_layer_without_a_kernel_is_refused_before_the_search() -> None:
    network = random_network(0)[0]
    norms = replace(network, layers=tuple(layer for layer in network if not isinstance(layer, Linear)))
    with pytest.raises(NothingFits, match="no linear layer"):
        space_of(norms)


def test_directions_are_as_declared() -> None:
    check_directions(space_of(random_network(4)[0]).problem(("latency_us", "dsp")), pairs=100)


@pytest.mark.rtl
def test_a_searched_design_is_as_fast_as_the_plain_choice_or_faster() -> None:
    network = gemm(48, 64, 32)
    board = Board.load("zcu102").with_overrides(["resources.dsp=600"])
    space = DesignSpace(network, board, tools())
    front = space.search()
    design = plain(network, board, tools())
    cycles = exact(compile_network(network, design), design, accelerator.formulas(design.engines)).total
    assert front.best("latency_us")["latency_us"] <= cycles / 300


@pytest.mark.rtl
def test_energy_beside_latency_is_searched_exactly() -> None:
    space = space_of(random_network(2)[0], _Few)
    front = space.search(("latency_us", ENERGY))
    points = (dict(zip(_FEW, values, strict=True)) for values in product(*_FEW.values()))
    found = [space.evaluate(point) for point in points]
    everything = np.array([(each["latency_us"], each[ENERGY]) for each in found if each is not None])
    want = everything[nondominated(everything)]
    assert sorted(map(tuple, front.values.tolist())) == sorted(map(tuple, want.tolist()))


@pytest.mark.rtl
def test_brute_force_finds_no_better_design() -> None:
    space = space_of(random_network(2)[0], _Few)
    front, scorer = space.search(("latency_us", "dsp")), space.scorer()
    refine = ExactScorer(("latency_us",), scorer.score)
    found = check_front(space.problem(("latency_us", "dsp")), front, seed=3, refine=refine)
    assert found.points >= prod(map(len, _FEW.values()))


def test_fewer_ports_and_slower_clocks_are_other_memories() -> None:
    space = space_of(random_network(1)[0])
    assert space.axes["ports"] == (1, 2, 4)
    assert space.axes["clock_hz"][-1] == space.board.clock_hz
    point = {name: values[-1] for name, values in space.axes.items()}
    narrow = space.design({**point, "ports": 2, "clock_hz": space.axes["clock_hz"][0]})
    assert (narrow.word_bytes, narrow.board.clock_hz) == (32, 150_000_000)
    assert narrow.board.memory.bytes_per_second == space.board.memory.bytes_per_second
    assert {"memory.ports", "clock_hz"} <= {*narrow.board.assumptions}
    assert space.design(point).board is space.board


def test_a_named_design_is_the_design_of_the_point() -> None:
    space = space_of(random_network(1)[0], _Few)
    row = space.search(("latency_us", "dsp")).rows[0]
    point = {name: int(row[name]) for name in _FEW}
    assert space.named(point) == space.design(point)
    text = ",".join(f"{name}={value}" for name, value in point.items())
    assert parse_design(text) == point


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t_in=8,t_in=8", "legal: PARAMETER=N"), ("t_in", "legal: PARAMETER=N"), ("t_in=-8", "legal: PARAMETER=N"),
        ("watts=3", "no parameter watts"), ("generous=1", "no parameter generous"), ("n_l=0", "whole numbers from 1"),
        ("ports=8", "8 ports; legal: 1 to the board's 4"),
    ],
)  # fmt: skip
def test_a_wrong_name_of_a_design_is_refused(text: str, message: str) -> None:
    space = space_of(random_network(1)[0])
    with pytest.raises(InputError, match=message):
        space.named(parse_design(text) or {})


@pytest.mark.parametrize("text", ["t_in=12", "t_in=32,t_out=64,n_l=16"])
def test_a_named_design_that_is_not_legal_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(NothingFits):
        space_of(random_network(1)[0]).named(parse_design(text) or {})


def test_a_progress_that_can_is_told_of_timed_designs() -> None:
    class Told:
        timings = 0

        def __call__(self, settled: int, points: int, front: int) -> None:
            assert settled <= points

        def timed(self, designs: int) -> None:
            assert designs == self.timings + 1
            self.timings = designs

    told = Told()
    front = space_of(random_network(2)[0], _Few).search(progress=told)
    assert told.timings == front.proof.scored > 0


def _front(values: list[list[float]]) -> Front:
    proof = Proof(len(values), {}, 0, len(values), 0, 0)
    return Front(("latency_us", "dsp"), np.array(values), {"t_in": np.arange(len(values))}, proof)


def test_the_best_is_chosen_or_the_cheaper_near_it() -> None:
    front = _front([[100.0, 900.0], [101.9, 500.0], [102.1, 300.0], [400.0, 100.0]])
    assert [choose(front, "latency", within) for within in (0.0, 0.0195, 0.02, 0.0215, 5.0)] == [0, 1, 1, 2, 3]
    assert [choose(front, "area", within) for within in (0.0, 2.0, 4.0, 8.0)] == [3, 2, 1, 0]
    assert set(CHOICES) == {"latency", "area", "energy"}
    assert all({*names} <= {*OBJECTIVES} for names in CHOICES.values())


@pytest.mark.parametrize("network", [gemm(8, 8, 8), random_network(2)[0]])
@pytest.mark.parametrize("objectives", [("latency_us", "dsp"), ("energy_uj", "latency_us"), ("dsp",)])
def test_a_budget_that_nothing_fits_has_an_empty_front(network: Network, objectives: tuple[str, ...]) -> None:
    space = DesignSpace(network, Board.load("zcu102"), tools(), budget={"dsp": 3})
    front = space.search(objectives)
    assert len(front) == 0
    assert front.proof.exact


@pytest.mark.parametrize("resource", ["dsp", "bram36", "lut"])
def test_a_refusal_names_the_least_that_a_design_needs(resource: str) -> None:
    network, board = gemm(8, 8, 8), Board.load("zcu102")
    least = DesignSpace(network, board, tools()).least()
    for spare, fits in ((0, True), (1, False)):
        space = DesignSpace(network, board, tools(), budget={resource: least[resource] - spare})
        assert bool(len(space.search(("dsp",)))) == fits
    reason = f"{resource} binds: every design needs at least {least[resource]}, there are {least[resource] - 1}"
    assert str(space.refusal()) == f"{network.name}: no design fits; {reason}"


def test_limits_that_bind_together_are_named_together() -> None:
    class Least(DesignSpace):
        """Resources of which none binds alone."""

        def least(self) -> dict[str, int]:
            return {"dsp": 9, "bram36": 4, "uram": 0, "lut": 500, "ff": 600}

    space = Least(gemm(8, 8, 8), Board.load("zcu102"), tools(), budget={"dsp": 10, "lut": 500, "bram36": 8, "ff": 700})
    alone = "dsp 9 of 10, bram36 4 of 8, lut 500 of 500, ff 600 of 700"
    assert str(space.refusal()) == f"gemm-8x8x8: no design fits all limits together; the least of each alone: {alone}"
