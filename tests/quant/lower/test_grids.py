import numpy as np
import pytest

from codesign.ir.network import Linear, outputs, run
from codesign.quant.lower.grids import ACCUMULATOR_BITS, regridded
from codesign.quant.lower.lowering import lower
from tests.quant.nets import Floats, Net


def _relative(net: Net, output: str, scale: float = 1.0) -> float:
    """Squared error of the integers' output against the file's, of its squares."""
    workload = net.workload(output)
    network = lower(workload)
    error = power = 0.0
    for _ in range(12):
        sample = {"x": scale * net.sample()["x"]}
        got = outputs(network, run(network, sample))[output]
        wanted = workload.evaluate(sample)[output].reshape(got.shape)
        error, power = error + float(np.square(got - wanted).sum()), power + float(np.square(wanted).sum())
    return error / power


def _layer(weights: Floats, bias: Floats, scale: float) -> tuple[Net, str]:
    """A product with weights quantized per channel, whatever their size, a bias and a quantizer."""
    net = Net()
    steps = np.abs(weights).max(axis=0, keepdims=True) / 127
    made = net.op("MatMul", net.quant("x", scale), net.quant(net.const(weights), steps, narrow=1))
    return net, net.quant(net.op("Add", made, net.const(bias)), 1 / 64)


def test_channels_that_fit_stay_as_they_are(rng: np.random.Generator) -> None:
    weights = rng.integers(-127, 128, size=(16, 40))
    unit = rng.uniform(1e-4, 1e-3, size=16)
    made, units = regridded(weights, unit, np.rint(rng.normal(size=16) / unit) * unit, 0.02)
    assert np.array_equal(made, weights)
    assert np.array_equal(units, unit)


@pytest.mark.parametrize("size", [1e-9, 1e-14, 1e-25])
def test_a_channel_of_tiny_weights_is_its_bias(size: float) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(8, 8)) * 0.3 * np.where(np.arange(8) == 5, size, 1.0)
    net, output = _layer(weights, rng.normal(size=8) * 0.5, 1 / 64)
    (layer,) = lower(net.workload(output)).layers
    assert isinstance(layer, Linear)
    assert not np.any(layer.weights[5])
    assert np.abs(layer.weights[4].astype(int)).max() == 127
    assert _relative(net, output) < 1e-4


@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1e-20])
def test_tiny_inputs_leave_the_bias(scale: float) -> None:
    rng = np.random.default_rng(2)
    net, output = _layer(rng.normal(size=(8, 8)), rng.normal(size=8) * 0.5, scale / 127)
    assert _relative(net, output, scale) < 1e-4


def test_products_that_a_bias_dwarfs_still_count() -> None:
    rng = np.random.default_rng(3)
    weights, bias = rng.integers(-127, 128, size=(4, 64)), np.array([1.5, -1.5, 2**30, 0.25])
    unit = np.array([1e-9, 1e-9, 1.0, 1e-3])
    made, units = regridded(weights, unit, bias, 1e-5)
    assert np.all(np.abs(bias / units) <= 2**24)
    assert np.array_equal(made[3], weights[3])
    worst = np.abs(made * units[:, None] - weights * unit[:, None]).max(axis=1)
    assert np.all(worst <= units / 2 * 1.0001)
    assert np.all(np.abs(made).sum(axis=1) * 128 + np.abs(bias / units) < 2 ** (ACCUMULATOR_BITS - 1))


def test_coarse_products_are_divided_for_a_bias_as_far_as_weights_and_sums_allow(rng: np.random.Generator) -> None:
    weights = rng.integers(-1, 2, size=(4, 32))
    weights[1, 0], weights[2, 0], weights[3] = 3, 64, 0
    made, units = regridded(weights, np.ones(4), np.full(4, 0.3), 0.5)
    assert (1 / units).tolist() == [64, 32, 1, 64]
    assert np.array_equal(made * units[:, None], weights)
    deep = np.ones((1, 1 << 14), np.int64)
    assert (1 / regridded(deep, np.ones(1), np.full(1, 0.3), 0.5)[1]).tolist() == [16]
    on_grid = regridded(weights, np.ones(4), np.full(4, 3.0), 0.5)
    assert np.array_equal(on_grid[0], weights)


@pytest.mark.parametrize("bits", [2, 4])
def test_narrow_networks_keep_their_biases(bits: int) -> None:
    net, rng = Net(1, 6, 16), np.random.default_rng(bits)
    steps = {2: (1 / 2, 1 / 4, 1 / 2), 4: (1 / 8, 1 / 16, 1 / 4)}[bits]
    x = net.quant("x", steps[0], bits=bits)
    for last in (False, False, True):
        weight = net.quant(net.const(rng.normal(size=(16, 16)) * 0.3), steps[1], bits=bits, narrow=1)
        gain, bias = net.const(rng.uniform(0.3, 1.5, size=16)), net.const(rng.normal(size=16) * 0.3)
        made = net.op("Add", net.op("Mul", net.op("MatMul", x, weight), gain), bias)  # a batch norm
        x = made if last else net.quant(net.op("Relu", made), steps[2], bits=bits)
    assert _relative(net, x) < 0.005
    assert not [note for note in lower(net.workload(x)).notes if "bias" in note]
