"""Fidelity of the integer network to the float model: cosine of every layer's result."""

from collections.abc import Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from codesign.frontend.workload import Workload, check_finite
from codesign.ir.network import run
from codesign.numerics.fixed_point import dequantize
from codesign.quant.lower.lowering import Lowered
from codesign.quant.match.graph import WorkloadGraph


def cosines(workload: Workload, lowered: Lowered, sample: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Cosine between each layer's result and its float counterpart.

    Args:
        workload: the float model, including its quantizers.
        lowered: its integer network.
        sample: an array per model input.

    Returns:
        Cosine by layer name; 1 where both are zero.

    Raises:
        InputError: the model does not take the sample.
    """
    golden = run(lowered.network, sample)
    traced = [(layer, lowered.sources[layer.target]) for layer in lowered.network if layer.target in lowered.sources]
    wanted = {source.tensor for _, source in traced}
    floats = {name: value for name, value in workload.tensors(sample) if name in wanted}
    return {
        layer.name: cosine(golden[layer.target], source.shown(floats[source.tensor]))
        for layer, source in traced
        if source.tensor in floats
    }


def local_cosines(workload: Workload, lowered: Lowered, sample: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Like `cosines`, but float evaluation continues from each layer's integer result.

    So each figure is about one layer, and rounding differences do not accumulate.

    Raises:
        InputError: the model does not take the sample, or a node makes NaN or infinity of a layer's integers.
    """
    golden, tensors = run(lowered.network, sample), lowered.network.tensors
    graph, values = WorkloadGraph(workload), dict(workload.constants)
    values.update(islice(workload.tensors(sample), len(workload.inputs)))
    found = {}
    for node in workload.nodes:
        arguments = [values[n] if n else None for n in node.inputs]
        made = graph.evaluate(node, arguments)
        check_finite(workload.name, node, arguments, made)
        values.update((n, x) for n, x in zip(node.outputs, made, strict=False) if n)
        for layer in (x for x in lowered.network if x.target in lowered.sources):
            source = lowered.sources[layer.target]
            if source.tensor in node.outputs:
                own = np.asarray(values[source.tensor], np.float64).copy()
                found[layer.name] = cosine(golden[layer.target], source.shown(own))
                used, integers = source.index >= 0, golden[layer.target]
                own.reshape(-1)[source.index[used]] = dequantize(integers, tensors[layer.target].scale)[used]
                values[source.tensor] = own
    return found


def cosine(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Cosine of the angle between two arrays of the same shape, 1 if both are zero.

    >>> cosine(np.array([3, 4]), np.array([6.0, 8.0]))
    1.0
    """
    x, y = (np.asarray(v, np.float64).reshape(-1) for v in (a, b))
    lengths = float(np.sqrt(x @ x) * np.sqrt(y @ y))
    if lengths == 0:
        return float(not x.any() and not y.any())
    return float(x @ y) / lengths
