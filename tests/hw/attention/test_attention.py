import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from codesign.hw.attention import MAX_KEYS, AttentionKernel
from codesign.hw.attention.control import OPERANDS
from codesign.hw.attention.rtl import AttentionEngine
from codesign.ir.network import MASKS, Attention
from codesign.numerics.fixed_point import IntArray
from codesign.numerics.nonlinear import mask_interval
from codesign.sim.verilator.simulator import Library
from tests.hw.engine_bench import Driver, EngineBench, MemoryShape, Placed, Words, build, encode, hardware, refuses

DEPTH = 4096
LIMIT = 2_000_000
KERNELS = (
    AttentionKernel(t_a=1, n_a=2, max_keys=4, db_max=8),
    AttentionKernel(t_a=2, n_a=4, max_keys=32, db_max=33),
    AttentionKernel(t_a=4, n_a=2, max_keys=64, db_max=3),
    AttentionKernel(t_a=4, n_a=6, max_keys=16, db_max=1),
    AttentionKernel(t_a=8, n_a=4, max_keys=64, db_max=4),
    AttentionKernel(t_a=8, n_a=8, max_keys=32, db_max=2),
)
MORE_KERNELS = (
    AttentionKernel(t_a=16, n_a=2, max_keys=64, db_max=8),
    AttentionKernel(t_a=2, n_a=10, max_keys=128, db_max=4),
    AttentionKernel(t_a=32, n_a=4, max_keys=16, db_max=4),
    AttentionKernel(t_a=1, n_a=32, max_keys=256, db_max=40),
    AttentionKernel(t_a=4, n_a=4, max_keys=2048, db_max=2),
    AttentionKernel(t_a=16, n_a=16, max_keys=256, db_max=4),
)


@dataclass(frozen=True)
class Case:
    """A layer, the index of its first query row, and its matrices."""

    layer: Attention
    offset: int
    q: IntArray
    k: IntArray
    v: IntArray

    def blocks(self, t_a: int) -> int:
        return -(-self.layer.head_dim // t_a)

    def golden(self) -> IntArray:
        return AttentionKernel.golden(self.layer, self.q, self.k, self.v, self.offset)

    def work(self) -> dict[str, int]:
        layer = self.layer
        return {
            "rows": layer.rows, "keys": layer.keys, "heads": layer.heads, "head_dim": layer.head_dim,
            "mask": MASKS.index(layer.mask), "window": layer.window, "query_offset": self.offset,
        }  # fmt: skip


def layer(rows: int, keys: int, heads: int, head_dim: int, mask: str = "full", window: int = 0) -> Attention:
    return Attention(
        "a", "q", "k", "v", "o", rows, keys, heads, head_dim, mask=mask, window=window,
        score_multiplier=81_234, score_shift=21, out_multiplier=101_010, out_shift=16,
    )  # fmt: skip


def case(rng: np.random.Generator, a: Attention, offset: int = 0) -> Case:
    """Full-range matrices for a layer."""
    width = a.heads * a.head_dim
    q, k, v = (rng.integers(-128, 128, (rows, width)) for rows in (a.rows, a.keys, a.keys))
    return Case(a, offset, q, k, v)


def random_case(rng: np.random.Generator, kernel: AttentionKernel, ragged: bool) -> Case:
    """Everything at random; if ragged, no size divides the hardware's if that is larger than one."""
    head_dim = _draw(rng, kernel.t_a * kernel.db_max, kernel.t_a if ragged else 1)
    heads = int(rng.integers(1, 4))
    room = DEPTH // (heads * -(-head_dim // kernel.t_a))
    keys = _draw(rng, min(kernel.max_keys, room, 150), 2 if ragged else 1)
    rows = _draw(rng, min(5 * kernel.n_a, room, 40), kernel.n_a if ragged else 1)
    offset = int(rng.integers(0, 2 * kernel.n_a))
    mask = MASKS[rng.integers(0, 3)]
    least = max(1, offset + rows - keys + 1)
    window = int(rng.integers(least, least + 12)) if mask == "sliding" else 0
    scaled = replace(
        layer(rows, keys, heads, head_dim, mask, window),
        score_multiplier=int(rng.integers(1 << 16, 1 << 17)), score_shift=int(rng.integers(17, 27)),
        out_multiplier=int(rng.integers(1 << 16, 1 << 17)), out_shift=int(rng.integers(14, 19)),
    )  # fmt: skip
    return case(rng, scaled, offset)


def _draw(rng: np.random.Generator, most: int, ragged: int) -> int:
    """A size from 1 to ``most``, preferably one that ``ragged`` does not divide."""
    sizes = [size for size in range(1, most + 1) if ragged == 1 or size % ragged]
    return int(rng.choice(sizes)) if sizes else 1


def extremes(rng: np.random.Generator, kernel: AttentionKernel) -> Iterator[Case]:
    """One of everything, the largest of everything, and the ends of the number ranges."""
    most, keys = kernel.t_a * kernel.db_max, min(kernel.max_keys, DEPTH // kernel.db_max)
    yield case(rng, layer(1, 1, 1, 1))
    yield case(rng, layer(kernel.n_a + 1, 1, 3, 1, "causal"))
    heads = 1 + (keys * kernel.db_max * 2 <= DEPTH)
    largest = layer(min(2 * kernel.n_a, DEPTH // (heads * kernel.db_max)), keys, heads, most)
    yield case(rng, largest)
    yield _filled(replace(largest, out_shift=16, out_multiplier=65536), -128, -128, -128)
    yield _filled(replace(largest, score_shift=kernel.max_out_shift), 127, -128, 127)
    signs = case(rng, replace(largest, score_multiplier=0x1FFFF, score_shift=0))
    yield replace(signs, q=np.where(signs.q < 0, -128, 127), k=np.where(signs.k < 0, -128, 127))
    yield case(rng, replace(largest, score_multiplier=0, out_shift=kernel.max_out_shift))
    yield case(rng, layer(3 * kernel.n_a - 1, keys, 1, most, "sliding", 3 * kernel.n_a))
    window_one = min(keys, 2 * kernel.n_a + 1)
    yield case(rng, layer(window_one, keys, 2, 1, "sliding", 1))


def _filled(a: Attention, q: int, k: int, v: int) -> Case:
    width = a.heads * a.head_dim
    return Case(a, 0, *(np.full((n, width), x) for n, x in ((a.rows, q), (a.keys, k), (a.keys, v))))


def command(rng: np.random.Generator, item: Case, t_a: int, depth: int = DEPTH) -> dict[str, int]:
    """Operands of a case with random bases; sometimes the last word is the memory's last."""
    a, db = item.layer, item.blocks(t_a)
    fields = {name: getattr(a, name) for name in ("rows", "keys", "heads", "window")}
    fields |= {name: getattr(a, name) for name in ("score_multiplier", "score_shift", "out_multiplier", "out_shift")}
    fields |= {"db": db, "query_offset": item.offset, "mask": MASKS.index(a.mask)}
    for name in "qkvo":
        room = depth - (a.rows if name in "qo" else a.keys) * a.heads * db
        fields[f"{name}_base"] = (0, room, int(rng.integers(0, room + 1)))[rng.integers(0, 3)]
    return fields


def words(x: IntArray, heads: int, t_a: int) -> Words:
    """A matrix ``[rows, heads * d]`` as memory words [row][head][block] of t_a bytes, zero padded."""
    split = x.reshape(len(x), heads, -1).astype(np.int8)
    padded = np.pad(split, ((0, 0), (0, 0), (0, -split.shape[2] % t_a)))
    return padded.reshape(-1, t_a).view(np.uint8)


def bench(kernel: AttentionKernel, depth: int = DEPTH) -> EngineBench:
    engine = AttentionEngine(kernel, q_depth=depth, k_depth=depth, v_depth=depth, o_depth=depth)
    shape = MemoryShape(depth, 8 * kernel.t_a)
    return EngineBench(engine, OPERANDS, dict.fromkeys("qkv", shape), ("o", shape))


@dataclass(frozen=True)
class Rig:
    """A kernel and its compiled bench."""

    kernel: AttentionKernel
    library: Library


@pytest.fixture(scope="module", params=KERNELS, ids=lambda k: f"{k.t_a}x{k.n_a}")
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param, build(bench(request.param)))


@pytest.fixture(scope="module", params=MORE_KERNELS, ids=lambda k: f"{k.t_a}x{k.n_a}")
def large_rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param, build(bench(request.param)))


@pytest.fixture
def driver(rig: Rig) -> Iterator[Driver]:
    driver = Driver(rig.library)
    yield driver
    driver.close()


def check(driver: Driver, kernel: AttentionKernel, item: Case, rng: np.random.Generator) -> int:
    """Runs a case: bits, number of writes and cycles must be golden's and the formula's."""
    fields, heads = command(rng, item, kernel.t_a), item.layer.heads
    for name in "qkv":
        driver.load(name, fields[f"{name}_base"], words(getattr(item, name), heads, kernel.t_a))
    outcome = driver.issue(encode(OPERANDS, fields), LIMIT)
    expected = words(item.golden(), heads, kernel.t_a)
    cycles = int(AttentionKernel.cycles(kernel.params, item.work()))
    columns = AttentionKernel.columns(item.layer, kernel.params, 1)
    asked = AttentionKernel.work(item.layer, item.offset, item.layer.rows, columns)
    assert asked == {**item.work(), "head_dim": fields["db"] * kernel.t_a}
    placed = Placed(fields, {"q": item.offset, "k": 0, "v": 0, "o": item.offset}, widths=columns)
    assert AttentionKernel.operands(item.layer, kernel.params, placed, item.offset, item.layer.rows) == fields
    assert (outcome.error, outcome.cycles, outcome.writes) == (False, cycles, len(expected)), item.layer
    np.testing.assert_array_equal(driver.result(fields["o_base"], len(expected)), expected, str(item.layer))
    return cycles


@pytest.mark.rtl
class TestHardware:
    """Golden = hardware, formula = hardware, command after command without reset."""

    def test_random_shapes(self, rig: Rig, driver: Driver, rng: np.random.Generator) -> None:
        for index in range(16):
            check(driver, rig.kernel, random_case(rng, rig.kernel, ragged=index % 2 == 0), rng)

    def test_extremes(self, rig: Rig, driver: Driver, rng: np.random.Generator) -> None:
        for item in extremes(rng, rig.kernel):
            check(driver, rig.kernel, item, rng)

    def test_illegal_commands(self, rig: Rig, driver: Driver, rng: np.random.Generator) -> None:
        kernel = rig.kernel
        item = case(rng, layer(2, 2, 1, 1, "sliding", 2))
        good = {**command(rng, item, kernel.t_a), **{f"{name}_base": 0 for name in "qkvo"}}
        for change in illegal(kernel):
            outcome = driver.issue(encode(OPERANDS, {**good, **change}), 1000)
            assert (outcome.error, outcome.writes) == (True, 0), change
            driver.sim.step(200)
            assert (driver.sim.get("writes"), driver.sim.get("busy")) == (0, 0), change
        check(driver, kernel, item, rng)

    def test_reset_ends_a_command(self, rig: Rig, driver: Driver, rng: np.random.Generator) -> None:
        kernel = rig.kernel
        item = case(rng, layer(3 * kernel.n_a, 3, 2, 1))
        for cycles in (5, 40, 75, 100):
            driver.sim.set("command_payload", encode(OPERANDS, command(rng, item, kernel.t_a)))
            driver.sim.set("command_valid", 1)
            driver.sim.step()
            driver.sim.set("command_valid", 0)
            driver.sim.step(cycles)
            driver.sim.reset()
            quiet = driver.sim.write_sequence({}, ["finished", "busy", "writes"], cycles=200)
            assert not any(values.any() for values in quiet.values())
            check(driver, kernel, item, rng)


def illegal(kernel: AttentionKernel) -> list[dict[str, int]]:
    """Changes of a small legal command that each make it illegal."""
    zero: list[dict[str, int]] = [{name: 0} for name in ("rows", "keys", "heads", "db", "window")]
    limits = [{"keys": kernel.max_keys + 1}, {"db": kernel.db_max + 1}, {"mask": 3}, {"mask": 255}]
    scales = [{"score_multiplier": 1 << 17}, {"score_shift": 64}, {"out_shift": kernel.max_out_shift + 1}]
    scales += [{"out_multiplier": 0xFFFF}, {"out_multiplier": 1 << 17}, {"out_multiplier": 0xFFFFFF}]
    blind = [{"query_offset": 2}, {"window": 1, "query_offset": 1}, {"rows": 4}]
    bounds = [{f"{name}_base": base} for name in "qkvo" for base in (DEPTH - 1, 0xFFFFFF)]
    bounds += [{"rows": 65535, "mask": 0}, {"rows": 65535, "heads": 255, "mask": 1}]
    return [*zero, *limits, *scales, *blind, *bounds]


@pytest.mark.rtl
def test_device_multipliers(rng: np.random.Generator) -> None:
    """The same with DSP48E2 instances."""
    driver = Driver(build(bench(KERNELS[3]), primitives=True))
    for item in (*extremes(rng, KERNELS[3]), *(random_case(rng, KERNELS[3], ragged=True) for _ in range(8))):
        check(driver, KERNELS[3], item, rng)
    driver.close()


@pytest.mark.slow
class TestManyShapes:
    """Larger arrays, more shapes, and runs over 100,000 cycles."""

    def test_random_shapes(self, large_rig: Rig, rng: np.random.Generator) -> None:
        driver, kernel = Driver(large_rig.library), large_rig.kernel
        for index in range(30):
            check(driver, kernel, random_case(rng, kernel, ragged=index % 3 != 0), rng)
        for item in extremes(rng, kernel):
            check(driver, kernel, item, rng)
        driver.close()

    def test_long_runs(self, rng: np.random.Generator) -> None:
        kernel = AttentionKernel(t_a=2, n_a=2, max_keys=1024, db_max=4)
        driver = Driver(build(bench(kernel)))
        for index in range(10):
            mask = MASKS[index % 3]
            rows, keys = int(rng.integers(450, 512)), int(rng.integers(450, 512))
            window = int(rng.integers(rows, 600)) if mask == "sliding" else 0
            item = case(rng, layer(rows, keys, 2, int(rng.integers(7, 9)), mask, window))
            assert check(driver, kernel, item, rng) > 100_000
        driver.close()


def passes_by_job(n_a: int, work: dict[str, int]) -> int:
    """Pass lengths of all slots, job by job from the definition of the masks."""
    rows, offset = work["rows"], work["query_offset"]
    lo, hi = mask_interval(MASKS[work["mask"]], offset + rows, work["keys"], work["window"])
    groups = [slice(offset + g, offset + min(g + n_a, rows)) for g in range(0, rows, n_a)]
    keys = [int(hi[g].max() - lo[g].min()) for g in groups]
    jobs = [0, *(count for count in keys for _ in range(work["heads"])), 0]
    return n_a + sum(max(*pair, n_a) for pair in itertools.pairwise(jobs))


class TestCycles:
    def test_closed_form_equals_the_sum_over_jobs(self, rng: np.random.Generator) -> None:
        for _ in range(800):
            n_a = int(rng.choice([2, 4, 6, 8, 16]))
            offset, rows, keys = (int(rng.integers(low, 50)) for low in (0, 1, 1))
            window = int(rng.integers(max(1, offset + rows - keys + 1), 110))
            for mask in range(3):
                work = {"rows": rows, "keys": keys, "heads": 3, "head_dim": 5, "mask": mask}
                work |= {"window": window, "query_offset": offset}
                params = {"t_a": 2, "n_a": n_a}
                constant = 81 + (rows - 1) % n_a + 1
                assert AttentionKernel.cycles(params, work) == 3 * passes_by_job(n_a, work) + constant, (n_a, work)

    def test_arrays_give_what_scalars_give(self) -> None:
        grid = np.array(list(itertools.product((1, 2, 4, 8, 16, 32), (2, 6, 16), range(3), (1, 17, 50), (0, 9))))
        t_a, n_a, mask, rows, offset = grid.T
        work = {"rows": rows, "keys": 40 + 0 * rows, "heads": 3 + 0 * rows, "head_dim": 20 + 0 * rows}
        work |= {"mask": mask, "window": rows + offset, "query_offset": offset}
        together = AttentionKernel.cycles({"t_a": t_a, "n_a": n_a}, work)
        each = [
            AttentionKernel.cycles(
                {"t_a": int(t_a[i]), "n_a": int(n_a[i])}, {name: int(values[i]) for name, values in work.items()}
            )
            for i in range(len(grid))
        ]
        assert all(isinstance(value, int) for value in each)
        np.testing.assert_array_equal(together, each)

    def test_small_vision_transformer_is_fast(self) -> None:
        work = Case(layer(17, 17, 4, 16), 0, *3 * [np.zeros((1, 1), np.int64)]).work()
        assert AttentionKernel.cycles({"t_a": 8, "n_a": 8}, work) < 600

    def test_large_one_is_near_the_ideal(self) -> None:
        work = Case(layer(129, 129, 3, 64), 0, *3 * [np.zeros((1, 1), np.int64)]).work()
        ideal = 9 * 3 * 129 * 4
        assert ideal < int(AttentionKernel.cycles({"t_a": 16, "n_a": 16}, work)) < 1.05 * ideal


class TestContract:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"t_a": 3}, {"t_a": 0}, {"t_a": 64}, {"n_a": 1}, {"n_a": 0}, {"n_a": 34}, {"n_a": 7},
            {"max_keys": 48}, {"max_keys": 1}, {"max_keys": 2 * MAX_KEYS}, {"db_max": 0}, {"db_max": 17},
        ],
    )  # fmt: skip
    def test_illegal_parameters(self, wrong: dict[str, int]) -> None:
        params = {"t_a": 8, "n_a": 8, "max_keys": 64, "db_max": 2, **wrong}
        assert not AttentionKernel.legal(params)
        with pytest.raises(ValueError, match="legal"):
            AttentionKernel(**params)

    def test_legality_of_arrays(self) -> None:
        params = {"t_a": np.array([8, 3]), "n_a": np.array([4, 4]), "max_keys": np.array([64, 64])}
        assert np.asarray(AttentionKernel.legal({**params, "db_max": np.array([2, 2])})).tolist() == [1, 0]

    def test_supports(self) -> None:
        assert AttentionKernel.supports(layer(17, 17, 4, 16)) is None
        assert "head_dim 130 > 128" in str(AttentionKernel.supports(layer(1, 1, 1, 130)))
        assert "keys 2049 > 2048" in str(AttentionKernel.supports(layer(1, 2049, 1, 1)))
        assert "not an attention layer" in str(AttentionKernel.supports(3))

    def test_golden_of_later_rows_is_a_part_of_golden(self, rng: np.random.Generator) -> None:
        whole = case(rng, layer(9, 9, 2, 4, "sliding", 3))
        part = replace(whole.layer, rows=4)
        later = AttentionKernel.golden(part, whole.q[5:], whole.k, whole.v, query_offset=5)
        np.testing.assert_array_equal(later, whole.golden()[5:])

    def test_memories_are_checked(self) -> None:
        refuses(lambda: AttentionEngine(KERNELS[0], q_depth=0, k_depth=1, v_depth=1, o_depth=1), "legal: 1 to")

    def test_no_traffic(self) -> None:
        assert AttentionKernel.traffic(KERNELS[0].params, {"rows": 3}) == 0


class TestResources:
    @pytest.mark.rtl
    @pytest.mark.parametrize("kernel", [KERNELS[0], KERNELS[3]], ids=lambda k: f"{k.t_a}x{k.n_a}")
    def test_multipliers_and_memories_are_those_of_the_hardware(self, kernel: AttentionKernel) -> None:
        found = hardware(AttentionEngine(kernel, q_depth=64, k_depth=64, v_depth=64, o_depth=64))
        modelled = kernel.resources(kernel.params)
        halves = found.bram18 + found.modules["exp_table"]
        assert (modelled.dsp, modelled.bram36) == (found.dsp, -(-halves // 2))

    @pytest.mark.parametrize(("t_a", "lut", "ff"), [(1, 0, 0), (2, 0, 1), (4, 1, 3), (8, 2, 6)])
    def test_bits_that_chains_delay(self, t_a: int, lut: int, ff: int) -> None:
        """The second product of a chain is a register late, the third two more; longer chains take a LUT."""
        params = AttentionKernel(t_a=t_a, n_a=2, max_keys=16, db_max=2).params
        for units, expected in ((AttentionKernel.lut_units, lut), (AttentionKernel.ff_units, ff)):
            assert units(params)["packed_dot"]["delayed bits"] == 24 * expected

    def test_widths_of_every_kernel(self) -> None:
        for kernel in (*KERNELS, *MORE_KERNELS):
            largest = kernel.t_a * kernel.db_max * 128 * 128
            assert largest < 1 << kernel.score_bits - 1 <= 4 * largest
            assert 255 * kernel.max_keys < 1 << kernel.total_bits
            assert 128 * 255 * kernel.max_keys < 1 << kernel.acc_bits - 1
            assert kernel.max_out_shift + kernel.total_bits - 1 == 63

    def test_arrays(self) -> None:
        params = {name: np.array([k.params[name] for k in KERNELS]) for name in KERNELS[0].params}
        together = AttentionKernel.resources(params)
        for index, kernel in enumerate(KERNELS):
            alone = kernel.resources(kernel.params)
            for name, values in vars(together).items():
                assert np.broadcast_to(values, len(KERNELS))[index] == getattr(alone, name)
