from pathlib import Path

import numpy as np
import pytest

from codesign import api as flow
from codesign.errors import InputError
from codesign.flow.run import EVIDENCE, TARGETS, RunResult, ran
from codesign.flow.samples import samples_of
from codesign.frontend import zoo
from codesign.ir.network import outputs, run


def never() -> object:
    raise AssertionError("the golden model needs the network alone")


def test_the_golden_model_computes_every_sample(mlp: Path) -> None:
    bundle = flow.open(mlp)
    arrays, _ = zoo.heldout("digits-mlp")
    samples = samples_of(bundle.network, {"image": arrays["image"][:5]})
    found = ran(bundle.network, bundle.report, samples, "golden", never)  # type: ignore[arg-type]
    expected = [outputs(bundle.network, run(bundle.network, sample))["logits"] for sample in samples]
    np.testing.assert_array_equal(found.outputs["logits"], np.stack(expected))
    assert (found.samples, found.cycles, found.evidence) == (5, (), "modelled")


def test_an_unknown_target_is_refused(mlp: Path) -> None:
    bundle = flow.open(mlp)
    with pytest.raises(InputError, match="--target 'fpga'; legal: golden, sim"):
        ran(bundle.network, bundle.report, [], "fpga", never)  # type: ignore[arg-type]


def test_every_target_has_its_evidence() -> None:
    assert set(EVIDENCE) == set(TARGETS)


def test_accuracy_is_the_share_of_right_predictions(mlp: Path) -> None:
    logits = np.array([[0.0, 2.0], [3.0, 1.0], [0.0, 0.5], [9.0, 8.0]])
    found = RunResult("sim", {"logits": logits}, (7,) * 4, np.array([1, 0, 0, 0]), flow.report(mlp))
    assert found.predictions.tolist() == [1, 0, 1, 0]
    assert found.accuracy == 0.75
    assert found.evidence == "simulated"
