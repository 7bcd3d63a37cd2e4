"""Models as the QONNX that hls4ml and FINN read: the same integers, and refusals that name the node."""

import numpy as np
import onnx
import pytest

from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, from_proto
from codesign.quant.interop.chain import to_qonnx
from tests.quant.chains import ChainBuilder, random_chain


def test_the_written_file_computes_the_same() -> None:
    """Our own reader and evaluator see no difference between the model and what is written."""
    workload = zoo.load("digits-mlp")
    assert isinstance(workload, Workload)
    again = from_proto(to_qonnx(workload), "again")
    images, _ = zoo.heldout("digits-mlp")
    assert {node.op for node in again.nodes} == {"Quant", "MatMul", "Relu"}
    for image in images["image"][:20]:
        expected = workload.evaluate({"image": image})["logits"]
        assert again.evaluate({"image": image.reshape(1, 64)})["logits"].tolist() == expected.tolist()


@pytest.mark.parametrize("gemm", [True, False])
def test_every_constant_is_used_once_and_has_a_shape(rng: np.random.Generator, gemm: bool) -> None:
    model = to_qonnx(random_chain(rng, (5, 4, 3), gemm).workload())
    onnx.checker.check_model(model)
    used = [name for node in model.graph.node for name in node.input]
    assert sorted(used) == sorted(set(used))
    named = {value.name for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    assert set(used) <= named


def test_what_is_no_chain(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match=r"\(LayerNormalization\): it is no part of a chain"):
        to_qonnx(_loaded("digits-vit"))
    odd = random_chain(rng, (4, 3), True)
    odd.quant(0.3)
    with pytest.raises(InputError, match=r"scale 0\.3; legal: powers of two"):
        to_qonnx(odd.workload())
    tanh = random_chain(rng, (4, 3), True)
    tanh.name = tanh.add("Tanh", tanh.name)
    tanh.quant(0.25)
    with pytest.raises(InputError, match=r"\(Tanh\): it is no part of a chain; legal: a chain of MatMul"):
        to_qonnx(tanh.workload())
    open_end = random_chain(rng, (4, 3), True)
    open_end.relu()
    with pytest.raises(InputError, match="no quantizer at the input or output"):
        to_qonnx(open_end.workload())


def test_weights_and_biases_that_are_refused(rng: np.random.Generator) -> None:
    chain = ChainBuilder(4)
    chain.name = chain.add("MatMul", chain.name, chain.tensor(rng.normal(0, 1, (4, 3))))
    chain.width = 3
    chain.quant(0.25)
    with pytest.raises(InputError, match="weights without a quantizer"):
        to_qonnx(chain.workload())
    scaled = ChainBuilder(4)
    weights = scaled.quantized(scaled.tensor(rng.normal(0, 1, (3, 4))), 0.25, narrow=1)
    scaled.name = scaled.add("Gemm", scaled.name, weights, scaled.tensor(np.ones(3)), transB=1, beta=0.5)
    scaled.width = 3
    scaled.quant(0.25)
    with pytest.raises(InputError, match="alpha or beta is not 1"):
        to_qonnx(scaled.workload())


def _loaded(name: str) -> Workload:
    found = zoo.load(name)
    assert isinstance(found, Workload)
    return found
