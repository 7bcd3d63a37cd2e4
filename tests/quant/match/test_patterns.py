"""Norms in every spelling and nothing else, and affine views that give the file's numbers."""

import numpy as np
import pytest

from codesign.quant.match.patterns import Patterns
from tests.quant.nets import Net

EPS = 0.25


def _spelled(how: str) -> tuple[Net, str]:
    """A tensor minus its mean, and how its root mean square divides it."""
    net = Net()
    axes = net.const([-1], np.int64)
    d = net.op("Sub", "x", net.op("ReduceMean", "x", axes, keepdims=1))
    added = net.op("Add", net.op("ReduceMean", net.op("Mul", d, d), axes, keepdims=1), net.const(EPS))
    outer, *inner = how.split()[::-1]
    root = added
    for step in inner[::-1]:
        name, _, constant = step.partition(":")
        if name == "Pow":
            root = net.op("Pow", root, net.const(float(constant)))
        elif name == "Div":
            root = net.op("Div", net.const(float(constant)), root)
        else:
            root = net.op(name, root)
    return net, net.op(outer, d, root)


@pytest.mark.parametrize(
    "how",
    ["Sqrt Div", "Pow:0.5 Div", "Pow:-0.5 Mul", "Sqrt Reciprocal Mul", "Sqrt Div:1 Mul", "Pow:0.5 Reciprocal Mul"],
)
def test_a_norm_is_found_in_every_spelling(how: str) -> None:
    net, output = _spelled(how)
    patterns = Patterns(net.workload(output))
    assert patterns.kinds[output] == "norm"
    assert (patterns.norms[output].source, patterns.norms[output].eps, patterns.norms[output].rms) == ("x", EPS, False)


@pytest.mark.parametrize(
    "how",
    ["Sqrt Mul", "Pow:0.5 Mul", "Pow:-0.5 Div", "Exp Div", "Exp Reciprocal Mul", "Sqrt Reciprocal Div",
     "Sqrt Div:2 Mul", "Sqrt Div:1 Div", "Pow:0.25 Div", "Pow:1 Div", "Neg Div", "Reciprocal Mul", "Sqrt Exp Div"],
)  # fmt: skip
def test_what_divides_by_anything_else_is_no_norm(how: str) -> None:
    net, output = _spelled(how)
    patterns = Patterns(net.workload(output))
    assert patterns.kinds[output] != "norm"
    assert output not in patterns.norms


def test_gain_and_bias_of_a_norm_are_not_exchanged() -> None:
    net = Net()
    gain, bias = net.rng.normal(size=8), net.rng.normal(size=8)
    output = net.op("LayerNormalization", "x", net.const(gain), net.const(bias))
    view = Patterns(net.workload(output)).affine(output)
    assert view.index.tolist() == np.arange(48).reshape(1, 6, 8).tolist()
    assert np.allclose(view.factor, np.broadcast_to(gain, (1, 6, 8)))
    assert np.allclose(view.offset, np.broadcast_to(bias, (1, 6, 8)))


def test_factors_of_a_gemm_scale_product_and_bias() -> None:
    net = Net(6, 8)
    bias = net.rng.normal(size=5)
    output = net.op("Gemm", "x", net.const(net.weights(8, 5)), net.const(bias), alpha=0.5, beta=3.0)
    view = Patterns(net.workload(output)).affine(output)
    assert np.all(view.factor == 0.5)
    assert np.allclose(view.offset, np.broadcast_to(3 * bias, (6, 5)))


@pytest.mark.parametrize("seed", range(12))
def test_a_view_gives_the_files_numbers(seed: int) -> None:
    """Moves, gains and offsets in random order; every element is a factor of one of the input's plus an offset."""
    net, rng = Net(), np.random.default_rng([seed, 71])
    name, shape = "x", (1, 6, 8)
    for _ in range(8):
        constant = net.const(rng.uniform(0.5, 2, shape[-1]) * rng.choice([-1, 1], shape[-1]))
        kind = int(rng.integers(9))
        if kind < 2:
            name = net.op("Div" if kind else "Mul", name, constant)
        elif kind < 5:
            first, second = [(name, constant), (constant, name)][kind % 2]
            name = net.op("Add" if kind == 2 else "Sub", first, second)
        elif kind == 5:
            name = net.op("Neg", name)
        elif kind == 6:
            name, shape = net.op("Transpose", name, perm=[0, 2, 1]), (1, shape[2], shape[1])
        elif kind == 7:
            parts = [rng.normal(size=s).astype(np.float32) for s in (shape[1],) * 4]
            parts[3] = np.abs(parts[3]) + 1
            name = net.op("BatchNormalization", name, *(net.const(part) for part in parts))
        else:
            name = net.op("Concat", name, net.const(rng.normal(size=(1, 1, shape[2]))), axis=1)
            shape = (1, shape[1] + 1, shape[2])
    workload = net.workload(name)
    view, sample = Patterns(workload).affine(name), net.sample()
    assert view.origin == "x"
    values = np.where(view.index < 0, 0, sample["x"].ravel()[view.index])
    found = dict(workload.tensors(sample))[name]
    assert np.allclose(view.factor * values + view.offset, found, rtol=1e-4, atol=1e-4)
