"""The cycle model equals the RTL, for whole programs, bit for bit and cycle for cycle."""

from dataclasses import FrozenInstanceError, replace
from weakref import ref

import numpy as np
import pytest

from codesign.compiler.program import compile_network, program_traffic
from codesign.errors import CheckError
from codesign.frontend.zoo import gemm
from codesign.hw.system.accelerator import formulas
from codesign.ir.network import Network
from codesign.target.commands import Command
from codesign.target.design import Design
from codesign.timing.cycles import exact
from tests.accelerators import SMALL_VIT, board, chain, compiled, fitting, integers, run_program
from tests.marks import few_fast
from tests.quant.vits import random_network, recipe, samples

_LINEAR = {"t_in": 8, "t_out": 8, "n_l": 3, "kw_max": 8, "ring_words": 128, "table_words": 16, "tables": 4}
_DESIGNS: tuple[tuple[dict[str, int], dict[str, int]], ...] = (
    ({}, {}),
    ({"ports": 1, "latency": 7, "outstanding": 1}, {"t_in": 4, "t_out": 4, "n_l": 2, "kw_max": 64, "ring_words": 256}),
    (
        {"ports": 2, "latency": 100, "outstanding": 2, "bytes_per_second": 10**9},
        {"t_in": 16, "t_out": 4, "n_l": 5, "kw_max": 16},
    ),
    ({"ports": 4, "latency": 61, "outstanding": 16}, {"t_in": 32, "n_l": 1, "table_words": 8}),
    ({"ports": 2, "latency": 3, "outstanding": 4}, {"t_in": 2, "t_out": 16, "n_l": 7, "kw_max": 16, "ring_words": 256}),
    ({"ports": 1, "latency": 200, "outstanding": 8}, {"t_out": 2, "n_l": 4, "kw_max": 32, "ring_words": 64}),
)
"""Memory interfaces, and what their linear engines have other than `_LINEAR`."""


def _chains(rng: np.random.Generator, count: int) -> list[Network]:
    """Chains of ragged, prime, one and larger dimensions."""
    found = [chain(rng, 1, [1, 1]), chain(rng, 7, [37, 9], wide=True), chain(rng, 3, [64, 50, 61, 10])]
    while len(found) < count:
        widths = [int(w) for w in rng.integers(1, 90, rng.integers(2, 5))]
        found.append(chain(rng, int(rng.integers(1, 40)), widths, wide=bool(rng.integers(2))))
    return found


def _check_chains(case: int, count: int) -> None:
    rng = np.random.default_rng([case, 5])
    options, linear = _DESIGNS[case]
    linear = _LINEAR | linear
    networks = _chains(rng, count)
    design = fitting(Design(board(**options), {"linear": linear}, {}, int(rng.integers(2, 20))), networks)
    library = compiled(design)
    for network in networks:
        for outcome in run_program(library, design, network, [integers(rng, network) for _ in range(3)]):
            assert outcome.bits_equal
            assert outcome.simulated == outcome.modelled
        stalled = run_program(library, design, network, [integers(rng, network)], stall=(case, 0.3))
        assert stalled[0].bits_equal


@pytest.mark.rtl
@pytest.mark.parametrize("case", [0, 2])
def test_chains_equal_the_rtl(case: int) -> None:
    _check_chains(case, 8)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(_DESIGNS)))
def test_many_chains_equal_the_rtl(case: int) -> None:
    _check_chains(case, 34)


@pytest.mark.rtl
def test_streamed_gemms_equal_the_rtl() -> None:
    """Inputs and outputs larger than their memories, weights larger than the ring."""
    rng = np.random.default_rng(3)
    shapes = [(33, 100, 200), (200, 64, 300), (61, 130, 97)]
    networks = [gemm(*shape) for shape in shapes]
    design = Design(board(), {"linear": _LINEAR | {"kw_max": 4}}, {"input": 4096, "output": 8192})
    library = compiled(design)
    for network in networks:
        for outcome in run_program(library, design, network, [integers(rng, network) for _ in range(2)]):
            assert outcome.bits_equal
            assert outcome.simulated == outcome.modelled


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_long_runs_equal_the_rtl(seed: int) -> None:
    """Each over 100,000 cycles."""
    rng = np.random.default_rng([seed, 9])
    m, k, n = (int(x) for x in rng.integers(195, 256, 3))
    network = gemm(m, k, n, seed)
    design = Design(board(), {"linear": _LINEAR | {"n_l": 1}}, {"input": 8192, "output": 8192})
    outcome = run_program(compiled(design), design, network, [integers(rng, network)])[0]
    assert outcome.bits_equal
    assert outcome.simulated == outcome.modelled > 100_000


@pytest.mark.rtl
def test_random_transformers_equal_the_rtl() -> None:
    """Ten transformers of random shape on one accelerator, three inferences each without a reset."""
    seeds = range(10)
    networks = [random_network(seed)[0] for seed in seeds]
    design = fitting(Design(board(), SMALL_VIT, {}, 5), networks)
    library = compiled(design)
    for seed, network in zip(seeds, networks, strict=True):
        images = samples(recipe(seed), 3)
        for outcome in run_program(library, design, network, [{"image": image} for image in images]):
            assert outcome.bits_equal, f"transformer {seed}"
            assert outcome.simulated == outcome.modelled, f"transformer {seed}"


def test_a_list_that_cannot_end_is_named() -> None:
    network = gemm(4, 8, 8)
    design = fitting(Design(board(), {"linear": _LINEAR}, {}), [network])
    program = compile_network(network, design)
    first = program.commands[0]
    stuck = Command(first.engine, first.fields, label="stuck", waits={"store": 1})
    with pytest.raises(CheckError, match=r"command 0 \(fetch, stuck\) never ends: the program deadlocks"):
        exact(replace(program, commands=(stuck, *program.commands[1:])), design, formulas(design.engines))


def _wide(rng: np.random.Generator, network: Network) -> Design:
    """A design for a transformer whose engines are as wide as may be."""
    lanes = {"t_a": int(rng.choice([2, 4, 8, 16])), "t_v": int(rng.choice([2, 4, 8, 16, 32]))}
    engines = {name: {key: lanes.get(key, value) for key, value in p.items()} for name, p in SMALL_VIT.items()}
    return fitting(Design(board(int(rng.choice([1, 4]))), engines, {}, int(rng.choice([3, 5, 40]))), [network])


@pytest.mark.parametrize("seed", few_fast([0, 5, 4, 1], 1))
def test_a_program_that_designs_share_runs_as_their_own(seed: int) -> None:
    rng, network = np.random.default_rng([seed, 3]), random_network(seed)[0]
    others = 0
    for number in range(30):
        design = _wide(rng, network)
        said, bare = formulas(design.engines), compile_network(network, design, bare=True)
        own = compile_network(network, design)
        compiled = number % 3 > 0
        assert exact(bare, design, said, compiled=compiled) == exact(own, design, said, compiled=compiled)
        assert program_traffic(bare, design.word_bytes) == program_traffic(own, design.word_bytes)
        others += bare.encode() != own.encode()
    assert others > 5, "otherwise this shows little"


def test_a_program_is_not_kept_for_its_runs() -> None:
    network = gemm(40, 64, 64)
    design = fitting(Design(board(), {"linear": _LINEAR}, {}, 8), [network])
    program = compile_network(network, design)
    exact(program, design, formulas(design.engines))
    kept = ref(program)
    assert kept() is program
    del program
    assert kept() is None


def test_timing_lists_every_command() -> None:
    network = gemm(40, 64, 64)
    design = fitting(Design(board(), {"linear": _LINEAR}, {}, 8), [network])
    program = compile_network(network, design)
    timing = exact(program, design, formulas(design.engines))
    assert [a.engine for a in timing.activities] == [c.engine for c in program.commands]
    assert all(0 < a.start < a.stop < timing.total for a in timing.activities)
    assert timing.activities is timing.activities
    again = exact(program, design, formulas(design.engines))
    assert again == timing
    assert replace(again, stop=(*again.stop[:-1], 1)) != timing
    with pytest.raises(FrozenInstanceError):
        timing.total = 1  # type: ignore[misc]
