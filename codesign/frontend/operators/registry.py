"""Registry of the float reference operators by ONNX name; see `codesign.frontend.operators.call`."""

import functools
from collections.abc import Mapping

import numpy as np

from codesign.frontend.operators.call import Array, Call, Operator
from codesign.frontend.operators.custom import custom_operators
from codesign.frontend.operators.elementwise import elementwise, typed
from codesign.frontend.operators.movement import layout, placement
from codesign.frontend.operators.products import products
from codesign.frontend.operators.reductions import reductions


@functools.cache
def operators() -> Mapping[str, Operator]:
    """Every operator by its ONNX or QONNX name; third-party ones by ``DOMAIN.NAME``."""
    others = {name: operator.evaluate for name, operator in custom_operators().items()}
    return {**others, **elementwise(), **typed(), **layout(), **placement(), **products(), **reductions()}


def evaluate(op: str, call: Call) -> tuple[Array, ...]:
    """Apply an operator of `operators`; overflow and division by zero follow IEEE 754 silently.

    >>> evaluate("Add", Call({}, [np.array([1.0]), np.array([2.0])]))[0].tolist()
    [3.0]
    """
    with np.errstate(all="ignore"):
        return operators()[op](call)
