"""What a part costs: LUTs and flip-flops per unit, fitted to open synthesis.

A kernel counts its parts in units that its structure gives: adder bits, registers, columns. What a
unit costs was fitted to synthesized designs by ``python -m codesign.sim.synthesis.fit``; the figures, the
designs and the errors are in ``codesign/data/resources.json``.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from codesign.target.kernel import Number

COSTS_IN = "resources.json"
"""File of the package ``codesign.data``'s folder."""

SCALE = 100
"""Costs are counted in hundredths."""

Units = Mapping[str, Mapping[str, Number]]
"""How many of each unit there are, by the part of the design (a family of modules) they belong to."""


@cache
def costs(subject: str, metric: str) -> Mapping[str, Mapping[str, int]]:
    """Hundredths of a LUT or flip-flop per unit, by part and unit.

    Args:
        subject: a kernel or ``shell``.
        metric: ``lut`` or ``ff``.
    """
    text = (resources.files("codesign") / "data" / COSTS_IN).read_text(encoding="utf-8")
    fitted = json.loads(text)["subjects"][subject]["costs"][metric]
    return {part: {unit: round(SCALE * cost) for unit, cost in each.items()} for part, each in fitted.items()}


def area(subject: str, metric: str, units: Units) -> Number:
    """LUTs or flip-flops of some units, rounded; exact integer arithmetic, for numbers and arrays.

    Args:
        subject: a kernel or ``shell``.
        metric: ``lut`` or ``ff``.
        units: of it.
    """
    of = costs(subject, metric)
    total: Number = SCALE // 2
    for part, each in units.items():
        for unit, count in each.items():
            total = total + count * of[part][unit]
    return total // SCALE
