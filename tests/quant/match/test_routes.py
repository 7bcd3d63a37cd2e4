import numpy as np
import pytest

from codesign.quant.match.patterns import Patterns
from tests.marks import few_fast
from tests.quant.mixtures import CHOSEN, EXPERTS, GATES, SUMS, Mixture


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("how", SUMS)
@pytest.mark.parametrize("gate", few_fast(GATES, 2))
def test_every_spelling_is_found(gate: str, how: str, quantized: bool) -> None:
    workload = Mixture(gate, how, quantized).workload()
    patterns = Patterns(workload)
    assert patterns.unknown() == []
    ((name, found),) = patterns.mixtures.items()
    assert found.chosen == CHOSEN
    assert workload.shapes[found.logits] == workload.shapes[found.gates] == (1, 5, EXPERTS)
    assert len(set(found.outputs)) == EXPERTS
    assert patterns.kind(name) == "mixture"
    assert not found.inside & {name, found.logits, *found.outputs}
    values = dict(workload.tensors({"x": np.random.default_rng(1).normal(size=(1, 5, 8))}))
    weights = values[found.gates].reshape(-1, EXPERTS)
    assert np.count_nonzero(weights, axis=1).tolist() == [CHOSEN] * 5
    expected = sum(weights[:, i, None] * values[y].reshape(5, -1) for i, y in enumerate(found.outputs))
    assert np.allclose(values[name].reshape(5, -1), expected, atol=1e-12)


def test_experts_keep_the_order_of_their_gates() -> None:
    outputs = {}
    for how in SUMS:
        workload = Mixture("scatter", how).workload()
        (found,) = Patterns(workload).mixtures.values()
        values = dict(workload.tensors({"x": np.full((1, 5, 8), 0.3)}))
        outputs[how] = [values[y].tolist() for y in found.outputs]
    assert outputs["slices"] == outputs["stack"] == outputs["product"] == outputs["einsum"]


@pytest.mark.parametrize(
    ("gate", "how", "expected"),
    [
        ("renormalised", "slices", "normalised over the chosen experts"),
        ("of chosen", "stack", "normalised over the chosen experts"),
        ("threshold", "slices", "not the probabilities of the 2 chosen"),
        ("fewer", "slices", "not the probabilities of the 3 chosen"),
        ("scatter", "squared", "not weighted and added up"),
    ],
)
def test_other_mixtures_are_refused_with_one_reason(gate: str, how: str, expected: str) -> None:
    patterns = Patterns(Mixture(gate, how).workload())
    assert not patterns.mixtures
    reasons = [reason for node, reason in patterns.unknown() if node.op == "TopK"]
    assert len(reasons) == 1
    assert expected in reasons[0]
    assert "legal: a softmax over all experts" in reasons[0]


def test_a_mixture_of_all_experts_is_one_too() -> None:
    workload = Mixture("all").workload()
    ((_, found),) = Patterns(workload).mixtures.items()
    assert found.chosen == EXPERTS


def test_a_sum_that_doubles_itself_ends() -> None:
    """Sixty sums of a tensor with itself have 2**60 paths, and are no mixture."""
    patterns = Patterns(Mixture("scatter", "doubled").workload())
    assert not patterns.mixtures
    assert len(patterns.unknown()) == 1
