import numpy as np
import pytest

from codesign.frontend.workload import from_proto
from codesign.quant.calibrate.migrate import migrated
from codesign.quant.calibrate.ptq import output_error
from codesign.quant.lower.lowering import each_sample
from tests.quant.nets import Net


def _attention(net: Net, shared: int) -> str:
    """Attention of four heads that broadcasts one or four heads of keys and values, in floats."""

    def product(x: str, width: int) -> str:
        return net.op("MatMul", x, net.const(net.weights(8, width)))

    def heads(count: int) -> str:
        made = net.op("Reshape", product("x", 2 * count), net.const([1, 6, count, 2], np.int64))
        return net.op("Transpose", made, perm=[0, 2, 1, 3])

    query, key, value = heads(4), heads(shared), heads(shared)
    scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
    made = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
    return product(net.op("Reshape", net.op("Transpose", made, perm=[0, 2, 1, 3]), net.const([1, 6, 8], np.int64)), 5)


@pytest.mark.parametrize("shared", [1, 4])
def test_values_that_heads_share_are_moved_once_and_the_function_stays(shared: int) -> None:
    net = Net()
    model = net.proto(_attention(net, shared))
    workload = from_proto(model, "net")
    each = each_sample(workload, {"x": net.rng.uniform(-1, 3, size=(5, 6, 8))})
    moved = migrated(model, workload, each, 0.5, True)
    added = [node.op_type for node in moved.graph.node]
    before = [node.op_type for node in model.graph.node]
    assert (added.count("Sub") - before.count("Sub"), added.count("Mul") - before.count("Mul")) == (1, 1)
    assert output_error(workload, from_proto(moved, "net"), each) < 1e-11
