from dataclasses import replace

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.ir.network import Linear
from codesign.quant.lower.fidelity import cosine, cosines, local_cosines
from codesign.quant.lower.lowering import lower_traced
from tests.marks import few_fast
from tests.quant.nets import Net
from tests.quant.vits import Recipe, lowered, recipe, samples


@pytest.mark.parametrize("name", ["digits-vit", "digits-mlp"])
def test_every_layer_of_a_trained_model_is_close_to_float(name: str) -> None:
    workload = zoo.load(name)
    assert isinstance(workload, Workload)
    made = lower_traced(workload)
    images, _ = zoo.heldout(name)
    for index in (0, 7):
        found = cosines(workload, made, {key: array[index] for key, array in images.items()})
        assert set(found) == {layer.name for layer in made.network}
        assert min(found.values()) > 0.99


@pytest.mark.parametrize("seed", few_fast(range(6), 2))
@pytest.mark.parametrize("order", ["pre", "post"])
def test_figures_of_single_layers_do_not_add_up(order: str, seed: int) -> None:
    chosen = replace(recipe(seed), order=order, depth=2)
    workload, made = lowered(chosen)
    for sample in samples(chosen, 2):
        found = local_cosines(workload, made, {"image": sample})
        assert set(found) == {layer.name for layer in made.network}
        assert min(found.values()) > 0.997


def test_a_layer_that_is_wrong_is_the_only_one_that_is_named() -> None:
    workload, made = lowered(Recipe(seed=4, order="post", depth=2, width=32, heads=2))
    network = made.network
    wrong = [layer for layer in network if isinstance(layer, Linear)][8]
    layers = tuple(replace(wrong, weights=-wrong.weights) if layer is wrong else layer for layer in network)
    broken = replace(made, network=replace(network, layers=layers))
    sample = {"image": samples(Recipe(seed=4), 1)[0]}
    found = local_cosines(workload, broken, sample)
    assert [name for name, value in found.items() if value < 0.99] == [wrong.name]
    assert sum(value < 0.99 for value in cosines(workload, broken, sample).values()) > 1


def test_cosine() -> None:
    assert cosine(np.zeros(3), np.zeros(3)) == 1
    assert cosine(np.zeros(3), np.ones(3)) == 0
    assert cosine(np.array([1, 0]), np.array([0.0, 2.0])) == 0
    assert cosine(np.array([1, 2]), np.array([-1.0, -2.0])) == pytest.approx(-1)


def test_a_node_that_makes_nan_of_a_sample_is_named() -> None:
    net = Net()
    made = net.op("Sqrt", net.op("Add", net.linear(net.quant("x", 1 / 4)), net.const(np.full(8, 1e-3))))
    workload = net.workload(net.quant(made, 1 / 16))
    with pytest.raises(InputError, match=r"node sqrt\d+ \(Sqrt\)"):
        lower_traced(workload, calibration={"x": net.rng.uniform(-1, 1, size=(3, 6, 8))})
    plain = Net()
    log = plain.workload(plain.op("Log", plain.op("Add", plain.quant("x"), plain.const(0.5))))
    with pytest.raises(InputError, match=r"node log\d+ \(Log\) makes NaN of finite numbers"):
        log.evaluate({"x": np.full((1, 6, 8), -1.0)})
    assert np.isfinite(log.evaluate({"x": np.full((1, 6, 8), 1.0)})[log.nodes[-1].outputs[0]]).all()
