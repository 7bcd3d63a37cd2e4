import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.flow.deviation import BOUND, Deviation, data_faults, measured, worst_layer
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.quant.lower.lowering import lower
from tests.quant.nets import Net

Floats = NDArray[np.float64]


def test_a_trained_model_is_within_the_bound() -> None:
    workload = zoo.load("digits-vit")
    assert isinstance(workload, Workload)
    images = zoo.heldout("digits-vit")[0]["image"][:3]
    found = measured(workload, lower(workload), [{"image": image} for image in images], "3 held-out samples")
    assert 0 < found.error < BOUND / 10
    assert found.text == f"{found.error:.2g} of the outputs' squares against the model, 3 held-out samples"
    assert found.judged("nothing") == found


def test_the_error_is_that_of_the_outputs() -> None:
    net = Net()
    workload = net.workload(net.quant(net.linear(net.quant("x")), 1 / 16))
    network = lower(workload)
    sample = net.sample()
    assert measured(workload, network, [sample], "one").error == 0
    other = Net()
    twice = other.workload(other.quant(other.op("Mul", other.linear(other.quant("x")), other.const(2.0)), 1 / 16))
    wrong = measured(_renamed(workload, twice), network, [sample], "one").error
    assert wrong == pytest.approx(0.25, rel=0.02)  # half of every value, squared


def _renamed(workload: Workload, other: Workload) -> Workload:
    """Another model with the output's name of the first."""
    (old,), (new,) = other.outputs, workload.outputs
    nodes = [n if old not in n.outputs else type(n)(n.op, n.name, n.inputs, (new,), n.attributes) for n in other.nodes]
    return Workload(other.name, tuple(nodes), other.constants, other.inputs, {new: other.outputs[old]}, other.shapes)


@pytest.mark.parametrize(("error", "warned"), [(0.0, False), (BOUND, False), (BOUND * 1.01, True), (3.0, True)])
def test_an_error_above_the_bound_is_a_warning_that_says_what_to_do(error: float, warned: bool) -> None:
    found = Deviation(error, "2 samples", ("a fault",)).judged("do this")
    assert len(found.warnings) == 1 + warned
    assert found.to_json()["warnings"] == list(found.warnings)
    if warned:
        assert found.warnings[1].startswith(f"squared error of the outputs {error:.2g} of their squares; legal: 0.02;")
        assert found.warnings[1].endswith("; do this")


def test_the_worst_layer_is_named_with_its_cosine() -> None:
    net = Net()
    coarse = net.quant(net.linear(net.quant("x")), 1 / 16)
    workload = net.workload(net.quant(net.linear(coarse), 1 / 16))
    assert worst_layer(workload, net.sample(), None) in {
        f"layer {layer.name} is worst, cosine 1.0000" for layer in lower(workload).layers
    }


_RNG = np.random.default_rng(0)
_GOOD = _RNG.normal(size=(8, 4, 6))


def _with(value: float, count: int = 1) -> Floats:
    made = _GOOD.copy()
    made.reshape(-1)[:count] = value
    return made


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (np.zeros((5, 3)), "every value of 5 samples is 0"),
        (np.full((5, 3), -2.5), "every value of 5 samples is -2.5"),
        (np.broadcast_to(np.arange(6.0), (4, 6)), "all 4 samples are equal"),
        (_with(1e6), "an outlier of 1e+06"),
        (_with(-300.0), "an outlier of 300"),
        (np.arange(6.0)[None], ""),
        (_GOOD, ""),
        (_GOOD * 1e-9, ""),
        (np.clip(_RNG.standard_cauchy(size=(64, 50)), -20, 20), ""),
        (_RNG.integers(0, 2, size=(8, 30)), ""),
        (np.eye(12), ""),
    ],
)
def test_data_without_a_range_are_named(data: Floats, fault: str) -> None:
    found = data_faults({"good": _GOOD, "x": data})
    assert len(found) == bool(fault)
    assert all(text.startswith(f"calibration data of input x: {fault}") for text in found)
    assert all(text.endswith("; legal: 32 to 256 typical samples") for text in found)
