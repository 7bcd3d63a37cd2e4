"""Edits of an ONNX model tensor by tensor, and the matrix products that read a tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx
from onnx import helper, numpy_helper

from codesign.frontend.operators.call import Array, Call, Ints
from codesign.frontend.operators.movement import layout
from codesign.frontend.workload import Workload
from codesign.quant.match.graph import Product, unused
from codesign.quant.match.patterns import Patterns
from codesign.quant.match.views import Floats, pick

QUANT_DOMAIN = "qonnx.custom_op.general"


# Readers of a tensor -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reader:
    """A product that reads a tensor, possibly rearranged.

    Attributes:
        product: the product.
        element: flat index into the tensor of each factor, ``[rows, k]``; -1 is zero.
    """

    product: Product
    element: Ints

    def channels(self, width: int, period: int = 1) -> Ints | None:
        """Channel ``element // period % width`` of each factor of a row; None if rows differ."""
        if np.any(self.element < 0):
            return None
        channel = self.element // period % width
        return np.asarray(channel[0]) if np.all(channel == channel[:1]) else None


def readers(patterns: Patterns, tensor: str) -> tuple[Reader, ...] | None:
    """Products with float weights that read a tensor; None if anything else reads it too."""
    workload = patterns.workload
    if tensor in workload.outputs:
        return None
    shape = workload.shapes[tensor]
    places = {tensor: np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)}
    found = []
    for node in workload.nodes:
        if not places.keys() & set(node.inputs):
            continue
        if patterns.kind(node.outputs[0]) == "product":
            product = patterns.product(node.outputs[0])
            if (product.by_column and node.op != "Conv") or product.grid is not None:
                return None
            found.append(Reader(product, pick(places[product.source], product.demand)))
        elif node.op in layout() and node.op != "Concat" and node.inputs[0] in places:
            rest = [patterns.values[n] if n else None for n in node.inputs[1:]]
            moved = patterns.evaluate(node, [places[node.inputs[0]], *rest])
            places.update((n, x) for n, x in zip(node.outputs, moved, strict=False) if n)
        else:
            return None
    return tuple(found) or None


# Changes ---------------------------------------------------------------------------------


class Edit:
    """A copy of a model under edit; `finish` returns it.

    Args:
        model: the original, which stays unchanged.
        workload: parsed from the model.
    """

    def __init__(self, model: onnx.ModelProto, workload: Workload) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.workload = workload
        self._first: list[onnx.NodeProto] = []
        self._chains: dict[str, list[tuple[str, list[str]]]] = {}
        self._weights: dict[str, tuple[int, str]] = {}
        graph = self.model.graph
        self._taken = {n for node in graph.node for n in (*node.output, *node.input, node.name)}
        self._taken |= {v.name for v in (*graph.initializer, *graph.input, *graph.output)}

    def append(self, tensor: str, op: str, value: Array) -> None:
        """Inserts an operator with a constant operand behind a tensor, whose readers then read the result."""
        self._chains.setdefault(tensor, []).append((op, [self._constant(f"{tensor}.{op.lower()}", value)]))

    def quantize(self, tensor: str, scale: float, bits: int) -> None:
        """Inserts a signed per-tensor quantizer behind a tensor."""
        self._chains.setdefault(tensor, []).append(("Quant", self._parameters(tensor, np.array(scale), bits)))

    def add(self, product: Product, value: Floats) -> None:
        """Increases the matrix product ``x @ w`` that a node computes by a constant per output channel.

        The constant becomes an ``Add`` behind the node, shaped so that it broadcasts along the channels of the output:
        the last axis of a MatMul or Gemm, axis 1 of a Conv, the last but one of a MatMul with the weights on the left.
        A Gemm gives ``alpha * x @ w + beta * c``, so there the constant is multiplied by alpha first. With alpha 0.5
        and the value ``[2, 0]``, channel 0 of the Gemm's output grows by 1.

        Args:
            product: the product; its node may have a bias of its own, which stays.
            value: ``[n]``, one number per output channel; nothing is inserted if all are zero.
        """
        if not np.any(value):
            return
        node = product.node
        gain = Call(node.attributes, []).real("alpha", 1.0) if node.op == "Gemm" else 1.0
        behind = len(self.workload.shapes[node.outputs[0]]) - 2 if node.op == "Conv" else int(product.by_column)
        self.append(node.outputs[0], "Add", (gain * value).reshape(-1, *(1,) * behind))

    def weights(self, product: Product, matrix: Floats, scales: Floats | None = None, bits: int = 8) -> None:
        """Replaces the weights of a product by ``[n, k]``; with scales, quantized per output channel."""
        node, label = product.node, f"{product.node.outputs[0]}.weight"
        left = product.by_column and node.op != "Conv"
        position = 0 if left else 1
        shape = self.workload.shapes[node.inputs[position]]
        rows_first = left or node.op == "Conv" or bool(node.op == "Gemm" and node.attributes.get("transB"))
        value = self._constant(label, (matrix if rows_first else matrix.T).reshape(shape))
        if scales is not None:
            along = [1] * len(shape)
            along[-2 if left else 0 if rows_first else -1] = len(matrix)
            parameters = self._parameters(label, scales.reshape(along), bits)
            made = self._name(f"{label}.quantized")
            self._first.append(self._node("Quant", [value, *parameters], made, f"{label}/Quant", narrow=True))
            value = made
        self._weights[node.outputs[0]] = position, value

    def finish(self) -> onnx.ModelProto:
        """The edited model, without nodes and constants that are no longer needed."""
        graph = self.model.graph
        renamed: dict[str, str] = {}
        behind = {tensor: self._chain(tensor, renamed) for tensor in self._chains}
        made = [*self._first, *(n for name in renamed for n in behind[name])]
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = renamed.get(name, name)
            for name, (position, value) in self._weights.items():
                if name in node.output:
                    node.input[position] = value
            made += [node, *self._follow(node, behind)]
        live = _live(made, {v.name for v in graph.output})
        del graph.node[:], graph.value_info[:]
        graph.node.extend(live)
        self._drop_unused()
        if not any(o.domain == QUANT_DOMAIN for o in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(QUANT_DOMAIN, 1))
        return self.model

    def _follow(self, node: onnx.NodeProto, behind: Mapping[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
        """Nodes inserted behind a node's outputs; the last one takes over the output's name."""
        found = []
        for i, name in enumerate(node.output):
            if name in behind:
                node.output[i] = behind[name][0].input[0]
                found += behind[name]
        return found

    def _chain(self, tensor: str, renamed: dict[str, str]) -> list[onnx.NodeProto]:
        """Nodes inserted behind a tensor; a model input keeps its name and its readers are renamed."""
        steps = self._chains[tensor]
        if tensor in self.workload.inputs:
            names = [tensor, *(self._name(f"{tensor}.{op.lower()}") for op, _ in steps)]
            renamed[tensor] = names[-1]
        else:
            names = [self._name(f"{tensor}.{i}") for i in range(len(steps))] + [tensor]
        return [
            self._node(op, [source, *operands], target, f"{tensor}/{op}")
            for (op, operands), (source, target) in zip(steps, pairwise(names), strict=True)
        ]

    def _node(self, op: str, inputs: list[str], output: str, label: str, narrow: bool = False) -> onnx.NodeProto:
        """A node named ``label``, with a number if that is taken; a ``Quant`` is signed and rounds half to even."""
        if op != "Quant":
            return helper.make_node(op, inputs, [output], self._name(label))
        node = helper.make_node(op, inputs, [output], self._name(label), domain=QUANT_DOMAIN)
        attributes = {"signed": 1, "narrow": int(narrow), "rounding_mode": "ROUND"}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        return node

    def _name(self, wanted: str) -> str:
        """An unused name."""
        return unused(wanted, self._taken, "_")

    def _constant(self, wanted: str, value: Array) -> str:
        """Adds a float32 constant; returns its name."""
        made = self._name(wanted)
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), made))
        return made

    def _parameters(self, tensor: str, scale: Array, bits: int) -> list[str]:
        values = {"scale": scale, "zero_point": np.zeros(()), "bits": np.array(bits)}
        return [self._constant(f"{tensor}.{key}", value) for key, value in values.items()]

    def _drop_unused(self) -> None:
        """Removes initializers that no node reads."""
        graph = self.model.graph
        used = {n for node in graph.node for n in node.input} | {v.name for v in graph.output}
        kept = [t for t in graph.initializer if t.name in used]
        inputs = [v for v in graph.input if v.name in self.workload.inputs]
        del graph.initializer[:], graph.input[:]
        graph.initializer.extend(kept)
        graph.input.extend(inputs)


def _live(nodes: list[onnx.NodeProto], needed: set[str]) -> list[onnx.NodeProto]:
    """Nodes that an output depends on, still in execution order."""
    live = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            live.append(node)
            needed.update(node.input)
    return live[::-1]


# Branches --------------------------------------------------------------------------------


def forked(model: onnx.ModelProto, workload: Workload) -> onnx.ModelProto:
    """Gives norm outputs and model inputs separate names for products and for sums; the function stays the same.

    So each of the two can get its own quantizer.
    """
    patterns = Patterns(workload)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    taken = {n for node in graph.node for n in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    branches = {t: _branches(patterns, t, taken) for t in _shared(patterns)}
    nodes = [n for t in workload.inputs if t in branches for n in branches[t].nodes]
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in branches and node.output:
                node.input[i] = branches[name].names.get(node.output[0], name)
        nodes += [node, *(n for t in node.output if t in branches for n in branches[t].nodes)]
    del graph.node[:]
    graph.node.extend(nodes)
    return made


_BOTH = frozenset({"stream", "operand"})


def _shared(patterns: Patterns) -> list[str]:
    """Norm outputs and model inputs that are read both by sums and as operands."""
    both = [name for name, use in patterns.uses.items() if use >= _BOTH]
    return [n for n in both if patterns.kind(patterns.affine(n).origin) in ("norm", "input")]


@dataclass(frozen=True)
class _Branches:
    """New names of a tensor, by first output of the reading node, and the Identity nodes that make them."""

    names: Mapping[str, str]
    nodes: list[onnx.NodeProto]


def _branches(patterns: Patterns, tensor: str, taken: set[str]) -> _Branches:
    """A name per kind of use; a node that passes the tensor on to both kinds keeps the original."""
    labels: dict[str, str] = {}
    names: dict[str, str] = {}
    for node in patterns.workload.nodes:
        use = patterns.reads(node, patterns.uses).get(tensor, frozenset())
        if tensor in node.inputs and not use >= _BOTH:
            label = "operand" if "operand" in use else "stream"
            labels.setdefault(label, unused(f"{tensor}.{label}", taken, "_"))
            names[node.outputs[0]] = labels[label]
    return _Branches(names, [helper.make_node("Identity", [tensor], [name], name) for name in labels.values()])
