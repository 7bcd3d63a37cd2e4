"""Float reference of the ONNX operators that a model may use, by name; see `codesign.onnx_call`."""

import functools
from collections.abc import Mapping

import numpy as np

from codesign.custom import custom_operators
from codesign.onnx_call import Array, Call, Operator
from codesign.onnx_elementwise import elementwise, typed
from codesign.onnx_layout import layout, placement
from codesign.onnx_products import products
from codesign.onnx_reductions import reductions


@functools.cache
def operators() -> Mapping[str, Operator]:
    """Every operator by its ONNX (or QONNX) name; those of other packages with their domain and a dot before it."""
    others = {name: operator.evaluate for name, operator in custom_operators().items()}
    return {**others, **elementwise(), **typed(), **layout(), **placement(), **products(), **reductions()}


def evaluate(op: str, call: Call) -> tuple[Array, ...]:
    """Apply an operator of `operators`; overflow and division by zero follow IEEE 754 silently.

    >>> evaluate("Add", Call({}, [np.array([1.0]), np.array([2.0])]))[0].tolist()
    [3.0]
    """
    with np.errstate(all="ignore"):
        return operators()[op](call)
