"""Random commands of the vector engine, legal and illegal, with expected results."""

import numpy as np

from codesign.hw.emit.rig import DEPTH
from codesign.hw.emit.stimulus import ROOM, Trial, cut, pack, place
from codesign.hw.vector import RMS, WIDE_RESULT, VectorKernel
from codesign.ir.network import Norm
from codesign.numerics.fixed_point import IntArray
from codesign.target.kernel import Case

_RANDOM = 8
"""Random shapes in `cases`."""


def legal(rng: np.random.Generator, kernel: VectorKernel, slot: int) -> Trial:
    """Random norm of random rows, with random bases and strides within the slot of each memory."""
    layer = random_layer(rng, kernel)
    high = 1 << int(rng.integers(1, 16))
    r = rng.integers(-high, high, (layer.rows, layer.d))
    words = -(-layer.d // kernel.t_v)
    fields = {"rows": layer.rows, "d": layer.d, "shift": layer.shift, "eps": layer.eps}
    fields["flags"] = RMS * layer.rms + WIDE_RESULT * (layer.bits == 16)
    for name in "rx":
        fields[f"{name}_base"], fields[f"{name}_stride"] = place(rng, slot, layer.rows, words)
    fields["g_base"], _ = place(rng, slot, 1, words)
    affine = (layer.bias & 0xFFFFFFFF) | (layer.gain & 0xFFFF) << 32
    rows = [(fields["r_base"] + row * fields["r_stride"], _words(x, kernel.t_v, 16)) for row, x in enumerate(r)]
    result = cut(VectorKernel.golden(layer, r), kernel.t_v, layer.d)
    return Trial(
        fields,
        int(VectorKernel.cycles(kernel.params, {"rows": layer.rows, "d": layer.d})),
        {"r": rows, "g": [(fields["g_base"], _words(affine, kernel.t_v, 64))]},
        {(layer.bits // 16, fields["x_base"] + row * fields["x_stride"] + at): word for row, at, word in result},
        bits=layer.bits,
    )


def illegal(rng: np.random.Generator, kernel: VectorKernel, slot: int) -> Trial:
    """A legal command with one operand made illegal."""
    changes = [{"rows": 0}, {"d": 0}, {"d": 1}, {"d": kernel.max_d + 1}, {"shift": 32}, {"flags": 255}]
    changes += [{"flags": 4 if kernel.wide else WIDE_RESULT}]
    changes += [{f"{name}_base": base} for name in "rgx" for base in (DEPTH, 0xFFFFFF)]
    changes += [{"rows": 65535, f"{name}_stride": 65535} for name in "rx"]
    return legal(rng, kernel, slot).illegal(changes[rng.integers(len(changes))])


def random_layer(rng: np.random.Generator, kernel: VectorKernel) -> Norm:
    """Random norm with full-range gains and biases that fits a slot."""
    d = int(rng.integers(2, min(kernel.max_d, ROOM * kernel.t_v) + 1))
    rows = int(rng.integers(1, 1 + min(9, ROOM // -(-d // kernel.t_v))))
    gain, bias = rng.integers(-(1 << 15), 1 << 15, d), rng.integers(-(1 << 31), 1 << 31, d)
    eps, shift = int(rng.integers(1 << int(rng.integers(1, 49)))), int(rng.integers(16, 32))
    bits = int(rng.choice([8, 16])) if kernel.wide else 8
    return Norm("norm", "r", "x", rows, gain, bias, shift, eps, bool(rng.integers(2)), bits=bits)


def _words(row: IntArray, t_v: int, bits: int) -> list[int]:
    return pack(np.pad(row, (0, -len(row) % t_v)).reshape(-1, t_v), bits)


def cases(rng: np.random.Generator) -> list[Case]:
    """Norms of both kinds and widths, see `codesign.target.kernel.Kernel.cases`."""
    shapes = [(1, 2), (17, 48), (5, 101), (64, 1024), *rng.integers(2, 200, (_RANDOM, 2)).tolist()]
    found = []
    for index, (rows, d) in enumerate(shapes):
        gain, bias = rng.integers(-(1 << 15), 1 << 15, d), rng.integers(-(1 << 31), 1 << 31, d)
        layer = Norm("norm", "r", "x", rows, gain, bias, 24, 1, rms=bool(index % 2), bits=16 if index % 3 else 8)
        work = {"rows": rows, "d": d, "wide": int(layer.bits == 16)}
        found.append(Case(layer, work, {"r": (rows, d, 15)}))
    return found
