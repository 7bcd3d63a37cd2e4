import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codesign.bundle import serialize
from codesign.bundle.files import read_bundle, write_bundle
from codesign.bundle.serialize import json_bytes
from codesign.compiler.program import compile_network
from codesign.errors import BundleError, InputError
from codesign.flow.open import QUANTIZED, _work_faults, contents, fidelity, model_faults
from codesign.flow.samples import random_samples, samples_of
from codesign.frontend import zoo
from codesign.ir.network import Linear
from codesign.quant.lower.lowering import lower
from tests.quant.nets import Net

Change = Callable[[dict[str, bytes]], None]


def edit_json(name: str, change: Callable[[dict[str, object]], object]) -> Change:
    def edit(inside: dict[str, bytes]) -> None:
        document = json.loads(inside[name])
        change(document)
        inside[name] = json_bytes(document)

    return edit


def flip(name: str) -> Change:
    return lambda inside: inside.update({name: bytes([inside[name][0] ^ 1]) + inside[name][1:]})


@pytest.mark.parametrize(
    "change",
    [
        flip("program.bin"),
        flip("weights.bin"),
        flip("network.npz"),
        lambda inside: inside.pop("network.npz"),
        lambda inside: inside.pop("design.json"),
        lambda inside: inside.pop("report.json"),
        edit_json("design.json", lambda d: d.update(version=99)),
        edit_json("design.json", lambda d: d.update(design=[])),
        edit_json("design.json", lambda d: d["design"]["engines"].pop("linear")),  # type: ignore[index]
        edit_json("design.json", lambda d: d["design"]["memories"].clear()),  # type: ignore[index]
        edit_json("design.json", lambda d: d["design"]["engines"]["linear"].update(t_in=0)),  # type: ignore[index]
        edit_json("report.json", lambda d: d.update(cycles=[])),
        lambda inside: [inside.pop(name) for name in list(inside) if name.endswith(".v")],
    ],
)
def test_a_bundle_with_parts_of_another_is_refused(built: Path, tmp_path: Path, change: Change) -> None:
    inside = dict(read_bundle(built).files)
    change(inside)
    write_bundle(tmp_path / "b", inside)
    with pytest.raises(BundleError):
        contents(read_bundle(tmp_path / "b"))


def test_a_shipped_model_has_no_faults(mlp: Path) -> None:
    bundle = read_bundle(mlp)
    held = contents(bundle)
    arrays, _ = zoo.heldout("digits-mlp")
    assert model_faults(bundle, held, samples_of(held.network, arrays)[:3]) == []


def rewritten(data: bytes) -> bytes:
    """An npz with the same arrays in another order, compressed, with other dates and headers."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {name: file[name] for name in reversed(file.files)}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", (2031, 5, 7, 1, 2, 4))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 0, 0o600 << 16
            one = io.BytesIO()
            np.save(one, array)
            archive.writestr(entry, one.getvalue())
    return made.getvalue()


def test_content_is_judged_not_how_an_archive_was_written(mlp: Path, tmp_path: Path) -> None:
    """Versions of Python write the same arrays as other archives."""
    stored = read_bundle(mlp)
    network = serialize.read_network(stored.data("network.npz"))
    again = rewritten(stored.data("network.npz"))
    assert again != stored.data("network.npz")
    write_bundle(tmp_path / "same", {**stored.files, "network.npz": again})
    bundle = read_bundle(tmp_path / "same")
    held = contents(bundle)
    assert model_faults(bundle, held, random_samples(held.network, 1, 0)) == []
    assert serialize.network_digest(held.network) == serialize.network_digest(network)


def test_a_changed_number_in_an_archive_is_found(mlp: Path, tmp_path: Path) -> None:
    stored = read_bundle(mlp)
    held = contents(stored)
    first = held.network.layers[0]
    assert isinstance(first, Linear)
    low = replace(first, bias=first.bias + np.eye(1, first.n, 2, dtype=first.bias.dtype)[0])
    other = replace(held.network, layers=(low, *held.network.layers[1:]))
    assert serialize.network_digest(other) != serialize.network_digest(held.network)
    program = compile_network(other, held.design)
    inside = {
        **stored.files, "network.npz": serialize.write_network(other), "weights.bin": program.constants,
        "program.bin": program.encode(),
    }  # fmt: skip
    write_bundle(tmp_path / "b", inside)
    bundle = read_bundle(tmp_path / "b")
    faults = model_faults(bundle, contents(bundle), random_samples(other, 1, 0))
    assert "network.npz is not what model.onnx lowers to" in faults


def test_another_model_file_is_a_fault(mlp: Path, tmp_path: Path) -> None:
    inside = {**read_bundle(mlp).files, "model.onnx": zoo.original("digits-vit")}
    write_bundle(tmp_path / "b", inside)
    bundle = read_bundle(tmp_path / "b")
    held = contents(bundle)
    faults = model_faults(bundle, held, random_samples(held.network, 1, 0))
    assert [fault for fault in faults if "multiply-accumulates" in fault]
    assert [fault for fault in faults if fault == "network.npz is not what model.onnx lowers to"]


def test_a_product_has_no_model_file_to_compare_with(built: Path) -> None:
    bundle = read_bundle(built)
    assert model_faults(bundle, contents(bundle), []) == []


def test_the_file_that_calibration_made_is_what_the_network_is_compared_with(mlp: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b", {**read_bundle(mlp).files, QUANTIZED: zoo.original("digits-vit")})
    bundle = read_bundle(tmp_path / "b")
    held = contents(bundle)
    faults = model_faults(bundle, held, random_samples(held.network, 1, 0))
    assert len([fault for fault in faults if "multiply-accumulates" in fault]) == 1  # model.onnx is as it was
    assert "network.npz is not what quantized.onnx lowers to" in faults


def test_fidelity_is_the_smallest_cosine_of_each_layer(mlp: Path) -> None:
    bundle = read_bundle(mlp)
    held = contents(bundle)
    arrays, _ = zoo.heldout("digits-mlp")
    samples = samples_of(held.network, arrays)[:4]
    each = [fidelity(bundle, held, [sample]) for sample in samples]
    found = fidelity(bundle, held, samples)
    assert list(found) == [layer.name for layer in held.network]
    assert found == {name: min(one[name] for one in each) for name in found}
    assert min(found.values()) > 0.999


def test_fidelity_needs_a_file_with_quantizers(built: Path) -> None:
    bundle = read_bundle(built)
    with pytest.raises(InputError, match="no model file with quantizers"):
        fidelity(bundle, contents(bundle), [])


def test_pruned_work_is_no_fault_and_lost_work_is() -> None:
    net = Net()
    hidden = net.quant(net.op("Relu", net.linear(net.quant("x"))), 1 / 32)
    whole = net.linear(hidden, n=6)
    part = net.op("Slice", whole, *(net.const([n], np.int64) for n in (1, 4, 2)))
    workload = net.workload(part)
    network = lower(workload)
    assert sum(layer.dense_macs for layer in network) < workload.macs
    assert _work_faults(workload, network) == []
    lost = replace(network, layers=network.layers[1:])
    assert _work_faults(workload, lost) == [
        "the network does 144 multiply-accumulates, the outputs of the model need 528"
    ]
