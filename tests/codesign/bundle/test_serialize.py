import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from codesign.bundle.serialize import (
    design_document,
    json_bytes,
    program_document,
    read_design,
    read_network,
    write_network,
)
from codesign.compiler.program import compile_network
from codesign.errors import BundleError
from codesign.flow.samples import random_samples
from codesign.frontend import zoo
from codesign.frontend.workload import Workload
from codesign.ir.network import Network, run
from codesign.quant.lower.lowering import lower
from codesign.target.board import Board
from codesign.target.design import Design

ENGINES = {
    "linear": {
        "t_in": 8, "t_out": 8, "n_l": 2, "kw_max": 4, "ring_words": 64, "table_words": 8, "tables": 1,
    },
}  # fmt: skip


def network(name: str) -> Network:
    found = zoo.load(name)
    return lower(found) if isinstance(found, Workload) else found


@pytest.mark.parametrize("name", ["gemm:3x20x7", "digits-mlp", "digits-vit"])
def test_a_network_is_read_as_it_was_written(name: str) -> None:
    before = network(name)
    after = read_network(write_network(before))
    assert write_network(after) == write_network(before)
    (sample,) = random_samples(before, 1, 0)
    expected = run(before, sample)
    for tensor, values in run(after, sample).items():
        np.testing.assert_array_equal(values, expected[tensor])
    assert (after.name, after.macs, after.notes) == (before.name, before.macs, before.notes)
    assert after.tensors == before.tensors


def test_every_field_of_every_layer_survives() -> None:
    before = network("digits-vit")
    after = read_network(write_network(before))
    for one, other in zip(before.layers, after.layers, strict=True):
        assert type(one) is type(other)
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name))


def damaged() -> list[bytes]:
    good = write_network(zoo.gemm(2, 3, 4))
    with np.load(io.BytesIO(good)) as file:
        arrays = {name: file[name] for name in file.files}
    document = json.loads(arrays["network"].tobytes())
    changes = [
        {**document, "layers": [{**document["layers"][0], "kind": "unknown"}]},
        {**document, "tensors": [{"name": "a"}]},
        {**document, "inputs": 3},
        {name: value for name, value in document.items() if name != "outputs"},
        {**document, "layers": [{**document["layers"][0], "weights": {"array": "none"}}]},
        [],
    ]
    found = [b"", b"garbage", good[: len(good) // 2], good[:-30]]
    for change in changes:
        file = io.BytesIO()
        np.savez(file, **{**arrays, "network": np.frombuffer(json.dumps(change).encode(), np.uint8)})
        found.append(file.getvalue())
    return found


@pytest.mark.parametrize("data", damaged(), ids=range(10))
def test_a_damaged_network_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"network\.npz is damaged"):
        read_network(data)


def test_pickled_objects_are_refused() -> None:
    file = io.BytesIO()
    np.savez(file, network=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BundleError, match="damaged"):
        read_network(file.getvalue())


def design() -> Design:
    board = Board.load("zcu102").with_overrides(["clock_hz=250e6"])
    return Design(board, ENGINES, {"input": 4096, "output": 4096}, 8)


def test_a_design_is_read_as_it_was_written() -> None:
    document = json.loads(json_bytes(design_document(design())))
    assert read_design(document) == design()


@pytest.mark.parametrize(
    "change",
    [
        {"row_group": "8"},
        {"row_group": -1},
        {"memories": {"input": 1.5}},
        {"engines": {"linear": {"t_in": True}}},
        {"board": {}},
        {"board": None},
    ],
)
def test_a_damaged_design_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=r"design\.json is damaged"):
        read_design({**design_document(design()), **change})


def test_the_document_of_a_program_has_every_place() -> None:
    program = compile_network(zoo.gemm(3, 20, 7), design())
    document = json.loads(json_bytes(program_document(program)))
    assert document["inputs"] == {name: asdict(place) for name, place in program.inputs.items()}
    assert document["outputs"] == {name: asdict(place) for name, place in program.outputs.items()}
    assert document["commands"] == len(program.commands)


def test_equal_values_give_equal_bytes() -> None:
    one, other = zoo.gemm(2, 3, 4), zoo.gemm(2, 3, 4)
    assert write_network(one) == write_network(other)
    assert write_network(one) != write_network(replace(one, name="other"))
