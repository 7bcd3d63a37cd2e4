"""Energy of the kernels against counts taken step by step, and of the commands of a design."""

from collections.abc import Mapping

import numpy as np
import pytest

from codesign.compiler.program import compile_network
from codesign.flow.build import plan
from codesign.hw.attention import AttentionKernel
from codesign.hw.linear import LinearKernel
from codesign.hw.system.energies import engine_joules
from codesign.hw.vector import VectorKernel
from codesign.ir.network import MASKS, Attention, Norm
from codesign.ir.network import Linear as LinearLayer
from codesign.numerics.nonlinear import mask_interval
from codesign.target.board import Board
from codesign.target.design import Design
from codesign.target.kernel import Kernel, Params, Work, joules
from tests.accelerators import fitting

BOARD = Board.load("zcu102")
ENGINES = {
    "linear": {"t_in": 8, "t_out": 16, "n_l": 4, "kw_max": 4, "ring_words": 512, "table_words": 64, "tables": 4},
    "attention": {"t_a": 8, "n_a": 4, "max_keys": 32, "db_max": 2},
    "vector": {"t_v": 4, "max_d": 64},
}


def stepped_linear(p: Mapping[str, int], work: Mapping[str, int]) -> tuple[int, int]:
    """Multiplications and bytes of on-chip memories, tile by tile."""
    macs = ram = 0
    for first in range(0, work["rows"], p["n_l"]):
        count = min(p["n_l"], work["rows"] - first)
        padded = -(-work["k"] // p["word_bytes"]) * p["word_bytes"]
        ram += 2 * count * padded  # copied from the source into the private buffer
        for _ in range(0, work["n"], p["t_out"]):
            for _ in range(0, work["k"], p["t_in"]):
                macs += p["t_in"] * p["t_out"] * p["n_l"]
                ram += p["t_in"] * p["t_out"] + p["n_l"] * p["t_in"]
            ram += 8 * p["t_out"] + count * p["t_out"]  # table word, results
            macs += 2 * count * p["t_out"]  # one DSP operation per requantized result
    return macs, ram


def stepped_attention(p: Mapping[str, int], work: Mapping[str, int]) -> tuple[int, int]:
    """The same group by group; a pass covers the keys that any row of the group sees, at least ``n_a``."""
    offset, t_a, n_a = work["query_offset"], p["t_a"], p["n_a"]
    columns = -(-work["head_dim"] // t_a) * t_a
    lo, hi = mask_interval(MASKS[work["mask"]], offset + work["rows"], work["keys"], work["window"])
    lo, hi = lo[offset:], hi[offset:]
    macs = ram = 0
    for first in range(0, work["rows"], n_a):
        count = len(lo[first : first + n_a])
        keys = max(n_a, int(hi[first : first + n_a].max() - lo[first : first + n_a].min()))
        scores = work["heads"] * keys * n_a
        results = work["heads"] * count * columns
        macs += 2 * scores * columns + 2 * (2 * scores + results)
        ram += 2 * work["heads"] * keys * columns + 2 * 3 * scores + 3 * results
    return macs, ram


def stepped_vector(p: Mapping[str, int], work: Mapping[str, int]) -> tuple[int, int]:
    """The same word by word; gains and biases take 8 bytes per column."""
    macs = ram = 0
    for _ in range(work["rows"]):
        for _ in range(0, work["d"], p["t_v"]):
            macs += 8 * p["t_v"]
            ram += (2 + 2 + 2 + 8 + 1 + work["wide"]) * p["t_v"]
    return macs, ram


def check(kernel: type[Kernel], params: Params, work: Work, events: tuple[int, int]) -> None:
    macs, ram_bytes = events
    cycles, logic = kernel.cycles(params, work), kernel.resources(params)
    expected = joules(BOARD, macs=macs, ram_bytes=ram_bytes, cycles=cycles, logic=logic)
    assert kernel.energy(params, work, BOARD) == pytest.approx(expected, rel=1e-12), (params, work)


def test_linear_counts_every_multiplication_and_byte(rng: np.random.Generator) -> None:
    for _ in range(300):
        t_in, t_out = (int(1 << rng.integers(1, 6)) for _ in range(2))
        params = {"t_in": t_in, "t_out": t_out, "n_l": int(rng.integers(1, 9)), "kw_max": 16, "ring_words": 64}
        params |= {"table_words": 16, "tables": 1, "word_bytes": int(1 << rng.integers(3, 7))}
        work = {"rows": int(rng.integers(1, 40)), "k": int(rng.integers(1, 200)), "n": int(rng.integers(1, 90))}
        check(LinearKernel, params, work, stepped_linear(params, work))


def test_attention_counts_every_multiplication_and_byte(rng: np.random.Generator) -> None:
    for _ in range(300):
        keys, offset = int(rng.integers(1, 60)), int(rng.integers(0, 9))
        mask = int(rng.integers(0, 3))
        rows = int(rng.integers(1, 40))
        least = max(1, offset + rows - keys + 1)
        work = {
            "rows": rows, "keys": keys, "heads": int(rng.integers(1, 4)), "head_dim": int(rng.integers(1, 33)),
            "mask": mask, "window": int(rng.integers(least, least + 12)), "query_offset": offset,
        }  # fmt: skip
        params = {"t_a": int(1 << rng.integers(0, 5)), "n_a": 2 * int(rng.integers(1, 9)), "max_keys": 64, "db_max": 32}
        check(AttentionKernel, params, work, stepped_attention(params, work))


def test_vector_counts_every_multiplication_and_byte(rng: np.random.Generator) -> None:
    for _ in range(100):
        params = {"t_v": int(1 << rng.integers(0, 7)), "max_d": 300}
        work = {"rows": int(rng.integers(1, 40)), "d": int(rng.integers(2, 300)), "wide": int(rng.integers(0, 2))}
        check(VectorKernel, params | {"wide": work["wide"]}, work, stepped_vector(params, work))


def test_commands_of_a_network_cost_what_its_layers_cost() -> None:
    """Cuts into row groups and padded heads only add, and not much."""
    network = plan("digits-vit", BOARD).network
    design = fitting(Design(BOARD, ENGINES, {}, 16), [network])
    engines, word = engine_joules(design), {"word_bytes": design.word_bytes}
    params = {name: {**values, **word} for name, values in design.engines.items()}
    program = compile_network(network, design)
    spent = dict.fromkeys(engines, 0.0)
    for command in program.commands:
        if command.engine in engines:
            spent[command.engine] += engines[command.engine](command.work)
    layers = dict.fromkeys(engines, 0.0)
    for layer in network:
        if isinstance(layer, LinearLayer):
            work = {"rows": layer.rows, "k": layer.k, "n": layer.n}
            layers["linear"] += float(LinearKernel.energy(params["linear"], work, BOARD))
        elif isinstance(layer, Attention):
            shape = {"rows": layer.rows, "keys": layer.keys, "heads": layer.heads, "head_dim": layer.head_dim}
            shape |= {"mask": MASKS.index(layer.mask), "window": layer.window, "query_offset": 0}
            layers["attention"] += float(AttentionKernel.energy(params["attention"], shape, BOARD))
        elif isinstance(layer, Norm):
            layers["vector"] += float(VectorKernel.energy(params["vector"], {"rows": layer.rows, "d": layer.d}, BOARD))
    for name, cost in spent.items():
        assert layers[name] <= cost * (1 + 1e-12) <= 1.25 * layers[name], (name, cost / layers[name])


def test_a_design_has_joules_for_its_engines_alone() -> None:
    made = plan("gemm:8x32x16", BOARD)
    engines = engine_joules(made.design)
    assert list(engines) == ["linear"]
    (job,) = made.program.jobs
    assert engines["linear"](job.work) > 0
