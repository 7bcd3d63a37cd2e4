"""Operators that other packages bring along, so that a model file may use them.

An operator is found through the entry point `GROUP` and says three things: its ONNX domain and name, what it computes
in floats, and the layer that computes it in integers. Which engine runs that layer is its kernel's matter.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from codesign.catalog import Catalog, offered
from codesign.frontend.operators.call import Array, Attribute, Call
from codesign.ir.network import Layer

GROUP = "codesign.operators"
"""Entry points through which other packages offer operators, each a class."""


@dataclass(frozen=True)
class LayerRequest:
    """What a node shall become: a layer from one signed 8-bit tensor to another of the same scale.

    Attributes:
        name: of the layer.
        source: tensor ``[at least first_row + rows, columns]``.
        target: tensor ``[rows, target_columns]``.
        first_row: of the source that row 0 of the target needs.
        rows: of the target; the node's leading axes together.
        columns, target_columns: the last axis of the node's first input, and of its output.
        scale: value = scale * integer, of both tensors.
        attributes: of the node.
        constants: its other inputs, None where left out.
    """

    name: str
    source: str
    target: str
    first_row: int
    rows: int
    columns: int
    target_columns: int
    scale: float
    attributes: Mapping[str, Attribute]
    constants: tuple[Array | None, ...]


class CustomOperator(ABC):
    """An operator with one computed input, all others constant, that computes each row of the last axis by itself.

    Attributes:
        domain, op: as nodes name it.
    """

    domain: ClassVar[str]
    op: ClassVar[str]

    @abstractmethod
    def evaluate(self, call: Call) -> tuple[Array, ...]:
        """The outputs in floats; wrong arguments end as ValueError or TypeError."""

    @abstractmethod
    def layer(self, request: LayerRequest) -> Layer:
        """The layer that computes a node in integers.

        Raises:
            ValueError: the request cannot be met; the message says what would be legal.
        """


@cache
def custom_operators() -> Mapping[str, CustomOperator]:
    """Operators by domain and name with a dot between; one that cannot be used is told in the log once."""
    catalog = Catalog("operator", tuple(offered("operator", GROUP, _operator)))
    return {f"{each.domain}.{each.op}": each for each in catalog.loaded().values()}


def _operator(name: str, found: object) -> CustomOperator:
    """What an entry point offers, if it is an operator."""
    if not (isinstance(found, type) and issubclass(found, CustomOperator)):
        raise TypeError(f"{found!r:.80}; legal: a subclass of codesign.frontend.operators.custom.CustomOperator")
    return found()
