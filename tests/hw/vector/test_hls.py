"""The HLS C++ of the vector kernel computes golden's integers, bit for bit."""

import importlib.util
import re
from dataclasses import replace

import numpy as np
import pytest

from codesign.errors import CheckError, NothingFits
from codesign.hw.vector import VectorKernel
from codesign.hw.vector import hls as emitter
from codesign.hw.vector.hls import HlsNorm, data, job_vectors, sources, targets, top
from codesign.ir.network import Norm
from codesign.numerics.nonlinear import norm_parameters
from codesign.sim import hls

compiled = pytest.mark.skipif(
    importlib.util.find_spec("hls4ml") is None, reason="needs hls4ml's ap_types: pip install codesign[hls]"
)
WIDE = VectorKernel(t_v=4, max_d=1024)
SERIAL = VectorKernel(t_v=1, max_d=77)
MORE = (VectorKernel(t_v=2, max_d=2), VectorKernel(t_v=16, max_d=100), VectorKernel(t_v=64, max_d=1000))
SIXTEEN = VectorKernel(t_v=4, max_d=1024, wide=1)
MORE_SIXTEEN = (VectorKernel(t_v=1, max_d=33, wide=1), VectorKernel(t_v=32, max_d=384, wide=1))
WIDTHS = (2, 3, 5, 7, 31, 32, 64, 76, 77, 127, 384, 1023, 1024)


def job(rng: np.random.Generator, r: object, shift: int = 24, eps: int = 0, rms: bool = False) -> HlsNorm:
    """Rows with full-range gains and biases."""
    rows = np.asarray(r)
    width = (rows.shape[1],)
    gain = rng.integers(-(1 << 15), 1 << 15, width)
    bias = rng.integers(-(1 << 31), 1 << 31, width)
    return HlsNorm(Norm("n", "r", "x", len(rows), gain, bias, shift, eps, rms), rows)


def real_job(rng: np.random.Generator, rows: int, d: int, rms: bool) -> HlsNorm:
    """Rows and parameters as a trained model has them."""
    gain, bias, shift, eps = norm_parameters(rng.uniform(0.2, 3, d), rng.normal(0, 1, d), 1e-6, 2.0**-9, 0.04, d)
    r = np.clip(np.rint(rng.normal(rng.normal(0, 400), 10 ** rng.uniform(0, 3.5), (rows, d))), -32768, 32767)
    return HlsNorm(Norm("n", "r", "x", rows, gain, bias, shift, eps, rms), r.astype(np.int64))


def random_jobs(rng: np.random.Generator, kernel: VectorKernel, count: int) -> list[HlsNorm]:
    """Everything at random: sizes, ranges of the rows, shifts, eps; on a wide design half with 16 bits."""
    found = _random_jobs(rng, kernel, count)
    wide = rng.integers(2, size=count) * kernel.wide
    return [HlsNorm(replace(made.layer, bits=8 << int(w)), made.r) for made, w in zip(found, wide, strict=True)]


def _random_jobs(rng: np.random.Generator, kernel: VectorKernel, count: int) -> list[HlsNorm]:
    widths = [d for d in WIDTHS if d <= kernel.max_d] + [kernel.max_d]
    found = []
    for index in range(count):
        rows, d = int(rng.choice([1, 2, 3, 5])), int(rng.choice(widths))
        if index % 3 == 0:
            found.append(real_job(rng, rows, d, rms=bool(index % 2)))
            continue
        half = 1 << int(rng.integers(0, 16))
        eps = int(rng.choice([0, 1, 2**48 - 1, int(rng.integers(2**48))]))
        r = rng.integers(-half, half, (rows, d)) if index % 3 == 1 else rng.choice([-32768, 32767], (rows, d))
        found.append(job(rng, r, int(rng.integers(0, 32)), eps, bool(rng.random() < 0.5)))
    return found


def assert_golden(kernel: VectorKernel, jobs: list[HlsNorm]) -> None:
    for made, got in zip(jobs, hls.run_jobs(emitter, kernel, jobs), strict=True):
        layer = made.layer
        rows = np.asarray(made.r)[layer.first_row : layer.first_row + layer.rows]
        assert got.tolist() == VectorKernel.golden(layer, rows).tolist()


@compiled
@pytest.mark.rtl
@pytest.mark.parametrize("kernel", [WIDE, SIXTEEN], ids=str)
def test_random_norms(rng: np.random.Generator, kernel: VectorKernel) -> None:
    assert_golden(kernel, random_jobs(rng, kernel, 120))


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("kernel", [SERIAL, *MORE, *MORE_SIXTEEN], ids=str)
def test_random_norms_on_more_designs(rng: np.random.Generator, kernel: VectorKernel) -> None:
    assert_golden(kernel, random_jobs(rng, kernel, 200))


@compiled
@pytest.mark.rtl
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("rms", [False, True])
def test_every_length_of_the_variance(rng: np.random.Generator, rms: bool, bits: int) -> None:
    """One row per bit of the variance, from all zeros to the largest there is."""
    jobs = [job(rng, np.zeros((1, 2), int), 24, max(0, (1 << bit) - 1), rms) for bit in range(49)]
    extreme = np.resize([-32768, 32767], (1, 1024))
    jobs += [job(rng, extreme >> places, 20, 0, rms) for places in range(16)]
    jobs += [job(rng, np.full((1, 1024), value), 10, 0, rms) for value in (-32768, -1, 0, 1, 32767)]
    one = np.zeros((2, 1024), int)
    one[0, 0], one[1, 1023] = 32767, -32768
    jobs += [job(rng, one, shift, 0, rms) for shift in (0, 20, 31)]
    assert_golden(SIXTEEN if bits == 16 else WIDE, [HlsNorm(replace(j.layer, bits=bits), j.r) for j in jobs])


def power(n: int, offset: int) -> HlsNorm:
    """A row whose variance is ``4**n + offset``: at 0 the reciprocal just does not fit and saturates."""
    gain, bias = np.full(3, 1 << 10), np.zeros(3, np.int64)
    eps = 4 ** (n - 1) + offset
    return HlsNorm(Norm("p", "r", "x", 1, gain, bias, 14, eps, rms=True), np.array([[1 << (n - 1), 0, 0]]))


@compiled
@pytest.mark.rtl
def test_roots_at_the_ends_of_the_reciprocal() -> None:
    assert_golden(WIDE, [power(n, offset) for n in range(1, 16) for offset in (-1, 0, 1)])


@compiled
@pytest.mark.rtl
def test_rows_start_where_the_layer_says(rng: np.random.Generator) -> None:
    made = job(rng, rng.integers(-32768, 32768, (3, 5)))
    later = Norm("n", "r", "x", 2, made.layer.gain, made.layer.bias, 24, 0, first_row=1)
    assert_golden(WIDE, [HlsNorm(later, made.r), made])


@compiled
@pytest.mark.rtl
def test_the_testbench_checks_itself(rng: np.random.Generator) -> None:
    program, files = hls.build(sources(WIDE)), data(WIDE, random_jobs(rng, WIDE, 9))
    hls.simulate(program, files)
    first, rest = files["target.expected.hex"].split("\n", 1)
    wrong = f"{int(first, 16) ^ 1:0{len(first)}x}\n{rest}"
    with pytest.raises(CheckError, match=f"target word 0: expected {wrong.split()[0]}, got {first}"):
        hls.simulate(program, files | {"target.expected.hex": wrong})


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("total.squares - result.sum * result.sum + eps", "total.squares - result.sum * result.sum"),
        ("quotient[17] ? ap_uint<17>(0x1ffff)", "quotient[17] ? ap_uint<17>(0)"),
        ("ROOT_DIGITS = 17", "ROOT_DIGITS = 16"),
        ("const ap_uint<6> places = 23", "const ap_uint<6> places = 22"),
        ("used = w * T_V + c < d ? value : ap_int<16>(0)", "used = value"),
    ],
)
def test_a_wrong_line_is_noticed(rng: np.random.Generator, right: str, wrong: str) -> None:
    files = sources(WIDE)
    assert right in files["vector_hls.h"]
    program = hls.build(files | {"vector_hls.h": files["vector_hls.h"].replace(right, wrong)})
    jobs = [power(10, 0), *random_jobs(rng, WIDE, 60)]
    vectors = data(WIDE, jobs)
    if "value : " in right:  # columns that only fill a word hold what was in memory before
        vectors = {**vectors, "source.hex": _filled(vectors["source.hex"], jobs)}
        hls.simulate(hls.build(files), vectors)
    with pytest.raises(CheckError):
        hls.simulate(program, vectors)


def _filled(words: str, jobs: list[HlsNorm]) -> str:
    """The source words with ones in the columns that only fill a row's last word."""
    lines, at = words.split(), 0
    for made in jobs:
        row = -(-made.layer.d // WIDE.t_v)
        spare = row * WIDE.t_v - made.layer.d
        for _ in range(made.layer.rows):
            at += row
            lines[at - 1] = "1" * 4 * spare + lines[at - 1][4 * spare :]
    return "\n".join(lines) + "\n"


# Text alone, without a compiler ------------------------------------------------------


@pytest.mark.parametrize("kernel", [WIDE, SERIAL, *MORE, SIXTEEN], ids=str)
def test_the_project_has_the_parameters_of_the_design(kernel: VectorKernel) -> None:
    files = sources(kernel)
    values = re.search(r"typedef codesign::Vector<([^>]*)> vector_engine", files["vector.h"])
    assert values is not None
    assert list(map(int, values[1].split(", "))) == [kernel.t_v, kernel.max_d, kernel.ring_words, *[1] * kernel.wide]
    assert "template <int T_V, int MAX_D, int RING_WORDS, int WIDE = 0>" in files["vector_hls.h"]
    assert kernel.ring_words >= kernel.max_words  # else the queue between the two passes over a row would block
    found = set(re.findall(r"port=(\w+)", files["vector.cpp"]))
    assert found == {argument.name for argument in top(kernel).arguments} | {"return"}


def test_every_labelled_loop_over_words_or_digits_is_pipelined() -> None:
    lines = [line.strip() for line in sources(WIDE)["vector_hls.h"].splitlines()]
    labels = [i for i, line in enumerate(lines) if re.fullmatch(r"\w+_(words|digits|affine):", line)]
    assert len(labels) == 5
    assert all(lines[i + 2] == "#pragma HLS PIPELINE II=1" for i in labels)


def test_rows_that_do_not_fit(rng: np.random.Generator) -> None:
    with pytest.raises(NothingFits, match="78 columns, max_d is 77"):
        job_vectors(SERIAL, [job(rng, np.zeros((1, 78), int))])
    made = job(rng, np.zeros((2, 8), int))
    with pytest.raises(NothingFits, match="results of 16 bits, wide is 0"):
        job_vectors(SERIAL, [HlsNorm(replace(made.layer, bits=16), made.r)])
    with pytest.raises(ValueError, match=r"r is \(1, 8\); legal: \[at least 2, 8\]"):
        job_vectors(SERIAL, [HlsNorm(made.layer, np.zeros((1, 8), int))])


@pytest.mark.parametrize("kernel", [WIDE, SIXTEEN], ids=str)
def test_expected_words_are_those_of_golden(rng: np.random.Generator, kernel: VectorKernel) -> None:
    jobs = random_jobs(rng, kernel, 12)
    for made, got in zip(jobs, targets(kernel, jobs, data(kernel, jobs)["target.expected.hex"]), strict=True):
        assert got.tolist() == VectorKernel.golden(made.layer, made.r).tolist()
