"""The bench of the attention kernel; runs inside the simulator, see `codesign.sim.benches`."""

from typing import Any

import cocotb
import numpy as np

from codesign.command import Command, work_of
from codesign.hw.attention import AttentionKernel
from codesign.hw.rig import DEPTH
from codesign.network import MASKS, Attention
from codesign.number import IntArray
from codesign.sim.benches import read_setting
from codesign.sim.engine import ROOM, Engine, exercise, place
from codesign.sim.referee import Referee, Trial, cut, pack
from codesign.sim.streams import Pace, always, sometimes, start


@cocotb.test()
async def back_to_back(dut: Any) -> None:
    """Every command is offered before the one before it has ended."""
    await _run(dut, always, np.random.default_rng(cocotb.RANDOM_SEED))


@cocotb.test()
async def random_gaps(dut: Any) -> None:
    """Commands come when the engine has waited for them, or just not."""
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    await _run(dut, sometimes(0.03, rng), rng)


async def _run(dut: Any, pace: Pace, rng: np.random.Generator) -> None:
    kernel, commands = read_setting(AttentionKernel)
    await start(dut)
    engine = Engine(dut, "attention", ["o"], "qkv", Referee(8), pace)
    await exercise(
        engine, rng, commands, lambda slot: legal(rng, kernel, slot), lambda slot: illegal(rng, kernel, slot)
    )


def legal(rng: np.random.Generator, kernel: AttentionKernel, slot: int) -> Trial:
    """Random attention on full-range matrices; bases at random within the slot of each memory."""
    offset = int(rng.integers(2 * kernel.n_a))
    layer = random_layer(rng, kernel, offset)
    shapes = {"q": layer.rows, "k": layer.keys, "v": layer.keys}
    data = {name: rng.integers(-128, 128, (rows, layer.heads * layer.head_dim)) for name, rows in shapes.items()}
    fields = {name: getattr(layer, name) for name in ("rows", "keys", "heads", "window")}
    fields |= {f"{at}_{of}": getattr(layer, f"{at}_{of}") for at in ("score", "out") for of in ("multiplier", "shift")}
    fields |= {"db": -(-layer.head_dim // kernel.t_a), "query_offset": offset, "mask": MASKS.index(layer.mask)}
    row = fields["heads"] * fields["db"]
    for name, rows in {**shapes, "o": layer.rows}.items():
        fields[f"{name}_base"], _ = place(rng, slot, 1, rows * row)
    golden = AttentionKernel.golden(layer, data["q"], data["k"], data["v"], offset)
    work = work_of(Command("attention", fields), {"t_a": kernel.t_a})
    return Trial(
        fields,
        int(AttentionKernel.cycles(kernel.params, work)),
        {name: [(fields[f"{name}_base"], _words(x, layer, kernel.t_a))] for name, x in data.items()},
        {(0, fields["o_base"] + y * row + at): word for y, at, word in cut(golden, kernel.t_a, layer.head_dim)},
    )


def illegal(rng: np.random.Generator, kernel: AttentionKernel, slot: int) -> Trial:
    """A command that is legal but for one operand, or sees no key in some row."""
    trial, sliding = legal(rng, kernel, slot), MASKS.index("sliding")
    changes = [{name: 0} for name in ("rows", "keys", "heads", "db")]
    changes += [{"keys": kernel.max_keys + 1}, {"db": kernel.db_max + 1}, {"mask": 3}, {"mask": 255}]
    changes += [{"score_multiplier": 1 << 17}, {"score_shift": 64}, {"out_shift": kernel.max_out_shift + 1}]
    changes += [{"out_multiplier": value} for value in (0xFFFF, 1 << 17, 0xFFFFFF)]
    changes += [{f"{name}_base": base} for name in "qkvo" for base in (DEPTH, 0xFFFFFF)]
    changes += [{"mask": sliding, "window": 0}, {"mask": sliding, "window": 1, "query_offset": trial.fields["keys"]}]
    return trial.illegal(changes[rng.integers(len(changes))])


def random_layer(rng: np.random.Generator, kernel: AttentionKernel, offset: int) -> Attention:
    """Attention of which every matrix fits a slot; row 0 of its queries has the index ``offset``."""
    heads = int(rng.integers(1, 4))
    head_dim = int(rng.integers(1, 1 + min(kernel.t_a * kernel.db_max, ROOM // heads * kernel.t_a)))
    room = ROOM // (heads * -(-head_dim // kernel.t_a))
    rows = int(rng.integers(1, 1 + min(4 * kernel.n_a, room)))
    keys = int(rng.integers(1, 1 + min(kernel.max_keys, room, 32)))
    mask = MASKS[rng.integers(len(MASKS))]
    window = max(1, offset + rows - keys + 1) + int(rng.integers(12)) if mask == "sliding" else 0
    return Attention(
        "attention", "q", "k", "v", "o", rows, keys, heads, head_dim, mask=mask, window=window,
        score_multiplier=int(rng.integers(1 << 16, 1 << 17)), score_shift=int(rng.integers(17, 27)),
        out_multiplier=int(rng.integers(1 << 16, 1 << 17)), out_shift=int(rng.integers(14, 19)),
    )  # fmt: skip


def _words(x: IntArray, layer: Attention, t_a: int) -> list[int]:
    """A matrix as memory words [row][head][block] of ``t_a`` elements, the last of a head padded with zeros."""
    split = x.reshape(len(x), layer.heads, layer.head_dim)
    return pack(np.pad(split, ((0, 0), (0, 0), (0, -layer.head_dim % t_a))).reshape(-1, t_a), 8)
