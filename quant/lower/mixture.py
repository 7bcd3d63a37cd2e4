"""Lowering of mixtures of experts: a router, gates, and experts added to the residual stream."""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from codesign.ir.mixture import Experts, Route
from codesign.ir.network import Linear, Tensor
from codesign.numerics.moe import GATE_SCALE, MAX_GATE
from codesign.quant.lower.emitter import WIDE, TensorSource
from codesign.quant.lower.operands import Operands

_LEGAL = "legal: a linear layer, a function and a linear layer of the tokens that the router reads"


@dataclass
class Mixtures(Operands):
    """Lowers mixtures of experts; see `codesign.quant.match.routes` for their detection."""

    @abstractmethod
    def wide(self, name: str) -> str:
        """Provides a whole tensor as signed 16 bit at the residual scale, one row per last axis."""

    def mixture(self, name: str, origin: str, addend: str | None) -> str:
        """Emits a mixture as signed 16 bit, with an optional addend.

        Args:
            name: name of the resulting tensor.
            origin: tensor of the weighted sum.
            addend: a 16-bit tensor, or None.
        """
        found = self.patterns.mixtures[origin]
        gates = self.route(found.logits, found.gates, found.chosen)
        pairs = tuple(self.expert(output) for output in found.outputs)
        first, last = pairs[0][0], pairs[0][1]
        if len({(a.source, a.first_row, a.rows) for a, _ in pairs}) != 1 or first.rows != self.tensors[gates].rows:
            raise self.refuse(origin, f"experts that read different tokens; {_LEGAL}")
        target, element = self.fresh(name), np.arange(first.rows * last.n).reshape(first.rows, last.n)
        self.layers.append(
            Experts(
                name=self.layer_name(self.patterns.node(origin).name),
                source=first.source,
                target=target,
                rows=first.rows,
                gates=gates,
                experts=tuple((replace(a, first_row=0), b) for a, b in pairs),
                chosen=found.chosen,
                multiplier=self.requantizer(origin, GATE_SCALE)[0],
                shift=self.requantizer(origin, GATE_SCALE)[1],
                addend=addend,
                first_row=first.first_row,
            )
        )
        self.add(Tensor(target, first.rows, last.n, 16, self.residual), TensorSource(name, element), *WIDE)
        return target

    def route(self, logits: str, gates: str, chosen: int) -> str:
        """Emits the gates of all experts; returns the tensor's name."""
        shape = self.workload.shapes[logits]
        element = np.arange(math.prod(shape), dtype=np.int64).reshape(-1, shape[-1])
        found = self.operand(logits, element, exact=True)
        if not found.whole(self.tensors[found.tensor]):
            raise self.refuse(gates, "chooses from a part of a layer; legal: all of it")
        if self.patterns.kind(gates) == "inside" and self.workload.producers[gates].op in ("Quant", "DequantizeLinear"):
            self.check_gates(gates)
        target = self.fresh(gates)
        layer = self.layer_name(self.workload.producers[gates].name)
        pair = self.requantizer(logits, 128 * found.scale)
        self.layers.append(Route(layer, found.tensor, target, len(element), chosen, *pair))
        self.add(Tensor(target, *element.shape, 16, GATE_SCALE), TensorSource(gates, element), 0, MAX_GATE)
        return target

    def check_gates(self, name: str) -> None:
        """Notes a quantizer of gates that is replaced by unsigned 8 bit."""
        scale = self.patterns.values[self.workload.producers[name].inputs[1]]
        if np.any(scale != GATE_SCALE):
            self.notes.append(f"the gates {name} become unsigned 8 bit with scale {GATE_SCALE:g}")

    def expert(self, name: str) -> tuple[Linear, Linear]:
        """The two linear layers of one expert, removed from the network's own layers."""
        start = len(self.layers)
        target = self.wide(name)
        parts = [layer for layer in self.layers[start:][-2:] if isinstance(layer, Linear)]
        if len(parts) != 2:
            raise self.refuse(name, f"an expert that is not two linear layers of its own; {_LEGAL}")
        first, last = parts
        whole = first.target == last.source and last.target == target and last.first_row == 0
        if not whole or first.addend is not None or last.addend is not None:
            raise self.refuse(name, f"an expert that is more than two linear layers; {_LEGAL}")
        del self.layers[-2:]
        for made in (first.target, last.target):
            del self.tensors[made], self.sources[made]
        self.made = {memo: made for memo, made in self.made.items() if made not in (first.target, last.target)}
        return first, last
