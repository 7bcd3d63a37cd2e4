"""Mixtures of experts: the layers that choose experts for each token and compute them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from codesign.ir.network import Ints, Layer, Linear, Network, Read, linear_golden
from codesign.numerics import moe
from codesign.numerics.fixed_point import limits, requantize, saturate_bits


@dataclass(frozen=True)
class Route(Layer):
    """Expert selection and gates of each token; see `codesign.numerics.moe.gates`.

    Attributes:
        source: int8 logits ``[rows, experts]``.
        target: gates, 0 to 255 in a 16-bit tensor ``[rows, experts]``.
        chosen: experts per token.
        multiplier, shift: requantize logits to steps of the exponential table.
    """

    name: str
    source: str
    target: str
    rows: int
    chosen: int
    multiplier: int
    shift: int

    @property
    def reads(self) -> tuple[Read, ...]:
        """The logits."""
        return (Read(self.source),)

    @property
    def shape(self) -> tuple[object, ...]:
        """See `Layer.shape`."""
        return (self.chosen,)

    def golden(self, values: Mapping[str, Ints]) -> Ints:
        """See `codesign.numerics.moe.gates`."""
        return moe.gates(values[self.source], self.chosen, self.multiplier, self.shift)


@dataclass(frozen=True, eq=False)
class Experts(Layer):
    """``target = addend + requantize(sum of gate * expert(source))``, experts in ascending order.

    An expert is two linear layers, int8 to int8 (with a table) to int16; all experts have equal shapes.
    It computes the tokens with a nonzero gate. The weighted sum provably fits 32 bits.

    Attributes:
        source: int8 tensor; rows ``first_row .. first_row+rows`` are used.
        gates: target of a `Route`.
        experts: two linear layers each, whose ``rows`` is the maximum number of tokens.
        chosen: experts per token.
        multiplier, shift: requantization of the weighted sum, saturated to 16 bits.
        addend: int16 tensor or constant added with 16-bit saturation.
    """

    name: str
    source: str
    target: str
    rows: int
    gates: str
    experts: tuple[tuple[Linear, Linear], ...]
    chosen: int
    multiplier: int
    shift: int
    addend: str | None = None
    first_row: int = 0

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates of one expert for one token."""
        return sum(layer.n * layer.k for layer in self.experts[0])

    @property
    def reads(self) -> tuple[Read, ...]:
        """The source, the gates, and the addend if there is one."""
        found = Read(self.source, self.first_row), Read(self.gates)
        return found if self.addend is None else (*found, Read(self.addend, in_place=True))

    @property
    def shape(self) -> tuple[object, ...]:
        """See `Layer.shape`."""
        return len(self.experts), self.chosen, self.experts[0][0].k, self.experts[0][0].n, self.experts[0][1].n

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference.

        Each token counts its ``chosen`` experts; as all have one shape, the number does not depend on which. Gate
        weighting is not counted.
        """
        return self.rows * self.chosen * self.macs_per_token

    def golden(self, values: Mapping[str, Ints]) -> Ints:
        """See `experts_golden`."""
        addend = values[self.addend] if self.addend else None
        return experts_golden(self, values[self.source], values[self.gates], addend)

    def __post_init__(self) -> None:
        shapes = {(a.k, a.n, b.k, b.n) for a, b in self.experts}
        if len(shapes) != 1 or any(a.n != b.k for a, b in self.experts):
            raise ValueError(f"{self.name}: expert shapes {sorted(shapes)}; legal: one, [k, h, h, n]")
        if not 1 <= self.chosen <= min(len(self.experts), moe.MAX_CHOSEN):
            raise ValueError(
                f"{self.name}: {self.chosen} of {len(self.experts)} experts; legal: at least 1, at most all"
            )
        for a, b in self.experts:
            if (
                a.addend
                or b.addend
                or a.first_row
                or b.first_row
                or b.table is not None
                or not -128 <= a.low <= a.high < 128
            ):
                raise ValueError(
                    f"{self.name}: {a.name}, {b.name}; legal: all rows to 8 bit, then to 16 bit, no addend"
                )


def linears(layers: Iterable[Layer]) -> Iterator[Linear]:
    """Every linear layer, including those of experts."""
    for layer in layers:
        if isinstance(layer, Linear):
            yield layer
        elif isinstance(layer, Experts):
            yield from (part for pair in layer.experts for part in pair)


def experts_golden(layer: Experts, x: Ints, gates: Ints, addend: Ints | None = None) -> Ints:
    """Return the target of experts.

    Args:
        layer: the experts.
        x: the whole source, ``[at least first_row + rows, k]``.
        gates: ``[rows, experts]``, 0 to 255.
        addend: int16 values ``[rows, n]`` exactly if the layer names one.
    """
    if (addend is None) != (layer.addend is None):
        raise ValueError(f"{layer.name}: addend is {addend is not None}; legal: {layer.addend is not None}")
    rows = x[layer.first_row : layer.first_row + layer.rows]
    total = np.zeros((layer.rows, layer.experts[0][1].n), np.int64)
    for number, (first, second) in enumerate(layer.experts):
        tokens = np.flatnonzero(gates[:, number])
        result = linear_golden(second, linear_golden(first, rows[tokens]))
        total[tokens] += gates[tokens, number, None] * result
    result = requantize(total, layer.multiplier, layer.shift, *limits(16))
    return result if addend is None else saturate_bits(result + addend, 16)


def tokens_per_expert(network: Network, values: Mapping[str, Ints]) -> dict[str, Ints]:
    """Count the tokens that each expert computes for one sample.

    Args:
        network: the network.
        values: the result of `run`.

    Returns:
        Counts ``[experts]`` by the name of each `Experts` layer; they sum to its ``rows * chosen``.
    """
    mixtures = [layer for layer in network if isinstance(layer, Experts)]
    return {layer.name: moe.tokens_per_expert(values[layer.gates]) for layer in mixtures}
