"""The HLS C++ of the linear kernel computes golden's integers, bit for bit."""

import importlib.util
import re
from dataclasses import replace

import numpy as np
import pytest

from codesign.errors import CheckError, NothingFits
from codesign.hw.linear import ACC_BITS, LinearKernel
from codesign.hw.linear import hls as emitter
from codesign.hw.linear.hls import HlsProduct, data, job_vectors, sources, targets, top
from codesign.ir.network import Linear as Layer
from codesign.numerics import nonlinear
from codesign.sim import hls

compiled = pytest.mark.skipif(
    importlib.util.find_spec("hls4ml") is None, reason="needs hls4ml's ap_types: pip install codesign[hls]"
)
WIDE = LinearKernel(t_in=4, t_out=4, n_l=3, kw_max=16, ring_words=64, table_words=16, tables=2, word_bytes=16)
NARROW = LinearKernel(t_in=8, t_out=2, n_l=1, kw_max=16, ring_words=8, table_words=4, tables=1, word_bytes=4)
MORE = (
    LinearKernel(t_in=1, t_out=8, n_l=2, kw_max=64, ring_words=128, table_words=2, tables=4, word_bytes=1),
    LinearKernel(t_in=16, t_out=2, n_l=5, kw_max=2, ring_words=2, table_words=32, tables=1, word_bytes=16),
    LinearKernel(t_in=16, t_out=16, n_l=4, kw_max=8, ring_words=64, table_words=8, tables=2, word_bytes=64),
)
KERNELS = (WIDE, NARROW, *MORE)
PRIMES = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31)


def layer(rng: np.random.Generator, rows: int, n: int, k: int, kind: str = "plain") -> Layer:
    """Full-range weights, and requantizations from saturating to nearly zero."""
    shift = rng.integers(16, 24 + k.bit_length(), n)
    shift[rng.random(n) < 0.1] = rng.choice([0, 63])
    low, high = np.sort(rng.choice([-128, -127, -100, -1, 0, 1, 90, 127], 2, replace=False)).tolist()
    if kind == "add":
        low, high, shift = -32768, 32767, np.maximum(shift - 8, 0)
    return Layer(
        name="l",
        source="x",
        target="y",
        rows=rows,
        weights=(rng.choice([-127, 127, 0], (n, k)) if rng.random() < 0.2 else rng.integers(-127, 128, (n, k))).astype(
            np.int8
        ),
        bias=rng.integers(-(1 << 20), 1 << 20, n) * (rng.random(n) < 0.7),
        multiplier=rng.integers(0, 1 << 17, n),
        shift=shift,
        low=low,
        high=high,
        addend="r" if kind == "add" else None,
    )


def job(rng: np.random.Generator, made: Layer) -> HlsProduct:
    """A layer with data over the whole range, every other time only its ends."""
    shape = made.first_row + made.rows, made.k
    x = rng.integers(-128, 128, shape) if rng.random() < 0.7 else rng.choice([-128, 127], shape)
    addend = rng.integers(-32768, 32768, (made.rows, made.n)) if made.addend else None
    return HlsProduct(made, x, addend)


def most(kernel: LinearKernel) -> tuple[int, int]:
    """The longest source row, and the most columns of one command."""
    return min(kernel.kw_max * kernel.word_bytes, kernel.ring_words * kernel.t_in), kernel.table_words * kernel.t_out


def random_jobs(rng: np.random.Generator, kernel: LinearKernel, count: int) -> list[HlsProduct]:
    """Ragged sizes and all kinds of output; no more different tables than the design has."""
    tables = rng.integers(-128, 128, (kernel.tables, 256)).astype(np.int8)
    k_most, n_most = most(kernel)
    found = []
    for index in range(count):
        kind = ("plain", "table", "add")[index % 3]
        rows = int(rng.choice([*PRIMES[:8], kernel.n_l, 2 * kernel.n_l]))
        n, k = (int(rng.choice([1, *(p for p in PRIMES if p <= limit), limit])) for limit in (n_most, k_most))
        made = replace(layer(rng, rows, n, k, kind), first_row=int(rng.integers(0, 3)))
        if kind == "table":
            made = replace(made, table=tables[rng.integers(kernel.tables)])
        found.append(job(rng, made))
    return found


def assert_golden(kernel: LinearKernel, jobs: list[HlsProduct]) -> None:
    for made, got in zip(jobs, hls.run_jobs(emitter, kernel, jobs), strict=True):
        assert LinearKernel.supports(made.layer) is None
        assert got.tolist() == LinearKernel.golden(made.layer, made.x, made.addend).tolist()


@compiled
@pytest.mark.rtl
def test_random_layers(rng: np.random.Generator) -> None:
    assert_golden(WIDE, random_jobs(rng, WIDE, 90))


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("kernel", [NARROW, *MORE], ids=str)
def test_random_layers_on_more_designs(rng: np.random.Generator, kernel: LinearKernel) -> None:
    assert_golden(kernel, random_jobs(rng, kernel, 150))


@compiled
@pytest.mark.rtl
def test_largest_layer_with_the_ring_used_again(rng: np.random.Generator) -> None:
    k, n = most(WIDE)
    assert_golden(WIDE, [job(rng, layer(rng, rows, n, k)) for rows in (1, 3, 4, 37)])


@compiled
@pytest.mark.rtl
def test_every_entry_of_a_gelu_table() -> None:
    table = nonlinear.table("gelu", 0.05, 0.04)
    ones, same = np.ones(1, np.int64), np.ones((1, 1), np.int8)
    made = Layer("g", "x", "y", 256, same, 0 * ones, ones << 16, 16 * ones, table=table)
    x = np.arange(-128, 128).reshape(-1, 1)
    (got,) = hls.run_jobs(emitter, WIDE, [HlsProduct(made, x)])
    assert got.tolist() == nonlinear.lookup(table, x).tolist()


@compiled
@pytest.mark.rtl
def test_accumulators_at_both_ends_of_their_range() -> None:
    top_sum, bottom_sum = (1 << 26) - 1, -(1 << 26)
    weights = np.array([[127], [127], [-127], [0]], np.int8)
    bias = np.array([top_sum - 127 * 127, bottom_sum + 127 * 128, top_sum - 127 * 128, bottom_sum])
    x = np.array([[-128], [127], [0]])
    for multiplier, shift in ((0x1FFFF, 0), (0x1FFFF, 35), (1 << 16, 26), (1 << 16, 42), (0x1FFFF, 44), (0x1FFFF, 63)):
        factors = np.full(4, multiplier), np.full(4, shift)
        made = Layer("ends", "x", "y", 3, weights, bias, *factors, low=-32768, high=32767)
        assert_golden(WIDE, [HlsProduct(made, x)])


def ties() -> HlsProduct:
    """Sums that lie half way between two results, below and above zero."""
    x, weights = np.arange(-128, 128).reshape(-1, 1), np.ones((4, 1), np.int8)
    bias, multiplier, shift = np.array([0, 1, 2, 3]), np.full(4, 1 << 16), np.array([17, 18, 19, 20])
    return HlsProduct(Layer("ties", "x", "y", 256, weights, bias, multiplier, shift), x)


@compiled
@pytest.mark.rtl
def test_ties_go_to_even() -> None:
    (got,) = hls.run_jobs(emitter, WIDE, [ties()])
    assert got[128:134, 0].tolist() == [0, 0, 1, 2, 2, 2]
    assert got.tolist() == LinearKernel.golden(ties().layer, ties().x).tolist()


@compiled
@pytest.mark.rtl
def test_residual_add_saturates_at_both_ends() -> None:
    x = np.array([[127], [-128]])
    ones = np.ones(2, np.int64)
    made = Layer(
        "r", "x", "y", 2, np.array([[127], [-127]], np.int8), 0 * ones, ones << 16, ones, -32768, 32767, addend="r"
    )
    jobs = [HlsProduct(made, x, np.full((2, 2), value)) for value in (-32768, -1, 0, 1, 32767)]
    assert_golden(WIDE, jobs)
    assert set(np.ravel(hls.run_jobs(emitter, WIDE, jobs)).tolist()) == {-32768, -32767, -1, 32766, 32767}


@compiled
@pytest.mark.rtl
def test_commands_leave_nothing_behind(rng: np.random.Generator) -> None:
    jobs = random_jobs(rng, WIDE, 12)
    there, back = hls.run_jobs(emitter, WIDE, jobs), hls.run_jobs(emitter, WIDE, jobs[::-1])
    assert [x.tolist() for x in there] == [x.tolist() for x in back[::-1]]


@compiled
@pytest.mark.rtl
def test_the_testbench_checks_itself(rng: np.random.Generator) -> None:
    program, files = hls.build(sources(WIDE)), data(WIDE, random_jobs(rng, WIDE, 9))
    hls.simulate(program, files)
    first, rest = files["target.expected.hex"].split("\n", 1)
    wrong = f"{int(first, 16) ^ 1:0{len(first)}x}\n{rest}"
    with pytest.raises(CheckError, match=f"target word 0: expected {wrong.split()[0]}, got {first}"):
        hls.simulate(program, files | {"target.expected.hex": wrong})
    with pytest.raises(CheckError, match=r"more words than expected|got nothing"):
        hls.simulate(program, files | {"target.expected.hex": files["target.expected.hex"].rsplit("\n", 2)[0]})


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("number_hls.h", "wide + half - even", "wide + half"),
        ("number_hls.h", "x < low ? low", "x < low ? high"),
        ("linear_hls.h", "total.column[c] + bias", "total.column[c]"),
        ("linear_hls.h", "const unsigned slot = i % RING_WORDS", "const unsigned slot = 0"),
        ("linear_hls.h", "s == ib - 1 && l < count", "s == ib - 1"),
    ],
)
def test_a_wrong_line_is_noticed(rng: np.random.Generator, file: str, right: str, wrong: str) -> None:
    files = sources(WIDE)
    assert right in files[file]
    program = hls.build(files | {file: files[file].replace(right, wrong)})
    with pytest.raises(CheckError):
        hls.simulate(program, data(WIDE, [ties(), *random_jobs(rng, WIDE, 30)]))


# Text alone, without a compiler ------------------------------------------------------


def test_accumulators_have_the_width_of_the_rtl() -> None:
    assert f"ACC_BITS = {ACC_BITS};" in sources(WIDE)["linear_hls.h"]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_project_has_the_parameters_of_the_design(kernel: LinearKernel) -> None:
    files = sources(kernel)
    names = re.search(r"template <([^>]*)>\nstruct Linear ", files["linear_hls.h"])
    values = re.search(r"typedef codesign::Linear<([^>]*)> linear_engine", files["linear.h"])
    assert names is not None
    assert values is not None
    order = [name.removeprefix("int ").lower() for name in names[1].split(", ")]
    assert dict(zip(order, map(int, values[1].split(", ")), strict=True)) == kernel.params
    assert f"ap_uint<{8 * kernel.word_bytes}> >& source" in files["linear.h"]
    assert f"ap_uint<{16 * kernel.t_out}> >& target" in files["linear.h"]


def test_every_argument_has_an_interface() -> None:
    files = sources(WIDE)
    found = re.findall(r"INTERFACE mode=(\w+) port=(\w+)", files["linear.cpp"])
    assert sorted(port for _, port in found) == sorted(["return", *(a.name for a in top(WIDE).arguments)])
    assert {port for mode, port in found if mode == "axis"} == {"source", "constants", "addends", "target"}
    assert {mode for mode, _ in found} == {"axis", "s_axilite"}


def test_every_loop_is_pipelined_or_unrolled_or_holds_one_that_is() -> None:
    lines = [line.strip() for line in sources(WIDE)["linear_hls.h"].splitlines()]
    loops = [i for i, line in enumerate(lines) if line.startswith("for (")]
    labelled = {lines[i - 1] for i in loops if lines[i - 1].endswith(":")}
    assert labelled == {
        "fetch_table:", "fetch_weights:", "load_rows:", "load_words:", "array_words:", "drain_table:", "drain_lut:",
        "drain_tiles:", "drain_rows:", "row_groups:",
    }  # fmt: skip
    for i in loops:
        pragmas = " ".join(line for line in lines[i + 1 : i + 4] if line.startswith("#pragma"))
        holder = lines[i - 1] in ("load_rows:", "drain_tiles:")
        holder = holder or "DATAFLOW" in pragmas
        assert holder or "PIPELINE II=1" in pragmas or "UNROLL" in pragmas, lines[i]


def test_the_script_names_part_clock_and_files() -> None:
    files = sources(WIDE, part="xck26-sfvc784-2lv-c", clock_mhz=250)
    script = files["run_hls.tcl"]
    assert "set_part {xck26-sfvc784-2lv-c}" in script
    assert "-period 4.000" in script
    assert {f"{name}.cpp" for name in re.findall(r"\$root (\w+)\.cpp", script)} == {"linear.cpp", "linear_tb.cpp"}
    assert set(files) == {
        "number_hls.h", "testbench_hls.h", "linear_hls.h", "linear.h", "linear.cpp", "linear_tb.cpp", "run_hls.tcl",
        "README.md",
    }  # fmt: skip
    assert files == sources(WIDE, part="xck26-sfvc784-2lv-c", clock_mhz=250)


def test_words_wider_than_a_stream_are_refused() -> None:
    with pytest.raises(ValueError, match="source has 8192 bits; legal: 1 to 4096"):
        sources(replace(WIDE, t_in=256, t_out=128, word_bytes=1024))
    with pytest.raises(ValueError, match="t_out 256; legal for HLS: at most 151"):
        sources(replace(WIDE, t_out=256))


def test_layers_that_do_not_fit(rng: np.random.Generator) -> None:
    k, _ = most(NARROW)
    with pytest.raises(NothingFits, match=f"a source row has {NARROW.kw_max + 1} words, kw_max is {NARROW.kw_max}"):
        job_vectors(NARROW, [job(rng, layer(rng, 1, 1, k + 1))])
    with pytest.raises(NothingFits, match="a tile has 17 weight words, the ring 16"):
        job_vectors(replace(WIDE, ring_words=16), [job(rng, layer(rng, 1, 1, 68))])
    tables = [np.full(256, i, np.int8) for i in range(3)]
    jobs = [job(rng, replace(layer(rng, 1, 1, 1), table=table)) for table in tables]
    with pytest.raises(NothingFits, match="3 different tables, the design has 2"):
        job_vectors(WIDE, jobs)


def test_wrong_arrays_are_refused(rng: np.random.Generator) -> None:
    made, added = layer(rng, 2, 3, 4), layer(rng, 2, 3, 4, "add")
    with pytest.raises(ValueError, match=r"x is \(1, 4\); legal: \[at least 2, 4\]"):
        job_vectors(WIDE, [HlsProduct(made, np.zeros((1, 4), int))])
    with pytest.raises(ValueError, match="addend is False; legal: True"):
        job_vectors(WIDE, [HlsProduct(added, np.zeros((2, 4), int))])
    with pytest.raises(ValueError, match=r"addend is \(2, 2\); legal: \(2, 3\)"):
        job_vectors(WIDE, [HlsProduct(added, np.zeros((2, 4), int), np.zeros((2, 2), int))])


def test_expected_words_are_those_of_golden(rng: np.random.Generator) -> None:
    jobs = random_jobs(rng, NARROW, 30)
    found = targets(NARROW, jobs, data(NARROW, jobs)["target.expected.hex"])
    for made, got in zip(jobs, found, strict=True):
        assert got.tolist() == LinearKernel.golden(made.layer, made.x, made.addend).tolist()
