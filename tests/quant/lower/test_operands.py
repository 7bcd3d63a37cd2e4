import math

import numpy as np
import pytest

from codesign.ir.network import Attention, Linear
from tests.quant.nets import Net, exactly
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
