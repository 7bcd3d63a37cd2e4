"""Export of quantized torch models to small, self-contained ONNX files."""

import os
import tempfile
from pathlib import Path

import onnx
from brevitas.export import export_onnx_qcdq, export_qonnx
from torch import Tensor, nn

from codesign.quant.interop.exported import quiet, tidy

OPSET = 20
"""First ONNX opset with a Gelu operator."""


def export_model(
    model: nn.Module, sample: Tensor, path: Path, *, form: str, inputs: str, outputs: str
) -> onnx.ModelProto:
    """Writes `model` as one ONNX file without external data and returns it.

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
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, quiet():
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
