"""Sentence encoder bench: agreement of its integers with its floats."""

import logging

import numpy as np
from numpy.typing import NDArray

from codesign.benchmarks.row import GOAL, Row
from codesign.flow.minilm import encoder_file
from codesign.frontend.workload import from_proto, parse_onnx
from codesign.ir.network import outputs, run
from codesign.numerics.fixed_point import FloatArray
from codesign.quant.calibrate import minilm
from codesign.quant.lower.lowering import lower

_LOG = logging.getLogger(__name__)


def minilm_rows() -> list[Row]:
    """Comparison of the golden model's sentence embeddings with the float model's, on texts not used in calibration.

    Without the extra there are no rows, and the log says how to install it.

    Raises:
        InputError: the extra's files are damaged.
        ToolError: the cache folder cannot be written.
    """
    absent = minilm.missing()
    if absent:
        _LOG.warning("%s is left out: no %s; install: %s", minilm.NAME, " and ".join(absent), minilm.INSTALL)
        return []
    exact, ours = embeddings()
    found, case = agreement(exact, ours), minilm.NAME
    return [
        Row(case, "cosine_mean", "1", found["cosine_mean"], "modelled", 0.99, GOAL),
        Row(case, "cosine_min", "1", found["cosine_min"], "modelled"),
        Row(case, "spearman", "1", found["spearman"], "modelled"),
        Row(case, "top1_agreement", "1", found["top1_agreement"], "modelled"),
        Row(case, "texts", "1", len(exact), "modelled"),
    ]


def embeddings() -> tuple[FloatArray, FloatArray]:
    """Sentence embeddings ``[texts, width]`` of all test texts: from floats, and from the network's integers."""
    encoder = minilm.load()
    _, texts = minilm.texts(encoder)
    floats = from_proto(encoder.bert.onnx(minilm.TOKENS), minilm.NAME)
    network = lower(parse_onnx(encoder_file(), minilm.NAME))
    exact, ours = [], []
    for number, x in enumerate(encoder.embedded(texts), start=1):
        exact.append(floats.evaluate({minilm.INPUT: x})[minilm.OUTPUT][0])
        ours.append(outputs(network, run(network, {minilm.INPUT: x}))[minilm.OUTPUT])
        if number % 100 == 0:
            _LOG.info("%s: %d of %d texts", minilm.NAME, number, len(texts))
    return minilm.pooled(np.array(exact)), minilm.pooled(np.array(ours))


def agreement(exact: FloatArray, ours: FloatArray) -> dict[str, float]:
    """Agreement of two sets of sentence embeddings.

    Args:
        exact: ``[texts, width]``, rows of unit norm.
        ours: embeddings of the same texts, same shape and norm.

    Returns:
        ``cosine_mean`` and ``cosine_min`` over texts between both embeddings, ``spearman``, the rank correlation of
        the cosines of all text pairs, and ``top1_agreement``, the share of texts with equal nearest neighbours.
    """
    cosines = (exact * ours).sum(axis=1)
    pairs = [x @ x.T for x in (exact, ours)]
    upper = np.triu_indices(len(exact), 1)
    ranks = [np.argsort(np.argsort(p[upper])) for p in pairs]
    for p in pairs:
        np.fill_diagonal(p, -np.inf)
    nearest = [p.argmax(axis=1) for p in pairs]
    return {
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
        "spearman": _correlation(*ranks),
        "top1_agreement": float((nearest[0] == nearest[1]).mean()),
    }


def _correlation(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Pearson correlation of two sequences; 1 if neither varies."""
    x, y = a - a.mean(), b - b.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / length if length else 1.0
