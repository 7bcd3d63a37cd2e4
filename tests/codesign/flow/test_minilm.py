from pathlib import Path

import numpy as np
import onnx
import pytest

from codesign import api as flow
from codesign.api import load
from codesign.errors import InputError, ToolError
from codesign.flow import minilm as encoder
from codesign.flow.minilm import encoder_file, encoder_inputs
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, from_proto
from codesign.ir.network import Network
from codesign.quant.calibrate import minilm
from codesign.quant.calibrate.ptq import calibrate
from codesign.quant.lower.lowering import lower
from codesign.sim.check import Sample
from codesign.target.design import Design
from tests.accelerators import SMALL_VIT, board, compiled, fitting, run_program
from tests.quant import berts


class _Counted:
    """Takes the place of the quantizer of a small encoder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        self.encoder = berts.encoder()
        monkeypatch.setattr(minilm, "load", lambda: self.encoder)
        monkeypatch.setattr(minilm, "quantized", self.quantized)

    def quantized(self, read: minilm.Encoder) -> bytes:
        self.made += 1
        return bytes(read.bert.onnx(minilm.TOKENS).SerializeToString())


def test_the_file_is_made_once_per_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _Counted(monkeypatch)
    first = encoder_file(tmp_path)
    assert encoder_file(tmp_path) == first
    assert counted.made == 1
    counted.encoder = berts.encoder(1)
    assert encoder_file(tmp_path) != first
    assert counted.made == 2
    assert [p.name for p in tmp_path.glob("*/*")] == ["minilm.onnx"] * 2


def test_what_failed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = _Counted(monkeypatch)

    def fails(_: minilm.Encoder) -> bytes:
        raise InputError("no")

    monkeypatch.setattr(minilm, "quantized", fails)
    with pytest.raises(InputError, match="no"):
        encoder_file(tmp_path)
    monkeypatch.setattr(minilm, "quantized", counted.quantized)
    encoder_file(tmp_path)
    assert counted.made == 1


def test_inputs_are_test_texts_in_an_order_that_the_seed_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    read = _Counted(monkeypatch).encoder
    _, texts = minilm.texts(read)
    assert np.array_equal(encoder_inputs(3), read.embedded(texts[:3]))
    assert np.array_equal(encoder_inputs(3, 5), encoder_inputs(3, 5))
    assert not np.array_equal(encoder_inputs(3, 5), encoder_inputs(3))
    for count in (0, len(texts) + 1):
        with pytest.raises(InputError, match=f"{count} samples; legal: 1 to {len(texts)}, the test texts of minilm"):
            encoder_inputs(count)


def test_the_encoder_is_a_model_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _Counted(monkeypatch)
    monkeypatch.setattr(encoder, "default_cache", lambda: tmp_path)
    workload = load("minilm")
    assert isinstance(workload, Workload)
    assert workload.name == "minilm"
    assert workload.inputs == {"embedded": (1, 32, 24)}
    assert "minilm" in {model.name for model in zoo.models()}


def test_without_the_extra_loading_is_a_missing_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "missing", lambda: ("tokenizers",))
    with pytest.raises(ToolError, match="model minilm needs tokenizers; install: pip install"):
        load("minilm")


def test_the_package_holds_no_file_of_the_encoder(tmp_path: Path) -> None:
    for refused in (zoo.load, zoo.original, zoo.heldout):
        with pytest.raises(InputError, match="model minilm is no file of this package"):
            refused("minilm")
    with pytest.raises(InputError, match="model minilm is no file of this package"):
        zoo.export("minilm", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_encoder_is_written_with_what_the_device_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = _Counted(monkeypatch).encoder
    monkeypatch.setattr(encoder, "default_cache", lambda: tmp_path / "cache")
    assert [model.name for model in flow.models("minilm", tmp_path / "out")] == ["minilm"]
    assert (tmp_path / "out" / "minilm.onnx").read_bytes() == encoder_file()
    inputs = np.load(tmp_path / "out" / "inputs.npy")
    assert inputs.dtype == np.float32
    assert np.allclose(inputs, read.embedded(minilm.texts(read)[1]), atol=1e-5)


def _integers(seed: int, tokens: int) -> tuple[Network, list[Sample]]:
    """A small encoder in integers, and what it gets for three texts."""
    model = berts.bert(seed)
    embedded = model.embedded(np.random.default_rng(seed).integers(0, 50, (19, tokens)))
    made = calibrate(model.onnx(tokens).SerializeToString(), {minilm.INPUT: embedded[3:]}, settings=minilm.SETTINGS)
    network = lower(from_proto(onnx.load_model_from_string(made), f"bert-{seed}"))
    return network, [{minilm.INPUT: x} for x in embedded[:3]]


@pytest.mark.rtl
def test_small_encoders_from_floats_equal_the_rtl() -> None:
    engines = {**SMALL_VIT, "vector": {**SMALL_VIT["vector"], "wide": 1}}
    made = [_integers(seed, tokens) for seed, tokens in ((0, 7), (1, 12))]
    design = fitting(Design(board(), engines, {}, 5), [network for network, _ in made])
    for network, samples in made:
        for outcome in run_program(compiled(design), design, network, samples):
            assert outcome.bits_equal
            assert outcome.simulated == outcome.modelled
