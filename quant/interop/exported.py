"""Cleanup of torch's ONNX exports: node names, traces of the exporting machine, log output."""

import ast
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Names nodes by module path and drops metadata about the exporting machine.

    A node of module ``blocks.0.q`` becomes ``blocks.0.q/MatMul``; further nodes with
    that name get ``_1``, ``_2``. Returns `model`, changed in place.
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
    """Path of the torch module that `node` comes from, "" for the model itself."""
    scopes = [p.value for p in node.metadata_props if p.key == _SCOPES]
    path = ast.literal_eval(scopes[0])[:-1] if scopes else []
    return re.sub(r"(\.act_quant)?\.export_handler$", "", str(path[-1])) if path else ""


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses warnings and log messages of torch's exporter."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
