"""Reader of untrusted ONNX files into plain values.

Every size is checked against the available bytes before allocation, and every error is a one-line `InputError`.
No operator is evaluated here. ``onnx`` is imported on use.
"""

import importlib
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codesign.errors import InputError
from codesign.frontend.onnx_tensors import TensorReader
from codesign.frontend.operators.call import MAX_ELEMENTS, Array, Attribute, Shape
from codesign.frontend.operators.elementwise import FLOATS, integer_range
from codesign.frontend.operators.registry import operators

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES = 1 << 31
"""Size limit of protocol buffers; larger models keep their weights in external data."""

OLDEST_OPSET = 13
"""Oldest opset implemented; older files are accepted if their operators have not changed since."""

QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
"""Domains of ``Quant`` nodes."""

_ADDED = ("Add", "Sub", "Mul", "Max", "Min", "Where", "Equal", "Trilu")
_MOVED = ("Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_ZERO_POINTS: Mapping[str, int] = {"QuantizeLinear": 2, "QLinearMatMul": 7}
_INF_CONSUMERS = frozenset((*_ADDED, *_MOVED))


@dataclass(frozen=True, eq=False)
class Node:
    """One operator application; an omitted input has an empty name."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def __str__(self) -> str:
        return f"{self.name} ({self.op})"


@dataclass(frozen=True, eq=False)
class Graph:
    """A model's nodes in execution order, its constants, and its inputs' shapes with batch 1."""

    name: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: Mapping[str, Shape]
    outputs: tuple[str, ...]


def read_graph(path: Path) -> Graph:
    """Read a file.

    Raises:
        InputError: it cannot be read, is not ONNX, or contains something unsupported.
    """
    return graph_of(_parse(path), path.name, path.parent)


def graph_of(model: "onnx.ModelProto", name: str, folder: Path | None = None) -> Graph:
    """Turn a parsed model into a `Graph`.

    Args:
        model: the protocol buffer; not modified.
        name: name of the model in messages.
        folder: folder of external data; None allows none.

    Raises:
        InputError: see `read_graph`.
    """
    shown = _printable(name)
    try:
        return _Reader(model, shown, folder).read()
    except (UnicodeError, OverflowError, RecursionError) as error:
        raise InputError(f"{shown}: not a usable ONNX model ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _printable(name: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(name))


def decoded(data: bytes, name: str) -> "onnx.ModelProto":
    """Parses the bytes of an ONNX file.

    Raises:
        InputError: not a valid file.
    """
    import onnx

    decode_error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    try:
        return onnx.load_model_from_string(data)
    except decode_error as error:
        raise InputError(
            f"{_printable(name)}: not an ONNX file ({_first_line(error)}); legal: a whole ONNX model"
        ) from error


def _parse(path: Path) -> "onnx.ModelProto":
    try:
        size = path.stat().st_size if path.is_file() else -1
        if not 0 < size <= MAX_FILE_BYTES:
            what = "is not a file" if size < 0 else f"has {size} bytes"
            raise InputError(f"model {_printable(path)} {what}; legal: an ONNX file of 1 to {MAX_FILE_BYTES} bytes")
        return decoded(path.read_bytes(), path.name)
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise InputError(f"model {_printable(path)} {what}; legal: a readable ONNX file") from error
    except ValueError as error:  # a path with a null byte
        raise InputError(f"model {str(path)!r} is not a path ({_first_line(error)})") from error


class _Reader(TensorReader):
    """State of reading one model; every method either returns or raises InputError."""

    def __init__(self, model: "onnx.ModelProto", name: str, folder: Path | None) -> None:
        super().__init__(name, folder)
        self.model, self.graph = model, model.graph

    def read(self) -> Graph:
        self.check_printable()
        self.check_header()
        self.check_operators()
        constants = self.constants()
        nodes = tuple(self.node(i, n) for i, n in enumerate(self.graph.node))
        inputs = {v.name: self.input_shape(v) for v in self.graph.input if v.name not in constants}
        outputs = tuple(v.name for v in self.graph.output)
        nodes = self.typed_nodes(nodes)
        self.check_infinite(nodes, constants)
        ordered = self.ordered(nodes, {*constants, *inputs}, outputs)
        return Graph(self.name.removesuffix(".onnx"), ordered, constants, inputs, outputs)

    def check_printable(self) -> None:
        """Refuses unprintable names, which would reach messages and terminals."""
        graph = self.graph
        names = [v.name for v in (*graph.input, *graph.output, *graph.initializer, *graph.node)]
        names += [n for node in graph.node for n in (node.op_type, *node.input, *node.output)]
        names += [a.name for node in graph.node for a in node.attribute]
        names += [n for t in graph.initializer for e in t.external_data for n in (e.key, e.value)]
        # Protocol buffers return bytes for invalid UTF-8.
        bad = next((n for n in names if not (isinstance(n, str) and n.isprintable())), None)
        if bad is not None:
            raise self.fail(f"name {bad!r}; legal: characters that print")

    def check_header(self) -> None:
        import onnx

        versions = [o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        newest = onnx.defs.onnx_opset_version()
        if not self.graph.output or not versions:
            raise self.fail("not an ONNX model: no outputs or no operator set; legal: a whole ONNX model")
        if versions[0] > newest or (versions[0] < OLDEST_OPSET and not self.unchanged_since(versions[0])):
            raise self.fail(f"operator set {versions[0]}; legal: {OLDEST_OPSET} to {newest}")
        if self.graph.sparse_initializer:
            raise self.fail("sparse weights; legal: dense ones")

    def unchanged_since(self, version: int) -> bool:
        """Whether the definition of every operator is unchanged from ``version`` to `OLDEST_OPSET`."""
        from onnx.defs import SchemaError, get_schema

        kinds = {n.op_type for n in self.graph.node if n.domain in ("", "ai.onnx")}
        try:
            return all(get_schema(kind, OLDEST_OPSET, "").since_version <= version for kind in kinds)
        except SchemaError:
            return False

    # Operators and attributes

    def label(self, index: int, node: "onnx.NodeProto") -> str:
        return node.name or f"{node.op_type}_{index}"

    def check_operators(self) -> None:
        reasons = [
            f"{self.label(i, n)} ({n.op_type}): {reason}"
            for i, n in enumerate(self.graph.node)
            if (reason := self.unsupported(n))
        ]
        if reasons:
            raise self.fail(f"{len(reasons)} unsupported operators: {'; '.join(reasons)}")

    def unsupported(self, node: "onnx.NodeProto") -> str | None:
        import onnx

        kinds = onnx.AttributeProto
        if node.op_type == "Quant" and node.domain in QUANT_DOMAINS:
            return None
        if node.domain not in ("", "ai.onnx") and _custom(node) not in operators():
            return f"operators of domain {node.domain!r} are not known"
        if any(a.type in (kinds.GRAPH, kinds.GRAPHS) for a in node.attribute):
            return "control flow has no fixed schedule"
        if any(a.name == "block_size" and a.i for a in node.attribute):
            return "scales per block"
        if _op(node) not in operators() or node.op_type == "Quant":
            return "no integer or reference implementation"
        return None

    def node(self, index: int, node: "onnx.NodeProto") -> Node:
        label = self.label(index, node)
        if not any(node.output):
            raise self.fail(f"node {label} has no output")
        attributes = {a.name: self.attribute(label, a) for a in node.attribute}
        return Node(_op(node), label, tuple(node.input), tuple(node.output), attributes)

    def attribute(self, label: str, a: "onnx.AttributeProto") -> Attribute:
        import onnx

        kinds = onnx.AttributeProto
        if a.type == kinds.TENSOR:
            return self.array(f"{label}.{a.name}", a.t)
        plain: dict[int, Attribute] = {
            kinds.INT: a.i, kinds.FLOAT: a.f, kinds.INTS: tuple(a.ints), kinds.FLOATS: tuple(a.floats),
        }  # fmt: skip
        if a.type in plain:
            return plain[a.type]
        if a.type == kinds.STRING:
            return _printable(a.s.decode("utf-8"))
        if a.type == kinds.STRINGS:
            return tuple(_printable(s.decode("utf-8")) for s in a.strings)
        raise self.fail(f"node {label}: attribute {a.name} has type {a.type}; legal: numbers, text and tensors")

    # Tensors

    def constants(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for tensor in self.graph.initializer:
            if tensor.name in found:
                raise self.fail(f"initializer {tensor.name} is there twice")
            found[tensor.name] = self.array(tensor.name, tensor)
        return found

    # Inputs

    def input_shape(self, value: "onnx.ValueInfoProto") -> Shape:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type not in FLOATS:
            raise self.fail(f"input {value.name} has element type {kind.elem_type}; legal: float")
        if not kind.HasField("shape"):
            raise self.fail(f"input {value.name} has no shape; legal: fixed sizes, and a batch axis of any size or 1")
        shape = tuple(self.size(value.name, i, d) for i, d in enumerate(kind.shape.dim))
        if math.prod(shape) > MAX_ELEMENTS:
            raise self.fail(f"input {value.name} has shape {shape}; legal: at most {MAX_ELEMENTS} elements")
        return shape

    def size(self, name: str, axis: int, dim: "onnx.TensorShapeProto.Dimension") -> int:
        if dim.HasField("dim_value"):
            if dim.dim_value < 1:
                raise self.fail(f"input {name} has size {dim.dim_value} on axis {axis}; legal: at least 1")
            return dim.dim_value
        if axis:
            raise self.fail(
                f"input {name} has dynamic size {dim.dim_param or '?'!r} on axis {axis}; legal: only the batch axis 0"
            )
        return 1

    # Whole graph

    def typed_nodes(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """Add attributes derived from the inputs' element types, which widened constants no longer have."""
        types = {t.name: t.data_type for t in self.graph.initializer}
        types.update((v.name, v.type.tensor_type.elem_type) for v in self.graph.input if v.name not in types)
        for proto in self.graph.node:
            if proto.op_type == "Constant" and proto.attribute and proto.attribute[0].HasField("t"):
                types[proto.output[0]] = proto.attribute[0].t.data_type
        return tuple(self.typed(n, types) for n in nodes)

    def typed(self, node: Node, types: Mapping[str, int]) -> Node:
        """Add a quantizer's integer range, from its zero point's type, or CastLike's target type."""
        if node.op == "CastLike" and node.inputs[1:] and node.inputs[1] in types:
            return replace(node, attributes={**node.attributes, "to": types[node.inputs[1]]})
        if node.op not in _ZERO_POINTS:
            return node
        position = _ZERO_POINTS[node.op]
        zero = node.inputs[position] if len(node.inputs) > position else ""
        kind = types.get(zero) or node.attributes.get("output_dtype") or 2
        ends = integer_range(kind) if isinstance(kind, int) else None
        if ends is None or ends[1] > 1 << 16 or (zero and zero not in types):
            raise self.fail(f"node {node}: output type {kind}, zero point {zero!r}; legal: constant, up to 16 bit")
        return replace(node, attributes={**node.attributes, "range": ends})

    def check_infinite(self, nodes: Iterable[Node], constants: Mapping[str, Array]) -> None:
        """Refuse infinite constants except in masks that are added or selected."""
        infinite = {n for n, a in constants.items() if a.dtype.kind == "f" and not np.isfinite(a).all()}
        for node in nodes:
            bad = infinite.intersection(node.inputs)
            if bad and node.op not in _INF_CONSUMERS:
                raise self.fail(f"tensor {min(bad)}, used by {node}, holds infinity; legal: finite weights")

    def ordered(self, nodes: tuple[Node, ...], known: set[str], outputs: tuple[str, ...]) -> tuple[Node, ...]:
        """Nodes in topological order."""
        self.check_names(nodes, known, outputs)
        users: dict[str, list[int]] = {}
        waiting = [0] * len(nodes)
        for i, node in enumerate(nodes):
            for name in {n for n in node.inputs if n and n not in known}:
                users.setdefault(name, []).append(i)
                waiting[i] += 1
        ready, order = deque(i for i, count in enumerate(waiting) if not count), []
        while ready:
            order.append(ready.popleft())
            for user in (u for name in nodes[order[-1]].outputs for u in users.get(name, ())):
                waiting[user] -= 1
                if not waiting[user]:
                    ready.append(user)
        if len(order) != len(nodes):
            stuck = next(n for i, n in enumerate(nodes) if waiting[i])
            raise self.fail(f"node {stuck} depends on itself through a cycle; legal: a graph without cycles")
        return tuple(nodes[i] for i in order)

    def check_names(self, nodes: tuple[Node, ...], known: set[str], outputs: tuple[str, ...]) -> None:
        made = Counter(name for node in nodes for name in node.outputs if name)
        twice = next((n for n, count in made.items() if count > 1 or n in known), None)
        if twice is not None:
            raise self.fail(f"tensor {twice} is made twice; legal: once")
        for node in nodes:
            missing = next((n for n in node.inputs if n and n not in known and n not in made), None)
            if missing is not None:
                raise self.fail(f"node {node} needs {missing!r}, which nothing in the model makes")
        lost = next((n for n in outputs if n not in made and n not in known), None)
        if lost is not None:
            raise self.fail(f"output {lost!r} is made by nothing in the model")


def _custom(node: "onnx.NodeProto") -> str:
    """Operator name with its domain, as third-party operators are named in `codesign.frontend.operators`."""
    return f"{node.domain}.{node.op_type}"


def _op(node: "onnx.NodeProto") -> str:
    """Operator name as in `codesign.frontend.operators`."""
    return node.op_type if node.domain in ("", "ai.onnx", *QUANT_DOMAINS) else _custom(node)
