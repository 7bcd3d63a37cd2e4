"""Serialization of networks and designs: arrays in an npz without pickle, everything else as JSON.

Values round-trip exactly. Equal values give equal bytes with the same Python; others may write other archives.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.compiler.program import Program
from codesign.errors import BundleError
from codesign.ir import network as _ir
from codesign.ir.network import Input, Layer, Network, Output, Tensor
from codesign.target.board import Board
from codesign.target.board_figures import Available, BoardMemory, Energy
from codesign.target.design import Design
from codesign.target.engines import kernels

_DOCUMENT = "network"
_ARRAY = "array"

Arrays = dict[str, NDArray[Any]]


def json_bytes(document: object) -> bytes:
    """JSON as stored in a bundle: indented by one space per level, with a final line feed."""
    return (json.dumps(document, indent=1) + "\n").encode()


# Networks ---------------------------------------------------------------------------


def write_network(network: Network) -> bytes:
    """The network as an npz file.

    >>> from codesign.frontend.zoo import gemm
    >>> read_network(write_network(gemm(2, 3, 4))).macs
    24
    """
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **_flattened(network))
    return file.getvalue()


def network_digest(network: Network) -> str:
    """SHA-256 of a network's content: every number, name and note, and the types and shapes of all arrays.

    Unlike a hash of `write_network` it does not depend on how the Python at hand writes archives.
    """
    found = hashlib.sha256()
    for name, array in sorted(_flattened(network).items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _flattened(network: Network) -> Arrays:
    """The arrays of a network by path, and all else as JSON in an array of bytes."""
    arrays: Arrays = {}
    document = {
        "name": network.name,
        "notes": list(network.notes),
        "tensors": [_plain(tensor, f"tensor{i}", arrays) for i, tensor in enumerate(network.tensors.values())],
        "layers": [_layer(layer, f"layer{i}", arrays) for i, layer in enumerate(network.layers)],
        "inputs": [_plain(item, f"input{i}", arrays) for i, item in enumerate(network.inputs)],
        "outputs": [_plain(item, f"output{i}", arrays) for i, item in enumerate(network.outputs)],
        "constants": {
            name: _stored(table, f"constant{i}", arrays) for i, (name, table) in enumerate(network.constants.items())
        },
    }
    arrays[_DOCUMENT] = np.frombuffer(json_bytes(document), np.uint8)
    return arrays


def read_network(data: bytes) -> Network:
    """The network in an untrusted npz file.

    Raises:
        BundleError: not such a file, or an illegal value.
    """
    with _guarded("network.npz"):
        return _network(_arrays(data))


def _layer(layer: Layer, path: str, arrays: Arrays) -> dict[str, object]:
    return {"kind": type(layer).__name__.lower(), **_plain(layer, path, arrays)}


class _Kinds(dict[str, type[Layer]]):
    """Layer types by their names in files; kernels are imported only for names not in the initial set."""

    def __init__(self) -> None:
        super().__init__({kind.__name__.lower(): kind for kind in (_ir.Linear, _ir.Attention, _ir.Norm)})

    def __missing__(self, name: str) -> type[Layer]:
        self.update({kind.__name__.lower(): kind for kernel in kernels().values() for kind in kernel.layers})
        if name not in self:
            raise ValueError(f"a layer of kind {name!r}; no engine that is installed runs one")
        return self[name]


def _plain(value: Any, path: str, arrays: Arrays) -> dict[str, object]:
    """A flat dataclass as JSON; its arrays are added to ``arrays``."""
    return {f.name: _stored(getattr(value, f.name), f"{path}.{f.name}", arrays) for f in fields(value)}


def _stored(value: Any, path: str, arrays: Arrays) -> object:
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {_ARRAY: path}
    if isinstance(value, np.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def _arrays(data: bytes) -> Arrays:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _network(arrays: Arrays) -> Network:
    document, kinds = json.loads(arrays[_DOCUMENT].tobytes()), _Kinds()
    tensors = [_built(Tensor, item, arrays) for item in document["tensors"]]
    return Network(
        name=document["name"],
        tensors={tensor.name: tensor for tensor in tensors},
        layers=tuple(_built(kinds[item.pop("kind")], item, arrays) for item in document["layers"]),
        inputs=tuple(_built(Input, item, arrays) for item in document["inputs"]),
        outputs=tuple(_built(Output, item, arrays) for item in document["outputs"]),
        constants={name: _restored(item, arrays) for name, item in document["constants"].items()},
        notes=tuple(document["notes"]),
    )


def _built(kind: Callable[..., Any], document: Mapping[str, Any], arrays: Arrays) -> Any:
    return kind(**{name: _restored(value, arrays) for name, value in document.items()})


def _restored(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, dict):
        return arrays[value[_ARRAY]]
    return tuple(value) if isinstance(value, list) else value


# Designs and places ------------------------------------------------------------------


def design_document(design: Design) -> dict[str, object]:
    """JSON of a design, its complete board included."""
    return {
        "board": asdict(design.board),
        "engines": {name: dict(params) for name, params in design.engines.items()},
        "memories": dict(design.memories),
        "row_group": design.row_group,
    }


def read_design(document: Any) -> Design:
    """The design in an untrusted JSON document.

    Raises:
        BundleError: a missing or illegal value.
    """
    with _guarded("design.json"):
        engines = {str(name): _whole(params) for name, params in document["engines"].items()}
        (row_group,) = _whole({"row_group": document["row_group"]}).values()
        return Design(_board(document["board"]), engines, _whole(document["memories"]), row_group)


def _board(document: Mapping[str, Any]) -> Board:
    energy = document.get("energy")
    return Board(
        **{
            **document,
            "resources": Available(**document["resources"]),
            "memory": BoardMemory(**document["memory"]),
            "energy": None if energy is None else Energy(**energy),
        }
    )


def _whole(values: Mapping[str, Any]) -> dict[str, int]:
    for name, value in values.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}; legal: a whole number from 0")
    return dict(values)


def program_document(program: Program) -> dict[str, object]:
    """JSON of the DRAM addresses of a program's parts and matrices."""
    return {
        "list_at": program.list_at,
        "commands": len(program.commands),
        "constants_at": program.constants_at,
        "dram_bytes": program.dram_bytes,
        "inputs": {name: asdict(place) for name, place in program.inputs.items()},
        "outputs": {name: asdict(place) for name, place in program.outputs.items()},
    }


@contextmanager
def _guarded(origin: str) -> Iterator[None]:
    """Context in which errors caused by a malformed file become BundleError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, MemoryError, OSError, EOFError) as error:
        raise BundleError(f"{origin} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error
    except (zipfile.BadZipFile, RecursionError) as error:
        raise BundleError(f"{origin} is damaged: {error}") from error
