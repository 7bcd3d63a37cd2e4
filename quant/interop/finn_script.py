"""Estimates the model in a folder; runs in finn-plus's own environment.

Copied into the folder of a request by `codesign.quant.interop.finn_estimates` and run there by that Python::

    python -m venv finn && finn/bin/pip install finn-plus psutil
    finn/bin/python FOLDER/estimate.py

Reads ``request.json`` and ``model.onnx``, writes ``result.json``. Needs no vendor tool: cycles and
resources are FINN's analytic estimates. Thresholds stay separate layers, so that products map to the
hardware that uses DSPs.
"""

import importlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Answers the request in a folder."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    build = folder / "build"
    build.mkdir(exist_ok=True)
    os.environ["FINN_BUILD_DIR"] = str(build)
    _get("finn.util.settings", "initialize_dummy_settings")()
    layers = _layers(folder / "model.onnx", build, request["part"])
    result = {
        "finn": importlib.metadata.version("finn-plus"),
        "part": request["part"],
        "estimates": [_estimate(layers, cycles, request["part"]) for cycles in request["target_cycles"]],
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _get(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _layers(file: Path, build: Path, part: str) -> Any:
    """Converts the model to FINN's hardware layers for a part, not folded yet."""
    wrapper, hardware = "qonnx.core.modelwrapper", "finn.transformation.fpgadataflow"
    model = _get("qonnx.util.cleanup", "cleanup_model")(_get(wrapper, "ModelWrapper")(str(file)))
    streamline = _get("finn.transformation.streamline", "Streamline")
    for step in (
        _get("finn.transformation.qonnx.convert_qonnx_to_finn", "ConvertQONNXtoFINN")(),
        _get("finn.transformation.streamline.absorb", "AbsorbScalarBiasIntoMultiThreshold")(),
        streamline(),
        streamline(),
        _get(f"{hardware}.convert_to_hw.thresholding", "InferThresholdingLayer")(),
        _get(f"{hardware}.convert_to_hw.quantized_matrix_vector_activation", "InferQuantizedMatrixVectorActivation")(),
        _get(f"{hardware}.create_dataflow_partition", "CreateDataflowPartition")(partition_model_dir=str(build)),
    ):
        model = model.transform(step)
    (inner,) = model.get_nodes_by_op_type("StreamingDataflowPartition")
    model = _get(wrapper, "ModelWrapper")(_get("qonnx.custom_op.registry", "getCustomOp")(inner).get_nodeattr("model"))
    model = model.transform(_get(f"{hardware}.specialize_layers", "SpecializeLayers")(part))
    return model.transform(_get("qonnx.transformation.general", "GiveUniqueNodeNames")())


def _estimate(layers: Any, target_cycles: int, part: str) -> dict[str, Any]:
    """Folds the layers for a target of cycles per sample; returns cycles and resources of each."""
    hardware, analysis = "finn.transformation.fpgadataflow", "finn.analysis.fpgadataflow"
    folded = layers.transform(_get(f"{hardware}.set_folding", "SetFolding")(target_cycles))
    folded = folded.transform(_get(f"{hardware}.annotate_cycles", "AnnotateCycles")())
    cycles = folded.analysis(_get(f"{analysis}.exp_cycles_per_layer", "exp_cycles_per_layer"))
    whole = folded.analysis(_get(f"{analysis}.dataflow_performance", "dataflow_performance"))
    used = _get(f"{analysis}.res_estimation", "res_estimation")(folded, fpgapart=part)
    return {
        "target_cycles": target_cycles,
        "interval_cycles": int(whole["max_cycles"]),
        "latency_cycles": int(whole["critical_path_cycles"]),
        "layers": [
            {
                "name": name,
                "cycles": int(cycles[name]),
                "dsp": round(used[name]["DSP"]),
                "bram18": round(used[name]["BRAM_18K"]),
                "lut": round(used[name]["LUT"]),
            }
            for name in cycles
        ],
    }


if __name__ == "__main__":
    main(Path(__file__).resolve().parent)
