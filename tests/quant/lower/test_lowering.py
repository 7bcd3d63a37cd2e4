import io
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, from_proto, load_onnx
from codesign.ir.network import Attention, Linear, Network, Norm, outputs, run
from codesign.quant.lower.grids import ACCUMULATOR_BITS
from codesign.quant.lower.lowering import Lowered, lower, lower_traced, maxima
from tests.marks import few_fast
from tests.quant.nets import Floats, Net, cosines, damage, exactly, unequal
from tests.quant.vits import Recipe, build, lowered, random_network, recipe, samples

SEEDS = range(24)


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
        assert unequal(workload, made, {"image": image.astype(np.float64)}) == []


def test_digits_vit_is_close_to_float_in_every_tensor() -> None:
    workload, made, images = _shipped("digits-vit")
    for image in images[:4]:
        assert min(cosines(workload, made, {"image": image.astype(np.float64)}).values()) >= 0.99


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
        found = cosines(workload, made, {"image": sample})
        assert min(found.values()) >= 0.99, (chosen, found)
    kinds = Counter(type(x) for x in made.network)
    assert kinds[Attention] == chosen.depth
    assert kinds[Norm] == 2 * chosen.depth + 1
    assert kinds[Linear] == 6 * chosen.depth + 2


@pytest.mark.parametrize("seed", few_fast([s for s in SEEDS if recipe(s).exact], 2))
def test_power_of_two_transformers_make_the_files_integers(seed: int) -> None:
    chosen = recipe(seed)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 3):
        assert unequal(workload, made, {"image": sample}) == []


def test_the_seeds_cover_every_spelling() -> None:
    drawn = [recipe(s) for s in SEEDS]
    assert {r.form for r in drawn} == {"quant", "qdq", "qcdq", "float"}
    assert {r.mask for r in drawn} == {"full", "causal", "sliding"}
    assert {r.qkv for r in drawn} == {"separate", "split", "gather"}
    assert {r.activation for r in drawn} == {"gelu", "erf", "tanh", "relu", "silu"}
    assert {r.scaling for r in drawn} == {"scores_mul", "scores_div", "query", "both"}
    assert len({(r.embedding, r.norm) for r in drawn}) == 4
    assert sum(r.exact for r in drawn) >= 5


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


# Small graphs -----------------------------------------------------------------------------------


def test_gains_and_batch_norm_fold_into_the_product() -> None:
    net = Net(1, 8)
    made = net.op("Mul", net.linear(net.quant("x")), net.const([1, -2, 0.5, 4, 1, 1, -1, 1]))
    parameters = [net.const(v) for v in (np.full(8, 2.0), np.full(8, 0.25), np.full(8, 0.5), np.full(8, 0.25))]
    made = net.op("BatchNormalization", made, *parameters, epsilon=0.0)
    network = exactly(net, net.quant(made, 1 / 16))
    assert len(network.layers) == 1


def test_unquantized_outputs_hold_every_result() -> None:
    net = Net()
    network = lower(net.workload(net.linear(net.quant("x", 1 / 64))))
    tensor = network.tensors[network.outputs[0].source]
    assert tensor.bits == 16
    extreme = run(network, {"x": np.where(np.sign(net.weights(1, 6, 8)) > 0, 9.0, -9.0)})
    assert np.abs(extreme[tensor.name]).max() < 32767


def test_a_row_of_the_output_is_computed_alone() -> None:
    net = Net()
    picked = net.op("Gather", net.quant(net.linear(net.quant("x")), 1 / 32), net.const(2, np.int64), axis=1)
    network = exactly(net, picked)
    assert [x.rows for x in network if isinstance(x, Linear)] == [1]


def test_calibration_scales_are_the_largest_magnitudes_seen() -> None:
    net = Net()
    made = net.op("Relu", net.op("MatMul", "x", net.const(net.weights(8, 4))))
    workload = net.workload(net.op("MatMul", made, net.const(net.weights(4, 3))))
    data = {"x": net.rng.uniform(-1, 1, size=(5, 6, 8))}
    seen = maxima(workload, data)
    assert seen["x"] == np.abs(data["x"]).max()
    network = lower(workload, calibration=data)
    assert network.tensors[network.inputs[0].target].scale == seen["x"] / 127
    assert all(np.abs(x.weights).max() == 127 for x in network if isinstance(x, Linear))


# Refusals ---------------------------------------------------------------------------------------------


def _asymmetric(net: Net) -> str:
    return net.linear(net.quant("x", zero=3.0))


def _unsigned(net: Net) -> str:
    x = net.quant(net.op("Relu", net.linear(net.quant("x"))), signed=0)
    return net.linear(x)


def _per_channel(net: Net) -> str:
    return net.linear(net.quant("x", np.full(8, 1 / 64)))


def _computed_scale(net: Net) -> str:
    scale = net.op("ReduceMax", net.op("Abs", "x"), keepdims=0)
    parameters = [net.const(0.0), net.const(8.0)]
    return net.linear(net.op("Quant", "x", scale, *parameters, domain="qonnx.custom_op.general"))


def _full_range_weights(net: Net) -> str:
    weight = net.quant(net.const(np.full((8, 8), -9.0)), 1 / 128)
    return net.op("MatMul", net.quant("x"), weight)


def _scales_along_inputs(net: Net) -> str:
    scale = np.where(np.arange(8) < 4, 1 / 64, 1 / 128).reshape(8, 1)
    return net.op("MatMul", net.quant("x"), net.quant(net.const(net.weights(8, 8)), scale, narrow=1))


def _mean_pool(net: Net) -> str:
    pooled = net.op("ReduceMean", net.stream(), net.const([1], np.int64), keepdims=0)
    return net.linear(net.quant(pooled))


def _rearranged_norm(net: Net) -> str:
    first = net.norm(net.stream())
    turned = net.op("Slice", first, *(net.const([i], np.int64) for i in (-1, -10, 1, -1)))
    return net.linear(net.quant(net.norm(net.op("Add", turned, net.linear(net.quant(first))))))


def _norm_plus_table(net: Net) -> str:
    first = net.norm(net.stream())
    second = net.quant(net.op("Add", net.quant(first, bits=16), net.const(np.ones((1, 6, 8)))), bits=16)
    return net.linear(net.quant(net.norm(net.op("Add", second, net.linear(net.quant(first))))))


def _softmax_output(net: Net) -> str:
    return net.op("Softmax", net.linear(net.quant("x")))


def _gated(net: Net) -> str:
    x = net.quant("x")
    return net.linear(net.quant(net.op("Mul", net.linear(x), net.op("Sigmoid", net.linear(x)))))


def _constant(net: Net) -> str:
    return net.op("Mul", net.const(np.ones(3)), net.const(np.ones(3)))


def _attend(net: Net, *, bias: object = None, heads: int = 1) -> str:
    x = net.quant("x")
    q, k, v = (net.quant(net.linear(x), 1 / 32) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    if bias is not None:
        scores = net.op("Add", scores, net.const(bias))
    return net.linear(net.quant(net.op("MatMul", net.op("Softmax", scores), v)))


def _backward_mask(net: Net) -> str:
    return _attend(net, bias=np.tril(np.full((6, 6), -1e9), -1))


def _scattered_mask(net: Net) -> str:
    return _attend(net, bias=np.where((np.indices((6, 6)).sum(axis=0) % 2) == 0, 0.0, -1e9))


def _soft_bias(net: Net) -> str:
    return _attend(net, bias=np.full((6, 6), 0.5))


def _plain_product(net: Net) -> str:
    x = net.quant("x")
    product = net.op("MatMul", net.quant(net.linear(x)), net.op("Transpose", net.quant(net.linear(x)), perm=[0, 2, 1]))
    return net.linear(net.quant(product), 6)


def _wide_operand(net: Net) -> str:
    return net.linear(net.quant(net.linear(net.quant("x")), 2**-11, bits=16))


def _sum_without_norm(net: Net) -> str:
    stream = net.stream()
    added = net.op("Add", stream, net.quant(net.linear(net.quant(net.norm(stream))), 2**-11, bits=16))
    return net.linear(net.quant(added))


def _twice(net: Net) -> str:
    return net.linear(net.quant(net.quant(net.linear(net.quant("x")), 1 / 32), 1 / 16))


def _mixed(net: Net) -> str:
    x = net.quant(net.linear(net.quant("x")), 1 / 32)
    return net.linear(net.op("Reshape", x, net.const([1, 1, 48], np.int64)), 48)


def _deep_dot(net: Net) -> str:
    weight = net.quant(net.const(np.full((9000, 4), 1.0)), 1 / 127, narrow=1)
    return net.op("MatMul", net.quant("x"), weight)


def _many_rows(net: Net) -> str:
    return net.op("MatMul", net.const(np.ones((2, 3, 6))), "x")


def _pos_embedding_too_large(net: Net) -> str:
    added = net.op("Add", net.stream(), net.const(np.arange(48).reshape(1, 6, 8) * 1000.0))
    return net.linear(net.quant(net.norm(net.quant(added, 2**-11, bits=16))))


def _scales_far_apart(net: Net) -> str:
    stream = net.stream()
    added = net.op("Add", stream, net.quant(net.linear(net.quant(net.norm(stream))), 1.0, bits=16))
    return net.linear(net.quant(net.norm(added)))


def _half_norm(net: Net) -> str:
    return net.linear(net.quant(net.norm(net.stream()), bits=4))


_Make = Callable[[Net], str]
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
    net = Net(*shape)
    with pytest.raises(InputError) as caught:
        lower(net.workload(make(net)))
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_node_without_an_integer_layer_is_named_at_once() -> None:
    net = Net()
    x = net.quant("x", zero=1.0)
    pooled = net.op("ReduceMean", net.linear(x), net.const([1], np.int64))
    gated = net.op("Mul", pooled, net.linear(x))
    with pytest.raises(InputError, match=r"3 nodes have no integer layer: reducemean.*; mul.*; quant0"):
        lower(net.workload(gated))


def test_tensors_without_a_scale_are_named_at_once() -> None:
    net = Net()
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
    net = Net()
    workload = net.workload(net.op("MatMul", "x", net.const(net.weights(8, 8))))
    with pytest.raises(InputError, match=expected):
        lower(workload, calibration=data)


@pytest.mark.parametrize(("kind", "value"), [("Sqrt", "NaN"), ("Log", "NaN"), ("Reciprocal", "infinity")])
def test_a_node_that_makes_nan_or_infinity_in_calibration_is_named(kind: str, value: str) -> None:
    net = Net()
    made = net.op(kind, net.op("MatMul", "x", net.const(net.weights(8, 8))))
    workload = net.workload(net.op("MatMul", made, net.const(net.weights(8, 3))))
    data = {"x": net.rng.uniform(-1, 1, size=(5, 6, 8)) if value == "NaN" else np.zeros((2, 6, 8))}
    with pytest.raises(InputError, match=rf"^net: node \w+ \({kind}\) makes {value} of finite numbers"):
        lower(workload, calibration=data)


@pytest.mark.rtl
def test_damaged_graphs_end_in_a_network_or_in_one_line(rng: np.random.Generator) -> None:
    refused = 0
    for seed in range(40):
        chosen = replace(recipe(seed), width=8, heads=2, mlp=8, depth=1)
        model = build(chosen)
        for _ in range(int(rng.integers(1, 4))):
            damage(model.graph, rng)
        message = _message(model, samples(chosen, 2))
        refused += bool(message)
        assert "\n" not in message
    assert refused > 10


def _message(model: onnx.ModelProto, data: Floats) -> str:
    try:
        run(lower(from_proto(model), calibration={"image": data}), {"image": data[0]})
    except InputError as error:
        return str(error)
    return ""


def test_the_accumulator_limit_is_the_width_of_one_dsp() -> None:
    assert ACCUMULATOR_BITS == 27
