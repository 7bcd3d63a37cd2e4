"""Export of quantized torch models to small, self-contained ONNX files."""

import ast
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from brevitas.export import export_onnx_qcdq, export_qonnx
from torch import Tensor, nn

OPSET = 20
"""First ONNX opset with a Gelu operator."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def export_model(
    model: nn.Module, sample: Tensor, path: Path, *, form: str, inputs: str, outputs: str
) -> onnx.ModelProto:
    """Write `model` as one ONNX file without external data and return it.

    Args:
        model: A brevitas model in eval mode.
        sample: An input; its shape, batch included, becomes the model's.
        path: The file; written to a temporary file first, then renamed.
        form: "qonnx" (Quant nodes) or "qcdq" (QuantizeLinear, Clip, DequantizeLinear).
        inputs: Name of the input.
        outputs: Name of the output.
    """
    exporters = {"qonnx": export_qonnx, "qcdq": export_onnx_qcdq}
    if form not in exporters:
        raise ValueError(f"form must be qonnx or qcdq, got {form!r}")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet():
        raw = Path(folder) / "model.onnx"
        exporters[form](
            model,
            args=sample,
            export_path=str(raw),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            keep_initializers_as_inputs=False,
            input_names=[inputs],
            output_names=[outputs],
            verbose=False,
        )
        result = tidy(onnx.load(raw))
        onnx.checker.check_model(result)
        onnx.save(result, raw)
        os.replace(raw, path)
    return result


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name nodes by module path and drop what describes the exporting machine.

    A node of module ``blocks.0.q`` becomes ``blocks.0.q/MatMul``; further ones of
    that name get ``_1``, ``_2`` appended. Returns `model`, changed in place.
    """
    seen: dict[str, int] = {}
    for node in model.graph.node:
        name = f"{_module_path(node)}/{node.op_type}".lstrip("/")
        seen[name] = seen.get(name, -1) + 1
        node.name = f"{name}_{seen[name]}" if seen[name] else name
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("doc_string")
        del value.metadata_props[:]
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    model.graph.name = "model"
    return model


def _module_path(node: onnx.NodeProto) -> str:
    """Return the path of the torch module that `node` comes from, "" for the model itself."""
    scopes = [p.value for p in node.metadata_props if p.key == _SCOPES]
    path = ast.literal_eval(scopes[0])[:-1] if scopes else []
    return re.sub(r"(\.act_quant)?\.export_handler$", "", str(path[-1])) if path else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings and log lines of torch's exporter from the user."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
