"""How close the integer network is to the float model: cosine of every tensor."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from codesign.network import run
from codesign.quant.lower import Lowered
from codesign.workload import Workload


def cosines(workload: Workload, lowered: Lowered, sample: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Cosine between what each layer computes and the float values that it stands for.

    Args:
        workload: the float model, its quantizers included.
        lowered: its integer network.
        sample: an array per model input.

    Returns:
        Cosine by layer name; 1 where both are zero.

    Raises:
        InputError: a sample that the model does not take.
    """
    golden = run(lowered.network, sample)
    wanted = {lowered.sources[layer.target].tensor for layer in lowered.network if layer.target in lowered.sources}
    floats = {name: value for name, value in workload.tensors(sample) if name in wanted}
    found = {}
    for layer in lowered.network:
        source = lowered.sources.get(layer.target)
        if source is None or source.tensor not in floats:
            continue
        reference = np.where(source.index < 0, 0.0, floats[source.tensor].reshape(-1)[source.index])
        found[layer.name] = cosine(golden[layer.target], reference)
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
