from dataclasses import replace

import numpy as np
import pytest

from codesign.errors import InputError
from codesign.frontend.zoo import gemm
from codesign.ir.network import Attention, Input, Linear, Network, Norm, Output, Tensor, linear_golden, outputs, run


def _linear(**changes: object) -> Linear:
    layer = Linear(
        name="l",
        source="a",
        target="c",
        rows=2,
        weights=np.array([[1, -2], [3, 4], [-127, 127]], np.int8),
        bias=np.array([0, 10, -5]),
        multiplier=np.full(3, 1 << 16),
        shift=np.full(3, 17),
    )
    return replace(layer, **changes)  # type: ignore[arg-type]  # any field


def test_a_linear_layer_rounds_half_to_even_and_saturates() -> None:
    x = np.array([[9, 9], [1, 2], [-128, 127]])
    assert linear_golden(_linear(), x).tolist() == [[-4, 36, -2], [-2, 10, 61]]
    assert linear_golden(_linear(first_row=1), x).tolist() == [[-2, 10, 61], [-128, 67, 127]]
    assert linear_golden(_linear(low=0, high=20), x).tolist() == [[0, 20, 0], [0, 10, 20]]


def test_a_table_is_indexed_by_the_low_eight_bits() -> None:
    table = np.arange(256, dtype=np.uint8).view(np.int8)[::-1].copy()
    x = np.array([[9, 9], [1, 2]])
    assert linear_golden(_linear(table=table), x).tolist() == [[3, -37, 1], [1, -11, -62]]


def test_a_residual_add_saturates_at_sixteen_bits() -> None:
    layer = _linear(addend="r", low=-32768, high=32767)
    r = np.array([[1, 32760, -32768], [0, 0, 0]])
    assert linear_golden(layer, np.array([[9, 9], [1, 2]]), r).tolist() == [[-3, 32767, -32768], [-2, 10, 61]]
    with pytest.raises(ValueError, match="addend"):
        linear_golden(layer, np.array([[9, 9], [1, 2]]))


def _attention() -> Network:
    tensors = [Tensor(n, 3, 4, 8, 0.1) for n in ("q", "k", "v", "o")]
    layer = Attention("a", "q", "k", "v", "o", 3, 3, 2, 2, 1 << 16, 16, 1 << 16, 16, mask="causal")
    gather = np.arange(12).reshape(3, 4)
    inputs = tuple(Input(n, (3, 4), n, gather) for n in "qkv")
    return Network("n", {t.name: t for t in tensors}, (layer,), inputs, (Output("y", (3, 4), "o"),))


def test_causal_attention_shows_the_first_row_its_own_value() -> None:
    network = _attention()
    rng = np.random.default_rng(0)
    samples = {n: rng.integers(-9, 10, size=(3, 4)) * 0.1 for n in "qkv"}
    values = run(network, samples)
    assert np.array_equal(values["o"][0], values["v"][0])
    assert np.allclose(outputs(network, values)["y"], values["o"] * 0.1)
    assert network.macs == 2 * 6 * 4


def test_a_norm_reads_rows_from_its_first_row() -> None:
    rows = np.array([[1, 1, 1, 9], [-300, 100, 100, 100], [7, 7, 7, 7]])
    layer = Norm("n", "r", "y", 1, np.full(4, 1 << 10), np.zeros(4, np.int64), 10, 0, first_row=1)
    tensors = {"r": Tensor("r", 3, 4, 16, 1.0), "y": Tensor("y", 1, 4, 8, 2**-10)}
    item = Input("x", (3, 4), "r", np.arange(12).reshape(3, 4), -32768, 32767)
    values = run(Network("n", tensors, (layer,), (item,), ()), {"x": rows})
    assert values["y"].tolist() == [[-128, 127, 127, 127]]


def test_inputs_are_gathered_quantized_and_padded_with_zero() -> None:
    item = Input("x", (2, 2), "a", np.array([[-1, 3], [0, -1]]), low=-2, high=2)
    network = Network("n", {"a": Tensor("a", 2, 2, 8, 0.5)}, (), (item,), ())
    assert run(network, {"x": np.array([[0.75, 9], [9, -9]])})["a"].tolist() == [[0, -2], [2, 0]]
    assert run(network, {"x": np.array([[[0.75, 9], [9, -9]]])})["a"].tolist() == [[0, -2], [2, 0]]


@pytest.mark.parametrize(
    "inputs",
    [{}, {"b": np.zeros((2, 3))}, {"a": np.zeros((3, 2))}, {"a": np.full((2, 3), np.nan)}, {"a": np.full((2, 3), "x")}],
)
def test_bad_samples_are_refused(inputs: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> None:
    with pytest.raises(InputError, match="legal"):
        run(gemm(2, 3, 4), inputs)


@pytest.mark.parametrize("gather", [np.array([[4]]), np.array([[-2]]), np.array([0])])
def test_a_gather_outside_the_sample_is_misuse(gather: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    with pytest.raises(ValueError, match="gather"):
        Input("x", (2, 2), "a", gather)
