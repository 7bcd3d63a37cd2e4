from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.ir.network import Linear, Norm, run
from codesign.quant.lower.lowering import lower, lower_traced
from tests.marks import few_fast
from tests.quant.nets import Net, cosines, exactly, unequal
from tests.quant.vits import Recipe, lowered, recipe, samples

SEEDS = range(24)


def test_an_eight_bit_residual_stream_is_widened() -> None:
    chosen = Recipe(stream_bits=8, parts=False)
    workload, made = lowered(chosen)
    assert any("sixteenth" in note for note in made.network.notes)
    assert min(cosines(workload, made, {"image": samples(chosen, 1)[0]}).values()) >= 0.99


# Post-norm transformers ------------------------------------------------------------------------


def _post(seed: int, **changes: Any) -> Recipe:
    return replace(recipe(seed), order="post", **changes)


@pytest.mark.parametrize("seed", few_fast(SEEDS, 2))
def test_random_post_norm_transformers_stay_close_to_float(seed: int) -> None:
    chosen = _post(seed)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 2):
        found = cosines(workload, made, {"image": sample})
        assert min(found.values()) >= 0.98, {n: c for n, c in found.items() if c < 0.98}


@pytest.mark.parametrize("seed", few_fast(SEEDS, 2))
def test_power_of_two_post_norm_transformers_make_the_files_integers(seed: int) -> None:
    chosen = _post(seed, form="quant", scales="po2", parts=True, argument=True)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 2):
        assert unequal(workload, made, {"image": sample}) == []


@pytest.mark.parametrize("parts", [True, False])
def test_an_eight_bit_post_norm_stream_is_widened(parts: bool) -> None:
    chosen = _post(2, form="quant", stream_bits=8, parts=parts)
    workload, made = lowered(chosen)
    assert any("sixteenth" in note for note in made.network.notes)
    assert min(cosines(workload, made, {"image": samples(chosen, 1)[0]}).values()) >= 0.99


def test_spellings_of_exporters_make_the_same_integers() -> None:
    """A GELU as one node or as five."""
    found = [lowered(_post(8, form="quant", activation=a, qkv="separate"))[1].network for a in ("gelu", "erf")]
    first, second = ([x for x in network if isinstance(x, Linear)] for network in found)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.weights, b.weights)
        assert np.array_equal(a.multiplier, b.multiplier)
        assert (a.table is None) == (b.table is None)
        assert a.table is None or np.array_equal(a.table, np.asarray(b.table))


def test_a_norm_that_is_multiplied_and_added_to_is_two_layers_of_different_bits() -> None:
    network = lowered(_post(3, depth=2, norm="decomposed"))[1].network
    norms = [x for x in network if isinstance(x, Norm)]
    assert [x.bits for x in norms].count(16) == 4
    assert len(norms) == 9
    by_source = {x.source: sorted(y.bits for y in norms if y.source == x.source) for x in norms}
    assert sorted(map(len, by_source.values())) == [1, 2, 2, 2, 2]
    added = {x.addend for x in network if isinstance(x, Linear) and x.addend not in network.constants}
    assert {x.target for x in norms if x.bits == 16} <= added
    assert {x.target for x in norms if x.bits == 8} == {
        x.source
        for x in network
        if isinstance(x, Linear) and network.tensors[x.source].name in {n.target for n in norms}
    }


# Small graphs --------------------------------------------------------------------------------


def _hidden(net: Net, final: bool) -> tuple[str, str]:
    """A post-norm block straight on the model's input."""
    added = net.op("Add", "x", net.linear(net.quant("x")))
    first = net.norm(added)
    return first, net.norm(net.op("Add", first, net.linear(net.quant(first)))) if final else first


@pytest.mark.parametrize("shape", [None, (6, 8)])
def test_a_model_input_is_multiplied_and_added_to(shape: tuple[int, ...] | None) -> None:
    net = Net()
    _, output = _hidden(net, final=True)
    output = output if shape is None else net.op("Reshape", output, net.const(shape, np.int64))
    workload = net.workload(output)
    data = {"x": np.stack([net.sample()["x"] for _ in range(16)])}
    made = lower_traced(workload, calibration=data)
    network = made.network
    assert sorted((x.name, network.tensors[x.target].bits, x.low) for x in network.inputs) == [
        ("x", 8, -128),
        ("x", 16, -(1 << 15)),
    ]
    assert [x.bits for x in network if isinstance(x, Norm)] == [16, 8, 16]
    assert network.tensors[network.outputs[0].source].bits == 16
    assert min(cosines(workload, made, net.sample()).values()) > 0.998


def test_some_rows_of_a_norm_are_computed() -> None:
    net = Net()
    rows = net.op("Slice", net.norm(net.stream()), *(net.const([i], np.int64) for i in (3, 5, 1)))
    workload = net.workload(net.quant(net.linear(net.quant(rows)), 1 / 16))
    made = lower_traced(workload)
    (norm,) = [x for x in made.network if isinstance(x, Norm)]
    assert (norm.first_row, norm.rows) == (3, 2)
    assert min(cosines(workload, made, net.sample()).values()) > 0.99


def test_what_ends_in_a_norm_that_is_multiplied_too_is_eight_bits() -> None:
    net = Net()
    first, _ = _hidden(net, final=False)
    net.linear(net.quant(first))
    network = lower(net.workload(first), calibration={"x": np.stack([net.sample()["x"] for _ in range(4)])})
    assert network.tensors[network.outputs[0].source].bits == 8


def test_a_class_token_gives_the_bias_of_a_quantized_embedding_back() -> None:
    net = Net()
    biased = net.op("Add", net.linear(net.quant("x")), net.const(np.arange(8) / 8192 * 5))
    token = net.const(np.arange(8).reshape(1, 1, 8) / 2048)
    x = net.op("Concat", token, net.quant(biased, 2**-11, bits=16), axis=1)
    output = net.quant(x, 2**-11, bits=16)
    network = exactly(net, output)
    assert isinstance(network.layers[0], Linear)
    assert np.any(network.layers[0].bias)
    assert np.all(network.inputs[0].gather[0] == -1)


def test_a_product_onto_an_embedding_without_a_table_keeps_the_stream() -> None:
    net = Net()
    stream = net.stream()
    x = net.quant(net.norm(stream), 1 / 32)
    added = net.op("Add", net.quant(net.linear(x), 2**-11, bits=16), stream)
    network = lower(net.workload(net.quant(added, 2**-11, bits=16)))
    embedding, _, product = network.layers
    assert isinstance(product, Linear)
    assert product.addend == embedding.target


def _two_scales(coarse: float) -> tuple[Net, str]:
    """A stream of 16 bits onto which a product of another scale is added."""
    net = Net()
    stream = net.stream()
    added = net.op("Add", stream, net.quant(net.linear(net.quant(net.norm(stream), 1 / 32)), coarse, bits=16))
    return net, net.quant(added, coarse, bits=16)


@pytest.mark.parametrize("factor", [1, 2, 256])
def test_residual_scales_within_a_factor_of_256_become_the_largest(factor: int) -> None:
    net, output = _two_scales(factor * 2**-11)
    workload = net.workload(output)
    made = lower_traced(workload)
    wide = [t for t in made.network.tensors.values() if t.bits == 16]
    assert {t.scale for t in wide} == {factor * 2**-11}
    assert any("residual scales" in note for note in made.network.notes) == (factor > 1)
    found = dict(workload.tensors(sample := net.sample()))[output]
    integers = run(made.network, sample)[made.network.outputs[0].source]
    assert np.abs(integers.reshape(found.shape) * factor * 2**-11 - found).max() <= 2 * factor * 2**-11


def test_residual_scales_further_apart_are_refused() -> None:
    net, output = _two_scales(257 * 2**-11)
    with pytest.raises(InputError, match=r"residual scales .*; legal: one, or within a factor of 256"):
        lower(net.workload(output))


@pytest.mark.parametrize("constant", [0.5, 3.0])
def test_a_model_input_times_a_constant_is_added_to(constant: float) -> None:
    """The constant goes into the scale with which the host writes the input."""
    net = Net()
    scaled = net.quant(net.op("Mul", "x", net.const(constant)), 2**-11, bits=16)
    added = net.op("Add", net.quant(net.linear(net.quant("x")), 2**-11, bits=16), scaled)
    network = exactly(net, net.quant(added, 2**-11, bits=16))
    (wide,) = [x for x in network.inputs if network.tensors[x.target].bits == 16]
    assert network.tensors[wide.target].scale == 2**-11 / constant


@pytest.mark.parametrize("where", ["before", "behind"])
def test_a_constant_per_column_times_an_input_in_the_stream_is_refused(where: str) -> None:
    net = Net()
    gains = net.const(np.arange(1, 9) / 8)
    if where == "before":
        scaled = net.quant(net.op("Mul", "x", gains), 2**-11, bits=16)
    else:
        scaled = net.op("Mul", net.quant("x", 2**-11, bits=16), gains)
    added = net.op("Add", net.quant(net.linear(net.quant("x")), 2**-11, bits=16), scaled)
    legal = {"before": "legal: one positive factor", "behind": "legal: added only"}[where]
    with pytest.raises(InputError, match=legal):
        lower(net.workload(net.quant(added, 2**-11, bits=16)))
