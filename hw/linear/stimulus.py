"""Layers of the linear kernel for the contract suite; its bench is `codesign.sim.testbench.bench_linear`."""

from typing import Any

import numpy as np

from codesign.ir.network import Linear
from codesign.target.kernel import Case

_RANDOM = 8
"""Random shapes in `cases`."""


def cases(rng: np.random.Generator) -> list[Case]:
    """Layers with and without table and addend, see `codesign.target.kernel.Kernel.cases`."""
    table = rng.integers(-128, 128, 256).astype(np.int8)
    changes: tuple[dict[str, Any], ...] = ({}, {"table": table}, {"addend": "r"})
    shapes = [(1, 1, 1), (17, 64, 96), (13, 100, 31), *rng.integers(1, 129, (_RANDOM, 3)).tolist()]
    found = []
    for index, (rows, k, n) in enumerate(shapes):
        weights = rng.integers(-127, 128, (n, k)).astype(np.int8)
        bias, scale = rng.integers(-1000, 1000, n), rng.integers(1 << 16, 1 << 17, n)
        layer = Linear("linear", "x", "y", rows, weights, bias, scale, np.full(n, 24), **changes[index % len(changes)])
        arrays = {"x": (rows, k, 7), **({"r": (rows, n, 15)} if layer.addend else {})}
        found.append(Case(layer, {"rows": rows, "k": k, "n": n}, arrays))
    return found
