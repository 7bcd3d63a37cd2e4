import math
from collections.abc import Callable

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.ir.network import Attention, Linear
from codesign.quant.lower.lowering import lower, lower_traced
from codesign.quant.lower.operands import steepest
from tests.quant.nets import Floats, Net, cosines, exactly
from tests.quant.vits import Recipe, lowered


@pytest.mark.parametrize("mask", ["full", "causal", "sliding"])
def test_masks_are_recognised(mask: str) -> None:
    for seed in (0, 1, 3):
        made = lowered(Recipe(seed=seed, mask=mask))[1]
        (layer,) = [x for x in made.network if isinstance(x, Attention)]
        assert (layer.mask, layer.window) == (mask, 3 if mask == "sliding" else 0)


@pytest.mark.parametrize("qkv", ["split", "gather"])
def test_a_fused_projection_becomes_three_layers(qkv: str) -> None:
    network = lowered(Recipe(qkv=qkv, width=12, heads=3))[1].network
    fused = [x for x in network if isinstance(x, Linear)][1:4]
    assert [x.weights.shape for x in fused] == [(12, 12)] * 3
    assert len({x.name for x in fused}) == 3
    (attention,) = [x for x in network if isinstance(x, Attention)]
    assert [x.target for x in fused] == [attention.query, attention.key, attention.value]


def test_every_scaling_of_scores_gives_the_same_multiplier() -> None:
    made = [lowered(Recipe(scaling=s, width=32))[1].network for s in ("scores_mul", "scores_div", "query", "both")]
    layers = [next(x for x in n if isinstance(x, Attention)) for n in made]
    assert len({(x.score_multiplier, x.score_shift) for x in layers}) == 1


def test_an_overlapping_padded_convolution_is_a_gather() -> None:
    net = Net(1, 2, 5, 5)
    weight = net.quant(net.const(net.weights(6, 2, 3, 3)), np.full((6, 1, 1, 1), 1 / 128), narrow=1)
    made = net.op("Conv", net.quant("x"), weight, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    rows = net.op("Transpose", net.op("Reshape", made, net.const([1, 6, 9], np.int64)), perm=[0, 2, 1])
    network = exactly(net, net.quant(rows, 1 / 16))
    assert network.inputs[0].gather.shape == (9, 18)
    assert np.any(network.inputs[0].gather == -1)


def test_a_pointwise_convolution_of_a_product_is_a_linear_layer() -> None:
    net = Net()
    x = net.op("Transpose", net.quant(net.linear(net.quant("x")), 1 / 32), perm=[0, 2, 1])
    weight = net.quant(net.const(net.weights(5, 8, 1)), 1 / 128, narrow=1)
    made = net.op("Transpose", net.op("Conv", x, weight, kernel_shape=[1]), perm=[0, 2, 1])
    assert len(exactly(net, net.quant(made, 1 / 16)).layers) == 2


def test_relu_without_a_quantizer_before_it_is_a_clamp() -> None:
    net = Net()
    x = net.quant(net.op("Relu", net.linear(net.quant("x"))), 1 / 32)
    network = exactly(net, net.quant(net.linear(x), 1 / 16))
    (first, _) = network.layers
    assert isinstance(first, Linear)
    assert (first.low, first.high, first.table) == (0, 127, None)


def test_a_function_after_a_quantizer_is_a_table() -> None:
    net = Net()
    before = net.quant(net.linear(net.quant("x")), 1 / 32)
    cut = net.op("Clip", before, net.const(-0.5), net.const(1.0))
    x = net.quant(net.op("Mul", net.op("Tanh", cut), net.const(0.75)), 1 / 128)
    network = exactly(net, net.quant(net.linear(x), 1 / 16))
    (first, _) = network.layers
    assert isinstance(first, Linear)
    assert first.table is not None
    assert int(first.table.max()) == round(0.75 * math.tanh(1.0) * 128)


# Functions that no table holds ----------------------------------------------------------------


def _of(net: Net, x: str, kind: str) -> str:
    if kind == "reciprocal":
        return net.op("Reciprocal", x)
    if kind == "division":
        return net.op("Div", net.const(2.0), x)
    square = net.op("Mul", x, x)
    return net.op("Reciprocal", net.op("Add", square, net.const(1e-7)))


@pytest.mark.parametrize("kind", ["reciprocal", "division", "peak"])
@pytest.mark.parametrize("shift", [0.0, 0.37])
def test_a_pole_in_the_range_of_a_table_is_refused_with_its_place(kind: str, shift: float) -> None:
    net = Net()
    x = net.quant(net.op("Sub", net.linear(net.quant("x")), net.const(shift)), 1 / 32)
    made = net.quant(_of(net, net.op("Add", x, net.const(shift)), kind), 1 / 4)
    with pytest.raises(InputError, match=r"node (reciprocal|div)\d+ .*(infinite or NaN at 0|explodes at -?[\d.e-]+),"):
        lower(net.workload(net.linear(made)))


@pytest.mark.parametrize("kind", ["reciprocal", "division"])
def test_a_pole_away_from_the_arguments_is_none(kind: str) -> None:
    net = Net()
    x = net.quant(net.linear(net.quant("x")), 1 / 64)
    made = net.quant(_of(net, net.op("Add", x, net.const(4.0)), kind), 1 / 128)
    assert len(exactly(net, net.quant(net.linear(made), 1 / 16)).layers) == 2


@pytest.mark.parametrize("function", [np.sign, np.exp, np.sin, np.tanh, np.abs, np.floor, np.square, np.zeros_like])
def test_steps_and_steep_functions_are_no_poles(function: Callable[[Floats], Floats]) -> None:
    assert steepest(function, np.arange(-128, 128) / 20 + 0.01) is None


@pytest.mark.parametrize("place", [0.011, 0.02500001, 3.31])
def test_a_pole_is_found_wherever_it_lies(place: float) -> None:
    found = steepest(lambda x: 1 / np.abs(x - place) ** 0.75, np.arange(-128, 128) / 20)
    assert found == pytest.approx(place, abs=0.05)


# Heads that share keys and values ----------------------------------------------------------------


def _shared(net: Net, spelling: str, shared: int) -> str:
    """Attention of four heads on one or two heads of keys and values."""
    x = net.quant("x")

    def heads(count: int) -> str:
        made = net.quant(net.linear(x, 8, 2 * count), 1 / 32)
        return net.op("Transpose", net.op("Reshape", made, net.const([1, 6, count, 2], np.int64)), perm=[0, 2, 1, 3])

    query, key, value = heads(4), heads(shared), heads(shared)
    if spelling == "expand":
        key, value = (net.op("Expand", y, net.const([1, 4, 6, 2], np.int64)) for y in (key, value))
    elif spelling == "repeat":
        wide = net.const([1, shared, 4 // shared, 6, 2], np.int64)
        parts = [net.op("Expand", net.op("Unsqueeze", y, net.const([2], np.int64)), wide) for y in (key, value)]
        key, value = (net.op("Reshape", y, net.const([1, 4, 6, 2], np.int64)) for y in parts)
    scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
    made = net.op("MatMul", net.op("Softmax", net.op("Mul", scores, net.const(3.0)), axis=-1), value)
    made = net.op("Reshape", net.op("Transpose", made, perm=[0, 2, 1, 3]), net.const([1, 6, 8], np.int64))
    return net.quant(net.linear(net.quant(made, 1 / 64)), 1 / 32)


@pytest.mark.parametrize(("spelling", "shared"), [("broadcast", 1), ("expand", 1), ("repeat", 1), ("repeat", 2)])
def test_heads_may_share_keys_and_values(spelling: str, shared: int) -> None:
    net = Net()
    workload = net.workload(_shared(net, spelling, shared))
    made = lower_traced(workload)
    (layer,) = [x for x in made.network if isinstance(x, Attention)]
    assert (layer.heads, layer.head_dim) == (4, 2)
    keys = next(x for x in made.network if isinstance(x, Linear) and x.target == layer.key)
    alike = keys.weights.reshape(shared, 4 // shared, 2, 8)
    assert np.array_equal(alike, np.broadcast_to(alike[:, :1], alike.shape))
    assert min(cosines(workload, made, net.sample()).values()) > 0.99


def test_every_spelling_of_one_shared_head_gives_the_same_integers() -> None:
    found = []
    for spelling in ("broadcast", "expand", "repeat"):
        net = Net()
        network = lower(net.workload(_shared(net, spelling, 1)))
        found.append([x.weights.tolist() for x in network if isinstance(x, Linear)])
    assert found[0] == found[1] == found[2]


def test_keys_of_another_width_than_values_are_refused_by_name() -> None:
    net = Net()
    x = net.quant("x")
    q, k, v = (net.quant(net.linear(x, 8, n), 1 / 32) for n in (4, 4, 8))
    probabilities = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])))
    with pytest.raises(InputError, match=r"node matmul\d+ .*: scores \(1, 6, 6\) of width 4 against 1 heads of 6 x 8"):
        lower(net.workload(net.linear(net.quant(net.op("MatMul", probabilities, v)))))
