import logging

import numpy as np
import onnx
import pytest

from codesign.flow.calibrate import Calibration, calibrated, described, is_float
from codesign.frontend import zoo
from codesign.frontend.workload import from_proto
from codesign.quant.calibrate.ptq import Settings, SettingsChoice, calibrate, choices
from tests.quant.vits import Recipe, build, samples

FLOAT = Recipe(form="float")


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrated(build(FLOAT).SerializeToString(), "net", {"image": samples(FLOAT, 8)})


@pytest.mark.rtl
def test_the_file_is_that_of_the_chosen_settings(found: Calibration) -> None:
    model, images = build(FLOAT).SerializeToString(), {"image": samples(FLOAT, 8)}
    assert found.data == calibrate(model, images, settings=found.choice.settings, name="net")
    assert found.data == calibrate(model, images, name="net")  # which chooses the same
    assert found.workload.name == "net"
    assert not is_float(found.workload)


@pytest.mark.rtl
def test_the_choice_is_measured_on_samples_that_are_held_back(found: Calibration) -> None:
    assert (found.samples, found.choice.held) == (8, 2)
    assert found.choice.settings in choices()
    assert 0 < found.choice.error <= found.choice.plain_error


@pytest.mark.rtl
def test_it_tells_what_was_chosen_and_why(found: Calibration) -> None:
    document = found.to_json()
    assert document["text"] == found.text
    assert document["evidence"] == "modelled"
    assert document["settings"] == vars(found.choice.settings)
    for part in (
        "quantized with 8 samples",
        described(found.choice),
        "on 2 samples held back",
        "with the simplest way",
    ):
        assert part in found.text


def test_settings_in_words() -> None:
    def words(settings: Settings) -> str:
        return described(SettingsChoice(settings, 0.1, 0.2, 3))

    assert words(Settings("max", migrate=None, centre=False, correct=False)) == "scales from the largest magnitude"
    assert words(Settings("percentile", migrate=0.7, centre=True, correct=True)) == (
        "scales from the range that holds 99.999 % of the values, 70 % of the range of activations moved into weights,"
        " ranges shifted to their middle, biases corrected for the mean error"
    )


@pytest.mark.rtl
def test_progress_is_logged_for_every_way(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "codesign"):
        calibrated(build(FLOAT).SerializeToString(), "net", {"image": samples(FLOAT, 4)})
    lines = [record.getMessage() for record in caplog.records if "ways to quantize" in record.getMessage()]
    assert lines == [f"net: tried {n + 1} of {len(choices())} ways to quantize it" for n in range(len(choices()))]


def test_a_model_with_one_quantizer_is_no_float_model() -> None:
    assert is_float(from_proto(build(FLOAT)))
    for name in ("digits-mlp", "digits-vit"):
        assert not is_float(from_proto(onnx.load_model_from_string(zoo.original(name))))
    assert is_float(from_proto(onnx.load_model_from_string(zoo.original("digits-vit-float"))))


def test_the_float_model_that_ships_is_the_other_without_rounding() -> None:
    images, _ = zoo.heldout("digits-vit")
    rounded, floating = (zoo.load(name) for name in ("digits-vit", "digits-vit-float"))
    for image in images["image"][:3]:
        one, other = (m.evaluate({"image": image})["logits"] for m in (rounded, floating))  # type: ignore[union-attr]
        assert 0 < np.abs(one - other).max() < 0.5
