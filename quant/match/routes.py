"""Detection of mixtures of experts in a float graph, by function instead of spelling.

Exporters write a mixture that computes every expert for every token in many ways: chosen probabilities
scattered into zeros, one-hot masks, comparisons; slices, stacks or a matrix product to add the experts.
So the subgraph behind a ``TopK`` is cut where all its paths meet, and probed with numbers.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from codesign.frontend.onnx_reader import Node
from codesign.frontend.operators.call import Array
from codesign.frontend.operators.movement import layout
from codesign.quant.match.graph import WorkloadGraph
from codesign.quant.match.views import Floats

_PROBES = 64
_NEAR = 1 / 128
"""Largest error of gates, to allow for a quantizer of probabilities."""

_BEYOND = ("Quant", "QuantizeLinear", "LayerNormalization", "RMSNormalization", "ReduceMean", "Gelu")
"""Operators that never occur inside a sum of experts."""

_LEGAL = "legal: a softmax over all experts, zero but for the most probable, times each expert's result, added up"


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts.

    Attributes:
        logits: tensor read by the softmax, one token per row.
        gates: gates of all experts, quantized if the file quantizes them.
        chosen: experts per token.
        outputs: per expert the tensor weighted by its gate.
        inside: tensors between these and the sum, not read elsewhere.
    """

    logits: str
    gates: str
    chosen: int
    outputs: tuple[str, ...]
    inside: frozenset[str]


class Refused(Exception):
    """Reason why a ``TopK`` is no mixture."""


def mixtures(graph: WorkloadGraph) -> tuple[dict[str, Mixture], dict[str, tuple[str, frozenset[str]]]]:
    """Finds all mixtures of a graph.

    Returns:
        Mixtures by the tensor of their sum; and for the first output of each ``TopK`` that belongs to none,
        the reason and all tensors that depend on it.
    """
    found, faults = {}, {}
    for node in graph.workload.nodes:
        if node.op != "TopK" or node.inputs[0] in graph.values:
            continue
        finder = _Finder(graph, node)
        try:
            name, mixture = finder.run()
            found[name] = mixture
        except Refused as error:
            faults[node.outputs[0]] = str(error), finder.behind({*node.outputs})
    return found, faults


class _Finder:
    """Examines the graph around one ``TopK``."""

    def __init__(self, graph: WorkloadGraph, node: Node) -> None:
        self.graph, self.node, self.shapes = graph, node, graph.workload.shapes
        self.readers = Counter(name for reader in graph.workload.nodes for name in {*reader.inputs})

    def run(self) -> tuple[str, Mixture]:
        """Tensor of the sum, and the mixture."""
        count = self.graph.values.get(self.node.inputs[1])
        softmax = self.graph.maker(self.node.inputs[0], "Softmax")
        logits = softmax.inputs[0] if softmax is not None else self.node.inputs[0]
        if count is None or logits in self.graph.values or 0 in self.shapes[logits]:
            raise Refused(f"a choice of the largest values that is no mixture of experts; {_LEGAL}")
        gates = self.gates(logits, int(count.ravel()[0]))
        for name in self.meetings({gates}):
            if self.graph.makers[name].op in _BEYOND:
                break
            outputs = self.outputs(gates, name)
            if outputs is not None:
                inside = (self.behind({logits}) & self.before(name)) | self.parts(gates, name)[1]
                return name, Mixture(logits, gates, int(count.ravel()[0]), outputs, inside - {name})
        raise Refused(f"its experts are not weighted and added up, or are computed for some tokens only; {_LEGAL}")

    # Cutting

    def meetings(self, start: set[str]) -> Iterator[str]:
        """Tensors through which all paths from the start tensors pass, nearest first."""
        left, waiting = {n: self.readers[n] for n in start}, set(start)
        for node in self.graph.workload.nodes:
            used = waiting.intersection(node.inputs)
            if not used:
                continue
            for name in used:
                left[name] -= 1
            waiting = {n for n in waiting if left[n]}
            made = {n: self.readers[n] for n in node.outputs if self.readers[n]}
            left.update(made)
            waiting.update(made)
            if len(waiting) == 1 and made:
                yield next(iter(waiting))

    def behind(self, start: set[str]) -> frozenset[str]:
        """Tensors that depend on the start tensors, these excluded."""
        found = set(start)
        for node in self.graph.workload.nodes:
            if found.intersection(node.inputs):
                found.update(node.outputs)
        return frozenset(found - start)

    def before(self, name: str) -> frozenset[str]:
        """Tensors that a tensor depends on, itself included."""
        found, waiting = {name}, [name]
        while waiting:
            node = self.graph.makers.get(waiting.pop())
            new = {*node.inputs} - found if node is not None else set()
            found |= new
            waiting += new
        return frozenset(found)

    # Gates

    def gates(self, logits: str, chosen: int) -> str:
        """Last tensor that holds the gates of all experts and depends on the logits alone."""
        known, found = {logits, *self.graph.values, ""}, ""
        for node in self.graph.workload.nodes:
            if known.issuperset(node.inputs):
                known.update(node.outputs)
        reached = self.behind({*self.node.outputs})
        for name in self.meetings({logits}):
            if name not in known:
                break
            if name in reached and self.shapes[name] == self.shapes[logits]:
                found = name
        if not found:
            raise Refused(f"no gates of all experts follow from it; {_LEGAL}")
        self.check_gates(logits, found, chosen)
        return found

    def check_gates(self, logits: str, gates: str, chosen: int) -> None:
        """Refuses gates other than the softmax with all but the most probable set to zero."""
        shape = self.shapes[logits]
        tokens = max(1, _PROBES // max(1, int(np.prod(shape[:-1]))))
        for seed in range(tokens):
            x = _probe(shape, seed)
            share = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
            first = np.argsort(-x, axis=-1, kind="stable")[..., :chosen]
            kept = np.zeros(shape, np.bool_)
            np.put_along_axis(kept, first, True, axis=-1)
            got = self.value(gates, {logits: x})
            if np.array_equal(got != 0, kept) and np.abs(got - share * kept).max() <= _NEAR:
                continue
            again = share * kept / (share * kept).sum(axis=-1, keepdims=True)
            if np.abs(got - again).max() <= _NEAR:
                raise Refused(f"its gates are normalised over the chosen experts; {_LEGAL}")
            raise Refused(f"its gates are not the probabilities of the {chosen} chosen experts; {_LEGAL}")

    # Experts

    def outputs(self, gates: str, name: str) -> tuple[str, ...] | None:
        """Outputs of the experts, in order, if a tensor is their sum weighted by the gates, else None."""
        leaves, _ = self.parts(gates, name)
        tokens, experts = np.prod(self.shapes[gates][:-1]), self.shapes[gates][-1]
        size = int(np.prod(self.shapes[name]))
        if any(int(np.prod(self.shapes[leaf])) != size for leaf in leaves) or size % tokens:
            return None
        drawn = np.random.default_rng(len(leaves))
        arrays = {leaf: drawn.integers(-99, 100, size=self.shapes[leaf]).astype(np.float64) for leaf in leaves}
        found = []
        for expert in range(experts):
            gate = np.zeros(self.shapes[gates])
            gate[..., expert] = 1.0
            got = self.value(name, {**arrays, gates: gate}).reshape(-1)
            found += [leaf for leaf, x in arrays.items() if np.array_equal(got, x.reshape(-1))][:1]
        return tuple(found) if len(found) == experts and self.is_sum(gates, name, found, arrays) else None

    def is_sum(self, gates: str, name: str, found: list[str], arrays: Mapping[str, Floats]) -> bool:
        """Whether a tensor is the sum of the found tensors weighted by arbitrary gates."""
        gate = np.random.default_rng(7).integers(0, 9, size=self.shapes[gates]).astype(np.float64)
        weights = gate.reshape(-1, len(found))
        parts = [weights[:, i, None] * arrays[leaf].reshape(len(weights), -1) for i, leaf in enumerate(found)]
        got = self.value(name, {**arrays, gates: gate})
        return bool(np.array_equal(got.reshape(len(weights), -1), sum(parts)))

    def parts(self, gates: str, name: str) -> tuple[list[str], frozenset[str]]:
        """Takes a possible weighted sum apart: its candidates for experts' outputs, and the tensors between.

        The search goes from the tensor backwards. It passes through every tensor that depends on the gates, through
        stacks of several tensors, and through reshapes that keep the last axis. It ends at the gates, at constants,
        and at all other tensors: these are the candidates, which the gates do not influence.

        For ``y = g[:, 0:1] * a + g[:, 1:2] * b``, gates ``g`` and name ``y``, the candidates are ``a`` and ``b``;
        the tensors between are ``y``, the two products and the two slices of ``g``.

        Args:
            gates: tensor of the gates of all experts.
            name: the tensor that may be the sum.

        Returns:
            The candidates, each once, in the order in which they are met; and the tensors between, ``name`` included
            unless it is a candidate itself.
        """
        cone, waiting = self.behind({gates}), [name]
        leaves: list[str] = []
        rest: set[str] = set()
        while waiting:
            this = waiting.pop()
            node = self.graph.makers.get(this)
            if this in (gates, "") or this in rest or this in leaves or this in self.graph.values:
                continue
            if node is not None and (this in cone or self.is_stack(this) or self.is_reshape(node)):
                waiting += node.inputs
                rest.add(this)
            else:
                leaves.append(this)
        return leaves, frozenset(rest)

    def is_reshape(self, node: Node) -> bool:
        """Whether a node only reshapes, with the last axis unchanged."""
        if node.op not in ("Unsqueeze", "Squeeze", "Reshape", "Identity") or node.inputs[0] in self.graph.values:
            return False
        return self.shapes[node.inputs[0]][-1:] == self.shapes[node.outputs[0]][-1:]

    def is_stack(self, name: str) -> bool:
        """Whether a tensor is a concatenation of several computed ones, possibly rearranged."""
        node = self.graph.makers.get(name)
        while node is not None and node.op in layout() and node.op != "Concat":
            node = self.graph.makers.get(node.inputs[0])
        return node is not None and node.op == "Concat" and sum(n not in self.graph.values for n in node.inputs) > 1

    def value(self, name: str, known: Mapping[str, Floats]) -> Floats:
        """Value of a tensor that depends on constants and known tensors."""
        done: dict[str, Array] = dict(known)
        needed = self.before(name)
        for node in self.graph.workload.nodes:
            if needed.isdisjoint(node.outputs) or any(n in done for n in node.outputs):
                continue
            arguments = [done.get(n, self.graph.values.get(n)) if n else None for n in node.inputs]
            if all(x is not None or not n for x, n in zip(arguments, node.inputs, strict=True)):
                done.update(zip(node.outputs, self.graph.evaluate(node, arguments), strict=False))
        return np.asarray(done[name], np.float64)


def _probe(shape: tuple[int, ...], seed: int) -> Floats:
    """Random logits, some of them equal."""
    drawn = np.random.default_rng(seed)
    steps = drawn.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
    shared = drawn.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
    return np.asarray(steps // shared * 0.25, np.float64)
