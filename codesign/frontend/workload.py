"""Parsed model: the float graph with its quantizers, shapes and a reference evaluator.

`load_onnx` reads float, QDQ, QCDQ and QONNX files. Constants are folded while reading; quantizers
are kept, because their scales define the integer network.
"""

import html
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import InputError
from codesign.frontend.onnx_reader import Graph, Node, decoded, graph_of, read_graph
from codesign.frontend.operators.call import Array, Call, Shape, check_size
from codesign.frontend.operators.elementwise import elementwise
from codesign.frontend.operators.products import conv_shape, matmul_shape
from codesign.frontend.operators.registry import evaluate

if TYPE_CHECKING:
    import onnx

MAX_FOLDED_MACS = 1 << 32
"""Multiply-accumulate limit of one folded product of constants."""

QUANTIZERS = ("Quant", "QuantizeLinear", "DequantizeLinear")
PRODUCTS: Mapping[str, int] = {"MatMul": 1, "Gemm": 1, "Conv": 1, "MatMulInteger": 1, "QLinearMatMul": 3}
"""Operators that multiply matrices, and the index of the second operand among their inputs."""


@dataclass(frozen=True, eq=False)
class Workload:
    """The float graph of a model for one sample (batch 1).

    Attributes:
        name: the file's name without its suffix.
        nodes: nodes in execution order, without folded and unused ones.
        constants: initializers and folded values, float64, int64 or bool.
        inputs: shape per model input, batch axis included.
        outputs: shape per model output, batch axis included.
        shapes: shape of every tensor.
    """

    name: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    shapes: Mapping[str, Shape]

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """The node that computes each tensor; inputs and constants are not included."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the model's outputs for one sample.

        Args:
            inputs: an array per model input, of the input's shape (a batch axis of 1 may be omitted).

        Raises:
            InputError: a missing or unknown name, a wrong shape, values that are not finite numbers, or a node that
                makes others of them.
        """
        found = {name: value for name, value in self.tensors(inputs) if name in self.outputs}
        return {name: found[name] if name in found else self.constants[name] for name in self.outputs}

    def tensors(self, inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        """Yield (name, value) of every input and every computed tensor; see `evaluate`.

        Raises:
            InputError: also a node that makes NaN or infinity of finite numbers; infinite constants, as of masks,
                are legal.
        """
        values = self._checked(inputs)
        yield from values.items()
        uses = self._last_uses
        for i, node in enumerate(self.nodes):
            arguments = [self._value(values, name) if name else None for name in node.inputs]
            results = apply(self.name, node, arguments)
            check_finite(self.name, node, arguments, results)
            values.update(zip(node.outputs, results, strict=False))
            yield from ((n, v) for n, v in zip(node.outputs, results, strict=False) if n)
            for name in uses.get(i, ()):
                values.pop(name, None)

    def _value(self, values: Mapping[str, Array], name: str) -> Array:
        return self.constants[name] if name in self.constants else values[name]

    @cached_property
    def _last_uses(self) -> Mapping[int, list[str]]:
        """Tensors used for the last time by the node of this index."""
        last = {name: i for i, node in enumerate(self.nodes) for name in node.inputs if name}
        found: dict[int, list[str]] = {}
        for name, i in last.items():
            found.setdefault(i, []).append(name)
        return found

    def _checked(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if set(inputs) != set(self.inputs):
            raise InputError(f"{self.name}: inputs {sorted(inputs)}; legal: {sorted(self.inputs)}")
        return {name: self._sample(name, np.asarray(x)) for name, x in inputs.items()}

    def _sample(self, name: str, x: Array) -> Array:
        shape = self.inputs[name]
        if x.shape not in (shape, sample_shape(shape)) or x.dtype.kind not in "fiub":
            raise InputError(f"{self.name}: input {name} is {x.dtype} {x.shape}; legal: numbers of shape {shape}")
        value = x.reshape(shape).astype(np.float64)
        if not np.isfinite(value).all():
            raise InputError(f"{self.name}: input {name} holds NaN or infinity; legal: finite numbers")
        return value

    @property
    def macs(self) -> int:
        """Multiply-accumulates of every matrix product and convolution, counted from shapes.

        All experts of a mixture count if the file computes them for every token, unlike in `Network.macs`.
        """
        return sum(self.node_macs(node) for node in self.nodes)

    def node_macs(self, node: Node) -> int:
        """Multiply-accumulates of one node, 0 if it is not a product."""
        return _macs(node, self.shapes)

    def summary(self) -> str:
        """Table of the nodes as text: operator, name, output shape, multiply-accumulates."""
        rows = [("operator", "name", "shape", "macs"), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*(c.ljust(w) for c, w in zip(r[:3], widths, strict=True)), r[3]]).rstrip() for r in rows]
        return "\n".join([self._title(), *lines])

    def _title(self) -> str:
        ends = [f"{n} {'x'.join(map(str, s))}" for n, s in (*self.inputs.items(), *self.outputs.items())]
        size = sum(v.size for v in self.constants.values())
        return f"{self.name}: {', '.join(ends)}; {len(self.nodes)} nodes, {size} constants, {self.macs} MACs"

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (n.op, n.name, "x".join(map(str, self.shapes[n.outputs[0]])), str(self.node_macs(n) or ""))
            for n in self.nodes
        ]

    def _repr_html_(self) -> str:
        """The summary as an HTML table, for notebooks."""
        head = "".join(f"<th>{c}</th>" for c in ("operator", "name", "shape", "MACs"))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in r) + "</tr>" for r in self._rows())
        return f"<p>{html.escape(self._title())}</p><table><tr>{head}</tr>{body}</table>"


def sample_shape(shape: Shape) -> Shape:
    """Shape of one sample: without a leading batch axis of 1.

    >>> sample_shape((1, 1, 8, 8)), sample_shape((17, 64)), sample_shape((1,))
    ((1, 8, 8), (17, 64), (1,))
    """
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def load_onnx(path: str | Path) -> Workload:
    """Read an untrusted model file.

    Args:
        path: float, QDQ, QCDQ or QONNX; external data must be in the same folder. A symbolic batch
            axis becomes 1.

    Raises:
        InputError: one line with the problem, the value, and the legal values. All unsupported
            operators are listed, with their nodes.
    """
    return _folded(read_graph(Path(path)))


def parse_onnx(data: bytes, name: str = "model", folder: Path | None = None) -> Workload:
    """Like `load_onnx` for the bytes of a file; external data is allowed only in ``folder``, if given."""
    return from_proto(decoded(data, name), name, folder)


def from_proto(model: "onnx.ModelProto", name: str = "model", folder: Path | None = None) -> Workload:
    """Like `load_onnx` for a model in memory; external data is allowed only in ``folder``, if given."""
    return _folded(graph_of(model, name, folder))


# Folding and shapes --------------------------------------------------------------


def apply(model: str, node: Node, arguments: list[Array | None]) -> tuple[Array, ...]:
    """Evaluate a node.

    Args:
        model: name of the model in messages.
        node: its operator and attributes.
        arguments: an array per input, None where omitted.

    Raises:
        InputError: the operator refuses its arguments; the message names the node.
    """
    try:
        return evaluate(node.op, Call(node.attributes, arguments, len(node.outputs)))
    except (ValueError, TypeError, IndexError, ArithmeticError, MemoryError) as error:
        raise _refused(model, node, error) from error


def check_finite(model: str, node: Node, arguments: Iterable[Array | None], results: Iterable[Array]) -> None:
    """Check that a node makes no NaN and no infinity of finite numbers.

    Args:
        model: name of the model in messages.
        node: the node.
        arguments: its inputs, None where omitted.
        results: its outputs.

    Raises:
        InputError: it does; the message names the node.
    """
    bad = next((x for x in results if x.dtype.kind == "f" and not np.isfinite(x).all()), None)
    if bad is None or not all(x is None or x.dtype.kind != "f" or np.isfinite(x).all() for x in arguments):
        return
    made = "NaN" if np.isnan(bad).any() else "infinity"
    raise InputError(f"{model}: node {node} makes {made} of finite numbers; legal: samples for which none does")


def _refused(model: str, node: Node, error: Exception) -> InputError:
    return InputError(f"{model}: node {node}: {' '.join(str(error).split()) or type(error).__name__}")


class _Folder:
    """Folds constants and infers the other shapes, node by node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = dict(graph.constants)
        self.shapes: dict[str, Shape] = {n: v.shape for n, v in graph.constants.items()}
        self.shapes.update(graph.inputs)
        self.types: dict[str, np.dtype[Any]] = {}
        self.kept: list[Node] = []

    def run(self) -> None:
        for node in self.graph.nodes:
            known = all(name in self.constants for name in node.inputs if name)
            if node.op in ("Shape", "Size") or (known and node.op not in QUANTIZERS):
                self.fold(node)
            else:
                self.keep(node)

    def arguments(self, node: Node) -> list[Array | None]:
        """The node's inputs: constants as they are, others as zeros broadcast without using memory."""
        return [self.argument(name) if name else None for name in node.inputs]

    def argument(self, name: str) -> Array:
        return self.constants[name] if name in self.constants else np.broadcast_to(self.zero(name), self.shapes[name])

    def zero(self, name: str) -> Array:
        return np.zeros((), self.constants[name].dtype if name in self.constants else self.types.get(name))

    def fold(self, node: Node) -> None:
        if node.op in PRODUCTS:
            self.shapes[node.outputs[0]] = self.product_shape(node)
            macs = _macs(node, self.shapes)
            if macs > MAX_FOLDED_MACS:
                what = f"node {node} multiplies constants, {macs} MACs; legal: {MAX_FOLDED_MACS}"
                raise InputError(f"{self.graph.name}: {what}")
        results = apply(self.graph.name, node, self.arguments(node))
        for name, value in zip(node.outputs, results, strict=False):
            if value.dtype.kind == "f" and np.isnan(value).any():
                raise InputError(f"{self.graph.name}: node {node} computes NaN from constants; legal: finite values")
            self.constants[name], self.shapes[name] = value, value.shape

    def keep(self, node: Node) -> None:
        if node.op in PRODUCTS:
            shapes: tuple[Shape, ...] = (self.product_shape(node),)
        elif node.op in elementwise():
            shapes = (self.broadcast_shape(node),)
        elif node.op in QUANTIZERS and not all(n in self.constants for n in node.inputs[1:] if n):
            shapes = (self.shapes[node.inputs[0]],)
        else:
            results = apply(self.graph.name, node, self.arguments(node))
            shapes = tuple(v.shape for v in results)
            self.types.update((n, v.dtype) for n, v in zip(node.outputs, results, strict=False))
        for name, shape in zip(node.outputs, shapes, strict=False):
            self.shapes[name] = shape
        lost = [n for n in node.outputs[len(shapes) :] if n]
        if lost:
            raise InputError(f"{self.graph.name}: node {node} has outputs {lost}; legal: the first {len(shapes)}")
        self.kept.append(node)

    def broadcast_shape(self, node: Node) -> Shape:
        (made,) = apply(self.graph.name, node, [self.zero(name) if name else None for name in node.inputs])
        self.types[node.outputs[0]] = made.dtype
        try:
            return check_size(np.broadcast_shapes(*(self.shapes[n] for n in node.inputs if n)))
        except ValueError as error:
            raise _refused(self.graph.name, node, error) from error

    def product_shape(self, node: Node) -> Shape:
        try:
            call = Call(node.attributes, self.arguments(node))
            a, b = (call.array(i).shape for i in (0, PRODUCTS[node.op]))
            if node.op == "Conv":
                return conv_shape(call, a, b)
            if node.op == "Gemm":
                a, b = (s[::-1] if call.integer(t, 0) else s for s, t in ((a, "transA"), (b, "transB")))
            return matmul_shape(a, b)
        except (ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise _refused(self.graph.name, node, error) from error


def _macs(node: Node, shapes: Mapping[str, Shape]) -> int:
    if node.op not in PRODUCTS:
        return 0
    a, b = shapes[node.inputs[0]], shapes[node.inputs[PRODUCTS[node.op]]]
    if node.op == "Conv":
        return math.prod(shapes[node.outputs[0]]) * math.prod(b[1:])
    depth = a[0] if node.op == "Gemm" and node.attributes.get("transA") else a[-1]
    return math.prod(shapes[node.outputs[0]]) * depth


def _folded(graph: Graph) -> Workload:
    folder = _Folder(graph)
    folder.run()
    outputs = {n: folder.shapes[n] for n in graph.outputs}
    return pruned(Workload(graph.name, tuple(folder.kept), folder.constants, graph.inputs, outputs, folder.shapes))


def pruned(workload: Workload) -> Workload:
    """The workload without the nodes, constants and shapes that its outputs do not need; the order stays."""
    used, live = set(workload.outputs), []
    for node in reversed(workload.nodes):
        if used.intersection(node.outputs):
            live.append(node)
            used.update(node.inputs)
    constants = {n: v for n, v in workload.constants.items() if n in used}
    made = {n for node in live for n in node.outputs} | set(workload.inputs)
    shapes = {n: s for n, s in workload.shapes.items() if n in constants or n in made}
    return replace(workload, nodes=tuple(reversed(live)), constants=constants, shapes=shapes)
