from dataclasses import replace

import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.dse.design_space import DesignSpace
from codesign.flow.build import tools
from codesign.target.board import Board
from tests.accelerators import chain
from tests.codesign.dse.spaces import drawn_points, space_of
from tests.quant.vits import random_network
from tests.transformers import post_norm


def test_designs_that_differ_in_what_no_run_needs_have_one_score() -> None:
    space, answers = space_of(random_network(5)[0]), 0
    scorer = space.scorer()
    fixed = {name: space.axes[name][-1:] for name in space.axes if name not in ("ring_words", "table_words", "n_l")}
    for point in drawn_points(space, 5, 60, **fixed):
        found, fresh = scorer.cached_score(point), space.scorer().score(point)
        assert found in (None, fresh)
        answers += found is not None
        scorer.score(point)
    assert answers > 20


def test_what_one_run_tells_fits_no_other_design() -> None:
    slow = replace(Board.load("zcu102").memory, bytes_per_second=2 * 10**9)
    space = DesignSpace(random_network(6)[0], replace(Board.load("zcu102"), memory=slow), tools())
    fixed = {"t_in": (8,), "t_out": (8,), "n_l": (3,), "row_group": (17,), "ring_words": (512,), "table_words": (64,)}
    scorer, drawn = space.scorer(), drawn_points(space, 6, 30, **fixed)
    scores = [scorer.score(point) for point in drawn]
    lifted = scorer.tight_bound({name: np.array([point[name] for point in drawn]) for name in space.axes})[:, 0]
    assert all(bound <= score[0] for bound, score in zip(lifted, scores, strict=True) if score is not None)


def test_designs_that_begin_alike_move_and_multiply_alike() -> None:
    """Loads, fetches and linear commands are the same then, and they are not where heads or norms are padded more."""
    space = DesignSpace(random_network(6)[0], Board.load("zcu102"), tools())
    fixed = {
        "t_in": (8,),
        "t_out": (8,),
        "n_l": (3,),
        "row_group": (17,),
        "ports": (1,),
        "clock_hz": space.axes["clock_hz"][:1],
    }
    scorer, moves = space.scorer(), dict[tuple[int, ...], set[tuple[object, ...]]]()
    for point in drawn_points(space, 2, 60, **fixed, ring_words=(512,), table_words=(64,)):
        commands = compile_network(space.network, space.design(point), bare=True).commands
        sizes = [
            tuple(command.fields.get(name, 0) for name in ("words", "table_words", "weight_words", "rows", "ib", "ob"))
            for command in commands
            if command.engine in ("load", "fetch", "linear")
        ]
        moves.setdefault(scorer._begin(scorer._key(point)), set()).add((*sizes,))
    assert 1 < len(moves) < 25
    assert all(len(found) == 1 for found in moves.values())


def test_a_run_tells_how_others_begin() -> None:
    """Designs that differ in the attention engine; the first one run lifts the bounds of the others."""
    slow = replace(Board.load("zcu102").memory, bytes_per_second=2 * 10**9)
    space, raised = DesignSpace(random_network(5)[0], replace(Board.load("zcu102"), memory=slow), tools()), 0
    for seed in range(6):
        scorer, first = space.scorer(), drawn_points(space, seed, 1)[0]
        fixed = {name: (value,) for name, value in first.items() if name != "n_a"}
        drawn = drawn_points(space, seed, 6, **fixed)
        columns = {name: np.array([point[name] for point in drawn]) for name in space.axes}
        before = scorer.tight_bound(columns)[:, 0]
        if scorer.score(drawn[0]) is None:
            continue
        after = scorer.tight_bound(columns)[:, 0]
        scores = [space.scorer().score(point) for point in drawn]
        assert (after >= before).all()
        assert all(bound <= score[0] for bound, score in zip(after, scores, strict=True) if score is not None)
        raised += int((after > before).any())
    assert raised


@pytest.mark.rtl
@pytest.mark.parametrize("seed", [2, 5, 18, 20, 28])
def test_no_bound_is_above_the_score_of_any_ring(seed: int) -> None:
    """Layers cut into blocks end sooner behind their last weights, so short rings may be faster than long ones."""
    rng = np.random.default_rng(seed)
    slow = replace(Board.load("zcu102").memory, bytes_per_second=[2, 5, 15][seed % 3] * 10**9)
    networks = [chain(rng, 40, rng.integers(40, 400, 5).tolist()), random_network(seed)[0], post_norm(seed)]
    for network in networks:
        space = DesignSpace(network, replace(Board.load("zcu102"), memory=slow), tools())
        scorer, problem = space.scorer(), space.problem(("latency_us",))
        short = {axis: space.axes[axis][:4] for axis in ("ring_words", "table_words")}
        drawn = {axis: rng.choice(np.array(short.get(axis, values)), 20) for axis, values in space.axes.items()}
        names = ["least_cycles", "free_cycles", "held_cycles", "cycles"]
        bounds = {name: cycles * 1e6 / drawn["clock_hz"] for name, cycles in problem.compute(drawn, names).items()}
        bounds |= {"cheap_bound": scorer.cheap_bound(drawn)[:, 0], "tight_bound": scorer.tight_bound(drawn)[:, 0]}
        for i in range(20):
            score = scorer.score({axis: int(values[i]) for axis, values in drawn.items()})
            for name, bound in bounds.items():
                assert score is None or bound[i] <= score[0], (name, network.name, i)


def test_designs_lifted_together_stay_below_their_scores() -> None:
    space, rng = space_of(random_network(6)[0]), np.random.default_rng(6)
    scorer, few = space.scorer(), {"ring_words": (64, 128)}
    drawn = [{name: int(rng.choice(few.get(name, v))) for name, v in space.axes.items()} for _ in range(60)]
    columns = {name: np.array([point[name] for point in drawn]) for name in space.axes}
    lifted, gaps = scorer.tight_bound(columns)[:, 0], []
    weaker = space.problem(("latency_us", "dsp")).compute(columns, ["latency_us"])["latency_us"]
    assert (lifted >= weaker).all()
    assert (lifted > weaker).any()
    for point, bound in zip(drawn, lifted, strict=True):
        score = scorer.score(point) if space.planner.legal(space.design(point)) else None
        gaps += [1 - bound / score[0]] if score is not None else []
    assert min(gaps) >= 0
    assert np.median(gaps) < 0.1
