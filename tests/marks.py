"""Which cases of one test are of which level."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet


def few_fast(values: Iterable[object], fast: int) -> list[ParameterSet]:
    """Values to parametrize with: the first so many at level fast, the others at level rtl."""
    return [pytest.param(value, marks=() if index < fast else pytest.mark.rtl) for index, value in enumerate(values)]
