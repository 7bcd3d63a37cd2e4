"""Answers of the command line: the result of each verb as one JSON object and as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from inspect import getdoc
from typing import TYPE_CHECKING

from codesign.flow.bundle import Bundle, Quantized
from codesign.flow.doctor import Doctor
from codesign.flow.run import RunResult
from codesign.flow.verify import VerifyResult
from codesign.frontend.zoo import Model
from codesign.report.report import Report
from codesign.target.board import Board, Key

if TYPE_CHECKING:
    from codesign.benchmarks.bench import Bench
    from codesign.sweeps.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Answer:
    """Output of a verb.

    Attributes:
        data: object printed with ``--json``.
        text: text printed otherwise.
        exit_code: 0, or 1 if a check failed.
    """

    data: Mapping[str, object]
    text: str
    exit_code: int = 0


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines with aligned columns; the first row is the heading.

    >>> print(table([["name", "dsp"], ["zcu102", "2520"]]))
    name    dsp
    zcu102  2520
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def show_boards(found: Sequence[Board] | Sequence[Key]) -> Answer:
    """Boards with their resources, or the keys of a board file."""
    keys = [asdict(key) for key in found if isinstance(key, Key)]
    if keys:
        return Answer({"keys": keys}, table([[*keys[0]], *([*key.values()] for key in keys)]))
    return _listed([board for board in found if isinstance(board, Board)])


def _listed(found: Sequence[Board]) -> Answer:
    columns = ("dsp", "bram36", "uram", "lut", "ff")
    rows = [["name", "part", "family", "MHz", *columns, "GB/s"]]
    for board in found:
        figures = [str(getattr(board.resources, name)) for name in columns]
        clock, bandwidth = f"{board.clock_hz / 1e6:g}", f"{board.memory.bytes_per_second / 1e9:g}"
        rows.append([board.name, board.part, board.family, clock, *figures, bandwidth])
    return Answer({"boards": [asdict(board) for board in found]}, table(rows))


def show_doctor(found: Doctor) -> Answer:
    """Tools, how to get the missing ones, and whether the main verbs can run."""
    rows = [["tool", "needed for", "found"]]
    rows += [[tool.name, tool.purpose, tool.found or "-"] for tool in found.tools]
    gets = [f"to get {tool.name}: {tool.get}" for tool in found.missing]
    verdict = "build, verify and run: " + ("ready" if found.ready else "not ready, see above")
    data = {"ready": found.ready, "tools": [asdict(tool) for tool in found.tools]}
    return Answer(data, "\n".join([table(rows), "", *gets, verdict]))


def show_models(found: Sequence[Model]) -> Answer:
    """Names and descriptions of models."""
    rows = [["name", "description"], *([model.name, model.description] for model in found)]
    return Answer({"models": [{"name": m.name, "description": m.description} for m in found]}, table(rows))


def show_kernels(found: Mapping[str, type]) -> Answer:
    """Names and parameters of kernels; of a single one its contract."""
    data = {
        name: {"parameters": [f.name for f in fields(kind)], "contract": getdoc(kind)} for name, kind in found.items()
    }
    if len(found) == 1:
        return Answer({"kernels": data}, "\n".join(str(entry["contract"]) for entry in data.values()))
    rows = [["name", "parameters"], *([name, " ".join(entry["parameters"] or ())] for name, entry in data.items())]
    return Answer({"kernels": data}, table(rows))


def show_bundle(found: Bundle) -> Answer:
    """The engines and the report of a bundle."""
    engines = ", ".join(
        f"{engine['name']} {'x'.join(str(v) for v in list(engine['parameters'].values())[:3])}"
        for engine in found.report.engines
        if engine["parameters"]
    )
    lines = [f"design     {found.path}: {engines}", *found.report.lines()]
    lines.append(f"next       codesign verify {found.path}")
    return Answer({"path": str(found.path), **found.report.to_json()}, "\n".join(lines))


def show_checked(found: VerifyResult) -> Answer:
    """Verdict, problems, wave files and synthesized resources; exit code 1 if a check failed."""
    data = {
        name: {
            "passed": result.passed,
            "bit_exact": result.bit_exact,
            "images": result.images,
            "cycles": {"modelled": max(result.modelled), "simulated": list(result.cycles)},
        }
        for name, result in found.results.items()
    }
    waves = [f"waves      {result.waves}" for result in found.results.values() if result.waves]
    lines = [*_verdict(found), *found.problems, *waves, *_counted(found)]
    document: dict[str, object] = {
        "passed": found.passed, "kernel": found.kernel, "results": data, "problems": found.problems
    }  # fmt: skip
    if found.synthesized is not None:
        document["synthesized"] = dict(found.synthesized)
    return Answer(document, "\n".join(lines), 0 if found.passed else 1)


def _counted(found: VerifyResult) -> list[str]:
    """Table of synthesized against modelled resources by part; empty if nothing was synthesized."""
    if found.synthesized is None:
        return []
    rows = [["part", "resource", "synthesized", "modelled"]]
    for part, counts in found.synthesized.items():
        for name, count in counts.items():
            modelled = found.report.parts.get(part, {}).get(name, 0)
            rows += [[part, name, f"{count:g}", str(modelled)]] if count or modelled else []
    return [table(rows)]


def _verdict(found: VerifyResult) -> list[str]:
    if found.kernel is None:
        return [f"{'verified' if found.passed else 'FAILED':10} {found.report.verdict()}"]
    rows = [["layer", "bits", "cycles", "modelled"]]
    for name, result in found.results.items():
        rows.append(
            [name, "equal" if result.bit_exact else "DIFFER", str(max(result.cycles)), str(max(result.modelled))]
        )
    return [table(rows), f"{found.kernel}: {'every layer agrees' if found.passed else 'FAILED'}"]


def show_ran(found: RunResult) -> Answer:
    """Accuracy, cycles, latency and use of resources of a run, each with its evidence."""
    report = found.report
    rows = [["what", "value", "evidence"], ["samples", str(found.samples), found.target]]
    if found.accuracy is not None:
        rows.append(["accuracy", f"{100 * found.accuracy:.2f} %", found.target])
    rows.append(["cycles", str(report.cycles["modelled"]), "modelled"])
    if found.cycles:
        rows.append(["cycles", "-".join(str(c) for c in sorted({min(found.cycles), max(found.cycles)})), "simulated"])
    state = "simulated" if report.cycles["simulated"] else "modelled"
    rows.append([f"latency at {report.clock_mhz:g} MHz", f"{report.latency_ms:.4g} ms", f"{state}, clock assumed"])
    rows.append(["MACs per cycle", f"{report.macs_per_cycle:.4g} of {report.peak_macs}", state])
    rows += [
        [name, text.removesuffix(", binding").removesuffix(", modelled"), "modelled"] for name, text in report.used()
    ]
    rows.append(["golden = RTL", report.verdict(), "verify"])
    data = {
        "target": found.target,
        "samples": found.samples,
        "accuracy": found.accuracy,
        "predictions": found.predictions.tolist(),
        "cycles": list(found.cycles),
        "latency_ms": report.latency_ms,
        "bit_exact": report.bit_exact,
    }
    return Answer(data, table(rows))


def show_report(found: Report) -> Answer:
    """A report with its model and board."""
    return Answer(found.to_json(), "\n".join([f"model      {found.model} on {found.board}", *found.lines()]))


def show_sweep(found: "Sweep") -> Answer:
    """One row for each combination of a sweep."""
    summary = found.summary()
    rows = [["model", "board", "MHz", "budget", "designs", "feasible", "fastest", "evidence"]]
    for row in summary:
        best, clock = row["best_latency_us"], f"{row['clock_mhz']:g}"
        figures = [f"{row['rows']}", f"{row['feasible']}", "-" if best is None else f"{best:.6g} us"]
        rows.append([row["model"], row["board"], clock, row["budget"], *figures, row["evidence"] or "-"])
    fresh = found.rows - found.resumed
    lines = [table(rows), f"{found.path}: {found.rows} designs, {fresh} of them now in {found.seconds:.1f} s"]
    data = {"path": str(found.path), "rows": found.rows, "resumed": found.resumed, "seconds": found.seconds}
    return Answer({**data, "combinations": summary}, "\n".join(lines))


def show_bench(found: "Bench") -> Answer:
    """Figures beside their references; exit code 1 if a goal is missed."""
    columns = ("case", "metric", "unit", "reference", "source", "ours", "evidence")
    data = [{name: getattr(row, name) for name in columns} for row in found.rows]
    rows = [["case", "metric", "ours", "reference", "", "evidence"]]
    for row in found.rows:
        sign = "" if not row.wanted else ">= " if row.at_least else "<= "
        goal = "" if row.reference is None else f"{sign}{row.reference:g}"
        rows.append([row.case, row.metric, f"{row.ours:.6g}", goal, row.state, row.evidence])
    text = f"{table(rows)}\n{found.name}: {found.seconds:.0f} s"
    missed = any(row.state == "missed" for row in found.rows)
    return Answer({"bench": found.name, "rows": data, "seconds": found.seconds}, text, int(missed))


def show_quantized(found: Quantized) -> Answer:
    """The path and size of a quantized model."""
    data = {"path": str(found.path), "layers": found.layers, "macs": found.macs, "text": found.text}
    lines = [f"quantized  {found.path}: {found.layers} layers in integers", f"how        {found.text}"]
    lines += [f"next       codesign build {found.path} --board zcu102"]
    return Answer(data, "\n".join(lines))
