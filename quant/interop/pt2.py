"""Safe reader of untrusted torch programs (``.pt2``, written by ``torch.export.save``).

torch's own reader unpickles whatever an archive requests, evaluates text as Python, and resolves any name
below ``torch``. So the archive is checked first, in plain Python, and torch gets a copy with only what a
float program needs: raw weights and constants, and calls of operators in ``torch.ops.aten``. Nothing is
unpickled. Torch's reader of raw tensors and of that graph remains trusted.
"""

import importlib.util
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from codesign.errors import InputError, ToolError
from codesign.quant.interop.exported import quiet, tidy

Json: TypeAlias = Any  # what a file holds, until it is checked

MAX_BYTES = 1 << 31
"""Largest archive, and largest total size of its files."""

OPSET = 20
"""First ONNX opset with a Gelu operator."""

_INSTALL = "pip install 'codesign[quant]'"
_KEPT = re.compile(r"archive_format|archive_version|version|byteorder|models/model\.json|\.data/.*")
_TENSORS = re.compile(r"data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)")
_SAMPLE = "data/sample_inputs/model.pt"
_TARGET = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|eq|ge|le|gt|lt)")
_NOTES = "extra/"
_REFUSED = ("as_operator", "as_custom_obj", "__enum__")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_EXPRESSION = re.compile(r"([su]?\d+|(Symbol\('[su]\d+'|Integer\(-?\d+|Add\(|Mul\(|, |(positive|integer)=True|\))+)")


def read_pt2(path: str | Path) -> bytes:
    """Converts a torch program to ONNX.

    Args:
        path: an archive of ``torch.export.save`` with one float program; only its batch may be symbolic.

    Returns:
        Bytes of an ONNX model from torch's own exporter; nodes are named by module path.

    Raises:
        InputError: the file is no such archive, or needs pickled objects or operators outside
        ``torch.ops.aten``; nothing of it has been executed.
        ToolError: torch or its exporter is missing or cannot convert the program.
    """
    file = Path(path)
    data = _checked(file)
    missing = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ToolError(f"reading {file.name} needs {' and '.join(missing)}; install: {_INSTALL}")
    return _converted(file.name, data)


def _converted(name: str, data: bytes) -> bytes:
    """Converts the program of a checked archive to ONNX."""
    import torch

    with quiet():
        try:
            program = torch.export.load(io.BytesIO(data))
            exported = torch.onnx.export(program, dynamo=True, opset_version=OPSET, external_data=False, verbose=False)
            return bytes(tidy(exported.model_proto).SerializeToString())
        except Exception as error:  # whatever torch raises about a program that it cannot convert
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ToolError(f"torch cannot convert {name}: {first}", log=str(error)) from error


# The archive -----------------------------------------------------------------------------


def _checked(file: Path) -> bytes:
    """Copies an archive after checking that it holds only tensors and a graph of known operators."""
    try:
        size = file.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise InputError(f"{file} has {size} bytes; legal: 1 to {MAX_BYTES}")
        with zipfile.ZipFile(file) as archive:
            return _copied(file.name, archive)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except (
        zipfile.BadZipFile,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
        NotImplementedError,
        EOFError,
    ) as error:
        raise InputError(f"{file.name} is no torch program: {' '.join(str(error).split())}") from error


def _copied(name: str, archive: zipfile.ZipFile) -> bytes:
    members = _members(name, archive)
    for key in ("models/model.json", "data/weights/model_weights_config.json"):
        if key not in members:
            raise InputError(f"{name}: {key} is missing; legal: an archive of torch.export.save")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as copy:
        for key, info in members.items():
            copy.writestr(info.filename, _content(name, key, archive.read(info)))
    return made.getvalue()


def _members(name: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Files of an archive by path below its root."""
    infos = [info for info in archive.infolist() if not info.is_dir() and f"/{_NOTES}" not in info.filename]
    roots = {info.filename.partition("/")[0] for info in infos}
    if len(roots) != 1 or sum(info.file_size for info in infos) > MAX_BYTES:
        raise InputError(f"{name}: folders {sorted(roots)}; legal: one, with at most {MAX_BYTES} bytes")
    members = {info.filename.partition("/")[2]: info for info in infos}
    for key, info in members.items():
        if not (_KEPT.fullmatch(key) or _TENSORS.fullmatch(key) or key == _SAMPLE):
            raise InputError(f"{name} holds {key!r}; legal: raw tensors and one program")
        if info.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{name}: {key!r} is compressed; legal: stored, as torch does")
    if len(members) != len(infos):
        raise InputError(f"{name} holds a file twice; legal: once")
    return members


def _content(name: str, key: str, data: bytes) -> bytes:
    """Checked contents of a file, as passed to torch."""
    if key == _SAMPLE:
        return b""  # pickled, and not needed
    if key == "models/model.json":
        return _program(name, data)
    if key.endswith("_config.json"):
        _check_payload(name, json.loads(data))
    return data


def _check_payload(name: str, config: Json) -> None:
    """Checks that weights and constants are raw tensors in files of the archive."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise InputError(f"{name}: weights are not listed; legal: an archive of torch.export.save")
    for key, entry in entries.items():
        pickled = not isinstance(entry, dict) or entry.get("use_pickle") is not False
        if pickled or not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name"))):
            raise InputError(f"{name}: {key!r} is pickled; legal: raw tensors, nothing is unpickled")


def _program(name: str, data: bytes) -> bytes:
    """Checks the graph and removes the source text that its reader would evaluate."""
    program = json.loads(data)
    if not isinstance(program, dict):
        raise InputError(f"{name}: the program is {type(program).__name__}; legal: an object")
    program["guards_code"] = []  # Python source
    for item in _objects(program):
        _check_object(name, item)
        if "inputs" in item and isinstance(item.get("metadata"), dict):
            item["metadata"] = {k: v for k, v in item["metadata"].items() if k == "nn_module_stack"}
    return json.dumps(program).encode()


def _check_object(name: str, item: Mapping[str, Json]) -> None:
    """Refuses an object whose reading would call, import or evaluate anything unknown."""
    refused = sorted(item.keys() & set(_REFUSED))
    if refused:
        raise InputError(f"{name} holds {refused[0]!r}; legal: tensors and numbers")
    if "inputs" in item and "metadata" in item and not _matches(_TARGET, item.get("target")):
        raise InputError(f"{name} calls {item.get('target')!r}; legal: operators of torch.ops.aten")
    if "expr_str" in item and not _matches(_EXPRESSION, item["expr_str"]):
        raise InputError(f"{name} has the size {item['expr_str']!r}; legal: a number, or a symbol for the batch")
    for key in ("in_spec", "out_spec"):
        if key in item:
            _check_structure(name, json.loads(item[key]))


def _check_structure(name: str, spec: Json) -> None:
    """Checks that inputs and outputs are in tuples, lists and dictionaries."""
    for item in _objects(spec):
        context = json.loads(item.get("context") or "null")
        plain = context is None or (isinstance(context, list) and all(isinstance(x, str) for x in context))
        if item.get("type") not in _CONTAINERS or not plain:
            raise InputError(f"{name} has inputs in {item.get('type')!r}; legal: tuples, lists and dictionaries")


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and len(value) <= 200 and pattern.fullmatch(value) is not None


def _objects(value: Json) -> Iterator[dict[str, Json]]:
    """All objects in a JSON value, at any depth."""
    waiting: list[Json] = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
