import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from codesign.hw.primitives.multiply import LANE_BITS, MAX_CHAIN, MultiplyAdd, PackedDot, Requantizer
from codesign.hw.verilog import VerilogTarget, generate
from codesign.numerics.fixed_point import requantize
from codesign.sim.verilator.simulator import Library, Simulator, compile_design
from tests.hw.engine_bench import refuses
from tests.hw.unit_bench import clocked

Ints = NDArray[np.int64]

DOTS = [(length, True) for length in range(1, MAX_CHAIN + 1)] + [(length, False) for length in range(1, 5)]
REQUANTIZERS = [(27, 16), (27, 8), (17, 11), (2, 18)]
CORNERS = (-128, -127, -1, 0, 1, 127)
NARROW = (-127, -1, 0, 1, 127)


def label(length: int, signed: bool) -> str:
    return f"{length}{'s' if signed else 'u'}"


class Bench(wiring.Component):
    """All dot products on the same operands, and all requantizers on the same ones."""

    def __init__(self) -> None:
        outputs = {f"y{side}_{label(*dot)}": Out(LANE_BITS) for dot in DOTS for side in (0, 1)}
        outputs |= {f"q_{acc}_{out}": Out(out) for acc, out in REQUANTIZERS}
        lanes = {name: In(8 * MAX_CHAIN) for name in ("x", "w0", "w1")}
        super().__init__(
            {**lanes, "acc": In(27), "multiplier": In(17), "shift": In(6), "low": In(18), "high": In(18), **outputs}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for length, signed in DOTS:
            m.submodules[f"dot_{label(length, signed)}"] = dot = PackedDot(length, x_signed=signed)
            m.d.comb += [getattr(dot, name).eq(getattr(self, name)) for name in ("x", "w0", "w1")]
            m.d.comb += [
                getattr(self, f"y{side}_{label(length, signed)}").eq(getattr(dot, f"y{side}")) for side in (0, 1)
            ]
        for acc, out in REQUANTIZERS:
            m.submodules[f"requantizer_{acc}_{out}"] = quantizer = Requantizer(acc, out)
            m.d.comb += [
                getattr(quantizer, n).eq(getattr(self, n)) for n in ("acc", "multiplier", "shift", "low", "high")
            ]
            m.d.comb += getattr(self, f"q_{acc}_{out}").eq(quantizer.y)
        return m


def build(primitives: bool) -> Library:
    sources = generate(Bench(), "bench", VerilogTarget(primitives=primitives))
    files = dict(sources.files)
    if primitives:
        files["dsp48e2.v"] = Path(__file__).parents[1].joinpath("dsp48e2.v").read_text(encoding="utf-8")
    return compile_design(files, "bench")


@pytest.fixture(scope="module", params=[False, True], ids=["behavioural", "primitives"])
def sim(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    with build(request.param).start() as simulator:
        simulator.reset()
        yield simulator


def packed(vectors: Ints) -> NDArray[np.uint64]:
    """Vectors of up to 8 bytes, one per row, as integers."""
    wide = np.zeros((len(vectors), MAX_CHAIN), np.uint8)
    wide[:, : vectors.shape[1]] = vectors.astype(np.uint8)
    return wide.view(np.uint64).ravel()


def signed(values: NDArray[np.unsignedinteger], bits: int) -> Ints:
    wide = values.astype(np.int64)
    return wide - ((wide >> (bits - 1)) << bits)


def dots(sim: Simulator, length: int, is_signed: bool, x: Ints, w0: Ints, w1: Ints) -> tuple[Ints, Ints]:
    """Both outputs for every vector, one vector per cycle without a pause."""
    latency = PackedDot.latency(length)
    names = [f"y{side}_{label(length, is_signed)}" for side in (0, 1)]
    tail = np.zeros((latency, length), np.int64)
    drive = {name: packed(np.concatenate([v, tail])) for name, v in (("x", x), ("w0", w0), ("w1", w1))}
    seen = sim.write_sequence(drive, names)
    return signed(seen[names[0]][latency:], LANE_BITS), signed(seen[names[1]][latency:], LANE_BITS)


def check_dots(sim: Simulator, length: int, is_signed: bool, x: Ints, w0: Ints, w1: Ints) -> None:
    y0, y1 = dots(sim, length, is_signed, x, w0, w1)
    for got, w in ((y0, w0), (y1, w1)):
        want = (x * w).sum(axis=1)
        wrong = np.flatnonzero(got != want)
        assert not len(wrong), (x[wrong[0]], w0[wrong[0]], w1[wrong[0]], want[wrong[0]], got[wrong[0]])


def every(*choices: Sequence[int]) -> Ints:
    return np.array(list(itertools.product(*choices)), np.int64)


@pytest.mark.rtl
@pytest.mark.parametrize(("length", "is_signed"), DOTS, ids=[label(*dot) for dot in DOTS])
class TestPackedDot:
    def test_every_combination_of_extreme_products(self, sim: Simulator, length: int, is_signed: bool) -> None:
        """Each element on its own adds the largest, the smallest or the least product to either lane."""
        x_corners = (-128, 127, -1) if is_signed else (255, 1)
        w_corners = (-128, 127) if length <= 4 else (-127, 127)
        triples = (
            every(x_corners, w_corners, w_corners) if length <= 4 else every(x_corners[:2], w_corners[:1], w_corners)
        )
        picks = every(*[range(len(triples))] * min(length, 4))
        if length > 4:
            rest = np.resize(np.roll(picks, 1, axis=1), (len(picks), length - 4))
            picks = np.concatenate([picks, rest], axis=1)
        x, w0, w1 = (triples[picks, part] for part in range(3))
        check_dots(sim, length, is_signed, x, w0, w1)

    def test_the_borrow_at_every_uniform_corner(self, sim: Simulator, length: int, is_signed: bool) -> None:
        """All elements alike, in every combination of corners: both lanes at -1, 0, 1 and at their limits."""
        w = CORNERS if length <= 4 else NARROW
        x = CORNERS if is_signed else (0, 1, 127, 128, 255)
        vectors = np.repeat(every(x, w, w)[:, :, None], length, axis=2)
        check_dots(sim, length, is_signed, *(vectors[:, part] for part in range(3)))

    def test_the_borrow_with_a_low_lane_around_zero(self, sim: Simulator, length: int, is_signed: bool) -> None:
        """The low lane is 0, 1 or -1 by cancelling, the high lane anything: one off shows at once."""
        rng = np.random.default_rng(length)
        x = rng.integers(-128, 128, (2000, length)) if is_signed else rng.integers(0, 256, (2000, length))
        x[:, 0] = 1
        w0, w1 = np.zeros_like(x), rng.integers(-127, 128, x.shape)
        w0[:, 0] = rng.integers(-1, 2, 2000)
        check_dots(sim, length, is_signed, x, w0, w1)

    def test_random(self, sim: Simulator, length: int, is_signed: bool, rng: np.random.Generator) -> None:
        x = rng.integers(-128, 128, (20_000, length)) if is_signed else rng.integers(0, 256, (20_000, length))
        low = -128 if length <= 4 else -127
        check_dots(sim, length, is_signed, x, *(rng.integers(low, 128, x.shape) for _ in range(2)))


@pytest.mark.rtl
def test_every_product_of_one_element_with_corners_beside_it(sim: Simulator) -> None:
    """All 65,536 pairs of bytes in the low lane, corners in the high lane, and the other way round."""
    x, w = every(range(-128, 128), range(-128, 128)).T
    for corner in (-128, -1, 0, 127):
        other = np.full_like(w, corner)
        check_dots(sim, 1, True, x[:, None], w[:, None], other[:, None])
        check_dots(sim, 1, True, x[:, None], other[:, None], w[:, None])


def requantized(sim: Simulator, acc_bits: int, out_bits: int, columns: Sequence[Ints]) -> tuple[Ints, Ints]:
    """What came and what was due, one value per cycle; columns are acc, multiplier, shift, low, high."""
    latency, name = Requantizer.LATENCY, f"q_{acc_bits}_{out_bits}"
    widths = (27, 17, 6, 18, 18)
    drive = {}
    for port, width, values in zip(("acc", "multiplier", "shift", "low", "high"), widths, columns, strict=True):
        before = Requantizer.LIMITS_AT if port in ("low", "high") else 0
        drive[port] = np.pad(values, (before, latency - before)) & ((1 << width) - 1)
    return signed(sim.write_sequence(drive, [name])[name][latency:], out_bits), requantize(*columns)


def check_requantizer(sim: Simulator, acc_bits: int, out_bits: int, columns: Sequence[Ints]) -> None:
    got, want = requantized(sim, acc_bits, out_bits, columns)
    wrong = np.flatnonzero(got != want)
    assert not len(wrong), ([int(c[wrong[0]]) for c in columns], want[wrong[0]], got[wrong[0]])


def with_limits(columns: Ints, low: int, high: int) -> list[Ints]:
    count = len(columns)
    return [*columns.T, np.full(count, low), np.full(count, high)]


@pytest.mark.rtl
@pytest.mark.parametrize(("acc_bits", "out_bits"), REQUANTIZERS)
class TestRequantizer:
    def test_extremes_with_every_shift(self, sim: Simulator, acc_bits: int, out_bits: int) -> None:
        top = 1 << (acc_bits - 1)
        accs = sorted({-top, -top + 1, max(-2, -top), -1, 0, min(1, top - 1), top - 1, -(top // 2)})
        multipliers = (0, 1, 2, 3, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, (1 << 17) - 1)
        columns = every(accs, multipliers, range(64))
        most = 1 << (out_bits - 1)
        for low, high in ((-most, most - 1), (0, most - 1), (-most, -1), (1, 1), (-1, 0)):
            check_requantizer(sim, acc_bits, out_bits, with_limits(columns, low, high))

    def test_ties_and_their_neighbours(self, sim: Simulator, acc_bits: int, out_bits: int) -> None:
        """Products of exactly half a step, and one off to either side, for every shift that has them."""
        top, found = 1 << (acc_bits - 1), []
        for shift in range(1, 44):
            for odd in (-5, -3, -1, 1, 3, 5, 7):
                product = odd << (shift - 1)
                for multiplier in (1, 3, 5, 1 << 8, 1 << 16, 3 << 15):
                    found += [(product // multiplier + near, multiplier, shift) for near in (-1, 0, 1)]
        inside = [row for row in found if -top <= row[0] < top]
        most = 1 << (out_bits - 1)
        check_requantizer(sim, acc_bits, out_bits, with_limits(np.array(inside), -most, most - 1))

    def test_random(self, sim: Simulator, acc_bits: int, out_bits: int, rng: np.random.Generator) -> None:
        count, top, most = 50_000, 1 << (acc_bits - 1), 1 << (out_bits - 1)
        acc = rng.integers(-top, top, count) >> rng.integers(0, acc_bits, count)
        limits = np.sort(rng.integers(-most, most, (count, 2)), axis=1)
        multiplier = rng.integers(0, 1 << 17, count)
        shift = np.where(rng.random(count) < 0.5, rng.integers(0, 64, count), rng.integers(8, 24, count))
        check_requantizer(sim, acc_bits, out_bits, [acc, multiplier, shift, *limits.T])


@pytest.mark.rtl
def test_primitives_equal_the_behavioural_model_in_every_cycle(rng: np.random.Generator) -> None:
    cycles = 5000
    drive = {name: rng.integers(0, 1 << 63, cycles) for name in ("x", "w0", "w1")}
    drive |= {n: rng.integers(0, 1 << b, cycles) for n, b in (("acc", 27), ("multiplier", 17), ("shift", 6))}
    drive |= {"low": rng.integers(0, 1 << 17, cycles), "high": rng.integers(0, 1 << 18, cycles)}
    seen = []
    for primitives in (False, True):
        with build(primitives).start() as simulator:
            outputs = sorted(name for name, port in simulator.library.ports.items() if port.direction == "o")
            simulator.reset(20)
            seen.append(simulator.write_sequence(drive, outputs))
    for name in outputs:
        if not name.startswith("y") or int(name[3:-1]) <= 4:
            assert np.array_equal(seen[0][name], seen[1][name]), name


class TestMisuse:
    @pytest.mark.parametrize(("length", "is_signed"), [(0, True), (9, True), (5, False)])
    def test_length(self, length: int, is_signed: bool) -> None:
        refuses(lambda: PackedDot(length, x_signed=is_signed), "legal: 1 to 8")

    @pytest.mark.parametrize("bits", [1, 28])
    def test_accumulator(self, bits: int) -> None:
        refuses(lambda: Requantizer(bits, 8), "legal: 2 to 27")


def test_multiply_add(rng: np.random.Generator) -> None:
    ends = [(a, b, c) for a in (-(1 << 26), (1 << 26) - 1) for b in (-(1 << 17), (1 << 17) - 1) for c in (-9, 1 << 45)]
    drawn = [tuple(int(rng.integers(-(1 << n), 1 << n)) for n in (26, 17, 45)) for _ in range(50)]
    inputs = [{"a": a, "b": b, "c": c} for a, b, c in [*ends, *drawn]]
    found = clocked(MultiplyAdd(), MultiplyAdd.LATENCY, inputs, "y")
    assert found == [x["a"] * x["b"] + x["c"] for x in inputs]
