import logging
from pathlib import Path

import numpy as np
import pytest

from codesign.benchmarks import minilm as bench_minilm
from codesign.benchmarks.minilm import agreement, minilm_rows
from codesign.flow import minilm as encoder
from codesign.quant.calibrate import minilm
from codesign.quant.calibrate.ptq import Settings
from tests.quant import berts


def _directions(seed: int, count: int = 9, width: int = 5) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    x = np.random.default_rng(seed).normal(size=(count, width))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def test_equal_embeddings_agree_in_everything() -> None:
    x = _directions(0)
    found = agreement(x, x)
    assert found == pytest.approx({"cosine_mean": 1, "cosine_min": 1, "spearman": 1, "top1_agreement": 1})


def test_agreement_is_what_its_names_say() -> None:
    exact = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
    ours = exact.copy()
    ours[1] = [0.6, 0.8]
    pairs = [(x @ x.T)[np.triu_indices(4, 1)].round(12) for x in (exact, ours)]
    ranks = [np.argsort(np.argsort(p)) for p in pairs]
    found = agreement(exact, ours)
    assert found["cosine_mean"] == pytest.approx(0.99)
    assert found["cosine_min"] == pytest.approx(0.96)
    assert found["spearman"] == pytest.approx(1 - 6 * np.square(ranks[0] - ranks[1]).sum() / (6 * 35))
    nearest = [[1, 0, 3, 2], [1, 2, 1, 2]]
    assert found["top1_agreement"] == np.mean([a == b for a, b in zip(*nearest, strict=True)])


@pytest.mark.rtl
def test_rows_of_a_small_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = berts.encoder()
    monkeypatch.setattr(minilm, "missing", tuple)
    monkeypatch.setattr(minilm, "load", lambda: read)
    monkeypatch.setattr(minilm, "CALIBRATION_TEXTS", 24)
    monkeypatch.setattr(minilm, "TEST_TEXTS", 16)
    monkeypatch.setattr(minilm, "SETTINGS", Settings("max", migrate=0.7))
    monkeypatch.setattr(encoder, "default_cache", lambda: tmp_path)
    rows = {row.metric: row for row in minilm_rows()}
    assert {row.case for row in rows.values()} == {"minilm"}
    assert {row.evidence for row in rows.values()} == {"modelled"}
    assert rows["texts"].ours == 16
    assert rows["cosine_mean"].reference == 0.99
    assert rows["cosine_mean"].state == "reached"
    assert 0.9 < rows["cosine_min"].ours <= rows["cosine_mean"].ours < 1
    assert rows["spearman"].ours > 0.9
    assert rows["top1_agreement"].ours > 0.6


def test_without_the_extra_there_are_no_rows_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(minilm, "missing", lambda: ("safetensors", "tokenizers"))
    with caplog.at_level(logging.WARNING, logger=bench_minilm.__name__):
        assert minilm_rows() == []
    (line,) = caplog.messages
    assert line.startswith("minilm is left out: no safetensors and tokenizers; install: pip install")
