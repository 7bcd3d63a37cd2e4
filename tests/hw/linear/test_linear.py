import dataclasses

import numpy as np
import pytest

from codesign.hw.linear import ACC_BITS, DRAIN_LATENCY, LinearKernel, _last_start, array_latency
from codesign.hw.linear.rtl import LinearEngine
from codesign.hw.primitives.memory import RowMemory, bram18, bram36
from codesign.hw.verilog import VerilogTarget, generate
from codesign.ir import network
from codesign.numerics.fixed_point import requantize
from tests.hw.engine_bench import _instances

SMALL = LinearKernel(t_in=4, t_out=4, n_l=3, kw_max=16, ring_words=64, table_words=16, tables=1, word_bytes=16)
LARGE = LinearKernel(t_in=16, t_out=16, n_l=8, kw_max=64, ring_words=1024, table_words=64, tables=2, word_bytes=64)


def layer(rng: np.random.Generator, rows: int, k: int, n: int, **changes: object) -> network.Linear:
    fields: dict[str, object] = {
        "name": "layer", "source": "x", "target": "y", "rows": rows,
        "weights": rng.integers(-127, 128, (n, k)).astype(np.int8), "bias": rng.integers(-1000, 1000, n),
        "multiplier": rng.integers(1 << 16, 1 << 17, n), "shift": np.full(n, 24),
    }  # fmt: skip
    return network.Linear(**{**fields, **changes})  # type: ignore[arg-type]


class TestParameters:
    @pytest.mark.parametrize("change", [
        {"t_in": 3}, {"t_in": 512}, {"t_out": 1}, {"t_out": 6}, {"n_l": 0}, {"n_l": 33}, {"kw_max": 12}, {"kw_max": 0},
        {"ring_words": 48}, {"ring_words": 1}, {"table_words": 1}, {"tables": 3}, {"tables": 0}, {"word_bytes": 32},
        {"word_bytes": 12}, {"t_in": 64, "kw_max": 2}, {"t_out": 2, "t_in": 16, "word_bytes": 32},
    ])  # fmt: skip
    def test_illegal_ones_are_refused_with_what_is_legal(self, change: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="legal: t_in a power of two"):
            dataclasses.replace(SMALL, **change)

    def test_legality_is_one_expression_for_numbers_and_arrays(self) -> None:
        grid = {name: np.full(64, value) for name, value in SMALL.params.items()} | {"t_in": np.arange(64)}
        legal = np.asarray(LinearKernel.legal(grid)).astype(bool)
        assert np.flatnonzero(legal).tolist() == [4, 8, 16, 32]
        assert [bool(LinearKernel.legal({**SMALL.params, "t_in": t})) for t in range(64)] == legal.tolist()

    @pytest.mark.rtl
    def test_the_hardware_takes_the_same_parameters(self) -> None:
        kernel = LinearKernel(16, 4, 2, 64, 512, 64, 4, 16)
        ports = generate(kernel.component({}), "engine").ports
        depths = {"weights": kernel.ring_words, "table": kernel.table_words, "lut": 256 * kernel.tables}
        assert {name: 1 << ports[f"{name}_addr"][0] for name in depths} == depths
        widths = {"weights": 8 * 16 * 4, "table": 64 * 4, "source": 8 * 16, "addend": 16 * 4, "out": 16 * 4, "lut": 8}
        assert {name: ports[f"{name}_data"][0] for name in widths} == widths
        rings = {name: (depths[name], widths[name]) for name in ("weights", "table")}
        assert dict(kernel.rings()) == rings


class TestSupports:
    def test_a_layer(self, rng: np.random.Generator) -> None:
        assert LinearKernel.supports(layer(rng, 5, 7, 9)) is None

    def test_another_kind(self) -> None:
        assert LinearKernel.supports(object()) == "a object is not a linear layer"

    def test_too_many_rows(self, rng: np.random.Generator) -> None:
        assert LinearKernel.supports(layer(rng, 1 << 16, 1, 1)) == "layer: rows 65536 > 65535"

    def test_the_accumulator_holds_what_is_proven(self, rng: np.random.Generator) -> None:
        most = (1 << (ACC_BITS - 1)) // (128 * 127)
        room = (1 << (ACC_BITS - 1)) - 128 * 127 * most
        full = np.full((1, most), 127, np.int8)
        fits = layer(rng, 1, most, 1, weights=full, bias=np.array([-room]))
        assert LinearKernel.supports(fits) is None
        over = dataclasses.replace(fits, bias=np.array([-room - 1]))
        assert "legal: 27 bits" in str(LinearKernel.supports(over))


class TestGolden:
    def test_is_the_definition(self, rng: np.random.Generator) -> None:
        one = layer(rng, 5, 300, 9)
        x = rng.integers(-128, 128, (5, 300))
        acc = x.astype(object) @ one.weights.T.astype(object) + one.bias
        assert np.array_equal(
            LinearKernel.golden(one, x), requantize(acc.astype(np.int64), one.multiplier, one.shift, -128, 127)
        )

    def test_table_and_addend(self, rng: np.random.Generator) -> None:
        x, table = rng.integers(-128, 128, (2, 3)), rng.integers(-128, 128, 256).astype(np.int8)
        plain = LinearKernel.golden(layer(np.random.default_rng(1), 2, 3, 4), x)
        assert np.array_equal(
            LinearKernel.golden(layer(np.random.default_rng(1), 2, 3, 4, table=table), x), table[plain & 255]
        )
        addend = rng.integers(-(1 << 15), 1 << 15, (2, 4))
        summed = LinearKernel.golden(layer(np.random.default_rng(1), 2, 3, 4, addend="r"), x, addend)
        assert np.array_equal(summed, np.clip(plain + addend, -(1 << 15), (1 << 15) - 1))


def stepped_cycles(kernel: LinearKernel, rows: int, k: int, n: int) -> int:
    """The same command group by group: loader and array with two buffers between them."""
    tile = max(-(-k // kernel.t_in), kernel.n_l)
    busy = -(-n // kernel.t_out) * tile
    load_end, ends = 0, [0, 0]
    left = rows
    while left:
        count = min(kernel.n_l, left)
        load_end = max(load_end, ends[-2]) + count * -(-k // kernel.word_bytes)
        start = max(load_end + 3, ends[-1] + 1 if len(ends) > 2 else 0)
        ends.append(start + busy)
        left -= count
    return int(ends[-1] + array_latency(kernel.t_in) + DRAIN_LATENCY + count)


class TestCycles:
    def test_equals_stepping_through_the_groups(self, rng: np.random.Generator) -> None:
        """Short ranges, so that load and compute are often equal or one apart."""
        for _ in range(4000):
            kernel = dataclasses.replace(SMALL, n_l=int(rng.integers(1, 9)), t_in=int(rng.choice([4, 8, 16])))
            rows, k, n = (int(rng.integers(1, most)) for most in (80, 200, 80))
            work = {"rows": rows, "k": k, "n": n}
            assert LinearKernel.cycles(kernel.params, work) == stepped_cycles(kernel, rows, k, n), (kernel, work)

    def test_the_latency_of_the_array_is_one_expression_for_numbers_and_arrays(self) -> None:
        widths = 1 << np.arange(9)
        assert array_latency(widths).tolist() == [array_latency(int(t_in)) for t_in in widths]

    @pytest.mark.parametrize("apart", [-3, -2, -1, 0, 1, 2, 3])
    def test_balanced_groups_pay_for_the_turn_from_array_to_loader(self, apart: int) -> None:
        load, groups = 10, 9
        period = load - apart
        slower, detours = max(load, period), 4 * max(0, 2 - abs(apart))
        last = _last_start(groups, load, load, period)
        assert last == load + 2 + 8 * slower + detours

    def test_arrays_give_what_numbers_give(self, rng: np.random.Generator) -> None:
        count = 500
        work = {name: rng.integers(1, most, count) for name, most in (("rows", 300), ("k", 900), ("n", 300))}
        params = {"n_l": rng.integers(1, 33, count), "word_bytes": 1 << rng.integers(3, 7, count)}
        params |= {name: 1 << rng.integers(1, 7, count) for name in ("t_in", "t_out")}
        together = LinearKernel.cycles(params, work)
        for i in range(count):
            one, job = ({name: int(v[i]) for name, v in values.items()} for values in (params, work))
            alone = LinearKernel.cycles(one, job)
            assert isinstance(alone, int)
            assert alone == np.asarray(together)[i]

    def test_large_numbers_stay_exact(self) -> None:
        cycles = LinearKernel.cycles(SMALL.params, {"rows": 10**12, "k": 10**6, "n": 10**6})
        assert isinstance(cycles, int)
        assert cycles > 10**12 * 10**6 * 10**6 // (4 * 4 * 3)


def _halves(ram: RowMemory) -> int:
    """Block RAM halves of a memory with one reader."""
    word = max(ram.write_bits, *ram.read_bits)
    return int(bram18(word, ram.bits // word))


class TestResources:
    @pytest.mark.rtl
    @pytest.mark.parametrize("kernel", [SMALL, LinearKernel(16, 4, 2, 64, 512, 64, 4, 16)])
    def test_multipliers_and_memories_are_those_of_the_netlist(self, kernel: LinearKernel) -> None:
        target = VerilogTarget(primitives=True)
        files = generate(LinearEngine(kernel), "counted", target).files
        modules = _instances(files, "counted", list(target.modules))
        multipliers = sum(files[f"{name}.v"].count("DSP48E2 #(") * count for name, count in modules.items())
        said = LinearKernel.resources(kernel.params)
        assert multipliers == kernel.t_in * kernel.t_out * kernel.n_l // 2 + kernel.t_out
        assert said.dsp == multipliers + 1  # the product of tiles and words, which synthesis infers
        rings = bram36(8 * kernel.t_in * kernel.t_out, kernel.ring_words) + bram36(
            64 * kernel.t_out, kernel.table_words
        )
        memories = ((target.modules.get(name), count) for name, count in modules.items())
        halves = sum(_halves(ram) * count for ram, count in memories if isinstance(ram, RowMemory))
        assert said.bram36 - rings == -(-halves // 2)

    def test_arrays_give_what_numbers_give(self) -> None:
        several = {
            name: np.array([one, two])
            for (name, one), two in zip(SMALL.params.items(), LARGE.params.values(), strict=True)
        }
        together = LinearKernel.resources(several)
        for at, kernel in enumerate((SMALL, LARGE)):
            alone = LinearKernel.resources(kernel.params)
            assert {n: int(v) for n, v in vars(alone).items()} == {
                n: int(np.asarray(v)[at]) if np.ndim(v) else v for n, v in vars(together).items()
            }

    def test_traffic_is_the_padded_block(self) -> None:
        assert LinearKernel.traffic(SMALL.params, {"rows": 5, "k": 7, "n": 9}) == 3 * 4 * 8 + 3 * 2 * 4 * 4
