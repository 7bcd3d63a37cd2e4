"""A benchmark figure with its reference."""

from dataclasses import dataclass

GOAL = "goal of the project"
"""Source of references that are the project's own goals."""


@dataclass(frozen=True)
class Row:
    """One figure with its reference.

    Attributes:
        case: ``MODEL@BOARD``.
        metric: name in snake case, ending in the unit.
        unit: unit of both figures.
        ours: value computed in this run.
        evidence: modelled or simulated, or measured for times on this machine.
        reference: value to compare with; None for no comparison.
        source: source of the reference.
        at_least: whether larger is better.
        wanted: whether the reference is a goal rather than for information.
    """

    case: str
    metric: str
    unit: str
    ours: float
    evidence: str
    reference: float | None = None
    source: str = ""
    at_least: bool = True
    wanted: bool = True

    @property
    def state(self) -> str:
        """``reached`` or ``missed`` for goals, else ``better``, ``worse`` or ``equal``; empty without a reference."""
        if self.reference is None:
            return ""
        ahead = self.ours - self.reference if self.at_least else self.reference - self.ours
        if self.wanted:
            return "reached" if ahead >= 0 else "missed"
        return "better" if ahead > 0 else "worse" if ahead < 0 else "equal"
