"""What the commands of a design's engines cost, as its kernels say."""

from collections.abc import Mapping
from functools import partial

from codesign.board import Board
from codesign.design import Design
from codesign.energy import EngineJoules
from codesign.hw.accelerator import KERNELS
from codesign.kernel import Kernel, Params


def engine_joules(design: Design) -> EngineJoules:
    """Joules of a command's work by engine, for `codesign.energy.run_energy`; modelled."""
    word = {"word_bytes": design.word_bytes}
    return {
        name: partial(_joules, kernel, {**design.engines[name], **word}, design.board)
        for name, kernel in KERNELS.items()
        if name in design.engines
    }


def _joules(kernel: type[Kernel], params: Params, board: Board, work: Mapping[str, int]) -> float:
    return float(kernel.energy(params, work, board))
