import io
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, from_proto, load_onnx, supported
from codesign.ir.network import Attention, Linear, Network, Norm, outputs, run
from codesign.numerics.fixed_point import quantize
from codesign.quant.lower.lowering import ACCUMULATOR_BITS, Lowered, lower, lower_traced, maxima
from tests.marks import few_fast
from tests.quant.vits import Recipe, build, lowered, random_network, recipe, samples

Floats = NDArray[np.float64]
SEEDS = range(24)


# Comparison with the float graph --------------------------------------------------------


def _expected(made: Lowered, values: Mapping[str, Floats]) -> dict[str, Floats]:
    """The float values that each integer tensor stands for."""
    return {
        name: np.where(source.index < 0, 0.0, values[source.tensor].reshape(-1)[source.index])
        for name, source in made.sources.items()
    }


def _cosines(workload: Workload, made: Lowered, sample: Mapping[str, Floats]) -> dict[str, float]:
    """Cosine between the integers of every tensor and the values they stand for."""
    expected = _expected(made, dict(workload.tensors(sample)))
    integers = run(made.network, sample)
    return {name: _cosine(integers[name].astype(np.float64), x) for name, x in expected.items()}


def _cosine(a: Floats, b: Floats) -> float:
    length = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / length if length else 1.0


def _unequal(workload: Workload, made: Lowered, sample: Mapping[str, Floats]) -> list[str]:
    """Linear layers which, given the file's integers, do not make the file's integers."""
    network = made.network
    values = _expected(made, dict(workload.tensors(sample)))
    integers = {n: quantize(x, network.tensors[n].scale, 16) for n, x in values.items()}
    integers.update({n: table.astype(np.int64) for n, table in network.constants.items()})
    linear = [x for x in network if isinstance(x, Linear)]
    layers = [x for x in linear if _on_grid(values[x.target], network.tensors[x.target].scale)]
    assert layers
    return [x.name for x in layers if not np.array_equal(x.golden(integers), integers[x.target])]


def _on_grid(x: Floats, scale: float) -> bool:
    """Whether the file itself quantizes these values."""
    return bool(np.all(x / scale == np.rint(x / scale)))


# The shipped models -----------------------------------------------------------------------


@cache
def _shipped(name: str) -> tuple[Workload, Lowered, NDArray[np.float32]]:
    workload = zoo.load(name)
    assert isinstance(workload, Workload)
    return workload, lower_traced(workload), zoo.heldout(name)[0]["image"]


def _reference(name: str) -> NDArray[np.int64]:
    """Integer logits of the quantized torch model."""
    file = resources.files("codesign") / "data" / "digits-logits.npz"
    with np.load(io.BytesIO(file.read_bytes())) as arrays:
        return np.asarray(arrays[name], np.int64)


def test_digits_vit_is_the_canonical_chain() -> None:
    network = _shipped("digits-vit")[1].network
    block = [Norm, Linear, Linear, Linear, Attention, Linear, Norm, Linear, Linear]
    assert [type(x) for x in network] == [Linear, *block * 4, Norm, Linear]
    embedding, norm = network.layers[0], network.layers[-2]
    assert isinstance(embedding, Linear)
    assert isinstance(norm, Norm)
    assert (norm.first_row, norm.rows) == (0, 1)
    assert embedding.addend in network.constants
    assert not np.any(embedding.bias)
    assert np.all(network.inputs[0].gather[0] == -1)
    assert sorted(network.inputs[0].gather[1:].ravel()) == list(range(64))
    assert {x.heads for x in network if isinstance(x, Attention)} == {4}
    assert sum(x.table is not None for x in network if isinstance(x, Linear)) == 4
    assert all(np.all(x.multiplier == 1 << 16) for x in network if isinstance(x, Linear))
    assert network.notes == ()


def test_digits_vit_makes_the_files_integers_between_nonlinear_functions() -> None:
    workload, made, images = _shipped("digits-vit")
    for image in images[:4]:
        assert _unequal(workload, made, {"image": image.astype(np.float64)}) == []


def test_digits_vit_is_close_to_float_in_every_tensor() -> None:
    workload, made, images = _shipped("digits-vit")
    for image in images[:4]:
        assert min(_cosines(workload, made, {"image": image.astype(np.float64)}).values()) >= 0.99


def _logits(network: Network, image: NDArray[np.float32]) -> list[int]:
    values = run(network, {network.inputs[0].name: image})
    return [int(v) for v in values[network.outputs[0].source][0]]


def test_digits_vit_equals_the_trained_integers() -> None:
    network, images = _shipped("digits-vit")[1].network, _shipped("digits-vit")[2]
    assert [_logits(network, x) for x in images[:20]] == _reference("vit")[:20].tolist()


@pytest.mark.slow
def test_digits_vit_equals_the_trained_integers_on_every_image() -> None:
    _, made, images = _shipped("digits-vit")
    got = np.array([_logits(made.network, x) for x in images])
    assert np.array_equal(got, _reference("vit"))
    assert np.mean(got.argmax(axis=1) == zoo.heldout("digits-vit")[1]) >= 0.965


@pytest.mark.parametrize("file", few_fast(["digits-mlp.onnx", "digits-mlp-qcdq.onnx"], 1))
def test_digits_mlp_equals_the_file_and_the_trained_integers_on_every_image(file: str) -> None:
    with resources.as_file(resources.files("codesign") / "data" / file) as path:
        workload = load_onnx(path)
    network, images = lower(workload), zoo.heldout("digits-mlp")[0]["image"]
    assert [type(x) for x in network] == [Linear] * 3
    assert [x.low for x in network if isinstance(x, Linear)] == [0, 0, -128]
    assert network.macs == workload.macs
    for image, expected in zip(images, _reference("mlp"), strict=True):
        assert _logits(network, image) == expected.tolist()
        sample = {"image": image.astype(np.float64)}
        assert np.array_equal(outputs(network, run(network, sample))["logits"], workload.evaluate(sample)["logits"][0])


# Random vision transformers ------------------------------------------------------------------


@pytest.mark.parametrize("seed", few_fast(SEEDS, 2))
def test_random_vision_transformers_stay_close_to_float(seed: int) -> None:
    chosen = recipe(seed)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 10)[8:]:
        cosines = _cosines(workload, made, {"image": sample})
        assert min(cosines.values()) >= 0.99, (chosen, cosines)
    kinds = Counter(type(x) for x in made.network)
    assert kinds[Attention] == chosen.depth
    assert kinds[Norm] == 2 * chosen.depth + 1
    assert kinds[Linear] == 6 * chosen.depth + 2


@pytest.mark.parametrize("seed", few_fast([s for s in SEEDS if recipe(s).exact], 2))
def test_power_of_two_transformers_make_the_files_integers(seed: int) -> None:
    chosen = recipe(seed)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 3):
        assert _unequal(workload, made, {"image": sample}) == []


def test_the_seeds_cover_every_spelling() -> None:
    drawn = [recipe(s) for s in SEEDS]
    assert {r.form for r in drawn} == {"quant", "qdq", "qcdq", "float"}
    assert {r.mask for r in drawn} == {"full", "causal", "sliding"}
    assert {r.qkv for r in drawn} == {"separate", "split", "gather"}
    assert {r.activation for r in drawn} == {"gelu", "erf", "tanh", "relu", "silu"}
    assert {r.scaling for r in drawn} == {"scores_mul", "scores_div", "query", "both"}
    assert len({(r.embedding, r.norm) for r in drawn}) == 4
    assert sum(r.exact for r in drawn) >= 5


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


def test_an_eight_bit_residual_stream_is_widened() -> None:
    chosen = Recipe(stream_bits=8, parts=False)
    workload, made = lowered(chosen)
    assert any("sixteenth" in note for note in made.network.notes)
    assert min(_cosines(workload, made, {"image": samples(chosen, 1)[0]}).values()) >= 0.99


def test_random_networks_need_no_calibration_of_the_caller() -> None:
    network, shape = random_network(1)
    assert network.inputs[0].shape == shape


def test_lowering_is_deterministic() -> None:
    first, second = (lowered(Recipe(seed=5))[1].network for _ in range(2))
    assert [x.name for x in first] == [x.name for x in second]
    for a, b in zip(first, second, strict=True):
        if isinstance(a, Linear) and isinstance(b, Linear):
            assert np.array_equal(a.weights, b.weights)
            assert np.array_equal(a.multiplier, b.multiplier)


# Post-norm transformers ------------------------------------------------------------------------


def _post(seed: int, **changes: Any) -> Recipe:
    return replace(recipe(seed), order="post", **changes)


@pytest.mark.parametrize("seed", few_fast(SEEDS, 2))
def test_random_post_norm_transformers_stay_close_to_float(seed: int) -> None:
    chosen = _post(seed)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 2):
        found = _cosines(workload, made, {"image": sample})
        assert min(found.values()) >= 0.98, {n: c for n, c in found.items() if c < 0.98}


@pytest.mark.parametrize("seed", few_fast(SEEDS, 2))
def test_power_of_two_post_norm_transformers_make_the_files_integers(seed: int) -> None:
    chosen = _post(seed, form="quant", scales="po2", parts=True, argument=True)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 2):
        assert _unequal(workload, made, {"image": sample}) == []


@pytest.mark.parametrize("parts", [True, False])
def test_an_eight_bit_post_norm_stream_is_widened(parts: bool) -> None:
    chosen = _post(2, form="quant", stream_bits=8, parts=parts)
    workload, made = lowered(chosen)
    assert any("sixteenth" in note for note in made.network.notes)
    assert min(_cosines(workload, made, {"image": samples(chosen, 1)[0]}).values()) >= 0.99


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


# Small graphs -----------------------------------------------------------------------------------


class _Net:
    """A small graph from ``x`` [1, 6, 8] to one output."""

    def __init__(self, *shape: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.shape = shape or (1, 6, 8)
        self.rng = np.random.default_rng(3)

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, domain=domain, **attributes))
        return name

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def quant(self, x: str, scale: object = 1 / 64, zero: float = 0.0, bits: int = 8, **attributes: Any) -> str:
        parameters = [self.const(v) for v in (scale, zero, bits)]
        settings = {"signed": 1, "narrow": 0, **attributes}
        return self.op("Quant", x, *parameters, domain="qonnx.custom_op.general", **settings)

    def weights(self, *shape: int) -> Floats:
        return np.asarray(self.rng.normal(size=shape) * 0.3)

    def linear(self, x: str, k: int = 8, n: int = 8) -> str:
        weight = self.quant(self.const(self.weights(k, n)), 1 / 128, narrow=1)
        return self.op("MatMul", x, weight)

    def norm(self, x: str, width: int = 8) -> str:
        return self.op("LayerNormalization", x, self.const(np.ones(width)), self.const(np.zeros(width)))

    def stream(self) -> str:
        return self.quant(self.linear(self.quant("x")), 2**-11, bits=16)

    def workload(self, output: str) -> Workload:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("qonnx.custom_op.general", 1)]
        return from_proto(helper.make_model(graph, opset_imports=opsets), "net")

    def sample(self) -> dict[str, Floats]:
        return {"x": self.rng.uniform(-1, 1, size=self.shape)}


def _exactly(net: _Net, output: str) -> Network:
    """Lower, and check that the output equals the file's."""
    workload = net.workload(output)
    made = lower_traced(workload)
    for _ in range(3):
        sample = net.sample()
        got = outputs(made.network, run(made.network, sample))[output]
        assert np.array_equal(got, workload.evaluate(sample)[output].reshape(got.shape))
    return made.network


def _hidden(net: _Net, final: bool) -> tuple[str, str]:
    """A post-norm block straight on the model's input."""
    added = net.op("Add", "x", net.linear(net.quant("x")))
    first = net.norm(added)
    return first, net.norm(net.op("Add", first, net.linear(net.quant(first)))) if final else first


@pytest.mark.parametrize("shape", [None, (6, 8)])
def test_a_model_input_is_multiplied_and_added_to(shape: tuple[int, ...] | None) -> None:
    net = _Net()
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
    assert min(_cosines(workload, made, net.sample()).values()) > 0.998


def test_some_rows_of_a_norm_are_computed() -> None:
    net = _Net()
    rows = net.op("Slice", net.norm(net.stream()), *(net.const([i], np.int64) for i in (3, 5, 1)))
    workload = net.workload(net.quant(net.linear(net.quant(rows)), 1 / 16))
    made = lower_traced(workload)
    (norm,) = [x for x in made.network if isinstance(x, Norm)]
    assert (norm.first_row, norm.rows) == (3, 2)
    assert min(_cosines(workload, made, net.sample()).values()) > 0.99


def test_what_ends_in_a_norm_that_is_multiplied_too_is_eight_bits() -> None:
    net = _Net()
    first, _ = _hidden(net, final=False)
    net.linear(net.quant(first))
    network = lower(net.workload(first), calibration={"x": np.stack([net.sample()["x"] for _ in range(4)])})
    assert network.tensors[network.outputs[0].source].bits == 8


def test_an_overlapping_padded_convolution_is_a_gather() -> None:
    net = _Net(1, 2, 5, 5)
    weight = net.quant(net.const(net.weights(6, 2, 3, 3)), np.full((6, 1, 1, 1), 1 / 128), narrow=1)
    made = net.op("Conv", net.quant("x"), weight, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    rows = net.op("Transpose", net.op("Reshape", made, net.const([1, 6, 9], np.int64)), perm=[0, 2, 1])
    network = _exactly(net, net.quant(rows, 1 / 16))
    assert network.inputs[0].gather.shape == (9, 18)
    assert np.any(network.inputs[0].gather == -1)


def test_a_pointwise_convolution_of_a_product_is_a_linear_layer() -> None:
    net = _Net()
    x = net.op("Transpose", net.quant(net.linear(net.quant("x")), 1 / 32), perm=[0, 2, 1])
    weight = net.quant(net.const(net.weights(5, 8, 1)), 1 / 128, narrow=1)
    made = net.op("Transpose", net.op("Conv", x, weight, kernel_shape=[1]), perm=[0, 2, 1])
    assert len(_exactly(net, net.quant(made, 1 / 16)).layers) == 2


def test_relu_without_a_quantizer_before_it_is_a_clamp() -> None:
    net = _Net()
    x = net.quant(net.op("Relu", net.linear(net.quant("x"))), 1 / 32)
    network = _exactly(net, net.quant(net.linear(x), 1 / 16))
    (first, _) = network.layers
    assert isinstance(first, Linear)
    assert (first.low, first.high, first.table) == (0, 127, None)


def test_a_function_after_a_quantizer_is_a_table() -> None:
    net = _Net()
    before = net.quant(net.linear(net.quant("x")), 1 / 32)
    cut = net.op("Clip", before, net.const(-0.5), net.const(1.0))
    x = net.quant(net.op("Mul", net.op("Tanh", cut), net.const(0.75)), 1 / 128)
    network = _exactly(net, net.quant(net.linear(x), 1 / 16))
    (first, _) = network.layers
    assert isinstance(first, Linear)
    assert first.table is not None
    assert int(first.table.max()) == round(0.75 * math.tanh(1.0) * 128)


def test_gains_and_batch_norm_fold_into_the_product() -> None:
    net = _Net(1, 8)
    made = net.op("Mul", net.linear(net.quant("x")), net.const([1, -2, 0.5, 4, 1, 1, -1, 1]))
    parameters = [net.const(v) for v in (np.full(8, 2.0), np.full(8, 0.25), np.full(8, 0.5), np.full(8, 0.25))]
    made = net.op("BatchNormalization", made, *parameters, epsilon=0.0)
    network = _exactly(net, net.quant(made, 1 / 16))
    assert len(network.layers) == 1


def test_a_class_token_gives_the_bias_of_a_quantized_embedding_back() -> None:
    net = _Net()
    biased = net.op("Add", net.linear(net.quant("x")), net.const(np.arange(8) / 8192 * 5))
    token = net.const(np.arange(8).reshape(1, 1, 8) / 2048)
    x = net.op("Concat", token, net.quant(biased, 2**-11, bits=16), axis=1)
    output = net.quant(x, 2**-11, bits=16)
    network = _exactly(net, output)
    assert isinstance(network.layers[0], Linear)
    assert np.any(network.layers[0].bias)
    assert np.all(network.inputs[0].gather[0] == -1)


def test_a_product_onto_an_embedding_without_a_table_keeps_the_stream() -> None:
    net = _Net()
    stream = net.stream()
    x = net.quant(net.norm(stream), 1 / 32)
    added = net.op("Add", net.quant(net.linear(x), 2**-11, bits=16), stream)
    network = lower(net.workload(net.quant(added, 2**-11, bits=16)))
    embedding, _, product = network.layers
    assert isinstance(product, Linear)
    assert product.addend == embedding.target


def test_unquantized_outputs_hold_every_result() -> None:
    net = _Net()
    network = lower(net.workload(net.linear(net.quant("x", 1 / 64))))
    tensor = network.tensors[network.outputs[0].source]
    assert tensor.bits == 16
    extreme = run(network, {"x": np.where(np.sign(net.weights(1, 6, 8)) > 0, 9.0, -9.0)})
    assert np.abs(extreme[tensor.name]).max() < 32767


def test_a_row_of_the_output_is_computed_alone() -> None:
    net = _Net()
    picked = net.op("Gather", net.quant(net.linear(net.quant("x")), 1 / 32), net.const(2, np.int64), axis=1)
    network = _exactly(net, picked)
    assert [x.rows for x in network if isinstance(x, Linear)] == [1]


def test_calibration_scales_are_the_largest_magnitudes_seen() -> None:
    net = _Net()
    made = net.op("Relu", net.op("MatMul", "x", net.const(net.weights(8, 4))))
    workload = net.workload(net.op("MatMul", made, net.const(net.weights(4, 3))))
    data = {"x": net.rng.uniform(-1, 1, size=(5, 6, 8))}
    seen = maxima(workload, data)
    assert seen["x"] == np.abs(data["x"]).max()
    network = lower(workload, calibration=data)
    assert network.tensors[network.inputs[0].target].scale == seen["x"] / 127
    assert all(np.abs(x.weights).max() == 127 for x in network if isinstance(x, Linear))


# Refusals ---------------------------------------------------------------------------------------------


def _asymmetric(net: _Net) -> str:
    return net.linear(net.quant("x", zero=3.0))


def _unsigned(net: _Net) -> str:
    x = net.quant(net.op("Relu", net.linear(net.quant("x"))), signed=0)
    return net.linear(x)


def _per_channel(net: _Net) -> str:
    return net.linear(net.quant("x", np.full(8, 1 / 64)))


def _computed_scale(net: _Net) -> str:
    scale = net.op("ReduceMax", net.op("Abs", "x"), keepdims=0)
    parameters = [net.const(0.0), net.const(8.0)]
    return net.linear(net.op("Quant", "x", scale, *parameters, domain="qonnx.custom_op.general"))


def _full_range_weights(net: _Net) -> str:
    weight = net.quant(net.const(np.full((8, 8), -9.0)), 1 / 128)
    return net.op("MatMul", net.quant("x"), weight)


def _scales_along_inputs(net: _Net) -> str:
    scale = np.where(np.arange(8) < 4, 1 / 64, 1 / 128).reshape(8, 1)
    return net.op("MatMul", net.quant("x"), net.quant(net.const(net.weights(8, 8)), scale, narrow=1))


def _mean_pool(net: _Net) -> str:
    pooled = net.op("ReduceMean", net.stream(), net.const([1], np.int64), keepdims=0)
    return net.linear(net.quant(pooled))


def _rearranged_norm(net: _Net) -> str:
    first = net.norm(net.stream())
    turned = net.op("Slice", first, *(net.const([i], np.int64) for i in (-1, -10, 1, -1)))
    return net.linear(net.quant(net.norm(net.op("Add", turned, net.linear(net.quant(first))))))


def _norm_plus_table(net: _Net) -> str:
    first = net.norm(net.stream())
    second = net.quant(net.op("Add", net.quant(first, bits=16), net.const(np.ones((1, 6, 8)))), bits=16)
    return net.linear(net.quant(net.norm(net.op("Add", second, net.linear(net.quant(first))))))


def _softmax_output(net: _Net) -> str:
    return net.op("Softmax", net.linear(net.quant("x")))


def _gated(net: _Net) -> str:
    x = net.quant("x")
    return net.linear(net.quant(net.op("Mul", net.linear(x), net.op("Sigmoid", net.linear(x)))))


def _constant(net: _Net) -> str:
    return net.op("Mul", net.const(np.ones(3)), net.const(np.ones(3)))


def _attend(net: _Net, *, bias: object = None, heads: int = 1) -> str:
    x = net.quant("x")
    q, k, v = (net.quant(net.linear(x), 1 / 32) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    if bias is not None:
        scores = net.op("Add", scores, net.const(bias))
    return net.linear(net.quant(net.op("MatMul", net.op("Softmax", scores), v)))


def _backward_mask(net: _Net) -> str:
    return _attend(net, bias=np.tril(np.full((6, 6), -1e9), -1))


def _scattered_mask(net: _Net) -> str:
    return _attend(net, bias=np.where((np.indices((6, 6)).sum(axis=0) % 2) == 0, 0.0, -1e9))


def _soft_bias(net: _Net) -> str:
    return _attend(net, bias=np.full((6, 6), 0.5))


def _plain_product(net: _Net) -> str:
    x = net.quant("x")
    product = net.op("MatMul", net.quant(net.linear(x)), net.op("Transpose", net.quant(net.linear(x)), perm=[0, 2, 1]))
    return net.linear(net.quant(product), 6)


def _wide_operand(net: _Net) -> str:
    return net.linear(net.quant(net.linear(net.quant("x")), 2**-11, bits=16))


def _sum_without_norm(net: _Net) -> str:
    stream = net.stream()
    added = net.op("Add", stream, net.quant(net.linear(net.quant(net.norm(stream))), 2**-11, bits=16))
    return net.linear(net.quant(added))


def _twice(net: _Net) -> str:
    return net.linear(net.quant(net.quant(net.linear(net.quant("x")), 1 / 32), 1 / 16))


def _mixed(net: _Net) -> str:
    x = net.quant(net.linear(net.quant("x")), 1 / 32)
    return net.linear(net.op("Reshape", x, net.const([1, 1, 48], np.int64)), 48)


def _deep_dot(net: _Net) -> str:
    weight = net.quant(net.const(np.full((9000, 4), 1.0)), 1 / 127, narrow=1)
    return net.op("MatMul", net.quant("x"), weight)


def _many_rows(net: _Net) -> str:
    return net.op("MatMul", net.const(np.ones((2, 3, 6))), "x")


def _pos_embedding_too_large(net: _Net) -> str:
    added = net.op("Add", net.stream(), net.const(np.arange(48).reshape(1, 6, 8) * 1000.0))
    return net.linear(net.quant(net.norm(net.quant(added, 2**-11, bits=16))))


def _scales_far_apart(net: _Net) -> str:
    stream = net.stream()
    added = net.op("Add", stream, net.quant(net.linear(net.quant(net.norm(stream))), 1.0, bits=16))
    return net.linear(net.quant(net.norm(added)))


def _half_norm(net: _Net) -> str:
    return net.linear(net.quant(net.norm(net.stream()), bits=4))


_Make = Callable[[_Net], str]
_REFUSED: dict[str, tuple[_Make, str, tuple[int, ...]]] = {
    "asymmetric": (_asymmetric, r"quant0 \(Quant\): zero point 3; legal: 0", ()),
    "unsigned": (_unsigned, r"range 0 to 255; legal: within -128 to 127", ()),
    "per channel": (_per_channel, r"8 activation scales; legal: one", ()),
    "computed scale": (_computed_scale, r"its scale, zero point or bit width is not constant", ()),
    "full range weights": (_full_range_weights, r"quantized weight -128; legal: -127 to 127", ()),
    "scales along inputs": (_scales_along_inputs, r"weight scales along the inputs; legal: per output channel", ()),
    "mean pooling": (_mean_pool, r"ReduceMean.* a mean outside a norm; use a class token", ()),
    "rearranged norm": (_rearranged_norm, r"a norm is rearranged in the residual stream", ()),
    "norm plus table": (_norm_plus_table, r"constants are joined or added to the residual stream", ()),
    "softmax output": (_softmax_output, r"Softmax.* legal: softmax\(q k\) v, and a model that ends in its logits", ()),
    "gated": (_gated, r"Mul.* multiplies two computed tensors", ()),
    "constant output": (_constant, r"output mul0 is constant", ()),
    "backward mask": (_backward_mask, r"a mask that is none of full, causal, sliding", ()),
    "scattered mask": (_scattered_mask, r"a mask that is none of full, causal, sliding", ()),
    "soft bias": (_soft_bias, r"an additive bias on scores; legal: 0 or below -1000", ()),
    "product of two": (_plain_product, r"multiplies two computed tensors outside attention", ()),
    "wide operand": (_wide_operand, r"16-bit values where a layer reads 8", ()),
    "sum without norm": (_sum_without_norm, r"a residual sum feeds a matrix product without a norm", ()),
    "twice": (_twice, r"quantized twice in a row with different scales", ()),
    "mixed rows": (_mixed, r"rows and columns are mixed by a reshape", ()),
    "accumulator": (_deep_dot, r"accumulators: matmul\d needs 2[89] bits; legal: at most 27", (1, 9000)),
    "batched constant": (_many_rows, r"its constant operand is not a matrix", (1, 6, 8)),
    "residual scales far apart": (_scales_far_apart, r"residual scales .*legal: one, or within a factor of 256", ()),
    "norm of four bits": (_half_norm, r"range -8 to 7 after a norm or attention; legal: -128 to 127", ()),
    "large table": (_pos_embedding_too_large, r"constants up to 47000 exceed 16 bits", ()),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_what_has_no_integer_layer_is_refused_in_one_line(case: str) -> None:
    make, expected, shape = _REFUSED[case]
    net = _Net(*shape)
    with pytest.raises(InputError) as caught:
        lower(net.workload(make(net)))
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_node_without_an_integer_layer_is_named_at_once() -> None:
    net = _Net()
    x = net.quant("x", zero=1.0)
    pooled = net.op("ReduceMean", net.linear(x), net.const([1], np.int64))
    gated = net.op("Mul", pooled, net.linear(x))
    with pytest.raises(InputError, match=r"3 nodes have no integer layer: reducemean.*; mul.*; quant0"):
        lower(net.workload(gated))


def test_tensors_without_a_scale_are_named_at_once() -> None:
    net = _Net()
    x = net.op("Tanh", net.op("MatMul", "x", net.const(net.weights(8, 8))))
    workload = net.workload(net.op("MatMul", x, net.const(net.weights(8, 8))))
    with pytest.raises(InputError, match=r"no quantizer for x, .*tanh1.*matmul0|no quantizer for tanh1, .*--calibrate"):
        lower(workload)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, "calibration arrays"),
        ({"y": np.zeros((2, 6, 8))}, "calibration arrays"),
        ({"x": np.zeros((0, 6, 8))}, "samples"),
        ({"x": np.float64(1)}, "samples"),
        ({"x": np.zeros((2, 6, 9))}, "legal: numbers of shape"),
        ({"x": np.full((2, 6, 8), np.inf)}, "finite"),
    ],
)
def test_bad_calibration_data_is_refused(data: Mapping[str, Floats], expected: str) -> None:
    net = _Net()
    workload = net.workload(net.op("MatMul", "x", net.const(net.weights(8, 8))))
    with pytest.raises(InputError, match=expected):
        lower(workload, calibration=data)


@pytest.mark.rtl
def test_damaged_graphs_end_in_a_network_or_in_one_line(rng: np.random.Generator) -> None:
    refused = 0
    for seed in range(40):
        chosen = replace(recipe(seed), width=8, heads=2, mlp=8, depth=1)
        model = build(chosen)
        for _ in range(int(rng.integers(1, 4))):
            _damage(model.graph, rng)
        message = _message(model, samples(chosen, 2))
        refused += bool(message)
        assert "\n" not in message
    assert refused > 10


def _damage(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Change an operator, an input, an attribute or a constant."""
    node = graph.node[int(rng.integers(len(graph.node)))]
    names = [name for n in graph.node for name in (*n.input, *n.output)]
    kind = int(rng.integers(4))
    if kind == 0:
        node.op_type = str(rng.choice(supported()))
    elif kind == 1 and node.input:
        node.input[int(rng.integers(len(node.input)))] = str(rng.choice([*names, ""]))
    elif kind == 2 and node.attribute:
        attribute = node.attribute[int(rng.integers(len(node.attribute)))]
        attribute.i = int(rng.integers(-3, 6))
        attribute.ints[:] = [int(rng.integers(-3, 6)) for _ in attribute.ints]
    elif kind == 3:
        constant = graph.initializer[int(rng.integers(len(graph.initializer)))]
        value = numpy_helper.to_array(constant).copy()
        value.flat[int(rng.integers(value.size))] = rng.choice([0, 1, 7, 100])
        constant.CopyFrom(numpy_helper.from_array(value, constant.name))


def _message(model: onnx.ModelProto, data: Floats) -> str:
    try:
        run(lower(from_proto(model), calibration={"image": data}), {"image": data[0]})
    except InputError as error:
        return str(error)
    return ""


def test_the_accumulator_limit_is_the_width_of_one_dsp() -> None:
    assert ACCUMULATOR_BITS == 27
