"""An engine that keeps the rows of a matrix whose largest element reaches a threshold, and makes the others zero.

A row is read once to find its largest element; a row that is kept is read again and copied, one that is dropped is
written as zeros. So how long a command takes depends on data, and golden counts the rows that are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from codesign.ir.network import Ints, Layer, Read
from codesign.solver.space import ParameterSpace
from codesign.target.board import Board
from codesign.target.kernel import (
    Case,
    Columns,
    CommandKernel,
    Joules,
    Memory,
    Number,
    Params,
    Placement,
    Port,
    Resources,
    Work,
    ceil_div,
    joules,
    power_of_two,
    powers_up_to,
)

READ_CYCLES = 2
"""From the address of a word to its data."""
_MOST_LANES, _MOST = 32, 0xFFFF


@dataclass(frozen=True)
class KeepRows(Layer):
    """``target[r] = source[first_row + r]`` where its largest element is at least ``threshold``, else zeros; int8."""

    name: str
    source: str
    target: str
    rows: int
    columns: int
    threshold: int
    first_row: int = 0

    def __post_init__(self) -> None:
        if not -128 <= self.threshold <= 127:
            raise ValueError(f"{self.name}: threshold {self.threshold}; legal: -128 to 127")

    @property
    def reads(self) -> tuple[Read, ...]:
        """The source."""
        return (Read(self.source, self.first_row),)

    @property
    def shape(self) -> tuple[object, ...]:
        """The threshold decides no time that is known beforehand."""
        return self.columns, self.first_row

    def kept(self, values: Mapping[str, Ints]) -> Ints:
        """1 for every row that is kept."""
        rows = values[self.source][self.first_row : self.first_row + self.rows]
        found: Ints = (rows.max(axis=1) >= self.threshold).astype(np.int64)
        return found

    def golden(self, values: Mapping[str, Ints]) -> Ints:
        """See the class."""
        rows = values[self.source][self.first_row : self.first_row + self.rows]
        found: Ints = rows * self.kept(values)[:, None]
        return found

    def counts(self, values: Mapping[str, Ints]) -> Mapping[str, Ints]:
        """Rows that are kept."""
        return {"kept": self.kept(values)}


@dataclass(frozen=True)
class KeepRowsKernel(CommandKernel):
    """Design parameters of the engine.

    Attributes:
        lanes: elements per cycle, a power of two, 1 to 32.
    """

    contract: ClassVar[int] = 1
    op: ClassVar[str] = "keep_rows"
    layers: ClassVar[tuple[type[Layer], ...]] = (KeepRows,)
    # rows, columns: of the matrix; threshold: in two's complement; bases and strides in words of lanes.
    fields: ClassVar[Mapping[str, int]] = {
        "rows": 16, "columns": 16, "threshold": 8, "x_base": 24, "x_stride": 24, "y_base": 24, "y_stride": 24,
    }  # fmt: skip
    ports: ClassVar[tuple[Port, ...]] = (Port("x", lanes="lanes"), Port("y", lanes="lanes", writes=True))
    geometry: ClassVar[tuple[str, ...]] = ("lanes",)
    configurations: ClassVar[tuple[tuple[int, ...], ...]] = ((1,), (2,), (4,), (8,), (16,), (32,))
    assumes: ClassVar[str] = "every row is kept"

    lanes: int

    def __post_init__(self) -> None:
        if not self.legal(self.params):
            raise ValueError(f"{self}; legal: lanes a power of two to {_MOST_LANES}")

    @classmethod
    def supports(cls, layer: object) -> str | None:
        """None if the engine can run the layer, else the reason why not."""
        if not isinstance(layer, KeepRows):
            return f"a {type(layer).__name__} is not a choice of rows"
        over = [
            f"{name} {getattr(layer, name)} > {_MOST}" for name in ("rows", "columns") if getattr(layer, name) > _MOST
        ]
        return f"{layer.name}: {', '.join(over)}" if over else None

    @classmethod
    def memories(cls, params: Params) -> tuple[Memory, ...]:
        """Rows that the linear engine offers, and those that it or the host gets back."""
        return Memory("offered", 1, ("linear.out", "x")), Memory("kept", 1, ("y", "linear.source", "store.source"))

    @classmethod
    def reaches(cls, layer: KeepRows) -> tuple[tuple[str, str], ...]:
        """See `Kernel.reaches`."""
        return (layer.source, "x"), (layer.target, "y")

    @classmethod
    def operands(cls, layer: KeepRows, params: Params, place: Placement, first: int, rows: int) -> dict[str, int]:
        """See `CommandKernel.operands`."""
        return {
            "rows": rows, "columns": layer.columns, "threshold": layer.threshold,
            "x_base": place.base(layer.source, layer.first_row + first), "x_stride": place.stride(layer.source),
            "y_base": place.base(layer.target, first), "y_stride": place.stride(layer.target),
        }  # fmt: skip

    @classmethod
    def work(cls, layer: KeepRows, first: Number, rows: Number, columns: Columns | None = None) -> dict[str, Number]:
        """Rows, columns, and rows that are kept: all."""
        return {"rows": rows, "columns": layer.columns, "kept": rows}

    @classmethod
    def legal(cls, params: Params) -> Number:
        """Truth of the parameters being a legal design."""
        return power_of_two(params["lanes"]) * (params["lanes"] <= _MOST_LANES)

    @classmethod
    def space(cls, layer: object, board: Board) -> ParameterSpace:
        """See `Kernel.space`."""
        if not isinstance(layer, KeepRows):
            raise TypeError(f"a {type(layer).__name__} is not a choice of rows")
        return ParameterSpace({"lanes": powers_up_to(1, min(layer.columns, _MOST_LANES))}, cls.legal)

    @classmethod
    def axes(cls, layers: Sequence[Any]) -> dict[str, tuple[int, ...]]:
        """See `CommandKernel.axes`."""
        return {"lanes": (1, 2, 4, 8, 16, 32)}

    @classmethod
    def follows(cls, layers: Sequence[Any], params: Params) -> dict[str, Number]:
        """Nothing else."""
        return {}

    @classmethod
    def choices(cls, linear: Params) -> tuple[dict[str, int], ...]:
        """See `CommandKernel.choices`."""
        return tuple({"lanes": lanes} for lanes in (1, 4, 16))

    @classmethod
    def cases(cls, rng: np.random.Generator) -> Sequence[Case]:
        """See `Kernel.cases`."""
        shapes = [(1, 1), (17, 48), (5, 101), (64, 7), *rng.integers(1, 99, (6, 2)).tolist()]
        found = []
        for rows, columns in shapes:
            layer = KeepRows("keep", "x", "y", rows, columns, int(rng.integers(60, 128)))
            found.append(Case(layer, {"rows": rows, "columns": columns, "kept": rows}, {"x": (rows, columns, 7)}))
        return found

    @classmethod
    def small(cls) -> "KeepRowsKernel":
        """See `Kernel.small`."""
        return cls(4)

    @classmethod
    def tile(cls, params: Params) -> tuple[int, int]:
        """See `Kernel.tile`."""
        return 1, int(params["lanes"])

    @classmethod
    def cycles(cls, params: Params, work: Work) -> Number:
        """Clock cycles from accepting a command to its done pulse.

        Args:
            params: lanes.
            work: rows, columns, kept.
        """
        words = ceil_div(work["columns"], params["lanes"])
        result: Number = 1 + work["rows"] * (2 * words + READ_CYCLES) + work["kept"] * READ_CYCLES
        return result

    @classmethod
    def resources(cls, params: Params) -> Resources:
        """No DSP and no memory; LUTs and flip-flops from synthesis, a part per lane."""
        lanes = params["lanes"]
        return Resources(lut=_LUT[0] + _LUT[1] * lanes, ff=_FF[0] + _FF[1] * lanes)

    @classmethod
    def traffic(cls, params: Params, work: Work) -> Number:
        """Zero bytes: all is on chip."""
        return 0 * work["rows"]

    @classmethod
    def energy(cls, params: Params, work: Work, board: Board) -> Joules:
        """See `Kernel.energy`."""
        elements = ceil_div(work["columns"], params["lanes"]) * params["lanes"]
        moved = (2 * work["rows"] + work["kept"]) * elements
        cycles, logic = cls.cycles(params, work), cls.resources(params)
        return joules(board, macs=0, ram_bytes=moved, cycles=cycles, logic=logic)

    def component(self, depths: Mapping[str, int]) -> Any:
        """See `Kernel.component`."""
        from keep_rows.rtl import KeepRowsEngine

        return KeepRowsEngine(self, x_depth=depths["x"], y_depth=depths["y"])

    def sources(self, target: str) -> dict[str, str]:
        """See `Kernel.sources`."""
        from codesign.hw.emit.rig import rig_sources

        return rig_sources(self, target)

    def trial(self, rng: np.random.Generator, slot: int) -> Any:
        """See `CommandKernel.trial`."""
        from keep_rows.stimulus import legal

        return legal(rng, self, slot)

    def refused_trial(self, rng: np.random.Generator, slot: int) -> Any:
        """See `CommandKernel.refused_trial`."""
        from keep_rows.stimulus import illegal

        return illegal(rng, self, slot)


_LUT, _FF = (221, 28), (183, 0)
"""Of the engine, and of every lane; fitted to open synthesis."""
