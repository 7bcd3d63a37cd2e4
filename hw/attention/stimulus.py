"""Random commands of the attention engine, legal and illegal, with expected results."""

import numpy as np

from codesign.hw.attention import AttentionKernel
from codesign.hw.emit.rig import DEPTH
from codesign.hw.emit.stimulus import ROOM, Trial, cut, pack, place
from codesign.ir.network import MASKS, Attention
from codesign.numerics.fixed_point import IntArray
from codesign.target.kernel import Case

_RANDOM = 8
"""Random shapes in `cases`."""


def legal(rng: np.random.Generator, kernel: AttentionKernel, slot: int) -> Trial:
    """Random attention on full-range matrices, with random bases within the slot of each memory."""
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
    work = {name: fields[name] for name in ("rows", "keys", "heads", "mask", "window", "query_offset")}
    work["head_dim"] = fields["db"] * kernel.t_a
    return Trial(
        fields,
        int(AttentionKernel.cycles(kernel.params, work)),
        {name: [(fields[f"{name}_base"], _words(x, layer, kernel.t_a))] for name, x in data.items()},
        {(0, fields["o_base"] + y * row + at): word for y, at, word in cut(golden, kernel.t_a, layer.head_dim)},
    )


def illegal(rng: np.random.Generator, kernel: AttentionKernel, slot: int) -> Trial:
    """A legal command with one operand made illegal, or with a row that sees no key."""
    trial, sliding = legal(rng, kernel, slot), MASKS.index("sliding")
    changes = [{name: 0} for name in ("rows", "keys", "heads", "db")]
    changes += [{"keys": kernel.max_keys + 1}, {"db": kernel.db_max + 1}, {"mask": 3}, {"mask": 255}]
    changes += [{"score_multiplier": 1 << 17}, {"score_shift": 64}, {"out_shift": kernel.max_out_shift + 1}]
    changes += [{"out_multiplier": value} for value in (0xFFFF, 1 << 17, 0xFFFFFF)]
    changes += [{f"{name}_base": base} for name in "qkvo" for base in (DEPTH, 0xFFFFFF)]
    changes += [{"mask": sliding, "window": 0}, {"mask": sliding, "window": 1, "query_offset": trial.fields["keys"]}]
    return trial.illegal(changes[rng.integers(len(changes))])


def random_layer(rng: np.random.Generator, kernel: AttentionKernel, offset: int) -> Attention:
    """Random attention layer whose matrices each fit a slot; ``offset`` is the mask index of query row 0."""
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
    """A matrix as memory words [row][head][block] of ``t_a`` elements, each head zero-padded."""
    split = x.reshape(len(x), layer.heads, layer.head_dim)
    return pack(np.pad(split, ((0, 0), (0, 0), (0, -layer.head_dim % t_a))).reshape(-1, t_a), 8)


def cases(rng: np.random.Generator) -> list[Case]:
    """Layers with all masks, see `codesign.target.kernel.Kernel.cases`."""
    scales = {"score_multiplier": 81_234, "score_shift": 21, "out_multiplier": 101_010, "out_shift": 16}
    drawn = rng.integers(1, (60, 60, 5, 49), (_RANDOM, 4)).tolist()
    shapes = [(1, 1, 1, 1), (17, 17, 3, 16), (13, 29, 2, 5), (31, 31, 1, 32), *drawn]
    found = []
    for index, (rows, keys, heads, width) in enumerate(shapes):
        mask = MASKS[index % len(MASKS)]
        window = max(1, rows - keys + 1) + index if mask == "sliding" else 0  # so that every row sees a key
        layer = Attention("attention", "q", "k", "v", "o", rows, keys, heads, width, mask=mask, window=window, **scales)
        work = {"rows": rows, "keys": keys, "heads": heads, "head_dim": width}
        work |= {"mask": MASKS.index(mask), "window": window, "query_offset": 0}
        sizes = {"q": rows, "k": keys, "v": keys}
        found.append(Case(layer, work, {name: (size, heads * width, 7) for name, size in sizes.items()}))
    return found
