"""Search bench: known fronts, designs on boards, and modelled against synthesized resources."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from codesign.benchmarks.benches import Options
from codesign.benchmarks.designs import Exact, chosen, heuristic_rows, reference_rows
from codesign.benchmarks.minilm import minilm_rows
from codesign.benchmarks.reference_problem import hypervolume_ratio, known_front, reference_problem
from codesign.benchmarks.row import GOAL, Row
from codesign.dse import strategies
from codesign.dse.design_space import choose
from codesign.flow.build import integers, plan
from codesign.hw.system.accelerator import resources, total
from codesign.quant.calibrate import minilm
from codesign.sim.synthesis.fit import errors, subjects, worst
from codesign.solver.exact import search
from codesign.target.board import Board
from codesign.target.kernel import Number, ceil_div

_BOARD = "zcu102"
_SCALE_SIM = {
    # (M, N, K, rows, columns): output-stationary compute cycles printed by SCALE-Sim 3.0.0.
    (256, 256, 256, 16, 16): 73_215, (197, 1152, 384, 16, 16): 387_503, (197, 197, 64, 16, 16): 15_885,
    (197, 64, 197, 16, 16): 11_803, (197, 384, 384, 16, 16): 129_167, (197, 1536, 384, 16, 16): 516_671,
    (197, 384, 1536, 16, 16): 488_591, (1024, 1024, 1024, 32, 32): 1_112_063,
}  # fmt: skip
_SCALE_SIM_S = 8.0
"""CPU seconds that SCALE-Sim took for the first entry."""
_POINTS = 1 << 20
_COMPARED, _BOARDS = "digits-vit", ("kv260", "zcu104", "u280")
"""Model whose exact front is compared with heuristics, and the further boards for it."""


OPTIONS = ("strategy",)


def rows(options: Options) -> list[Row]:
    """All rows; those that need a missing extra are omitted and logged.

    Raises:
        CheckError: a heuristic found what an exact front excludes.
        InputError: an unknown strategy.
        ToolError: the heuristic's library is missing, or fails.
    """
    if options.strategy is not None:
        strategies.find(options.strategy)
    heuristics = chosen(options.strategy)
    models = [_COMPARED, *([minilm.NAME] if not minilm.missing() else [])]
    designs = [row for model in models for row in _designs(model, heuristics)]
    others = [row for board in _BOARDS for row in _elsewhere(board, heuristics)] if heuristics else []
    return [*_reference(heuristics), *_scale_sim(), *designs, *others, *minilm_rows(), *_resources()]


def _reference(heuristics: Sequence[str]) -> list[Row]:
    """The reference problem, timed in its second search."""
    problem = reference_problem()
    search(problem)
    front = search(problem)
    return [
        Row("dse-problem", "front_points", "1", len(front), "modelled", len(known_front()[0]), GOAL),
        Row("dse-problem", "hypervolume_ratio", "1", round(hypervolume_ratio(front.values), 6), "modelled", 1.0, GOAL),
        Row("dse-problem", "cpu_s", "s", front.proof.cpu_s, "measured", 2.0, GOAL, at_least=False),
        Row("dse-problem", "points", "1", front.proof.points, "modelled"),
        *reference_rows(problem, front, heuristics),
    ]


def output_stationary(m: Number, n: Number, k: Number, rows: Number, columns: Number) -> Number:
    """Cycles of SCALE-Sim's output-stationary ``rows x columns`` array for an on-chip ``m x k`` by ``k x n`` product.

    >>> output_stationary(256, 256, 256, 16, 16)
    73215
    """
    cycles: Number = ceil_div(m, rows) * ceil_div(n, columns) * (k + rows + columns - 2) - 1
    return cycles


def _scale_sim() -> list[Row]:
    """Comparison of `output_stationary` with SCALE-Sim's cycles and speed."""
    off = max(abs(int(output_stationary(*sizes)) - cycles) for sizes, cycles in _SCALE_SIM.items())
    sizes: NDArray[np.int64] = np.random.default_rng(0).integers(1, 1024, (3, _POINTS))
    start = time.process_time()
    output_stationary(sizes[0], sizes[1], sizes[2], 16, 16)
    each = (time.process_time() - start) / _POINTS
    return [
        Row("scale-sim", "difference_cycles", "1", off, "modelled", 1, "SCALE-Sim 3.0.0", at_least=False),
        Row("scale-sim", "speedup_ratio", "1", _SCALE_SIM_S / each, "measured", 1e6, GOAL),
    ]


def _elsewhere(board: str, heuristics: Sequence[str]) -> list[Row]:
    """Exact front of the compared model on a further board, compared with heuristics."""
    exact = Exact.of(f"{_COMPARED}@{board}", integers(_COMPARED), Board.load(board))
    return [
        Row(exact.case, "points", "1", exact.front.proof.points, "modelled"),
        Row(exact.case, "cpu_s", "s", exact.front.proof.cpu_s, "measured"),
        Row(exact.case, "front_points", "1", len(exact.front), "modelled"),
        *heuristic_rows(exact, heuristics),
    ]


def _designs(model: str, heuristics: Sequence[str]) -> list[Row]:
    """Exact front of a model on the main board, compared with the choice made without a search and with heuristics."""
    board = Board.load(_BOARD)
    simple = plan(model, board)
    exact = Exact.of(f"{model}@{_BOARD}", simple.network, board)
    front, case = exact.front, exact.case
    found = front.rows[choose(front, "latency", within=0.02)]
    need = int(total(resources(simple.design)).dsp)
    microseconds = simple.timing.total / (board.clock_hz / 1e6)
    return [
        Row(case, "points", "1", front.proof.points, "modelled", 1e8, GOAL),
        Row(case, "cpu_s", "s", front.proof.cpu_s, "measured", 10.0, GOAL, at_least=False),
        Row(case, "peak_mb", "MB", exact.peak_mb, "measured", 1000.0, GOAL, at_least=False),
        Row(case, "front_points", "1", len(front), "modelled"),
        Row(case, "designs_scored", "1", front.proof.scored, "modelled"),
        Row(case, "designs_unscored", "1", front.proof.unscored, "modelled", 0, GOAL, at_least=False),
        Row(case, "latency_us", "us", float(found["latency_us"]), "modelled", microseconds, "plain", at_least=False),
        Row(case, "plain_latency_us", "us", microseconds, "modelled"),
        Row(case, "dsp", "1", float(found["dsp"]), "modelled"),
        Row(case, "plain_dsp", "1", need, "modelled"),
        Row(case, "latency_at_plain_dsp_us", "us", _fastest(front.rows, need), "modelled", microseconds, "plain",
            at_least=False),
        *heuristic_rows(exact, heuristics if model == _COMPARED else ()),
    ]  # fmt: skip


def _fastest(rows: list[dict[str, int | float]], dsp: int) -> float:
    """Least latency on a front with at most ``dsp`` DSPs."""
    return min(float(row["latency_us"]) for row in rows if row["dsp"] <= dsp)


def _resources() -> list[Row]:
    """Largest errors of the resource formulas against open synthesis, over the configurations in the data file."""
    rows = []
    for name in subjects():
        found = errors(name)
        for metric, most in (("lut", 15.0), ("ff", 15.0), ("dsp", 0.0), ("bram36", 0.0)):
            label = f"{metric.removesuffix('36')}_error_pct"
            off = abs(worst(found, metric))
            rows.append(Row(f"resources:{name}@{_BOARD}", label, "%", off, "synthesized", most, GOAL, at_least=False))
    return rows
