"""Area model: LUTs and flip-flops per unit of a part, fitted to open-source synthesis.

A kernel counts units of its structure: adder bits, registers, columns. The cost of a unit is fitted to
synthesized designs by ``python -m codesign.sim.synthesis.fit``; costs, designs and errors are in
``codesign/data/resources.json``.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from codesign.target.kernel import Number

COSTS_IN = "resources.json"
"""Cost file in the folder of package ``codesign.data``."""

SCALE = 100
"""Costs are integers in hundredths."""

Units = Mapping[str, Mapping[str, Number]]
"""Unit counts by part of the design (a family of modules) and unit name."""


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
    """LUTs or flip-flops of the given units, rounded; exact integer arithmetic on numbers or arrays.

    Args:
        subject: a kernel or ``shell``.
        metric: ``lut`` or ``ff``.
        units: counts by part and unit.
    """
    of = costs(subject, metric)
    total: Number = SCALE // 2
    for part, each in units.items():
        for unit, count in each.items():
            total = total + count * of[part][unit]
    return total // SCALE
