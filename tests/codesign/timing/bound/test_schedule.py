"""The bound is below the exact cycles of every design, near to them where the rings are deep, and one for arrays."""

from collections.abc import Callable

import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.errors import CheckError, NothingFits
from codesign.frontend.zoo import gemm
from codesign.hw.system.accelerator import formulas
from codesign.ir.network import Network, Norm
from codesign.target.design import Design
from codesign.timing.bound.schedule import Bound, _Schedule
from codesign.timing.cycles import exact
from tests.accelerators import board, chain, fitting
from tests.marks import few_fast
from tests.quant.vits import random_network
from tests.transformers import post_norm


def _random_design(network: Network, rng: np.random.Generator, rings: tuple[int, ...]) -> Design:
    """Engines of any size on memory interfaces of any speed."""
    ports, latency = int(rng.choice([1, 2, 4])), int(rng.choice([7, 60, 200]))
    interface = board(ports, latency, int(rng.choice([1, 8, 16])), int(rng.choice([10**9, 15_360_000_000])))
    linear = {
        "t_in": int(rng.choice([4, 8, 16])), "t_out": int(rng.choice([8, 16, 32])), "n_l": int(rng.integers(1, 9)),
        "kw_max": 64, "ring_words": int(rng.choice(rings)), "table_words": int(rng.choice(rings)), "tables": 4,
    }  # fmt: skip
    t_a = int(rng.choice([4, 8, 16]))
    attention = {"t_a": t_a, "n_a": 2 * int(rng.integers(1, 9)), "max_keys": 64, "db_max": 64 // t_a}
    wide = int(any(isinstance(layer, Norm) and layer.bits == 16 for layer in network))
    vector = {"t_v": int(rng.choice([1, 4, 8])), "max_d": 64, "wide": wide}
    engines = {"linear": linear, "attention": attention, "vector": vector}
    return fitting(Design(interface, engines, {}, int(rng.integers(1, 20))), [network])


def _gap(network: Network, design: Design) -> float | None:
    """Exact cycles above the bound, relative to them; None if no program runs."""
    try:
        cycles = exact(compile_network(network, design), design, formulas(design.engines)).total
    except (NothingFits, CheckError):
        return None
    found = Bound(network, design.board)(design.engines, formulas(design.engines), design.row_group)
    return (cycles - int(found)) / cycles


@pytest.mark.parametrize("seed", few_fast(range(8), 1))
def test_no_design_is_faster(seed: int) -> None:
    rng = np.random.default_rng(seed)
    networks = [random_network(seed)[0], chain(rng, 17, [30, 64, 9]), gemm(23, 40, 31)]
    gaps = [_gap(n, _random_design(n, rng, (16, 64, 1024))) for n in networks for _ in range(8)]
    found = [gap for gap in gaps if gap is not None]
    assert len(found) > 12
    assert min(found) >= 0


@pytest.mark.parametrize("seed", few_fast(range(3), 1))
def test_shallow_rings_hold_no_design_back_more_than_they_must(seed: int) -> None:
    """Every few words the array waits for the memory."""
    rng, gaps = np.random.default_rng([seed, 7]), []
    for _ in range(25):
        rows, k, n = (int(size) for size in rng.integers(1, 40, 3))
        linear = {
            "t_in": 4, "t_out": 8, "n_l": int(rng.integers(1, 4)), "kw_max": 64, "tables": 1,
            "ring_words": int(rng.choice([2, 4, 16])), "table_words": int(rng.choice([2, 4, 64])),
        }  # fmt: skip
        network = gemm(rows, k, n)
        gap = _gap(network, fitting(Design(board(2, 3), {"linear": linear}, {}, 64), [network]))
        gaps += [gap] if gap is not None else []
    assert len(gaps) > 8
    assert min(gaps) >= 0


def _starved(seed: int) -> list[tuple[float, bool]]:
    """Gaps of layers whose weights wait for room in the ring, and whether the array goes over blocks again."""
    rng, gaps = np.random.default_rng([seed, 9]), []
    for _ in range(12):
        network = chain(rng, int(rng.integers(1, 20)), rng.integers(16, 220, int(rng.integers(3, 6))).tolist())
        t_in, t_out, n_l = int(rng.choice([4, 8])), int(rng.choice([8, 16])), int(rng.integers(1, 20))
        linear = {
            "t_in": t_in, "t_out": t_out, "n_l": n_l, "kw_max": 64, "tables": 4, "table_words": 64,
            "ring_words": int(rng.choice([64, 80, 128, 200, 256])),
        }  # fmt: skip
        interface = board(int(rng.choice([1, 2])), int(rng.choice([7, 60, 200])), 16, int(rng.choice([10**9, 10**10])))
        design = fitting(Design(interface, {"linear": linear}, {}, int(rng.integers(1, 20))), [network])
        gap = _gap(network, design)
        gaps += [(gap, network.layers[0].rows > min(n_l, design.row_group))] if gap is not None else []
    return gaps


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_weights_that_wait_for_room_in_the_ring(seed: int) -> None:
    gaps = _starved(seed)
    assert len(gaps) > 6
    assert min(gap for gap, _ in gaps) >= 0


@pytest.mark.rtl
def test_what_a_ring_holds_back_is_foreseen() -> None:
    gaps = [found for seed in range(4, 8) for found in _starved(seed)]
    for again in (False, True):
        assert np.median([gap for gap, several in gaps if several == again]) < 0.2


@pytest.mark.parametrize("seed", few_fast(range(3), 1))
def test_weights_that_wait_for_room_for_their_tables(seed: int) -> None:
    rng, gaps = np.random.default_rng([seed, 10]), []
    for _ in range(14):
        network = chain(rng, int(rng.integers(1, 30)), rng.integers(40, 260, int(rng.integers(3, 7))).tolist())
        linear = {
            "t_in": 8, "t_out": 8, "n_l": int(rng.integers(1, 33)), "kw_max": 64, "tables": 6, "ring_words": 1024,
            "table_words": int(rng.choice([2, 4, 8, 16])),
        }  # fmt: skip
        interface = board(int(rng.choice([1, 4])), int(rng.choice([60, 200])), 16, int(rng.choice([10**9, 10**10])))
        gap = _gap(network, fitting(Design(interface, {"linear": linear}, {}, int(rng.integers(4, 40))), [network]))
        gaps += [gap] if gap is not None else []
    assert len(gaps) > 8
    assert min(gaps) >= 0
    assert np.median(gaps) < 0.15


def test_whole_bursts_are_whole_cycles_apart() -> None:
    """61.44 bytes come in a cycle, so a burst of 256 takes 5 cycles, not 4.17; the array waits for them alone."""
    network = chain(np.random.default_rng(0), 8, [200] * 5)
    linear = {"t_in": 16, "t_out": 16, "n_l": 8, "kw_max": 64, "tables": 4, "table_words": 256, "ring_words": 1024}
    interface = board(4, 60, 8, 61_440_000 * 300)
    gap = _gap(network, fitting(Design(interface, {"linear": linear}, {}, 64), [network]))
    assert gap is not None
    assert 0 <= gap < 0.08


def test_only_loads_that_stand_behind_few_commands_are_early() -> None:
    """With a row per command the queue is full of linear commands before the load of the rows to add."""
    network = post_norm(0)
    linear = {"t_in": 8, "t_out": 8, "n_l": 32, "kw_max": 64, "tables": 9, "table_words": 256, "ring_words": 2048}
    engines = {
        "linear": linear, "attention": {"t_a": 4, "n_a": 2, "max_keys": 64, "db_max": 16},
        "vector": {"t_v": 1, "max_d": 64, "wide": 1},
    }  # fmt: skip
    many, few = (
        _Schedule(Bound(network, board()), engines, formulas(engines), row_group, 0, {}, None, False).early
        for row_group in (1, 64)
    )
    assert few[0][1] == 0
    assert min(int(behind) for _, behind in few[1:]) > 0
    assert min(int(words) for words, _ in few[:2]) > 0
    assert [int(words) for words, _ in many[1:]] == [0] * (len(many) - 1)


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_a_leap_over_layers_that_repeat_is_a_little_lower(seed: int) -> None:
    rng, shares = np.random.default_rng([seed, 11]), []
    for _ in range(12):
        network = chain(rng, int(rng.integers(1, 30)), [int(rng.integers(40, 200))] * int(rng.integers(6, 12)))
        drawn = _random_design(network, rng, (64, 128, 1024))
        linear = {**drawn.linear, "tables": 16}
        design = fitting(Design(drawn.board, {"linear": linear}, {}, drawn.row_group), [network])
        if _gap(network, design) is None:
            continue
        bound, said = Bound(network, design.board), formulas(design.engines)
        every, some = (bound(design.engines, said, design.row_group, leaping=leaping) for leaping in (False, True))
        assert some <= every
        shares.append(int(some) / int(every))
    assert len(shares) > 5
    assert np.median(shares) > 0.8


def test_a_ring_of_one_tile_turns_at_every_tile() -> None:
    """All rows in one pass: a tile comes in behind the one before it, and the memory is late."""
    network = chain(np.random.default_rng(0), 12, [200, 160, 200])
    linear = {"t_in": 4, "t_out": 8, "n_l": 16, "kw_max": 64, "tables": 4, "table_words": 64, "ring_words": 64}
    gap = _gap(network, fitting(Design(board(2, 200, 16, 10**10), {"linear": linear}, {}, 64), [network]))
    assert gap is not None
    assert 0 <= gap < 0.2


def test_weights_wait_while_attention_goes_on() -> None:
    network = random_network(3)[0]
    linear = {"t_in": 4, "t_out": 8, "n_l": 32, "kw_max": 64, "tables": 4, "table_words": 64, "ring_words": 128}
    engines = {
        "linear": linear, "attention": {"t_a": 4, "n_a": 2, "max_keys": 64, "db_max": 16},
        "vector": {"t_v": 1, "max_d": 64},
    }  # fmt: skip
    gap = _gap(network, fitting(Design(board(2, 60, 16, 15 * 10**8), engines, {}, 64), [network]))
    assert gap is not None
    assert 0 <= gap < 0.13


@pytest.mark.parametrize("seed", few_fast(range(3), 1))
def test_loader_and_array_alternate_as_they_may(seed: int) -> None:
    """Rows that take as long to load as to multiply: each group may wait for the buffer or for the rows."""
    rng, gaps = np.random.default_rng([seed, 8]), []
    for _ in range(25):
        n_l = int(rng.integers(1, 6))
        widths = [int(rng.integers(16, 200)), int(rng.integers(2, 40)), 8]
        linear = {
            "t_in": 16, "t_out": 8, "n_l": n_l, "kw_max": 64, "tables": 2, "ring_words": 1024, "table_words": 64,
        }  # fmt: skip
        network = chain(rng, int(rng.integers(1, 9 * n_l)), widths)
        interface = board(1, 7, 16, 10**11)
        gap = _gap(network, fitting(Design(interface, {"linear": linear}, {}, int(rng.integers(1, 40))), [network]))
        gaps += [gap] if gap is not None else []
    assert len(gaps) > 8
    assert min(gaps) >= 0


@pytest.mark.rtl
def test_deep_rings_on_a_fast_memory_leave_little_above_it() -> None:
    gaps = []
    for seed in range(6):
        network, rng = random_network(seed)[0], np.random.default_rng(seed)
        for _ in range(4):
            design = _random_design(network, rng, (4096,))
            fast = fitting(Design(board(), design.engines, {}, design.row_group), [network])
            gap = _gap(network, fast)
            gaps += [gap] if gap is not None else []
    assert np.median(gaps) < 0.02


def test_what_is_known_of_the_begin_brings_it_nearer() -> None:
    network, rng, nearer = random_network(3)[0], np.random.default_rng(3), 0
    for _ in range(6):
        drawn = _random_design(network, rng, (4096,))
        design = fitting(Design(board(), drawn.engines, {}, drawn.row_group), [network])
        timing = exact(compile_network(network, design), design, formulas(design.engines))
        first = timing.activities[next(iter(timing.early))]
        bound = Bound(network, design.board)
        blind = int(bound(design.engines, formulas(design.engines), design.row_group))
        seeing = int(bound(design.engines, formulas(design.engines), design.row_group, begun={(0, 0): first.stop}))
        assert blind <= seeing <= timing.total
        nearer += blind < seeing
    assert nearer


def test_arrays_of_designs_give_what_each_gives_alone() -> None:
    network = random_network(1)[0]
    bound, rng = Bound(network, board()), np.random.default_rng(1)
    drawn = [_random_design(network, rng, (64, 1024)).engines for _ in range(12)]
    many = {
        engine: {name: np.array([each[engine][name] for each in drawn]) for name in drawn[0][engine]}
        for engine in drawn[0]
    }
    for row_group in (3, 17):
        together = np.asarray(bound(many, formulas(many), row_group)).tolist()
        assert together == [int(bound(each, formulas(each), row_group)) for each in drawn]


@pytest.mark.parametrize("make", few_fast([lambda: random_network(2)[0], lambda: post_norm(1)], 1))
@pytest.mark.parametrize("leaping", few_fast([True, False], 1))
def test_designs_of_other_groups_of_rows_together_give_what_each_gives_alone(
    make: Callable[[], Network], leaping: bool
) -> None:
    """Also where layers have other numbers of rows, begin behind the first row, and the begin is known of some."""
    network = make()
    bound, rng = Bound(network, board()), np.random.default_rng(2)
    drawn = [_random_design(network, rng, (64, 128, 1024)) for _ in range(40)]
    drawn.sort(key=lambda design: design.row_group)
    rows = np.array([design.row_group for design in drawn])
    many = {
        engine: {name: np.array([each.engines[engine][name] for each in drawn]) for name in drawn[0].engines[engine]}
        for engine in drawn[0].engines
    }
    known = {(0, group): rng.integers(0, 2, 40) * 3000 * (group + 1) for group in range(3)}
    together = np.asarray(bound(many, formulas(many), rows, begun=known, leaping=leaping)).tolist()
    for number, design in enumerate(drawn):
        count = -(-network.layers[0].rows // design.row_group)
        mine = {place: int(cycle[number]) for place, cycle in known.items() if place[1] < count}
        said = formulas(design.engines)
        assert together[number] == bound(design.engines, said, design.row_group, begun=mine, leaping=leaping)
