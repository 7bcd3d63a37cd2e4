"""Layers that repeat, and who waits for what."""

from dataclasses import replace

import numpy as np

from codesign.frontend.zoo import gemm
from codesign.ir.network import Linear
from codesign.timing.bound.repeats import readers, repeats
from tests.accelerators import chain
from tests.quant.vits import random_network


def test_layers_that_repeat_are_found() -> None:
    rng = np.random.default_rng(0)
    assert repeats(chain(rng, 5, [64] * 9)) == (1, 1, 6)
    assert repeats(chain(rng, 5, [64, 32] * 5)) == (2, 2, 3)
    assert repeats(gemm(5, 64, 64)).length == 0
    alike = chain(rng, 5, [64] * 9)
    assert repeats(replace(alike, layers=alike.layers[:-1])) == (1, 1, 5), "the last linear layer stands apart"
    assert repeats(chain(rng, 5, [64, 32, 16, 8, 24, 40])).length == 0


def test_the_first_linear_layer_waits_for_what_lies_before_it() -> None:
    network = chain(np.random.default_rng(0), 5, [64, 32, 16])
    assert readers(network) == {"t0": 0, "t1": 1, "t2": 2}


def test_a_tensor_is_waited_for_through_norms_and_attention() -> None:
    """Whatever a norm or an attention reads, the next linear layer behind it waits for."""
    network = random_network(1)[0]
    found, linears = readers(network), 0
    for layer in network:
        reads = [name for name in (getattr(layer, at, None) for at in ("source", "query", "key", "value")) if name]
        assert all(found[name] <= found[layer.target] for name in reads)
        if isinstance(layer, Linear):
            assert found[layer.source] <= linears < found[layer.target]
            linears += 1
    assert max(found.values()) == linears
