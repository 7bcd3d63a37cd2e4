import logging

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.flow.calibrate import Calibration, calibrated, described, is_float
from codesign.flow.deviation import BOUND
from codesign.frontend import zoo
from codesign.frontend.workload import from_proto
from codesign.quant.calibrate.ptq import Settings, SettingsChoice, calibrate, choices
from tests.quant.nets import Net
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


# Data and functions that do not work --------------------------------------------------------------


def _network(kind: str = "") -> bytes:
    net = Net()
    made = net.op("Add", net.op("MatMul", "x", net.const(net.weights(8, 8))), net.const(np.full(8, 0.1)))
    if kind:
        made = net.op(kind, made)
    output = net.op("MatMul", made, net.const(net.weights(8, 3)))
    return bytes(net.proto(output).SerializeToString())


_TYPICAL = np.random.default_rng(5).uniform(-1, 1, size=(12, 6, 8))


def _spoilt(value: float) -> NDArray[np.float64]:
    made = _TYPICAL.copy()
    made[2, 1, 3] = value
    return made


@pytest.mark.rtl
@pytest.mark.parametrize("data", [np.zeros((8, 6, 8)), np.full((8, 6, 8), 2.0), _spoilt(25.0)])
def test_data_without_a_range_are_warned_of(data: NDArray[np.float64]) -> None:
    found = calibrated(_network("Relu"), "net", {"x": data})
    assert found.deviation.warnings[0].startswith("calibration data of input x: ")
    assert (found.deviation.error > BOUND) == (len(found.deviation.warnings) == 2)


@pytest.mark.rtl
@pytest.mark.parametrize("value", [1e5, 1e9])
def test_an_outlier_that_takes_the_whole_range_is_refused_with_its_cause(value: float) -> None:
    with pytest.raises(InputError, match=r"legal: below 0\.5; calibration data of input x: an outlier of"):
        calibrated(_network("Relu"), "net", {"x": _spoilt(value)})


@pytest.mark.rtl
def test_typical_data_are_not_warned_of() -> None:
    found = calibrated(_network("Relu"), "net", {"x": _TYPICAL})
    assert found.deviation.warnings == ()
    assert found.deviation.error == found.choice.error < BOUND
    assert found.deviation.samples == "3 samples held back"


@pytest.mark.rtl
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Sqrt", "makes NaN of finite numbers"),
        ("Log", "makes NaN of finite numbers"),
        ("Reciprocal", "infinite or NaN at|explodes at"),
    ],
)
def test_a_function_that_no_integers_hold_is_refused_by_name(kind: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"net: node \w+ \({kind}\):? .*({reason})"):
        calibrated(_network(kind), "net", {"x": _TYPICAL})
