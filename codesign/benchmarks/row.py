"""A figure beside what it is compared with."""

from dataclasses import dataclass

GOAL = "goal of the project"
"""Source of a reference that this project has set itself."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        case: ``MODEL@BOARD``.
        metric: snake case, the unit last.
        unit: of both figures.
        ours: as this run computed it.
        evidence: modelled or simulated, or measured for times on this machine.
        reference: what it is compared with; None if with nothing.
        source: where the reference comes from.
        at_least: whether more is better.
        wanted: whether the reference is to be reached, and not only to be seen beside.
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
        """``reached`` or ``missed``, of others' figures ``better``, ``worse`` or ``equal``; nothing without one."""
        if self.reference is None:
            return ""
        ahead = self.ours - self.reference if self.at_least else self.reference - self.ours
        if self.wanted:
            return "reached" if ahead >= 0 else "missed"
        return "better" if ahead > 0 else "worse" if ahead < 0 else "equal"
