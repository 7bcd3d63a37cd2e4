"""Float reference of the ONNX operators that a model may use, by name; see `codesign.onnx_call`."""

import functools
from collections.abc import Mapping

import numpy as np

from codesign.onnx_call import Array, Call, Operator
from codesign.onnx_elementwise import elementwise, typed
from codesign.onnx_layout import layout, placement
from codesign.onnx_products import products
from codesign.onnx_reductions import reductions


@functools.cache
def operators() -> Mapping[str, Operator]:
    """Every operator by its ONNX (or QONNX) name."""
    return {**elementwise(), **typed(), **layout(), **placement(), **products(), **reductions()}


def evaluate(op: str, call: Call) -> tuple[Array, ...]:
    """Apply an operator of `operators`; overflow and division by zero follow IEEE 754 silently.

    >>> evaluate("Add", Call({}, [np.array([1.0]), np.array([2.0])]))[0].tolist()
    [3.0]
    """
    with np.errstate(all="ignore"):
        return operators()[op](call)
