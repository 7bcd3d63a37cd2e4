from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from codesign.hw.primitives.memory import ReadPort, WritePort, address_bits
from codesign.hw.vector import DIGITS, RMS, WIDE_RESULT, VectorKernel
from codesign.hw.vector.control import OPERANDS
from codesign.hw.vector.rtl import VectorEngine
from codesign.ir import network
from codesign.numerics.fixed_point import IntArray
from codesign.numerics.nonlinear import norm_parameters
from codesign.sim.verilator.simulator import Library
from codesign.target.board import Board
from codesign.target.kernel import Resources, joules
from tests.hw.engine_bench import Driver, EngineBench, MemoryShape, Placed, Words, build, encode, hardware, refuses

DEPTH = 4096
LIMIT = 2_000_000
KERNELS = (
    VectorKernel(t_v=1, max_d=76),
    VectorKernel(t_v=2, max_d=64),
    VectorKernel(t_v=4, max_d=1024),
    VectorKernel(t_v=8, max_d=100),
    VectorKernel(t_v=8, max_d=1024),
    VectorKernel(t_v=16, max_d=64),
    VectorKernel(t_v=1, max_d=90, wide=1),
    VectorKernel(t_v=4, max_d=384, wide=1),
    VectorKernel(t_v=8, max_d=61, wide=1),
)
MORE_KERNELS = (
    VectorKernel(t_v=1, max_d=1024),
    VectorKernel(t_v=2, max_d=2),
    VectorKernel(t_v=4, max_d=77),
    VectorKernel(t_v=16, max_d=1024),
    VectorKernel(t_v=32, max_d=768),
    VectorKernel(t_v=64, max_d=1000),
    VectorKernel(t_v=2, max_d=1024, wide=1),
    VectorKernel(t_v=16, max_d=1023, wide=1),
    VectorKernel(t_v=32, max_d=384, wide=1),
)


@dataclass(frozen=True)
class Case:
    """A layer and its int16 rows."""

    layer: network.Norm
    r: IntArray

    def golden(self) -> IntArray:
        return VectorKernel.golden(self.layer, self.r)

    def work(self) -> dict[str, int]:
        return {"rows": self.layer.rows, "d": self.layer.d, "wide": int(self.layer.bits == 16)}

    def wide(self, finer: int) -> "Case":
        """The same with results of 16 bits, ``2**finer`` times as large if the shift allows it."""
        return replace(self, layer=replace(self.layer, bits=16, shift=max(0, self.layer.shift - finer)))


def case(rng: np.random.Generator, r: IntArray, eps: int = 0, shift: int = 24, rms: bool = False) -> Case:
    """Rows with full-range gains and biases."""
    width = (r.shape[1],)
    gain, bias = rng.integers(-(1 << 15), 1 << 15, width), rng.integers(-(1 << 31), 1 << 31, width)
    return Case(network.Norm("n", "r", "x", len(r), gain, bias, shift, eps, rms), r)


def real_case(rng: np.random.Generator, rows: int, d: int, rms: bool) -> Case:
    """Rows and parameters as a trained model has them."""
    gamma, beta = rng.uniform(0.2, 3, d), rng.normal(0, 1, d)
    gain, bias, shift, eps = norm_parameters(gamma, beta, 1e-6, 2**-9, 0.04, d)
    r = np.clip(np.rint(rng.normal(rng.normal(0, 400), 10 ** rng.uniform(0, 3.5), (rows, d))), -32768, 32767)
    return Case(network.Norm("n", "r", "x", rows, gain, bias, shift, eps, rms), r.astype(np.int64))


def random_case(rng: np.random.Generator, kernel: VectorKernel, ragged: bool) -> Case:
    """Everything at random; if ragged, t_v does not divide d where that is possible; a wide kernel has both kinds."""
    item = _narrow_case(rng, kernel, ragged)
    return item.wide(int(rng.choice([0, 8]))) if kernel.wide and rng.integers(0, 2) else item


def _narrow_case(rng: np.random.Generator, kernel: VectorKernel, ragged: bool) -> Case:
    widths = [d for d in range(2, kernel.max_d + 1) if not ragged or kernel.t_v == 1 or d % kernel.t_v]
    d = int(rng.choice(np.array(widths or [2])))
    rows = int(rng.integers(1, min(20, DEPTH // (-(-d // kernel.t_v) + 2)) + 1))
    if rng.integers(0, 2):
        return real_case(rng, rows, d, bool(rng.integers(0, 2)))
    high = 1 << int(rng.integers(1, 16))
    eps, shift = int(rng.integers(0, 1 << int(rng.integers(1, 49)))), int(rng.integers(0, 32))
    return case(rng, rng.integers(-high, high, (rows, d)), eps, shift, bool(rng.integers(0, 2)))


def extremes(rng: np.random.Generator, kernel: VectorKernel) -> Iterator[Case]:
    """One and many rows, the narrowest and widest, both ends of the variance and of every number; wide ones too."""
    for item in _narrow_extremes(rng, kernel):
        yield item
        if kernel.wide:
            yield from (item.wide(0), item.wide(8))


def _narrow_extremes(rng: np.random.Generator, kernel: VectorKernel) -> Iterator[Case]:
    d = kernel.max_d
    rows = min(9, DEPTH // (-(-d // kernel.t_v)))
    yield case(rng, rng.integers(-32768, 32768, (1, 2)))
    yield case(rng, rng.integers(-32768, 32768, (rows, d)))
    alternating = np.where(np.arange(d) % 2, 32767, -32768) * np.ones((rows, 1), np.int64)
    for rms in (False, True):
        yield case(rng, alternating, rms=rms)
        yield case(rng, alternating, eps=(1 << 48) - 1, shift=31, rms=rms)
        yield case(rng, np.full((rows, d), -32768), rms=rms)
        yield case(rng, np.zeros((rows, d), np.int64), shift=0, rms=rms)
    lonely = np.zeros((rows, d), np.int64)
    lonely[np.arange(rows), rng.integers(0, d, rows)] = rng.choice([-32768, -1, 1, 32767], rows)
    yield case(rng, lonely)
    yield case(rng, lonely, eps=1, shift=10)
    loud = case(rng, alternating, shift=31)
    gain, bias = np.full(d, -32768), np.full(d, -(1 << 31))
    yield replace(loud, layer=replace(loud.layer, gain=gain, bias=bias))
    yield replace(loud, layer=replace(loud.layer, gain=-gain - 1, bias=-bias - 1, shift=0))


def command(rng: np.random.Generator, item: Case, t_v: int, depth: int = DEPTH) -> dict[str, int]:
    """Operands of a case with random bases and strides; sometimes the last word is the memory's last."""
    layer, width = item.layer, -(-item.layer.d // t_v)
    fields = {"rows": layer.rows, "d": layer.d, "shift": layer.shift, "eps": layer.eps}
    fields["flags"] = RMS * layer.rms + WIDE_RESULT * (layer.bits == 16)
    for name in "rx":
        most = (depth - width) // max(1, layer.rows - 1)
        stride = int(rng.integers(width, min(most, width + 3) + 1)) if layer.rows > 1 else 0
        fields |= {f"{name}_stride": stride, f"{name}_base": _base(rng, depth - stride * (layer.rows - 1) - width)}
    return {**fields, "g_base": _base(rng, depth - width)}


def _base(rng: np.random.Generator, room: int) -> int:
    return (0, room, int(rng.integers(0, room + 1)))[rng.integers(0, 3)]


def words(x: IntArray, t_v: int, bits: int) -> Words:
    """Rows ``[rows, d]`` as memory words ``[rows, words, bytes]``, zero padded."""
    kind = {8: np.int8, 16: np.int16, 64: np.int64}[bits]
    padded = np.pad(x.astype(kind), ((0, 0), (0, -x.shape[1] % t_v)))
    return padded.view(np.uint8).reshape(len(x), -1, t_v * bits // 8)


class BothResults(wiring.Component):
    """A wide engine whose two write ports are one: words of y behind those of x; a write to both is spoiled."""

    def __init__(self, kernel: VectorKernel, depth: int, x_depth: int, y_depth: int) -> None:
        self.engine = VectorEngine(kernel, r_depth=depth, g_depth=depth, x_depth=x_depth, y_depth=y_depth)
        t_v, bits = kernel.t_v, address_bits(depth)
        super().__init__(
            {
                "command": In(stream.Signature(OPERANDS)), "done": Out(1), "error": Out(1), "busy": Out(1),
                "r": Out(ReadPort(bits, 16 * t_v)), "g": Out(ReadPort(bits, 64 * t_v)),
                "both": Out(WritePort(bits + 1, 16 * t_v)),
            }
        )  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        wiring.connect(m, wiring.flipped(self.command), engine.command)
        for name in "rg":
            wiring.connect(m, getattr(engine, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [getattr(self, name).eq(getattr(engine, name)) for name in ("done", "error", "busy")]
        x, y = engine.x, engine.y
        m.d.comb += [
            self.both.en.eq(x.en | y.en),
            self.both.addr.eq(Cat(Mux(y.en, y.addr, x.addr), y.en)),
            self.both.data.eq(Mux(y.en, Mux(x.en, ~y.data, y.data), x.data)),
        ]
        return m


def bench(kernel: VectorKernel, depth: int = DEPTH, x_depth: int = 0, y_depth: int = 0) -> EngineBench:
    """The engine between memories of so many words; those of a wide kernel's results may be smaller."""
    reads = {"r": MemoryShape(depth, 16 * kernel.t_v), "g": MemoryShape(depth, 64 * kernel.t_v)}
    if kernel.wide:
        return EngineBench(
            BothResults(kernel, depth, x_depth or depth, y_depth or depth),
            OPERANDS,
            reads,
            ("both", MemoryShape(2 * depth, 16 * kernel.t_v)),
        )
    engine = VectorEngine(kernel, r_depth=depth, g_depth=depth, x_depth=depth)
    return EngineBench(engine, OPERANDS, reads, ("x", MemoryShape(depth, 8 * kernel.t_v)))


@dataclass(frozen=True)
class Rig:
    """A kernel and its compiled bench."""

    kernel: VectorKernel
    library: Library


def name_of(kernel: VectorKernel) -> str:
    return f"{kernel.t_v}x{kernel.max_d}{' wide' * kernel.wide}"


@pytest.fixture(scope="module", params=KERNELS, ids=name_of)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param, build(bench(request.param)))


@pytest.fixture(scope="module", params=MORE_KERNELS, ids=name_of)
def large_rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param, build(bench(request.param)))


@pytest.fixture
def driver(rig: Rig) -> Iterator[Driver]:
    driver = Driver(rig.library)
    yield driver
    driver.close()


def check(driver: Driver, kernel: VectorKernel, item: Case, rng: np.random.Generator) -> int:
    """Runs a case: bits, number of writes and cycles must be golden's and the formula's."""
    fields, layer, bits = command(rng, item, kernel.t_v), item.layer, item.layer.bits
    affine = (layer.bias & 0xFFFFFFFF) | ((layer.gain & 0xFFFF) << 32)
    driver.load("g", fields["g_base"], words(affine[None], kernel.t_v, 64)[0])
    for row, content in enumerate(words(item.r, kernel.t_v, 16)):
        driver.load("r", fields["r_base"] + row * fields["r_stride"], content)
    outcome = driver.issue(encode(OPERANDS, fields), LIMIT)
    expected = words(item.golden(), kernel.t_v, bits)
    cycles = int(VectorKernel.cycles(kernel.params, item.work()))
    assert VectorKernel.work(layer, 0, layer.rows) == item.work()
    placed = Placed(fields, {"r": 0, "x": 0}, constants="g")
    assert VectorKernel.operands(layer, kernel.params, placed, 0, layer.rows) == fields
    written = expected.shape[0] * expected.shape[1]
    assert (outcome.error, outcome.cycles, outcome.writes) == (False, cycles, written), (layer.rows, layer.d)
    first = fields["x_base"] + DEPTH * (bits == 16)
    for row, content in enumerate(expected):
        found = driver.result(first + row * fields["x_stride"], len(content))[:, : content.shape[1]].reshape(-1)
        size = layer.d * bits // 8
        np.testing.assert_array_equal(found[:size], content.reshape(-1)[:size], f"row {row} of {layer}")
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

    def test_full_rate_rows(self, rig: Rig, driver: Driver, rng: np.random.Generator) -> None:
        """Rows as long as their distance, so that no unit ever pauses."""
        words_each = max(DIGITS + 1, rig.kernel.max_words)
        d = min(words_each * rig.kernel.t_v, rig.kernel.max_d)
        rows = min(12, DEPTH // -(-d // rig.kernel.t_v))
        check(driver, rig.kernel, case(rng, rng.integers(-999, 1000, (rows, d))), rng)

    def test_illegal_commands(self, rig: Rig, driver: Driver, rng: np.random.Generator) -> None:
        item = case(rng, rng.integers(-9, 9, (3, 2)))
        good = {**command(rng, item, rig.kernel.t_v), **{f"{name}_base": 0 for name in "rgx"}}
        for change in illegal(rig.kernel):
            outcome = driver.issue(encode(OPERANDS, {**good, **change}), 1000)
            assert (outcome.error, outcome.writes) == (True, 0), change
            driver.sim.step(200)
            assert (driver.sim.get("writes"), driver.sim.get("busy")) == (0, 0), change
        check(driver, rig.kernel, item, rng)

    def test_reset_ends_a_command(self, rig: Rig, driver: Driver, rng: np.random.Generator) -> None:
        item = case(rng, rng.integers(-9, 9, (9, 2)))
        for cycles in (3, 20, 70, 110):
            driver.sim.set("command_payload", encode(OPERANDS, command(rng, item, rig.kernel.t_v)))
            driver.sim.set("command_valid", 1)
            driver.sim.step()
            driver.sim.set("command_valid", 0)
            driver.sim.step(cycles)
            driver.sim.reset()
            quiet = driver.sim.write_sequence({}, ["finished", "busy", "writes"], cycles=200)
            assert not any(values.any() for values in quiet.values())
            check(driver, rig.kernel, item, rng)


def illegal(kernel: VectorKernel) -> list[dict[str, int]]:
    """Changes of a small legal command that each make it illegal."""
    sizes = [{"rows": 0}, {"d": 0}, {"d": 1}, {"d": kernel.max_d + 1}, {"d": 65535}]
    numbers = [{"shift": 32}, {"shift": 255}, {"flags": 4 if kernel.wide else WIDE_RESULT}, {"flags": 255}]
    bases = [{f"{name}_base": base} for name in "rgx" for base in (DEPTH, 0xFFFFFF)]
    strides = [{"rows": 2, f"{name}_stride": 65535} for name in "rx"]
    return [*sizes, *numbers, *bases, *strides, {"rows": 65535, "r_stride": 65535}, {"r_stride": DEPTH // 2}]


@pytest.mark.rtl
@pytest.mark.parametrize(("x_depth", "y_depth"), [(8, 64), (64, 8)])
def test_each_result_has_the_room_of_its_own_memory(x_depth: int, y_depth: int, rng: np.random.Generator) -> None:
    kernel = VectorKernel(t_v=2, max_d=16, wide=1)
    driver = Driver(build(bench(kernel, 64, x_depth, y_depth)))
    narrow = case(rng, rng.integers(-999, 1000, (1, 6)))
    for item, depth in ((narrow, x_depth), (narrow.wide(0), y_depth)):
        fields = {**command(rng, item, kernel.t_v, 64), "x_stride": 3}
        for base in range(depth - 5, depth + 3):
            outcome = driver.issue(encode(OPERANDS, {**fields, "x_base": base}), 1000)
            assert outcome.error == (base > depth - 3), base
    driver.close()


@pytest.mark.rtl
def test_device_multipliers(rng: np.random.Generator) -> None:
    """The same with DSP48E2 instances."""
    driver = Driver(build(bench(KERNELS[1]), primitives=True))
    for item in (*extremes(rng, KERNELS[1]), *(random_case(rng, KERNELS[1], ragged=True) for _ in range(8))):
        check(driver, KERNELS[1], item, rng)
    driver.close()


@pytest.mark.slow
class TestManyShapes:
    """More lanes, more shapes, and runs over 100,000 cycles."""

    def test_random_shapes(self, large_rig: Rig, rng: np.random.Generator) -> None:
        driver, kernel = Driver(large_rig.library), large_rig.kernel
        for index in range(30):
            check(driver, kernel, random_case(rng, kernel, ragged=index % 3 != 0), rng)
        for item in extremes(rng, kernel):
            check(driver, kernel, item, rng)
        driver.close()

    def test_long_runs(self, rng: np.random.Generator) -> None:
        kernel, depth = VectorKernel(t_v=2, max_d=128), 1 << 19
        driver = Driver(build(bench(kernel, depth)))
        for d in (30, 31, 37, 100, 127, 128, 2, 64, 65, 97):
            fields = {"rows": 6000, "d": d, "shift": 20, "flags": d % 2, "eps": 5}
            fields |= {"r_base": 0, "r_stride": 0, "g_base": 0, "x_base": 0, "x_stride": -(-d // 2)}
            item = case(rng, rng.integers(-500, 500, (1, d)), eps=5, shift=20, rms=bool(d % 2))
            affine = (item.layer.bias & 0xFFFFFFFF) | ((item.layer.gain & 0xFFFF) << 32)
            driver.load("g", 0, words(affine[None], 2, 64)[0])
            driver.load("r", 0, words(item.r, 2, 16)[0])
            outcome = driver.issue(encode(OPERANDS, fields), LIMIT)
            assert outcome.cycles == VectorKernel.cycles(kernel.params, {"rows": 6000, "d": d}) > 100_000
            found = driver.result(0, 6000 * -(-d // 2)).reshape(6000, -1)[:, :d]
            np.testing.assert_array_equal(
                found, np.broadcast_to(item.golden().astype(np.int8).view(np.uint8), (6000, d))
            )
        driver.close()


class TestCycles:
    def test_arrays_give_what_scalars_give(self) -> None:
        t_v, d = (x.ravel() for x in np.meshgrid(1 << np.arange(7), np.array([2, 17, 64, 1024])))
        together = VectorKernel.cycles({"t_v": t_v}, {"rows": 5 + 0 * d, "d": d})
        each = [VectorKernel.cycles({"t_v": int(t)}, {"rows": 5, "d": int(n)}) for t, n in zip(t_v, d, strict=True)]
        assert all(isinstance(value, int) for value in each)
        np.testing.assert_array_equal(together, each)

    def test_small_vision_transformer_is_fast(self) -> None:
        assert VectorKernel.cycles({"t_v": 16}, {"rows": 17, "d": 64}) < 400

    def test_long_rows_stream(self) -> None:
        assert int(VectorKernel.cycles({"t_v": 16}, {"rows": 197, "d": 768})) < 1.02 * 197 * 48


class TestContract:
    @pytest.mark.parametrize(
        "wrong", [{"t_v": 3}, {"t_v": 0}, {"t_v": 128}, {"max_d": 1}, {"max_d": 1025}, {"wide": 2}]
    )
    def test_illegal_parameters(self, wrong: dict[str, int]) -> None:
        params = {"t_v": 4, "max_d": 64, **wrong}
        assert not VectorKernel.legal(params)
        with pytest.raises(ValueError, match="legal"):
            VectorKernel(**params)

    def test_supports(self) -> None:
        one = np.ones(2, np.int64)
        norm = network.Norm("n", "r", "x", 3, one, one, 0, 0)
        assert VectorKernel.supports(norm) is None
        assert "65536 rows" in str(VectorKernel.supports(replace(norm, rows=65536)))
        wide = replace(norm, gain=np.ones(1025, np.int64), bias=np.ones(1025, np.int64))
        assert "1025 columns" in str(VectorKernel.supports(wide))
        assert "not a norm" in str(VectorKernel.supports(None))

    def test_memories_are_checked(self) -> None:
        refuses(lambda: VectorEngine(KERNELS[0], r_depth=0, g_depth=1, x_depth=1), "legal: 1 to")

    def test_no_traffic(self) -> None:
        assert VectorKernel.traffic(KERNELS[0].params, {"rows": 3}) == 0


class TestResources:
    @pytest.mark.rtl
    @pytest.mark.parametrize("kernel", [KERNELS[1], KERNELS[2], KERNELS[7]], ids=name_of)
    def test_multipliers_and_memories_are_those_of_the_hardware(self, kernel: VectorKernel) -> None:
        found = hardware(VectorEngine(kernel, r_depth=64, g_depth=64, x_depth=64, y_depth=64))
        modelled = kernel.resources(kernel.params)
        assert (modelled.dsp, modelled.bram36) == (found.dsp, -(-found.bram18 // 2))

    def test_arrays(self) -> None:
        params = {name: np.array([k.params[name] for k in KERNELS]) for name in KERNELS[0].params}
        together = VectorKernel.resources(params)
        for index, kernel in enumerate(KERNELS):
            alone = kernel.resources(kernel.params)
            for name, values in vars(together).items():
                assert np.broadcast_to(values, len(KERNELS))[index] == getattr(alone, name)


def test_energy_counts_the_second_byte_of_wide_results_alone() -> None:
    """One more byte per element in a memory if results are wide; a work that does not say so has narrow ones."""
    board, kernel = Board.load("zcu102"), VectorKernel(t_v=4, max_d=64, wide=1)
    narrow, said, wide = (
        VectorKernel.energy(kernel.params, {"rows": 5, "d": 30, **more}, board)
        for more in ({}, {"wide": 0}, {"wide": 1})
    )
    assert narrow == said
    only_memory = joules(board, macs=0, ram_bytes=5 * 32, cycles=0, logic=Resources())
    assert wide - narrow == pytest.approx(only_memory)
    assert only_memory > 0
