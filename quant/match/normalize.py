"""Normalization of a workload to one form, whichever exporter wrote it.

Consecutive reshapes and transposes become at most one transpose between two reshapes; a ``Split``, or a
``Gather`` of one index, becomes ``Slice``; no-ops are removed; constants are second operands of Add and Mul;
default attributes and zero biases are dropped; an inference-time batch norm is folded into the product before
it; a GELU spelled with ``Erf`` becomes ``Gelu``. Names of all other nodes, and of the model's inputs and
outputs, stay.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx

from codesign.frontend.onnx_reader import Node
from codesign.frontend.operators.call import Array, Attribute, Call, Shape
from codesign.frontend.operators.registry import evaluate
from codesign.frontend.workload import PRODUCTS, Workload, pruned

_SAME = ("Identity", "Dropout", "Expand", "Slice", "Cast")
_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_FLOAT_RESULTS = (*PRODUCTS, "Gelu", "LayerNormalization", "RMSNormalization", "Softmax", "Add", "Mul")


def normalized(workload: Workload) -> Workload:
    """Normalizes a workload; values are unchanged up to the rounding of folded batch norms."""
    normal = _Normal(workload)
    nodes = tuple(normal.run())
    return pruned(replace(workload, nodes=nodes, constants=normal.constants, shapes=normal.shapes))


def _chosen(node: Node) -> dict[str, Attribute]:
    """Attributes that differ from the operator's defaults."""
    if not onnx.defs.has(node.op):
        return dict(node.attributes)
    known = onnx.defs.get_schema(node.op).attributes
    plain = {k: onnx.helper.get_attribute_value(a.default_value) for k, a in known.items() if a.default_value.name}
    plain = {k: v.decode() if isinstance(v, bytes) else v for k, v in plain.items()}
    return {k: v for k, v in node.attributes.items() if isinstance(v, np.ndarray) or k not in plain or plain[k] != v}


@dataclass(frozen=True)
class _Moved:
    """A tensor as a transpose of another one: the source seen as axes of ``sizes``, taken in ``order``."""

    source: str
    sizes: Shape
    order: Shape


def _transposed(moved: _Moved, shape: Shape, order: Shape) -> _Moved | None:
    """Composition with a transpose of a tensor of this shape; None if its axes do not align with the others."""
    groups = _split(moved, shape)
    if groups is None:
        return None
    parts = [part for group in groups for part in group]  # (axis of the source, place in it, size)
    places = {part: i for i, part in enumerate(sorted(parts))}
    sizes = tuple(part[2] for part in sorted(parts))
    return _merged(_Moved(moved.source, sizes, tuple(places[part] for a in order for part in groups[a])))


def _split(moved: _Moved, shape: Shape) -> list[list[tuple[int, int, int]]] | None:
    """Parts of the source's axes that make up each axis of a shape; None if they do not align."""
    waiting = [(axis, 0, moved.sizes[axis]) for axis in moved.order][::-1]
    groups: list[list[tuple[int, int, int]]] = []
    for size in shape:
        group: list[tuple[int, int, int]] = []
        while size > 1:
            axis, place, whole = waiting.pop() if waiting else (0, 0, 0)
            if whole == 0 or (whole % size and size % whole):
                return None
            part = min(whole, size)
            group.append((axis, place, part))
            if whole > part:
                waiting.append((axis, place + 1, whole // part))
            size //= part
        groups.append(group)
    return groups


def _merged(moved: _Moved) -> _Moved:
    """Merges axes that are adjacent both before and after."""
    runs: list[list[int]] = []
    for axis in moved.order:
        if runs and runs[-1][-1] + 1 == axis:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    first = sorted(run[0] for run in runs)
    sizes = {run[0]: math.prod(moved.sizes[a] for a in run) for run in runs}
    return _Moved(moved.source, tuple(sizes[f] for f in first), tuple(first.index(run[0]) for run in runs))


def _direct(shape: Shape, moved: _Moved, wanted: Shape) -> Shape | None:
    """Permutation of a single transpose between the two shapes; None if there is none."""
    groups = _split(replace(moved, order=tuple(range(len(moved.sizes)))), shape)
    if groups is None or len(shape) != len(wanted):
        return None
    owner = {part: axis for axis, group in enumerate(groups) for part in group}
    ones = iter(axis for axis, size in enumerate(shape) if size == 1)
    others = iter([axis for a in moved.order for axis in sorted({owner[p] for p in owner if p[0] == a})])
    order = tuple(next(ones, -1) if size == 1 else next(others, -1) for size in wanted)
    fits = sorted(order) == list(range(len(shape))) and tuple(shape[a] for a in order) == wanted
    return order if fits else None


class _Normal:
    """A workload being normalized.

    Attributes:
        constants, shapes: original and new ones.
    """

    def __init__(self, workload: Workload) -> None:
        self.constants, self.shapes = dict(workload.constants), dict(workload.shapes)
        self.nodes, self.outputs = workload.nodes, workload.outputs
        self.makers: dict[str, Node] = {}
        self.same: dict[str, str] = {}
        self.moved: dict[str, _Moved] = {}
        self.readers = Counter(n for node in workload.nodes for n in node.inputs) + Counter(list(workload.outputs))

    def run(self) -> list[Node]:
        """All nodes in normal form, including some no longer needed."""
        made: list[Node] = []
        for node in self.nodes:
            inputs = tuple(self.same.get(n, n) for n in node.inputs)
            if node.op in ("Add", "Mul") and inputs[0] in self.constants:
                inputs = inputs[::-1]
            if node.op in ("Gemm", "Conv") and inputs[2:] and self.zero(inputs[2]):
                inputs = inputs[:2]
            node = replace(node, inputs=inputs, attributes=_chosen(node))
            for new in self.rewritten(node):
                made.append(new)
                self.makers.update((n, new) for n in new.outputs if n)
        return made

    def rewritten(self, node: Node) -> Iterator[Node]:
        """Nodes that replace a node."""
        if node.op == "Split" and self.known(node.inputs[1:]):
            yield from self.slices(node)
        elif node.op == "Gather" and self.known(node.inputs[1:]) and self.constants[node.inputs[1]].size == 1:
            yield from self.selected(node)
        elif self.unchanged(node) and node.outputs[0] not in self.outputs:
            self.same[node.outputs[0]] = node.inputs[0]
        elif node.op == "Transpose" or (node.op in _VIEWS and self.known(node.inputs[1:])):
            yield from self.view(node)
        elif node.op == "Slice" and self.known(node.inputs[1:]):
            yield self.sliced(node)
        elif node.op == "BatchNormalization":
            yield from self.folded(node)
        else:
            yield self.gelu(node)

    def zero(self, name: str) -> bool:
        """Whether a tensor is a constant of zeros."""
        return name in self.constants and not self.constants[name].any()

    def known(self, names: Iterable[str]) -> bool:
        return all(n in self.constants for n in names if n)

    def constant(self, name: str, value: Array) -> str:
        """Records a constant; returns its name."""
        made = f"{name}.1" if name in self.shapes else name
        self.constants[made], self.shapes[made] = value, value.shape
        return made

    # Shapes

    def unchanged(self, node: Node) -> bool:
        """Whether a node is a no-op."""
        if node.op not in _SAME or self.shapes[node.inputs[0]] != self.shapes[node.outputs[0]]:
            return False
        if node.op == "Slice":
            return not any((self.constants[n] < 0).any() for n in node.inputs[4:5] if n in self.constants)
        wide = node.attributes.get("to") in (1, 11) and node.inputs[0] not in self.constants
        return (node.op != "Cast" or (wide and self.float_made(node.inputs[0]))) and not any(node.outputs[1:])

    def float_made(self, name: str) -> bool:
        """Whether a tensor certainly holds floats."""
        maker = self.makers.get(name)
        return maker is None or maker.op in _FLOAT_RESULTS

    def view(self, node: Node) -> Iterator[Node]:
        """Merges a reshape or transpose with those before it."""
        source, target = node.inputs[0], node.outputs[0]
        whole = _Moved(source, (math.prod(self.shapes[source]),), (0,))
        moved = self.moved.get(source, whole)
        if node.op == "Transpose":
            shape = self.shapes[source]
            order = Call(node.attributes, []).integers("perm", tuple(range(len(shape)))[::-1])
            transposed = _transposed(moved, shape, order) or _transposed(whole, shape, order)
            assert transposed is not None
            moved = transposed
        self.moved[target] = moved
        yield from self.emitted(node.name, moved, target)

    def emitted(self, name: str, moved: _Moved, target: str) -> Iterator[Node]:
        """A reshape, a transpose and a reshape, as far as needed."""
        source, order = moved.source, moved.order
        shape, wanted = self.shapes[source], self.shapes[target]
        direct = _direct(shape, moved, wanted)
        if order == tuple(sorted(order)):
            if shape == wanted and target not in self.outputs:
                self.same[target] = source
            else:
                yield self.reshape(name, source, target)
            return
        if direct is None and shape != moved.sizes:
            source = self.inner(f"{target}.axes", moved.sizes)
            yield self.reshape(f"{name}.axes", moved.source, source)
        result = tuple(moved.sizes[a] for a in order)
        last = target if direct is not None or result == wanted else self.inner(f"{target}.moved", result)
        yield Node("Transpose", name, (source,), (last,), {"perm": direct if direct is not None else order})
        if last != target:
            yield self.reshape(f"{name}.shape", last, target)

    def inner(self, name: str, shape: Shape) -> str:
        """Records a new tensor; returns its name."""
        self.shapes[name] = shape
        return name

    def reshape(self, name: str, source: str, target: str) -> Node:
        shape = self.constant(f"{target}.shape", np.array(self.shapes[target], np.int64))
        return Node("Reshape", name, (source, shape), (target,), {})

    # Parts

    def slices(self, node: Node) -> Iterator[Node]:
        """A slice per output of a split."""
        source, *sizes = node.inputs
        axis = Call(node.attributes, []).integer("axis", 0) % len(self.shapes[source])
        equal = [-(-self.shapes[source][axis] // len(node.outputs))] * len(node.outputs)
        given = self.constants[sizes[0]].tolist() if sizes and sizes[0] else equal
        start = 0
        for i, name in enumerate(node.outputs):
            if name:
                end = start + self.shapes[name][axis]
                yield self.part(f"{node.name}.{i}" if i else node.name, source, name, axis, start, end)
            start += given[i]

    def sliced(self, node: Node) -> Node:
        """A slice with explicit axes, starts and ends; steps only if any is not 1."""
        shape, rest = self.shapes[node.inputs[0]], [self.constants[n].tolist() for n in node.inputs[1:] if n]
        starts, ends = rest[:2]
        axes = rest[2] if len(rest) > 2 else list(range(len(starts)))
        steps = rest[3] if len(rest) > 3 else [1] * len(starts)
        if min(steps) < 1:
            return node
        ranges = {a % len(shape): slice(b, e, s) for a, b, e, s in zip(axes, starts, ends, steps, strict=True)}
        rows = [(a, *ranges[a].indices(shape[a])) for a in sorted(ranges)]
        labels = ("axes", "starts", "ends", "steps")
        values = {k: np.array([row[i] for row in rows], np.int64) for i, k in enumerate(labels)}
        kept = ("starts", "ends", "axes", "steps") if np.any(values["steps"] != 1) else ("starts", "ends", "axes")
        names = [self.constant(f"{node.outputs[0]}.{key}", values[key]) for key in kept]
        return replace(node, inputs=(node.inputs[0], *names))

    def part(self, name: str, source: str, target: str, axis: int, start: int, end: int) -> Node:
        """A slice along one axis."""
        values = {"starts": start, "ends": end, "axes": axis}
        ends = [self.constant(f"{target}.{key}", np.array([value], np.int64)) for key, value in values.items()]
        return Node("Slice", name, (source, *ends), (target,), {})

    def selected(self, node: Node) -> Iterator[Node]:
        """A slice of one index, reshaped."""
        shape, (target,) = self.shapes[node.inputs[0]], node.outputs
        axis = Call(node.attributes, []).integer("axis", 0) % len(shape)
        index = int(self.constants[node.inputs[1]].ravel()[0]) % shape[axis]
        inner = self.inner(f"{target}.slice", (*shape[:axis], 1, *shape[axis + 1 :]))
        made = self.part(node.name, node.inputs[0], inner, axis, index, index + 1)
        self.makers[inner] = made
        yield made
        yield from self.view(Node("Reshape", f"{node.name}.shape", (inner,), (target,), {}))

    # Batch norms and GELU

    def folded(self, node: Node) -> Iterator[Node]:
        """Folds a batch norm into the product before it if possible."""
        maker = self.makers.get(node.inputs[0])
        fits = maker is not None and maker.op in ("Gemm", "Conv") and self.readers[maker.outputs[0]] == 1
        if maker is None or not fits or not self.known((*maker.inputs[1:], *node.inputs[1:])):
            yield node
            return
        zero, one = (self.channels(node, x) for x in (0.0, 1.0))
        gain = one - zero
        weight, transposed = self.constants[maker.inputs[1]], maker.op == "Conv" or maker.attributes.get("transB")
        bias = self.constants[maker.inputs[2]] if len(maker.inputs) > 2 and maker.inputs[2] else np.zeros(len(gain))
        beta = Call(maker.attributes, []).real("beta", 1.0) if maker.op == "Gemm" else 1.0
        along = gain.reshape(-1, *(1,) * (weight.ndim - 1)) if transposed else gain
        target = node.outputs[0]
        inputs = (
            maker.inputs[0],
            self.constant(f"{target}.weight", weight * along),
            self.constant(f"{target}.bias", beta * bias * gain + zero),
        )
        attributes = {k: v for k, v in maker.attributes.items() if k != "beta"}
        yield Node(maker.op, maker.name, inputs, (target,), attributes)

    def channels(self, node: Node, value: float) -> Array:
        """Result of a batch norm for one input value in every channel."""
        count = self.constants[node.inputs[1]].size
        call = Call(node.attributes, [np.full((1, count), value), *(self.constants[n] for n in node.inputs[1:])])
        return np.asarray(evaluate(node.op, call)[0][0])

    def gelu(self, node: Node) -> Node:
        """Replaces ``x / 2 * (1 + erf(x / sqrt(2)))``, factors in any order, by one node."""
        if node.op != "Mul":
            return node
        factors = self.factors(node)
        scale = math.prod(self.scalar(n) or 1.0 for n in factors if self.scalar(n) is not None)
        moving = [n for n in factors if self.scalar(n) is None]
        bells = [(n, x) for n in moving if (x := self.bell(n)) is not None]
        if len(moving) != 2 or len(bells) != 1 or not math.isclose(scale, 0.5, rel_tol=1e-6):
            return node
        ((bell, x),) = bells
        rest = next(n for n in moving if n != bell)
        return Node("Gelu", node.name, (x,), node.outputs, {}) if rest == x else node

    def factors(self, node: Node) -> list[str]:
        """Factors of a nested product."""
        found: list[str] = []
        for name in node.inputs:
            maker = self.makers.get(name)
            found += self.factors(maker) if maker is not None and maker.op == "Mul" else [name]
        return found

    def bell(self, name: str) -> str | None:
        """The x of ``1 + erf(x / sqrt(2))``, else None."""
        maker = self.makers.get(name)
        if maker is None or maker.op != "Add" or not any(self.scalar(n) == 1 for n in maker.inputs):
            return None
        erfs = [self.makers[n] for n in maker.inputs if n in self.makers and self.makers[n].op == "Erf"]
        inner = self.makers.get(erfs[0].inputs[0]) if len(erfs) == 1 else None
        if inner is None or inner.op not in ("Div", "Mul"):
            return None
        scale = self.scalar(inner.inputs[1])
        wanted = math.sqrt(2.0) if inner.op == "Div" else math.sqrt(0.5)
        return inner.inputs[0] if scale is not None and math.isclose(scale, wanted, rel_tol=1e-6) else None

    def scalar(self, name: str) -> float | None:
        """Value of a constant with one element, else None."""
        value = self.constants.get(name)
        return float(value.ravel()[0]) if value is not None and value.size == 1 else None
