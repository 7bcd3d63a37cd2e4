import numpy as np

from codesign.frontend.workload import from_proto
from codesign.numerics.fixed_point import dequantize, quantize
from codesign.quant.calibrate.observe import moments, observe
from tests.quant.vits import Recipe, build, samples

CHOSEN = Recipe(form="float")


def test_extremes_are_those_of_every_element_over_all_samples() -> None:
    workload = from_proto(build(CHOSEN))
    each = [{"image": image} for image in samples(CHOSEN, 5)]
    names = [node.outputs[0] for node in workload.nodes if node.op in ("LayerNormalization", "Softmax")]
    found = observe(workload, each, names)
    seen = [dict(workload.tensors(sample)) for sample in each]
    assert sorted(found) == sorted(names)
    for name in names:
        values = np.array([s[name] for s in seen])
        assert np.array_equal(found[name].low, values.min(axis=0))
        assert np.array_equal(found[name].high, values.max(axis=0))


def test_moments_are_means_of_every_element_before_and_after_rounding() -> None:
    workload = from_proto(build(CHOSEN))
    each = [{"image": image} for image in samples(CHOSEN, 3)]
    name = next(node.outputs[0] for node in workload.nodes if node.op == "LayerNormalization")
    found = moments(workload, each, {name: 0.05})
    values = np.array([dict(workload.tensors(sample))[name] for sample in each])
    assert list(found) == [name]
    assert np.allclose(found[name].mean, values.mean(axis=0), rtol=1e-12, atol=1e-12)
    assert np.allclose(found[name].rounded, dequantize(quantize(values, 0.05), 0.05).mean(axis=0), rtol=0, atol=1e-12)
    assert np.allclose(found[name].square, np.square(values).mean(axis=0), rtol=1e-12, atol=1e-12)
