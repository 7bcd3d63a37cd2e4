import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.flow.build import plan
from codesign.flow.samples import random_samples
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.ir.network import Attention, Linear, Network, Norm, run
from codesign.quant.lower.lowering import lower
from codesign.sim.single_layer import RESULT, isolated
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import kernels

ZCU102 = Board.load("zcu102")


@pytest.fixture(scope="module")
def vit() -> tuple[Network, Design]:
    found = zoo.load("digits-vit")
    assert isinstance(found, Workload)
    return lower(found), plan("digits-vit", ZCU102).design


@pytest.mark.parametrize("kernel", kernels())
def test_every_layer_runs_alone_and_is_the_same_layer(vit: tuple[Network, Design], kernel: str) -> None:
    network, design = vit
    found = list(isolated(network, kernel, design, 0))
    assert [layer.name for layer, _ in found] == [
        x.name for x in network.layers if isinstance(x, kernels()[kernel].layers)
    ]
    for layer, alone in found:
        assert alone is not None, layer.name
        compile_network(alone, design)
        (mine,) = (x for x in alone.layers if x.name == layer.name)
        assert type(mine) is type(layer)
        if isinstance(layer, Linear) and isinstance(mine, Linear):
            np.testing.assert_array_equal(mine.weights, layer.weights)
            assert mine.table is layer.table
        if isinstance(layer, Attention | Norm) and isinstance(mine, Attention | Norm):
            assert mine.rows == layer.rows


@pytest.mark.parametrize("kernel", kernels())
def test_the_data_is_random_and_spread(vit: tuple[Network, Design], kernel: str) -> None:
    network, design = vit
    _, alone = next(isolated(network, kernel, design, 0))
    assert alone is not None
    one, other = (run(alone, sample)[RESULT] for sample in random_samples(alone, 2, 0))
    assert (one != other).mean() > 0.5
    assert len(np.unique(one)) > 20
    _, again = next(isolated(network, kernel, design, 0))
    assert again is not None
    np.testing.assert_array_equal(run(again, random_samples(again, 1, 0)[0])[RESULT], one)


def test_a_product_alone_is_itself() -> None:
    made = plan("gemm:5x30x20", ZCU102, budget={"dsp": 60})
    ((layer, alone),) = isolated(made.network, "linear", made.design, 0)
    assert alone is not None
    (sample,) = random_samples(alone, 1, 0)
    expected = run(made.network, {"a": sample["x"]})
    np.testing.assert_array_equal(run(alone, sample)[RESULT], expected["c"])
    assert layer.name == "gemm"


def test_what_has_no_room_is_left_out() -> None:
    made = plan("digits-mlp", ZCU102, budget={"dsp": 60})
    bare = Design(ZCU102, made.design.engines, {})
    assert [alone for _, alone in isolated(made.network, "linear", bare, 0)] == [None, None, None]
