"""Mixtures of experts as integer layers: the shipped model, and small graphs in several spellings."""

import io
from functools import cache
from importlib import resources

import numpy as np
import pytest
from numpy.typing import NDArray

from codesign.errors import InputError
from codesign.frontend import zoo
from codesign.frontend.workload import Workload, from_proto
from codesign.ir.mixture import Experts, Route, tokens_per_expert
from codesign.ir.network import Attention, Linear, Network, Norm, outputs, run
from codesign.numerics.fixed_point import round_half_even, saturate_bits
from codesign.numerics.moe import GATE_SCALE
from codesign.quant.lower.fidelity import cosines
from codesign.quant.lower.lowering import Lowered, lower, lower_traced, unscaled
from tests.marks import few_fast
from tests.quant.mixtures import CHOSEN, EXPERTS, GATES, SUMS, TOKENS, WIDTH, Mixture
from tests.quant.nets import damage

NAME = "digits-moe-vit"


@pytest.fixture(scope="module")
def shipped() -> tuple[Workload, Lowered]:
    workload = zoo.load(NAME)
    assert isinstance(workload, Workload)
    return workload, lower_traced(workload)


def _hits(network: Network, count: int) -> int:
    """Right answers on the first held-out images, whose integer logits are those that torch computed."""
    file = resources.files("codesign") / "data" / "digits-logits.npz"
    with np.load(io.BytesIO(file.read_bytes())) as arrays:
        expected = arrays["moe-vit"][:count]
    images, labels = zoo.heldout(NAME)
    got = np.array([run(network, {"image": x})[network.outputs[0].source][0] for x in images["image"][:count]])
    assert np.array_equal(got, expected)
    return int(np.sum(got.argmax(axis=1) == labels[:count]))


def test_golden_computes_the_trained_integers(shipped: tuple[Workload, Lowered]) -> None:
    assert _hits(shipped[1].network, 20) == 20


@pytest.mark.slow
def test_golden_reaches_the_stated_accuracy(shipped: tuple[Workload, Lowered]) -> None:
    assert _hits(shipped[1].network, 400) == 395


def test_every_second_block_has_a_router_and_experts(shipped: tuple[Workload, Lowered]) -> None:
    network = shipped[1].network
    half = [Norm, Linear, Linear, Linear, Attention, Linear, Norm]
    blocks = [*half, Linear, Linear, *half, Linear, Route, Experts]
    assert [type(layer) for layer in network] == [Linear, *blocks * 2, Norm, Linear]
    assert network.notes == ()
    for layer in network:
        if isinstance(layer, Experts):
            assert (len(layer.experts), layer.chosen, layer.rows) == (4, 2, 17)
            assert [(a.k, a.n, b.k, b.n) for a, b in layer.experts] == [(64, 64, 64, 64)] * 4
            assert all(a.table is not None and b.table is None for a, b in layer.experts)
            assert (layer.multiplier, layer.shift) == (1 << 16, 24)
            assert not {name for pair in layer.experts for name in (pair[0].target, pair[1].target)} & {
                *network.tensors
            }


def test_every_tensor_is_close_to_float(shipped: tuple[Workload, Lowered]) -> None:
    """Gates less so than the rest: where two experts are equally probable, a rounding upstream decides."""
    routes = {layer.name for layer in shipped[1].network if isinstance(layer, Route)}
    for image in zoo.heldout(NAME)[0]["image"][:4]:
        found = cosines(*shipped, {"image": image})
        assert min(found[name] for name in routes) >= 0.97
        assert min(value for name, value in found.items() if name not in routes) >= 0.99


def test_multiplications_are_those_of_the_chosen_experts(shipped: tuple[Workload, Lowered]) -> None:
    """The file computes every expert for every token; the network a row more of the embedding, for the class token."""
    workload, network = shipped[0], shipped[1].network
    mixtures = [layer for layer in network if isinstance(layer, Experts)]
    left_out = sum((len(x.experts) - x.chosen) * x.rows * x.macs_per_token for x in mixtures)
    assert left_out == 2 * 2 * 17 * 2 * 64 * 64
    assert workload.macs == network.macs - 64 * 4 + left_out


def test_tokens_per_expert_are_counted(shipped: tuple[Workload, Lowered]) -> None:
    network = shipped[1].network
    counts = []
    for image in zoo.heldout(NAME)[0]["image"][:10]:
        found = tokens_per_expert(network, run(network, {"image": image}))
        assert [*found] == [layer.name for layer in network if isinstance(layer, Experts)]
        assert [int(x.sum()) for x in found.values()] == [34, 34]
        counts.append([x.tolist() for x in found.values()])
    assert len({str(x) for x in counts}) > 5
    assert np.min(np.sum(counts, axis=0)) > 0


# Small graphs ------------------------------------------------------------------------------


def _parts(network: Network) -> tuple[Route, Experts]:
    (route,) = [layer for layer in network if isinstance(layer, Route)]
    (experts,) = [layer for layer in network if isinstance(layer, Experts)]
    return route, experts


def _samples(count: int) -> NDArray[np.float64]:
    return np.random.default_rng(5).normal(size=(count, TOKENS, WIDTH))


@cache
def _plain() -> Network:
    return lower(Mixture().workload())


@pytest.mark.parametrize("how", SUMS)
@pytest.mark.parametrize("gate", few_fast(GATES, 2))
def test_every_spelling_is_the_same_network(gate: str, how: str) -> None:
    plain, other = _plain(), lower(Mixture(gate, how).workload())
    assert [type(layer) for layer in other] == [Linear, Norm, Linear, Route, Experts, Norm, Linear]
    assert other.macs == plain.macs
    assert _parts(other)[0].multiplier == 1 << 16
    for x in _samples(3):
        a, b = (run(network, {"x": x}) for network in (plain, other))
        assert a[plain.outputs[0].source].tolist() == b[other.outputs[0].source].tolist()
        assert a[_parts(plain)[1].target].tolist() == b[_parts(other)[1].target].tolist()


def test_gates_are_within_a_step_of_the_files() -> None:
    workload = Mixture("quantized").workload()
    made = lower_traced(workload)
    route, compared = _parts(made.network)[0], 0
    scales = [made.network.tensors[name].scale for name in (route.source, route.target)]
    assert scales[1] == GATE_SCALE
    for x in _samples(20):
        values, golden = dict(workload.tensors({"x": x})), run(made.network, {"x": x})
        names = [made.sources[name].tensor for name in (route.source, route.target)]
        logits, gates = (values[n].reshape(-1, EXPERTS) / s for n, s in zip(names, scales, strict=True))
        same = np.all(logits == golden[route.source], axis=1)
        assert np.array_equal(gates[same] > 0, golden[route.target][same] > 0)
        assert np.abs(gates - golden[route.target])[same].max(initial=0) <= 1
        compared += int(same.sum())
    assert compared > 60


def test_the_weighted_sum_is_rounded_and_added_once() -> None:
    workload = Mixture().workload()
    network = lower(workload)
    route, experts = _parts(network)
    values = run(network, {"x": _samples(1)[0]})
    names = [*dict.fromkeys(n.inputs[1] for n in workload.nodes if n.op == "Mul")]
    scale = network.tensors[experts.target].scale
    floats = dict(workload.tensors({"x": _samples(1)[0]}))
    results = [np.rint(floats[name].reshape(TOKENS, WIDTH) / scale).astype(np.int64) for name in names]
    total = sum(values[route.target][:, i, None] * y for i, y in enumerate(results))
    assert experts.addend is not None
    expected = saturate_bits(values[experts.addend] + saturate_bits(round_half_even(total, 8), 16), 16)
    assert values[experts.target].tolist() == expected.tolist()


def test_equal_experts_may_serve_twice() -> None:
    _, experts = _parts(lower(Mixture("scatter", "shared").workload()))
    weights = [a.weights.tolist() for a, _ in experts.experts]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("gate", "how", "expected"),
    [
        ("renormalised", "slices", "normalised over the chosen"),
        ("threshold", "slices", "not the probabilities of the 2 chosen"),
        ("scatter", "squared", "not weighted and added up"),
        ("scatter", "unequal", "expert shapes"),
        ("scatter", "deep", "experts that read different tokens"),
        ("scatter", "narrow", "experts that read different tokens"),
    ],
)
def test_other_mixtures_are_refused_in_one_line(gate: str, how: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        lower(Mixture(gate, how).workload())
    assert "legal" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_float_mixture_needs_calibration_only() -> None:
    workload = Mixture(quantized=False).workload()
    narrow, wide = unscaled(workload)
    assert len(wide) >= EXPERTS
    assert len(narrow) >= EXPERTS
    with pytest.raises(InputError, match="calibration"):
        lower(workload)
    made = lower_traced(workload, calibration={"x": _samples(30)})
    assert _parts(made.network)[1].chosen == CHOSEN
    for x in _samples(3):
        assert min(cosines(workload, made, {"x": x}).values()) >= 0.97
        got = outputs(made.network, run(made.network, {"x": x}))
        assert np.isfinite(next(iter(got.values()))).all()


@pytest.mark.rtl
def test_damaged_mixtures_end_in_a_network_or_in_one_line(rng: np.random.Generator) -> None:
    data, refused = _samples(4), []
    for _ in range(60):
        model = Mixture(str(rng.choice(GATES)), str(rng.choice(SUMS)), bool(rng.integers(2))).model()
        for _ in range(int(rng.integers(1, 4))):
            damage(model.graph, rng)
        try:
            run(lower(from_proto(model), calibration={"x": data}), {"x": data[0]})
        except InputError as error:
            refused.append(str(error))
    assert 15 < len(refused) < 60
    assert not any("\n" in message for message in refused)
