"""Energy of engine commands, from the kernels' models."""

from collections.abc import Mapping
from functools import partial

from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.engines import kernel_of
from codesign.target.kernel import Kernel, Params
from codesign.timing.energy import EngineJoules


def engine_joules(design: Design) -> EngineJoules:
    """Modelled joules of a command's work by engine, for `codesign.timing.energy.run_energy`."""
    word = {"word_bytes": design.word_bytes}
    return {
        name: partial(_joules, kernel_of(name), {**params, **word}, design.board)
        for name, params in design.engines.items()
    }


def _joules(kernel: type[Kernel], params: Params, board: Board, work: Mapping[str, int]) -> float:
    return float(kernel.energy(params, work, board))
