import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from codesign.errors import InputError
from codesign.frontend.workload import from_proto, load_onnx
from tests.codesign.frontend.models import Change, changed, constant, dense, one_input, refusal, weights

Model = onnx.ModelProto


def test_external_data_in_the_models_folder_is_read(tmp_path: Path) -> None:
    model = dense()
    expected = from_proto(model).constants["w"]
    onnx.save_model(
        model,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    assert np.array_equal(load_onnx(tmp_path / "m.onnx").constants["w"], expected)


def _claim_huge(model: Model) -> None:
    del weights(model).dims[:]
    weights(model).dims.extend([1 << 40, 1 << 20])


def _claim_more(model: Model) -> None:
    weights(model).dims[0] = 400000


def _negative_dims(model: Model) -> None:
    weights(model).dims[0] = -4


def _unknown_type(model: Model) -> None:
    weights(model).data_type = 99


def _text_type(model: Model) -> None:
    weights(model).data_type = TensorProto.STRING


def _wrong_type(model: Model) -> None:
    weights(model).data_type = TensorProto.INT64


def _nan(model: Model) -> None:
    weights(model).CopyFrom(constant("w", np.full((4, 2), np.nan)))


def _external(location: str, **entries: str) -> Change:
    def change(model: Model) -> None:
        tensor = weights(model)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return change


_BAD: dict[str, tuple[Change, str]] = {
    "huge claim": (_claim_huge, r"tensor w claims shape .*legal: at most"),
    "more than there is": (_claim_more, r"tensor w has 32 bytes; legal: 3200000"),
    "negative dimension": (_negative_dims, r"tensor w claims shape \(-4, 2\)"),
    "unknown element type": (_unknown_type, r"tensor w has element type 99"),
    "text weights": (_text_type, r"tensor w has element type 8"),
    "wrong element type": (_wrong_type, r"tensor w has 32 bytes; legal: 64"),
    "nan weights": (_nan, r"tensor w holds NaN; legal: finite"),
    "external data above": (_external("../secret.bin"), r"external data at '../secret.bin'; legal: .* model's folder"),
    "external data absolute": (_external("/etc/passwd"), r"external data at '/etc/passwd'; legal"),
    "external data missing": (_external("none.bin"), r"external data at 'none.bin'; legal"),
    "external data is a folder": (_external("."), r"external data at '\.'; legal"),
    "external data beyond the end": (_external("m.onnx", offset="0", length="999999999"), r"claims 999999999 bytes"),
    "external offset beyond the end": (_external("m.onnx", offset="99999999"), r"claims .* bytes at 99999999"),
    "external offset is text": (_external("m.onnx", offset="-1"), r"external offset '-1'"),
    "external name with a null": (_external("a\0b"), r"name 'a\\x00b'; legal: characters that print"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_tensors_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, expected = _BAD[case]
    assert re.search(expected, refusal(changed(change, tmp_path)))


def test_external_data_through_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    model = dense()
    _external("w.bin")(model)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    assert "external data at 'w.bin'" in refusal(folder / "m.onnx")


def test_models_in_memory_have_no_external_data() -> None:
    model = dense()
    _external("w.bin")(model)
    with pytest.raises(InputError, match="external data"):
        from_proto(model)


def test_types_narrower_than_a_byte_are_unpacked() -> None:
    values = [-8, -1, 0, 3, 7]
    packed = helper.make_tensor("w", TensorProto.INT4, [5], values)
    raw = helper.make_tensor("w", TensorProto.INT4, [5], bytes([0xF8, 0x30, 0x07]), raw=True)
    for tensor in (packed, raw):
        model = one_input(helper.make_node("DequantizeLinear", ["w", "s"], ["a"]), shape=(1, 5), w=tensor, s=0.5)
        model.graph.node.append(helper.make_node("Add", ["x", "a"], ["y"]))
        assert from_proto(model).evaluate({"x": np.zeros(5)})["y"].tolist() == [[v / 2 for v in values]]


def test_packed_types_of_the_wrong_length_are_refused() -> None:
    raw = TensorProto(name="w", data_type=TensorProto.INT4, dims=[5], raw_data=b"\0" * 5)
    with pytest.raises(InputError, match="tensor w has 5 bytes; legal: 3"):
        from_proto(one_input(helper.make_node("Relu", ["x"], ["y"]), w=raw))


def test_whole_numbers_that_int64_does_not_hold_are_refused() -> None:
    tensor = helper.make_tensor("w", TensorProto.UINT64, [2], [1, 1 << 63])
    with pytest.raises(InputError, match=f"tensor w holds {1 << 63}; legal: below {1 << 63}"):
        from_proto(one_input(helper.make_node("Relu", ["x"], ["y"]), w=tensor))
