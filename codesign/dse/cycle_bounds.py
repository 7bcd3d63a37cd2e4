"""Lower bounds of the cycles of many designs of a space, or of boxes of them, as arrays."""

from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codesign.dse.engine_minima import EngineTables
from codesign.dse.planner import HardwareQueries
from codesign.ir.network import Network
from codesign.solver.problem import Inputs
from codesign.target.board import Board, clocks, port_counts
from codesign.target.engines import RING, command_kernel
from codesign.timing.bound.schedule import Bound

RINGS = ("ring_words", "table_words")
"""Axes of the weight ring's and the table ring's depths."""
LINEAR_AXES = ("t_in", "t_out", "n_l", *RINGS)
"""Axes of the linear engine."""
_FREE = 1 << 30
"""Words of a ring that is never full."""

Cycles = NDArray[np.int64]


class CycleBounds:
    """Bounds of one network on the memory variants of one board; see `codesign.timing.bound.schedule`.

    Inputs are arrays by axis, one value per design; ``others`` are the axes of the engines other than the linear one.

    Args:
        network: the layers.
        board: the board, for all its port counts and clocks.
        tools: the hardware's duration formulas.
        axes: values by parameter, all engines' together.
        others: values by parameter for each engine other than the linear one.

    Attributes:
        engine_axes: parameters by engine.
        others: parameters of the engines other than the linear one.
        padding: those of them that decide how columns are padded.
        bound: the bound of the network.
    """

    def __init__(
        self,
        network: Network,
        board: Board,
        tools: HardwareQueries,
        axes: Mapping[str, tuple[int, ...]],
        others: Mapping[str, Mapping[str, tuple[int, ...]]],
    ) -> None:
        self.network, self.board, self.tools, self.axes, self._others = network, board, tools, axes, others
        self.engine_axes = {RING: LINEAR_AXES, **{engine: tuple(mine) for engine, mine in others.items()}}
        self.others = tuple(axis for mine in others.values() for axis in mine)
        self.padding = tuple(axis for engine in others for axis in command_kernel(engine).padding)
        self._ports, self._clocks = np.array(port_counts(board)), np.array(clocks(board))
        variants = [board.at(ports=ports, clock_hz=clock) for ports in port_counts(board) for clock in clocks(board)]
        least = axes["ring_words"][0], axes["table_words"][0]
        self.bound = Bound(network, board, least, variants)

    @cached_property
    def minima(self) -> EngineTables:
        """Least costs of the other engines over boxes."""
        return EngineTables(self.network, self._others, self.tools.formulas)

    def word(self, ports: Any) -> Any:
        """Bytes of a bus word."""
        return np.asarray(ports) * (self.board.memory.port_bits // 8)

    def engines(self, inputs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The given axis values, by engine."""
        found = {
            name: {axis: inputs[axis] for axis in axes if axis in inputs} for name, axes in self.engine_axes.items()
        }
        return {name: params for name, params in found.items() if params}

    def of_designs(self, inputs: Inputs, begun: Mapping[tuple[int, int], Cycles], *, leaping: bool) -> Any:
        """Bound for fully specified designs, ascending by rows per command; see `Bound` for the other arguments."""
        used: dict[str, Any] = self.engines(inputs)
        return self.bound(
            used, self.tools.formulas(used), inputs["row_group"], self._variant(inputs), begun=begun, leaping=leaping
        )

    def of_boxes(self, inputs: Inputs) -> Cycles:
        """Bound over boxes of the other engines' designs: values of the linear engine's axes, nodes of the others.

        It holds for all rings if no ring words are given.
        """
        return ascending(inputs, self._of_boxes)

    def of_any_engines(self, inputs: Inputs) -> Cycles:
        """Bound for any other engines."""
        roots = {axis: np.zeros_like(inputs["t_in"]) for axis in self.others}
        return self.of_boxes({**inputs, **roots})

    def of_any_rings(self, inputs: Inputs) -> Cycles:
        """Bound for given engines and any rings."""
        leaves = {axis: self.minima.leaf(axis, inputs[axis]) for axis in self.others}
        return self.of_boxes({**inputs, **leaves})

    def _of_boxes(self, inputs: Inputs) -> Any:
        arrays = {axis: inputs[axis] for axis in LINEAR_AXES if axis in inputs}
        linear: dict[str, Any] = {"ring_words": _FREE, "table_words": _FREE, **arrays}
        nodes = {axis: inputs[axis] for axis in self.others}
        boxed = self.minima.at(nodes, inputs["t_out"], self.word(inputs["ports"]), inputs["row_group"])
        formulas = self.tools.formulas({RING: linear})
        return self.bound(
            {RING: linear}, formulas, inputs["row_group"], self._variant(inputs), boxed=boxed, leaping=True
        )

    def _variant(self, inputs: Inputs) -> Any:
        """Index of the memory variant with these ports at this clock."""
        at = np.searchsorted(self._ports, inputs["ports"])
        return at * len(self._clocks) + np.searchsorted(self._clocks, inputs["clock_hz"])

    def once(self, inputs: Inputs, cycles: Callable[[Inputs], Any]) -> Cycles:
        """Evaluates a bound once for all designs that differ in spare table words alone.

        Args:
            inputs: the designs.
            cycles: called with the distinct ones, ascending by rows per command.
        """
        most, arrays = self.axes["table_words"][-1], {axis: np.asarray(values) for axis, values in inputs.items()}
        tables, code = arrays["table_words"], np.zeros(len(arrays["t_in"]), np.int64)
        columns = {**arrays, "table_words": np.where(tables >= self._window(arrays), most, tables)}
        for axis in ("row_group", *(axis for axis in columns if axis != "row_group")):
            code = code * len(self.axes[axis]) + np.searchsorted(self.axes[axis], columns[axis])
        _, first, back = np.unique(code, return_index=True, return_inverse=True)
        found: Cycles = cycles({axis: values[first] for axis, values in columns.items()})[back]
        return found

    def _window(self, inputs: Inputs) -> Any:
        """Words of the table ring from which on it delays nothing; for any other engine if none is given."""
        axes = tuple(axis for axis in ("t_out", *self.padding, "ports") if axis in inputs)
        open_axes = [axis for axis in self.padding if axis not in inputs]

        def window(point: Mapping[str, int]) -> int:
            word = self.word(point["ports"])
            choices = product(*(self.axes[axis] for axis in open_axes))
            points = ({"t_in": 1, **point, **dict(zip(open_axes, values, strict=True))} for values in choices)
            return max(int(self.bound.shapes.window(self.engines(each), word)) for each in points)

        return per_combination(inputs, axes, window)


def ascending(inputs: Inputs, cycles: Callable[[Inputs], Any]) -> Cycles:
    """Evaluates designs sorted by rows per command; returns the values in the caller's order."""
    arrays = {axis: np.asarray(inputs[axis]) for axis in inputs}
    order = np.argsort(arrays["row_group"], kind="stable")
    found = np.zeros(len(order), np.int64)
    if len(order):
        found[order] = cycles({axis: values[order] for axis, values in arrays.items()})
    return found


def flat(axes: tuple[str, ...], formula: Callable[[Inputs], Cycles]) -> Callable[[Inputs], Any]:
    """Adapts a formula of flat arrays to arrays of any shapes."""

    def found(inputs: Inputs) -> Any:
        arrays = np.broadcast_arrays(*(np.asarray(inputs[axis]) for axis in axes))
        return formula({axis: array.ravel() for axis, array in zip(axes, arrays, strict=True)}).reshape(arrays[0].shape)

    return found


def per_combination(
    inputs: Inputs, axes: tuple[str, ...], value: Callable[[Mapping[str, int]], int]
) -> NDArray[np.int64]:
    """Evaluates a function once per distinct combination of some axes, as a broadcast array."""
    arrays = np.broadcast_arrays(*(np.asarray(inputs[axis]) for axis in axes))
    columns = [np.unique(array, return_inverse=True) for array in arrays]
    shape = tuple(len(values) for values, _ in columns)
    codes, at = np.unique(np.ravel_multi_index([index.ravel() for _, index in columns], shape), return_inverse=True)
    places = np.stack(np.unravel_index(codes, shape), axis=1).tolist()
    names = [values.tolist() for values, _ in columns]
    points = [{axis: each[i] for axis, each, i in zip(axes, names, place, strict=True)} for place in places]
    return np.array([value(point) for point in points], np.int64)[at].reshape(arrays[0].shape)
