"""Recognition of the structure of a float graph, from which lowering builds layers.

Every tensor is an affine function of the elements of one *origin*: a matrix product, a norm, a quantizer,
a residual sum, a function, or a model input. Operators that only move, scale or shift elements (reshapes,
splits, class tokens, position tables, biases, masks, gains) are represented by an array per tensor with
the origin's element for each of its elements. So nothing below depends on the spelling of a file, and
nothing names a model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from codesign.frontend.onnx_reader import Node
from codesign.frontend.operators.call import Array, Call
from codesign.frontend.operators.custom import custom_operators
from codesign.frontend.operators.elementwise import elementwise
from codesign.frontend.operators.movement import layout
from codesign.frontend.workload import Workload
from codesign.quant.match.graph import WorkloadGraph
from codesign.quant.match.routes import mixtures
from codesign.quant.match.views import Affine, Floats, shifted

_LINEAR = ("Add", "Sub", "Mul", "Div", "Neg")
_FLOAT_TYPES = (1, 10, 11, 16)

_REASONS = {
    "Add": "adds tensors of different shapes",
    "Concat": "joins two computed tensors",
    "Conv": "its weights are not constant or its batch is not 1",
    "DequantizeLinear": "no QuantizeLinear before it, or its parameters are not constant",
    "Div": "divides by a computed tensor outside a norm",
    "Gemm": "its weights are not constant",
    "MatMul": "its constant operand is not a matrix",
    "Mul": "multiplies two computed tensors",
    "Quant": "its scale, zero point or bit width is not constant",
    "QuantizeLinear": "its scale or zero point is not constant",
    "ReduceMean": "a mean outside a norm; use a class token",
    "ReduceSum": "a sum outside a norm; use a class token",
    "Softmax": "not over the last axis",
    "Sub": "subtracts two computed tensors",
}
"""Why no pattern covers a node, by its operator."""


@dataclass(frozen=True)
class NormMatch:
    """A layer or RMS norm over the last axis, before gain and bias."""

    source: str
    eps: float
    rms: bool


class Patterns(WorkloadGraph):
    """Recognises structure in a workload.

    Attributes:
        kinds: kind per computed tensor: input, quant, product, matmul, softmax, norm, function, sum, custom (an
        operator of another package), moved (an affine rearrangement), integer (inside a quantizer pair), mixture
        (a weighted sum of experts), inside (between the router and sum of a mixture) or unknown.
        norms: norm that produces each tensor of kind norm.
        mixtures: mixtures of experts by the tensor of their sum.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.kinds: dict[str, str] = dict.fromkeys(workload.inputs, "input")
        self._origins: dict[str, str] = {n: n for n in workload.inputs}
        self._bases: dict[str, tuple[str, bool]] = {}
        self.norms: dict[str, NormMatch] = {}
        self._absorbed: set[str] = set()
        for node in workload.nodes:
            self._classify(node)
        self.mixtures, self._faults = mixtures(self)
        self._place_mixtures()

    def _place_mixtures(self) -> None:
        for name, mixture in self.mixtures.items():
            self.kinds.update(dict.fromkeys(mixture.inside, "inside") | {name: "mixture"})
            self._origins[name] = name
            self._absorbed |= mixture.inside
        for _, cone in self._faults.values():
            self._absorbed |= {name for name in cone if self.kinds[name] == "unknown"}

    def kind(self, name: str) -> str:
        """Kind of a tensor, see `kinds`; "constant" if it depends on constants only."""
        return "constant" if name in self.values else self.kinds[name]

    def unknown(self) -> list[tuple[Node, str]]:
        """Nodes not covered by any pattern, each with the reason."""
        read = {*self.workload.outputs, *(name for node in self.workload.nodes for name in node.inputs)}
        bad = {name for name, kind in self.kinds.items() if kind == "unknown" and name in read}
        made = [n for n in self.workload.nodes if bad.intersection(n.outputs)]
        lost = [n for n in made if not self._absorbed.intersection(n.outputs)]
        reasons = {name: reason for name, (reason, _) in self._faults.items()}
        return [(n, reasons.get(n.outputs[0], _REASONS.get(n.op, "no integer layer does this"))) for n in lost]

    # Readers of a tensor

    @cached_property
    def uses(self) -> Mapping[str, frozenset[str]]:
        """Kinds of use of each tensor, directly or rearranged.

        "stream" (by sums and norms, 16 bit), "operand" (by products and functions, 8 bit) or "output".
        """
        found: dict[str, frozenset[str]] = {}
        for node in reversed(self.workload.nodes):
            for name, use in self.reads(node, found).items():
                found[name] = found.get(name, frozenset()) | use
        return found

    def reads(self, node: Node, uses: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
        """Kinds of use of a node's inputs, given those of its outputs."""
        kind, found = self.kind(node.outputs[0]), frozenset[str]().union(*(uses.get(n, ()) for n in node.outputs))
        if any(n in self.workload.outputs for n in node.outputs):
            found |= {"output"}
        if self._absorbed.intersection(node.outputs) or not found:
            return {}
        if kind == "norm":
            return {self.norms[node.outputs[0]].source: frozenset({"stream"})}
        if kind == "mixture":
            mixture = self.mixtures[node.outputs[0]]
            return dict.fromkeys(mixture.outputs, frozenset({"stream"})) | {mixture.logits: frozenset({"operand"})}
        if kind not in ("moved", "quant", "integer") or self._narrow(node):
            found = frozenset({"stream" if kind == "sum" else "operand"})
        return {n: found for n in node.inputs if n in self.kinds}

    def _narrow(self, node: Node) -> bool:
        """Whether a node produces 8-bit values."""
        if self.kind(node.outputs[0]) != "quant" or self.quantizer_fault(node) is not None:
            return False
        return self.quantizer(node.outputs[0]).bits == 8

    @cached_property
    def post_norm(self) -> bool:
        """Whether norms write the residual stream, instead of only reading it."""
        return any(kind == "norm" and "stream" in self.uses.get(name, ()) for name, kind in self.kinds.items())

    # Classification

    def _classify(self, node: Node) -> None:
        names = [n for n in node.inputs if n]
        if all(n in self.values for n in names):
            arguments = [self.values[n] if n else None for n in node.inputs]
            self.values.update(zip(node.outputs, self.evaluate(node, arguments), strict=False))
            return
        kind = self._kind(node)
        origin = self._common_origin(node) if kind == "moved" else None
        if kind == "moved" and origin is None:
            kind = "unknown"
        for i, name in enumerate(node.outputs):
            self.kinds[name] = "unknown" if i and node.op != "Split" else kind
            self._origins[name] = name if origin is None else origin

    def _kind(self, node: Node) -> str:
        if node.op in ("MatMul", "Gemm", "Conv"):
            return self._product_kind(node)
        if node.op in ("Quant", "QuantizeLinear", "DequantizeLinear"):
            return self._quantizer_kind(node)
        if node.op in ("LayerNormalization", "RMSNormalization"):
            return self._whole_norm(node)
        if node.op == "Softmax":
            rank = len(self.workload.shapes[node.inputs[0]])
            return "softmax" if node.attributes.get("axis", -1) in (-1, rank - 1) else "unknown"
        if node.op in ("Where", "Cast", "BatchNormalization") or node.op in layout():
            return self._moved_kind(node)
        if node.op in custom_operators():
            fixed = all(n in self.values for n in node.inputs[1:] if n)
            return "custom" if fixed and len(node.outputs) == 1 else "unknown"
        return self._elementwise_kind(node) if node.op in elementwise() else "unknown"

    def _product_kind(self, node: Node) -> str:
        constant = [name in self.values for name in node.inputs if name]
        shapes = [self.workload.shapes[name] for name in node.inputs[:2]]
        if node.op == "MatMul" and not any(constant):
            return "matmul"
        if node.op == "Conv":
            return "product" if all(constant[1:]) and shapes[0][0] == 1 else "unknown"
        if node.op == "MatMul" and constant[0]:
            narrow = math.prod(shapes[0][:-2]) * math.prod(shapes[1][:-2]) == 1 and len(shapes[1]) > 1
            return "product" if narrow and len(shapes[0]) > 1 else "unknown"
        weights_are_matrix = len(shapes[1]) > 1 and math.prod(shapes[1][:-2]) == 1
        return "product" if all(constant[1:]) and weights_are_matrix else "unknown"

    def _quantizer_kind(self, node: Node) -> str:
        if not all(name in self.values for name in node.inputs[1:] if name):
            return "unknown"
        if node.op == "DequantizeLinear":
            return "quant" if self.kind(node.inputs[0]) == "integer" else "unknown"
        return "quant" if node.op == "Quant" else "integer"

    def _moved_kind(self, node: Node) -> str:
        if node.op == "Where":
            return "moved" if node.inputs[0] in self.values or self._is_nan_guard(node) else "unknown"
        if node.op == "Cast":
            return "moved" if node.attributes.get("to") in _FLOAT_TYPES else "unknown"
        moving = node.inputs if node.op == "Concat" else node.inputs[:1]
        steady = [n for n in node.inputs if n and n not in moving]
        return "moved" if all(n in self.values for n in steady) else "unknown"

    def _is_nan_guard(self, node: Node) -> bool:
        """Whether a Where replaces the NaN of fully masked rows, which do not occur."""
        maker = self.makers.get(node.inputs[0])
        if maker is None or maker.op != "IsNaN" or maker.inputs[0] != node.inputs[2]:
            return False
        self._absorbed.add(node.inputs[0])
        return node.inputs[1] in self.values

    def _common_origin(self, node: Node) -> str | None:
        """Single origin of the tensors that a node moves; None if there is none or several."""
        moving = node.inputs if node.op in ("Concat", "Where", "Add", "Sub", "Mul", "Div") else node.inputs[:1]
        origins = {self._origins.get(n, n) for n in moving if n and n not in self.values}
        if node.op == "Where":
            origins.discard(node.inputs[0])
        return origins.pop() if len(origins) == 1 else None

    def _elementwise_kind(self, node: Node) -> str:
        if node.op == "Clip" and self.kind(node.inputs[0]) == "integer":
            return "integer" if all(n in self.values for n in node.inputs[1:] if n) else "unknown"
        moving = [n for n in node.inputs if n and n not in self.values]
        curved = self._pointwise(node, moving)
        if node.op in _LINEAR and len(moving) == 1 and (node.op != "Div" or moving[0] == node.inputs[0]):
            return "moved"
        if curved:
            return "function"
        norm = self._decomposed_norm(node)
        if norm is not None:
            self.norms[node.outputs[0]] = norm
            return "norm"
        shapes = {self.workload.shapes[n] for n in moving}
        return "sum" if node.op == "Add" and len(moving) == 2 and len(shapes) == 1 else "unknown"

    # Functions of one variable

    def _pointwise(self, node: Node, moving: list[str]) -> bool:
        """Records whether a node is a function of one earlier tensor; True if it is not just affine."""
        if any(self.values[n].size != 1 for n in node.inputs if n in self.values):
            return False
        found = {self._bases.get(n, (n, False)) for n in moving}
        bases = {base for base, _ in found}
        shapes = {self.workload.shapes[n] for n in (*moving, *node.outputs)}
        if len(bases) != 1 or len(shapes) != 1:
            return False
        curved = any(c for _, c in found) or node.op not in _LINEAR or len(moving) > 1 or moving[0] != node.inputs[0]
        self._bases[node.outputs[0]] = (bases.pop(), curved)
        return curved

    def base(self, name: str) -> str:
        """Argument tensor of a function."""
        return self._bases[name][0]

    def apply(self, name: str, x: Floats) -> Floats:
        """Evaluates a function at many values of its argument."""
        return np.asarray(self._run(name, {self.base(name): x}), np.float64)

    def _run(self, name: str, done: dict[str, Array]) -> Array:
        if name in self.values:
            return self.values[name].reshape(())
        if name not in done:
            node = self.node(name)
            done[name] = self.evaluate(node, [self._run(n, done) if n else None for n in node.inputs])[0]
        return done[name]

    # Norms

    def _whole_norm(self, node: Node) -> str:
        rank = len(self.workload.shapes[node.inputs[0]])
        fixed = all(n in self.values for n in node.inputs[1:] if n)
        eps = node.attributes.get("epsilon", 1e-5)
        if not fixed or node.attributes.get("axis", -1) not in (-1, rank - 1) or not isinstance(eps, float):
            return "unknown"
        self.norms[node.outputs[0]] = NormMatch(node.inputs[0], eps, node.op == "RMSNormalization")
        return "norm"

    def _decomposed_norm(self, node: Node) -> NormMatch | None:
        """Matches ``d / sqrt(mean(d * d) + eps)`` with ``d = x - mean(x)``, or ``d = x``."""
        if node.op not in ("Div", "Mul") or len(node.inputs) != 2:
            return None
        pairs, power = ([node.inputs], 0.5) if node.op == "Div" else ([node.inputs, node.inputs[::-1]], -0.5)
        for d, root in pairs:
            eps = self._root_of_mean_square(d, root, power)
            if eps is not None:
                return self._centred(d, eps)
        return None

    def _root_of_mean_square(self, d: str, root: str, power: float) -> float | None:
        """Returns eps if ``root == (mean(d * d) + eps) ** power``, else None."""
        added = self.maker(self._under_root(root, power), "Add")
        eps = next((n for n in added.inputs if n in self.values), None) if added else None
        if added is None or eps is None or self.values[eps].size != 1:
            return None
        variance = next(n for n in added.inputs if n != eps)
        square = self._mean_of(variance)
        if square is None or not self._is_square(square, d):
            return None
        self._absorbed.add(variance)
        return float(self.values[eps].ravel()[0])

    def _under_root(self, name: str | None, power: float) -> str | None:
        """Base of a power (0.5 or -0.5), in any spelling; None if the tensor is none."""
        node = self.makers.get(name or "")
        if node is None:
            return None
        if (node.op == "Sqrt" and power > 0) or (node.op == "Pow" and self.scalar(node.inputs[1]) == power):
            return node.inputs[0]
        if power < 0 and node.op == "Reciprocal":
            return self._under_root(node.inputs[0], -power)
        if power < 0 and node.op == "Div" and self.scalar(node.inputs[0]) == 1:
            return self._under_root(node.inputs[1], -power)
        return None

    def _mean_of(self, name: str) -> str | None:
        """Tensor whose mean over the last axis, with keepdims, a tensor is; None if it is no mean."""
        node = self.maker(name, "ReduceMean")
        if node is None or node.attributes.get("keepdims", 1) != 1:
            return None
        given = self.values.get(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get("axes")
        axes = [] if given is None else np.asarray(given).ravel().tolist()
        return node.inputs[0] if axes in ([-1], [len(self.workload.shapes[name]) - 1]) else None

    def _is_square(self, name: str, d: str) -> bool:
        power, product = self.maker(name, "Pow"), self.maker(name, "Mul")
        if power is not None:
            return power.inputs[0] == d and self.scalar(power.inputs[1]) == 2
        return product is not None and set(product.inputs) == {d}

    def _centred(self, d: str, eps: float) -> NormMatch:
        """A layer norm if d is a tensor minus its mean, else an RMS norm of d."""
        node = self.maker(d, "Sub")
        if node is not None and self._mean_of(node.inputs[1]) == node.inputs[0]:
            self._absorbed.update((d, node.inputs[1]))
            return NormMatch(node.inputs[0], eps, rms=False)
        return NormMatch(d, eps, rms=True)

    # Affine views

    def affine(self, name: str) -> Affine:
        """View of a tensor as an affine function of its origin."""
        if name in self.values:
            value = np.asarray(self.values[name], np.float64)
            return Affine("", np.full(value.shape, -1, np.int64), np.zeros(value.shape), value)
        if self.kinds[name] != "moved":
            return self._origin_view(name)
        node = self.node(name)
        if node.op == "Concat":
            return self._join(node)
        if node.op == "Where":
            return self._select(node)
        if node.op in layout() or node.op == "Cast":
            return self._move(node, name)
        return self._scale(node)

    def _origin_view(self, name: str) -> Affine:
        shape = self.workload.shapes[name]
        index = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
        view = Affine(name, index, np.broadcast_to(1.0, shape), np.broadcast_to(0.0, shape))
        node = self.makers.get(name)
        if node is None:
            return view
        if node.op == "Gemm":
            alpha, beta = Call(node.attributes, []).real("alpha", 1.0), Call(node.attributes, []).real("beta", 1.0)
            return shifted(view, np.float64(alpha), beta * self.optional(node, 2))
        if node.op == "Conv":
            return shifted(view, np.float64(1), self.optional(node, 2).reshape(-1, *(1,) * (len(shape) - 2)))
        if node.op in ("LayerNormalization", "RMSNormalization"):
            return shifted(view, self.values[node.inputs[1]], self.optional(node, 2))
        return view

    def _move(self, node: Node, name: str) -> Affine:
        inner = self.affine(node.inputs[0])
        if node.op == "Cast":
            return inner
        rest = [self.values[n] if n else None for n in node.inputs[1:]]
        which = node.outputs.index(name)
        parts = [self.evaluate(node, [x, *rest])[which] for x in (inner.index, inner.factor, inner.offset)]
        return Affine(inner.origin, *parts)

    def _join(self, node: Node) -> Affine:
        views = [self.affine(n) for n in node.inputs]
        parts = [self.evaluate(node, [getattr(v, part) for v in views])[0] for part in ("index", "factor", "offset")]
        return Affine(next(v.origin for v in views if v.origin), *parts)

    def _select(self, node: Node) -> Affine:
        """View of a Where: the guarded tensor, or a choice of two per element."""
        if node.inputs[0] not in self.values:
            return self.affine(node.inputs[2])
        condition = self.values[node.inputs[0]].astype(np.bool_)
        a, b = self.affine(node.inputs[1]), self.affine(node.inputs[2])
        parts = [np.where(condition, getattr(a, p), getattr(b, p)) for p in ("index", "factor", "offset")]
        return Affine(a.origin or b.origin, *parts)

    def _scale(self, node: Node) -> Affine:
        """View of Add, Sub, Mul, Div by constants, Neg, or an inference-time batch norm."""
        if node.op == "BatchNormalization":
            return self._batch_norm(node)
        inner = self.affine(next(n for n in node.inputs if n not in self.values))
        if node.op == "Neg":
            return shifted(inner, np.float64(-1), np.float64(0))
        constant = self.values[next(n for n in node.inputs if n in self.values)]
        if node.op in ("Mul", "Div"):
            return shifted(inner, constant if node.op == "Mul" else 1.0 / constant, np.float64(0))
        if node.op == "Add":
            return shifted(inner, np.float64(1), constant)
        first = node.inputs[0] in self.values
        return shifted(inner, np.float64(-1 if first else 1), constant if first else -constant)

    def _batch_norm(self, node: Node) -> Affine:
        inner = self.affine(node.inputs[0])
        rest = [self.values[n] for n in node.inputs[1:]]
        one, zero = (self.evaluate(node, [np.full(inner.index.shape, x), *rest])[0] for x in (1.0, 0.0))
        return shifted(inner, one - zero, zero)
