"""The bench of the vector kernel; runs inside the simulator, see `codesign.sim.benches`."""

from typing import Any

import cocotb
import numpy as np

from codesign.command import RMS, WIDE_RESULT
from codesign.hw.rig import DEPTH
from codesign.hw.vector import VectorKernel
from codesign.network import Norm
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
    kernel, commands = read_setting(VectorKernel)
    await start(dut)
    engine = Engine(dut, "vector", ["x", "y"] if kernel.wide else ["x"], "rg", Referee(None), pace)
    await exercise(
        engine, rng, commands, lambda slot: legal(rng, kernel, slot), lambda slot: illegal(rng, kernel, slot)
    )


def legal(rng: np.random.Generator, kernel: VectorKernel, slot: int) -> Trial:
    """A random norm of random rows; bases and strides at random within the slot of each memory."""
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
    """A command that is legal but for one operand."""
    changes = [{"rows": 0}, {"d": 0}, {"d": 1}, {"d": kernel.max_d + 1}, {"shift": 32}, {"flags": 255}]
    changes += [{"flags": 4 if kernel.wide else WIDE_RESULT}]
    changes += [{f"{name}_base": base} for name in "rgx" for base in (DEPTH, 0xFFFFFF)]
    changes += [{"rows": 65535, f"{name}_stride": 65535} for name in "rx"]
    return legal(rng, kernel, slot).illegal(changes[rng.integers(len(changes))])


def random_layer(rng: np.random.Generator, kernel: VectorKernel) -> Norm:
    """A norm with full-range gains and biases that fits a slot."""
    d = int(rng.integers(2, min(kernel.max_d, ROOM * kernel.t_v) + 1))
    rows = int(rng.integers(1, 1 + min(9, ROOM // -(-d // kernel.t_v))))
    gain, bias = rng.integers(-(1 << 15), 1 << 15, d), rng.integers(-(1 << 31), 1 << 31, d)
    eps, shift = int(rng.integers(1 << int(rng.integers(1, 49)))), int(rng.integers(16, 32))
    bits = int(rng.choice([8, 16])) if kernel.wide else 8
    return Norm("norm", "r", "x", rows, gain, bias, shift, eps, bool(rng.integers(2)), bits=bits)


def _words(row: IntArray, t_v: int, bits: int) -> list[int]:
    return pack(np.pad(row, (0, -len(row) % t_v)).reshape(-1, t_v), bits)
