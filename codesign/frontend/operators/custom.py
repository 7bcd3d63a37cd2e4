"""Third-party operators for model files.

An operator is found through the entry point group `GROUP` and defines its ONNX domain and name, its float evaluation,
and the layer that computes it in integers. A kernel declares that it runs that layer.
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
"""Entry point group through which other packages offer operator classes."""


@dataclass(frozen=True)
class LayerRequest:
    """Request to lower a node to a layer between two signed 8-bit tensors of equal scale.

    Attributes:
        name: name of the layer.
        source: name of the source tensor ``[at least first_row + rows, columns]``.
        target: name of the target tensor ``[rows, target_columns]``.
        first_row: source row that corresponds to row 0 of the target.
        rows: rows of the target, the product of the node's leading axes.
        columns, target_columns: size of the last axis of the node's first input, and of its output.
        scale: scale of both tensors; value = scale * integer.
        attributes: the node's attributes.
        constants: its other inputs, None where omitted.
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
    """Operator that computes each row of the last axis independently, with all inputs but the first constant.

    Attributes:
        domain, op: ONNX domain and operator name.
    """

    domain: ClassVar[str]
    op: ClassVar[str]

    @abstractmethod
    def evaluate(self, call: Call) -> tuple[Array, ...]:
        """Outputs in floats; wrong arguments raise ValueError or TypeError."""

    @abstractmethod
    def layer(self, request: LayerRequest) -> Layer:
        """The layer that computes a node in integers.

        Raises:
            ValueError: the request is not supported; the message gives the legal values.
        """


@cache
def custom_operators() -> Mapping[str, CustomOperator]:
    """Operators by ``DOMAIN.NAME``; unusable ones are logged once."""
    catalog = Catalog("operator", tuple(offered("operator", GROUP, _operator)))
    return {f"{each.domain}.{each.op}": each for each in catalog.loaded().values()}


def _operator(name: str, found: object) -> CustomOperator:
    """Instance of an entry point's object, checked to be an operator class."""
    if not (isinstance(found, type) and issubclass(found, CustomOperator)):
        raise TypeError(f"{found!r:.80}; legal: a subclass of codesign.frontend.operators.custom.CustomOperator")
    return found()
