import numpy as np
import pytest

from codesign import models
from codesign.quant.fidelity import cosine, cosines
from codesign.quant.lower import lower_traced
from codesign.workload import Workload


@pytest.mark.parametrize("name", ["digits-vit", "digits-mlp"])
def test_every_layer_of_a_trained_model_is_close_to_float(name: str) -> None:
    workload = models.load(name)
    assert isinstance(workload, Workload)
    lowered = lower_traced(workload)
    images, _ = models.heldout(name)
    for index in (0, 7):
        found = cosines(workload, lowered, {key: array[index] for key, array in images.items()})
        assert set(found) == {layer.name for layer in lowered.network}
        assert min(found.values()) > 0.99


def test_cosine() -> None:
    assert cosine(np.zeros(3), np.zeros(3)) == 1
    assert cosine(np.zeros(3), np.ones(3)) == 0
    assert cosine(np.array([1, 0]), np.array([0.0, 2.0])) == 0
    assert cosine(np.array([1, 2]), np.array([-1.0, -2.0])) == pytest.approx(-1)
