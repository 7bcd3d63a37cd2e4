"""Reports of plans."""

from typing import Any

from codesign.compiler.program import program_traffic
from codesign.flow.build import Plan
from codesign.hw.system import accelerator
from codesign.report.design_report import report
from codesign.report.report import Report


def reported(made: Plan, **more: Any) -> Report:
    """A report with all that a plan knows."""
    return report(
        made.model, made.design, macs=made.macs, peak_macs=made.design.multipliers, timing=made.timing,
        parts=accelerator.resources(made.design), available=made.limit, commands=made.program.commands,
        traffic_bytes=sum(program_traffic(made.program, made.design.word_bytes)), **more,
    )  # fmt: skip
