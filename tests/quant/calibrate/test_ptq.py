import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, from_proto
from codesign.ir.network import Linear, Norm, outputs, run
from codesign.quant.calibrate import ptq
from codesign.quant.calibrate.edit import forked
from codesign.quant.calibrate.migrate import migrated
from codesign.quant.calibrate.observe import Sample
from codesign.quant.calibrate.ptq import Settings, calibrate, choices, output_error
from codesign.quant.calibrate.ranges import Clip, Range, ranges
from codesign.quant.lower.lowering import each_sample, lower, unscaled
from tests.marks import few_fast
from tests.quant.vits import Recipe, build, recipe, samples

Floats = NDArray[np.float64]
PLAIN = Settings("max", migrate=None, centre=False, correct=False)
OUTLIERS = {1: 40.0, 6: 25.0}


def _float_recipe(seed: int) -> Recipe:
    return replace(recipe(seed), form="float")


def _images(chosen: Recipe, count: int = 12) -> dict[str, Floats]:
    return {"image": samples(chosen, count)}


def _parsed(data: bytes) -> onnx.ModelProto:
    return onnx.load_model_from_string(data)


def _quantizers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == "Quant"]


def _scales(model: onnx.ModelProto) -> list[Floats]:
    values = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    return [values[n.input[1]] for n in _quantizers(model)]


def _integer_error(model: onnx.ModelProto, made: bytes, images: dict[str, Floats]) -> float:
    """Squared error of the integer network's outputs against the float model's, relative."""
    workload, network = from_proto(model), lower(from_proto(_parsed(made)))
    error = power = 0.0
    for sample in each_sample(workload, images):
        got = outputs(network, run(network, sample))
        for name, value in workload.evaluate(sample).items():
            error += float(np.square(got[name].reshape(value.shape) - value).sum())
            power += float(np.square(value).sum())
    return error / power


def _with_outliers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with a few channels of every norm far larger than the rest."""
    tensors = {t.name: t for t in model.graph.initializer}
    makers = {n.output[0]: n for n in model.graph.node}

    def scaled(name: str, factor: NDArray[Any]) -> None:
        tensors[name].CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensors[name]) * factor), name))

    norms = [n for n in model.graph.node if n.op_type == "LayerNormalization"]
    for norm in norms:
        factor = np.ones(len(numpy_helper.to_array(tensors[norm.input[1]])), np.float32)
        factor[list(OUTLIERS)] = list(OUTLIERS.values())
        for name in norm.input[1:]:
            scaled(name, factor)
        for reader in (n for n in model.graph.node if norm.output[0] in n.input):
            weight = makers[reader.input[1]].input[0] if reader.op_type == "MatMul" else reader.input[1]
            scaled(weight, 1 / factor)
    return model


def _stripped(name: str) -> onnx.ModelProto:
    """A model that ships, without its quantizers: a trained float model."""
    model = _parsed(zoo.original(name))
    for node in model.graph.node:
        if node.op_type == "Quant":
            node.CopyFrom(helper.make_node("Identity", node.input[:1], node.output, node.name))
    return model


# What comes out ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", few_fast(range(10), 1))
def test_float_models_become_integers_that_are_close(seed: int) -> None:
    chosen = _float_recipe(seed)
    model, settings = build(chosen), choices()[seed % len(choices())]
    made = calibrate(model.SerializeToString(), _images(chosen), settings=settings)
    assert _integer_error(model, made, _images(chosen)) < 0.02


@pytest.mark.parametrize("seed", few_fast(range(4), 1))
def test_migration_keeps_the_float_function(seed: int) -> None:
    chosen = _float_recipe(seed)
    model = build(chosen)
    workload = from_proto(model)
    each = each_sample(workload, _images(chosen, 4))
    moved = migrated(model, workload, each, 0.6, True)
    assert len(moved.graph.node) > len(model.graph.node)
    assert output_error(workload, from_proto(moved), each) < 1e-11


@pytest.mark.parametrize("norm", ["whole", "decomposed"])
def test_migration_reaches_norms_attention_and_functions(norm: str) -> None:
    chosen = Recipe(form="float", norm=norm, width=32, heads=4)
    model = build(chosen)
    moved = migrated(model, from_proto(model), each_sample(from_proto(model), _images(chosen)), 0.5, True)
    added = [n.op_type for n in moved.graph.node]
    before = [n.op_type for n in model.graph.node]
    # Three norms, the values of attention, and the function.
    assert added.count("Sub") - before.count("Sub") == 5
    assert added.count("Mul") - before.count("Mul") == 4


@pytest.mark.rtl
def test_channels_that_stick_out_are_migrated() -> None:
    chosen = Recipe(form="float", width=32, heads=4, depth=2, mlp=64)
    model, images = _with_outliers(build(chosen)), _images(chosen, 16)
    data = model.SerializeToString()
    plain = _integer_error(model, calibrate(data, images, settings=PLAIN), images)
    moved = _integer_error(model, calibrate(data, images, settings=Settings(migrate=0.5)), images)
    chosen_error = _integer_error(model, calibrate(data, _images(chosen)), images)
    assert moved < plain / 20
    assert chosen_error < plain / 20


def test_every_scale_can_be_a_power_of_two() -> None:
    chosen = Recipe(form="float")
    made = calibrate(
        build(chosen).SerializeToString(), _images(chosen), settings=Settings("percentile", power_of_two=True)
    )
    assert all(np.all(np.frexp(scale)[0] == 0.5) for scale in _scales(_parsed(made)))
    assert _integer_error(build(chosen), made, _images(chosen)) < 0.02


def _as_quantized(layer: Linear, top: int) -> NDArray[np.int64]:
    """Weights before lowering multiplied channels by powers of two for the sake of their biases."""
    made = layer.weights.astype(np.int64)
    while np.any(grown := np.abs(made).max(axis=1) > top):
        assert not np.any(made[grown] % 2)
        made = np.where(grown[:, None], made // 2, made)
    return made


@pytest.mark.rtl
def test_weights_are_narrow_per_channel_and_of_the_chosen_width() -> None:
    chosen = Recipe(form="float")
    for bits, top in ((8, 127), (4, 7)):
        made = calibrate(build(chosen).SerializeToString(), _images(chosen), settings=Settings(weight_bits=bits))
        network = lower(from_proto(_parsed(made)))
        weights = [_as_quantized(layer, top) for layer in network if isinstance(layer, Linear)]
        assert max(int(np.abs(w.astype(np.int64)).max()) for w in weights) == top
        sizes = [s.size for s in _scales(_parsed(made)) if s.size > 1]
        assert sorted(sizes) == sorted(len(w) for w in weights)


@pytest.mark.parametrize("bits", few_fast([8, 4], 1))
def test_weights_in_the_file_are_the_integers_of_the_network(bits: int) -> None:
    chosen = _float_recipe(3)
    made = _parsed(calibrate(build(chosen).SerializeToString(), _images(chosen), settings=Settings(weight_bits=bits)))
    values = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in made.graph.initializer}
    weights = [values[n.input[0]] / values[n.input[1]] for n in _quantizers(made) if n.input[0] in values]
    found = np.concatenate([x.reshape(-1) for x in weights])
    network, top = lower(from_proto(made)), (1 << (bits - 1)) - 1
    layers = [_as_quantized(layer, top).reshape(-1) for layer in network if isinstance(layer, Linear)]
    assert np.abs(found - np.rint(found)).max() < 1e-4
    assert np.array_equal(np.sort(np.rint(found)), np.sort(np.concatenate(layers)))


@pytest.mark.rtl
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_quantized_too(dtype: type) -> None:
    chosen = Recipe(form="float")
    model = build(chosen)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = calibrate(model.SerializeToString(), _images(chosen), settings=Settings("percentile"))
    assert _integer_error(model, made, _images(chosen)) < 0.02


@pytest.mark.rtl
def test_4_bit_weights_are_clipped_where_that_is_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Recipe(form="float", width=32, heads=4, depth=2, mlp=64)
    model, images, settings = build(chosen), _images(chosen), replace(PLAIN, weight_bits=4)
    clipped = _integer_error(model, calibrate(model.SerializeToString(), images, settings=settings), images)
    monkeypatch.setattr(ptq, "_shares", lambda settings: (1.0,))
    whole = _integer_error(model, calibrate(model.SerializeToString(), images, settings=settings), images)
    assert clipped < 0.8 * whole


@pytest.mark.parametrize("order", few_fast(["pre", "post"], 1))
def test_nothing_of_the_residual_stream_is_cut_off(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str] = {}

    def spy(workload: Workload, each: Sequence[Sample], clips: Mapping[str, Clip]) -> dict[str, Range]:
        asked.update(clips)
        return ranges(workload, each, clips)

    monkeypatch.setattr(ptq, "ranges", spy)
    chosen = Recipe(form="float", order=order)
    calibrate(build(chosen).SerializeToString(), _images(chosen, 4), settings=replace(PLAIN, clip="percentile"))
    model = build(chosen)
    narrow, wide = unscaled(from_proto(forked(model, from_proto(model))))
    assert wide
    assert {asked[name] for name in wide} == {"max"}
    assert {asked[name] for name in narrow} == {"percentile"}


def test_the_residual_stream_has_16_bits_and_one_scale() -> None:
    chosen = Recipe(form="float", depth=2)
    network = lower(from_proto(_parsed(calibrate(build(chosen).SerializeToString(), _images(chosen), settings=PLAIN))))
    streams = [network.tensors[layer.source] for layer in network if isinstance(layer, Norm)]
    assert {t.bits for t in streams} == {16}
    assert len({t.scale for t in streams}) == 1


@pytest.mark.rtl
def test_the_same_samples_give_the_same_bytes() -> None:
    chosen = Recipe(form="float")
    data = build(chosen).SerializeToString()
    assert calibrate(data, _images(chosen, 4)) == calibrate(data, _images(chosen, 4))


@pytest.mark.parametrize("form", ["quant", "qdq"])
def test_quantizers_of_the_file_stay(form: str) -> None:
    chosen = Recipe(form=form)
    model = build(chosen)
    made = _parsed(calibrate(model.SerializeToString(), _images(chosen), settings=PLAIN))
    sample = {"image": samples(chosen, 1)[0]}
    before, after = (lower(from_proto(m)) for m in (model, made))
    assert [t.scale for t in before.tensors.values()] == [t.scale for t in after.tensors.values()]
    first, second = (next(iter(outputs(n, run(n, sample)).values())) for n in (before, after))
    assert np.array_equal(first, second)


def test_a_symbolic_batch_stays() -> None:
    chosen = Recipe(form="float", symbolic_batch=True)
    made = _parsed(calibrate(build(chosen).SerializeToString(), _images(chosen), settings=PLAIN))
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.rtl
def test_external_data_becomes_part_of_the_model(tmp_path: Path) -> None:
    chosen = Recipe(form="float")
    path = tmp_path / "m.onnx"
    onnx.save_model(build(chosen), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    made = calibrate(path.read_bytes(), _images(chosen), settings=PLAIN, folder=tmp_path)
    inside = calibrate(build(chosen).SerializeToString(), _images(chosen), settings=PLAIN)
    sample = {"image": samples(chosen, 1)[0]}
    first, second = (next(iter(from_proto(_parsed(data)).evaluate(sample).values())) for data in (made, inside))
    assert np.array_equal(first, second)


# Post-norm transformers -------------------------------------------------------------------


def _post_recipe(seed: int) -> Recipe:
    return replace(_float_recipe(seed), order="post")


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(12))
def test_float_post_norm_models_become_integers_that_are_close(seed: int) -> None:
    chosen = _post_recipe(seed)
    model, settings = build(chosen), choices()[seed % len(choices())]
    made = calibrate(model.SerializeToString(), _images(chosen), settings=settings)
    assert _integer_error(model, made, _images(chosen)) < 0.02


@pytest.mark.parametrize("seed", few_fast(range(6), 2))
def test_branches_and_their_migration_keep_the_float_function(seed: int) -> None:
    chosen = _post_recipe(seed)
    model = build(chosen)
    workload = from_proto(model)
    branched = forked(model, workload)
    assert [n.op_type for n in branched.graph.node].count("Identity") == 2 * 2 * chosen.depth
    each = each_sample(workload, _images(chosen, 4))
    assert output_error(workload, from_proto(branched), each) == 0
    moved = migrated(branched, from_proto(branched), each, 0.6, True)
    assert output_error(workload, from_proto(moved), each) < 1e-11


@pytest.mark.rtl
def test_only_what_products_read_is_migrated() -> None:
    chosen = replace(Recipe(form="float", width=32, heads=4, depth=2, mlp=64), order="post")
    model, images = build(chosen), _images(chosen, 16)
    plain, moved = (
        lower(from_proto(_parsed(calibrate(model.SerializeToString(), images, settings=s))))
        for s in (PLAIN, Settings(migrate=0.7))
    )
    before, after = ([x for x in n if isinstance(x, Norm)] for n in (plain, moved))
    assert [x.bits for x in before] == [x.bits for x in after]
    for a, b in zip(before, after, strict=True):
        ratio = a.gain * 2.0**-a.shift / (b.gain * 2.0**-b.shift)
        assert (np.ptp(ratio) < 0.01 * ratio.mean()) == (a.bits == 16)


def test_pre_norm_models_have_no_branches() -> None:
    for seed in range(4):
        model = build(_float_recipe(seed))
        assert forked(model, from_proto(model)).SerializeToString() == model.SerializeToString()


@pytest.mark.rtl
@pytest.mark.parametrize("order", ["pre", "post"])
def test_migration_helps_in_either_order(order: str) -> None:
    chosen = Recipe(form="float", width=32, heads=4, depth=2, mlp=64, order=order)
    model, images = build(chosen), _images(chosen, 16)
    plain = _integer_error(model, calibrate(model.SerializeToString(), images, settings=PLAIN), images)
    made = _integer_error(model, calibrate(model.SerializeToString(), images, settings=Settings(migrate=0.7)), images)
    assert made < plain


# Trained models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least"), [("digits-mlp", 0.97), pytest.param("digits-vit", 0.98, marks=pytest.mark.rtl)]
)
def test_trained_float_models_keep_their_accuracy(name: str, least: float) -> None:
    model = _stripped(name)
    inputs, labels = zoo.heldout(name)
    made = calibrate(model.SerializeToString(), {"image": inputs["image"][:32]}, settings=Settings(migrate=0.5))
    onnx.checker.check_model(_parsed(made))
    workload, network = from_proto(model), lower(from_proto(_parsed(made)))
    right = agree = 0
    for image, label in zip(inputs["image"][200:300], labels[200:300], strict=True):
        integer = next(iter(outputs(network, run(network, {"image": image})).values()))
        exact = next(iter(workload.evaluate({"image": image}).values()))
        right += int(integer.argmax() == label)
        agree += int(integer.argmax() == exact.argmax())
    assert right / 100 >= least
    assert agree / 100 >= 0.98


# Misuse -----------------------------------------------------------------------------------


def test_bad_input_is_refused_in_one_line() -> None:
    chosen = Recipe(form="float")
    data = build(chosen).SerializeToString()
    with pytest.raises(InputError, match="not an ONNX file"):
        calibrate(b"\x08\xff\xff", _images(chosen))
    with pytest.raises(InputError, match=r"calibration arrays \['x'\]; legal: \['image'\]"):
        calibrate(data, {"x": samples(chosen, 2)})
    with pytest.raises(InputError, match="at least 1"):
        calibrate(data, {"image": samples(chosen, 1)[:0]})
    with pytest.raises(InputError, match="legal: numbers of shape"):
        calibrate(data, {"image": np.zeros((2, 3))})
    with pytest.raises(InputError, match="NaN or infinity"):
        calibrate(data, {"image": samples(chosen, 2) * math.nan}, settings=PLAIN)


def test_a_model_without_integer_layers_is_refused() -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], "top")
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, (1, 4)) for n in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]))
    with pytest.raises(InputError, match=r"legal"):
        calibrate(model.SerializeToString(), {"x": np.ones((2, 4))}, settings=PLAIN)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="migrate is 2"):
        Settings(migrate=2.0)
    with pytest.raises(ValueError, match="weight_bits is 5"):
        Settings(weight_bits=5)
