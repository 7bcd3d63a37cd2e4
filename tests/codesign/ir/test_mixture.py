from dataclasses import replace

import numpy as np
import pytest

from codesign.ir.mixture import Experts, Route, experts_golden, linears, tokens_per_expert
from codesign.ir.network import Input, Linear, Network, Output, Tensor, linear_golden, run


def _expert(rng: np.random.Generator, number: int, k: int = 6, h: int = 4, n: int = 5) -> tuple[Linear, Linear]:
    first, second = (
        Linear(
            name=f"{name}{number}",
            source="x",
            target=f"h{number}",
            rows=7,
            weights=rng.integers(-127, 128, (outs, inputs)).astype(np.int8),
            bias=rng.integers(-999, 1000, outs),
            multiplier=np.full(outs, 1 << 16),
            shift=np.full(outs, shift),
        )
        for name, inputs, outs, shift in (("up", k, h, 24), ("down", h, n, 17))
    )
    table = rng.integers(-128, 128, 256).astype(np.int8)
    return replace(first, table=table), replace(second, low=-32768, high=32767)


def _experts(**changes: object) -> Experts:
    rng = np.random.default_rng(11)
    pairs = tuple(_expert(rng, i) for i in range(3))
    layer = Experts("e", "x", "y", 7, "g", pairs, chosen=2, multiplier=1 << 16, shift=24, addend="r")
    return replace(layer, **changes)  # type: ignore[arg-type]  # any field


def _tokens() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(12)
    gates = rng.integers(1, 256, (7, 3))
    gates[np.arange(7), rng.integers(0, 3, 7)] = 0
    return rng.integers(-128, 128, (7, 6)), gates, rng.integers(-32768, 32768, (7, 5))


def test_experts_compute_their_tokens_only_and_add_up_as_if_all_did() -> None:
    layer, (x, gates, r) = _experts(), _tokens()
    dense = [linear_golden(b, linear_golden(a, x)) for a, b in layer.experts]
    total = sum(gates[:, i, None] * y for i, y in enumerate(dense))
    rounded = np.clip(np.rint(total / 256), -32768, 32767)
    expected = np.clip(r + rounded, -32768, 32767).astype(np.int64)
    assert experts_golden(layer, x, gates, r).tolist() == expected.tolist()
    assert experts_golden(replace(layer, addend=None), x, gates).tolist() == rounded.astype(np.int64).tolist()
    assert np.any(np.abs(expected) == 32768 - (expected > 0))


def test_an_expert_may_get_no_token_and_rows_may_begin_later() -> None:
    layer, (x, gates, r) = _experts(rows=4, first_row=3), _tokens()
    gates[:, 1] = 0
    whole = experts_golden(_experts(), x, gates, r)
    assert experts_golden(layer, x, gates[3:], r[3:]).tolist() == whole[3:].tolist()
    with pytest.raises(ValueError, match="addend"):
        experts_golden(layer, x, gates[3:])


def test_a_network_routes_counts_and_multiplies_for_the_chosen() -> None:
    layer, (x, _, r) = _experts(gates="g"), _tokens()
    bits = {"x": (7, 6, 8), "l": (7, 3, 8), "r": (7, 5, 16), "g": (7, 3, 16), "y": (7, 5, 16)}
    tensors = {name: Tensor(name, *shape, 1.0) for name, shape in bits.items()}
    reads = tuple(
        Input(n, tensors[n].shape, n, np.arange(np.prod(tensors[n].shape)).reshape(tensors[n].shape), *span)
        for n, span in (("x", (-128, 127)), ("l", (-128, 127)), ("r", (-32768, 32767)))
    )
    network = Network(
        "n", tensors, (Route("t", "l", "g", 7, 2, 1 << 16, 13), layer), reads, (Output("o", (7, 5), "y"),)
    )
    logits = np.random.default_rng(3).integers(-40, 40, (7, 3))
    values = run(network, {"x": x, "l": logits, "r": r})
    assert np.count_nonzero(values["g"], axis=1).tolist() == [2] * 7
    (counts,) = tokens_per_expert(network, values).values()
    assert counts.tolist() == np.count_nonzero(values["g"], axis=0).tolist()
    assert network.macs == layer.macs == sum(int(c) for c in counts) * (6 * 4 + 4 * 5)
    assert [part.name for part in linears(network)] == ["up0", "down0", "up1", "down1", "up2", "down2"]


def test_experts_that_no_machine_could_run_are_misuse() -> None:
    rng, pairs = np.random.default_rng(0), _experts().experts
    for experts, chosen in ((pairs, 4), (pairs, 0), ((*pairs, _expert(rng, 3, h=3)), 2), ((), 1)):
        with pytest.raises(ValueError, match="legal"):
            _experts(experts=experts, chosen=chosen)
    for wrong in ({"addend": "r"}, {"first_row": 1}, {"table": np.zeros(256, np.int8)}):
        second = replace(pairs[2][1], **wrong)
        with pytest.raises(ValueError, match="then to 16 bit"):
            _experts(experts=(*pairs[:2], (pairs[2][0], second)))
    with pytest.raises(ValueError, match="to 8 bit"):
        _experts(experts=((replace(pairs[0][0], table=None, high=300), pairs[0][1]), *pairs[1:]))
