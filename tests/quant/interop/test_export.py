"""Exported files are self-contained and say nothing about the machine that wrote them."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install codesign[quant]")
export: Any = pytest.importorskip("codesign.quant.interop.export")
mlp: Any = pytest.importorskip("codesign.quant.train.mlp")

pytestmark = pytest.mark.quant

SCOPES = "pkg.torch.onnx.name_scopes"


def _node(op_type: str, source: str, target: str, scopes: list[str]) -> onnx.NodeProto:
    node = helper.make_node(op_type, [source], [target], doc_string="made here")
    node.metadata_props.add(key=SCOPES, value=repr(scopes))
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/model.py")
    return node


def test_tidy_names_nodes_by_module() -> None:
    nodes = [
        _node("Relu", "image", "a", ["", "blocks.0", "blocks.0.fc", "relu"]),
        _node("Relu", "a", "b", ["", "blocks.0", "blocks.0.fc", "relu_1"]),
        _node("Tanh", "b", "c", ["", "blocks.0.fc.act_quant.export_handler", "tanh"]),
        _node("Tanh", "c", "logits", ["", "tanh_1"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("image", "logits")]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    model.metadata_props.add(key="where", value="/home/me")
    names = [node.name for node in export.tidy(model).graph.node]
    assert names == ["blocks.0.fc/Relu", "blocks.0.fc/Relu_1", "blocks.0.fc/Tanh", "Tanh"]
    assert b"/home/me" not in model.SerializeToString()
    assert b"made here" not in model.SerializeToString()


@pytest.mark.parametrize("form", ["qonnx", "qcdq"])
def test_files_are_self_contained_and_reproducible(form: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, sample = mlp.QuantMlp((16, 4)).eval(), torch.rand(1, 1, 4, 4)
    model(sample)
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path in paths:
        export.export_model(model, sample, path, form=form, inputs="image", outputs="logits")
    assert sorted(tmp_path.iterdir()) == paths
    assert paths[0].read_bytes() == paths[1].read_bytes()
    content = paths[0].read_bytes()
    assert not any(str(Path(m.__file__).parent).encode() in content for m in (export, mlp, torch))
    kinds = {node.op_type for node in onnx.load(paths[0]).graph.node}
    assert ("Quant" in kinds) == (form == "qonnx")
    assert ("DequantizeLinear" in kinds) == (form == "qcdq")


def test_form_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="form must be qonnx or qcdq, got 'tflite'"):
        export.export_model(None, None, tmp_path / "m", form="tflite", inputs="a", outputs="b")
