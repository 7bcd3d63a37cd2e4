import numpy as np
import pytest

from codesign.flow.build import plan
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.ir.network import run
from codesign.quant.lower.lowering import lower
from codesign.sim.probes import PROBE, probes
from codesign.target.board import Board


@pytest.mark.rtl
def test_probes_show_every_element_of_every_layer() -> None:
    """On the golden model: what a cut network shows is what the layer computes."""
    found = zoo.load("digits-vit")
    assert isinstance(found, Workload)
    network = lower(found)
    design = plan("digits-vit", Board.load("zcu102")).design
    arrays, _ = zoo.heldout("digits-vit")
    sample = {name: array[0] for name, array in arrays.items()}
    golden = run(network, sample)
    for count, layer in enumerate(network.layers, start=1):
        shown = [(at, run(probe, sample)[PROBE]) for at, probe in probes(network, count, design)]
        columns = [at + column for at, values in shown for column in range(values.shape[1])]
        assert columns == list(range(network.tensors[layer.target].columns)), layer.name
        np.testing.assert_array_equal(np.concatenate([values for _, values in shown], axis=1), golden[layer.target])
