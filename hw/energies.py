"""What the commands of a design's engines cost, as its kernels say."""

from codesign.design import Design
from codesign.energy import EngineJoules
from codesign.hw import attention, vector
from codesign.hw.attention import AttentionKernel
from codesign.hw.linear import Linear
from codesign.hw.vector import VectorKernel


def engine_joules(design: Design) -> EngineJoules:
    """Joules of a command's operands by engine, for `codesign.energy.run_energy`; modelled.

    Padding counts: a command says how many tiles and words there are, not how much of them is used.
    """
    board, word = design.board, {"word_bytes": design.word_bytes}
    linear, attend, normalize = ({**design.engines.get(name, {}), **word} for name in ("linear", "attention", "vector"))
    found: EngineJoules = {
        "linear": lambda c: float(
            Linear.energy(
                linear, {"rows": c["rows"], "k": c["ib"] * linear["t_in"], "n": c["ob"] * linear["t_out"]}, board
            )
        ),
        "attention": lambda c: float(AttentionKernel.energy(attend, attention.work_of(c, attend["t_a"]), board)),
        "vector": lambda c: float(VectorKernel.energy(normalize, vector.work_of(c), board)),
    }
    return {name: cost for name, cost in found.items() if name in design.engines}
