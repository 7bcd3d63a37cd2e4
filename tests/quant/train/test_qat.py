"""The torch modules return the integers of `codesign.numerics.nonlinear` and train like float."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from codesign.numerics import fixed_point as number
from codesign.numerics import moe, nonlinear

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
qat: Any = pytest.importorskip("codesign.quant.train.qat")

pytestmark = pytest.mark.quant

Array = npt.NDArray[np.int64]


def _tensor(x: Array) -> Any:
    return torch.as_tensor(np.array(x))


def _wide(rng: np.random.Generator, count: int) -> Array:
    """Non-negative values of every magnitude below 2**62, and the edges of each power."""
    values = rng.integers(0, 2**62, count) >> rng.integers(0, 62, count)
    powers = np.array([2**k + d for k in range(1, 62) for d in (-1, 0, 1)])
    return np.concatenate([values, powers, [0, 1, 2**62]])


@pytest.mark.parametrize("shift", [0, 1, 2, 15, 31, 47, 62, 63])
def test_round_half_even_equals_number(shift: int) -> None:
    wide = _wide(np.random.default_rng(shift), 500)
    ties = (np.arange(-50, 51) << min(shift, 50)) >> 1
    x = np.concatenate([wide, -wide, ties])
    got = qat.round_half_even(_tensor(x), shift)
    assert got.tolist() == number.round_half_even(x, shift).tolist()


def test_bit_length_and_isqrt_equal_number() -> None:
    x = _wide(np.random.default_rng(1), 5000)
    squares = np.arange(0, 2**17, 97) ** 2
    x = np.concatenate([x, squares, squares + 1, np.maximum(squares - 1, 0)])
    assert qat.bit_length(_tensor(x)).tolist() == number.bit_length(x).tolist()
    assert qat.isqrt(_tensor(x)).tolist() == number.isqrt(x).tolist()


def _int8(rng: np.random.Generator, shape: tuple[int, ...], kind: int) -> Array:
    """Draw random int8, extremes only, or small values."""
    if kind == 1:
        return rng.choice(np.array([-128, 127]), shape)
    return rng.integers(-128, 128, shape) >> (6 if kind == 2 else 0)


@pytest.mark.parametrize("seed", range(27))
def test_attention_equals_nonlinear(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heads, d, keys = (int(x) for x in (rng.integers(1, 5), rng.integers(1, 33), rng.integers(1, 70)))
    rows = int(rng.integers(1, keys + 1))
    q = _int8(rng, (2, rows, heads * d), seed % 3)
    k, v = (_int8(rng, (2, keys, heads * d), seed // 3 % 3) for _ in range(2))
    kind = ("full", "causal", "sliding")[seed // 9]
    scales = [float(x) for x in np.exp2(rng.uniform(-7, -2, 4))]
    module = qat.IntegerSoftmaxAttention(heads, kind, 5)
    module.freeze(*scales)
    inputs = [torch.as_tensor(x * s) for x, s in zip((q, k, v), scales, strict=False)]
    got = module(*inputs) / scales[3]
    score = number.requantizer(128 * scales[0] * scales[1] / np.sqrt(d))
    out = number.requantizer(scales[2] / scales[3])
    lo, hi = nonlinear.mask_interval(kind, rows, keys, 5)
    for item in range(2):
        expected = nonlinear.attention(
            q[item], k[item], v[item], heads=heads, lo=lo, hi=hi, score_multiplier=score[0],
            score_shift=score[1], out_multiplier=out[0], out_shift=out[1],
        )  # fmt: skip
        assert torch.round(got[item]).to(torch.int64).tolist() == expected.tolist()


def _norm_rows(rng: np.random.Generator, width: int) -> Array:
    alternating = np.where(np.arange(width) % 2, 32767, -32768)
    spike = np.where(np.arange(width) == width // 2, 32767, -32768)
    flat = [np.full(width, x) for x in (-32768, -1, 0, 1, 32767)]
    drawn = [rng.integers(-32768, 32768, width) >> s for s in range(16)]
    return np.stack([alternating, -1 - alternating, spike, -1 - spike, *flat, *drawn])


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("width", [2, 3, 64, 1023, 1024])
@pytest.mark.parametrize("eps", [0, 1, 2**48 - 1])
def test_integer_norm_equals_nonlinear(width: int, eps: int, rms: bool) -> None:
    rng = np.random.default_rng(width)
    rows = _norm_rows(rng, width)
    gain = rng.integers(-32768, 32768, width)
    bias = rng.integers(-(2**31), 2**31, width)
    gain[:2], bias[:2] = (-32768, 32767), (2**31 - 1, -(2**31))
    for shift in (0, 19, 31):
        got = qat.integer_norm(_tensor(rows), _tensor(gain), _tensor(bias), shift, eps, rms)
        assert got.tolist() == nonlinear.norm(rows, gain, bias, shift, eps, rms).tolist()


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("scale_in", [2.0**-10, 0.00137])
def test_norm_module_equals_nonlinear(scale_in: float, rms: bool) -> None:
    rng = np.random.default_rng(7)
    module, scale_out = qat.IntegerNorm(64, rms=rms), 2.0**-5
    gamma, beta = rng.normal(1, 0.5, 64), np.zeros(64) if rms else rng.normal(0, 0.5, 64)
    with torch.no_grad():
        module.weight.copy_(torch.as_tensor(gamma))
        if not rms:
            module.bias.copy_(torch.as_tensor(beta))
    module.freeze(scale_in, scale_out)
    rows = _norm_rows(rng, 64)
    got = module(torch.as_tensor(rows * scale_in, dtype=torch.float32)) / scale_out
    gain, bias, shift, eps = nonlinear.norm_parameters(
        gamma.astype(np.float32), beta.astype(np.float32), float(np.float32(1e-5)), scale_in, scale_out, 64
    )
    expected = nonlinear.norm(rows, gain, bias, shift, eps, rms)
    assert got.to(torch.int64).tolist() == expected.tolist()


@pytest.mark.parametrize("function", nonlinear.function_names())
def test_table_module_equals_nonlinear(function: str) -> None:
    x = np.arange(-128, 128)
    for scale_in, scale_out in ((2.0**-5, 2.0**-5), (0.043, 0.021)):
        module = qat.IntegerTable(function)
        module.freeze(scale_in, scale_out)
        got = module(torch.as_tensor(x * scale_in, dtype=torch.float32)) / scale_out
        expected = nonlinear.lookup(nonlinear.table(function, scale_in, scale_out), x)
        assert torch.round(got).to(torch.int64).tolist() == expected.tolist()


@pytest.mark.parametrize("function", nonlinear.function_names())
def test_float_functions_equal_nonlinear(function: str) -> None:
    x = np.linspace(-6, 6, 101)
    got = qat.IntegerTable(function)(torch.as_tensor(x))
    assert np.allclose(got.numpy(), nonlinear.evaluate(function, x), atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_gates_equal_routing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    experts = int(rng.integers(1, 20))
    chosen, scale = int(rng.integers(1, experts + 1)), float(2.0 ** rng.integers(-7, -1))
    logits = _int8(rng, (3, 40, experts), seed % 3)
    module = qat.IntegerGates(chosen)
    module.freeze(scale)
    got = module(torch.as_tensor(logits * scale, dtype=torch.float32)) / moe.GATE_SCALE
    expected = [moe.gates(x, chosen, *number.requantizer(128 * scale)) for x in logits]
    assert got.to(torch.int64).tolist() == np.array(expected).tolist()
    assert torch.equal(got, torch.round(got))


def test_gates_train_the_router_through_the_chosen_experts() -> None:
    module = qat.IntegerGates(2)
    logits = torch.tensor([[0.5, 0.25, -0.25, 1.0], [0.25, 0.25, 0.25, 0.25]])
    gradients = []
    for frozen in (False, True):
        if frozen:
            module.freeze(2.0**-5)
        x = logits.clone().requires_grad_()
        out = module(x)
        assert torch.count_nonzero(out, dim=1).tolist() == [2, 2]
        gradients.append(torch.autograd.grad((out[:1] * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum(), x)[0])
    assert torch.allclose(gradients[0][0], gradients[1][0])
    assert float(gradients[1][0].abs().min()) > 0
    module.release()
    assert torch.allclose(module(logits)[0], torch.softmax(logits[0], 0) * torch.tensor([1.0, 0, 0, 1.0]))
    assert (module(logits)[1] > 0).sum() == 2


def _modules() -> dict[str, tuple[Any, int, tuple[float, ...]]]:
    """A module of each kind, its number of inputs, and scales to freeze it with."""
    scale = 2.0**-5
    return {
        "attention": (qat.IntegerSoftmaxAttention(2), 3, (scale,) * 4),
        "causal": (qat.IntegerSoftmaxAttention(2, "causal"), 3, (scale,) * 4),
        "norm": (qat.IntegerNorm(8), 1, (2.0**-10, scale)),
        "rms": (qat.IntegerNorm(8, rms=True), 1, (2.0**-10, scale)),
        "table": (qat.IntegerTable("gelu"), 1, (scale, scale)),
    }


@pytest.mark.parametrize("name", ["attention", "causal", "norm", "rms", "table"])
def test_gradients_are_those_of_the_float_function(name: str) -> None:
    module, count, scales = _modules()[name]
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randint(-60, 60, (4, 8), generator=generator) * 2.0**-5 for _ in range(count)]
    weight = torch.randn((4, 8), generator=generator)

    def run() -> tuple[Any, list[Any]]:
        inputs = [x.clone().requires_grad_() for x in drawn]
        out = module(*inputs)
        return out, torch.autograd.grad((out * weight).sum(), [*inputs, *module.parameters()])

    smooth, expected = run()
    module.freeze(*scales)
    exact, got = run()
    module.release()
    assert not torch.equal(smooth, exact)
    assert torch.equal(exact, torch.round(exact / scales[-1]) * scales[-1])
    assert (smooth - exact).abs().max() < 0.06
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert torch.equal(module(*drawn), smooth)


def test_modules_refuse() -> None:
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        qat.IntegerSoftmaxAttention(0)
    with pytest.raises(ValueError, match="chosen must be at least 1, got 0"):
        qat.IntegerGates(0)
    with pytest.raises(ValueError, match="got 'mish'"):
        qat.IntegerTable("mish")
