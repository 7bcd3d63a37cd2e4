from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from codesign.hw.linear import LinearKernel
from codesign.hw.linear.interfaces import SLOTS
from codesign.hw.linear.rtl import LinearEngine
from codesign.hw.verilog import generate
from codesign.sim.testbench.runner import run_bench
from codesign.target.commands import RELEASE
from tests.hw.linear_bench import COMMANDS, Driver, Job, build, random_job
from tests.hw.linear_protocol import KERNEL

#        t_in t_out n_l kw_max ring table tables word
QUICK = [
    LinearKernel(1, 2, 1, 64, 256, 32, 1, 2),
    LinearKernel(4, 4, 3, 16, 64, 16, 2, 16),
    LinearKernel(8, 8, 4, 8, 64, 8, 1, 16),
    LinearKernel(8, 2, 5, 32, 128, 32, 4, 16),
    LinearKernel(2, 8, 2, 16, 128, 16, 1, 16),
    LinearKernel(16, 4, 2, 16, 32, 16, 2, 8),
]
BIG = [
    LinearKernel(16, 16, 8, 16, 128, 16, 2, 64),
    LinearKernel(32, 8, 4, 16, 64, 32, 1, 64),
    LinearKernel(4, 2, 7, 64, 256, 64, 1, 8),
    LinearKernel(1, 8, 6, 32, 256, 16, 1, 8),
    LinearKernel(64, 2, 3, 8, 32, 32, 1, 16),
    LinearKernel(8, 16, 16, 16, 128, 16, 8, 32),
]
KINDS = ("one", "ragged", "ragged", "ragged", "longest", "exact", "many", "balanced")
Shape = tuple[int, int, int]


def name(kernel: LinearKernel) -> str:
    return f"{kernel.t_in}x{kernel.t_out}x{kernel.n_l}"


def fits(kernel: LinearKernel, shape: Shape) -> bool:
    rows, k, n = shape
    sums, tiles, words = -(-k // kernel.t_in), -(-n // kernel.t_out), -(-k // kernel.word_bytes)
    return (
        words <= kernel.kw_max and sums * tiles <= kernel.ring_words and tiles <= kernel.table_words
        and rows * (words + 2) <= 1024 and rows * (tiles + 2) <= 1024
    )  # fmt: skip


def draw(rng: np.random.Generator, kernel: LinearKernel, kind: str) -> Shape:
    """A shape of the kind that the rings hold whole."""
    longest = kernel.kw_max * kernel.word_bytes
    if kind == "one":
        return 1, 1, 1
    if kind == "longest":
        return kernel.n_l + 1, longest, max(1, kernel.ring_words // (longest // kernel.t_in)) * kernel.t_out
    found = [shape for shape in (_any(rng, kernel, kind) for _ in range(3000)) if fits(kernel, shape)]
    if kind == "balanced":
        return min(found, key=lambda shape: imbalance(kernel, shape))
    return found[0]


def _any(rng: np.random.Generator, kernel: LinearKernel, kind: str) -> Shape:
    groups = int(rng.integers(5, 12)) if kind in ("many", "balanced") else int(rng.integers(1, 5))
    sums = int(rng.integers(1, 1 + min(24, kernel.kw_max * kernel.word_bytes // kernel.t_in)))
    tiles = int(rng.integers(1, 2 + min(12, kernel.table_words) // (2 if kind == "many" else 1)))
    whole = groups * kernel.n_l, sums * kernel.t_in, tiles * kernel.t_out
    if kind != "ragged":
        return whole
    parts = (kernel.n_l, kernel.t_in, kernel.t_out)
    less = [int(rng.integers(1, part)) if part > 1 else 0 for part in parts]
    return whole[0] - less[0], whole[1] - less[1], whole[2] - less[2]


def imbalance(kernel: LinearKernel, shape: Shape) -> int:
    """How far apart loading and computing a row group are."""
    _, k, n = shape
    load = kernel.n_l * -(-k // kernel.word_bytes)
    return abs(load - 1 - -(-n // kernel.t_out) * max(kernel.n_l, -(-k // kernel.t_in)))


@pytest.fixture(scope="module", params=QUICK, ids=name)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    made = Driver(build(request.param), request.param)
    yield made
    made.close()


@pytest.fixture(scope="module", params=QUICK + BIG, ids=name)
def any_driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    made = Driver(build(request.param), request.param)
    yield made
    made.close()


def limit(driver: Driver, jobs: list[Job]) -> int:
    return 2000 + 4 * sum(int(LinearKernel.cycles(driver.kernel.params, job.work())) + 2 * 1024 for job in jobs)


def check_cycles(rng: np.random.Generator, driver: Driver, shape: Shape) -> None:
    """One command on an idle engine with its weights on chip: the closed form, and the bits."""
    job = random_job(rng, driver, shape)
    driver.fill()
    driver.push(job.fields)
    trace = driver.run(1, limit(driver, [job]))
    (accepted,), (done,) = trace.cycles("accepted"), trace.cycles("done")
    assert done - accepted == LinearKernel.cycles(driver.kernel.params, job.work()), shape
    assert done == trace.cycles("out_en")[-1] + 1
    assert np.array_equal(trace.cycles("busy"), np.arange(accepted + 1, done + 1))
    job.check(trace.writes(), driver.kernel)


def check_bits(rng: np.random.Generator, driver: Driver, shape: Shape) -> None:
    """Commands back to back while their weights arrive with gaps; one uses the weights of the one before."""
    jobs = [random_job(rng, driver, shape, keep=True)]
    jobs.append(random_job(rng, driver, shape, reuse=jobs[0].block))
    jobs.append(random_job(rng, driver, draw(rng, driver.kernel, "ragged")))
    for job in jobs:
        driver.push(job.fields)
    gate = (rng.random(20_000) < rng.choice([0.1, 0.5, 0.9])).astype(np.uint8)
    trace = driver.run(len(jobs), limit(driver, jobs) + 20_000, gate)
    writes = trace.writes()
    for job in jobs:
        count = len(job.x) * job.fields["ob"]
        job.check(writes[:count], driver.kernel)
        writes = writes[count:]
    assert not writes


@pytest.mark.rtl
@pytest.mark.parametrize("index", range(len(KINDS)))
def test_cycles_and_bits(driver: Driver, index: int, rng: np.random.Generator) -> None:
    shape = draw(rng, driver.kernel, KINDS[index])
    check_cycles(rng, driver, shape)
    check_bits(rng, driver, shape)


@pytest.mark.rtl
def test_a_reset_of_one_cycle_at_any_time_leaves_nothing_behind(driver: Driver, rng: np.random.Generator) -> None:
    """Whatever is under way, in any register, the next command on the engine is right and takes its time."""
    k = driver.kernel
    for waited in range(1, 90, 1 + (k.n_l > 1)):
        job = random_job(rng, driver, (k.n_l + 1, 3 * k.t_in, 2 * k.t_out))
        driver.fill()
        driver.push(job.fields)
        driver.sim.step(waited)
        driver.sim.reset(1)
        if waited % 10 < 2:
            check_cycles(rng, driver, (k.n_l, k.t_in, k.t_out))
        trace = driver.sim.write_sequence({"gate": np.zeros(80, np.uint8)}, ("busy", "done", "out_en", "error"))
        assert not any(seen.any() for seen in trace.values()), waited


@pytest.mark.rtl
def test_short_commands_behind_a_long_one_fill_every_place(driver: Driver, rng: np.random.Generator) -> None:
    """One-row commands follow each other faster than the drain ends them, but only so many are under way."""
    k = driver.kernel
    shapes = [(3 * k.n_l, 4 * k.t_in, 1), *[(1, 1, 1)] * (COMMANDS - 1)]
    jobs = [random_job(rng, driver, shape) for shape in shapes]
    driver.fill()
    for job in jobs:
        driver.push(job.fields)
    trace = driver.run(len(jobs), limit(driver, jobs))
    writes, at = trace.writes(), 0
    for job in jobs:
        job.check(writes[at : at + len(job.x)], k)
        at += len(job.x)
    assert at == len(writes)
    accepted, done = (np.cumsum(trace.seen[name].astype(int)) for name in ("accepted", "done"))
    under_way = accepted - done + len(jobs) - accepted[-1]
    assert under_way.max() == SLOTS


@pytest.mark.rtl
def test_illegal_commands_are_refused_and_the_engine_goes_on(driver: Driver, rng: np.random.Generator) -> None:
    k = driver.kernel
    longest = k.kw_max * k.word_bytes // k.t_in
    good = {"rows": k.n_l + 1, "kw": 1, "ib": 1, "ob": 1, "flags": RELEASE}
    wrong = [
        {"rows": 0}, {"kw": 0}, {"ib": 0}, {"ob": 0}, {"kw": k.kw_max + 1}, {"ib": longest + 1}, {"table": k.tables},
        {"ob": k.ring_words + 1}, {"ob": k.table_words + 1}, {"rows": 1, "ob": k.table_words + 1},
        {"rows": 1, "flags": 0, "ob": k.ring_words // 2 + 1, "ib": 2},
        {"kw": 0xFFFF, "ib": 0xFFFF, "ob": 0xFFFF},
    ]  # fmt: skip
    kept = {"ib": k.ring_words // k.table_words + 1, "ob": k.table_words}  # legal but for a ring that must hold it
    wrong += [kept, {**kept, "rows": 1, "flags": 0}]
    for change in wrong:
        driver.push(good | change)
        trace = driver.run(1, 1000)
        assert np.array_equal(trace.cycles("error"), trace.cycles("accepted")), change
        assert len(trace.cycles("error")) == 1, change
        assert not any(trace.seen[name].any() for name in ("done", "busy", "out_en")), change
    check_cycles(rng, driver, draw(rng, k, "ragged"))


@pytest.mark.rtl
def test_a_block_longer_than_the_weight_ring_runs_if_it_is_used_once(driver: Driver, rng: np.random.Generator) -> None:
    k = driver.kernel
    job = random_job(rng, driver, (k.n_l, (k.ring_words // 8 + 1) * k.t_in, 8 * k.t_out))
    driver.push(job.fields)
    job.check(driver.run(1, limit(driver, [job]) + 100_000).writes(), k)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(18))
def test_more_cycles_and_bits(any_driver: Driver, index: int, rng: np.random.Generator) -> None:
    shape = draw(rng, any_driver.kernel, KINDS[1:][index % (len(KINDS) - 1)])
    check_cycles(rng, any_driver, shape)
    check_bits(rng, any_driver, shape)


@pytest.mark.slow
def test_long_commands(any_driver: Driver, rng: np.random.Generator) -> None:
    kernel = any_driver.kernel
    _, k, n = draw(rng, kernel, "ragged")
    one, two = (int(LinearKernel.cycles(kernel.params, {"rows": g * kernel.n_l, "k": k, "n": n})) for g in (3, 5))
    rows = kernel.n_l * (2 * 100_000 // (two - one) + 1) + 1
    assert rows < 1 << 16
    job = random_job(rng, any_driver, (rows, k, n), alike=True)
    any_driver.fill()
    any_driver.push(job.fields)
    trace = any_driver.run(1, 300_000)
    (accepted,), (done,) = trace.cycles("accepted"), trace.cycles("done")
    assert done - accepted == LinearKernel.cycles(kernel.params, job.work()) > 100_000
    job.check(trace.writes(), kernel)


@pytest.mark.rtl
def test_protocol_bench(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    sources = generate(LinearEngine(KERNEL), "linear")
    seed = int(request.config.option.seed) + 1
    report = run_bench(sources.files, "linear", "tests.hw.linear_protocol", directory=tmp_path, seed=seed)
    assert [outcome.name.rpartition(".")[-1] for outcome in report.outcomes] == [
        "full_rate", "late_weights", "gaps_everywhere", "illegal_commands_between",
    ]  # fmt: skip
