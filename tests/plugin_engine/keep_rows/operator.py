"""The ONNX operator ``KeepRows`` of the domain ``org.keep_rows``: attribute ``threshold``, over the last axis."""

import math
from typing import ClassVar

import numpy as np

from codesign.frontend.operators.call import Array, Call
from codesign.frontend.operators.custom import CustomOperator, LayerRequest
from keep_rows import KeepRows


class KeepRowsOperator(CustomOperator):
    """Rows whose largest element is at least the threshold; the others become zero."""

    domain: ClassVar[str] = "org.keep_rows"
    op: ClassVar[str] = "KeepRows"

    def evaluate(self, call: Call) -> tuple[Array, ...]:
        """See the class."""
        x = call.array(0)
        return (np.where(x.max(axis=-1, keepdims=True) >= call.real("threshold", 0.0), x, 0.0),)

    def layer(self, request: LayerRequest) -> KeepRows:
        """The smallest integer that stands for the threshold or more."""
        threshold = Call(request.attributes, []).real("threshold", 0.0)
        least = max(math.ceil(threshold / request.scale), -128)
        return KeepRows(
            request.name, request.source, request.target, request.rows, request.columns, least, request.first_row
        )
