"""Random commands of the engine, legal and illegal, with what they must do."""

import numpy as np

from codesign.hw.emit.stimulus import ROOM, Trial, cut, pack, place
from keep_rows import KeepRows, KeepRowsKernel


def legal(rng: np.random.Generator, kernel: KeepRowsKernel, slot: int) -> Trial:
    """A random matrix with noise where its rows are padded, and a threshold that some rows reach."""
    lanes = kernel.lanes
    columns = int(rng.integers(1, 1 + min(40, ROOM * lanes)))
    words = -(-columns // lanes)
    rows = int(rng.integers(1, 1 + min(9, ROOM // words)))
    layer = KeepRows("keep", "x", "y", rows, columns, int(rng.choice([-128, 127, *rng.integers(-128, 128, 6)])))
    x = rng.integers(-128, 128, (rows, columns))
    noise = rng.integers(-128, 128, (rows, -columns % lanes))
    fields = {"rows": rows, "columns": columns, "threshold": layer.threshold}
    for name in "xy":
        fields[f"{name}_base"], fields[f"{name}_stride"] = place(rng, slot, rows, words)
    contents = [
        (fields["x_base"] + row * fields["x_stride"], pack(each.reshape(-1, lanes), 8))
        for row, each in enumerate(np.concatenate([x, noise], axis=1))
    ]
    values = {"x": x}
    work = {"rows": rows, "columns": columns, "kept": int(layer.counts(values)["kept"].sum())}
    result = cut(layer.golden(values), lanes, columns)
    return Trial(
        fields,
        int(KeepRowsKernel.cycles(kernel.params, work)),
        {"x": contents},
        {(0, fields["y_base"] + row * fields["y_stride"] + at): word for row, at, word in result},
    )


def illegal(rng: np.random.Generator, kernel: KeepRowsKernel, slot: int) -> Trial:
    """A command without rows or columns."""
    return legal(rng, kernel, slot).illegal({str(rng.choice(["rows", "columns"])): 0})
